"""A node that is killed in the middle of a change of rings: it has the ring that it told, what it owns, and nothing of
what it let go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
from pathlib import Path

import pytest

from sfss.errors import SfssError
from sfss.keys import hash_key
from sfss.memcache.client import ClientLimits, MemcacheClient
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.store import Call, Record, checksum_of
from tests.cluster.parts import HOST
from tests.integration.node_process import node_command, node_part, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

PARTITIONS = 16
KEYS = [b"key/%d" % number for number in range(60)]
STEPS = {"rename": range(3, 11), "pwrite64": range(2, 5)}
"""Which system call, and which one of it: the small files are renamed, the index is written by the other."""

SAMPLES = int(os.environ.get("NODE_KILL_SAMPLES", "1"))
"""How many steps of each system call are tried; the default is the short form."""


class Course:
    """A node gives away half of its partitions and gets them back, where it is filled with older records than those it
    had. `number` is the ring that it told last; `held` the version of each key that it acknowledged, None for those
    that it let go; `open` are keys whose last request got no answer."""

    def __init__(self) -> None:
        self.number = 0
        self.held: dict[bytes, int | None] = {}
        self.open: set[bytes] = set()

    async def run(self, client: MemcacheClient) -> None:
        """From the beginning, whatever of it was done in an earlier life."""
        node = (await client.bind("c" * 32, 1, "f1")).node
        own, other = RingMember(node, "n1:1"), RingMember("f" * 32, "n2:1")
        alone, shared = Placement((own,), 1, 1, 1, 1), Placement((own, other), 1, 1, 1, 1)
        rings = [(2, (alone, shared)), (3, (shared,)), (4, (shared, alone)), (5, (alone,))]
        joint, settled, joint_again, last = (RingRecord(number, PARTITIONS, each) for number, each in rings)
        owned = settled.owned_by(node)
        given = [key for key in KEYS if not owned[hash_key(key) >> 60]]
        self.number = (await client.tell_ring()).number
        if self.number == 1:
            await self._fill(client, 1, 100, KEYS)
        for ring in (joint, settled):
            await self._learn(client, ring)
        if self.number == settled.number:
            parts = [part for part in range(PARTITIONS) if not owned[part]]
            self.open.update(given)
            await asyncio.gather(*(client.drop_partition(settled.number, part) for part in parts))
            self.open.difference_update(given)
            self.held.update(dict.fromkeys(given))
        for ring in (joint_again, last):
            await self._learn(client, ring)
        await self._fill(client, last.number, 50, given[::2])

    async def _fill(self, client: MemcacheClient, ring: int, version: int, keys: list[bytes]) -> None:
        for key in keys:
            record = Record(key, len(key), 0, 0, version, checksum_of(key, key, 0, 0, version, False))
            self.open.add(key)
            await client.apply(key, record, Call(ring=ring))
            self.held[key] = version
            self.open.discard(key)

    async def _learn(self, client: MemcacheClient, ring: RingRecord) -> None:
        self.number = max(self.number, (await client.learn_ring(ring)).number)

    async def check(self, client: MemcacheClient) -> None:
        """What was acknowledged is so."""
        assert (await client.tell_ring()).number >= self.number
        for key in KEYS:
            record = await client.inspect(key)
            if key not in self.open:
                assert (record.version if record is not None else None) == self.held.get(key), key


@contextlib.asynccontextmanager
async def connected(port: int):
    client = MemcacheClient(HOST, port, limits=ClientLimits(silence_s=0.2))
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize("call", STEPS)
async def test_a_kill_in_a_change_of_rings_brings_nothing_back_and_loses_nothing(
    tmp_path: Path, rng: random.Random, call: str
) -> None:
    for nth in rng.sample(list(STEPS[call]), min(SAMPLES, len(STEPS[call]))):
        print(f"SIGKILL at {call} number {nth}")
        folder = tmp_path / str(nth)
        home = folder / "home"
        folder.mkdir()
        inject = f"inject={call}:signal=SIGKILL:when={nth}"
        strace = ["strace", "-f", "-qqq", "-e", f"trace={call}", "-e", inject]
        course = Course()
        node = node_part(folder, home, "--reserve-mib", "0", prefix=strace)
        try:
            with contextlib.suppress(AssertionError, SfssError):  # it may be killed before it serves
                await node.start()
                async with connected(node.port) as client:
                    await course.run(client)
                print(f"it never came to {call} number {nth}")
        finally:
            node.kill()
        node.prefix = []
        if home.exists() and (home / "identity").exists():
            checked = node_command("check", home)
            assert checked.returncode == 0, checked.stdout
        async with running(node), connected(node.port) as client:
            await course.check(client)
            await course.run(client)
            await course.check(client)
            node.kill()
        shutil.rmtree(home / "index")
        async with running(node), connected(node.port) as client:
            await course.check(client)
            assert await node.stop() == 0
