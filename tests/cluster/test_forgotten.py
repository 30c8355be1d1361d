"""Nodes that come back without what they acknowledged: with an old copy of their directory, or an empty one."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.history import History, Outcome
from tests.cluster.parts import Part
from tests.cluster.workload import Client, Mix, Workload, keys_of, read_all

pytestmark = pytest.mark.slow

OLD_COPY, EMPTY, LOST = "with an old copy", "empty", "with what was lost"


def forget(cluster: Cluster, node: Part, came_back: str) -> None:
    """Put in the place of a killed node's directory the copy that was made of it, or nothing, or what was there before
    there was nothing."""
    directory = cluster.data_of(node.name)
    if came_back == EMPTY:
        directory.rename(lost_of(cluster, node))
        return
    shutil.rmtree(directory)
    (copy_of(cluster, node) if came_back == OLD_COPY else lost_of(cluster, node)).rename(directory)


def lost_of(cluster: Cluster, node: Part) -> Path:
    return cluster.data_of(node.name).with_name(f"lost-{node.name}")


def copy_of(cluster: Cluster, node: Part) -> Path:
    return cluster.data_of(node.name).with_name(f"old-{node.name}")


async def copied(cluster: Cluster, node: Part) -> None:
    """Restart a node, and keep a copy of its directory as it was between."""
    node.kill()
    shutil.copytree(cluster.data_of(node.name), copy_of(cluster, node))
    await node.start()


QUICK = "timeout = 1\nnode_timeout = 0.4\ncompare_settle = 2\n"
"""Proxies that begin to bring back what was forgotten after two seconds instead of ten."""

REFILLED_S_MAX = 60.0


async def counting_again(node: Part) -> None:
    """Wait until a node that forgot says that it has got it back."""
    give_up = time.monotonic() + REFILLED_S_MAX
    client = node.client()
    try:
        while (await client.identify()).state != "ok":
            assert time.monotonic() < give_up, f"{node.name} isn't refilled: {await client.stats()}\n{node.tail()}"
            await asyncio.sleep(0.1)
    finally:
        await client.close()


async def suspect(node: Part) -> None:
    """Wait until a node knows that it forgot something."""
    give_up = time.monotonic() + REFILLED_S_MAX
    client = node.client()
    try:
        while (await client.identify()).state == "ok":
            assert time.monotonic() < give_up, f"{node.name} knows nothing of it\n{node.tail()}"
            await asyncio.sleep(0.05)
    finally:
        await client.close()


async def test_a_node_that_forgets_again_and_again_is_refilled_each_time_and_no_client_notices(
    tmp_path, history, fault_seconds
):
    """First it comes back with an old copy of its directory, then with an empty one, and then (in a long run) with the
    one that was lost, which has become an old copy itself."""
    rng = random.Random(history.seed)
    span_s = (fault_seconds or 2.0) / 2
    mix = Mix(rest_s=0.1, delete=0.2)
    async with Cluster(tmp_path / "c", nodes=3, proxies=2, webs=1, proxy_settings=QUICK) as cluster:
        node, other = rng.sample(cluster.nodes, 2)
        async with Workload(cluster.web_addresses, history, keys=keys_of("forgot"), mix=mix):
            await asyncio.sleep(span_s)
            await copied(cluster, node)
            await asyncio.sleep(span_s)
            for came_back in (OLD_COPY, EMPTY, LOST) if fault_seconds else (OLD_COPY, EMPTY):
                node.kill()
                forget(cluster, node, came_back)
                await node.start()
                await suspect(node)
                await counting_again(node)
                await asyncio.sleep(span_s)
        await read_all(cluster.web_addresses, history)
        # Only what it has got back can make up a quorum with it.
        other.kill()
        await read_all(cluster.web_addresses, history)

    history.check()
    history.check_errors()


@pytest.mark.parametrize("came_back", [OLD_COPY, EMPTY])
async def test_what_only_a_node_that_forgot_and_a_dead_one_had_is_an_error_and_never_a_miss(
    tmp_path, history, came_back
):
    async with Cluster(tmp_path / "c", nodes=3, proxies=1, webs=1) as cluster:
        await forget_while_another_is_dead(cluster, history, came_back)


async def forget_while_another_is_dead(cluster: Cluster, history: History, came_back: str) -> None:
    """Of three nodes one misses the writes, one forgets them and one is away: the two that are there agree on what is
    wrong."""
    keys = keys_of("alone", 20)
    rng = random.Random(history.seed)
    missing, forgetful, dead = rng.sample(cluster.nodes, 3)
    with closing(Client("user", cluster.web_addresses, history, rng)) as user:
        for key in keys[:10]:
            await user.put(key, 1000)
        await copied(cluster, forgetful)
        await cluster.ready()
        missing.kill()
        for key in keys:
            while (await user.put(key, 1000)).outcome is not Outcome.OK:
                await asyncio.sleep(0.1)
        # What the proxy keeps for the missing node goes with it.
        for part in (*cluster.proxies, forgetful, dead):
            part.kill()
        for kept in cluster.directory.glob("state-*/hints*"):
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
        forget(cluster, forgetful, came_back)
        for part in (missing, forgetful, *cluster.proxies):
            part.launch()
        for part in (missing, forgetful, *cluster.proxies):
            await part.serving()

        seen = [await user.get(key) for key in keys]

        await dead.start()
        await cluster.ready()
    await read_all(cluster.web_addresses, history)

    history.check()
    assert not [str(e) for e in seen if e.outcome is Outcome.OK]
