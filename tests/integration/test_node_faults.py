"""A node whose process, disk or power fails at the worst moment: what it acknowledged is there, and nothing half."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.disks import CuttableDisks, SmallDisk, needs_root, needs_xfs
from tests.cluster.parts import Part
from tests.integration.node_process import NodeClient, Refused, node_command, node_part, running, value_of

pytestmark = pytest.mark.slow
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

SMALL = ("--reserve-mib", "4", "--volume-mib", "1")


async def churn(client: NodeClient, rng: random.Random, seconds: float, keys: int = 6) -> int:
    """Write and delete until the node is gone, or time is up. Much of what is written is garbage soon, so
    compaction has something to do. Returns the number of acknowledgements."""
    count = 0
    give_up = time.monotonic() + seconds
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < give_up:
            key = f"k{rng.randrange(keys)}"
            if rng.random() < 0.1:
                await client.delete(key)
            else:
                await client.set(key, value_of(count, rng.choice([0, 10, 3000, 100_000, 300_000])))
            count += 1
    return count


async def recovered(node: Part, home: Path, client: NodeClient) -> None:
    """Check directory and answers after a crash, and that the node takes writes again."""
    assert node_command("check", home).returncode == 0, node_command("check", home).stdout
    node.prefix = []
    async with running(node), client.taken_over(node.port) as reader:
        await reader.check_all()
        await reader.set("afterwards", b"x")
        assert (await reader.stats())["corrupt_records"] == "0"
        assert await node.stop() == 0


# --- killed at an exact step ---------------------------------------------------------------------------------

STEPS = {
    "fdatasync": range(1, 120),
    "pwritev2": range(1, 200),
    "write": range(1, 200),  # the writer tells the loop of a batch that is on disk
    "pwrite64": range(1, 60),
    "rename": range(1, 16),
    "unlink": range(1, 5),
    "ftruncate": range(1, 10),
    "fallocate": range(1, 20),
    "fsync": range(1, 30),
}
SAMPLES = int(os.environ.get("NODE_KILL_SAMPLES", "1"))
"""How many steps of each system call are tried; the default is the short form."""


@needs_strace
@pytest.mark.parametrize("call", STEPS)
async def test_a_kill_at_any_step_loses_nothing_that_was_acknowledged(tmp_path, rng, call, tally):
    for nth in rng.sample(list(STEPS[call]), min(SAMPLES, len(STEPS[call]))):
        print(f"SIGKILL at {call} number {nth}")
        folder = tmp_path / str(nth)
        folder.mkdir()
        inject = f"inject={call}:signal=SIGKILL:when={nth}"
        node = node_part(
            folder, folder / "home", *SMALL, prefix=["strace", "-f", "-qqq", "-e", f"trace={call}", "-e", inject]
        )
        client = NodeClient(0)
        try:
            with contextlib.suppress(AssertionError):  # it may be killed before it serves
                await node.start()
                client = NodeClient(node.port)
                async with client:
                    count = await churn(client, rng, seconds=60)
                print(f"{count} writes acknowledged")
                tally.update(operations=count, acknowledged=count)
            assert await node.ended() == -signal.SIGKILL, f"it never came to {call} number {nth}"
        finally:
            node.kill()
        if (folder / "home" / "identity").exists():
            await recovered(node, folder / "home", client)


# --- a disk that reports errors --------------------------------------------------------------------------------


@contextlib.contextmanager
def failing(node: Part, calls: str, error: str) -> Iterator[None]:
    """Make system calls of a running process fail from now on."""
    command = ["strace", "-f", "-o", "/dev/null", "-p", str(node.process.pid), "-e", f"trace={calls}"]
    with subprocess.Popen(
        [*command, "-e", f"inject={calls}:error={error}"], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as strace:
        assert strace.stderr is not None
        assert b"attached" in strace.stderr.readline()
        try:
            yield
        finally:
            strace.terminate()
            strace.stderr.read()


@needs_strace
async def test_a_failed_sync_is_never_acknowledged_and_ends_the_node_at_once(tmp_path):
    home = tmp_path / "home"
    async with running(node_part(tmp_path, home, *SMALL)) as node:
        client = NodeClient(node.port)
        async with client:
            await client.set("before", b"1")
            with failing(node, "fdatasync,fsync,pwritev2", "EIO"):
                began = time.monotonic()
                with pytest.raises(ConnectionError):
                    await client.set("after", b"2")
                assert await node.ended(10) == 1
            print(f"ended after {time.monotonic() - began:.2f} s")
        assert "sync of volume 1 failed" in node.tail()
        await recovered(node, home, client)


@needs_strace
@pytest.mark.parametrize(("sync", "error"), [("always", "EFBIG"), ("interval", "EIO")])
async def test_a_failed_append_is_refused_and_the_node_goes_on(tmp_path, sync, error):
    home = tmp_path / "home"
    async with running(node_part(tmp_path, home, *SMALL, "--sync", sync)) as node:
        async with NodeClient(node.port) as client:
            await client.set("before", b"1")
            with failing(node, "pwritev2", error), pytest.raises(Refused, match="SERVER_ERROR"):
                await client.set("lost", b"2")
            await client.set("after", b"3")
            assert await client.get("lost") is None
            await client.check_all()
        assert await node.stop() == 0
        await recovered(node, home, client)


# --- a full disk -------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.root
async def test_a_full_disk_refuses_writes_goes_on_reading_and_deleting_and_heals(tmp_path):
    options = ("--reserve-mib", "8", "--volume-mib", "2")
    with SmallDisk(tmp_path / "disk", 64 << 20) as disk:
        home = disk.path / "home"
        async with running(node_part(tmp_path, home, *options)) as node, NodeClient(node.port) as client:
            for number in range(100):
                await client.set(f"kept/{number}", value_of(number, 20_000))
            await asyncio.sleep(1.5)
            disk.fill()

            refusals, count = set(), 0
            for number in range(200):
                key = f"more/{number}"
                try:
                    await client.set(key, value_of(number, 100_000))
                except Refused as refused:
                    refusals.add(str(refused))
                    count += 1
            assert refusals == {"SERVER_ERROR out of disk"}
            assert count > 100

            for number in range(100):
                assert await client.get(f"kept/{number}") == value_of(number, 20_000)
            for number in range(50):
                await client.delete(f"kept/{number}")
                assert await client.get(f"kept/{number}") is None

            disk.free()
            freed = time.monotonic()
            while True:
                try:
                    await client.set("again", value_of(1, 100_000))
                    break
                except Refused:
                    assert time.monotonic() - freed < 15
                    await asyncio.sleep(0.2)
            await client.check_all()
            assert await node.stop() == 0
        async with running(node), client.taken_over(node.port) as reader:
            await reader.check_all()
        assert node_command("check", home).returncode == 0


@needs_root
@pytest.mark.root
async def test_overwriting_goes_on_for_ever_on_a_disk_that_compaction_has_to_clear(tmp_path, rng):
    """Four times the disk is written, and never more than a quarter of it is live."""
    options = ("--reserve-mib", "8", "--volume-mib", "2")
    with SmallDisk(tmp_path / "disk", 64 << 20) as disk:
        async with running(node_part(tmp_path, disk.path / "home", *options)) as node, NodeClient(node.port) as client:
            written, refusals = 0, set()
            while written < 256 << 20:
                key, size = f"k{rng.randrange(80)}", rng.choice([1000, 200_000])
                try:
                    await client.set(key, value_of(written, size))
                    written += size
                except Refused as refused:
                    refusals.add(str(refused))
                    await asyncio.sleep(0.05)
            await client.check_all()
            assert refusals <= {"SERVER_ERROR out of disk"}
            assert int((await client.stats())["compacted_volumes"]) > 50


# --- a power cut ---------------------------------------------------------------------------------------------------


@needs_root
@needs_xfs
@pytest.mark.root
@pytest.mark.parametrize("moment", ["under load", "during compaction"])
async def test_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path, rng, moment):
    with CuttableDisks(tmp_path) as disks:
        home = disks.add("node") / "home"
        for _ in range(2):
            async with running(node_part(tmp_path, home, *SMALL)) as node:
                client = NodeClient(node.port)
                async with client:
                    load = asyncio.ensure_future(churn(client, rng, 30))
                    await asyncio.sleep(rng.uniform(0.5, 1.0))
                    if moment == "during compaction":
                        await compacting(node)
                    known, before = client.taken_over(0), len(client.attempts)
                    await asyncio.get_running_loop().run_in_executor(None, disks.clone, "node")
                    # What was written while the disk was cloned may be in the clone or not.
                    for key, value in client.attempts[before:]:
                        known.may_hold(key, value)
                    load.cancel()
                    await asyncio.wait([load])
                node.kill()
            disks.put_back("node")
            print(f"{before} writes before the cut, {len(client.attempts) - before} during it")
            await recovered(node, home, known)


async def compacting(node: Part) -> None:
    """Wait until a volume is being compacted away."""
    async with NodeClient(node.port) as looker:
        before = (await looker.stats())["compacted_bytes"]
        for _ in range(200):
            if (await looker.stats())["compacted_bytes"] != before:
                return
            await asyncio.sleep(0.02)
