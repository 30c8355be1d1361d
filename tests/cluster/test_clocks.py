"""A coordinator whose clock is wrong, by an hour, in jumps, or backwards over a restart: no order of writes depends on
it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cluster.clocks import WrongClock, needs_faketime
from tests.cluster.cluster import Cluster
from tests.cluster.history import Outcome
from tests.cluster.workload import Mix, Workload, keys_of, read_all

pytestmark = [pytest.mark.slow, needs_faketime]

HOUR_S = 3600.0
MIX = Mix(rest_s=0.02)
KEYS = keys_of("clock", 8)


@asynccontextmanager
async def wrong_cluster(directory: Path) -> AsyncIterator[tuple[Cluster, WrongClock]]:
    """3 nodes and 2 proxies, the first of which has a clock of its own."""
    cluster = Cluster(directory, nodes=3)
    clock = WrongClock(cluster.proxies[0], directory / "clock")
    async with cluster:
        yield cluster, clock


async def test_a_wrong_clock_leaves_the_history_clean(tmp_path, history, fault_seconds):
    seconds = fault_seconds or 6.0
    rng = random.Random(history.seed)
    async with wrong_cluster(tmp_path / "c") as (cluster, clock):
        proxy = cluster.proxies[0]

        async with Workload(cluster.web_addresses, history, keys=KEYS, mix=MIX):
            for off in (HOUR_S, -HOUR_S):
                clock.set_off(off)
                await asyncio.sleep(seconds / 4)
            strobe_until = time.monotonic() + seconds / 4
            while time.monotonic() < strobe_until:
                clock.set_off(rng.choice([1, -1]) * rng.choice([0.2, 2.0, 30.0, HOUR_S]))
                await asyncio.sleep(rng.uniform(0.02, 0.2))
            # Ahead by what nodes still take: what it has stamped then, it may not go below in its next life.
            clock.set_off(300)
            await asyncio.sleep(seconds / 8)
            proxy.kill()
            clock.set_off(-HOUR_S)
            await proxy.start()
            await asyncio.sleep(seconds / 8)
        clock.set_off(0)
        await cluster.ready()
        await read_all(cluster.web_addresses, history)

        history.check()
        done = sum(e.outcome is Outcome.OK for e in history.events)
        print(f"{done} of {len(history.events)} operations were done")
        assert done > len(history.events) / 2
