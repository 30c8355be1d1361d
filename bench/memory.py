"""Memory and restart: a node with a million small files, and minutes of large files through all tiers."""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.loads import Load, build_memload, memcache, memcache_forever
from bench.servers import HOST, Server, Servers, Unavailable
from bench.usage import anonymous_kib
from bench.verdict import Verdict

CLIENT = Path(__file__).parent.parent / "simple_client.py"
ANONYMOUS_MIB_MAX = 300
RESTART_S_MAX = 2.0
KILLED_AFTER_S = 5.0
"""Long enough for a full second's writes to be in volumes and not yet in the index: what the restart replays."""

GROWTH_MAX = 1.1
LARGE_BYTES = 2 * 1024 * 1024
LARGE_KEYS = 64
CONNECTIONS = 16
READ_SHARE = 0.5
DISK_BYTES_SPARE = 4 << 30


def measure_million(count: int, say: Callable[[str], None]) -> tuple[dict[str, Any], list[Verdict]]:
    """Fill a node with `count` files of 100 bytes; then memory, and the time from start to a right answer."""
    load = Load(bytes=100, connections=128, keys=count, seconds=10)
    with Servers() as servers:
        program = build_memload(servers.scratch)
        node = servers.node("node")
        say(f"filling a node with {count:,} files")
        filled = memcache(program, node, "fill", load)
        after_fill = node.anonymous_kib()
        say("reading them")
        read = memcache(program, node, "get", load)
        after_reads = node.anonymous_kib()
        say("restarting it")
        clean = restart(servers, node)
        with memcache_forever(program, clean[0], "set", load):
            time.sleep(KILLED_AFTER_S)
            killed = restart(servers, clean[0], kill=True)
        again = memcache(program, killed[0], "get", load)
        after_restart = killed[0].anonymous_kib()
    figures = {
        "files": count,
        "fill_per_s": filled["rate"],
        "get_per_s": read["rate"],
        "get_after_restart_per_s": again["rate"],
        "anonymous_kib": {"after_fill": after_fill, "after_reads": after_reads, "after_restart": after_restart},
        "restart_s": {"after_stop": clean[1], "after_kill": killed[1]},
    }
    return figures, [
        Verdict(f"node with {count:,} files, RssAnon", max(after_fill, after_reads) / 1024, ANONYMOUS_MIB_MAX, "MiB"),
        Verdict("the same after a restart", after_restart / 1024, ANONYMOUS_MIB_MAX, "MiB"),
        Verdict("restart after SIGTERM until a file is read", clean[1], RESTART_S_MAX, "s"),
        Verdict("restart after SIGKILL amid writes until a file is read", killed[1], RESTART_S_MAX, "s"),
    ]


def restart(
    servers: Servers, node: Server, *, kill: bool = False, between: Callable[[], None] | None = None
) -> tuple[Server, float]:
    """End a node, by SIGKILL if `kill`, do what is to be done `between`, and start it over its directory; seconds from
    then until it serves a file. Raises `Unavailable` where it lost one."""
    if kill:
        node.process.kill()
        node.process.wait()
    else:
        servers.stop(node)
    if between is not None:
        between()
    start = time.monotonic()
    again = servers.node("node")
    with socket.create_connection((HOST, again.port), 10) as connection:
        connection.sendall(b"get bench/000000\r\n")
        answer = connection.recv(65536)
    took = time.monotonic() - start
    if not answer.startswith(b"VALUE bench/000000 "):
        raise Unavailable(f"the node lost a file over its restart: {answer[:80]!r}")
    return again, took


def measure_large(minutes: int, rate: float, say: Callable[[str], None]) -> tuple[dict[str, Any], list[Verdict]]:
    """Read and write 2 MiB files for `minutes`; RssAnon of each process in the last minute over that in the second.

    The rate is bounded, because three replicas of an unbounded stream fill any disk before the minutes are over.
    """
    with Servers() as servers:
        needed = int(rate * (1 - READ_SHARE) * LARGE_BYTES * 3 * 60) + DISK_BYTES_SPARE
        free = shutil.disk_usage(servers.scratch).free
        if free < needed:
            raise Unavailable(f"{servers.scratch} has {free >> 20} MiB free; {needed >> 20} MiB may be needed")
        nodes = [servers.node(f"node-{number}") for number in range(3)]
        proxies = [servers.proxy(f"proxy-{number}", nodes) for number in range(2)]
        web = servers.web(proxies)
        command = [sys.executable, str(CLIENT), "bench", "--host", HOST, "--port", str(web.port), "--json"]
        command += ["--sizes", "2m", "--keys", str(LARGE_KEYS), "--reads", str(READ_SHARE), "--rate", str(rate)]
        command += ["--concurrency", str(CONNECTIONS)]
        say(f"{minutes} minutes of 2 MiB files, {rate:g} requests a second")
        load = subprocess.Popen([*command, "--duration", str(minutes * 60)], stdout=subprocess.PIPE, text=True)
        try:
            samples = _sample([*nodes, *proxies, web], load)
            out, _ = load.communicate()
        finally:
            load.kill()
            load.wait()
    client = json.loads(out)
    figures: dict[str, Any] = {"client": client, "processes": {}}
    verdicts = []
    for name, series in samples.items():
        second = statistics.fmean(size for at, size in series if 60 <= at < 120)
        last = statistics.fmean(size for at, size in series if (minutes - 1) * 60 <= at < minutes * 60)
        figures["processes"][name] = {"second_minute_kib": second, "last_minute_kib": last}
        verdicts.append(
            Verdict(f"{name}: last minute over second ({last / 1024:.0f} MiB)", last / second, GROWTH_MAX, "×")
        )
    if client["wrong_reads"]:
        raise Unavailable(f"files came back wrong: {client['errors']}")
    verdicts.append(Verdict("errors of the load", client["error_count"], 0, ""))
    return figures, verdicts


def _sample(servers: list[Server], load: subprocess.Popen[str]) -> dict[str, list[tuple[float, int]]]:
    """RssAnon in KiB of every process of `servers`, each second with its time, until `load` ends."""
    samples: dict[str, list[tuple[float, int]]] = {}
    start = time.monotonic()
    while load.poll() is None:
        at = time.monotonic() - start
        for server in servers:
            for number, pid in enumerate(server.pids()):
                samples.setdefault(f"{server.name}/{number}", []).append((at, anonymous_kib(pid)))
        time.sleep(max(start + len(next(iter(samples.values()))) - time.monotonic(), 0))
    return samples
