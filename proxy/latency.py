"""Latencies as counts in buckets: cheap to record, and good enough for percentiles (a bucket is ≤ 25 % wide)."""

from __future__ import annotations

from typing import Final

_BUCKETS: Final = 112
"""Four for each doubling from 1 µs to 268 s."""

_FORGET_AT: Final = 4096
"""So many records weigh half as much from then on: percentiles follow what happens now."""


class Latency:
    """Recent latencies of one operation on one node. Times in seconds."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._total = 0

    def record(self, seconds: float, times: int = 1) -> None:
        micros = int(seconds * 1e6)
        bits = micros.bit_length()
        if bits < 3:
            index = micros
        elif bits < 28:
            index = (bits - 2) * 4 + ((micros >> (bits - 3)) & 3)
        else:
            index = _BUCKETS - 1
        counts = self._counts
        counts[index] = counts[index] + times  # in place, compiled, it is three times as much
        self._total += times
        if self._total >= _FORGET_AT:
            self._counts = [count >> 1 for count in self._counts]
            self._total = sum(self._counts)

    def quantile(self, part: float) -> float | None:
        """The latency that `part` (0 … 1) of the records stayed under; None before the first record."""
        if not self._total:
            return None
        left = part * self._total
        for index, count in enumerate(self._counts):
            left -= count
            if left <= 0 and count:
                return _upper_bound(index)
        return _upper_bound(_BUCKETS - 1)


def _upper_bound(index: int) -> float:
    if index < 4:
        return (index + 1) / 1e6
    return ((5 + index % 4) << (index // 4 - 1)) / 1e6
