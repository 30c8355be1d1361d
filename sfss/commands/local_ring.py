"""Which nodes of a local cluster's folder may be left out: those that its ring doesn't name, nor the next one.

All that vote on the ring lie in the folder, and none of them runs. So what their directories have is all there is to
know, and it stays so.
"""

from __future__ import annotations

from pathlib import Path

from nodes.ring_file import look_at_ring
from sfss.commands.data_folder import Founding
from sfss.commands.local_cluster import ring_name
from sfss.errors import SetupError


def check_left_out(folder: Path, before: Founding, after: Founding) -> Founding:
    """Refuse (`SetupError`) to leave out nodes that have files, or may come to have some. Returns what to start with,
    which is a new founding where the first one has come to nothing. Blocks."""
    leaving = {ring_name(before, number) for number in range(after.nodes, before.nodes)}
    if not leaving:
        return after
    kept = [ring for number in range(before.nodes) if (ring := look_at_ring(folder / f"node-{number}")) is not None]
    latest = max((ring.held.number for ring in kept), default=0)
    if not latest:
        return Founding(after.nodes, after.node_port)
    present = [ring.held.record for ring in kept if ring.held.number == latest and ring.held.record is not None]
    if latest > 1 and not present:
        raise SetupError(f"{folder}: no node knows the ring; start with --nodes {before.nodes}")
    conf = folder / "conf" / "proxy-0.ini"
    proposed = [ring.accepted for ring in kept if ring.accepted is not None and ring.accepted.number > latest]
    under_way = {
        member.name for ring in (*proposed, *present) if ring.joint or ring in proposed for member in ring.members
    }
    if coming := sorted(leaving & under_way):
        raise SetupError(
            f"{folder}: a change of the ring with {', '.join(coming)} is under way; start with --nodes {before.nodes}, "
            f"which finishes it, or gives it up when you run `sfss ring abort --conf {conf}` meanwhile"
        )
    members = {member.name for ring in present for member in ring.members}
    if latest == 1:
        members = {ring_name(before, number) for number in before.founders}
    if staying := sorted(leaving & members):
        raise SetupError(
            f"{folder}: {', '.join(staying)} would be missing, which the ring has; start with --nodes {before.nodes}, "
            f"and take out what is to go with `sfss ring apply --conf {conf} "
            f"{' '.join(f'--remove {name}' for name in staying)}`"
        )
    return after
