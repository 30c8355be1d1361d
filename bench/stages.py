"""Stages: sides that are up together, filled with files of one size, and the contests that they are in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bench import ours, rivals
from bench.contests import Contest, size_text
from bench.loads import Load, Run, batch_run, build_memload, fill, http_run, memcache, memcache_run
from bench.servers import Servers, Unavailable
from bench.side import IN_BATCHES, ONE_BY_ONE, Side
from bench.usage import leave_page_cache

Say = Callable[[str], None]
Start = Callable[[Servers], Side]

SETTLE_S = 8.0
"""A web process that has just started has its writes ask first, for 7 s (docs/replication.rst, two writers)."""

HTTP: tuple[Start, ...] = (
    ours.http,
    rivals.nginx,
    ours.direct,
    rivals.aiohttp_memcached,
    rivals.flask_postgresql,
    rivals.fastapi_files,
)
HTTP_COLD: tuple[Start, ...] = (ours.http_from_disk, rivals.nginx, ours.direct_from_disk, rivals.fastapi_files)
"""Those of them that can be had to read from disk: PostgreSQL's own buffers would keep what was read."""

NODE: tuple[Start, ...] = (ours.node, rivals.memcached_alone)
PROXY: tuple[Start, ...] = (ours.proxy, rivals.memcached_alone)


@dataclass(frozen=True)
class Cell:
    """A contest to come: what is asked for, over how many connections, with the page cache `warm` or `cold`."""

    operation: str
    connections: int = 32
    cache: str = "warm"


@dataclass(frozen=True)
class Stage:
    """`protocol` is HTTP, the tier that speaks memcache's (node, proxy), or batch: our batches beside our requests.
    `size` in bytes."""

    protocol: str
    starts: tuple[Start, ...]
    size: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Pace:
    """How long each contest takes: `repeats` turns, `seconds` for each side in each; and what is stored at each side:
    `keys` files, or fewer where that were over `stored_bytes_max`, so that all of it fits into the page cache."""

    repeats: int
    seconds: float
    keys: int = 10_000
    stored_bytes_max: int = 256 << 20

    def load(self, size: int) -> Load:
        return Load(size, keys=max(min(self.keys, self.stored_bytes_max // size), 1), seconds=self.seconds)


@dataclass
class Outcome:
    """What was found: the contests, what each side took for each size, and what was left out and why."""

    contests: list[Contest]
    sides: list[dict[str, Any]]
    missing: list[str]


def measure(stages: list[Stage], pace: Pace, say: Say) -> Outcome:
    """Run all contests of all stages. What can't be measured is left out and named."""
    outcome = Outcome([], [], [])
    for stage in stages:
        try:
            with Servers() as servers:
                _measure_stage(servers, stage, pace, say, outcome)
        except Unavailable as error:
            outcome.missing.append(f"{stage.protocol}: {error}")
    outcome.missing = list(dict.fromkeys(outcome.missing))  # a stage for each size says the same
    return outcome


def _measure_stage(servers: Servers, stage: Stage, pace: Pace, say: Say, outcome: Outcome) -> None:
    load = pace.load(stage.size)
    stored = load.keys * load.bytes
    started = _start(servers, stage, outcome)
    writes = any(cell.operation != "get" for cell in stage.cells)
    settled_at = time.monotonic() + SETTLE_S * (writes and any(side.path for side in started))
    on_disk = {side.name: side.disk_bytes() for side in started}
    for side in list(started):
        say(f"{stage.protocol}: filling {side.name} with {load.keys:,} files of {size_text(stage.size)}")
        try:
            _fill(servers, side, load)
        except Unavailable as error:
            started.remove(side)
            outcome.missing.append(f"{stage.protocol}: {error}")
    on_disk = {side.name: side.disk_bytes() - on_disk[side.name] for side in started}
    time.sleep(max(settled_at - time.monotonic(), 0))
    for cell in stage.cells:
        outcome.contests.append(_contest(servers, stage, cell, started, load, pace, say, outcome.missing))
    outcome.sides += [
        {
            "side": side.name,
            "protocol": stage.protocol,
            "bytes": stage.size,
            "resident_mib": side.resident_mib(),
            "processes": len(side.pids()),
            "disk_bytes_per_byte": on_disk[side.name] / stored if side.directories else None,
            "ack_copies": side.ack.copies,
            "ack_synced": side.ack.synced,
            "ack_lost_by": side.ack.lost_by,
        }
        for side in started
    ]


def _start(servers: Servers, stage: Stage, outcome: Outcome) -> list[Side]:
    started: list[Side] = []
    for start in stage.starts:
        try:
            started.append(start(servers))
        except Unavailable as error:
            outcome.missing.append(f"{stage.protocol}: {error}")
    return started


def _fill(servers: Servers, side: Side, load: Load) -> None:
    if side.path:
        fill(side, load)
    else:
        memcache(build_memload(servers.scratch), side.servers[0], "fill", load)


def _contest(
    servers: Servers, stage: Stage, cell: Cell, sides: list[Side], load: Load, pace: Pace, say: Say, missing: list[str]
) -> Contest:
    cold = cell.cache == "cold"
    load = replace(load, connections=cell.connections, once=cold)
    contest = Contest(cell.operation, stage.protocol, load, cell.cache)
    for side in sides:
        run = _run_of(servers, side, cell.operation, load)
        if stage.protocol == "batch":
            contest.entrants = {ONE_BY_ONE: run, IN_BATCHES: partial(batch_run, side, cell.operation, load)}
        else:
            contest.entrants[side.name] = partial(_cold, side, run) if cold else run
    for number in range(pace.repeats):
        say(f"{contest.name}: turn {number + 1} of {pace.repeats}")
        missing += contest.turn(number)
    return contest


def _run_of(servers: Servers, side: Side, operation: str, load: Load) -> Callable[[], Run]:
    if side.path:
        return partial(http_run, side, operation, load)
    return partial(memcache_run, build_memload(servers.scratch), side, operation, load)


def _cold(side: Side, run: Callable[[], Run]) -> Run:
    leave_page_cache(side.directories)
    return run()
