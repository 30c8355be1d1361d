"""`sfss up`: a whole cluster on this machine, for trying sfss and for small installations.

Makes the folders and configuration files, starts the nodes, the proxies and the web tier with their own commands,
prints what to try, and keeps all running until Ctrl-C or SIGTERM. See docs/operations.rst.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import click

from sfss import __version__
from sfss.commands.data_folder import NODES_MAX, DataFolder, Founding
from sfss.commands.growth import grow_in_time
from sfss.commands.local_authority import LocalAuthority
from sfss.commands.local_cluster import LOOPBACK, Plan, doors, tiers, what_to_try
from sfss.commands.local_ring import check_left_out
from sfss.commands.ports import check_distinct, wait_until_free
from sfss.commands.supervisor import Supervisor
from sfss.log import LEVELS, set_up_logging, writer_to
from sfss.process import VERSION_LINE, check_packages, run

_DEFAULT = Founding(nodes=3, node_port=7900)

_PATIENCE_S = 20.0
"""How long a start waits for the parts of a supervisor that was killed to end and leave their ports."""

_port = click.IntRange(1, 65535)

_log = logging.getLogger("sfss.up")


@click.command()
@click.option(
    "--data",
    type=click.Path(readable=False, path_type=Path),  # what is wrong with it `DataFolder` says
    default=Path("data"),
    show_default=True,
    help="Data folder.",
)
@click.option("--nodes", type=click.IntRange(1, NODES_MAX), help="Storage nodes.  [default: 3, then as founded]")
@click.option("--proxies", type=click.IntRange(1, 16), default=2, show_default=True, help="Replicating proxies.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Web processes.")
@click.option("--host", default=LOOPBACK, show_default=True, help="Address that the web tier listens on.")
@click.option("--port", type=_port, default=8255, show_default=True, help="Port of the web tier.")
@click.option("--node-port", type=_port, help="Port of the first node.  [default: 7900, then as founded]")
@click.option("--proxy-port", type=_port, default=8900, show_default=True, help="Port of the first proxy.")
@click.option("--monitor-port", type=_port, default=9900, show_default=True, help="Port of the first monitor page.")
@click.option("--secret", type=click.Path(path_type=Path), metavar="FILE", help="The parts ask one another for it.")
@click.option("--tls", is_flag=True, help="The parts speak TLS to one another; makes certificates for that.")
@click.option("--access-log", is_flag=True, help="Every part logs each request.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="Of all parts.")
@click.option("--log-json", is_flag=True, help="The parts log JSON lines.")
@click.version_option(__version__, prog_name="sfss up", message=VERSION_LINE)
def up(data: Path, nodes: int | None, node_port: int | None, tls: bool, **options: Any) -> None:
    """Run a whole cluster on this machine, until Ctrl-C.

    Starts nodes, proxies and the web tier, and starts a part that crashed again. What the parts say is in the folder
    `log` of the data folder.
    """
    set_up_logging("up", "warning")

    async def main(stop: asyncio.Event) -> None:
        check_packages()
        with closing(DataFolder(data)) as folder:
            authority = LocalAuthority(data) if tls else None
            founded = folder.founded()
            plan = Plan(folder.founding(nodes, node_port, otherwise=_DEFAULT), authority=authority, **options)
            await _run(folder, await _without_those_left_out(folder, founded, plan), stop)

    sys.exit(run("sfss up", main))


async def _without_those_left_out(folder: DataFolder, founded: Founding | None, plan: Plan) -> Plan:
    """The plan, if it has fewer nodes than the folder and the ring doesn't need the others. Raises `SetupError`."""
    if founded is None or founded.nodes <= plan.founding.nodes:
        return plan
    await _wait_until_free(folder, replace(plan, founding=founded))
    return replace(plan, founding=await asyncio.to_thread(check_left_out, folder.path, founded, plan.founding))


async def _wait_until_free(folder: DataFolder, plan: Plan) -> None:
    check_distinct(doors(plan))
    if folder.ended_uncleanly:
        _say("the last run was killed; waiting for its parts to end")
    await wait_until_free(doors(plan), _PATIENCE_S if folder.ended_uncleanly else 0.0)


async def _run(folder: DataFolder, plan: Plan, stop: asyncio.Event) -> None:
    await _wait_until_free(folder, plan)
    if plan.authority is not None:
        await asyncio.to_thread(plan.authority.prepare)
    folder.found(plan.founding)
    supervisor = Supervisor(tiers(folder, plan), folder.path / "log", _say_when)
    started = asyncio.create_task(supervisor.start())
    stopped = asyncio.create_task(stop.wait())
    tasks: set[asyncio.Task[Any]] = {started, stopped}
    if plan.authority is not None:
        tasks.add(asyncio.create_task(plan.authority.keep(_say_when)))
    try:
        await asyncio.wait({started, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            started.result()
            _say(what_to_try(plan, folder.path))
            if plan.founding.joining:
                tasks.add(asyncio.create_task(grow_in_time(folder, plan.founding, _say_when)))
        await stopped
        _say("\nstopping the web tier, then the proxies, then the nodes (Ctrl-C again: at once)")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await supervisor.close()
    _say("stopped")


def _say_when(line: str) -> None:
    _say(f"{time.strftime('%H:%M:%S')} {line}")


def _say(text: str) -> None:
    """Print for people. A terminal that takes nothing (Ctrl-S, a closed window) must not stop the supervision."""
    try:
        _terminal()(f"{text}\n".encode())
    except OSError:
        return


@cache
def _terminal() -> Callable[[bytes], int]:
    return writer_to(sys.stdout.fileno())
