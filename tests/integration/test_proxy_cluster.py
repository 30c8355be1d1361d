"""A proxy over real connections: three nodes' servers, the proxy's own, and clients, all in this process."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.cluster import Cluster, ClusterConfig, NodeAddress, open_cluster
from proxy.options import Options
from sfss.errors import Outcome, QuorumUnavailable, SfssError, Unavailable
from sfss.memcache.client import MemcacheClient
from sfss.memcache.server import MemcacheServer
from sfss.memory import MemoryStore
from sfss.store import Call, settled
from tests.cluster.linearizability import linearizable

KEY = b"some/file"


class Nodes:
    """Three nodes' servers on loopback; one can be stopped, and started again with what it held."""

    def __init__(self, count: int, store: Callable[[str], MemoryStore]) -> None:
        self.stores = [store(f"n{index}") for index in range(count)]
        self.ports = [0] * count
        self._servers: list[MemcacheServer | None] = [None] * count

    async def start(self, index: int) -> None:
        server = MemcacheServer(self.stores[index])
        await server.start("127.0.0.1", self.ports[index])
        self.ports[index] = server.port
        self._servers[index] = server

    async def stop(self, index: int) -> None:
        server, self._servers[index] = self._servers[index], None
        if server is not None:
            await server.close(0.1)

    def config(self, **settings: object) -> ClusterConfig:
        addresses = tuple(NodeAddress("127.0.0.1", port) for port in self.ports)
        return ClusterConfig(addresses, partitions=64, **settings)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def running(
    count: int = 3, store: Callable[[str], MemoryStore] = lambda name: MemoryStore(node=name, durable=True)
) -> AsyncIterator[Nodes]:
    nodes = Nodes(count, store)
    for index in range(count):
        await nodes.start(index)
    try:
        yield nodes
    finally:
        for index in range(count):
            await nodes.stop(index)


@contextlib.asynccontextmanager
async def opened(nodes: Nodes, **settings: object) -> AsyncIterator[Cluster]:
    cluster = await open_cluster(nodes.config(**settings))
    try:
        yield cluster
    finally:
        await cluster.close()


@contextlib.asynccontextmanager
async def served(cluster: Cluster) -> AsyncIterator[MemcacheClient]:
    """A client of the coordinator behind a server, as the web tier is one."""
    server = MemcacheServer(cluster.coordinator)
    await server.start("127.0.0.1", 0)
    client = MemcacheClient("127.0.0.1", server.port)
    try:
        yield client
    finally:
        await client.close()
        await server.close(1.0)


async def noticed(cluster: Cluster, client: MemcacheClient, dead: int) -> None:
    """Send requests until so many nodes are known to be down."""
    async with asyncio.timeout(20):
        while sum(peer.down for peer in cluster.coordinator.placed.peers) < dead:
            with contextlib.suppress(SfssError):
                await client.set(b"another/file", b"x")


