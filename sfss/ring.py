"""Placement: which nodes keep a key, and which server of a tier a key's requests go to.

The only user of uhashring, which makes the continuum: points on a circle of 64-bit hashes, `POINTS` for each node
and unit of weight. `NodeRing` cuts the circle into partitions of equal size, works out the owners of each once, and
from then on a look-up is an index into a list. `ServerRing` orders the servers of a tier for a key.

Placement never changes by itself: `NodeRing.fingerprint` covers what went in and the table that came out, so a
coordinator that would place one key elsewhere is known by it, whatever the reason.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import gcd

import xxhash
from uhashring import HashRing

from sfss.errors import SetupError
from sfss.keys import hash_key

HASH_BITS = 64
PARTITIONS = 65_536
"""By default. Fewer make shares uneven: with 4,096 and one copy on 12 nodes chance alone is ±11 %."""

PARTITIONS_MAX = 1 << 20
POINTS = 2_048
"""Points of a node of weight 1. A node's share varies by 1/sqrt(points): 2.2 %, so that ±10 % is over four sigma."""

WEIGHT_MAX = 16
_SERVER_SLOTS_BITS = 12
_SERVER_POINTS = 256


@dataclass(frozen=True, slots=True)
class Member:
    """A node as the ring knows it. `name` is `host:port` as configured; `weight` is its share beside the others.

    `seat` is the name that its points on the circle are made of, by default its own. A node that replaces another one
    takes over its seat: with points of its own it would own other partitions than that one did, and up to 1.7 times as
    much would move."""

    name: str
    zone: str = ""
    weight: int = 1
    seat: str = ""

    @property
    def host(self) -> str:
        return self.name.rpartition(":")[0]


