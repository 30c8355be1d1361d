"""Nodes that come back with an old copy of their directory, or an empty one, over real connections: what coordinators
with and without a memory of their own make of them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from memcache_tier import HOST

from nodes.options import NodeOptions
from nodes.store import NodeStore
from proxy.cluster import Cluster, ClusterConfig, NodeAddress, open_cluster
from proxy.options import Options
from proxy.peer import Peer
from sfss.backup.wire_node import WireNodes
from sfss.errors import Recovering
from sfss.memcache.acquaintance import Acquaintance
from sfss.memcache.server import MemcacheServer
from sfss.ring_change.wire_node import WireNode
from sfss.ring_keeper import Promised
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.store import settled

KEY = b"some/file"
FORGETFUL = 1
PARTITIONS = 64


class Nodes:
    """Three nodes with directories below one folder; each can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.homes = [folder / f"node-{number}" for number in range(3)]
        self.ports = [0, 0, 0]
        self._running: dict[int, tuple[NodeStore, MemcacheServer]] = {}

    async def start(self, number: int) -> None:
        store = await NodeStore.open(self.homes[number], replace(NodeOptions(), reserve_bytes=0))
        server = MemcacheServer(store)
        await server.start(HOST, self.ports[number])
        self.ports[number] = server.port
        self._running[number] = (store, server)

    async def stop(self, number: int) -> None:
        store, server = self._running.pop(number)
        await server.close(0.1)
        await store.close()

    async def restart(self, number: int, between: Callable[[Path], object] = lambda home: None) -> None:
        await self.stop(number)
        await asyncio.to_thread(between, self.homes[number])
        await self.start(number)

    async def close(self) -> None:
        for number in list(self._running):
            await self.stop(number)

    @contextlib.asynccontextmanager
    async def coordinator(self, state: Path | None = None) -> AsyncIterator[Cluster]:
        addresses = tuple(NodeAddress(HOST, port) for port in self.ports)
        options = Options(probe_s_max=0.2, compare_settle_s=0.5)
        cluster = await open_cluster(ClusterConfig(addresses, partitions=PARTITIONS, state=state, options=options))
        try:
            yield cluster
        finally:
            await cluster.close()

    def peer(self, cluster: Cluster) -> Peer:
        """The one that forgets."""
        return next(peer for peer in cluster.coordinator.placed.peers if str(self.ports[FORGETFUL]) in peer.name)

    async def teach_a_later_ring(self) -> None:
        """The nodes are at ring 3, which has the same members as the first one."""
        members = []
        for number, (store, _) in sorted(self._running.items()):
            members.append(RingMember(store.identify().node, f"localhost:{self.ports[number]}"))
        record = RingRecord(3, PARTITIONS, (Placement(tuple(members), 3, 2, 2, 1),))
        for store, _ in self._running.values():
            await settled(store.learn_ring(record))

    def sees(self, number: int) -> int:
        """How many other nodes a node keeps in mind."""
        return len(self._running[number][0].witness(()))  # type: ignore[arg-type]  # at hand


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Nodes]:
    nodes = Nodes(folder)
    for number in range(3):
        await nodes.start(number)
    try:
        yield nodes
    finally:
        await nodes.close()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


def copy(home: Path) -> None:
    shutil.copytree(home, home.with_name("copy"))


def put_back(home: Path) -> None:
    shutil.rmtree(home)
    home.with_name("copy").rename(home)


async def with_a_copy_and_a_file_that_it_lacks(nodes: Nodes, state: Path | None) -> None:
    async with nodes.coordinator(state) as cluster:
        await nodes.restart(FORGETFUL, copy)
        await eventually(lambda: cluster.coordinator.health.well)
        await settled(cluster.coordinator.set(KEY, b"there"))
        await eventually(lambda: all(nodes.sees(number) == 2 for number in range(3)))


async def test_a_coordinator_that_remembers_finds_an_old_copy_at_its_start_and_refills_it(tmp_path):
    async with running(tmp_path) as nodes:
        await with_a_copy_and_a_file_that_it_lacks(nodes, tmp_path / "state")
        await nodes.restart(FORGETFUL, put_back)

        async with nodes.coordinator(tmp_path / "state") as cluster:
            peer = nodes.peer(cluster)
            assert peer.suspect
            await eventually(lambda: not peer.suspect)
            assert (await settled(peer.replica.read(KEY))).value == b"there"


