"""The key of a path that a batch names."""

from __future__ import annotations

from sfss.errors import BadRequest
from sfss.keys import check_path, encode_path, is_plain


class KeyMaker:
    """Makes keys by `encoding`, of up to `bytes_max` bytes."""

    __slots__ = ("_bytes_max", "_encoding", "_plain_keys")

    def __init__(self, encoding: str, bytes_max: int) -> None:
        self._encoding = encoding
        self._plain_keys = encoding == "percent"
        self._bytes_max = bytes_max

    def is_key(self, path: bytes) -> bool:
        """Whether a path is plain, and its own key. Nearly all are: a tenth of what `key_of` takes."""
        return self.keeps(path) and is_plain(path)

    def keeps(self, plain: bytes) -> bool:
        """Whether a plain path is its own key; no path, said by no bytes, is none."""
        return self._plain_keys and 0 < len(plain) <= self._bytes_max

    def key_of(self, path: str) -> bytes:
        """The key of a path as it stands in a batch, where nothing is percent-encoded. Raises `BadRequest`."""
        check_path(path)
        try:
            return encode_path(path, self._encoding, self._bytes_max)
        except UnicodeEncodeError:
            raise BadRequest("path is not UTF-8") from None
