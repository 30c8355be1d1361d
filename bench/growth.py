"""`python -m bench growth`: how figures change with the number of files, nodes and connections, and with the size.

One variable grows at a time, all else stays: files of 100 B on one node; nodes behind one proxy and one web tier;
connections that GET 4 KiB; the size of what is put and got. Before anything starts it is said what this will take.
Rows already in bench/results/growth.json stay when others are measured, each with the machine it is of, so the row
that takes longest can be measured by itself. Nothing is judged: docs/growth.rst has the figures and what they mean.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench.growth_page import RESULTS, growth_tables
from bench.loads import Load, build_memload, http_with_errors, memcache, memcache_forever
from bench.machine import machine
from bench.memory import KILLED_AFTER_S, restart
from bench.servers import Server, Servers, Unavailable
from bench.table import plain
from bench.usage import disk_bytes, kib_of, leave_page_cache

SETTLE_S = 8.0
"""A web process that has just started has its writes ask first, for 7 s (docs/replication.rst, two writers)."""

FILE_BYTES = 100
NODE_BYTES_SPARE = 1 << 30
"""What a node has on disk without files: the reserve, spare volumes, garbage of overwritten files."""

VALUE_BYTES = 4096
KEYS = 20_000
SIZED_BYTES = 128 << 20
"""All files of one size together, one copy."""

KIB = 1024
MIB = 1024 * 1024

Row = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is measured: the values of each variable, and seconds for each load."""

    files: Sequence[int]
    nodes: Sequence[int]
    connections: Sequence[int]
    sizes_kib: Sequence[int]
    seconds: float

    def minutes(self) -> float:
        """About how long it takes: of loading so many files a second, starts and stops, and the loads themselves."""
        files = sum(count / 12_000 + 4 * self.seconds + 30 for count in self.files)
        nodes = sum(SETTLE_S + 2 * self.seconds + 10 + 2 * count for count in self.nodes)
        connections = (SETTLE_S + 20) * bool(self.connections) + len(self.connections) * (self.seconds + 2)
        sizes = (SETTLE_S + 15) * bool(self.sizes_kib) + len(self.sizes_kib) * (2 * self.seconds + 10)
        return (files + nodes + connections + sizes) / 60

    def disk_bytes(self) -> int:
        """The most that lies on disk at one time: sections follow one another, and each leaves nothing."""
        files = [450 * count + NODE_BYTES_SPARE for count in self.files]
        nodes = [count * NODE_BYTES_SPARE for count in self.nodes]
        sizes = [3 * (NODE_BYTES_SPARE + 3 * SIZED_BYTES)] if self.sizes_kib else []
        return max([*files, *nodes, *sizes, NODE_BYTES_SPARE])


def measure_files(count: int, seconds: float, say: Say) -> Row:
    """One node with so many files: loading, get and set, memory, disk, and starting again in four ways."""
    load = Load(bytes=FILE_BYTES, connections=512, keys=count, seconds=seconds)
    with Servers() as servers:
        program = build_memload(servers.scratch)
        node = servers.node("node")
        say(f"{count:,} files: loading")
        filled = memcache(program, node, "fill", load)
        time.sleep(2)  # the index follows a second behind
        disk = room(servers.scratch / "node")
        say(f"{count:,} files: get and set")
        got = memcache(program, node, "get", load)
        memory = resident_kib(node)
        put = memcache(program, node, "set", load)
        starts: dict[str, float] = {}
        for name, killed, cold in (
            ("stopped", False, False),
            ("stopped_cold", False, True),
            ("killed", True, False),
            ("killed_cold", True, True),
        ):
            say(f"{count:,} files: starting again ({name})")
            between = partial(leave_page_cache, [servers.scratch / "node"]) if cold else None
            load_meanwhile = memcache_forever(program, node, "set", load) if killed else contextlib.nullcontext()
            with load_meanwhile:
                time.sleep(KILLED_AFTER_S if killed else 0)
                node, starts[name] = restart(servers, node, kill=killed, between=between)
        after_start = resident_kib(node)
    return {
        "files": count,
        "load_per_s": filled["rate"],
        "get_per_s": got["rate"],
        "get_p99_us": got["p99_us"],
        "set_per_s": put["rate"],
        "set_p99_us": put["p99_us"],
        "start_s": starts,
        "resident_kib": memory,
        "resident_after_start_kib": after_start,
        "disk_bytes": disk,
        "disk_bytes_per_file": sum(disk.values()) / count,
    }