async def test_one_that_remembers_nothing_hears_of_it_from_the_other_nodes_before_it_serves(tmp_path):
    async with running(tmp_path) as nodes:
        await with_a_copy_and_a_file_that_it_lacks(nodes, None)
        await nodes.restart(FORGETFUL, put_back)

        async with nodes.coordinator() as cluster:
            assert nodes.peer(cluster).suspect


async def test_one_that_remembers_nothing_has_an_empty_node_take_its_place_and_refills_it(tmp_path):
    async with running(tmp_path) as nodes:
        await with_a_copy_and_a_file_that_it_lacks(nodes, None)
        await nodes.restart(FORGETFUL, shutil.rmtree)

        async with nodes.coordinator() as cluster:
            peer = nodes.peer(cluster)
            assert peer.down
            await eventually(lambda: peer.suspect and not peer.down)
            await eventually(lambda: not peer.suspect)
            assert (await settled(peer.replica.read(KEY))).value == b"there"
            assert cluster.coordinator.health.well


async def test_an_empty_node_that_takes_its_place_is_taught_the_ring_that_the_others_are_at(tmp_path):
    async with running(tmp_path) as nodes:
        async with nodes.coordinator(tmp_path / "state"):
            await nodes.teach_a_later_ring()
        async with nodes.coordinator(tmp_path / "state") as cluster:
            assert cluster.coordinator.placed.number == 3
            await settled(cluster.coordinator.set(KEY, b"there"))
            await nodes.restart(FORGETFUL, shutil.rmtree)
            await settled(cluster.coordinator.set(KEY, b"new"))  # so that it is missed
            peer = nodes.peer(cluster)

            await eventually(lambda: peer.suspect and not peer.down)
            await eventually(lambda: not peer.suspect)

            assert (await settled(peer.replica.identify())).ring == 3
            assert (await settled(peer.replica.read(KEY))).value == b"new"


async def test_a_backup_which_remembers_nothing_takes_no_word_of_an_old_copy(tmp_path):
    async with running(tmp_path) as nodes:
        await with_a_copy_and_a_file_that_it_lacks(nodes, None)
        await nodes.restart(FORGETFUL, put_back)
        met = WireNodes()
        try:
            await met.meet([met.node_at(f"{HOST}:{port}") for port in nodes.ports])

            for number, port in enumerate(nodes.ports):
                if number == FORGETFUL:
                    with pytest.raises(Recovering):
                        await met.node_at(f"{HOST}:{port}").hashes(b"")
                else:
                    await met.node_at(f"{HOST}:{port}").hashes(b"")
        finally:
            await met.close()


async def test_a_backup_takes_no_word_of_a_copy_that_is_put_back_beside_it(tmp_path):
    async with running(tmp_path) as nodes:
        await with_a_copy_and_a_file_that_it_lacks(nodes, None)
        met = WireNodes()
        try:
            await met.meet([met.node_at(f"{HOST}:{port}") for port in nodes.ports])
            forgetful = met.node_at(f"{HOST}:{nodes.ports[FORGETFUL]}")
            await forgetful.hashes(b"")
            await nodes.restart(FORGETFUL, put_back)

            with pytest.raises(Recovering):
                await forgetful.hashes(b"")
        finally:
            await met.close()


async def test_an_old_copy_has_no_say_on_the_ring_with_a_mover_which_remembers_nothing(tmp_path):
    async with running(tmp_path) as nodes:
        await with_a_copy_and_a_file_that_it_lacks(nodes, None)
        await nodes.restart(FORGETFUL, put_back)
        company: list[Acquaintance] = []
        met = [WireNode(HOST, port, company=company) for port in nodes.ports]
        try:
            await asyncio.gather(*(node.identify() for node in met))

            with pytest.raises(Recovering):
                await met[FORGETFUL].prepare(2, 1)
            assert isinstance(await met[0].prepare(2, 1), Promised)
        finally:
            await asyncio.gather(*(node.close() for node in met))


async def test_a_mover_takes_no_word_of_an_old_copy_that_it_meets_last(tmp_path):
    async with running(tmp_path) as nodes:
        await with_a_copy_and_a_file_that_it_lacks(nodes, None)
        await nodes.restart(FORGETFUL, put_back)
        company: list[Acquaintance] = []
        met = [WireNode(HOST, port, company=company) for port in nodes.ports]
        try:
            # It is away when the mover looks at the nodes, and back when they are listed.
            await asyncio.gather(*(node.identify() for node in met if node is not met[FORGETFUL]))

            with pytest.raises(Recovering):
                await met[FORGETFUL].hashes(b"")
            with pytest.raises(Recovering):
                await met[FORGETFUL].prepare(2, 1)
        finally:
            await asyncio.gather(*(node.close() for node in met))
