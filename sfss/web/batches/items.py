"""What the two formats of a batch, records and tar, are read into and made from."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from sfss.errors import SfssError
from sfss.store import Record
from sfss.web.errors import Failure

JOINED_BYTES_MAX: Final = 256 * 1024
"""Pieces of a body up to about this size are sent, and were received, in one go."""


class Sent:
    """One file of a body. `refusal` says why it can't be stored as it came; its bytes are dropped then. `plain` is its
    path where that is plain (`sfss.keys.is_plain`), and needn't be made text of; else empty."""

    __slots__ = ("_path", "plain", "refusal", "value")

    def __init__(self, path: str, value: bytes, refusal: SfssError | None = None, plain: bytes = b"") -> None:
        self._path = path
        self.value = value
        self.refusal = refusal
        self.plain = plain

    @property
    def path(self) -> str:
        return self._path or self.plain.decode()


class Totals(NamedTuple):
    """How many files a batch told of, and how many of these with another status than 200."""

    files: int
    failed: int


class Reader(Protocol):
    """Takes a body apart as it comes, without I/O. Memory: one file, and the bytes fed last."""

    ended: bool
    """Whether the body's own end mark has come. What is fed behind it is refused."""

    @property
    def unfinished(self) -> str:
        """The path of a file of which only a part has come; else empty."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Only once `next` has given None."""

    def next(self) -> Sent | None:
        """The next file, None for "more bytes are needed". Raises `BadRequest` where the body can't be followed any
        more."""


class Writer(Protocol):
    """Makes the body of an answer, piece by piece."""

    content_type: bytes

    def found(self, path: bytes, plain: bool, record: Record, parts: list[bytes]) -> int:
        """Append a file to `parts`; how many bytes that is. `path` is UTF-8. `plain`: it is known to be plain."""

    def failed(self, path: str, failure: Failure) -> bytes:
        """Why there is none."""

    def end(self, totals: Totals) -> bytes:
        """The mark without which an answer was cut short."""