def measure_nodes(count: int, seconds: float, say: Say) -> Row:
    """GET and PUT over HTTP through one web tier and one proxy over so many nodes."""
    load = Load(bytes=VALUE_BYTES, keys=KEYS, seconds=seconds)
    with Servers() as servers:
        say(f"{count} nodes: starting and loading")
        began = time.monotonic()
        nodes, proxy, web = _cluster(servers, count)
        started_s = time.monotonic() - began
        memcache(build_memload(servers.scratch), proxy, "fill", load)
        time.sleep(SETTLE_S)
        say(f"{count} nodes: GET and PUT")
        figures = {operation: http_with_errors(web, operation, load) for operation in ("get", "put")}
        memory = [resident_kib(node) for node in nodes]
        return {
            "nodes": count,
            "start_s": started_s,
            **http_figures("get", figures["get"]),
            **http_figures("put", figures["put"]),
            "node_anonymous_kib": sum(each["anonymous"] for each in memory) // count,
            "node_mapped_kib": sum(each["mapped"] for each in memory) // count,
            "proxy_anonymous_kib": proxy.anonymous_kib(),
            "web_anonymous_kib": web.anonymous_kib(),
        }


def measure_connections(counts: Sequence[int], seconds: float, say: Say) -> Iterator[Row]:
    """GET 4 KiB by so many connections at once, each of which asks again when it has its answer."""
    load = Load(bytes=VALUE_BYTES, keys=KEYS, seconds=seconds)
    with Servers() as servers:
        say("connections: starting and loading")
        _, proxy, web = _cluster(servers, 3)
        memcache(build_memload(servers.scratch), proxy, "fill", load)
        time.sleep(SETTLE_S)
        for count in counts:
            say(f"{count} connections")
            with PeakMemory(web) as peak:
                figures = http_with_errors(web, "get", replace(load, connections=count))
            yield {"connections": count, **http_figures("get", figures), "web_anonymous_kib": peak.kib}


