"""Disks that fill up, report errors, or come back with a torn end."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

import pytest

from nodes.format import VOLUME_HEADER_BYTES, unpack_volume_header
from nodes.scan import Found, reader_of, walk
from sfss.memcache.client import MemcacheClient
from tests.cluster.cluster import Cluster
from tests.cluster.disks import SmallDisk, needs_root
from tests.cluster.history import WRITES, History, Outcome
from tests.cluster.parts import Part
from tests.cluster.strace import SYNCS, injected, needs_strace
from tests.cluster.workload import Client, Mix, Workload, keys_of, read_all

pytestmark = [pytest.mark.slow, pytest.mark.root, needs_root]

KEYS = keys_of("k")


# --- fsync errors --------------------------------------------------------------------------------------


def failing_syncs(part: Part, every: bool = True) -> AbstractContextManager[None]:
    """Makes the next sync of a running process fail with EIO, or every one from now on."""
    return injected(part, SYNCS, f"error=EIO:when=1{'+' if every else ''}")


@needs_strace
@pytest.mark.parametrize("every", [False, True], ids=["once", "for ever"])
async def test_a_node_whose_fsync_fails_leaves_and_the_cluster_goes_on(standing, history, every):
    victim = random.Random(history.seed).choice(standing.nodes)

    async with Workload(standing.web_addresses, history, keys=keys_of(f"fsync-{every}")):
        await asyncio.sleep(1)
        with failing_syncs(victim, every):
            status = await victim.ended(15)
        await victim.start()
        await asyncio.sleep(1)
    await read_all(standing.web_addresses, history)

    history.check()
    assert status > 0, "it did not end by itself with a failure"
    assert len(history.errors()) <= max(2, len(history.events) // 1000), [str(e) for e in history.errors()[:10]]


@needs_strace
async def test_no_write_is_acknowledged_that_two_of_three_nodes_could_not_sync(tmp_path, history):
    async with Cluster(tmp_path / "c", nodes=3) as cluster:
        victims = random.Random(history.seed).sample(cluster.nodes, 2)

        async with Workload(cluster.web_addresses, history, keys=KEYS, mix=Mix(rest_s=0.05)):
            await asyncio.sleep(1)
            with failing_syncs(victims[0]), failing_syncs(victims[1]):
                for victim in victims:
                    await victim.ended(15)
            both_gone = time.monotonic()
            await asyncio.sleep(1)
            before_restart = time.monotonic()
            for victim in victims:
                await victim.start()
        await cluster.ready()
        await read_all(cluster.web_addresses, history)

        history.check()
        without_quorum = [e for e in history.events if e.start > both_gone and e.end < before_restart]
        assert without_quorum
        assert not [str(e) for e in without_quorum if e.kind in WRITES and e.outcome is Outcome.OK]


# --- a torn end --------------------------------------------------------------------------------------------


def tear(directory: Path, count: int) -> Path:
    """Cut `count` bytes of data off the newest volume of a stopped node that has any."""
    for path in sorted((directory / "volumes").iterdir(), reverse=True):
        with path.open("r+b") as file:
            header = unpack_volume_header(file.read(VOLUME_HEADER_BYTES))
            if header is None:
                continue
            found = list(walk(reader_of(file.fileno()), header, 0, path.stat().st_size))
            # Behind the data is room: zeros, or what an earlier volume left in the file.
            end = max((one.end for one in found if isinstance(one, Found)), default=None)
            if end is not None:
                file.truncate(max(0, end - count))
                return path
    raise AssertionError(f"no records in {directory}")


async def test_a_torn_end_of_a_volume_is_cut_off_and_nothing_acknowledged_is_lost(standing, history, fault_seconds):
    rng = random.Random(history.seed)
    for number in range(int((fault_seconds or 8) / 2)):
        at_rest = number % 2
        node = rng.choice(standing.nodes)
        async with Workload(standing.web_addresses, history, keys=keys_of("torn")):
            await asyncio.sleep(1)
            if not at_rest:
                # What is cut off now was hardly in the index; after a rest, all of it is.
                await restart_torn(standing, node, rng)
        if at_rest:
            await indexed(node)
            await restart_torn(standing, node, rng)
            assert "lost" in node.tail(), "the node did not notice that indexed records are gone"
        await read_all(standing.web_addresses, history)
        await trust(standing, node)

    history.check()


async def indexed(node: Part) -> None:
    """Wait until all that a node has is in its index."""
    client = MemcacheClient(*node.address)
    async with asyncio.timeout(30):
        while (await client.stats())["unindexed_records"] != "0":
            await asyncio.sleep(0.05)
    await client.close()


async def trust(cluster: Cluster, node: Part) -> None:
    """Do as an operator who knows that the other replicas have all: have a node that lost its end answer again."""
    node.kill()
    command = [sys.executable, "-c", "from nodes.command import main; main()", "trust", cluster.data_of(node.name)]
    subprocess.run(command, check=True, capture_output=True)
    await node.start()
    await cluster.ready()


async def restart_torn(cluster: Cluster, node: Part, rng: random.Random) -> None:
    """Kill a node, tear its newest volume and start it again."""
    node.kill()
    # The others finish what they were told at the same time: one replica alone loses its end.
    await asyncio.sleep(0.3)
    tear(cluster.data_of(node.name), rng.randint(1, 5000))
    await node.start()
    await cluster.ready()


# --- rot -----------------------------------------------------------------------------------------------------


def rot(directory: Path, rng: random.Random, count: int) -> None:
    """Flip bits in the volumes and in the index of a stopped node."""
    for _ in range(count):
        path = rng.choice([file for file in directory.glob("*/*") if file.suffix in (".volume", ".mdb")])
        with path.open("r+b") as file:
            at = rng.randrange(path.stat().st_size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))


async def test_bits_that_flip_on_one_node_are_never_served_and_lose_nothing(standing, history, fault_seconds):
    rng = random.Random(history.seed)
    node = rng.choice(standing.nodes)
    for _ in range(int((fault_seconds or 6) / 3)):
        async with Workload(standing.web_addresses, history, keys=keys_of("rot"), mix=Mix(rest_s=0.02)):
            await asyncio.sleep(1)
            node.kill()
            rot(standing.data_of(node.name), rng, count=40)
            await node.start()
            await asyncio.sleep(0.5)
        await read_all(standing.web_addresses, history)
        await trust(standing, node)
        await read_all(standing.web_addresses, history)

    history.check()


# --- full disks -----------------------------------------------------------------------------------------------


async def test_full_disks_refuse_writes_and_go_on_reading_and_deleting(tmp_path, history):
    with ExitStack() as stack:
        disks = [stack.enter_context(SmallDisk(tmp_path / f"disk{number}", 192 << 20)) for number in range(3)]
        cluster = Cluster(
            tmp_path / "c", nodes=3, data={f"node-{number}": disk.path for number, disk in enumerate(disks)}
        )
        stack.callback(cluster.kill)
        async with cluster:
            await fill_and_free(cluster, disks, history)
            history.check()


async def fill_and_free(cluster: Cluster, disks: list[SmallDisk], history: History) -> None:
    rng = random.Random(history.seed)
    with closing(Client("user", cluster.web_addresses, history, rng)) as client:
        await fill_and_free_as(client, cluster, disks, rng)
    await read_all(cluster.web_addresses, history)


async def fill_and_free_as(client: Client, cluster: Cluster, disks: list[SmallDisk], rng: random.Random) -> None:
    history = client.history
    for number in range(60):
        await client.put(f"kept/{number}", 8192)

    # One full disk: the other two take every write.
    rng.shuffle(disks)
    disks[0].fill()
    since = time.monotonic()
    async with Workload(cluster.web_addresses, history, keys=KEYS):
        await asyncio.sleep(2)
    assert len(history.errors(since)) <= max(2, history.count(since) // 1000), [str(e) for e in history.errors(since)]

    # Two: writes are refused, once what was kept in reserve or taken ahead is used up.
    disks[1].fill()
    refused = [e for e in [await client.put(f"extra/{n}", 400_000) for n in range(400)] if e.outcome is not Outcome.OK]
    assert len(refused) > 50
    assert {e.status for e in refused[20:]} <= {507, 503}
    assert 507 in {e.status for e in refused}
    for number in range(60):
        assert (await client.get(f"kept/{number}")).outcome is Outcome.OK
    for number in range(30):
        assert (await client.delete(f"kept/{number}")).outcome is Outcome.OK
        assert (await client.get(f"kept/{number}")).status == 404

    # It heals by itself.
    for disk in disks:
        disk.free()
    freed = time.monotonic()
    while (await client.put("again", 10_000)).outcome is not Outcome.OK:
        assert time.monotonic() - freed < 45, "no write 45 s after there was room again; 15 s is the promise"
        await asyncio.sleep(0.5)
    print(f"writes were back {time.monotonic() - freed:.1f} s after there was room")
    async with Workload(cluster.web_addresses, history, keys=KEYS):
        await asyncio.sleep(1)
