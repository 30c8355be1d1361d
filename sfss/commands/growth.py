"""A local cluster that gets more nodes than it has in its ring: `sfss up --nodes 3` on a folder with one."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from sfss.commands.data_folder import DataFolder, Founding
from sfss.commands.local_cluster import ring_name
from sfss.commands.ring_nodes import RingCluster
from sfss.commands.supervisor import restart_delay_s
from sfss.errors import SetupError
from sfss.ring_change.ending import Outcome
from sfss.ring_plan import Change

_REASONS_MAX = 8
"""A reason that was among the last so many isn't told again: a node that is away has two or three by turns."""

_log = logging.getLogger("sfss.up")


async def grow_in_time(
    folder: DataFolder,
    founding: Founding,
    say: Callable[[str], None],
    grow_once: Callable[[Founding, Path, Callable[[str], None]], Awaitable[Founding]] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Bring the nodes that run and aren't in the ring into it, beside clients, and note that in the folder. Goes on
    trying, ever less often, until that is done or `sfss ring abort` gave it up. May be ended at any moment; the next
    start goes on. `say` takes a line whenever something else is in the way."""
    names = ", ".join(ring_name(founding, number) for number in founding.joining)
    conf = folder.path / "conf" / "proxy-0.ini"
    say(
        f"adding {names} to the ring, in the background; `sfss ring abort --conf {conf}` gives it up, or if it says "
        f"that no change is under way: stop this, and start with --nodes {founding.given_up().nodes}"
    )
    jitter = random.Random()
    failures = 0
    said: deque[str] = deque(maxlen=_REASONS_MAX)
    while reason := await _why_not_grown(folder, founding, names, say, grow_once or grow):
        failures += 1
        if reason not in said:
            said.append(reason)
            say(f"{names} can't be added yet, and it is tried again and again: {reason}")
        await sleep(restart_delay_s(failures, jitter))


async def _why_not_grown(
    folder: DataFolder,
    founding: Founding,
    names: str,
    say: Callable[[str], None],
    grow_once: Callable[[Founding, Path, Callable[[str], None]], Awaitable[Founding]],
) -> str:
    """One try, and what is noted of it. What was in the way; empty where it is over, in whatever way."""
    try:
        ended = await grow_once(founding, folder.path / "conf" / "proxy-0.ini", say)
        await asyncio.to_thread(folder.found, ended)
        if ended == founding.grown():
            say(f"{names} are in the ring")
        else:
            gone = ", ".join(ring_name(founding, number) for number in range(ended.nodes, founding.nodes)) or names
            say(
                f"`sfss ring abort` gave up adding {gone}: the next start is without them, or adds them with "
                f"--nodes {founding.nodes}"
            )
    except SetupError as error:
        return str(error)
    except Exception as error:
        _log.exception("nodes could not be added")
        return f"{type(error).__name__}: {error}"
    return ""


async def grow(founding: Founding, conf: Path, say: Callable[[str], None]) -> Founding:
    """One try. The founding with them in the ring; where it was given up, without those that are not. Raises
    `SetupError`."""
    cluster = RingCluster.load(conf)
    wanted = [ring_name(founding, number) for number in founding.joining]
    while True:
        async with cluster.mover(say) as mover:
            ring = await mover.look()
            settled = {member.name for member in ring.placements[0].members}
            if settled.issuperset(wanted):
                return founding.grown()  # if another change is under way, it is somebody else's
            members = {member.name for member in ring.placements[-1].members}
            missing = tuple(name for name in wanted if name not in members)
            # What is on the way already is carried on as it is, so that it can be given up.
            outcome = await mover.apply(cluster.wish(Change(add=missing), ring) if missing else None)
            if outcome is Outcome.GIVEN_UP:
                return without_absent(founding, settled)


def without_absent(founding: Founding, members: Collection[str]) -> Founding:
    """The same without those of the nodes to be added, from the last on, that are not among the ring's members."""
    joined = [number for number in founding.joining if ring_name(founding, number) in members]
    return founding.with_nodes(joined[-1] + 1) if joined else founding.given_up()
