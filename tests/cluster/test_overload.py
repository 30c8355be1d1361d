"""More than there is room for: bodies, connections, open files. Whoever is too much is told at once, memory stays
bounded, and it is over as soon as they leave."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.history import Event, History, Outcome
from tests.cluster.http_client import Answer, HttpClient, NoAnswer, NotSent, file_target
from tests.cluster.parts import Part
from tests.cluster.values import make_value
from tests.cluster.workload import Address, Mix, Workload, keys_of, read_all

pytestmark = [pytest.mark.slow, pytest.mark.alone]

MIB = 1 << 20
BODY_BYTES = 2 * MIB
CAPACITY_BYTES = 64 * MIB
"""Of bodies, in the web process."""
CLIENTS = 4 * CAPACITY_BYTES // BODY_BYTES


@asynccontextmanager
async def memory_of(parts: list[Part]) -> AsyncIterator[dict[str, int]]:
    """By how many bytes each part has grown at most, counting from now."""
    before = {part.name: part.anonymous_bytes for part in parts}
    grown = dict.fromkeys(before, 0)

    async def look() -> None:
        while True:
            for part in parts:
                grown[part.name] = max(grown[part.name], part.anonymous_bytes - before[part.name])
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    try:
        yield grown
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
    print(", ".join(f"{name} grew by {count / MIB:.0f} MiB" for name, count in grown.items()))


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    retry_after: str
    seconds: float
    unsent: bool
    """Whether it came before the body was sent."""


async def flood(name: str, web: Address, history: History, until: float, *, ask_first: bool = False) -> list[Refusal]:
    """Send bodies one after the other over one connection at a time, whatever the answers; with `ask_first` ask before
    each whether it may come, as curl does, until it may. Returns the refusals."""
    refused: list[Refusal] = []
    number = 0
    with closing(HttpClient(*web)) as client:
        while time.monotonic() < until:
            if not number:
                number = history.next_number()
                key = f"flood/{number % 8}"
                body = make_value(key, number, BODY_BYTES)
            await asyncio.sleep(0.01)
            start = time.monotonic()
            answer: Answer | None = None
            note = ""
            try:
                answer = await client.request("PUT", file_target(key), body, seconds=30, ask_first=ask_first)
            except (NotSent, NoAnswer) as error:
                note = str(error)
            end = time.monotonic()
            outcome = Outcome.UNKNOWN
            if answer is not None and answer.status == 200:
                outcome = Outcome.OK
            elif answer is not None:
                retry_after = answer.headers.get("retry-after", "")
                refused.append(Refusal(answer.status, retry_after, end - start, answer.unsent))
                if answer.unsent:
                    continue  # to make another one would take longer than all of this
                if answer.headers.get("sfss-outcome") == "not-applied":
                    outcome = Outcome.FAIL
            status, tag = (answer.status, answer.headers.get("etag", "")) if answer is not None else (0, "")
            history.add(Event(name, key, "put", start, end, outcome, number, status, tag, note=note))
            number = 0
    return refused


async def test_four_times_the_bodies_there_is_room_for_are_refused_at_once_and_memory_stays_bounded(
    tmp_path, history, fault_seconds
):
    settings = {"SFSS_BODY_MEMORY_MAX": str(CAPACITY_BYTES)}
    async with Cluster(
        tmp_path / "c", nodes=3, proxies=1, webs=1, web_settings=settings, node_options=("--volume-mib", "64")
    ) as cluster:
        web = cluster.webs[0]

        seconds = (fault_seconds or 3.0) / 2
        async with memory_of(cluster.parts) as grown:
            began = time.monotonic()
            rude = await asyncio.gather(
                *(flood(f"rude{number}", web.address, history, began + seconds) for number in range(CLIENTS))
            )
            halfway = time.monotonic()
            polite = await asyncio.gather(
                *(
                    flood(f"polite{number}", web.address, history, halfway + seconds, ask_first=True)
                    for number in range(CLIENTS)
                )
            )
        over = time.monotonic()
        async with Workload([web.address], history, keys=keys_of("after")):
            await asyncio.sleep(1)
        await read_all([web.address], history, at_once=2)

        history.check()
        refused = [one for of_client in (*rude, *polite) for one in of_client]
        done = [e for e in history.events if e.end < over and e.outcome is Outcome.OK]
        # Of those that asked first: to send a body takes this busy test as long as the server.
        refused_s = statistics.median(one.seconds for of_client in polite for one in of_client if one.unsent)
        done_s = statistics.median(e.end - e.start for e in done if e.start > halfway)
        print(f"{len(refused)} refused, half within {refused_s:.2f} s; {len(done)} done, half within {done_s:.2f} s")
        assert refused_s < done_s / 2, "whoever is refused waits for nothing that others wait for"
        assert all(one.retry_after.isdigit() for one in refused)
        # 504: let in, and too slow on a machine as busy as this.
        assert {503} <= {one.status for one in refused} <= {503, 504}
        assert len(done) > 10
        assert max(grown.values()) < 2.5 * CAPACITY_BYTES, grown
        history.check_errors(at_most=0, among=history.begun(over))


# --- connections and open files ------------------------------------------------------------------------------


@asynccontextmanager
async def idle_crowd(address: Address, count: int) -> AsyncIterator[None]:
    """So many connections that say nothing. Those that the server doesn't take are closed by it."""
    sockets: list[socket.socket] = []

    def come() -> None:
        for _ in range(count):
            with contextlib.suppress(ConnectionError):
                sockets.append(socket.create_connection(address, timeout=10))

    try:
        await asyncio.to_thread(come)
        yield
    finally:
        for one in sockets:
            one.close()


