"""Versions: 64-bit hybrid logical clock stamps that order the writes of one key.

A stamp is Unix time in milliseconds (upper 48 bits) and a count (lower 16 bits), so it sorts by time while clocks
agree and still only ever rises when they do not. Safety never depends on the clock being right; a file's
Last-Modified does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

COUNT_BITS: Final = 16
_COUNT_MASK: Final = (1 << COUNT_BITS) - 1

NEVER_PURGED: Final = 1 << 80
"""Above every version."""

AHEAD_S_MAX: Final = 600.0
"""A stamp further ahead of a node's clock than this is refused: it would make later honest writes look old."""


def stamp_time(version: int) -> float:
    """Unix seconds at which a version was stamped; millisecond resolution."""
    return (version >> COUNT_BITS) / 1000.0


def stamp_at(when: float) -> int:
    """The smallest version stamped at a time in Unix seconds; 0 for times before 1970."""
    return max(0, int(when * 1000)) << COUNT_BITS


def purge_stamp(tombstone: bool, expires: int, version: int) -> int:
    """What a purge bound must lie above to purge a record: of a tombstone its version, of a file that expires the
    moment of that, and `NEVER_PURGED` of a file that doesn't. The same on all replicas, whatever time it is.

    Files often expire by the thousand in one second. What their versions have below the second tells their stamps
    apart, so that a bound can be moved past a few of them at a time.
    """
    if tombstone:
        return version
    if not expires:
        return NEVER_PURGED
    expired = (expires * 1000 + (version >> COUNT_BITS) % 1000) << COUNT_BITS | version & _COUNT_MASK
    return max(version, expired)


def too_far_ahead(version: int, now: float) -> bool:
    """Whether a node whose clock says `now` (Unix seconds) refuses the version."""
    return stamp_time(version) > now + AHEAD_S_MAX


class StampClock:
    """Makes stamps that rise strictly, above everything observed.

    `floor` is a stamp that must be exceeded from the start (what an earlier life may have issued).
    """

    def __init__(self, now: Callable[[], float] = time.time, floor: int = 0) -> None:
        self._now = now
        self._last = floor

    @property
    def last(self) -> int:
        """The largest stamp issued or observed."""
        return self._last

    def next(self, above: int = 0) -> int:
        """Issue a stamp above `above` and above all issued or observed before."""
        stamp = int(self._now() * 1000) << COUNT_BITS
        if stamp <= self._last:
            stamp = self._last + 1
        if stamp <= above:
            stamp = above + 1
        self._last = stamp  # compiled, `max` of three takes 900 instructions, this 30
        return stamp

    def observe(self, version: int) -> None:
        """Take note of a stamp seen elsewhere. One too far ahead of the clock is ignored, so that it can't spread."""
        if version > self._last and not too_far_ahead(version, self._now()):
            self._last = version
