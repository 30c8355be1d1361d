"""A local cluster that gets more nodes than it has in its ring: `sfss up --nodes 3` on a folder with one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

from sfss.commands.local_cluster import Plan
from sfss.commands.ring_nodes import RingCluster, address_of
from sfss.errors import SetupError
from sfss.ring_change.ending import Outcome
from sfss.ring_change.wish import Wish
from sfss.ring_plan import Change


async def grow(plan: Plan, conf: Path, say: Callable[[str], None]) -> None:
    """Bring the nodes that run and aren't in the ring into it. May be ended at any moment, and is done again then.
    Raises `SetupError`."""
    cluster = RingCluster.load(conf / "proxy-0.ini")
    wanted = [address_of(plan.node_address(number)).ring_name for number in plan.founding.joining]
    async with cluster.mover(say) as mover:
        while True:
            ring = await mover.look()
            members = {member.name for member in ring.placements[-1].members}
            missing = tuple(name for name in wanted if name not in members)
            if not (missing or ring.joint):
                break
            say(f"adding {', '.join(wanted)} to the ring; files are moved in the background")
            outcome = await mover.apply(Wish(Change(add=missing), lambda nodes: astuple(cluster.quorum(nodes))))
            if outcome is Outcome.GIVEN_UP:
                raise SetupError(
                    "nodes were being added, and `sfss ring abort` gave it up; start once more to add them"
                )
    say(f"{', '.join(wanted)} are in the ring")
