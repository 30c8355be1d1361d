"""`sfss ring apply` on real clusters under load: nodes come, go, are replaced and get other weights, while parts of the
cluster and the command itself are killed. The linearizability checker judges what clients saw.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sfss.ring import Member, NodeRing
from sfss.ring_plan import Change, next_ring
from tests.cluster.cluster import Cluster
from tests.cluster.command import Ended, begin, sfss
from tests.cluster.parts import Part
from tests.cluster.workload import Mix, Workload, keys_of, read_all

pytestmark = pytest.mark.slow

MIX = Mix(rest_s=0.02)
PARTITIONS = 1024
"""Fewer than a real cluster has: a quarter of them moves in a second."""


class RingCommands:
    """`sfss ring` on a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._conf = cluster.directory / "proxy-0.ini"

    def know_all_nodes(self) -> None:
        """From the first change on a configuration says no more than where nodes may be found."""
        self._conf = self._cluster.directory / "all.ini"
        self._conf.write_text(f"[default]\nservers = {','.join(map(name_of, self._cluster.nodes))}\n")

    def words(self, verb: str, *words: object) -> list[object]:
        return ["ring", verb, "--conf", self._conf, *words]

    async def run(self, verb: str, *words: object) -> Ended:
        return await sfss(*self.words(verb, *words))

    async def apply(self, *words: object) -> str:
        """To its end, which must be a good one. Warnings are to be expected where several nodes are on one machine."""
        ended = await self.run("apply", *words, *(["--despite-warnings"] if words else []))
        assert ended.status == 0, (ended.out, ended.error)
        return ended.out

    async def apply_with_deaths(self, rng: random.Random, *words: object) -> int:
        """Start it, kill it, start it, …, until it comes to an end; how often it died. What it can't begin because a
        node is away at that moment, it begins later."""
        deaths = 0
        before = await self.number()
        while True:
            wanted = () if await self.number() > before else words
            mover = await begin(*self.words("apply", *wanted))
            try:
                async with asyncio.timeout(rng.uniform(1.0, 3.0) * (1 + deaths)):
                    await mover.communicate()
            except TimeoutError:
                mover.kill()
                await mover.wait()
                deaths += 1
            if mover.returncode == 0 and not wanted:
                return deaths

    async def number(self) -> int:
        """The latest ring's, of the nodes that answer."""
        rings = await asyncio.gather(*(ring_of(node) for node in self._cluster.nodes), return_exceptions=True)
        return max((ring for ring in rings if isinstance(ring, int)), default=0)


def name_of(node: Part) -> str:
    return f"localhost:{node.port}"


@asynccontextmanager
async def cluster_of(directory: Path, nodes: int, spares: int, **more: object) -> AsyncIterator[Cluster]:
    cluster = Cluster(directory, nodes=nodes + spares, spares=spares, partitions=PARTITIONS, **more)  # type: ignore[arg-type]
    async with cluster:
        yield cluster


async def files_of(node: Part) -> int:
    client = node.client()
    try:
        return int((await client.stats())["curr_items"])
    finally:
        await client.close()


async def ring_of(node: Part) -> int:
    client = node.client()
    try:
        return (await client.identify()).ring
    finally:
        await client.close()


async def test_nodes_come_are_replaced_and_go_under_load_and_no_acknowledged_write_is_lost(tmp_path, history):
    async with cluster_of(tmp_path / "c", 3, 2) as cluster:
        ring = RingCommands(cluster)
        a, b, _, d, e = map(name_of, cluster.nodes)

        async with Workload(cluster.web_addresses, history, keys=keys_of("ring", 40), mix=MIX):
            await asyncio.sleep(1)
            await ring.apply("--add", d)
            await ring.apply("--replace", f"{a}={e}", "--weight", f"{d}=2", "--remove", b)
        await read_all(cluster.web_addresses, history)

        history.check()
        history.check_errors(at_most=0)
        assert [await ring_of(node) for node in cluster.nodes[2:]] == [5, 5, 5]
        assert [await files_of(node) for node in cluster.nodes[:2]] == [0, 0]
        assert [await files_of(node) > 0 for node in cluster.nodes[2:]] == [True] * 3


FILE_BYTES = 48 * 1024


async def bytes_received(cluster: Cluster) -> int:
    """By all nodes over the network, whatever they were."""
    clients = [node.client() for node in cluster.nodes]
    try:
        return sum([int((await client.stats())["bytes_read"]) for client in clients])
    finally:
        for client in clients:
            await client.close()


