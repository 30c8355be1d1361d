"""Which records in the volumes are dead because their partition was dropped: those below a position, by partition.

A node that no longer owns a partition takes its records out of the index, but they lie in the volumes until these are
compacted. A replay or a new index must not bring them back, least of all to a node that owns the partition again.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable

from nodes.entry import HASH_BYTES
from sfss.ring import HASH_BITS

Range = tuple[int, int]
"""Partitions from the first number up to, and without, the second one."""


class Dropped:
    """For each partition the position below which its records are dead. Never changed: `marked` gives another one.

    8 bytes for each partition of the cluster, once anything was dropped."""

    __slots__ = ("_positions", "_shift", "highest", "partitions")

    def __init__(self, positions: array[int] | None = None, highest: int = 0) -> None:
        self._positions = positions if positions is not None else array("Q")
        self.partitions = len(self._positions)
        self._shift = shift_of(self.partitions) if self.partitions else HASH_BITS
        self.highest = highest
        """The highest of all. It was durable once: data that ends below it has lost something."""

    def is_dead(self, key: bytes, position: int) -> bool:
        """Whether a record at a position is dead. `key` is the index's key."""
        if not self.partitions:
            return False
        return position < self._positions[int.from_bytes(key[:HASH_BYTES]) >> self._shift]

    def marked(self, ranges: Iterable[Range], position: int, partitions: int) -> Dropped:
        """The same with all partitions of `ranges` dropped at `position`. `partitions` is how many there are."""
        positions = self._positions[:] if self.partitions else array("Q", bytes(8 * partitions))
        for first, end in ranges:
            positions[first:end] = array("Q", [position]) * (end - first)
        return Dropped(positions, max(self.highest, position))

    def pack(self, oldest: int) -> bytes:
        """As it is kept on disk; nothing where nothing is dropped. `oldest` is the position of the oldest volume: of
        what lies before, nothing is left."""
        if self.highest <= oldest:
            return b""
        positions = array("Q", [position if position > oldest else 0 for position in self._positions])
        return zlib.compress(positions.tobytes(), 1)

    @classmethod
    def unpack(cls, packed: bytes) -> Dropped:
        """Raises `ValueError`."""
        positions = array("Q")
        try:
            positions.frombytes(zlib.decompress(packed) if packed else b"")
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if len(positions) & (len(positions) - 1):
            raise ValueError(f"{len(positions)} partitions")
        return cls(positions, max(positions, default=0))


def shift_of(partitions: int) -> int:
    """A key's partition is its hash shifted right by this."""
    return HASH_BITS - (partitions.bit_length() - 1)


def ranges_of(partitions: Iterable[int]) -> list[Range]:
    """Partitions as ranges, in order."""
    ranges: list[Range] = []
    for partition in sorted(partitions):
        if ranges and ranges[-1][1] == partition:
            ranges[-1] = (ranges[-1][0], partition + 1)
        else:
            ranges.append((partition, partition + 1))
    return ranges


def key_bounds(within: Range, partitions: int) -> tuple[bytes, bytes | None]:
    """The index's keys of a range: from the first one on, and before the second one (None: to the end)."""
    shift = shift_of(partitions)
    first, end = within
    return (first << shift).to_bytes(HASH_BYTES), (end << shift).to_bytes(HASH_BYTES) if end < partitions else None
