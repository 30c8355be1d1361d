"""Reading the words of a request line: the checks that several families share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sfss.errors import BadRequest
from sfss.keys import check_key
from sfss.memcache.numbers import EXPTIME_MAX, decimal, signed_decimal
from sfss.store import NO_CALL, Call

if TYPE_CHECKING:
    from mypy_extensions import i64

# A name of our own: to look one up in a module takes 130 instructions.
_monotonic: Final = time.monotonic

_DOT: Final = 0x2E
_DASH: Final = 0x2D
_ZERO: Final = 0x30
_NINE: Final = 0x39
_UPPER_A: Final = 0x41
_UPPER_Z: Final = 0x5A
_UNDERSCORE: Final = 0x5F
_A: Final = 0x61
_Z: Final = 0x7A

BAD_FORMAT = "bad command line format"

REQUEST_ID_BYTES_MAX = 24
"""With 7 digits and a dot before it, it makes an opaque of the 32 bytes that one may have."""


def key_of(word: bytes) -> bytes:
    """The key that a word is. Raises `BadKey`."""
    check_key(word)
    return word


def number_of(word: bytes, maximum: int, complaint: str = BAD_FORMAT) -> int:
    """An unsigned number. Raises `BadRequest` with the complaint."""
    number = decimal(word, maximum)
    if number is None:
        raise BadRequest(complaint)
    return number


def exptime_of(word: bytes) -> int:
    """An exptime as sent: signed, relative or absolute."""
    exptime = signed_decimal(word, EXPTIME_MAX)
    if exptime is None:
        raise BadRequest("invalid exptime argument")
    return exptime


def is_noreply(words: list[bytes], at: int) -> bool:
    """Whether the optional last word `noreply` stands at its place; anything else there is refused."""
    if len(words) == at:
        return False
    if len(words) == at + 1 and words[at] == b"noreply":
        return True
    raise BadRequest(BAD_FORMAT)


def call_of(ring: int, milliseconds: int | None, opaque: bytes | None) -> Call:
    """What the flags G, U and O say about a request (docs/wire.rst). The deadline counts from now.

    What follows the dot in an opaque is a request id if it looks like one. Others choose their opaques as they like,
    and this goes into logs and into the lines that are sent to nodes.
    """
    request_id = b"" if opaque is None else _request_id_of(opaque)
    if milliseconds is not None:
        return Call(_monotonic() + milliseconds / 1000.0, ring, request_id)
    return Call(ring=ring, request_id=request_id) if ring or request_id else NO_CALL


def _request_id_of(opaque: bytes) -> bytes:
    """What follows the first dot, if it consists of letters, digits, `-` and `_`, not of the last two alone. Byte by
    byte: methods of bytes take 2,400 instructions for it, a fifth of all that a node does for a look-up."""
    size: i64 = len(opaque)
    first: i64 = 0
    while first < size:
        mark: i64 = opaque[first]
        first += 1
        if mark == _DOT:
            break
    if size - first > REQUEST_ID_BYTES_MAX:
        return b""
    named = False
    at = first
    while at < size:
        byte: i64 = opaque[at]
        if _A <= byte <= _Z or _ZERO <= byte <= _NINE or _UPPER_A <= byte <= _UPPER_Z:
            named = True
        elif byte != _DASH and byte != _UNDERSCORE:
            return b""
        at += 1
    return opaque[first:] if named else b""