def measure_sizes(sizes_kib: Sequence[int], seconds: float, say: Say) -> Iterator[Row]:
    """GET and PUT of files of each size, 32 connections."""
    with Servers() as servers:
        say("sizes: starting")
        program = build_memload(servers.scratch)
        _, proxy, web = _cluster(servers, 3)
        time.sleep(SETTLE_S)
        for size_kib in sizes_kib:
            size = size_kib * KIB
            load = Load(bytes=size, keys=max(32, min(KEYS, SIZED_BYTES // size)), seconds=seconds)
            say(f"{size_kib} KiB")
            # Few large ones at a time: a load that only prepares is no reason to run into deadlines.
            memcache(program, proxy, "fill", replace(load, connections=max(2, min(32, MIB // size))))
            row: Row = {"size_kib": size_kib}
            for operation in ("get", "put"):
                figures = http_with_errors(web, operation, load)
                row |= http_figures(operation, figures)
                row[f"{operation}_mib_per_s"] = figures["rate"] * size / MIB
            yield row


def _cluster(servers: Servers, count: int) -> tuple[list[Server], Server, Server]:
    nodes = [servers.node(f"node-{number}") for number in range(count)]
    proxy = servers.proxy("proxy", nodes)
    return nodes, proxy, servers.web([proxy])


def http_figures(operation: str, figures: dict[str, Any]) -> Row:
    """What a row has of a load; answers that were errors are in no rate."""
    return {
        f"{operation}_per_s": (figures["done"] - figures["errors"]) / figures["seconds"],
        f"{operation}_p50_us": figures["p50_us"],
        f"{operation}_p99_us": figures["p99_us"],
        f"{operation}_errors": figures["errors"],
    }


class PeakMemory:
    """The largest RssAnon of a server and its children within a block, in KiB, looked at ten times a second."""

    def __init__(self, server: Server) -> None:
        self.kib = 0
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.kib = max(self.kib, self._server.anonymous_kib())
            if self._over.wait(0.1):
                return


def resident_kib(server: Server) -> dict[str, int]:
    """Memory of a server and its children: `anonymous` belongs to no file, `mapped` are a file's pages (code, and the
    index), which the kernel takes back when it needs them."""
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in server.pids()]
    return {
        name: sum(kib_of(field, status) for status in statuses)
        for name, field in (("anonymous", "RssAnon"), ("mapped", "RssFile"))
    }


def room(directory: Path) -> dict[str, int]:
    """Bytes on disk that a node's volumes and its index take; what is only kept in reserve is left out."""
    return {name: disk_bytes([directory / name]) for name in ("volumes", "index")}


KEYS_OF_ROWS = {"files": "files", "nodes": "nodes", "connections": "connections", "sizes": "size_kib"}


def merge(old: list[Row], new: list[Row], key: str) -> list[Row]:
    """Rows by the variable that grows; a new one takes the place of the old one."""
    by_value = {row[key]: row for row in [*old, *new]}
    return [by_value[value] for value in sorted(by_value)]


def measure(plan: Plan, path: Path, where: dict[str, Any], say: Say) -> list[str]:
    """Measure all of it. Rows are in the file as soon as there are any; returns what could not be measured."""
    missing = []
    sections: list[tuple[str, Callable[[], Iterator[Row]]]] = [
        ("files", lambda: (measure_files(count, plan.seconds, say) for count in plan.files)),
        ("nodes", lambda: (measure_nodes(count, plan.seconds, say) for count in plan.nodes)),
        ("connections", lambda: measure_connections(plan.connections, plan.seconds, say)),
        ("sizes", lambda: measure_sizes(plan.sizes_kib, plan.seconds, say)),
    ]
    asked = {"files": plan.files, "nodes": plan.nodes, "connections": plan.connections, "sizes": plan.sizes_kib}
    for section, rows in sections:
        if not asked[section]:
            continue
        try:
            for row in rows():
                keep(path, section, row | {"machine": where})
        except Unavailable as error:
            missing.append(f"{section}: {error}")
    return missing


def keep(path: Path, section: str, row: Row) -> None:
    """Put a row into the result file."""
    known = json.loads(path.read_text()) if path.exists() else {}
    known[section] = merge(known.get(section, []), [row], KEYS_OF_ROWS[section])
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")


class _Numbers(click.ParamType):
    """Whole numbers from 1, with commas between; `none` for none."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            numbers = [] if value == "none" else [int(each) for each in value.split(",")]
        except ValueError:
            numbers = [0]
        if any(number < 1 for number in numbers):
            self.fail(f"{value} is not numbers with commas between, or none", param, context)
        return numbers


NUMBERS = _Numbers()


@click.command()
@click.option("--files", type=NUMBERS, default="100000,1000000", show_default=True, help="On one node.")
@click.option("--nodes", type=NUMBERS, default="3,6,12", show_default=True)
@click.option("--connections", type=NUMBERS, default="1,4,16,64,250,1000", show_default=True)
@click.option("--sizes", type=NUMBERS, default="1,4,16,64,256,1024,2048", show_default=True, help="KiB.")
@click.option("--seconds", type=click.FloatRange(1), default=4.0, show_default=True, help="Length of each load.")
def growth(files: list[int], nodes: list[int], connections: list[int], sizes: list[int], seconds: float) -> None:
    """How figures change as files, nodes, connections and sizes grow; `none` leaves one of them out."""
    plan = Plan(files, nodes, connections, sizes, seconds)
    if max(sizes, default=0) > 2048 or max(nodes, default=3) > 100 or min(nodes, default=3) < 3:
        raise click.UsageError("sizes are 2048 KiB at most, nodes 3 to 100")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends, and its folder goes
    free = shutil.disk_usage(tempfile.gettempdir()).free
    click.echo(
        f"about {plan.minutes():.0f} minutes, and up to {plan.disk_bytes() / 2**30:.1f} GiB "
        f"in {tempfile.gettempdir()} ({free / 2**30:.0f} GiB free)",
        err=True,
    )
    if free < plan.disk_bytes():
        raise click.UsageError("that is not free there; TMPDIR names another folder")
    path = RESULTS / "growth.json"
    missing = measure(plan, path, machine(), lambda line: click.echo(line, err=True))
    known = json.loads(path.read_text()) if path.exists() else {}
    for rows in growth_tables(known):
        click.echo("\n" + plain(rows))
    for line in missing:
        click.echo(f"left out: {line}")
    click.echo(f"written to {path}")
    sys.exit(2 if missing else 0)
