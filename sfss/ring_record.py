"""A numbered ring as nodes keep it and as it goes over the wire: who is in it, and how keys are placed.

A settled ring has one placement. A joint one, on the way from one to another, has both: the old and the new one
(docs/decisions/ring-changes.rst). A record that exists is sound: making one that isn't raises `SetupError`.

Ring 1 is that of the configuration, and is not kept as a record. Whoever begins a change makes its record from the
configuration and the nodes' ids.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, TypeVar

import xxhash

from sfss.errors import BadRequest, SetupError
from sfss.ring import POINTS, Member, NodeRing, check_members

RECORD_BYTES_MAX = 256 * 1024
"""About a thousand nodes in a joint ring."""

RING_NUMBER_MAX = 2**32
TEXT_CHARACTERS_MAX = 300
"""Longest name, zone or seat: a host name has 253 characters at most."""

_NODE = re.compile("[0-9a-f]{32}").fullmatch
_NAME = re.compile(r"[!-~]+:[0-9]{1,5}").fullmatch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RingMember:
    """A node of a ring. `node` is the id of its data directory; the rest is `sfss.ring.Member`'s."""

    node: str
    name: str
    zone: str = ""
    weight: int = 1
    seat: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where keys lie: on `n` of the members each, of which `w` must hold a write and `r` answer a read.

    The members are in the order of their names, however they are given, which is the order of `NodeRing.members`: an
    index into one is an index into the other. `unit` is the weight that has `sfss.ring.POINTS` points."""

    members: tuple[RingMember, ...]
    n: int
    w: int
    r: int
    unit: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(sorted(self.members, key=lambda member: member.name)))

    @property
    def nodes(self) -> frozenset[str]:
        """The ids of its members."""
        return frozenset(member.node for member in self.members)

    def node_ring(self, number: int, partitions: int) -> NodeRing:
        """Work out which members own what. 0.2 s of CPU for 12 members: not for an event loop, and worth keeping."""
        return NodeRing(self._ring_members(), self.n, partitions=partitions, number=number, unit=self.unit)

    def check(self, partitions: int) -> None:
        """Raise `SetupError` if no ring can be made of it."""
        check_members(self._ring_members(), self.n, partitions)
        for name, count in (("W", self.w), ("R", self.r)):
            if not 1 <= count <= self.n:
                raise SetupError(f"{name}={count} of N={self.n}")
        if not 1 <= self.unit <= POINTS:
            raise SetupError(f"{self.unit} is no unit of weights")
        for member in self.members:
            _check_texts(member)

    def _ring_members(self) -> list[Member]:
        return [Member(member.name, member.zone, member.weight, member.seat) for member in self.members]


@dataclass(frozen=True, slots=True)
class RingRecord:
    """What a ring of this number is: one placement, or the old and the new one."""

    number: int
    partitions: int
    placements: tuple[Placement, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.number <= RING_NUMBER_MAX:
            raise SetupError(f"{self.number} is no number of a ring")
        if len(self.placements) not in (1, 2):
            raise SetupError(f"a ring has one placement or two, not {len(self.placements)}")
        for placement in self.placements:
            placement.check(self.partitions)
        self._check_nodes()

    def _check_nodes(self) -> None:
        """One node at one address: coordinators know nodes by both."""
        by_name = {member.name: member.node for placement in self.placements for member in placement.members}
        by_node = {member.node: member.name for placement in self.placements for member in placement.members}
        for placement in self.placements:
            for member in placement.members:
                if by_node[member.node] != member.name:
                    raise SetupError(f"node {member.node} is named {by_node[member.node]} and {member.name}")
                if by_name[member.name] != member.node:
                    raise SetupError(f"{member.name} is node {by_name[member.name]} and {member.node}")

    @property
    def joint(self) -> bool:
        """Whether it is on the way from one placement to another."""
        return len(self.placements) == 2

    @property
    def members(self) -> tuple[RingMember, ...]:
        """Every node in any placement, in the order of their names. One in both is told as in the new one."""
        known = {member.name: member for placement in self.placements for member in placement.members}
        return tuple(known[name] for name in sorted(known))

    def owned_by(self, node: str) -> bytes:
        """For each partition 1 where the node owns it, in whichever placement, else 0. Not for an event loop."""
        owned = bytearray(self.partitions)
        for placement in self.placements:
            indexes = [index for index, member in enumerate(placement.members) if member.node == node]
            if indexes:
                table = placement.node_ring(self.number, self.partitions).table
                for partition, owners in enumerate(table):
                    owned[partition] |= indexes[0] in owners
        return bytes(owned)

    @property
    def fingerprint(self) -> str:
        """32 hex digits over all of it."""
        return xxhash.xxh3_128_hexdigest(self.encode())

    def may_follow(self, ring: RingRecord) -> bool:
        """Whether it can be the ring after `ring`: a joint one that begins with its placement, or after a joint ring
        one of its two."""
        if self.number != ring.number + 1 or self.partitions != ring.partitions or self.joint is ring.joint:
            return False
        return self.placements[0] in ring.placements

    def encode(self) -> bytes:
        """One line of JSON, the same for equal records. Raises `SetupError` over `RECORD_BYTES_MAX`."""
        line = json.dumps(_told(self), sort_keys=True, separators=(",", ":")).encode()
        if len(line) > RECORD_BYTES_MAX:
            raise SetupError(f"a ring of {len(self.members)} nodes is too large: {len(line)} bytes")
        return line

    @classmethod
    def decode(cls, line: bytes) -> RingRecord:
        """Read a record and check all of it. Raises `BadRequest`."""
        if len(line) > RECORD_BYTES_MAX:
            raise BadRequest(f"a ring of {len(line)} bytes; the limit is {RECORD_BYTES_MAX}")
        try:
            record = _read(json.loads(line))
            again = record.encode()
        except (SetupError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadRequest(f"this is no ring: {str(error)[:200]}") from None
        if again != line:
            # What is written in another way has another fingerprint.
            raise BadRequest("this is no ring: it is not written as rings are")
        return record


def _told(record: RingRecord) -> dict[str, object]:
    # By hand: `dataclasses.asdict` takes three times as long as everything else of a large record's encoding.
    return {
        "number": record.number,
        "partitions": record.partitions,
        "placements": [
            {
                "members": [
                    {"node": each.node, "name": each.name, "zone": each.zone, "weight": each.weight, "seat": each.seat}
                    for each in placement.members
                ],
                "n": placement.n,
                "w": placement.w,
                "r": placement.r,
                "unit": placement.unit,
            }
            for placement in record.placements
        ],
    }


def _read(told: Any) -> RingRecord:
    placements = []
    for placement in _of(list, told["placements"]):
        members = [
            RingMember(
                _of(str, member["node"]),
                _of(str, member["name"]),
                _of(str, member["zone"]),
                _of(int, member["weight"]),
                _of(str, member["seat"]),
            )
            for member in _of(list, placement["members"])
        ]
        counts = [_of(int, placement[name]) for name in ("n", "w", "r", "unit")]
        placements.append(Placement(tuple(members), *counts))
    return RingRecord(_of(int, told["number"]), _of(int, told["partitions"]), tuple(placements))


def _of(kind: type[T], value: object) -> T:
    # `True` is an `int` in Python, and would be written as one of JSON's own words.
    if type(value) is not kind:
        raise TypeError(f"{str(value)[:80]!r} should be a {kind.__name__}")
    return value


def _check_texts(member: RingMember) -> None:
    if not _NODE(member.node):
        raise SetupError(f"{member.node[:80]!r} is no id of a node")
    if not _NAME(member.name) or len(member.name) > TEXT_CHARACTERS_MAX:
        raise SetupError(f"{member.name[:80]!r} is no address of a node")
    for text in (member.zone, member.seat):
        if len(text) > TEXT_CHARACTERS_MAX or not text.isprintable():
            raise SetupError(f"{text[:80]!r} is no name of a zone or seat")
