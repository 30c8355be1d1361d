"""Hints over real connections: a node that was away ends up with what the others hold, and nobody has to read it."""

from __future__ import annotations

import random
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

from proxy.options import Options
from sfss.memory import MemoryStore
from tests.integration.test_proxy_cluster import eventually, noticed, opened, running, served
from tests.unit.test_comparison import TreeStore

OPTIONS = Options(hint_round_s=0.05)
KEYS = [b"key/%d" % number for number in range(200)]


def same(nodes):
    return nodes.stores[0].records == nodes.stores[1].records == nodes.stores[2].records


def figure(cluster, name):
    return int(cluster.coordinator.hints.figures(cluster.coordinator.placed.peers)[name])


async def test_a_node_that_was_away_gets_what_it_missed_without_a_read(tmp_path):
    async with (
        running() as nodes,
        opened(nodes, state=tmp_path, options=OPTIONS) as cluster,
        served(cluster) as client,
    ):
        rng = random.Random(1)
        for key in KEYS:
            await client.set(key, b"old")
        await nodes.stop(0)
        for key in KEYS[:100]:
            await client.set(key, rng.randbytes(rng.choice([0, 10, 5000])), flags=rng.randrange(9))
        for key in KEYS[100:150]:
            await client.delete(key)
        await client.set(KEYS[0], rng.randbytes(2 * 1024 * 1024))
        await eventually(lambda: figure(cluster, "hints_waiting") == 150)
        assert not same(nodes)

        await nodes.start(0)
        await eventually(lambda: same(nodes))

        await eventually(lambda: figure(cluster, "hints_waiting") == 0)
        assert figure(cluster, "hints_replayed") == 150
        assert figure(cluster, "hints_dropped") == 0
        assert cluster.coordinator.counters.write_backs == 0
        stats = await client.stats()
        assert stats["hints_replayed"] == "150"


async def test_hints_outlive_the_proxy(tmp_path):
    async with running() as nodes:
        async with opened(nodes, state=tmp_path, options=OPTIONS) as cluster, served(cluster) as client:
            await nodes.stop(1)
            for key in KEYS:
                await client.set(key, b"new")
        async with opened(nodes, state=tmp_path, options=OPTIONS) as cluster:
            assert figure(cluster, "hints_waiting") == len(KEYS)
            await nodes.start(1)
            await eventually(lambda: same(nodes))


async def test_a_coordinator_without_a_directory_keeps_hints_in_memory():
    async with running() as nodes, opened(nodes, options=OPTIONS) as cluster, served(cluster) as client:
        await client.set(b"first", b"x")
        await nodes.stop(2)
        for key in KEYS:
            await client.set(key, b"new")

        await nodes.start(2)

        await eventually(lambda: same(nodes))


async def test_what_there_was_no_room_for_is_found_by_comparison(tmp_path):
    compares = {"compare_interval_s": 0.0, "compare_settle_s": 0.3, "compare_retry_s": 0.5}
    options = replace(OPTIONS, hint_bytes_max=1, hint_flush_s=0.001, **compares)
    async with (
        running(store=lambda name: TreeStore(name, now=time.time)) as nodes,
        opened(nodes, state=tmp_path, options=options) as cluster,
        served(cluster) as client,
    ):
        await nodes.stop(0)
        for key in KEYS:
            await client.set(key, b"new")
        await eventually(lambda: figure(cluster, "hints_dropped") > 0)
        assert figure(cluster, "hints_waiting") + figure(cluster, "hints_dropped") == len(KEYS)

        await nodes.start(0)

        await eventually(lambda: same(nodes))


async def test_another_node_at_the_address_gets_none_and_the_right_one_all(tmp_path):
    async with (
        running() as nodes,
        opened(nodes, state=tmp_path, options=OPTIONS) as cluster,
        served(cluster) as client,
    ):
        await client.set(b"first", b"x")
        await nodes.stop(0)
        await noticed(cluster, client, dead=1)
        for key in KEYS:
            await client.set(key, b"new")
        right = nodes.stores[0]
        stranger = nodes.stores[0] = MemoryStore(node="stranger", durable=True)
        identity = right.identify()
        stranger.bind(identity.cluster, identity.ring, identity.fingerprint)
        await nodes.start(0)
        peer = next(peer for peer in cluster.coordinator.placed.peers if peer.name.endswith(f":{nodes.ports[0]}"))
        await eventually(lambda: "there was node" in peer.error)
        await eventually(lambda: figure(cluster, "hints_waiting") >= len(KEYS))
        await nodes.stop(0)
        assert stranger.records == {}

        nodes.stores[0] = right
        await nodes.start(0)

        await eventually(lambda: same(nodes))


async def test_a_damaged_file_of_hints_stops_no_proxy(tmp_path: Path):
    async with running() as nodes:
        async with opened(nodes, state=tmp_path, options=OPTIONS) as cluster, served(cluster) as client:
            await client.set(b"first", b"x")
            await eventually(lambda: same(nodes))
        (tmp_path / "hints").write_bytes(random.Random(1).randbytes(100_000))
        async with opened(nodes, state=tmp_path, options=OPTIONS) as cluster, served(cluster) as client:
            await nodes.stop(0)
            await client.set(b"second", b"x")
            await nodes.start(0)
            await eventually(lambda: same(nodes))


async def test_the_file_tells_what_waits_for_whom(tmp_path: Path):
    async with running() as nodes, opened(nodes, state=tmp_path, options=OPTIONS) as cluster, served(cluster) as client:
        await nodes.stop(0)
        await client.set(b"some/file", b"x")
        await eventually(lambda: figure(cluster, "hints_waiting") == 1)
        await cluster.coordinator.hints.flush()

        database = sqlite3.connect(tmp_path / "hints")
        rows = database.execute("SELECT node, key FROM hint").fetchall()
        database.close()

        assert rows == [("n0", b"some/file")]