class NodeRing:
    """Which `copies` members own each partition. `number` is the ring's place in the cluster's history."""

    def __init__(
        self,
        members: Sequence[Member],
        copies: int,
        *,
        partitions: int = PARTITIONS,
        number: int = 1,
        unit: int | None = None,
    ) -> None:
        """Work out the table (about 0.2 s for 12 members). The order in which members are given doesn't matter.

        `unit` is the weight that has `POINTS` points, by default the greatest common divisor of all weights: only
        ratios matter, and {2, 2, 2} is the ring of {1, 1, 1}. A ring that follows on another keeps that one's unit:
        were it {2, 2, 3} with a unit of its own, every node would have twice its points, and half of all would move.

        Raises `SetupError` for a set of members or a number that can't make a ring."""
        check_members(members, copies, partitions)
        self.members = tuple(sorted(members, key=lambda member: member.name))
        divisor = gcd(*(member.weight for member in members))
        self.unit = unit or divisor
        self._inherited = self.unit != divisor
        self.copies = copies
        self.partitions = partitions
        self.number = number
        self.shift = HASH_BITS - (partitions.bit_length() - 1)
        """A key's partition is its hash shifted right by this; the table is indexed by it."""
        self.table = self._place()
        """For each partition its owners, as indexes into `members`, in the order of preference."""
        self.fingerprint = self._fingerprint()

    def partition(self, key: bytes) -> int:
        return hash_key(key) >> self.shift

    def owners(self, key: bytes) -> tuple[int, ...]:
        """The members that keep the key, as indexes into `members`."""
        return self.table[hash_key(key) >> self.shift]

    def shares(self) -> list[float]:
        """For each member the copies it owns, relative to its fair part by weight: 1.0 is even."""
        owned = [0] * len(self.members)
        for owners in self.table:
            for index in owners:
                owned[index] += 1
        total = self.partitions * self.copies
        weights = sum(member.weight for member in self.members)
        return [count * weights / (total * member.weight) for count, member in zip(owned, self.members, strict=True)]

    def sharing_machines(self) -> int:
        """How many partitions have two copies on one machine although there are others. Placement looks at zones only:
        what a machine is, its name doesn't always tell."""
        hosts = [member.host for member in self.members]
        most = min(self.copies, len(set(hosts)))
        if most == 1:
            return 0
        return sum(len({hosts[index] for index in owners}) < most for owners in self.table)

    def _place(self) -> list[tuple[int, ...]]:
        index_of = {member.seat or member.name: index for index, member in enumerate(self.members)}
        counts = {member.seat or member.name: member.weight * POINTS // self.unit for member in self.members}
        points = _points(counts, index_of)
        zones = [member.zone for member in self.members]
        step = 1 << self.shift
        return _owners_at(
            points,
            (partition * step for partition in range(self.partitions)),
            lambda start: _distinct_in_zones(points, start, self.copies, zones),
        )

    def _fingerprint(self) -> str:
        """32 hex digits over everything that placement rests on."""
        inputs = [f"sfss ring, partitions {self.partitions}, copies {self.copies}"]
        inputs += [f"{member.name} {member.zone} {member.weight}" for member in self.members]
        # What only changed rings have leaves the fingerprints of all others as they are.
        inputs += [f"seat {member.seat} of {member.name}" for member in self.members if member.seat]
        inputs += [f"unit {self.unit}"] if self._inherited else []
        digest = xxhash.xxh3_128("\n".join(inputs).encode())
        digest.update(b"".join(b"%x " % index for owners in self.table for index in owners))
        return digest.hexdigest()


class ServerRing:
    """The servers of a tier in the order in which a key's requests should try them."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """`addresses` are `host:port`; indexes in answers are positions in it. Raises `SetupError` for repeats."""
        if not addresses:
            raise SetupError("no servers given")
        if len(set(addresses)) != len(addresses):
            raise SetupError(f"a server is named twice in {', '.join(addresses)}")
        index_of = {address: index for index, address in enumerate(addresses)}
        points = _points(dict.fromkeys(addresses, _SERVER_POINTS), index_of)
        self._shift = HASH_BITS - _SERVER_SLOTS_BITS
        nowhere = [""] * len(addresses)
        self._table = _owners_at(
            points,
            (slot << self._shift for slot in range(1 << _SERVER_SLOTS_BITS)),
            lambda start: _distinct_in_zones(points, start, len(addresses), nowhere),
        )

    def order(self, key: bytes) -> tuple[int, ...]:
        """Every server's index, the key's own server first."""
        return self._table[hash_key(key) >> self._shift]


def check_members(members: Sequence[Member], copies: int, partitions: int) -> None:
    """Raise `SetupError` for a set of members or a number that can't make a ring."""
    if not members:
        raise SetupError("no nodes given")
    if len(members) > 1 << 16:
        raise SetupError(f"{len(members)} nodes are more than a ring can hold")
    names: set[str] = set()
    seats: set[str] = set()
    for member in members:
        seat = member.seat or member.name
        if member.name in names:
            raise SetupError(f"node {member.name} is named twice")
        if seat in seats:
            raise SetupError(f"two nodes have the seat {seat}")
        if not 1 <= member.weight <= WEIGHT_MAX:
            raise SetupError(f"weight {member.weight} of node {member.name} is not between 1 and {WEIGHT_MAX}")
        names.add(member.name)
        seats.add(seat)
    if not 1 <= copies <= len(members):
        raise SetupError(f"{copies} copies can't be kept on {len(members)} nodes")
    if partitions & (partitions - 1) or not 1 < partitions <= PARTITIONS_MAX:
        raise SetupError(f"partitions {partitions} is not a power of two between 2 and {PARTITIONS_MAX}")


def _points(counts: dict[str, int], index_of: dict[str, int]) -> list[tuple[int, int]]:
    """The continuum as sorted (position, index of the member); `counts` says how many points each has."""
    ring = HashRing(
        nodes={name: {"weight": 1, "vnodes": count} for name, count in sorted(counts.items())},
        hash_fn=lambda text: xxhash.xxh3_64_intdigest(text.encode()),
    )
    return [(position, index_of[name]) for position, name in ring.get_points()]


def _owners_at(
    points: list[tuple[int, int]], positions: Iterable[int], owners_from: Callable[[int], tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """The owners at each position: those found from the first point at or after it, round the circle."""
    known: dict[int, tuple[int, ...]] = {}
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}  # equal owners are one object: 512 KiB for the table, not 5 MiB
    table = []
    for position in positions:
        start = bisect_left(points, (position, 0)) % len(points)
        owners = known.get(start)
        if owners is None:
            found = owners_from(start)
            owners = known[start] = shared.setdefault(found, found)
        table.append(owners)
    return table


def _distinct_in_zones(points: list[tuple[int, int]], start: int, copies: int, zones: list[str]) -> tuple[int, ...]:
    """The first `copies` distinct members from a point on: each in a zone of its own as long as zones are left
    unused, then the nearest of the others."""
    chosen: list[int] = []
    used: set[str] = set()
    zone_count = len(set(zones))
    for position in range(start, start + len(points)):
        if len(chosen) == copies or len(used) == zone_count:
            break
        index = points[position % len(points)][1]
        if zones[index] not in used:
            chosen.append(index)
            used.add(zones[index])
    for position in range(start, start + len(points)):
        if len(chosen) == copies:
            break
        index = points[position % len(points)][1]
        if index not in chosen:
            chosen.append(index)
    return tuple(chosen)