async def eventually(condition, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


async def test_files_go_in_and_out_through_the_proxy_and_lie_on_all_nodes(tmp_path):
    async with running() as nodes, opened(nodes, state=tmp_path) as cluster, served(cluster) as client:
        for size in (0, 1, 100, 4096, 100_000, 2 * 1024 * 1024):
            value = random.Random(size).randbytes(size)
            written = await client.set(b"file/%d" % size, value, flags=size % 7)
            record = await client.get(b"file/%d" % size)

            assert (record.value, record.flags, record.version) == (value, size % 7, written.version)
            assert (await client.head(b"file/%d" % size)).size == size
            assert written.copies == 3
            assert written.durable >= 2
        await eventually(lambda: all(len(store.records) == 6 for store in nodes.stores))
        assert nodes.stores[0].records == nodes.stores[1].records == nodes.stores[2].records


async def test_a_deleted_file_is_gone_and_deleting_it_again_finds_nothing(tmp_path):
    async with running() as nodes, opened(nodes, state=tmp_path) as cluster, served(cluster) as client:
        await client.set(KEY, b"there")

        assert (await client.delete(KEY)).durable >= 2
        assert await client.get(KEY) is None
        assert await client.delete(KEY) is None
        await eventually(lambda: all(store.records[KEY].tombstone for store in nodes.stores))


async def test_a_node_that_dies_is_not_noticed_and_used_again_when_it_is_back(tmp_path):
    async with running() as nodes, opened(nodes, state=tmp_path) as cluster, served(cluster) as client:
        await client.set(KEY, b"0")
        for index in range(3):
            await nodes.stop(index)
            for number in range(20):
                value = b"%d.%d" % (index, number)
                await client.set(KEY, value)
                assert (await client.get(KEY)).value == value
            await nodes.start(index)
            await eventually(lambda: cluster.coordinator.health.well)

        written = await client.set(KEY, b"all")

        assert written.copies == 3
        await eventually(lambda: all(store.records[KEY].value == b"all" for store in nodes.stores))


async def test_a_stale_node_is_repaired_by_reads(tmp_path):
    no_hints = Options(hint_round_s=1e6)
    async with (
        running() as nodes,
        opened(nodes, state=tmp_path, options=no_hints) as cluster,
        served(cluster) as client,
    ):
        await nodes.stop(0)
        keys = [b"key/%d" % number for number in range(50)]
        for key in keys:
            await client.set(key, b"new", flags=3)
        await nodes.start(0)
        await eventually(lambda: cluster.coordinator.health.well)

        for key in keys:
            assert (await client.get(key)).value == b"new"

        repaired = nodes.stores[0].records
        # Two others have the file: no read waits for a write-back, nor that for a connection which is yet to be opened.
        await eventually(lambda: len(repaired) > 10)
        assert all(record == nodes.stores[1].records[key] for key, record in repaired.items())


async def test_with_two_nodes_dead_writes_are_not_applied_and_reads_are_errors_not_misses(tmp_path):
    async with running() as nodes, opened(nodes, state=tmp_path) as cluster, served(cluster) as client:
        await client.set(KEY, b"there")
        for index in (0, 1):
            await nodes.stop(index)
        await noticed(cluster, client, dead=2)

        with pytest.raises(QuorumUnavailable):
            await client.get(KEY)
        with pytest.raises(QuorumUnavailable) as refused:
            await client.set(KEY, b"new")

        assert refused.value.outcome is Outcome.NOT_APPLIED
        assert nodes.stores[2].records[KEY].value == b"there"


async def test_with_no_node_at_all_the_client_is_told_at_once(tmp_path):
    async with running() as nodes, opened(nodes, state=tmp_path) as cluster, served(cluster) as client:
        for index in range(3):
            await nodes.stop(index)

        for _ in range(5):
            with pytest.raises(Unavailable, match="reached"):
                await client.get(KEY, Call())


@pytest.mark.parametrize("line", [b"add a 0 0 1\r\nx\r\n", b"incr a 1\r\n", b"touch a 1\r\n", b"ms a 1 C1\r\nx\r\n"])
async def test_what_needs_consensus_is_refused_in_words(tmp_path, line):
    async with running() as nodes, opened(nodes, state=tmp_path) as cluster:
        server = MemcacheServer(cluster.coordinator)
        await server.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

        writer.write(line)
        answer = await asyncio.wait_for(reader.readline(), 10)

        assert answer.startswith(b"SERVER_ERROR not supported here")
        writer.close()
        await server.close(1.0)


async def test_stats_tell_of_the_proxy_and_of_every_node_the_dead_one_as_dead(tmp_path):
    async with running() as nodes, opened(nodes, state=tmp_path) as cluster, served(cluster) as client:
        for number in range(10):
            await client.set(b"key/%d" % number, b"x")
        await nodes.stop(1)
        await noticed(cluster, client, dead=1)
        dead = next(peer.name for peer in cluster.coordinator.placed.peers if peer.down)

        # What two nodes have acknowledged may still be on its way to the third.
        async with asyncio.timeout(60):
            while (own := await client.stats())["curr_items"] != "11":
                await asyncio.sleep(0.1)
        storages = await client.stats("storages")

        assert own["quorum"] == "3/2/2"
        assert own[f"{dead}/state"] == "down"
        assert storages[f"{dead}/state"] == "dead"
        assert storages[f"{dead}/error"]
        living = {name.partition("/")[0] for name in storages} - {dead}
        assert all(storages[f"{node}/curr_items"] == "11" for node in living)


async def hot_key(stores: list[MemcacheClient] | list[object], clients: int, operations: int) -> None:
    """Let clients write and read one key, and judge what they saw."""
    history = []
    loop = asyncio.get_running_loop()
    errors: list[SfssError] = []

    async def work(number: int) -> None:
        rng = random.Random(number)
        store = stores[number % len(stores)]
        for step in range(operations):
            value = number * operations + step
            began = loop.time()
            try:
                if rng.random() < 0.5:
                    await settled(store.set(KEY, b"%d " % value * 100))
                    history.append((began, loop.time(), "w", value))
                else:
                    record = await settled(store.get(KEY))
                    seen = None if record is None else int(record.value.split(b" ", 1)[0])
                    history.append((began, loop.time(), "r", seen))
            except SfssError as error:
                errors.append(error)
                history.append((began, math.inf, "w", value))

    await asyncio.gather(*(work(number) for number in range(clients)))
    assert errors == []
    assert linearizable(history)


async def test_one_hot_key_through_one_proxy_gives_no_error_and_a_clean_history(tmp_path):
    async with running() as nodes, opened(nodes, state=tmp_path) as cluster, served(cluster) as client:
        await hot_key([client], clients=64, operations=25)


async def test_one_hot_key_through_four_coordinators_that_share_it_gives_no_error_and_a_clean_history():
    async with running() as nodes, contextlib.AsyncExitStack() as stack:
        options = Options(shared=True)
        clusters = [await stack.enter_async_context(opened(nodes, options=options)) for _ in range(4)]

        await hot_key([cluster.coordinator for cluster in clusters], clients=64, operations=15)
