"""What `sfss ring plan` and `sfss ring apply` begin with: the present ring, and what would become of it."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from proxy.quorum import Quorum
from sfss.commands.ring_nodes import Holding, RingCluster, quorum_of
from sfss.commands.ring_options import Asked
from sfss.commands.ring_view import PlanView
from sfss.errors import SetupError
from sfss.ring import NodeRing
from sfss.ring_change.mover import difference
from sfss.ring_change.wish import Wish
from sfss.ring_plan import Plan, next_ring
from sfss.ring_record import RingRecord


class _Present(NamedTuple):
    """The ring that a plan begins with. `names` are those of nodes by id; without `holdings` nobody is asked."""

    ring: NodeRing
    quorum: Quorum
    names: dict[str, str]
    holdings: dict[str, Holding] | None
    note: str = ""


async def planned(cluster: RingCluster, asked: Asked, *, offline: bool) -> PlanView:
    """What a change would move. Raises `SetupError`."""
    return await _view(cluster, await (_present_offline(cluster) if offline else _present(cluster)), asked)


async def _present(cluster: RingCluster) -> _Present:
    holdings = await cluster.holdings(cluster.names)
    if any(holding.ring > 1 for holding in holdings.values()):
        record = await cluster.look()
        return await _present_of(record, await cluster.holdings(member.name for member in record.members))
    if all(holding.error for holding in holdings.values()):
        return (await _present_offline(cluster))._replace(holdings=holdings)
    ring, quorum = await asyncio.to_thread(cluster.configured_ring)
    for name, holding in holdings.items():
        cluster.check_bound(ring, name, holding.fingerprint)
    return _Present(ring, quorum, {one.node: name for name, one in holdings.items() if one.node}, holdings)


async def _present_offline(cluster: RingCluster) -> _Present:
    record = await asyncio.to_thread(cluster.remembered_ring)
    if record is not None:
        note = f"this is the ring that {cluster.config.state} remembers; a later one isn't known without the nodes"
        return (await _present_of(record, None))._replace(note=note)
    ring, quorum = await asyncio.to_thread(cluster.configured_ring)
    note = f"this is the ring that {cluster.source} founds; whether it was changed since isn't known without the nodes"
    return _Present(ring, quorum, {}, None, note)


async def _present_of(record: RingRecord, holdings: dict[str, Holding] | None) -> _Present:
    """Raises `SetupError` where a change is under way."""
    if record.joint:
        raise SetupError(
            f"a change is under way ({difference(record)}): `sfss ring apply` without a change finishes it, "
            "`sfss ring abort` gives it up"
        )
    [placement] = record.placements
    ring = await asyncio.to_thread(placement.node_ring, record.number, record.partitions)
    return _Present(ring, quorum_of(placement), _names(record), holdings)


async def wished(cluster: RingCluster, asked: Asked) -> tuple[Wish, PlanView | None]:
    """What is asked for, and what it would move; that isn't known while another change is under way. Raises
    `SetupError`."""
    record = await cluster.look()
    wish = cluster.wish(asked.change(_names(record)), record, asked.numbers)
    if record.joint:
        return wish, None
    holdings = await cluster.holdings(member.name for member in record.members)
    return wish, await _view(cluster, await _present_of(record, holdings), asked)


async def _view(cluster: RingCluster, present: _Present, asked: Asked) -> PlanView:
    before, members = present.quorum, len(present.ring.members)
    change = asked.change(present.names)
    quorum_after = cluster.quorum_after(before, members, asked.numbers)
    after = await asyncio.to_thread(next_ring, present.ring, change, lambda nodes: quorum_after(nodes).n)
    holdings = {}
    if present.holdings is not None:
        holdings = present.holdings | await cluster.holdings((*change.add, *change.replace.values()))
    notes = [present.note] if present.note else []
    if asked.numbers is None and before != cluster.quorum(members):
        notes.append(
            f"N/W/R stay {before}, though {cluster.source} makes them {cluster.quorum(members)}; --quorum changes them"
        )
    planned = await asyncio.to_thread(Plan, present.ring, after)
    return PlanView(planned, holdings, before, quorum_after(len(after.members)), notes)


def _names(record: RingRecord) -> dict[str, str]:
    return {member.node: member.name for member in record.members}
