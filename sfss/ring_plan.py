"""What a change of the ring would move, and whether the ring that comes out is sound. Pure: nobody is asked, nothing
is changed.

A change names nodes as the ring does. The next ring keeps what placement rests on where it need not change: the points
of nodes that stay, the unit of weights, and for a node that replaces another one that one's seat. So what moves is what
must move for the new shares (`Plan.least`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sfss.errors import SetupError
from sfss.ring import Member, NodeRing

_SHARE_OFF = 0.1
"""How far a node's part may be from its fair one. Chance alone stays below this."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be different. Zones and weights may be those of added nodes; a replacing node has those of the one
    that it replaces unless it is given others."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    replace: dict[str, str] = field(default_factory=dict)
    """The new node by the old one."""
    weights: dict[str, int] = field(default_factory=dict)
    zones: dict[str, str] = field(default_factory=dict)


class NodePlan(NamedTuple):
    """One node of either ring. `before`, `after`, `receives` and `gives` count copies of partitions; `share` is what it
    owns in the next ring beside its fair part by weight (1.0 is even), None for a node that isn't in it."""

    name: str
    zone: str
    weight: int
    before: int
    after: int
    receives: int
    gives: int
    share: float | None


class Plan:
    """What it takes to come from one ring to the next."""

    def __init__(self, before: NodeRing, after: NodeRing) -> None:
        if before.partitions != after.partitions:
            raise SetupError(f"{before.partitions} partitions can't become {after.partitions}: they are fixed")
        self.before = before
        self.after = after
        receives: dict[str, int] = {}
        gives: dict[str, int] = {}
        owned_before: dict[str, int] = {}
        owned_after: dict[str, int] = {}
        self.partitions_changed = 0
        for old, new in zip(_named(before), _named(after), strict=True):
            for counts, names in (
                (owned_before, old),
                (owned_after, new),
                (receives, new - old),
                (gives, old - new),
            ):
                for name in names:
                    counts[name] = counts.get(name, 0) + 1
            self.partitions_changed += old != new
        shares = dict(zip((member.name for member in after.members), after.shares(), strict=True))
        self.nodes = [
            NodePlan(
                name,
                member.zone,
                member.weight,
                owned_before.get(name, 0),
                owned_after.get(name, 0),
                receives.get(name, 0),
                gives.get(name, 0),
                shares.get(name),
            )
            for name, member in sorted(_by_name(before.members + after.members).items())
        ]
        self.moved = sum(receives.values())
        """Copies of partitions that come to a node which didn't have them."""
        self.least = max(sum(max(0, node.after - node.before) for node in self.nodes), _lacking(before, after))
        """How many have to, whatever the way: so that every node owns as many as it shall, and so that each partition
        has its copies, apart."""
        self.warnings = list(_warnings(before, after, shares))

    @property
    def cost(self) -> float:
        """What moves beside what has to; 1.0 is ideal."""
        if not self.least:
            return math.inf if self.moved else 1.0
        return self.moved / self.least


def next_ring(ring: NodeRing, change: Change, copies: Callable[[int], int]) -> NodeRing:
    """The ring that follows on `ring`. `copies` says how many there are of a file over so many nodes. Raises
    `SetupError` for a change that can't be made."""
    number = ring.number + 1
    members = _changed(ring.members, change, number)
    return NodeRing(members, copies(len(members)), partitions=ring.partitions, number=number, unit=ring.unit)


def _changed(before: Sequence[Member], change: Change, number: int) -> list[Member]:
    _check(_by_name(before), change)
    removed = {*change.remove, *change.replace}
    members = [member for member in before if member.name not in removed]
    for old, new in change.replace.items():
        gone = _by_name(before)[old]
        members.append(replace(gone, name=new, seat=gone.seat or gone.name))
    seats = {member.seat or member.name for member in members}
    # Somebody else may sit at an added address's points: who replaced a node that was there before.
    members += [Member(name, seat=f"{name}/{number}" if name in seats else "") for name in change.add]
    members = [
        replace(
            member,
            zone=change.zones.get(member.name, member.zone),
            weight=change.weights.get(member.name, member.weight),
        )
        for member in members
    ]
    # A node that is back at its own address needs no other name for its points.
    members = [replace(member, seat="") if member.seat == member.name else member for member in members]
    if not members:
        raise SetupError("no node would be left")
    without = [member.name for member in members if not member.zone]
    if without and len(without) < len(members):
        raise SetupError(f"{without[0]} has no zone and others have: say which, as in --zone {without[0]}=a")
    return members


def _check(before: dict[str, Member], change: Change) -> None:
    comes = [*change.add, *change.replace.values()]
    goes = [*change.remove, *change.replace]
    for name in comes:
        if name in before:
            raise SetupError(f"{name} is in the ring already")
        if comes.count(name) > 1:
            raise SetupError(f"{name} is added twice")
    for name in goes:
        if name not in before:
            raise SetupError(f"{name} is not in the ring, which has {', '.join(sorted(before))}")
        if goes.count(name) > 1:
            raise SetupError(f"{name} is removed twice")
    for name in (*change.weights, *change.zones):
        if name in goes or name not in {*before, *comes}:
            raise SetupError(f"{name} is not in the ring that would come of it")


def _warnings(before: NodeRing, after: NodeRing, shares: dict[str, float]) -> Iterable[str]:
    if after.copies < before.copies:
        why = "too few nodes: " if after.copies == len(after.members) else ""
        yield f"{why}files would have {after.copies} copies instead of {before.copies}"
    yield from _sharing_machines(after)
    zones = {member.zone for member in after.members}
    if 1 < len(zones) < after.copies:
        yield f"too few zones: {len(zones)} for {after.copies} copies, so each file has copies that share one"
    for name, share in shares.items():
        if abs(share - 1) > _SHARE_OFF:
            yield (
                f"{name} would own {share:.2f} times its part by weight: no node keeps two copies of a file, and no "
                "zone does as long as there are others; make zones alike and weights less different"
            )


def _sharing_machines(ring: NodeRing) -> Iterable[str]:
    sharing = ring.sharing_machines()
    if sharing:
        hosts = [member.host for member in ring.members]
        shared = sorted({host for host in hosts if hosts.count(host) > 1})
        yield (
            f"{sharing} of {ring.partitions} partitions would have copies that share a machine ({', '.join(shared)}) "
            "though there are others: make each machine a zone with --zone"
        )


def _lacking(before: NodeRing, after: NodeRing) -> int:
    """The copies of partitions that are missing, or share a zone without need, among the nodes that stay."""
    zone_of = {member.name: member.zone for member in after.members}
    zones = min(after.copies, len(set(zone_of.values())))
    lacking = 0
    for owners, count in Counter(_named(before)).items():
        staying = [zone_of[name] for name in owners if name in zone_of]
        lacking += count * max(0, after.copies - len(staying), zones - len(set(staying)))
    return lacking


def _by_name(members: Iterable[Member]) -> dict[str, Member]:
    return {member.name: member for member in members}


def _named(ring: NodeRing) -> Iterable[frozenset[str]]:
    """Each partition's owners by name."""
    known: dict[tuple[int, ...], frozenset[str]] = {}
    for owners in ring.table:
        names = known.get(owners)
        if names is None:
            names = known[owners] = frozenset(ring.members[index].name for index in owners)
        yield names
