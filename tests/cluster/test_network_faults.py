"""What the network between proxies and nodes can do: lose replies, stall, delay, cut in the middle of a reply."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.history import WRITES, History, Outcome
from tests.cluster.relay import Relay
from tests.cluster.values import make_value
from tests.cluster.workload import Client, Mix, Workload, keys_of, read_all

pytestmark = pytest.mark.slow

KEYS = [f"k{number}" for number in range(8)]
ANSWERED_S_MAX = 20.0
"""A read that enough nodes could answer isn't refused for longer, however busy the machine is."""
MIX = Mix(rest_s=0.02)


@asynccontextmanager
async def relayed_cluster(
    directory: Path, timeouts: tuple[float, float] = (1.0, 0.4), **options: object
) -> AsyncIterator[tuple[Cluster, list[Relay]]]:
    """3 nodes, each behind a relay for both proxies. `timeouts`: seconds for a request, and for one question to a node;
    short, so that a fault outlasts them."""
    settings = "timeout = {}\nnode_timeout = {}\n".format(*timeouts)
    web_settings = {
        "SFSS_STORAGE_PROXY_TIMEOUT_SECONDS": str(timeouts[0] + 0.5),
        "SFSS_STORAGE_PROXY_RETRY_AFTER_SECONDS": "0.25",
    }
    async with AsyncExitStack() as stack:
        relays = [Relay() for _ in range(3)]
        for relay in relays:
            await relay.start()
            stack.push_async_callback(relay.close)
        ports = [relay.port for relay in relays]
        cluster = Cluster(
            directory, nodes=3, node_ports=ports, proxy_settings=settings, web_settings=web_settings, **options
        )
        for relay, node in zip(relays, cluster.nodes, strict=True):
            relay.target = node.address
        yield await stack.enter_async_context(cluster), relays


async def lose_replies(
    cluster: Cluster, relays: list[Relay], history: History, seconds: float
) -> list[tuple[float, float]]:
    """Drop what nodes answer: of one node, then of two, in turns. Returns when two were unheard."""
    rng = random.Random(f"{history.seed} replies")
    unheard = []
    async with Workload(cluster.web_addresses, history, keys=KEYS, mix=MIX):
        for count in (1, 2, 1, 2):
            lossy = rng.sample(relays, count)
            for relay in lossy:
                relay.down.drop = True
            began = time.monotonic()
            await asyncio.sleep(seconds / 4)
            if count == 2:
                unheard.append((began, time.monotonic()))
            for relay in lossy:
                relay.heal()
            await asyncio.sleep(0.3)
    await cluster.ready()
    await read_all(cluster.web_addresses, history)
    return unheard


async def test_lost_replies_make_writes_unknown_and_never_acknowledged_or_wrong(tmp_path, history, fault_seconds):
    async with relayed_cluster(tmp_path / "c") as (cluster, relays):
        unheard = await lose_replies(cluster, relays, history, fault_seconds or 6.5)

        history.check()
        for began, ended in unheard:
            inside = [e for e in history.events if began + 0.1 < e.start and e.end < ended]
            assert not [str(e) for e in inside if e.kind in WRITES and e.outcome is Outcome.OK]
        unknown = [e for e in history.events if e.kind in WRITES and e.outcome is Outcome.UNKNOWN]
        assert unknown


async def lose_requests(cluster: Cluster, relays: list[Relay], history: History, seconds: float) -> None:
    """Drop what nodes are asked: first of all but one, so that writes reach that one alone; then readers meet it, then
    they don't. Each for longer than a request may take, or the proxies would just send again."""
    rng = random.Random(f"{history.seed} requests")
    until = time.monotonic() + seconds

    async def deafen(relays: list[Relay]) -> None:
        for relay in relays:
            relay.up.drop = True
        await asyncio.sleep(rng.uniform(0.5, 0.8))
        for relay in relays:
            relay.heal()

    async with Workload(cluster.web_addresses, history, keys=KEYS[:4], mix=MIX):
        while time.monotonic() < until:
            alone = rng.choice(relays)
            await deafen([relay for relay in relays if relay is not alone])
            await asyncio.sleep(rng.uniform(0.05, 0.3))
            await deafen([alone])
            await asyncio.sleep(rng.uniform(0, 0.3))
    await cluster.ready()
    await read_all(cluster.web_addresses, history)


async def test_lost_requests_leave_replicas_apart_and_readers_do_not_notice(tmp_path, history, fault_seconds):
    async with relayed_cluster(tmp_path / "c", (0.4, 0.2)) as (cluster, relays):
        await lose_requests(cluster, relays, history, fault_seconds or 6.0)

        history.check()
        assert sum(e.outcome is Outcome.OK for e in history.events) > len(history.events) / 4


