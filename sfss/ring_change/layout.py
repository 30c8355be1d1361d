"""Who has to have what: each partition's owners in the placements of a ring, and the work that comes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sfss.hash_tree import hash_range
from sfss.ring import HASH_BITS
from sfss.ring_record import Placement, RingRecord


@dataclass(frozen=True, slots=True)
class Group:
    """A partition's owners by name in one placement, and how many of them a write and a read need."""

    owners: tuple[str, ...]
    w: int
    r: int

    @property
    def to_hear(self) -> int:
        """So many owners meet every write quorum."""
        return len(self.owners) - self.w + 1

    @property
    def barrier(self) -> int:
        """So many owners that refuse a ring leave it neither a write nor a read quorum. A read quorum of one is not
        one in this sense: such a hit may be old, whatever the ring."""
        r = self.r if self.r > 1 else self.to_hear
        return max(len(self.owners) - self.w, len(self.owners) - r) + 1


@dataclass(frozen=True, slots=True)
class Task:
    """Bring the newest record that the `sources` have of each key to all `targets`. It is done when `heard_min` sources
    were heard and `holders_min` targets have it, or something newer."""

    sources: tuple[str, ...]
    heard_min: int
    targets: tuple[str, ...]
    holders_min: int

    @property
    def names(self) -> set[str]:
        return {*self.sources, *self.targets}


def fill(old: Group, new: Group) -> Task | None:
    """What the new owners need before the old ones can be left; None where they have it."""
    if set(old.owners) == set(new.owners) and old.w >= new.w:
        return None
    return Task(old.owners, old.to_hear, new.owners, new.w)


def even_out(group: Group, without: frozenset[str]) -> Task:
    """What it takes until all owners have the same, but for nodes that are on their way out anyhow."""
    owners = tuple(owner for owner in group.owners if owner not in without)
    return Task(owners, max(len(owners), group.to_hear), owners, max(len(owners), group.w))


class Layout:
    """The owners of each partition under a ring's placements, as lists indexed by partition."""

    def __init__(self, ring: RingRecord) -> None:
        """A quarter of a second of CPU for each placement: not for an event loop."""
        self.ring = ring
        self.shift = HASH_BITS - (ring.partitions.bit_length() - 1)
        self.groups = [_groups(placement, ring) for placement in ring.placements]

    def tasks(self, task_of: Callable[..., Task | None]) -> Tasks:
        """`task_of` is given a partition's group in each placement."""
        known: dict[tuple[Group, ...], Task | None] = {}
        found: list[Task | None] = []
        for groups in zip(*self.groups, strict=True):
            if groups not in known:
                known[groups] = task_of(*groups)
            found.append(known[groups])
        return Tasks(found, self.shift)

    def old_groups(self) -> set[Group]:
        """Every set of owners of the first placement."""
        return set(self.groups[0])

    def foreign(self, name: str) -> bytes:
        """For each partition 1 where a node isn't among its owners, else 0."""
        known: dict[tuple[Group, ...], int] = {}
        found = bytearray()
        for groups in zip(*self.groups, strict=True):
            if groups not in known:
                known[groups] = not any(name in group.owners for group in groups)
            found.append(known[groups])
        return bytes(found)

    def partitions_below(self, prefix: bytes) -> range:
        return _partitions_below(prefix, self.shift)


class Tasks:
    """What is to be done in each partition, if anything."""

    def __init__(self, by_partition: Sequence[Task | None], shift: int) -> None:
        self._by_partition = by_partition
        self._shift = shift
        self._all = _some(by_partition)
        self.count = sum(task is not None for task in by_partition)

    def of_hash(self, key_hash: int) -> Task | None:
        """That of the partition which a key's hash lies in."""
        return self._by_partition[key_hash >> self._shift]

    def below(self, prefix: bytes) -> set[Task]:
        """All that are to be done below a place of the hash tree."""
        if not prefix:
            return self._all
        below = _partitions_below(prefix, self._shift)
        return _some(self._by_partition[below.start : below.stop])

    def count_below(self, prefix: bytes) -> float:
        """How many partitions below a place have a task; a place that is smaller than its partition is a part of it."""
        below = _partitions_below(prefix, self._shift)
        low, high = hash_range(prefix)
        part = min(1.0, (high - low) / (1 << self._shift))
        return part * sum(task is not None for task in self._by_partition[below.start : below.stop])


def _some(tasks: Iterable[Task | None]) -> set[Task]:
    return {task for task in set(tasks) if task is not None}


def _partitions_below(prefix: bytes, shift: int) -> range:
    low, high = hash_range(prefix)
    return range(low >> shift, ((high - 1) >> shift) + 1)


def _groups(placement: Placement, ring: RingRecord) -> list[Group]:
    table = placement.node_ring(ring.number, ring.partitions).table
    names = [member.name for member in placement.members]
    known: dict[tuple[int, ...], Group] = {}
    groups = []
    for owners in table:
        if owners not in known:
            known[owners] = Group(tuple(names[index] for index in owners), placement.w, placement.r)
        groups.append(known[owners])
    return groups
