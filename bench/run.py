"""Measure sfss beside its peers: `python -m bench`. How to read the figures: bench/README.rst.

    python -m bench             every target, side by side: about seven minutes
    python -m bench full        the whole grid of operations, sizes, connections and page caches: over an hour
    python -m bench short       every server and every load once, for a minute; fails on errors, never on figures
    python -m bench files       a node with a million small files: memory, restart
    python -m bench large       minutes of 2 MiB files in and out: memory of every process
    python -m bench growth      how figures change with files, nodes, connections and sizes
    python -m bench paper       rings of thousands of nodes, and 10^12 files, without any of them
    python -m bench document    tables and plots of docs/performance.rst from what was measured

Each prints what it found and writes it to bench/results/. Exit status 0 when all targets are met, 1 when one is
missed, 2 when something could not be measured.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bench import ours, rivals, stages
from bench.disk import measure_disk
from bench.document import draw, write_document
from bench.growth import growth
from bench.growth_page import write_growth_page
from bench.loads import HERE
from bench.machine import machine
from bench.memory import measure_large, measure_million
from bench.paper import paper
from bench.servers import Unavailable
from bench.stages import Cell, Outcome, Pace, Stage
from bench.table import contests_table, plain, sides_table, targets_table
from bench.tail import measure_tail
from bench.targets import TARGETS, Target, unmeasured, verdicts
from bench.verdict import Verdict

RESULTS = HERE / "results"
KIB = 1024
SIZES = (100, 4 * KIB, 64 * KIB, 1024 * KIB)
CONNECTIONS = (1, 32, 256)

TARGET_STAGES = [
    Stage("node", stages.NODE, 4 * KIB, (Cell("get"), Cell("set"))),
    Stage("proxy", stages.PROXY, 4 * KIB, (Cell("get"), Cell("set"))),
    Stage("HTTP", stages.HTTP, 4 * KIB, (Cell("get"), Cell("put"))),
    Stage("HTTP", (ours.http, rivals.nginx), 1024 * KIB, (Cell("get"),)),
    Stage("batch", (ours.http,), 4 * KIB, (Cell("put"), Cell("get"))),
]
"""All that the targets are about, and no more."""

STAGES = ["node", "proxy", "HTTP", "batch", "extras"]


def full_stages() -> list[Stage]:
    """The whole grid. Cold are only reads over HTTP: memcached has no disk to read from. Nodes keep nothing in memory
    of their own then."""
    found = []
    for protocol, starts, write in (
        ("node", stages.NODE, "set"),
        ("proxy", stages.PROXY, "set"),
        ("HTTP", stages.HTTP, "put"),
    ):
        warm = tuple(Cell(operation, count) for operation in ("get", write, "mixed") for count in CONNECTIONS)
        found += [Stage(protocol, starts, size, warm) for size in SIZES]
    cold = tuple(Cell("get", count, "cold") for count in CONNECTIONS)
    found += [Stage("HTTP", stages.HTTP_COLD, size, cold) for size in SIZES]
    return found


Extra = tuple[str, Callable[[], tuple[dict[str, Any], Verdict]]]


def extras(tail_keys: int, disk_keys: int, seconds: float) -> list[Extra]:
    """What is measured by itself: each with its name among the results."""
    return [
        ("tail", lambda: measure_tail(tail_keys, seconds, _say)),
        ("disk", lambda: measure_disk(disk_keys, _say)),
    ]


def compare(name: str, planned: list[Stage], pace: Pace, more: list[Extra], *, judged: bool = True) -> None:
    """Measure, print, write and end with the exit status; where it isn't `judged`, a missed target is no failure."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends and the folder goes
    where = machine()
    outcome = stages.measure(planned, pace, _say)
    results: dict[str, Any] = {
        "machine": where,
        "pace": asdict(pace),
        "contests": [contest.figures() for contest in outcome.contests],
        "sides": outcome.sides,
    }
    found, results["extras"] = _judge(outcome, [target for target in TARGETS if _planned(target, planned)], more)
    results["targets"] = [verdict.figures() for verdict in found]
    for table in (
        contests_table(results["contests"]),
        sides_table(results["sides"]),
        targets_table(results["targets"]),
    ):
        click.echo(f"\n{plain(table)}")
    try:
        draw(results, RESULTS, name)
    except Unavailable as error:
        outcome.missing.append(str(error))
    _conclude(name, results, outcome.missing, met=not judged or all(verdict.met for verdict in found))


