"""Disks that fill up, report errors, or come back with a torn end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

import pytest

from nodes.format import VOLUME_HEADER_BYTES, unpack_volume_header
from nodes.identity import IDENTITY
from nodes.ring_file import RING, RingFile, write_ring_file
from nodes.scan import Found, reader_of, walk
from nodes.small_file import read_small_file
from sfss.errors import SfssError
from sfss.ring_keeper import HeldRing, KeptRing
from tests.cluster.cluster import NODE_OPTIONS, Cluster, shared
from tests.cluster.disks import SmallDisk, needs_root
from tests.cluster.history import WRITES, History, Outcome
from tests.cluster.parts import Part
from tests.cluster.strace import SYNCS, injected, needs_strace, seconds_to_the_end
from tests.cluster.test_forgotten import QUICK, REFILLED_S_MAX
from tests.cluster.values import number_of
from tests.cluster.workload import Client, Mix, Workload, keys_of, read_all

pytestmark = [pytest.mark.slow, pytest.mark.root, needs_root]

KEYS = keys_of("k")


@pytest.fixture(scope="module")
def _refilling(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with shared(tmp_path_factory.mktemp("refilling"), nodes=3, proxies=1, webs=1, proxy_settings=QUICK) as cluster:
        yield cluster


@pytest.fixture
async def refilling(_refilling: Cluster) -> Cluster:
    """3 nodes that are refilled without delay, in one cluster for several tests. These damage the same node."""
    await _refilling.heal()
    return _refilling


# --- fsync errors --------------------------------------------------------------------------------------


LEAVES_S_MAX = 5.0
"""From the error to the end of the process. A second is the promise, and it takes some hundredths; the rest is for
machines that are busy with other things."""


def failing_syncs(part: Part, every: bool = True, trace: Path | str = "/dev/null") -> AbstractContextManager[None]:
    """Makes the next sync of a running process fail with EIO, or every one from now on."""
    return injected(part, SYNCS, f"error=EIO:when=1{'+' if every else ''}", trace)


@needs_strace
@pytest.mark.parametrize("every", [False, True], ids=["once", "for ever"])
async def test_a_node_whose_fsync_fails_leaves_at_once_and_the_cluster_goes_on(standing, history, every, tmp_path):
    trace = tmp_path / "trace"
    victim = random.Random(history.seed).choice(standing.nodes)

    async with Workload(standing.web_addresses, history, keys=keys_of(f"fsync-{every}")):
        await asyncio.sleep(1)
        with failing_syncs(victim, every, trace):
            status = await victim.ended(15)
        await victim.start()
        await asyncio.sleep(1)
    await read_all(standing.web_addresses, history)

    history.check()
    assert status > 0, "it did not end by itself with a failure"
    left_s = seconds_to_the_end(trace)
    print(f"it ended {left_s:.3f} s after the error")
    assert left_s < LEAVES_S_MAX
    history.check_errors()


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


async def test_a_torn_end_of_a_volume_is_noticed_and_what_it_had_is_brought_back(refilling, history, fault_seconds):
    rng = random.Random(history.seed)
    node = rng.choice(refilling.nodes)
    for number in range(max(1, int((fault_seconds or 4) / 4)) * 2):
        at_rest = number % 2
        async with Workload(refilling.web_addresses, history, keys=keys_of("torn")):
            await asyncio.sleep(1)
            if not at_rest:
                # What is cut off now was hardly in the index; after a rest, all of it is.
                told = await restart_torn(refilling, node, rng, at_rest=False)
                assert "torn end" in told or "may be missing" in told, told
        if at_rest:
            told = await restart_torn(refilling, node, rng, at_rest=True)
            assert "the index knows are lost" in told, told
            assert (await figures_of(node))["corrupt_records"] != "0"
        await read_all(refilling.web_addresses, history)
        await trusted(node)

    history.check()


async def figures_of(node: Part) -> dict[str, str]:
    client = node.client()
    try:
        return await client.stats()
    finally:
        await client.close()


async def indexed(node: Part) -> None:
    """Wait until all that a node has, and all that is on its way to the disk, is in its index."""
    quiet = 0
    async with asyncio.timeout(30):
        while quiet < 2:
            await asyncio.sleep(0.1)
            quiet = quiet + 1 if (await figures_of(node))["unindexed_records"] == "0" else 0


async def trusted(node: Part) -> None:
    """Wait until a node that knows that it forgot something got it back; start it where it asked for that."""
    give_up = time.monotonic() + REFILLED_S_MAX
    while True:
        assert time.monotonic() < give_up, f"{node.name} isn't refilled\n{node.tail()}"
        if not node.running:
            await node.start()
            assert "rebuilt from the volumes" in node.tail(), node.tail()
        with contextlib.suppress(SfssError):
            if (await figures_of(node))["state"] == "ok":
                return
        await asyncio.sleep(0.1)


async def restart_torn(cluster: Cluster, node: Part, rng: random.Random, *, at_rest: bool) -> str:
    """Kill a node, tear its newest volume and start it again. Returns what it said at its start. `at_rest`: once all
    that it has is in its index, and nothing can come any more, no hint and no repair either."""
    with ExitStack() as silence:
        if at_rest:
            for proxy in cluster.proxies:
                proxy.pause()
                silence.callback(proxy.resume)
            await indexed(node)
        node.kill()
    # The others finish what they were told at the same time: one replica alone loses its end.
    await asyncio.sleep(0.3)
    tear(cluster.data_of(node.name), rng.randint(1, 5000))
    before = node.log.stat().st_size
    await node.start()
    await cluster.ready()
    return node.log.read_text()[before:]


# --- rot -----------------------------------------------------------------------------------------------------


def flip(path: Path, at: int, rng: random.Random) -> None:
    """Flip one bit of a byte of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << rng.randrange(8)]))


