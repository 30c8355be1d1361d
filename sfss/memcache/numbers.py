"""Numbers as the protocol writes them: decimal digits and nothing else, within the range of their field."""

from __future__ import annotations

import math

FLAGS_MAX = 2**32 - 1
VERSION_MAX = 2**64 - 1
EXPTIME_MAX = 2**40
"""Beyond any date; keeps sums small."""

RELATIVE_EXPTIME_S_MAX = 60 * 60 * 24 * 30
"""protocol.txt: a larger exptime is Unix time, not seconds from now."""

LONG_PAST = 1
"""The absolute expiry of what is stored as already expired; 0 would mean never."""


def decimal(token: bytes, maximum: int) -> int | None:
    """The unsigned number that `token` spells, or None where it spells none up to `maximum`."""
    # bytes.isdigit takes ASCII digits only; int() alone would take blanks, signs and underscores.
    if not token.isdigit() or len(token) > 20:
        return None
    number = int(token)
    return number if number <= maximum else None


def signed_decimal(token: bytes, maximum: int) -> int | None:
    """The same with an optional minus sign."""
    if token[:1] == b"-":
        number = decimal(token[1:], maximum)
        return None if number is None else -number
    return decimal(token, maximum)


def absolute_expiry(exptime: int, now: float) -> int:
    """Unix seconds, 0 for never, of a protocol exptime. `now` is Unix seconds.

    Rounded up to the whole second that the contract keeps, so that a TTL of 1 always lives for one.
    """
    if exptime == 0:
        return 0
    if exptime < 0:
        return LONG_PAST
    if exptime <= RELATIVE_EXPTIME_S_MAX:
        return math.ceil(now + exptime)
    return exptime


def remaining_s(expires: int, now: float) -> int:
    """Seconds left, -1 for ever: the `t` of the meta commands."""
    return max(0, int(expires - now)) if expires else -1
