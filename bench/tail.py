"""How much longer the slowest GETs take than the usual one, at half the peak rate, while all nodes compact."""

from __future__ import annotations

import socket
import statistics
from pathlib import Path
from typing import Any

from bench import ours
from bench.client import client_bench
from bench.contests import plural
from bench.loads import Load, build_memload, memcache
from bench.servers import HOST, Server, Servers, Unavailable
from bench.stages import Say
from bench.targets import TAIL_MOST
from bench.verdict import Verdict

PROCESSES = 2
CONNECTIONS = 32
FILES = 2000
TURNS = 5
"""Each has a ratio of its own, and the median counts: on a shared machine that of one turn says little, since each time
that a neighbour takes a core for a few milliseconds, all that were asked for meanwhile are late."""


def measure_tail(keys: int, seconds: float, say: Say) -> tuple[dict[str, Any], Verdict]:
    """`keys` files are stored, and then as many of them at random replaced: the volumes of the first round are then
    mostly garbage, with live records in between that compaction has to move, for longer than is measured.

    The peak is that of the same client in a closed loop: it takes its share of the machine either way.
    """
    with Servers() as servers:
        side = ours.http(servers)
        _, proxy, *nodes = side.servers
        program = build_memload(servers.scratch)
        memcache(program, proxy, "fill", Load(keys=keys))
        shape = ("--sizes", "4k", "--reads", 1, "--keys", FILES, "--concurrency", CONNECTIONS, "--processes", PROCESSES)
        say("tail: the peak rate of the client")
        peak = client_bench(side, *shape, "--duration", seconds)["operations"]["GET"]["rate_per_s"]
        say("tail: making garbage")
        _replace(program, proxy, keys)
        say(f"tail: {peak / 2:,.0f} GET a second, by schedule")
        before = [compacted_bytes(node) for node in nodes]
        paced = (*shape, "--duration", seconds / 2, "--rate", round(peak / 2))
        turns = [client_bench(side, *paced) for _ in range(TURNS)]
        moved = [compacted_bytes(node) - then for node, then in zip(nodes, before, strict=True)]
    gets = sorted((turn["operations"]["GET"] for turn in turns), key=_ratio)
    usual, ratios = gets[TURNS // 2], [_ratio(get) for get in gets]
    figures = {"peak_per_s": peak, "compacted_bytes": moved, "turns": turns}
    notes = [f"p50 {usual['p50_ms']:.2f} ms, p99 {usual['p99_ms']:.2f} ms at {peak / 2:,.0f}/s"]
    idle = sum(1 for node in moved if node == 0)
    if idle:
        notes.append(f"{plural(idle, 'node')} did not compact")
    if any(turn["client"]["bottleneck"] for turn in turns):
        notes.append("the load was the limit")
    unsent = sum(turn["unsent"] for turn in turns)
    if unsent:
        notes.append(f"{plural(unsent, 'request')} never sent")
    name = "HTTP GET 4 KiB at half the peak rate, nodes compacting: p99 / p50"
    spread = (ratios[0], ratios[-1])
    return figures, Verdict(name, statistics.median(ratios), TAIL_MOST, "×", spread=spread, note="; ".join(notes))


def _ratio(get: dict[str, Any]) -> float:
    return float(get["p99_ms"] / get["p50_ms"])


def _replace(program: Path, proxy: Server, keys: int) -> None:
    """Write about as many times as there are files, each time to a random one."""
    rate = memcache(program, proxy, "set", Load(keys=keys, seconds=1))["rate"]
    # One load, and not several: each takes the same random keys in the same order.
    memcache(program, proxy, "set", Load(keys=keys, seconds=keys / rate))


def compacted_bytes(node: Server) -> int:
    """How much a node's compaction has copied since its start. Raises `Unavailable` where it doesn't say."""
    with socket.create_connection((HOST, node.port), 10) as connection, connection.makefile("rwb") as stream:
        stream.write(b"stats\r\n")
        stream.flush()
        for line in iter(stream.readline, b""):
            if line.strip() == b"END":
                break
            _, name, value = line.split(maxsplit=2)
            if name == b"compacted_bytes":
                return int(value)
    raise Unavailable(f"{node.name} does not say compacted_bytes")
