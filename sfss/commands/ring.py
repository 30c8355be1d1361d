"""`sfss ring`: look at the ring, plan a change of it, carry the change out, give it up.

What the commands do is in `sfss.ring_plan` and `sfss.ring_change`; here it is asked for and told. The first ring is
worked out from a proxy's configuration file, later ones are on the nodes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from sfss.commands.ring_nodes import RingCluster
from sfss.commands.ring_options import Asked, change_options, configuration
from sfss.commands.ring_planning import planned, wished
from sfss.commands.ring_view import ring_document, ring_text
from sfss.log import set_up_logging
from sfss.pace import Pace
from sfss.process import check_packages, run, unless_stopped
from sfss.ring_change.ending import Outcome
from sfss.ring_change.mover import Mover

_MIB = 1024 * 1024
_PROGRESS_S = 5.0

_ENDS = {
    Outcome.DONE: (0, "done"),
    Outcome.NOTHING: (0, "no change is under way, and nothing was left to do"),
    Outcome.COPIES_LEFT: (1, "done; old copies are left, which harm nobody: run `sfss ring apply` once more later"),
    Outcome.OTHER: (1, "another change was carried out instead; look at it with `sfss ring show`"),
    Outcome.GIVEN_UP: (1, "the change was given up by `sfss ring abort`"),
    Outcome.OVERTAKEN: (1, "others have changed the ring since; look at it with `sfss ring show`, and ask again"),
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def ring() -> None:
    """Look at the ring, which says what node keeps what, and change it."""


@ring.command()
@change_options
@click.option("--offline", is_flag=True, help="Ask no node; a state directory may know the ring.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def plan(conf: Path, offline: bool, as_json: bool, **options: Any) -> None:
    """Show what a change would move. Nothing is changed.

    NODE is host:port, or eight digits or more of a node's id. Options may be given more than once and together;
    without any, the ring is shown as it is.

    Exit status: 0 the ring is sound, 1 there are warnings, 2 it can't be made.
    """

    async def work() -> int:
        view = await planned(RingCluster.load(conf), Asked(**options), offline=offline)
        click.echo(json.dumps(view.document(), indent=2) if as_json else view.text())
        if not as_json:
            click.echo("This is a plan; nothing was changed.")
        return 1 if view.warnings else 0

    _run(work)


@ring.command()
@change_options
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="MiB/s at most.  [default: no limit]")
@click.option("--despite-warnings", is_flag=True, help="Also where `sfss ring plan` warns.")
def apply(conf: Path, rate: float | None, despite_warnings: bool, **options: Any) -> None:
    """Carry out a change, while clients read and write.

    Options are those of `sfss ring plan`; without any, a change that is under way is carried on. May be stopped at any
    moment, and run again anywhere: it goes on from there. New nodes have to run already, with empty data directories.

    Exit status: 0 done, 1 not, or not all of it (says what), 2 nothing was begun.
    """

    async def work() -> int:
        cluster, asked = RingCluster.load(conf), Asked(**options)
        wish = None
        if any(asked):
            wish, view = await wished(cluster, asked)
            if view is not None:
                _say(view.text())
                if view.warnings and not despite_warnings:
                    _say("nothing was changed; to go on all the same, say --despite-warnings")
                    return 1
        async with cluster.mover(_say, Pace((rate or 0) * _MIB)) as mover, _told(mover):
            return _end(await mover.apply(wish))

    _run(work, "the change is not finished; `sfss ring apply` goes on with it, `sfss ring abort` gives it up")


@ring.command()
@configuration
def abort(conf: Path) -> None:
    """Give up a change that is under way: the ring from before it is used again.

    Exit status: 0 given up, 1 it was too late, or old copies are left, 2 nothing was begun.
    """

    async def work() -> int:
        async with RingCluster.load(conf).mover(_say) as mover, _told(mover):
            outcome = await mover.abort()
        if outcome is Outcome.OTHER:
            _say("too late: the change had been finished")
            return 1
        if outcome is Outcome.NOTHING:
            _say("no change is under way")
            return 0
        return _end(outcome)

    _run(work, "run it once more; it goes on")


@ring.command()
@configuration
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show(conf: Path, as_json: bool) -> None:
    """Show the ring that the cluster has, and which nodes have stored it.

    Exit status: 0 all members have it, 1 not all, 2 none answers.
    """

    async def work() -> int:
        cluster = RingCluster.load(conf)
        record = await cluster.look()
        holdings = await cluster.holdings(member.name for member in record.members)
        if as_json:
            click.echo(json.dumps(ring_document(record, holdings), indent=2))
        else:
            click.echo(ring_text(record, holdings))
        return 0 if all(holding.ring == record.number for holding in holdings.values()) else 1

    _run(work)


def _end(outcome: Outcome) -> int:
    status, line = _ENDS[outcome]
    _say(line)
    return status


@asynccontextmanager
async def _told(mover: Mover) -> AsyncIterator[None]:
    """Tell what is being done, each time that it has changed."""

    async def tell() -> None:
        said = ""
        while True:
            await asyncio.sleep(_PROGRESS_S)
            progress = mover.progress()
            if progress != said:
                said = progress
                _say(progress)

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait([telling])


def _say(line: str) -> None:
    click.echo(line)


def _run(work: Callable[[], Coroutine[Any, Any, int]], stopped: str = "stopped") -> None:
    """Do it until it is done or a signal comes, and exit. `stopped` is said in that case."""
    set_up_logging("ring", "warning")
    status = 1

    async def main(stop: asyncio.Event) -> None:
        nonlocal status
        check_packages()
        found = await unless_stopped(work(), stop)
        if found is None:
            click.echo(f"sfss ring: {stopped}", err=True)
        else:
            status = found

    refused = run("sfss ring", main)
    sys.exit(refused or status)