async def test_changes_move_at_most_a_tenth_more_than_the_ideal_bytes(tmp_path, fault_seconds):
    async with cluster_of(tmp_path / "c", 4, 1, proxies=1, webs=0) as cluster:
        commands = RingCommands(cluster)
        a, b, c, d, e = map(name_of, cluster.nodes)
        keys = [b"moved/%d" % number for number in range(200)]
        client = cluster.proxies[0].client()
        await asyncio.gather(*(client.set(key, key.ljust(FILE_BYTES, b".")) for key in keys))
        await client.close()
        ring = NodeRing([Member(name) for name in (a, b, c, d)], 3, partitions=PARTITIONS)
        changes = {("--add", e, "--remove", b, "--weight", f"{d}=2"): Change(add=(e,), remove=(b,), weights={d: 2})}
        if fault_seconds:  # each kind by itself, too
            changes |= {
                ("--add", b): Change(add=(b,)),
                ("--weight", f"{d}=1"): Change(weights={d: 1}),
                ("--remove", c): Change(remove=(c,)),
                ("--replace", f"{a}={c}"): Change(replace={a: c}),
            }
        for words, change in changes.items():
            following = next_ring(ring, change, lambda nodes: min(3, nodes))
            ideal = sum(FILE_BYTES * len(owners(following, key) - owners(ring, key)) for key in keys)
            before = await bytes_received(cluster)

            await commands.apply(*words)

            moved = await bytes_received(cluster) - before
            print(f"{' '.join(words)}: {moved:,} bytes moved, {moved / ideal:.3f} of the ideal")
            assert ideal <= moved <= 1.1 * ideal, words
            ring = following
            commands.know_all_nodes()


def owners(ring: NodeRing, key: bytes) -> set[str]:
    return {ring.members[index].name for index in ring.owners(key)}


async def test_a_change_whose_mover_and_parts_are_killed_is_carried_on_and_loses_nothing(
    tmp_path, history, fault_seconds
):
    rng = random.Random(f"{history.seed} ring change")
    until = time.monotonic() + (fault_seconds or 0)
    async with cluster_of(tmp_path / "c", 3, 1) as cluster:
        ring = RingCommands(cluster)
        *members, spare = cluster.nodes
        async with Workload(cluster.web_addresses, history, keys=keys_of("ring", 40), mix=MIX):
            trouble = asyncio.create_task(kill_one_after_another([*cluster.nodes, *cluster.proxies], rng))
            deaths = 0
            while deaths == 0 or time.monotonic() < until:
                leaving = members.pop(rng.randrange(3))
                change = ("--replace", f"{name_of(leaving)}={name_of(spare)}", "--despite-warnings")
                deaths += await ring.apply_with_deaths(rng, *change)
                members.append(spare)
                spare = leaving
            trouble.cancel()
            await asyncio.wait([trouble])
            await cluster.heal()
        await read_all(cluster.web_addresses, history)

        history.check()
        ring.know_all_nodes()
        await ring.apply()
        assert await files_of(spare) == 0
        print(f"the mover died {deaths} times, ring {await ring.number()}, {len(history.errors())} errors")


async def kill_one_after_another(parts: list[Part], rng: random.Random) -> None:
    while True:
        part = rng.choice(parts)
        part.kill()
        try:
            await asyncio.sleep(rng.uniform(0.1, 0.5))
        finally:
            part.launch()
        await part.serving()
        await asyncio.sleep(rng.uniform(0.3, 1.0))


async def test_a_dead_node_is_replaced_by_an_empty_one(tmp_path, history):
    async with cluster_of(tmp_path / "c", 3, 1) as cluster:
        ring = RingCommands(cluster)
        async with Workload(cluster.web_addresses, history, keys=keys_of("ring", 40), mix=MIX):
            await asyncio.sleep(1)
            cluster.nodes[1].kill()
            await ring.apply("--replace", f"{name_of(cluster.nodes[1])}={name_of(cluster.nodes[3])}")
            cluster.nodes[2].kill()  # what only the dead one and this one had would be gone now
            await asyncio.sleep(1)
            await cluster.nodes[2].start()
        await read_all(cluster.web_addresses, history)

        history.check()


async def test_a_change_that_is_given_up_leaves_the_files_where_they_were(tmp_path, history):
    async with cluster_of(tmp_path / "c", 3, 1) as cluster:
        ring = RingCommands(cluster)
        async with Workload(cluster.web_addresses, history, keys=keys_of("ring", 40), mix=MIX):
            await asyncio.sleep(1)
            mover = await begin(
                *ring.words("apply", "--add", name_of(cluster.nodes[3]), "--rate", "0.02", "--despite-warnings")
            )
            while await ring_of(cluster.nodes[0]) < 2:
                await asyncio.sleep(0.05)
            aborted = await ring.run("abort")
            out, error = await mover.communicate()
        await read_all(cluster.web_addresses, history)

        history.check()
        assert aborted.status == 0, (aborted.out, aborted.error)
        assert mover.returncode == 1
        assert "given up" in out.decode(), (out, error)
        assert await files_of(cluster.nodes[3]) == 0


async def test_coordinators_in_web_processes_follow_a_change(tmp_path, history):
    async with cluster_of(tmp_path / "c", 3, 1, direct=True, webs=2) as cluster:
        async with Workload(cluster.web_addresses, history, keys=keys_of("ring", 40), mix=MIX):
            await asyncio.sleep(1)
            conf = cluster.directory / "nodes.ini"
            servers = ",".join(name_of(node) for node in cluster.nodes[:3])
            conf.write_text(f"[default]\nservers = {servers}\npartitions = {PARTITIONS}\n")
            ended = await sfss(
                *("ring", "apply", "--conf", conf, "--despite-warnings"),
                *("--replace", f"{name_of(cluster.nodes[0])}={name_of(cluster.nodes[3])}"),
            )
        await read_all(cluster.web_addresses, history)

        assert ended.status == 0, (ended.out, ended.error)
        history.check()
