"""Reading the words of a request line: the checks that several families share."""

from __future__ import annotations

import time
from typing import Final

from sfss.errors import BadRequest
from sfss.keys import check_key
from sfss.memcache.numbers import EXPTIME_MAX, decimal, signed_decimal
from sfss.store import NO_CALL, Call

_DOT: Final = 0x2E

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
    # By its number: bytes are tried as a number first, and to refuse them as such costs 1,800 instructions.
    request_id = opaque.partition(b".")[2] if opaque is not None and _DOT in opaque else b""
    if request_id and (len(request_id) > REQUEST_ID_BYTES_MAX or not request_id.translate(None, b"-_").isalnum()):
        request_id = b""
    if milliseconds is not None:
        return Call(time.monotonic() + milliseconds / 1000.0, ring, request_id)
    return Call(ring=ring, request_id=request_id) if ring or request_id else NO_CALL
