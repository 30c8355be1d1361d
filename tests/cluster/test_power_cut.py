"""Power cuts: of one node under load, and of all nodes at once.

The disk after a cut is a clone of the image that the node was writing to (`disks.py`). What was acknowledged before the
clone was begun must be there afterwards: for the clients, and on as many nodes as the answer said.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import contextmanager

import pytest

from tests.cluster import node_view
from tests.cluster.cluster import Cluster
from tests.cluster.disks import CuttableDisks, needs_root, needs_xfs
from tests.cluster.history import History, Violation
from tests.cluster.workload import Workload, read_all

pytestmark = [pytest.mark.slow, pytest.mark.root, needs_root, needs_xfs]

KEYS = [f"k{number}" for number in range(12)]


@contextmanager
def cluster_on_disks(directory, nodes=5, **options):
    with CuttableDisks(directory) as disks:
        data = {f"node-{number}": disks.add(f"node-{number}") for number in range(nodes)}
        cluster = Cluster(directory / "c", nodes=nodes, data=data, **options)
        try:
            yield disks, cluster
        finally:
            cluster.kill()


async def missing_copies(cluster: Cluster, history: History, before: float) -> list[str]:
    """Writes acknowledged before a moment that fewer nodes hold (or something newer) than the answer said."""
    acknowledged = [e for e in history.acknowledged(before) if e.durable and e.tag]
    held = await node_view.holders([node.address for node in cluster.nodes], {e.key for e in acknowledged})
    missing = []
    for event in acknowledged:
        version, durable = int(event.tag.strip('"').split("-")[0], 16), int(event.durable.split("/")[0])
        count = sum(one >= version for one in held[event.key])
        if count < durable:
            missing.append(f"{durable} nodes had it on disk, {count} have it: {event}")
    return missing


async def cut_all(disks: CuttableDisks, cluster: Cluster, history: History, seconds: float) -> int:
    """Cut the power of all nodes at one moment under load, and let them start again. Returns the number of writes
    acknowledged before that moment."""
    async with Workload(cluster.web_addresses, history, keys=KEYS):
        await asyncio.sleep(seconds)
        cut = time.monotonic()
        # Standing still, none of them acknowledges anything while the disks are cloned one by one.
        for node in cluster.nodes:
            node.pause()
        for node in cluster.nodes:
            disks.clone(node.name)
        for node in cluster.nodes:
            node.kill()
        for node in cluster.nodes:
            disks.put_back(node.name)
            node.launch()
        for node in cluster.nodes:
            await node.serving()
    missing = await missing_copies(cluster, history, cut)
    if missing:
        raise Violation(f"{len(missing)} acknowledged writes lost copies; {history.repeat}\n" + "\n".join(missing[:5]))
    await cluster.ready()
    await read_all(cluster.web_addresses, history)
    return len(history.acknowledged(cut))


async def test_a_power_cut_of_all_nodes_at_once_loses_no_acknowledged_write(tmp_path, history, fault_seconds):
    rng = random.Random(history.seed)
    with cluster_on_disks(tmp_path) as (disks, cluster):
        async with cluster:
            count = await cut_all(disks, cluster, history, fault_seconds or rng.uniform(1.5, 3.0))

            history.check()
            print(f"{count} writes acknowledged before the cut, 0 lost")
            assert count > 50


async def cut_one(disks: CuttableDisks, cluster: Cluster, history: History, rounds: int) -> int:
    """Cut the power of one node after the other under load. Returns the writes acknowledged before the last cut."""
    rng = random.Random(history.seed)
    acknowledged = 0
    async with Workload(cluster.web_addresses, history, keys=KEYS):
        for _ in range(rounds):
            await asyncio.sleep(rng.uniform(0.8, 2.0))
            node = rng.choice(cluster.nodes)
            cut = time.monotonic()
            node.pause()
            disks.clone(node.name)
            node.kill()
            acknowledged = len(history.acknowledged(cut))
            disks.put_back(node.name)
            await node.start()
            missing = await missing_copies(cluster, history, cut)
            if missing:
                raise Violation(f"{node.name} lost records; {history.repeat}\n" + "\n".join(missing[:5]))
    await cluster.ready()
    await read_all(cluster.web_addresses, history)
    return acknowledged


async def test_a_power_cut_of_one_node_loses_nothing_and_hardly_costs_an_error(tmp_path, history, fault_seconds):
    with cluster_on_disks(tmp_path) as (disks, cluster):
        async with cluster:
            count = await cut_one(disks, cluster, history, rounds=int((fault_seconds or 4) / 2))

            history.check()
            print(f"{count} writes acknowledged before the last cut, 0 lost")
            assert count > 50
            history.check_errors()


def test_the_clone_of_a_disk_has_what_was_synced_and_not_what_was_only_written(tmp_path):
    with CuttableDisks(tmp_path) as disks:
        path = disks.add("a")
        (path / "synced").write_bytes(b"x" * 10_000)
        with (path / "synced").open("rb") as file:
            os.fsync(file.fileno())
            directory = os.open(path, os.O_DIRECTORY)
            os.fsync(directory)
            os.close(directory)
        (path / "written").write_bytes(b"x" * 10_000)

        disks.clone("a")
        disks.put_back("a")

        assert (path / "synced").read_bytes() == b"x" * 10_000
        assert not (path / "written").exists()
