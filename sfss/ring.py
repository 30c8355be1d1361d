"""Placement: which nodes keep a key, and which server of a tier a key's requests go to.

The only user of uhashring, which makes the continuum: points on a circle of 64-bit hashes, `POINTS` for each node
and unit of weight. `NodeRing` cuts the circle into partitions of equal size, works out the owners of each once, and
from then on a look-up is an index into a list. `ServerRing` orders the servers of a tier for a key. Since a ring of
thousands of nodes has millions of points, `NodeRing` makes the same ones itself and keeps only those that decide.

Placement never changes by itself: `NodeRing.fingerprint` covers what went in and the table that came out, so a
coordinator that would place one key elsewhere is known by it, whatever the reason.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Final

import xxhash
from uhashring import HashRing

from sfss.errors import SetupError
from sfss.keys import hash_key

HASH_BITS = 64
PARTITIONS = 65_536
"""By default. Fewer make shares uneven: with 4,096 and one copy on 12 nodes chance alone is ±11 %."""

PARTITIONS_MAX = 1 << 20
"""More than the default's are smaller than a leaf of the nodes' hash trees: comparing then lists every file
(docs/growth.rst)."""

POINTS = 2_048
"""Points of a node of weight 1. A node's share varies by 1/sqrt(points): 2.2 %, so that ±10 % is over four sigma."""

WEIGHT_MAX = 16
_SERVER_SLOTS_BITS: Final = 12
_SERVER_POINTS = 256

_INDEX_BITS = 16
_INDEX_MASK = (1 << _INDEX_BITS) - 1
"""A member's index, behind the position in its points: numbers sort faster than pairs, and are half as large."""

_hash = xxhash.xxh3_64_intdigest
_digest: Final = xxhash.xxh3_64_digest


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
        zone_numbers = {zone: number for number, zone in enumerate(dict.fromkeys(one.zone for one in self.members))}
        zones = [zone_numbers[member.zone] for member in self.members]
        if 1 < len(zone_numbers) < self.copies:
            apart = _nearest(self._points(), zones, len(zone_numbers), self.partitions)
            near = _nearest(self._points(), range(len(zones)), self.copies, self.partitions)
            return _filled(apart, near)
        groups = zones if len(zone_numbers) > 1 else range(len(zones))
        return _nearest(self._points(), groups, self.copies, self.partitions)

    def _points(self) -> Iterator[tuple[int, Iterable[int]]]:
        """Each member's index, and its points on the circle. They are uhashring's, made here: it keeps each of them in
        four structures, which are a minute and gigabytes for 10,000 members."""
        numbers = [
            b"-%d" % number for number in range(max(member.weight for member in self.members) * POINTS // self.unit)
        ]
        for index, member in enumerate(self.members):
            seat = (member.seat or member.name).encode()
            yield index, map(_hash, [seat + number for number in numbers[: member.weight * POINTS // self.unit]])

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
        ring = HashRing(
            nodes={address: {"weight": 1, "vnodes": _SERVER_POINTS} for address in addresses},
            hash_fn=lambda text: _hash(text.encode()),
        )
        points: dict[str, list[int]] = {address: [] for address in addresses}
        for position, address in ring.get_points():
            points[address].append(position)
        count = len(addresses)
        self._only: tuple[int, ...] = (0,) if count == 1 else ()
        self._table = _nearest(enumerate(points.values()), range(count), count, 1 << _SERVER_SLOTS_BITS)

    def order(self, key: bytes) -> tuple[int, ...]:
        """Every server's index, the key's own server first."""
        if self._only:
            return self._only
        digest = _digest(key)  # `hash_key` as bytes: a shift of 64 bits is a call into the interpreter
        return self._table[(digest[0] << 8 | digest[1]) >> 16 - _SERVER_SLOTS_BITS]


def check_members(members: Sequence[Member], copies: int, partitions: int) -> None:
    """Raise `SetupError` for a set of members or a number that can't make a ring."""
    if not members:
        raise SetupError("no nodes given")
    if len(members) > 1 << _INDEX_BITS:
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


def _nearest(
    points: Iterable[tuple[int, Iterable[int]]], groups: Sequence[int], count: int, partitions: int
) -> list[tuple[int, ...]]:
    """For each partition the first `count` members from its start on, round the circle, each of another group.

    `points` are each member's; `groups` says which one a member is of. Of the points in a partition only those are
    kept that may be among its first ones, so that memory grows with partitions and not with points, and nothing is
    sorted. What a partition lacks, the next one's first ones have."""
    shift = HASH_BITS - (partitions.bit_length() - 1)
    found: list[list[int]] = [[] for _ in range(partitions)]
    limits = array("Q", [(1 << HASH_BITS) - 1]) * partitions
    """Behind this no point of a partition is among its first ones."""
    for index, positions in points:
        group = groups[index]
        for position in [each for each in positions if each <= limits[each >> shift]]:
            point = position << _INDEX_BITS | index
            near = found[position >> shift]
            for other in near:
                if groups[other & _INDEX_MASK] == group:
                    if point < other:
                        near.remove(other)
                        insort(near, point)
                    break
            else:
                insort(near, point)
            if len(near) >= count:
                del near[count:]
                limits[position >> shift] = near[-1] >> _INDEX_BITS
    first: list[int] = []
    for near in found:
        first = _and_then(first, near, groups, count)
        if len(first) == count:
            break
    owners = tuple([point & _INDEX_MASK for point in first])
    known: dict[tuple[int, ...], tuple[int, ...]] = {}  # equal ones are one object: 512 KiB for the table, not 5 MiB
    table = []
    for near in reversed(found):
        if near:
            first = near if len(near) == count else _and_then(near, first, groups, count)
            owners = tuple([point & _INDEX_MASK for point in first])
            owners = known.setdefault(owners, owners)
        table.append(owners)
    table.reverse()
    return table


def _and_then(near: list[int], following: list[int], groups: Sequence[int], count: int) -> list[int]:
    """The first `count` points of different groups: those of `near`, then those that follow."""
    used = {groups[point & _INDEX_MASK] for point in near}
    return near + [point for point in following if groups[point & _INDEX_MASK] not in used][: count - len(near)]


def _filled(apart: list[tuple[int, ...]], near: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The owners where there are fewer zones than copies: one of each zone, then the nearest of the others."""
    known: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[int, ...]] = {}
    table = []
    for pair in zip(apart, near, strict=True):
        owners = known.get(pair)
        if owners is None:
            rest = [index for index in pair[1] if index not in pair[0]]
            owners = known[pair] = (*pair[0], *rest[: len(pair[1]) - len(pair[0])])
        table.append(owners)
    return table
