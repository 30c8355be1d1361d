"""Hundreds of clients that hang up in the middle of anything, over few connections to the proxies.

What a hung-up client asked for is still answered somewhere below; the danger is that the answer reaches somebody else.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.history import Event, History, Outcome
from tests.cluster.http_client import HttpClient, file_target
from tests.cluster.values import make_value
from tests.cluster.workload import Address, Mix, Workload, read_all

pytestmark = pytest.mark.slow

KEYS = [f"storm/{number}" for number in range(20)]
ABSENT = [f"storm/never-written-{number}" for number in range(5)]


async def hang_up(web: Address, history: History, rng: random.Random, name: str) -> None:
    """Begin one request and hang up at some point: within the head or the body, before or within the answer."""
    key = rng.choice(KEYS + ABSENT)
    kind = "get" if key in ABSENT else rng.choice(["put", "get", "get", "delete"])
    number = history.next_number()
    body = make_value(key, number, rng.choice([200, 4000, 60_000])) if kind == "put" else b""
    method = {"put": "PUT", "get": "GET", "delete": "DELETE"}[kind]
    request = f"{method} {file_target(key)} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    sent = len(request) if rng.random() < 0.7 else rng.randrange(len(request))
    start = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection(*web)
    except OSError:
        return
    if rng.random() < 0.7:
        # Closed like this, the server is told at once by a reset; else it sees an end of sending, as of a client that
        # still wants its answer.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.write(request[:sent])
    if rng.random() < 0.5:
        # Sometimes some of the answer is taken, too.
        read = asyncio.create_task(reader.read(rng.randint(1, 20_000)))
        await asyncio.wait([read], timeout=rng.uniform(0, 0.03))
        read.cancel()
    else:
        await asyncio.sleep(rng.choice([0, 0, rng.uniform(0, 0.02)]))
    writer.transport.abort()
    if kind != "get":
        # A body cut short stores nothing; all else may or may not have been done.
        outcome = Outcome.UNKNOWN if sent == len(request) else Outcome.FAIL
        value = number if kind == "put" else None
        history.add(Event(name, key, kind, start, time.monotonic(), outcome, value, note=f"hung up after {sent} bytes"))


async def storm(cluster: Cluster, history: History, seconds: float, clients: int = 200) -> None:
    """`clients` that come and hang up again and again, beside 16 that stay."""
    until = time.monotonic() + seconds

    async def restless(name: str) -> None:
        rng = random.Random(f"{history.seed} {name}")
        while time.monotonic() < until:
            await hang_up(rng.choice(cluster.web_addresses), history, rng, name)
            await asyncio.sleep(rng.uniform(0, 0.5))

    mix = Mix(get=8, rest_s=0.002)
    async with Workload(cluster.web_addresses, history, keys=KEYS, clients=16, mix=mix):
        await asyncio.gather(*(restless(f"leaver{number}") for number in range(clients)))
    await read_all(cluster.web_addresses, history)


async def connections_to_proxies(cluster: Cluster) -> int:
    """How many connections the proxies ever took, by their own count."""
    client = HttpClient(*cluster.webs[0].address)
    answer = await client.request("GET", "/status", headers={"Accept": "application/json"})
    client.close()
    storages = answer.body.index(b'"storages"')
    return sum(int(count) for count in re.findall(rb'"total_connections": ?"(\d+)"', answer.body[:storages]))


@asynccontextmanager
async def narrow_cluster(directory: Path, **options: object) -> AsyncIterator[Cluster]:
    """One web process and one proxy, so that everybody's reads share two connections."""
    async with Cluster(directory, nodes=3, proxies=1, webs=1, **options) as cluster:
        yield cluster


async def test_clients_that_hang_up_disturb_nobody_else(tmp_path, history, fault_seconds):
    async with narrow_cluster(tmp_path / "c") as cluster:
        before = await connections_to_proxies(cluster)

        await storm(cluster, history, fault_seconds or 4.0)

        history.check()
        stayed = [e for e in history.events if not e.client.startswith("leaver")]
        errors = [str(e) for e in stayed if e.outcome is not Outcome.OK]
        assert len(errors) <= max(1, len(stayed) // 1000), errors[:10]
        assert await connections_to_proxies(cluster) - before < 50