def rot(directory: Path, rng: random.Random, count: int) -> None:
    """Flip bits anywhere in the volumes and in the index of a stopped node."""
    for _ in range(count):
        path = rng.choice([file for file in directory.glob("*/*") if file.suffix in (".volume", ".mdb")])
        flip(path, rng.randrange(path.stat().st_size), rng)


def rot_file(directory: Path, key: bytes, rng: random.Random) -> None:
    """Flip a bit in every version of one file that a stopped node has."""
    for path in (directory / "volumes").glob("*.volume"):
        with path.open("rb") as file:
            header = unpack_volume_header(file.read(VOLUME_HEADER_BYTES))
            if header is None:
                continue
            found = list(walk(reader_of(file.fileno()), header, 0, path.stat().st_size))
        for one in found:
            if isinstance(one, Found) and one.header.key == key and one.value:
                flip(path, one.end - 1 - rng.randrange(len(one.value)), rng)


async def read_own(node: Part, keys: Sequence[str]) -> tuple[int, int]:
    """Read files from one node itself; returns how many it had whole, and how many it refused. Bytes that nobody wrote
    are a failure."""
    whole = refused = 0
    client = node.client()
    for key in keys:
        try:
            record = await client.read(key.encode())
        except SfssError:
            refused += 1
        else:
            assert record is None or number_of(key, record.value) is not None, f"{node.name} served rot for {key}"
            whole += record is not None
    await client.close()
    return whole, refused


async def test_bits_that_flip_on_one_node_are_found_never_served_and_lose_nothing(refilling, history, fault_seconds):
    rng = random.Random(history.seed)
    node = rng.choice(refilling.nodes)
    for number in range(int((fault_seconds or 6) / 3)):
        kept = keys_of(f"kept-{number}", 8)
        with closing(Client("keeper", refilling.web_addresses, history, rng)) as keeper:
            for key in kept:
                await keeper.put(key, 2000)
        await has_all(node, kept)
        async with Workload(refilling.web_addresses, history, keys=keys_of("rot"), mix=Mix(rest_s=0.02)):
            await asyncio.sleep(1)
            node.kill()
            rot(refilling.data_of(node.name), rng, count=40)
            rot_file(refilling.data_of(node.name), kept[0].encode(), rng)
            await node.start()
            await asyncio.sleep(0.5)
        _, refused = await read_own(node, kept)
        assert refused, f"{node.name} did not find what is damaged"
        with contextlib.suppress(SfssError):  # it ends itself over a page of the index that it can't read
            figures = await figures_of(node)
            assert figures["state"] == "suspect" or int(figures["corrupt_records"]) > 0
        await read_all(refilling.web_addresses, history)
        await trusted(node)
        with closing(Client("keeper", refilling.web_addresses, history, rng)) as keeper:
            for key in kept:
                await keeper.put(key, 2000)
        await has_all(node, kept)

    history.check()


async def has_all(node: Part, keys: Sequence[str]) -> None:
    """Wait until a node has files that were stored. While a proxy takes it for down, it is passed over, and brought
    what it missed from a hint."""
    async with asyncio.timeout(30):
        while await read_own(node, keys) != (len(keys), 0):
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("name", [IDENTITY, RING])
async def test_a_flipped_bit_in_what_a_node_knows_of_itself_refuses_its_start_in_one_line(refilling, history, name):
    rng = random.Random(history.seed)
    node = rng.choice(refilling.nodes)
    directory = refilling.data_of(node.name)
    with closing(Client("user", refilling.web_addresses, history, rng)) as user:
        await user.put(f"beside-{name}", 100)
        await node.stop()
        if name == RING and not (directory / RING).exists():
            identity = json.loads(read_small_file(directory / IDENTITY, "sfss-node-directory"))
            held = HeldRing(identity["ring"], identity["fingerprint"])
            write_ring_file(directory, RingFile(KeptRing(held)).encode(0))
        sound = (directory / name).read_bytes()
        flip(directory / name, rng.randrange(len(sound) - 1), rng)
        before = node.log.stat().st_size

        node.launch()
        status = await node.ended()

        (_, *told) = node.log.read_text(errors="replace")[before:].splitlines()
        assert status != 0
        assert len(told) == 1, told
        assert str(directory / name) in told[0]
        assert (await user.get(f"beside-{name}")).status == 200
        (directory / name).write_bytes(sound)
        await node.start()
        await refilling.ready()
        await trusted(node)
    await read_all(refilling.web_addresses, history)

    history.check()


# --- full disks -----------------------------------------------------------------------------------------------


async def test_full_disks_refuse_writes_and_go_on_reading_and_deleting(tmp_path, history):
    with ExitStack() as stack:
        disks = [stack.enter_context(SmallDisk(tmp_path / f"disk{number}", 96 << 20)) for number in range(3)]
        cluster = Cluster(
            tmp_path / "c",
            nodes=3,
            data={f"node-{number}": disk.path for number, disk in enumerate(disks)},
            node_options=[*NODE_OPTIONS, "--reserve-mib", "16"],
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
    history.check_errors(among=history.begun(since))

    # Two: writes are refused, once what was kept in reserve or taken ahead is used up.
    disks[1].fill()
    refused = [e for e in [await client.put(f"extra/{n}", 400_000) for n in range(240)] if e.outcome is not Outcome.OK]
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