TOO_MANY = {
    "web": b"HTTP/1.1 503 Service Unavailable\r\n",
    "proxy": b"SERVER_ERROR too many connections\r\n",
    "node": b"SERVER_ERROR too many connections\r\n",
}
ASKED = {"web": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "proxy": b"version\r\n", "node": b"version\r\n"}


async def served(part: Part) -> bool:
    """Whether a client that comes now is served. One that is not is told why, or, among very many, closed without a
    word; none is left waiting."""
    tier = part.name.partition("-")[0]
    reader, writer = await asyncio.open_connection(*part.address)
    try:
        async with asyncio.timeout(10):
            writer.write(ASKED[tier])
            answer = await reader.read(1000)
    except ConnectionError:
        return False
    finally:
        writer.transport.abort()
    if not answer or TOO_MANY[tier] in answer:
        return False
    assert answer.startswith((b"HTTP/1.1 200 ", b"VERSION ")), answer
    return True


async def crowd_everywhere(cluster: Cluster, history: History, count: int) -> None:
    """Have so many idle connections at a web process, then at a proxy, then at a node, beside clients that were there
    before; each time newcomers are refused, and served again once the crowd has left."""
    web = cluster.webs[0].address
    async with Workload([web], history, keys=keys_of(f"crowd-{count}"), mix=Mix(rest_s=0.02), once=False):
        await asyncio.sleep(0.5)
        for part in (cluster.webs[0], cluster.proxies[0], cluster.nodes[0]):
            async with memory_of([part]) as grown, idle_crowd(part.address, count):
                began = time.monotonic()
                assert not await served(part)
                refused_s = time.monotonic() - began
            left = time.monotonic()
            while not await served(part):
                assert time.monotonic() - left < 20, f"{part.name} serves nobody 20 s after the crowd has left"
                await asyncio.sleep(0.02)
            print(
                f"{part.name}: refused after {refused_s:.3f} s, served {time.monotonic() - left:.3f} s after the crowd"
            )
            assert grown[part.name] < 64 * MIB
    await read_all([web], history)

    history.check()
    history.check_errors()


async def test_with_few_files_to_open_every_tier_refuses_newcomers_and_serves_whom_it_has(tmp_path, history):
    cluster = Cluster(tmp_path / "c", nodes=3, proxies=1, webs=1)
    for part in cluster.parts:
        part.prefix = ["prlimit", "--nofile=256:256"]
    async with cluster:
        await crowd_everywhere(cluster, history, 400)


async def test_ten_thousand_idle_connections_cost_little_memory_and_disturb_nobody(tmp_path, history):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        async with Cluster(tmp_path / "c", nodes=3, proxies=1, webs=1) as cluster:
            await crowd_everywhere(cluster, history, min(10_000, hard - 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