async def read_half_made_writes(cluster: Cluster, relays: list[Relay], history: History) -> None:
    """Let writes reach one node only, read them, and read again from the other two. In the first round these are read
    before the one that has the writes: it is asked last from then on, so a write that was acknowledged for it alone is
    seen missing there only."""
    await cluster.settled()
    for alone in relays:
        keys = keys_of(f"half-{alone.port}", 24)
        users = [Client(f"user{n}", cluster.web_addresses, history, random.Random(n)) for n in range(len(keys))]

        async def all_read(users: list[Client] = users, keys: list[str] = keys) -> None:
            await asyncio.gather(*(read_until_answered(user, key) for user, key in zip(users, keys, strict=True)))

        async def all_write(users: list[Client] = users, keys: list[str] = keys) -> None:
            await asyncio.gather(*(user.put(key, 500) for user, key in zip(users, keys, strict=True)))

        try:
            await all_write()
            for relay in relays:
                relay.up.drop = relay is not alone
            await all_write()
            if alone is relays[0]:
                alone.up.drop = True
                for relay in relays[1:]:
                    relay.heal()
                await all_read()
            for relay in relays:
                relay.heal()
            await all_read()
            alone.up.drop = True
            await all_read()
            alone.heal()
        finally:
            for user in users:
                user.close()
        await cluster.ready()
        await asyncio.sleep(1)  # the proxies find out that the nodes are back
    await read_all(cluster.web_addresses, history)


async def read_until_answered(user: Client, key: str) -> None:
    async with asyncio.timeout(ANSWERED_S_MAX):
        while (await user.get(key)).outcome is not Outcome.OK:
            await asyncio.sleep(0.1)


async def test_a_write_that_only_one_node_has_is_not_unread_once_it_was_read(tmp_path, history):
    async with relayed_cluster(tmp_path / "c", (0.4, 0.2)) as (cluster, relays):
        await read_half_made_writes(cluster, relays, history)

        history.check()
        assert [e for e in history.events if e.kind in WRITES and e.outcome is Outcome.UNKNOWN]


async def arrive_late(cluster: Cluster, relays: list[Relay], history: History) -> None:
    """Hold a write back on its way to two nodes, until it was read from the third and replaced; then read from those
    two alone. It takes as long as it takes: nothing depends on how fast the machine is."""
    key = "late"
    ahead, *behind = relays
    writer, reader, replacer = [
        Client(name, [web], history, random.Random(name))
        for name, web in zip(("writer", "reader", "replacer"), cluster.web_addresses, strict=False)
    ]
    with closing(writer), closing(reader), closing(replacer):
        await writer.put(key, 500)
        late = history.next_number() + 1  # the next write's
        for relay in behind:
            relay.up.hold_back(make_value(key, late, 500))
        writing = asyncio.create_task(writer.put(key, 500))
        while any(relay.up.held_back for relay in behind):
            assert not writing.done(), f"it was never on its way: {writing.result()}"
            await asyncio.sleep(0.01)

        behind[0].up.stall()
        while (await reader.get(key)).value != late:
            await asyncio.sleep(0.01)
        behind[0].up.flow()
        while (await replacer.put(key, 500)).outcome is not Outcome.OK:
            await asyncio.sleep(0.1)

        for relay in behind:
            relay.up.let_go()
        await writing
        ahead.up.stall()
        for _ in range(3):
            await read_until_answered(reader, key)
        ahead.up.flow()


async def overtake(cluster: Cluster, relays: list[Relay], history: History, seconds: float) -> None:
    """Hold everything that nodes are asked back for a while of its own, so that it reaches each in another order."""
    for relay in relays:
        relay.up.delay_s = 0.03
    workload = Workload(cluster.web_addresses, history, keys=KEYS[:2], clients=24, mix=MIX, once=False)
    await workload.run(seconds)
    for relay in relays:
        relay.heal()
    await read_all(cluster.web_addresses, history)


async def test_writes_that_overtake_one_another_on_the_way_to_the_nodes_leave_the_history_clean(
    tmp_path, history, fault_seconds
):
    async with relayed_cluster(tmp_path / "c", webs=4, direct=True) as (cluster, relays):
        await overtake(cluster, relays, history, fault_seconds or 3.0)
        overtaken = history.begun()
        await arrive_late(cluster, relays, history)

        history.check()
        history.check_errors(at_most=0, among=overtaken)


async def test_stalls_delays_and_cuts_leave_the_history_clean(tmp_path, history, fault_seconds):
    rng = random.Random(f"{history.seed} network")

    def stall_up(relay):
        relay.up.stall()

    def stall_down(relay):
        relay.down.stall()

    def delay(relay):
        relay.up.delay_s, relay.down.delay_s = rng.uniform(0, 0.3), rng.uniform(0, 0.3)

    def cut(relay):
        relay.down.cut_after_bytes = rng.randint(1, 20_000)

    def reset(relay):
        relay.reset_all()

    async with relayed_cluster(tmp_path / "c") as (cluster, relays):
        until = time.monotonic() + (fault_seconds or 5.0)
        async with Workload(cluster.web_addresses, history, keys=KEYS, mix=MIX):
            while time.monotonic() < until:
                for relay in rng.sample(relays, rng.choice([1, 1, 2])):
                    rng.choice([stall_up, stall_down, delay, cut, cut, reset])(relay)
                await asyncio.sleep(rng.uniform(0.2, 0.8))
                for relay in relays:
                    relay.heal()
                await asyncio.sleep(0.2)
        await cluster.ready()
        await read_all(cluster.web_addresses, history)

        history.check()
        assert sum(e.outcome is Outcome.OK for e in history.events) > len(history.events) / 2
