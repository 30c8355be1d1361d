"""Tombstones are purged while the ring changes and nodes die: nothing that was deleted comes back, and nothing
acknowledged is lost.

Tombstones live for seconds, everything is compared once a second, and nodes drop at once what is purged, as compaction
does some day. Some files are left alone after they were deleted, so that they are purged in the midst of it all.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.command import begin
from tests.cluster.history import History
from tests.cluster.parts import Part
from tests.cluster.test_ring_change import RingCommands, cluster_of, kill_one_after_another, name_of
from tests.cluster.workload import Mix, Workload, keys_of, read_all

pytestmark = pytest.mark.slow

SETTINGS = (
    "timeout = 1.5\nnode_timeout = 0.5\ntombstone_days = 0.00004\nhint_hours = 0.0004\n"
    "compare_interval = 1\ncompare_settle = 3\n"
)
BUSY = Mix(rest_s=0.02)
EARLY = Mix(delete=4.0, rest_s=0.02)
READERS = Mix(put=0, post=0, delete=0, rest_s=0.05)
_PURGED_S_MAX = 100.0


async def purged(nodes: list[Part], history: History, keys: list[str]) -> int:
    """How many of these keys, files of which were deleted, none of the nodes has a tombstone of any more."""
    deleted = {event.key for event in history.acknowledged() if event.kind == "delete" and event.status == 204}
    clients = [node.client() for node in nodes]
    try:
        held = [
            await asyncio.gather(*(client.inspect(key.encode()) for client in clients)) for key in deleted & set(keys)
        ]
        return sum(not any(records) for records in held)
    finally:
        for client in clients:
            await client.close()


async def replaced(ring: RingCommands, nodes: list[Part], leaving: Part, coming: Part, rng: random.Random) -> None:
    """Replace a node by another one, and kill nodes one after another once that has begun."""
    before = await ring.number()
    change = ("--replace", f"{name_of(leaving)}={name_of(coming)}", "--despite-warnings")
    mover = await begin(*ring.words("apply", *change))
    while await ring.number() == before and mover.returncode is None:
        await asyncio.sleep(0.05)
    trouble = asyncio.create_task(kill_one_after_another(nodes, rng))
    out, error = await mover.communicate()
    trouble.cancel()
    await asyncio.wait([trouble])
    assert mover.returncode == 0, (out, error)


async def purge_while_nodes_come_and_go(cluster: Cluster, ring: RingCommands, history: History, seconds: float) -> None:
    rng = random.Random(f"{history.seed} purge beside changes")
    webs = cluster.web_addresses
    *members, spare = cluster.nodes
    until = time.monotonic() + seconds
    left_alone: list[str] = []
    rounds = 0
    async with Workload(webs, history, keys=keys_of("busy", 20), clients=4, mix=BUSY):
        while not rounds or time.monotonic() < until:
            keys = keys_of(f"left-alone-{rounds}", 20)
            async with Workload(webs, history, keys=keys, clients=4, mix=EARLY, once=False, name="early"):
                await asyncio.sleep(1.0)
            left_alone += keys
            async with Workload(webs, history, keys=left_alone, clients=2, mix=READERS, once=False, name="reader"):
                await replaced(ring, cluster.nodes, leaving := members.pop(rng.randrange(3)), spare, rng)
            members.append(spare)
            spare = leaving
            await cluster.heal()
            await asyncio.gather(*(node.serving() for node in cluster.nodes))
            rounds += 1
    give_up = time.monotonic() + _PURGED_S_MAX
    while not (count := await purged(members, history, left_alone)):
        assert time.monotonic() < give_up, f"nothing is purged {_PURGED_S_MAX} s after all is well\n{cluster.tails()}"
        await asyncio.sleep(0.2)
    print(f"{rounds} replaced, {count} keys purged, {len(history.errors())} errors")


async def test_nothing_deleted_comes_back_while_tombstones_go_and_nodes_come_and_go(
    tmp_path: Path, history: History, fault_seconds: float | None
) -> None:
    plants = {"node": "purged-is-gone"}
    async with cluster_of(tmp_path / "c", 3, 1, proxies=1, webs=1, proxy_settings=SETTINGS, plants=plants) as cluster:
        ring = RingCommands(cluster)

        await purge_while_nodes_come_and_go(cluster, ring, history, fault_seconds or 0)

        await read_all(cluster.web_addresses, history)
        history.check()
