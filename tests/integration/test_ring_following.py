"""A coordinator whose cluster's ring changes, over real connections. Whoever changes it is played by the test: it
teaches nodes a ring, copies files, and teaches them the next one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.cluster import Cluster, ClusterConfig, NodeAddress, open_cluster
from proxy.options import Options
from sfss.errors import SetupError, SfssError
from sfss.memcache.server import MemcacheServer
from sfss.memory import MemoryStore
from sfss.ring_keeper import HeldRing, KeptRing
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.store import settled

KEYS = [b"file/%d" % number for number in range(40)]
PARTITIONS = 64


class Nodes:
    """Nodes' servers on loopback, of which the first `configured` found the cluster."""

    def __init__(self, count: int, configured: int) -> None:
        self.stores = [MemoryStore(node=f"{index:032x}", durable=True) for index in range(count)]
        self.ports = [0] * count
        self.configured = configured
        self._servers: dict[int, MemcacheServer] = {}

    async def start(self, index: int) -> None:
        server = MemcacheServer(self.stores[index])
        await server.start("127.0.0.1", self.ports[index])
        self.ports[index] = server.port
        self._servers[index] = server

    async def stop(self, index: int) -> None:
        await self._servers.pop(index).close(0.1)

    async def stop_all(self) -> None:
        for index in list(self._servers):
            await self.stop(index)

    def connections(self, index: int) -> int:
        return int(self._servers[index].service.figures()["curr_connections"])

    def config(self, state: Path | None, nodes: list[int] | None = None) -> ClusterConfig:
        indexes = nodes or list(range(self.configured))
        addresses = tuple(NodeAddress("127.0.0.1", self.ports[index]) for index in indexes)
        options = Options(deadline_s=3.0, node_deadline_s=1.0, probe_s_max=0.1, compare_interval_s=0)
        return ClusterConfig(addresses, partitions=PARTITIONS, state=state, founding_s=10.0, options=options)

    def placement(self, *indexes: int) -> Placement:
        members = tuple(RingMember(f"{index:032x}", f"localhost:{self.ports[index]}") for index in indexes)
        return Placement(members, min(len(members), 3), min(len(members), 2), min(len(members), 2), 1)

    def bind(self, *indexes: int) -> None:
        """Take nodes into the cluster."""
        cluster = self.stores[0].identify()
        for index in indexes:
            self.stores[index].bind(cluster.cluster, 1, cluster.fingerprint)

    def teach(self, record: RingRecord, *indexes: int) -> None:
        """Nodes learn a ring. Those of no cluster are bound to this one before."""
        self.bind(*indexes)
        for index in indexes:
            self.stores[index].learn_ring(record)

    def fill(self) -> None:
        """Every node gets the newest of everything."""
        for store in self.stores:
            for other in self.stores:
                for key, record in other.records.items():
                    store.apply(key, record)

    def rings(self) -> list[int]:
        return [store.identify().ring for store in self.stores]


@contextlib.asynccontextmanager
async def running(count: int, configured: int = 3) -> AsyncIterator[Nodes]:
    nodes = Nodes(count, configured)
    for index in range(count):
        await nodes.start(index)
    try:
        yield nodes
    finally:
        await nodes.stop_all()


@contextlib.asynccontextmanager
async def opened(nodes: Nodes, state: Path | None, named: list[int] | None = None) -> AsyncIterator[Cluster]:
    cluster = await open_cluster(nodes.config(state, named))
    try:
        yield cluster
    finally:
        await cluster.close()


