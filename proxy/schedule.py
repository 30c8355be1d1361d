"""Which part of the hash space to compare next, and when.

The hashes are cut into 256 *regions* by their first byte. Each is due once in an interval, spread evenly over it, in an
order of chance, so that several proxies are seldom at the same one. A region that couldn't be compared with all its
owners is tried again sooner, and one in which something is known to be missing (`mark`) at once; once more after it has
settled, where what is missing may have been too new to be compared. So marks, of which there may be thousands a second,
have a region compared at most once in that time, and while an owner is away no more often than without them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from sfss.ring import HASH_BITS

REGION_DIGITS = 2
"""Hex digits of a region's prefix."""

REGIONS = 16**REGION_DIGITS
_NEVER = float("inf")


class Schedule:
    """When each region is due. Times in seconds of `monotonic`.

    `partitions` is the ring's number of them; `interval_s` 0 is never, but for marked regions; `retry_s` is for what
    could be compared only in part, which doesn't wait for longer than its turn either.
    """

    def __init__(
        self,
        partitions: int,
        interval_s: float,
        retry_s: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._shift = HASH_BITS - (partitions.bit_length() - 1)
        self._interval_s = interval_s or _NEVER
        self._retry_s = min(retry_s, self._interval_s)
        self._monotonic = monotonic
        self._began = monotonic()
        self._compared_at: dict[int, float] = {}
        self._marked: set[int] = set()
        self._partial: set[int] = set()
        """Regions that couldn't be compared with all their owners the last time."""
        self._was_marked = False
        """Whether the region that is being compared was."""
        order = list(range(REGIONS))
        (rng or random.Random()).shuffle(order)
        self._due = {
            region: self._began + self._interval_s * (place + 1) / REGIONS for place, region in enumerate(order)
        }

    @property
    def marked(self) -> int:
        """Regions that wait because something is known to be missing there."""
        return len(self._marked)

    def mark(self, partition: int) -> None:
        """Replicas of a partition may differ: compare it as soon as may be."""
        first = partition << self._shift
        last = first + (1 << self._shift) - 1
        region_shift = HASH_BITS - 4 * REGION_DIGITS
        for region in range(first >> region_shift, (last >> region_shift) + 1):
            if region not in self._marked:
                self._marked.add(region)
                if region not in self._partial:
                    self._due[region] = min(self._due[region], self._monotonic())

    def next(self) -> tuple[int, float]:
        """The region that is due first, and how long to wait for that (0 or less where it is due)."""
        region = min(self._due, key=self._due.__getitem__)
        return region, self._due[region] - self._monotonic()

    def begin(self, region: int) -> None:
        """A comparison begins, the only one. A mark that comes from here on asks for another one."""
        self._was_marked = region in self._marked
        self._marked.discard(region)
        self._partial.discard(region)

    def end(self, region: int, whole: bool, *, too_new: bool = False, settle_s: float = 0.0) -> None:
        """It has ended; `whole`: all owners were heard, and what differed was repaired, but for what was `too_new`.
        What is new isn't any more after `settle_s`."""
        now = self._monotonic()
        if whole:
            self._compared_at[region] = now
        else:
            self._partial.add(region)
        if self._was_marked and too_new:
            self._marked.add(region)
        if not whole:
            self._due[region] = now + self._retry_s
        else:
            self._due[region] = now + (settle_s if region in self._marked else self._interval_s)

    def oldest_s(self) -> float:
        """Seconds since the comparison, or else since the start, of the region where that is longest ago."""
        oldest = min(self._compared_at.values()) if len(self._compared_at) == REGIONS else self._began
        return self._monotonic() - oldest
