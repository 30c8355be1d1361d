"""The web tier's store over proxies: which one a request goes to, and what happens when they die or fall silent."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from web_tier import SlowStore, eventually, request, web_tier

from sfss.errors import ConnectionLost, Expired, Outcome, QuorumUnavailable, Unavailable, Unreachable
from sfss.memcache.server import MemcacheServer
from sfss.memory import MemoryStore
from sfss.settings import Address
from sfss.store import NO_CALL, Call, Record, Written, settled
from sfss.web.proxies import ProxyRing
from sfss.web.retry_budget import RetryBudget
from sfss.web.status import DirectStatus, ProxiesStatus

HOST = "127.0.0.1"
RETRY_AFTER_S = 0.2


class Counted(MemoryStore):
    """Shares its records with other proxies, and knows which keys it was asked for."""

    def __init__(self, records: dict[bytes, Record]) -> None:
        super().__init__(durable=True)
        self.records = records
        self.reads: list[bytes] = []
        self.writes: list[bytes] = []
        self.shared: set[bytes] = set()

    def get(self, key: bytes, call: Call = Call()) -> Record | None:  # noqa: B008  a tuple, as in the contract
        self.reads.append(key)
        return super().get(key, call)

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = Call()) -> Written:  # noqa: B008
        self.writes.append(key)
        if call.shared:
            self.shared.add(key)
        return super().set(key, value, flags, expires, call)


class Cluster:
    """Proxies that share their files, each on a port of its own."""

    def __init__(self, count: int) -> None:
        records: dict[bytes, Record] = {}
        self.stores = [Counted(records) for _ in range(count)]
        self.servers: list[MemcacheServer | None] = [None] * count
        self.ports = [0] * count

    async def start(self, index: int) -> None:
        server = MemcacheServer(self.stores[index])
        await server.start(HOST, self.ports[index])
        self.ports[index] = server.port
        self.servers[index] = server

    async def kill(self, index: int) -> None:
        server = self.servers[index]
        if server is not None:
            self.servers[index] = None
            await server.close(grace_s=0)

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(Address(HOST, port) for port in self.ports)


@asynccontextmanager
async def cluster_of(count: int) -> AsyncIterator[Cluster]:
    cluster = Cluster(count)
    for index in range(count):
        await cluster.start(index)
    try:
        yield cluster
    finally:
        for index in range(count):
            await cluster.kill(index)


@asynccontextmanager
async def ring_over(
    addresses: tuple[Address, ...], timeout_s: float = 5.0, budget: RetryBudget | None = None
) -> AsyncIterator[ProxyRing]:
    ring = ProxyRing(
        addresses, retry_max=3, retry_after_s=RETRY_AFTER_S, timeout_s=timeout_s, budget=budget or RetryBudget(0.1)
    )
    await ring.start()
    try:
        yield ring
    finally:
        await ring.close()


Behaviour = Callable[[bytes, asyncio.StreamWriter], None]


@asynccontextmanager
async def strange_proxy(behave: Behaviour) -> AsyncIterator[Address]:
    """A proxy that says who it is, and then does with each line as it is told."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                if b"sfss-probe-" in line:
                    writer.write(b"EN\r\n")
                else:
                    behave(line, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield Address(HOST, server.sockets[0].getsockname()[1])
    finally:
        server.close()


def hang_up(line: bytes, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def say_nothing(line: bytes, writer: asyncio.StreamWriter) -> None:
    return


@asynccontextmanager
async def beside(behave: Behaviour, timeout_s: float = 5.0) -> AsyncIterator[tuple[Cluster, ProxyRing]]:
    """A ring of one strange proxy and a good one."""
    async with (
        strange_proxy(behave) as strange,
        cluster_of(1) as cluster,
        ring_over((strange, *cluster.addresses), timeout_s) as ring,
    ):
        yield cluster, ring


KEYS = [b"key-%d" % number for number in range(60)]


async def test_a_keys_writes_all_go_to_one_proxy_and_both_get_some() -> None:
    async with cluster_of(2) as cluster, ring_over(cluster.addresses) as ring:
        for _ in range(3):
            for key in KEYS:
                await settled(ring.set(key, b"value"))

    writers = [set(store.writes) for store in cluster.stores]
    assert writers[0] | writers[1] == set(KEYS)
    assert not writers[0] & writers[1]
    assert all(len(keys) > 10 for keys in writers)


async def test_reads_of_one_hot_key_are_spread_over_the_proxies() -> None:
    async with cluster_of(2) as cluster, ring_over(cluster.addresses) as ring:
        await settled(ring.set(b"hot", b"value"))
        replies = [ring.get(b"hot") for _ in range(100)]
        for reply in replies:
            record = await settled(reply)
            assert record is not None
            assert record.value == b"value"

    assert min(len(store.reads) for store in cluster.stores) > 30


async def test_after_a_proxy_died_no_request_begun_after_fails() -> None:
    async with cluster_of(2) as cluster, ring_over(cluster.addresses) as ring:
        for key in KEYS:
            await settled(ring.set(key, b"old"))
        await cluster.kill(0)

        for key in KEYS:
            assert (await settled(ring.set(key, b"new"))).version
            record = await settled(ring.get(key))
            assert record is not None
            assert record.value == b"new"
            assert await settled(ring.head(key)) is not None
        assert await settled(ring.delete(KEYS[0])) is not None


async def test_a_proxy_that_came_back_gets_its_writes_again() -> None:
    async with cluster_of(2) as cluster, ring_over(cluster.addresses) as ring:
        await cluster.kill(0)
        for key in KEYS:
            await settled(ring.set(key, b"value"))
        await cluster.start(0)

        async def used_again() -> bool:
            cluster.stores[0].writes.clear()
            for key in KEYS:
                await settled(ring.set(key, b"value"))
            return bool(cluster.stores[0].writes)

        async with asyncio.timeout(20):
            while not await used_again():
                await asyncio.sleep(0.05)


async def test_a_key_may_have_two_writers_until_every_web_process_has_turned_to_its_proxy() -> None:
    async with cluster_of(2) as cluster, ring_over(cluster.addresses, timeout_s=1.0) as ring:

        async def writes() -> list[tuple[set[bytes], set[bytes]]]:
            """Write every key; for each proxy those that it got, and those of them that came marked as shared."""
            for store in cluster.stores:
                store.writes.clear()
                store.shared.clear()
            for key in KEYS:
                await settled(ring.set(key, b"value"))
            return [(set(store.writes), set(store.shared)) for store in cluster.stores]

        async def nothing_is_shared() -> list[set[bytes]]:
            async with asyncio.timeout(30):
                while True:
                    at_each = await writes()
                    if not any(shared for _, shared in at_each):
                        return [written for written, _ in at_each]
                    await asyncio.sleep(0.05)

        assert all(written == shared for written, shared in await writes())
        first, second = await nothing_is_shared()
        await cluster.kill(0)
        assert await writes() == [(set(), set()), (first | second, first)]

        await cluster.start(0)
        await eventually(lambda: ring.up_count == 2)
        assert await writes() == [(first, first), (second, set())]
        assert await nothing_is_shared() == [first, second]


async def test_with_no_proxy_up_every_request_is_unreachable_at_once() -> None:
    async with cluster_of(2) as cluster, ring_over(cluster.addresses) as ring:
        await settled(ring.set(b"key", b"value"))
        for index in range(2):
            await cluster.kill(index)

        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(Unreachable) as read:
                await settled(ring.get(b"key"))
            with pytest.raises(Unreachable) as written:
                await settled(ring.set(b"key", b"value"))
            assert time.monotonic() - began < 5.0
            assert read.value.outcome is written.value.outcome is Outcome.NOT_APPLIED
            for address in cluster.addresses:
                assert str(read.value).count(f"{address}: Connection refused") == 1
                assert str(read.value).count(str(address)) == 1

        await cluster.start(1)

        async def answers() -> bool:
            try:
                return await settled(ring.get(b"key")) is not None
            except Unavailable:
                return False

        async with asyncio.timeout(20):
            while not await answers():
                await asyncio.sleep(0.05)


async def test_the_web_tier_may_start_before_its_proxies() -> None:
    cluster = Cluster(1)
    await cluster.start(0)
    await cluster.kill(0)
    async with ring_over(cluster.addresses) as ring:
        with pytest.raises(Unreachable):
            await settled(ring.get(b"key"))
        await cluster.start(0)
        await eventually(lambda: ring.up_count == 1)

        assert await settled(ring.get(b"key")) is None
        await cluster.kill(0)


async def test_a_server_that_is_no_memcache_at_all_is_left_out_and_asked_again() -> None:
    connections = 0

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b"x" * 100_000)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(babble, HOST, 0)
    address = Address(HOST, server.sockets[0].getsockname()[1])
    try:
        async with ring_over((address,)) as ring:
            with pytest.raises(Unreachable):
                await settled(ring.get(b"key"))
            await eventually(lambda: connections >= 3)

            with pytest.raises(Unreachable):
                await ProxiesStatus((address,), 5.0, {}).collect()
    finally:
        server.close()


async def test_a_write_in_flight_on_a_dying_proxy_is_unknown_and_not_sent_again() -> None:
    sent: list[bytes] = []

    def hang_up_on_writes(line: bytes, writer: asyncio.StreamWriter) -> None:
        if line.startswith(b"ms "):
            sent.append(line.split()[1])
            writer.transport.abort()

    async with beside(hang_up_on_writes) as (cluster, ring):
        outcomes = []
        for key in KEYS:
            try:
                await settled(ring.set(key, b"value"))
            except ConnectionLost as error:
                outcomes.append(error.outcome)

    assert outcomes
    assert set(outcomes) == {Outcome.UNKNOWN}
    assert len(sent) == len(outcomes)
    assert sorted(sent + cluster.stores[0].writes) == sorted(KEYS)


async def test_a_read_in_flight_on_a_dying_proxy_is_answered_by_another() -> None:
    async with beside(hang_up) as (_, ring):
        for key in KEYS:
            assert await settled(ring.get(key)) is None


async def test_a_proxy_that_falls_silent_is_left_out() -> None:
    async with beside(say_nothing, timeout_s=0.5) as (_, ring):
        for key in KEYS[:20]:
            assert await settled(ring.get(key, Call(time.monotonic() + 10))) is None
        assert ring.up_count == 1

        for key in KEYS:
            await settled(ring.set(key, b"value"))


async def test_a_write_to_a_silent_proxy_is_unknown() -> None:
    async with strange_proxy(say_nothing) as silent, ring_over((silent,), timeout_s=0.3) as ring:
        with pytest.raises(Expired) as error:
            await settled(ring.set(b"key", b"value", call=Call(time.monotonic() + 10)))

        assert error.value.outcome is Outcome.UNKNOWN


async def test_a_proxy_without_a_quorum_is_not_taken_for_a_dead_one() -> None:
    store = SlowStore()
    store.failure = QuorumUnavailable("1 of 2 replicas", Outcome.UNKNOWN)
    server = MemcacheServer(store)
    await server.start(HOST, 0)
    async with ring_over((Address(HOST, server.port),)) as ring:
        with pytest.raises(QuorumUnavailable) as error:
            await settled(ring.set(b"key", b"value"))
        assert error.value.outcome is Outcome.UNKNOWN
        assert ring.up_count == 1

        store.failure = Unreachable("no node")
        with pytest.raises(Unreachable):
            await settled(ring.get(b"key"))
        assert ring.up_count == 1
    await server.close(grace_s=0)


async def test_a_proxy_that_is_met_without_a_quorum_is_known_for_one_of_ours() -> None:
    store = SlowStore()
    store.failure = QuorumUnavailable("1 of 2 replicas")
    server = MemcacheServer(store)
    await server.start(HOST, 0)
    async with ring_over((Address(HOST, server.port),)) as ring:
        store.failure = None

        # A foreign server keeps no versions and says nothing of durability.
        assert (await settled(ring.set(b"key", b"value"))).version
        assert not ring.notes
    await server.close(grace_s=0)


async def test_a_request_that_is_too_late_is_not_sent() -> None:
    async with cluster_of(1) as cluster, ring_over(cluster.addresses) as ring:
        with pytest.raises(Expired) as error:
            await settled(ring.set(b"key", b"value", call=Call(time.monotonic() - 1)))

        assert error.value.outcome is Outcome.NOT_APPLIED
        assert cluster.stores[0].writes == []


# --- seen over HTTP ---


async def test_all_proxies_dead_is_504_for_files_and_for_status() -> None:
    async with cluster_of(2) as cluster, ring_over(cluster.addresses) as ring:
        status = ProxiesStatus(cluster.addresses, 1.0, ring.notes)
        async with web_tier(ring, status=status) as web:
            assert (await web.put("x", b"1")).status == 200
            for index in range(2):
                await cluster.kill(index)

            for reply in (
                await web.get("x"),
                await web.put("x", b"2"),
                await web.ask(request("DELETE", "/file?path=x")),
                await web.ask(request("GET", "/status")),
                await web.ask(request("GET", "/readyz")),
            ):
                assert reply.status == 504
            assert (await web.ask(request("GET", "/healthz"))).status == 200


async def test_status_without_a_proxy_names_each_with_its_reason_and_does_not_wait_for_those_that_refuse() -> None:
    async with cluster_of(2) as cluster, ring_over(cluster.addresses) as ring:
        for index in range(2):
            await cluster.kill(index)
        async with web_tier(ring, status=ProxiesStatus(cluster.addresses, 3600.0, ring.notes)) as web:
            reply = await web.ask(request("GET", "/status"))

    first, second = cluster.addresses
    assert (reply.status, json.loads(reply.body)["message"]) == (
        504,
        f"no proxy answers: {first}: Connection refused; {second}: Connection refused",
    )


async def test_status_without_a_node_names_each_with_its_reason() -> None:
    class NoNodes(MemoryStore):
        def stats(self, topic: str = "", call: Call = NO_CALL) -> dict[str, str]:
            return {
                "a:1/state": "dead",
                "a:1/error": "a:1: Connection refused",
                "b:2/state": "dead",
                "b:2/error": "late",
            }

    with pytest.raises(Unreachable) as error:
        await DirectStatus(NoNodes(), 1.0).collect()

    assert str(error.value) == "no node answers: a:1: Connection refused; b:2: late"


async def test_one_dead_proxy_is_shown_as_dead_and_delays_nothing() -> None:
    async with cluster_of(2) as cluster, strange_proxy(say_nothing) as silent, ring_over(cluster.addresses) as ring:
        addresses = (*cluster.addresses, silent)
        async with web_tier(ring, status=ProxiesStatus(addresses, 1.0, ring.notes)) as web:
            await web.put("x", b"1")
            await cluster.kill(0)
            status = await web.ask(request("GET", "/status"))
            figures = json_of(status.body)

    assert status.status == 200
    assert figures[str(addresses[0])]["state"] == "dead"
    assert figures[str(addresses[0])]["error"]
    assert figures[str(silent)]["state"] == "dead"
    living = figures[str(addresses[1])]
    assert living["state"] == "ok"
    names = "total_items curr_items rusage_user rusage_system rusage_maxrss curr_connections total_connections cmd_get "
    names += "cmd_set cmd_delete get_hits get_misses bytes_read bytes_written time pid uptime threads"
    assert set(names.split()) <= set(living)
    assert all(isinstance(value, str) for value in living.values())
    assert figures["storages"] == {}
    assert figures["webserver"]["requests_put"] == "1"


def json_of(body: bytes) -> dict[str, dict[str, str]]:
    parsed: dict[str, dict[str, str]] = json.loads(body)
    return parsed