async def eventually(condition, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


async def write_all(cluster: Cluster, value: bytes) -> None:
    for key in KEYS:
        await settled(cluster.coordinator.set(key, value))


async def read_all(cluster: Cluster) -> set[bytes]:
    records = [await settled(cluster.coordinator.get(key)) for key in KEYS]
    return {record.value for record in records if record is not None} | ({b"missing"} if None in records else set())


async def test_a_node_joins_and_another_leaves_and_no_request_fails(tmp_path: Path) -> None:
    async with running(4) as nodes, opened(nodes, tmp_path) as cluster:
        await write_all(cluster, b"one")
        old, new = nodes.placement(0, 1, 2), nodes.placement(1, 2, 3)

        nodes.bind(3)

        nodes.teach(RingRecord(2, PARTITIONS, (old, new)), 1)
        await write_all(cluster, b"two")

        assert cluster.coordinator.placed.joint
        assert await read_all(cluster) == {b"two"}
        await eventually(lambda: nodes.rings() == [2, 2, 2, 2])

        nodes.fill()
        nodes.teach(RingRecord(3, PARTITIONS, (new,)), 3)
        await write_all(cluster, b"three")

        assert await read_all(cluster) == {b"three"}
        assert cluster.coordinator.placed.number == 3
        assert {peer.name for peer in cluster.coordinator.placed.peers} == {
            f"127.0.0.1:{port}" if port in nodes.ports[:3] else f"localhost:{port}" for port in nodes.ports[1:]
        }
        await eventually(lambda: nodes.rings()[1:] == [3, 3, 3])
        await eventually(lambda: not nodes.connections(0))
        assert all(nodes.stores[3].records[key].value == b"three" for key in KEYS)


async def test_one_node_becomes_three(tmp_path: Path) -> None:
    async with running(3, configured=1) as nodes, opened(nodes, tmp_path) as cluster:
        await write_all(cluster, b"one")
        old, new = nodes.placement(0), nodes.placement(0, 1, 2)

        nodes.teach(RingRecord(2, PARTITIONS, (old, new)), 0, 1, 2)
        await write_all(cluster, b"two")
        nodes.teach(RingRecord(3, PARTITIONS, (new,)), 0, 1, 2)

        written = await settled(cluster.coordinator.set(b"last", b"three"))
        assert (cluster.coordinator.placed.number, written.copies) == (3, 3)
        await nodes.stop(0)
        assert await read_all(cluster) == {b"two"}


async def test_a_later_ring_is_remembered_over_a_restart_that_finds_no_configured_node(
    tmp_path: Path,
) -> None:
    async with running(6) as nodes:
        async with opened(nodes, tmp_path) as cluster:
            await write_all(cluster, b"one")
            nodes.teach(RingRecord(2, PARTITIONS, (nodes.placement(0, 1, 2), nodes.placement(3, 4, 5))), *range(6))
            nodes.fill()
            nodes.teach(RingRecord(3, PARTITIONS, (nodes.placement(3, 4, 5),)), *range(6))
            assert await read_all(cluster) == {b"one"}
        for index in range(3):
            await nodes.stop(index)

        async with opened(nodes, tmp_path) as cluster:
            assert cluster.coordinator.placed.number == 3
            assert await read_all(cluster) == {b"one"}
            assert (await settled(cluster.coordinator.stats()))["ring_number"] == "3"


async def test_a_coordinator_that_slept_until_nobody_it_knew_was_left_learns_the_ring_from_the_configured_nodes(
    tmp_path: Path,
) -> None:
    async with running(6) as nodes:
        async with opened(nodes, tmp_path) as cluster:
            await write_all(cluster, b"one")
            nodes.teach(RingRecord(2, PARTITIONS, (nodes.placement(0, 1, 2), nodes.placement(3, 4, 5))), *range(6))
            assert await read_all(cluster) == {b"one"}
            nodes.fill()
        nodes.teach(RingRecord(3, PARTITIONS, (nodes.placement(0, 1, 2),)), 0, 1, 2)
        async with opened(nodes, tmp_path) as cluster:
            assert (cluster.coordinator.placed.number, len(cluster.coordinator.placed.peers)) == (3, 3)
        nodes.teach(RingRecord(5, PARTITIONS, (nodes.placement(3, 4, 5),)), *range(6))
        for index in range(3):
            await nodes.stop(index)

        async with opened(nodes, tmp_path, [0, 4]) as cluster:
            assert cluster.coordinator.placed.number == 5
            assert await read_all(cluster) == {b"one"}


async def test_a_coordinator_whose_known_nodes_are_all_gone_serves_once_a_configured_one_that_has_the_ring_comes(
    tmp_path: Path,
) -> None:
    async with running(6) as nodes:
        async with opened(nodes, tmp_path) as cluster:
            await write_all(cluster, b"one")
            nodes.teach(RingRecord(2, PARTITIONS, (nodes.placement(0, 1, 2), nodes.placement(3, 4, 5))), *range(6))
            nodes.fill()
            assert await read_all(cluster) == {b"one"}
        nodes.teach(RingRecord(3, PARTITIONS, (nodes.placement(0, 1, 2),)), 0, 1, 2)
        async with opened(nodes, tmp_path) as cluster:
            assert cluster.coordinator.placed.number == 3
        nodes.teach(RingRecord(5, PARTITIONS, (nodes.placement(3, 4, 5),)), 3, 4, 5)
        for index in range(6):
            await nodes.stop(index)

        async with opened(nodes, tmp_path, [0, 4]) as cluster:
            with pytest.raises(SfssError):
                await read_all(cluster)
            for index in (3, 4, 5):
                await nodes.start(index)

            await eventually(lambda: cluster.coordinator.placed.number == 5 and cluster.coordinator.health.well)
            assert await read_all(cluster) == {b"one"}
            await eventually(lambda: nodes.connections(4) <= nodes.connections(5))


@pytest.mark.parametrize("named", [[0, 1, 2], [2], [2, 3, 4, 5]], ids=["founders", "one", "others"])
async def test_without_a_state_directory_the_ring_is_learnt_from_whoever_the_configuration_names(
    named: list[int],
) -> None:
    async with running(6) as nodes:
        async with opened(nodes, None) as cluster:
            await write_all(cluster, b"one")
        nodes.teach(RingRecord(2, PARTITIONS, (nodes.placement(0, 1, 2), nodes.placement(2, 3, 4))), *range(5))
        nodes.fill()

        async with opened(nodes, None, named) as cluster:
            assert (cluster.coordinator.placed.number, len(cluster.coordinator.placed.peers)) == (2, 5)
            assert await read_all(cluster) == {b"one"}


async def test_a_node_that_knows_the_number_of_its_ring_and_not_the_ring_keeps_no_coordinator_from_starting() -> None:
    async with running(4) as nodes:
        async with opened(nodes, None) as cluster:
            await write_all(cluster, b"one")
        nodes.teach(RingRecord(2, PARTITIONS, (nodes.placement(0, 1, 2), nodes.placement(0, 1, 3))), 1, 2, 3)
        nodes.stores[0]._keep(KeptRing(HeldRing(5, "lost")))

        async with opened(nodes, None) as cluster:
            assert cluster.coordinator.placed.number == 2
            assert await read_all(cluster) == {b"one"}


async def test_a_node_that_slept_through_a_change_is_taught_when_it_is_back(tmp_path: Path) -> None:
    async with running(4) as nodes, opened(nodes, tmp_path) as cluster:
        await write_all(cluster, b"one")
        await nodes.stop(2)
        nodes.teach(RingRecord(2, PARTITIONS, (nodes.placement(0, 1, 2), nodes.placement(0, 1, 3))), 0, 1, 3)
        await write_all(cluster, b"two")

        await nodes.start(2)

        await eventually(lambda: nodes.rings() == [2, 2, 2, 2])


async def test_a_node_with_another_ring_of_the_same_number_is_refused(tmp_path: Path) -> None:
    async with running(4) as nodes:
        async with opened(nodes, tmp_path) as cluster:
            await write_all(cluster, b"one")
            nodes.teach(RingRecord(2, PARTITIONS, (nodes.placement(0, 1, 2), nodes.placement(0, 1, 3))), 0, 1, 2, 3)
            assert await read_all(cluster) == {b"one"}
        other = RingRecord(2, PARTITIONS, (nodes.placement(0, 1, 2), nodes.placement(1, 2, 3)))
        nodes.stores[0]._keep(KeptRing(HeldRing.of(other)))

        with pytest.raises(SetupError, match="bound to another ring"):
            await open_cluster(nodes.config(tmp_path))
