"""A proxy's clients while the ring changes under them: real nodes, the product's mover, and a coordinator over real
connections, all in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from nodes.options import NodeOptions
from nodes.store import NodeStore
from proxy.cluster import Cluster, ClusterConfig, NodeAddress, open_cluster
from proxy.options import Options
from sfss.memcache.server import MemcacheServer
from sfss.ring_change.ending import Outcome
from sfss.ring_change.mover import Mover
from sfss.ring_change.node import Nodes
from sfss.ring_change.wire_node import WireNode
from sfss.ring_change.wish import Wish
from sfss.ring_plan import Change
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.settings import parse_address
from sfss.store import Identity, settled

HOST = "127.0.0.1"
PARTITIONS = 16


def quorum(nodes: int) -> tuple[int, int, int]:
    return min(3, nodes), min(2, nodes), min(2, nodes)


class Node:
    """A node's store and its server."""

    def __init__(self, store: NodeStore, server: MemcacheServer) -> None:
        self.store = store
        self.name = f"localhost:{server.port}"
        self.address = NodeAddress(HOST, server.port)

    @property
    def files(self) -> int:
        return int(self.store.stats()["curr_items"])


@contextlib.asynccontextmanager
async def running(folder: Path, count: int) -> AsyncIterator[list[Node]]:
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for index in range(count):
            store = await NodeStore.open(folder / f"node-{index}", NodeOptions(reserve_bytes=0))
            stack.push_async_callback(store.close)
            server = MemcacheServer(store)
            await server.start(HOST, 0)
            stack.push_async_callback(server.close, 0.1)
            nodes.append(Node(store, server))
        yield nodes


@contextlib.asynccontextmanager
async def opened(nodes: list[Node], state: Path | None) -> AsyncIterator[Cluster]:
    options = Options(deadline_s=20.0, node_deadline_s=5.0, compare_interval_s=0)
    config = ClusterConfig(
        tuple(node.address for node in nodes), partitions=PARTITIONS, state=state, founding_s=20.0, options=options
    )
    cluster = await open_cluster(config)
    try:
        yield cluster
    finally:
        await cluster.close()


async def change(founders: list[Node], wish: Change) -> Outcome:
    """What `sfss ring apply` does."""

    async def first(identities: dict[str, Identity]) -> RingRecord:
        members = tuple(RingMember(identities[node.name].node, node.name) for node in founders)
        return RingRecord(1, PARTITIONS, (Placement(members, *quorum(len(members)), 1),))

    def connect(name: str) -> WireNode:
        address = parse_address(name)
        return WireNode(address.host, address.port)

    nodes = Nodes(connect)
    try:
        return await Mover(nodes, [node.name for node in founders], first, say=print).apply(Wish(wish, quorum))
    finally:
        await nodes.close()


async def eventually(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


class Clients:
    """Write and read one key each, until they are told to stop; whatever isn't as it should be ends them."""

    def __init__(self, cluster: Cluster, count: int) -> None:
        self._cluster = cluster
        self._stop = False
        self.rounds = 0
        self._tasks = [asyncio.create_task(self._work(b"key/%d" % number)) for number in range(count)]

    async def _work(self, key: bytes) -> None:
        value = 0
        while not self._stop:
            value += 1
            await settled(self._cluster.coordinator.set(key, b"%d" % value))
            record = await settled(self._cluster.coordinator.get(key))
            assert record is not None
            assert record.value == b"%d" % value
            self.rounds += 1
            await asyncio.sleep(0.002)

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)


@pytest.mark.parametrize("direct", [False, True], ids=["with a state directory", "without"])
async def test_no_client_sees_an_error_while_a_node_is_replaced(tmp_path: Path, direct: bool) -> None:
    state = None if direct else tmp_path / "state"
    async with running(tmp_path, 4) as nodes, opened(nodes[:3], state) as cluster:
        for number in range(100):
            await settled(cluster.coordinator.set(b"file/%d" % number, b"still"))
        clients = Clients(cluster, 8)

        outcome = await change(nodes[:3], Change(replace={nodes[1].name: nodes[3].name}))
        rounds = clients.rounds
        while clients.rounds < rounds + 50:
            await asyncio.sleep(0.01)
        await clients.stop()

        assert outcome is Outcome.DONE
        assert cluster.coordinator.placed.number == 3
        await eventually(lambda: [node.files for node in nodes] == [108, 0, 108, 108])


async def test_a_cluster_of_one_grows_to_three_under_its_clients(tmp_path: Path) -> None:
    async with running(tmp_path, 3) as nodes, opened(nodes[:1], tmp_path / "state") as cluster:
        for number in range(100):
            await settled(cluster.coordinator.set(b"file/%d" % number, b"still"))
        clients = Clients(cluster, 8)

        outcome = await change(nodes[:1], Change(add=(nodes[1].name, nodes[2].name)))
        await clients.stop()

        assert outcome is Outcome.DONE
        written = await settled(cluster.coordinator.set(b"last", b"x"))
        assert written.copies == 3
        assert (await settled(cluster.coordinator.get(b"file/7"))).value == b"still"
        await eventually(lambda: [node.files for node in nodes] == [109] * 3)
