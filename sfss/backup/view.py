"""Whose word it takes to know which files there are, and what is proven by it, under one ring."""

from __future__ import annotations

from collections.abc import Collection

from sfss.keys import hash_key
from sfss.ring import HASH_BITS
from sfss.ring_record import RingRecord


class View:
    """That of a ring, or with no `record` that of the ring which a cluster was founded with, where `w` is its write
    quorum, `r` its read quorum, and a node lists nothing that it doesn't own.

    `latest` is the last ring that a node may be at when it has listed what counts here. Until a change is settled all
    that was acknowledged is on the old owners, and nobody removes anything; from then on it is on the new ones
    (docs/decisions/ring-changes.rst).
    """

    def __init__(self, record: RingRecord | None, w: int = 0, r: int = 0) -> None:
        """Half a second of CPU for a record: not for an event loop."""
        self.w = record.placements[0].w if record is not None else w
        self.reads_one = 1 in ((placement.r for placement in record.placements) if record is not None else (r,))
        """A reader hears one node, so what it is told may be old."""
        self.latest = 1
        self._shift = 0
        self._placements: list[tuple[list[tuple[int, ...]], list[str], int]] = []
        if record is not None:
            self.latest = record.number if record.joint else record.number + 1
            self._shift = HASH_BITS - (record.partitions.bit_length() - 1)
            for placement in record.placements:
                table = placement.node_ring(record.number, record.partitions).table
                self._placements.append((table, [member.node for member in placement.members], placement.w))

    def is_proven(self, key: bytes, holders: Collection[str]) -> bool:
        """Whether a record that these nodes (by id) hold was acknowledged, or is denied to no reader."""
        if not self._placements:
            return len(holders) >= self.w
        partition = hash_key(key) >> self._shift
        return all(
            sum(nodes[index] in holders for index in table[partition]) >= w for table, nodes, w in self._placements
        )
