"""Nodes that come back without what they acknowledged: with an old copy of their directory, or an empty one."""

from __future__ import annotations

import asyncio
import random
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.history import Outcome
from tests.cluster.parts import Part
from tests.cluster.workload import Client, Mix, Workload, keys_of, read_all

pytestmark = pytest.mark.slow

OLD_COPY, EMPTY = "with an old copy", "empty"


def forget(cluster: Cluster, node: Part, came_back: str) -> None:
    """Put the copy that was made of a killed node's directory in its place, or nothing."""
    directory = cluster.data_of(node.name)
    shutil.rmtree(directory)
    if came_back == EMPTY:
        shutil.rmtree(copy_of(cluster, node))
    else:
        copy_of(cluster, node).rename(directory)


def copy_of(cluster: Cluster, node: Part) -> Path:
    return cluster.data_of(node.name).with_name(f"old-{node.name}")


async def copied(cluster: Cluster, node: Part) -> None:
    """Restart a node, and keep a copy of its directory as it was between."""
    node.kill()
    shutil.copytree(cluster.data_of(node.name), copy_of(cluster, node))
    await node.start()


async def test_a_node_with_an_old_copy_is_not_noticed_among_others(standing, history, fault_seconds):
    node = random.Random(history.seed).choice(standing.nodes)
    span_s = (fault_seconds or 4.0) / 4

    async with Workload(standing.web_addresses, history, keys=keys_of("forgot"), mix=Mix(rest_s=0.02)):
        await asyncio.sleep(span_s)
        await copied(standing, node)
        await asyncio.sleep(span_s)
        node.kill()
        forget(standing, node, OLD_COPY)
        await node.start()
        await asyncio.sleep(2 * span_s)
    await read_all(standing.web_addresses, history)

    history.check()
    assert len(history.errors()) <= max(2, len(history.events) // 1000), [str(e) for e in history.errors()[:10]]


UNNOTICED = pytest.mark.xfail(strict=True, reason="nobody remembers how far a node's log had come")


@pytest.mark.parametrize("came_back", [pytest.param(OLD_COPY, marks=UNNOTICED), EMPTY])
async def test_what_only_a_node_that_forgot_and_a_dead_one_had_is_an_error_and_never_a_miss(
    tmp_path, history, came_back
):
    """Of three nodes one misses the writes, one forgets them and one is away: the two that are there agree on what is
    wrong."""
    keys = keys_of("alone", 20)
    async with Cluster(tmp_path / "c", nodes=3, proxies=1, webs=1) as cluster:
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
