"""Faults of several kinds at the same time: nodes and coordinators that die and stand still, over a few keys.

A coordinator that dies between two replicas leaves a write that one of them has and the others don't: what readers
and later writers make of it is the hardest that the history has to show.
"""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.history import History, Outcome
from tests.cluster.parts import Part
from tests.cluster.workload import Mix, Workload, keys_of, read_all

pytestmark = pytest.mark.slow

MIX = Mix(rest_s=0.005)


async def trouble(parts: list[Part], rng: random.Random, until: float, apart_s: float) -> None:
    """Kill or pause one of the parts for a while, again and again, one at a time."""
    while time.monotonic() < until:
        await asyncio.sleep(rng.uniform(0.5, 1.5) * apart_s)
        part = rng.choice(parts)
        if rng.random() < 0.6:
            part.kill()
            await asyncio.sleep(rng.uniform(0, 0.5))
            await part.start()
        else:
            part.pause()
            await asyncio.sleep(rng.uniform(0.1, 2.5))
            part.resume()


async def survive(cluster: Cluster, coordinators: list[Part], history: History, seconds: float) -> None:
    until = time.monotonic() + seconds
    keys = keys_of("many", 4)
    async with Workload(cluster.web_addresses, history, keys=keys, clients=12, mix=MIX):
        await asyncio.gather(
            trouble(cluster.nodes, random.Random(f"{history.seed} nodes"), until, 0.8),
            trouble(coordinators, random.Random(f"{history.seed} coordinators"), until, 0.5),
        )
    await cluster.heal()
    await read_all(cluster.web_addresses, history)
    history.check()
    assert sum(e.outcome is Outcome.OK for e in history.events) > len(history.events) / 2


async def test_nodes_and_proxies_in_trouble_at_once_leave_the_history_clean(standing, history, fault_seconds):
    await survive(standing, standing.proxies, history, fault_seconds or 6.0)


async def test_nodes_and_direct_web_processes_in_trouble_at_once_leave_the_history_clean(
    tmp_path, history, fault_seconds
):
    async with Cluster(tmp_path / "c", nodes=3, webs=4, direct=True) as cluster:
        await survive(cluster, cluster.webs, history, fault_seconds or 6.0)
