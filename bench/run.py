"""Measure sfss beside its yardsticks: `python -m bench.run`. How to read the figures: bench/README.rst.

    python -m bench.run                 speed of node, proxy and HTTP, side by side
    python -m bench.run files           a node with a million small files: memory, restart
    python -m bench.run large           minutes of 2 MiB files in and out: memory of every process

Each prints what it found and writes it to bench/results/. Exit status 0 when all targets are met, 1 when one is
missed, 2 when something could not be measured.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench.growth import growth
from bench.loads import HERE, Load, build_memload, http, memcache
from bench.memory import Verdict, measure_large, measure_million
from bench.servers import Server, Servers, Unavailable

RESULTS = HERE / "results"
SETTLE_S = 8.0
"""A web process that has just started has its writes ask first, for 7 s (docs/replication.rst, two writers)."""


@dataclass
class Contest:
    """One row: ours against a yardstick, measured in turns. `least` is the ratio of the medians to reach."""

    name: str
    least: float
    ours: Callable[[], dict[str, Any]]
    theirs: Callable[[], dict[str, Any]]
    our_runs: list[dict[str, Any]] = field(default_factory=list)
    their_runs: list[dict[str, Any]] = field(default_factory=list)

    def turn(self, number: int) -> None:
        """Measure both once; who goes first changes from turn to turn."""
        for mine in (True, False) if number % 2 else (False, True):
            if mine:
                self.our_runs.append(self.ours())
            else:
                self.their_runs.append(self.theirs())

    def figures(self) -> dict[str, Any]:
        ours = [run["rate"] for run in self.our_runs]
        theirs = [run["rate"] for run in self.their_runs]
        ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        ratio = statistics.median(ours) / statistics.median(theirs)
        return {
            "name": self.name,
            "ours_per_s": statistics.median(ours),
            "ours_spread": [min(ours), max(ours)],
            "ours_p99_us": statistics.median(run["p99_us"] for run in self.our_runs),
            "theirs_per_s": statistics.median(theirs),
            "theirs_spread": [min(theirs), max(theirs)],
            "theirs_p99_us": statistics.median(run["p99_us"] for run in self.their_runs),
            "ratio": ratio,
            "ratio_spread": [min(ratios), max(ratios)],
            "least": self.least,
            "met": ratio >= self.least,
            "runs": {"ours": self.our_runs, "theirs": self.their_runs},
        }


def compare(load: Load, repeats: int, only: str, say: Callable[[str], None]) -> tuple[list[dict[str, Any]], list[str]]:
    """Run the contests whose tier is in `only`; returns their figures, and what could not be measured and why."""
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    for tier, arrange in (("node", _node_contests), ("proxy", _proxy_contests), ("http", _http_contests)):
        if tier not in only.split(","):
            continue
        try:
            with Servers() as servers:
                contests = arrange(servers, load)
                for number in range(repeats):
                    say(f"{tier}: turn {number + 1} of {repeats}")
                    for contest in contests:
                        contest.turn(number)
                rows += [contest.figures() for contest in contests]
        except Unavailable as error:
            missing.append(f"{tier}: {error}")
    return rows, missing


def _node_contests(servers: Servers, load: Load) -> list[Contest]:
    return _memcache_contests(servers, load, "node", servers.node("node"), {"get": 0.4, "set": 0.25})


def _proxy_contests(servers: Servers, load: Load) -> list[Contest]:
    ours = servers.proxy("proxy", [servers.node(f"node-{number}") for number in range(3)])
    return _memcache_contests(servers, load, "proxy", ours, {"get": 0.12, "set": 0.06})


def _memcache_contests(servers: Servers, load: Load, name: str, ours: Server, least: dict[str, float]) -> list[Contest]:
    program = build_memload(servers.scratch)
    theirs = servers.memcached()
    for server in (theirs, ours):
        memcache(program, server, "fill", load)
    return [
        Contest(
            f"{name} {operation} / memcached -t 1",
            ratio,
            partial(memcache, program, ours, operation, load),
            partial(memcache, program, theirs, operation, load),
        )
        for operation, ratio in least.items()
    ]


def _http_contests(servers: Servers, load: Load) -> list[Contest]:
    program = build_memload(servers.scratch)
    memcached = servers.memcached()
    theirs = servers.plain_handler(memcached)
    proxy = servers.proxy("proxy", [servers.node(f"node-{number}") for number in range(3)])
    ours = servers.web([proxy])
    # A path is its own key in both, so the tier below is filled at once and every GET is a hit.
    for server in (memcached, proxy):
        memcache(program, server, "fill", load)
    time.sleep(SETTLE_S)
    return [
        Contest(
            f"HTTP {operation.upper()} / plain handler",
            ratio,
            partial(http, ours, operation, load),
            partial(http, theirs, operation, load),
        )
        for operation, ratio in {"get": 1.0, "put": 0.5}.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The contests for people."""
    lines = [
        f"{'':28}{'ours /s':>10}{'(spread)':>18}{'theirs /s':>12}{'(spread)':>18}{'ratio':>8}{'at least':>10}  target"
    ]
    for row in rows:
        spread = "–".join(f"{rate / 1000:.1f}k" for rate in row["ours_spread"])
        their_spread = "–".join(f"{rate / 1000:.1f}k" for rate in row["theirs_spread"])
        lines.append(
            f"{row['name']:28}{row['ours_per_s']:>10,.0f}{spread:>18}{row['theirs_per_s']:>12,.0f}{their_spread:>18}"
            f"{row['ratio']:>8.3f}{row['least']:>10g}  {'met' if row['met'] else 'MISSED'}"
        )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    models = [
        line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _conclude(name: str, figures: dict[str, Any], missing: list[str], met: bool) -> None:
    """Write the result, name what is missing, and end with the exit status."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(figures | {"missing": missing}, indent=1) + "\n")
    for line in missing:
        click.echo(f"left out: {line}")
    click.echo(f"written to {path}")
    sys.exit(2 if missing else 0 if met else 1)


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.group(invoke_without_command=True)
@click.option("--only", default="node,proxy,http", show_default=True, help="Which tiers to compare.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Turns of each contest.")
@click.option("--seconds", type=click.FloatRange(1), default=4.0, show_default=True, help="Length of a measurement.")
@click.option("--connections", type=click.IntRange(1), default=32, show_default=True)
@click.option("--keys", type=click.IntRange(1, 1_000_000), default=20_000, show_default=True)
@click.option("--bytes", "size", type=click.IntRange(0, 2 << 20), default=4096, show_default=True, help="Of a value.")
@click.pass_context
def main(
    context: click.Context, /, only: str, repeats: int, seconds: float, connections: int, keys: int, size: int
) -> None:
    """Compare node, proxy and HTTP with memcached and with a plain handler, in turns; or run a command."""
    if context.invoked_subcommand is not None:
        return
    load = Load(size, connections, keys, seconds)
    where = machine()
    rows, missing = compare(load, repeats, only, _say)
    click.echo(table(rows))
    figures = {"machine": where, "load": asdict(load), "repeats": repeats, "contests": rows}
    _conclude("compare", figures, missing, all(row["met"] for row in rows))


def _show(name: str, measure: Callable[[], tuple[dict[str, Any], list[Verdict]]]) -> None:
    where = machine()
    missing: list[str] = []
    figures: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    try:
        figures, verdicts = measure()
    except Unavailable as error:
        missing.append(str(error))
    for verdict in verdicts:
        click.echo(verdict.line())
    figures = {
        "machine": where,
        "verdicts": [asdict(verdict) | {"met": verdict.met} for verdict in verdicts],
        **figures,
    }
    _conclude(name, figures, missing, all(verdict.met for verdict in verdicts))


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


if __name__ == "__main__":
    main()
