"""What somebody wants the ring to become, and the nodes that are to join for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from sfss.errors import SetupError, SfssError, of_other_cluster
from sfss.ring import NodeRing
from sfss.ring_change.filling import ask_branches
from sfss.ring_change.node import Nodes
from sfss.ring_change.trouble import Trouble
from sfss.ring_plan import Change, next_ring
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.store import Identity


@dataclass(frozen=True, slots=True)
class Wish:
    """`quorum` says N, W and R over so many nodes. Raises, as all of it, `SetupError` for what can't be."""

    change: Change
    quorum: Callable[[int], tuple[int, int, int]]

    async def rings(self, ring: RingRecord) -> tuple[NodeRing, NodeRing]:
        """The settled ring that it begins with, as it is now or as it was before a joint one, and the one that is
        wished for."""
        return await asyncio.to_thread(self._rings, ring)

    def _rings(self, ring: RingRecord) -> tuple[NodeRing, NodeRing]:
        number = ring.number - 1 if ring.joint else ring.number
        before = ring.placements[0].node_ring(number, ring.partitions)
        return before, next_ring(before, self.change, lambda nodes: self.quorum(nodes)[0])

    async def is_what_happens(self, ring: RingRecord) -> bool:
        """Whether a joint ring is on the way to it."""
        try:
            _, after = await self.rings(ring)
        except SetupError:
            return False
        return self.placement(after, {}) == _without_ids(ring.placements[1])

    def placement(self, after: NodeRing, ids: dict[str, str]) -> Placement:
        """`ids` are those of the members by name; empty for those that are not in it."""
        members = tuple(
            RingMember(ids.get(member.name, ""), member.name, member.zone, member.weight, member.seat)
            for member in after.members
        )
        return Placement(members, *self.quorum(len(members)), after.unit)


def _without_ids(placement: Placement) -> Placement:
    return replace(placement, members=tuple(replace(member, node="") for member in placement.members))


_TRIES_MAX = 15
"""How often a node is asked in a row whether what it had is gone, and has as much as before."""


async def join(
    nodes: Nodes,
    names: Iterable[str],
    cluster: str,
    fingerprint: str,
    present: dict[str, str],
    wait_for: Callable[[Trouble], Awaitable[None]],
) -> dict[str, str]:
    """Make nodes part of the cluster that aren't in its ring yet; their ids by name. `present` are the ids of those
    that are, by name. `wait_for` says what is in the way, and waits a moment. Raises `SetupError` in one line for a
    node that can't be had."""
    names = list(names)
    met, errors = await nodes.ask_all(names, lambda node: node.identify())
    for name, error in errors.items():
        raise SetupError(f"{name} does not answer ({error}); start it first, with an empty data directory")
    taken = {node: name for name, node in present.items()}
    for name, identity in met.items():
        other = taken.setdefault(identity.node, name)
        if other != name:
            raise SetupError(f"{other} and {name} are one and the same node ({identity.node}); name each node once")
        await _check_empty(nodes, name, identity, cluster, wait_for)
    for name, identity in met.items():
        try:
            bound = (
                identity if identity.cluster else await nodes.ask(name, lambda node: node.bind(cluster, fingerprint))
            )
        except SfssError as error:
            raise SetupError(f"{name} can't join: {error}") from None
        if bound.cluster != cluster:
            raise SetupError(of_other_cluster(name, bound.cluster, cluster))
    return {name: identity.node for name, identity in met.items()}


async def _check_empty(
    nodes: Nodes, name: str, identity: Identity, cluster: str, wait_for: Callable[[Trouble], Awaitable[None]]
) -> None:
    """A node with files of its own would bring them along: tombstones of such files may be gone everywhere. One that
    was told that it has left takes its time to remove what it had."""
    if identity.cluster not in ("", cluster):
        raise SetupError(of_other_cluster(name, identity.cluster, cluster))
    if identity.state != "ok":
        raise SetupError(f"{name} is {identity.state}; give it an empty data directory")
    held = await _files_of(nodes, name)
    if held and not identity.cluster:
        raise SetupError(f"{name} holds {held} files already; give it an empty data directory")
    tries = 0
    while held:
        if tries == _TRIES_MAX:
            raise SetupError(
                f"{name} still has {held} files of when it was in the ring, and they don't go; stop it, empty its data "
                "directory, start it again, and ask once more"
            )
        await wait_for(Trouble({name: "it is removing what it had when it left the ring"}))
        before, held = held, await _files_of(nodes, name)
        tries = tries + 1 if held >= before else 0


async def _files_of(nodes: Nodes, name: str) -> int:
    try:
        return sum(branch.records for branch in await nodes.ask(name, lambda node: ask_branches(node, b"")))
    except SfssError as error:
        raise SetupError(f"{name} doesn't tell what it holds ({error}); see to it, and ask once more") from None
