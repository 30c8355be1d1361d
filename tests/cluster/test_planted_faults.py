"""Each fault test is shown a build that breaks the promise it guards, and has to go red.

The same scenarios run unplanted, and green, in the other files.
"""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.disks import needs_root, needs_xfs
from tests.cluster.history import History, Violation
from tests.cluster.test_cancel_storm import narrow_cluster, storm
from tests.cluster.test_forgotten import OLD_COPY, forget_while_another_is_dead
from tests.cluster.test_network_faults import arrive_late, read_half_made_writes, relayed_cluster
from tests.cluster.test_power_cut import cluster_on_disks, cut_all
from tests.planted import TRIES

pytestmark = pytest.mark.slow

TRIES_MAX = 3
"""What chance hides once it doesn't hide three times."""


async def caught(scenario, history: History) -> None:
    """Run a scenario until it shows a violation; fail when it never does. Whatever else goes wrong is no proof."""
    for number in range(TRIES_MAX):
        attempt = History(f"{history.seed} {number}", history.repeat)
        try:
            await scenario(attempt, number)
            attempt.check()
        except Violation as error:
            TRIES.count = number + 1
            print(f"caught by try {number + 1}: {str(error)[:600]}")
            return
        except TimeoutError:
            continue  # a broken build may wait for an answer that can't come: neither is that a proof
    raise AssertionError("the planted fault was not caught")


@pytest.mark.root
@needs_root
@needs_xfs
async def test_a_node_that_does_not_sync_is_caught_by_the_power_cut(tmp_path, history):
    async def scenario(attempt, number):
        directory = tmp_path / str(number)
        directory.mkdir()
        with cluster_on_disks(directory, nodes=3, plants={"node": "no-fsync"}) as (disks, cluster):
            async with cluster:
                await cut_all(disks, cluster, attempt, 1.0)

    await caught(scenario, history)


async def test_a_proxy_content_with_one_acknowledgement_is_caught_by_writes_that_one_node_has(tmp_path, history):
    async def scenario(attempt, number):
        async with relayed_cluster(tmp_path / str(number), (0.4, 0.2), plants={"proxy": "one-ack"}) as (
            cluster,
            relays,
        ):
            await read_half_made_writes(cluster, relays, attempt)

    await caught(scenario, history)


async def test_a_proxy_that_does_not_write_back_is_caught_by_writes_that_one_node_has(tmp_path, history):
    async def scenario(attempt, number):
        async with relayed_cluster(tmp_path / str(number), (0.4, 0.2), plants={"proxy": "no-write-back"}) as (
            cluster,
            relays,
        ):
            await read_half_made_writes(cluster, relays, attempt)

    await caught(scenario, history)


async def test_a_hint_counted_as_a_copy_is_caught_by_writes_that_one_node_has(tmp_path, history):
    async def scenario(attempt, number):
        async with relayed_cluster(tmp_path / str(number), (0.4, 0.2), plants={"proxy": "hint-counted"}) as (
            cluster,
            relays,
        ):
            await read_half_made_writes(cluster, relays, attempt)

    await caught(scenario, history)


async def test_a_node_that_stores_older_over_newer_is_caught_by_a_write_that_arrives_late(tmp_path, history):
    async def scenario(attempt, number):
        plants = {"node": "no-version-check"}
        async with relayed_cluster(tmp_path / str(number), webs=4, direct=True, plants=plants) as (cluster, relays):
            await arrive_late(cluster, relays, attempt)

    await caught(scenario, history)


async def test_replies_that_reach_the_wrong_request_are_caught_by_the_cancel_storm(tmp_path, history):
    async def scenario(attempt, number):
        async with narrow_cluster(tmp_path / str(number), plants={"web": "wrong-slot"}) as cluster:
            await storm(cluster, attempt, 4.0)

    await caught(scenario, history)


async def test_a_proxy_that_does_not_tell_nodes_what_it_saw_of_them_is_caught_by_an_old_copy(tmp_path, history):
    async def scenario(attempt, number):
        plants = {"proxy": "remembers-nothing"}
        async with Cluster(tmp_path / str(number), nodes=3, proxies=1, webs=1, plants=plants) as cluster:
            await forget_while_another_is_dead(cluster, attempt, OLD_COPY)

    await caught(scenario, history)
