"""What a node missed while it was away comes to it when it is back, without anybody reading it."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.disks import SmallDisk, needs_root
from tests.cluster.history import WRITES, Event, History, Outcome
from tests.cluster.http_client import HttpClient
from tests.cluster.node_view import holders
from tests.cluster.parts import Part
from tests.cluster.workload import Workload, keys_of, read_all

pytestmark = pytest.mark.slow

CONVERGE_S = 60.0
FLUSH_S = 1.0
"""Hints are on disk a tenth of a second after the write; the rest is for busy machines."""


async def figures(cluster: Cluster) -> dict[str, int]:
    """The proxies' figures on hints, added up."""
    client = HttpClient(*cluster.webs[0].address)
    try:
        answer = await client.request("GET", "/status", headers={"Accept": "application/json"})
    finally:
        client.close()
    proxies = [stats for part, stats in json.loads(answer.body).items() if part.startswith("127.0.0.1:")]
    names = ("hints_waiting", "hints_replayed", "hints_dropped")
    return {name: sum(int(stats.get(name, 0)) for stats in proxies) for name in names}


def written_once(history: History) -> list[Event]:
    """Acknowledged writes of keys that nobody reads: nothing but a hint can bring these to a node."""
    return [
        event
        for event in history.events
        if event.key.startswith("once/") and event.kind in WRITES and event.outcome is Outcome.OK
    ]


async def apart(cluster: Cluster, events: list[Event]) -> dict[str, list[int]]:
    """The keys that not all three nodes hold in one version, with the versions that they do."""
    held = await holders([node.address for node in cluster.nodes], {event.key for event in events})
    return {key: versions for key, versions in held.items() if len(versions) != 3 or len(set(versions)) > 1}


async def converged(cluster: Cluster, events: list[Event]) -> None:
    give_up = time.monotonic() + CONVERGE_S
    while left := await apart(cluster, events):
        assert time.monotonic() < give_up, f"{len(left)} keys are still apart: {list(left.items())[:5]}"
        await asyncio.sleep(0.1)


async def test_a_killed_node_gets_what_it_missed_though_proxies_were_killed_meanwhile(tmp_path, history, fault_seconds):
    rest_s = (fault_seconds or 4.0) / 4
    kills = []
    async with Cluster(tmp_path / "c", nodes=3) as cluster:
        async with Workload(cluster.web_addresses, history, keys=keys_of("hints")):
            await asyncio.sleep(0.5)
            cluster.nodes[0].kill()
            for proxy in cluster.proxies:
                await asyncio.sleep(rest_s)
                proxy.kill()
                kills.append(time.monotonic())
                await proxy.start()
            await asyncio.sleep(rest_s)
        # What was acknowledged just before a proxy died may be without a hint: comparing replicas is for that.
        sure = [e for e in written_once(history) if not any(kill - FLUSH_S < e.end < kill + 0.1 for kill in kills)]
        await cluster.nodes[0].start()
        missed = len(await apart(cluster, sure))
        await converged(cluster, sure)
        print(f"{missed} of {len(sure)} files were missing; {await figures(cluster)}")
        await read_all(cluster.web_addresses, history)

        history.check()
        assert (await figures(cluster))["hints_replayed"] >= missed > 0


async def test_a_paused_node_gets_what_it_missed(tmp_path, history, fault_seconds):
    async with Cluster(tmp_path / "c", nodes=3) as cluster:
        async with Workload(cluster.web_addresses, history, keys=keys_of("hints")):
            await asyncio.sleep(0.5)
            cluster.nodes[1].pause()
            await asyncio.sleep(fault_seconds or 4.0)
            cluster.nodes[1].resume()
            await asyncio.sleep(0.5)
        await converged(cluster, written_once(history))
        await read_all(cluster.web_addresses, history)

        history.check()


async def test_direct_web_processes_keep_hints_too(tmp_path, history, fault_seconds):
    async with Cluster(tmp_path / "c", nodes=3, direct=True) as cluster:
        async with Workload(cluster.web_addresses, history, keys=keys_of("hints")):
            await asyncio.sleep(0.5)
            cluster.nodes[2].kill()
            await asyncio.sleep(fault_seconds or 2.0)
        await cluster.nodes[2].start()
        await converged(cluster, written_once(history))
        await read_all(cluster.web_addresses, history)

        history.check()


def swap(one: Path, other: Path) -> None:
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


async def replayed(proxy: Part) -> int:
    """Wait until a proxy has replayed hints and has none left; how many since its start."""
    client = proxy.client()
    give_up = time.monotonic() + CONVERGE_S
    try:
        while True:
            stats = await client.stats()
            if stats["hints_waiting"] == "0" and stats["hints_replayed"] != "0":
                return int(stats["hints_replayed"])
            assert time.monotonic() < give_up, stats
            await asyncio.sleep(0.1)
    finally:
        await client.close()


async def test_hints_come_late_twice_and_behind_newer_writes_and_none_goes_to_the_wrong_node(
    tmp_path, history, fault_seconds
):
    async with Cluster(tmp_path / "c", nodes=3) as cluster:
        missing, other, _ = cluster.nodes
        late = cluster.proxies[1]
        hints = cluster.directory / "state-1"
        homes = [cluster.data_of(node.name) for node in (missing, other)]
        async with Workload(cluster.web_addresses, history, keys=keys_of("hints")):
            await asyncio.sleep(0.5)
            missing.kill()
            await asyncio.sleep(fault_seconds or 1.0)
        await asyncio.sleep(FLUSH_S)
        await late.stop()
        kept = {path: path.read_bytes() for path in hints.glob("hints*")}

        # Another node of the cluster answers at the address of the one that hints wait for.
        await other.stop()
        swap(*homes)
        await missing.start()
        await asyncio.sleep(2.0)
        told = await figures(cluster)
        assert told["hints_waiting"] > 0
        assert told["hints_replayed"] == 0
        await missing.stop()
        swap(*homes)

        # The hints of one proxy are replayed among newer writes, those of the other behind them, and then once more.
        async with Workload(cluster.web_addresses, history, keys=keys_of("hints"), name="newer"):
            await asyncio.gather(missing.start(), other.start())
            await asyncio.sleep(1.0)
        await replayed(cluster.proxies[0])
        await late.start()
        first = await replayed(late)
        await late.stop()
        for path in hints.glob("hints*"):
            path.unlink()
        for path, content in kept.items():
            path.write_bytes(content)
        await late.start()
        print(f"{first} hints came late, and {await replayed(late)} of them twice")
        await converged(cluster, written_once(history))
        await read_all(cluster.web_addresses, history)
        history.check()


@pytest.mark.root
@needs_root
async def test_a_full_disk_of_the_proxy_costs_hints_and_no_client_notices(tmp_path, history):
    with ExitStack() as stack:
        cluster = Cluster(tmp_path / "c", nodes=3, proxies=1)
        disk = stack.enter_context(SmallDisk(cluster.directory / "state-0", 16 << 20))
        stack.callback(cluster.kill)
        async with cluster:
            cluster.nodes[0].kill()
            disk.fill()
            async with Workload(cluster.web_addresses, history, keys=keys_of("full")):
                await asyncio.sleep(2)
            dropped = (await figures(cluster))["hints_dropped"]
            disk.free()
            freed = time.monotonic()
            async with Workload(cluster.web_addresses, history, keys=keys_of("freed")):
                await asyncio.sleep(1)

            await cluster.nodes[0].start()

            await converged(cluster, [e for e in written_once(history) if e.start > freed])
            await read_all(cluster.web_addresses, history)
            history.check()
            assert dropped > 0
            history.check_errors(at_most=2)
