"""Paths and keys: the one place that says which are allowed and how one becomes the other.

A path is what users see: UTF-8 text with `/` between its segments. A key is what memcache servers see: 1 … 250
bytes without control characters or blanks. The key is the path's UTF-8 with bytes ≤ 0x20, 0x7F, `%` and a leading
`?` or `@` percent-encoded, so any memcached client reads a file by its own path. Older deployments on Beansdb keep
base64 keys.
"""

from __future__ import annotations

import base64
import re
import string
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_64_intdigest

from sfss.errors import BadKey, BadRequest
from sfss.store import KEY_BYTES_MAX

if TYPE_CHECKING:
    from mypy_extensions import i64

_hash: Final = xxh3_64_intdigest
_FORBIDDEN_IN_KEY: Final = bytes(range(0x21)) + b"\x7f"
_ALLOWED_IN_KEY: Final = bytes(b"!"[0] if byte in _FORBIDDEN_IN_KEY else byte for byte in range(256))
_FORBIDDEN_IN_PATH: Final = re.compile("[\x00-\x1f\x7f-\x9f\\\\]")
_ESCAPED: Final = re.compile(rb"[ %]|\A[?@]")
_PLAIN: Final = string.ascii_letters.encode() + string.digits.encode() + b"/._-"
_SLASH: Final = 0x2F
_FOREIGN: Final = 0
_BEGINS_NO_SEGMENT: Final = 2
_KINDS: Final = bytes(_BEGINS_NO_SEGMENT if byte in b"/." else byte in _PLAIN for byte in range(256))


def check_key(key: bytes) -> None:
    """Refuse (`BadKey`) what no memcache server takes as a key."""
    if not key:
        raise BadKey("empty key")
    if len(key) > KEY_BYTES_MAX:
        raise BadKey(f"key of {len(key)} bytes is longer than {KEY_BYTES_MAX}")
    if has_forbidden(key):
        raise BadKey("key holds a blank or a control character")


def has_forbidden(key: bytes) -> bool:
    """Whether a key has a byte that no server takes in one; at a sixth of the price of a pattern."""
    return key.translate(_ALLOWED_IN_KEY) != key


def is_plain(path: bytes) -> bool:
    """Whether a path is allowed, is its own key, and stands for itself in a URL. Nearly all are."""
    size: i64 = len(path)
    at: i64 = 0
    before: i64 = _SLASH
    while at < size:
        byte: i64 = path[at]
        kind: i64 = _KINDS[byte]
        if kind == _FOREIGN or (kind == _BEGINS_NO_SEGMENT and before == _SLASH):
            return False
        before = byte
        at += 1
    return before != _SLASH


def check_path(path: str) -> None:
    """Refuse (`BadRequest`) a path that could name two files, or none. Rules: README, section on paths."""
    if path.isascii() and is_plain(path.encode()):
        return
    if not path:
        raise BadRequest("path is empty")
    if _FORBIDDEN_IN_PATH.search(path):
        raise BadRequest("path holds a control character or a backslash")
    if path[0] == "/" or path[-1] == "/":
        raise BadRequest("path begins or ends with /")
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            raise BadRequest(f"path has a segment {segment!r}")


def encode_path(path: str, encoding: str = "percent", key_bytes_max: int = KEY_BYTES_MAX) -> bytes:
    """The key of a checked path. `encoding` is `percent` or `base64`. Raises `BadKey` when the key gets too long."""
    raw = path.encode()
    if encoding == "base64":
        key = base64.b64encode(raw)
    elif "%" in path or " " in path or path[:1] in ("?", "@"):  # a checked path has no control characters
        key = _ESCAPED.sub(lambda match: b"%%%02X" % match.group()[0], raw)
    else:
        key = raw
    if len(key) > key_bytes_max:
        raise BadKey(f"path makes a key of {len(key)} bytes; the limit is {key_bytes_max}")
    return key


def hash_key(key: bytes) -> int:
    """Hash a key to 64 bits (xxh3-64, seed 0). Placement and on-disk order rest on it: it never changes."""
    return _hash(key)