def _planned(target: Target, planned: list[Stage]) -> bool:
    return any(target.contest.startswith(f"{stage.protocol} ") for stage in planned)


def _judge(outcome: Outcome, targets: list[Target], more: list[Extra]) -> tuple[list[Verdict], dict[str, Any]]:
    """All verdicts, and the figures of what is measured by itself."""
    found = verdicts(outcome.contests, targets)
    extra_figures: dict[str, Any] = {}
    for name, measure in more:
        try:
            extra_figures[name], verdict = measure()
        except Unavailable as error:
            outcome.missing.append(f"{name}: {error}")
        else:
            found.append(verdict)
    for target in unmeasured(outcome.contests, targets):
        outcome.missing.append(f"target not measured: {target.contest}, {target.ours} / {target.theirs}")
    return found, extra_figures


def _conclude(name: str, figures: dict[str, Any], missing: list[str], met: bool) -> None:
    """Write the result, name what is missing, and end with the exit status."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(figures | {"missing": missing}, indent=1, ensure_ascii=False) + "\n")
    for line in missing:
        click.echo(f"left out: {line}")
    click.echo(f"written to {path}")
    sys.exit(2 if missing else 0 if met else 1)


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.group(invoke_without_command=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Turns of each contest.")
@click.option("--seconds", type=click.IntRange(1), default=3, show_default=True, help="Length of a measurement.")
@click.option("--only", help="Stages to run, of node, proxy, HTTP, batch, extras.  [default: all]")
@click.pass_context
def main(context: click.Context, /, repeats: int, seconds: int, only: str | None) -> None:
    """Measure every target, beside the peers that are installed; or run a command."""
    context.obj = (repeats, seconds)
    if context.invoked_subcommand is not None:
        return
    wanted = only.split(",") if only else STAGES
    if unknown := set(wanted).difference(STAGES):
        raise click.BadParameter(f"{', '.join(unknown)} is none of {', '.join(STAGES)}", param_hint="--only")
    planned = [stage for stage in TARGET_STAGES if stage.protocol in wanted]
    more = extras(50_000, 262_144, seconds) if "extras" in wanted else []
    compare("targets", planned, Pace(repeats, seconds), more)


@main.command()
@click.pass_obj
def full(shape: tuple[int, int]) -> None:
    """All operations, sizes, connections and page caches."""
    repeats, seconds = shape
    compare("full", full_stages(), Pace(repeats, seconds), [])


@main.command()
def short() -> None:
    """Every server and every load once; only what can't be measured is a failure."""
    compare(
        "short",
        TARGET_STAGES,
        Pace(1, 1, keys=500, stored_bytes_max=16 << 20),
        extras(3000, 2000, 1),
        judged=False,
    )


@main.command()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder of other results.")
def document(results: Path) -> None:
    """Write tables and plots into docs/, from what was measured last; what wasn't stays, drawn anew."""
    try:
        write_document(results / "targets.json", results / "full.json")
        write_growth_page(results)
    except (Unavailable, OSError) as error:
        raise click.ClickException(str(error)) from error


def _show(name: str, measure: Callable[[], tuple[dict[str, Any], list[Verdict]]]) -> None:
    where = machine()
    missing: list[str] = []
    figures: dict[str, Any] = {}
    found: list[Verdict] = []
    try:
        figures, found = measure()
    except Unavailable as error:
        missing.append(str(error))
    judged = [verdict.figures() for verdict in found]
    click.echo(plain(targets_table(judged)))
    figures = {"machine": where, "verdicts": judged, **figures}
    _conclude(name, figures, missing, all(verdict.met for verdict in found))


@main.command()
@click.option("--count", type=click.IntRange(1, 1_000_000), default=1_000_000, show_default=True)
def files(count: int) -> None:
    """A node with many files of 100 bytes: anonymous memory, and how long a restart takes."""
    _show("files", lambda: measure_million(count, _say))


@main.command()
@click.option("--minutes", type=click.IntRange(3), default=5, show_default=True)
@click.option("--rate", type=click.FloatRange(1), default=20.0, show_default=True, help="Requests a second.")
def large(minutes: int, rate: float) -> None:
    """Files of 2 MiB in and out through all tiers: does any process keep growing?"""
    _show("large", lambda: measure_large(minutes, rate, _say))


main.add_command(growth)
main.add_command(paper)


if __name__ == "__main__":
    main()
