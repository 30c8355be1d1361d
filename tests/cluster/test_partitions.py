"""Networks in pieces: packets lost between parts that run, one way or both."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Generator

import pytest

from tests.cluster.cluster import Cluster, part_names
from tests.cluster.history import Outcome
from tests.cluster.network import Network, needs_namespaces
from tests.cluster.workload import Mix, Workload, keys_of, read_all

pytestmark = [pytest.mark.slow, pytest.mark.root, needs_namespaces]

MIX = Mix(rest_s=0.02)

PROXY_TIMES = "timeout = 1\nnode_timeout = 0.4\n"
TRY_S = 1.3
TRIES = 2
"""What a web process waits for a proxy, and how many proxies it can ask: the side without a quorum answers after that
long at most."""


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Cluster, Network]]:
    """A cluster on a network of its own, for both tests."""
    with Network(part_names()) as network:
        cluster = Cluster(
            tmp_path_factory.mktemp("parted"),
            network=network,
            proxy_settings=PROXY_TIMES,
            web_settings={"SFSS_STORAGE_PROXY_TIMEOUT_SECONDS": str(TRY_S)},
        )
        try:
            asyncio.run(cluster.start())
            yield cluster, network
            asyncio.run(cluster.close())
        finally:
            cluster.kill()


async def healed(parted: tuple[Cluster, Network]) -> tuple[Cluster, Network]:
    """Both whole again, whatever a test before left them in."""
    cluster, network = parted
    network.heal()
    await cluster.heal()
    return cluster, network


async def test_partitions_of_every_kind_leave_the_history_clean(parted, history, fault_seconds):
    rng = random.Random(f"{history.seed} partitions")

    cluster, network = await healed(parted)
    nodes = [node.name for node in cluster.nodes]
    proxies = [proxy.name for proxy in cluster.proxies]
    webs = [web.name for web in cluster.webs]
    kinds = {
        "a node is cut off": lambda: network.split(rng.sample(nodes, 1)),
        "a node is deaf": lambda: network.block([*nodes, *proxies], rng.sample(nodes, 1)),
        "a node is not heard": lambda: network.block(rng.sample(nodes, 1), [*nodes, *proxies]),
        "a proxy has lost most nodes": lambda: network.split(rng.sample(proxies, 1), rng.sample(nodes, 3)),
        "a web process has lost a proxy": lambda: network.split(rng.sample(webs, 1), rng.sample(proxies, 1)),
        "in two": lambda: network.split([*rng.sample(nodes, 2), proxies[0], webs[0]]),
    }
    # In the short form all of them, hardly longer than it takes to notice; in the long form two at a time, for long.
    chosen = rng.sample(sorted(kinds.items()), 2 if fault_seconds else len(kinds))
    async with Workload(cluster.web_addresses, history, keys=keys_of("parted", 8), mix=MIX):
        for kind, part in chosen:
            since = time.monotonic()
            part()
            await asyncio.sleep((fault_seconds or 7.2) / len(chosen))
            network.heal()
            await asyncio.sleep(0.4)
            errors, count = len(history.errors(since)), len(history.begun(since))
            print(f"{kind}: {count} operations, {errors} refused or unknown")
    await cluster.ready()
    await read_all(cluster.web_addresses, history)

    history.check()
    assert sum(e.outcome is Outcome.OK for e in history.events) > len(history.events) / 2


async def test_the_side_without_a_quorum_refuses_soon_and_the_other_goes_on(parted, history, fault_seconds):
    cluster, network = await healed(parted)
    small, large = (
        Workload([web.address], history, keys=keys_of("sides", 8), mix=MIX, once=False, name=f"{web.name} ")
        for web in cluster.webs
    )
    async with small, large:
        await asyncio.sleep(1)
        network.split(["web-0", "proxy-0", "node-0"])
        split = time.monotonic()
        await asyncio.sleep(fault_seconds or 6.0)
        whole = time.monotonic()
        network.heal()
        back_s = await cluster.ready()
    await read_all(cluster.web_addresses, history)

    history.check()
    during = [e for e in history.events if split + 0.1 < e.start and e.end < whole]
    alone = [e for e in during if e.client.startswith("web-0")]
    slowest = max(e.end - e.start for e in history.events if e.client.startswith("web-0"))
    print(f"{len(alone)} answers without a quorum, the slowest after {slowest:.2f} s; back after {back_s:.2f} s")
    # Every path has three owners, of which at most one is there.
    assert len(alone) > 3
    assert not [str(e) for e in alone if e.outcome is Outcome.OK]
    assert slowest < 3 * TRIES * TRY_S  # the slack is for busy machines
    others = [e for e in during if e.client.startswith("web-1") and e.start > split + 3]
    assert sum(e.outcome is Outcome.OK for e in others) > 9
    history.check_errors(at_most=(len(others) - 1) // 100, among=others)
