"""Replicas that were made to differ behind everybody's back are brought together, and nothing else is moved.

The nodes are written to directly, with stamps of an hour ago: a write that never reached an owner, one that reached
only one, deletes alike. The proxy is then told to compare, and what the nodes hold is compared with what was written. A
node that knows that it forgot something gets it back likewise, without being told to.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sfss.memcache.client import MemcacheClient
from sfss.ring import PARTITIONS, Member, NodeRing
from sfss.stamps import COUNT_BITS
from sfss.store import Record, checksum_of
from tests.cluster.cluster import PROXY_TIMES, Cluster

pytestmark = pytest.mark.slow

COPIES = 3
_SIDE_BY_SIDE = 200
_PASS_S_MAX = 90.0


def record_of(key: bytes, minutes_ago: float, tombstone: bool = False) -> Record:
    version = int((time.time() - 60 * minutes_ago) * 1000) << COUNT_BITS
    value = b"" if tombstone else b"%b %d " % (key, minutes_ago) * 10
    checksum = checksum_of(key, value, 0, 0, version, tombstone)
    return Record(value, len(value), 0, 0, version, checksum, tombstone)


class Nodes:
    """The nodes of a cluster, each asked and written to by itself."""

    def __init__(self, cluster: Cluster, tally: Counter[str]) -> None:
        self._tally = tally
        self._clients = {f"localhost:{node.port}": node.client() for node in cluster.nodes}
        self._ring = NodeRing([Member(name) for name in self._clients], COPIES)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()

    def owners(self, key: bytes) -> list[MemcacheClient]:
        return [self._clients[name] for name in self.names(key)]

    def names(self, key: bytes) -> list[str]:
        return [self._ring.members[index].name for index in self._ring.owners(key)]

    async def write(self, writes: Sequence[tuple[MemcacheClient, bytes, Record]]) -> None:
        for first in range(0, len(writes), _SIDE_BY_SIDE):
            some = writes[first : first + _SIDE_BY_SIDE]
            applied = await asyncio.gather(*(client.apply(key, record) for client, key, record in some))
            assert all(each.accepted for each in applied)
            self._tally.update(operations=len(applied), acknowledged=len(applied))

    async def wrong(self, expected: dict[bytes, Record]) -> list[bytes]:
        """The keys of which an owner doesn't hold what it should."""
        wrong = []
        keys = list(expected)
        for first in range(0, len(keys), _SIDE_BY_SIDE):
            some = keys[first : first + _SIDE_BY_SIDE]
            held = await asyncio.gather(
                *(asyncio.gather(*(owner.read(key) for owner in self.owners(key))) for key in some)
            )
            wrong += [key for key, records in zip(some, held, strict=True) if set(records) != {expected[key]}]
        return wrong


async def diverge(nodes: Nodes, count: int, apart: int, rng: random.Random) -> dict[bytes, Record]:
    """Write `count` keys, `apart` of them so that their owners differ; returns what all should come to hold."""
    keys = [b"folder/%d/%d" % (number % 97, number) for number in range(count)]
    expected: dict[bytes, Record] = {}
    writes: list[tuple[MemcacheClient, bytes, Record]] = []
    different = set(rng.sample(keys, apart))
    for key in keys:
        owners = nodes.owners(key)
        old = record_of(key, 120)
        if key not in different:
            expected[key] = old
            writes += [(owner, key, old) for owner in owners]
            continue
        # Some owners have the newest record, the others an older one or none.
        rng.shuffle(owners)
        newest = record_of(key, 60, tombstone=rng.random() < 0.2)
        behind = rng.randint(1, COPIES - 1)
        expected[key] = newest
        writes += [(owner, key, newest) for owner in owners[behind:]]
        writes += [(owner, key, old) for owner in owners[:behind] if rng.random() < 0.5]
    await nodes.write(writes)
    return expected


@asynccontextmanager
async def cluster_that_compares_nothing(
    directory: Path, nodes: int, plants: dict[str, str] | None = None
) -> AsyncIterator[Cluster]:
    settings = f"{PROXY_TIMES}compare_interval = 0\ncompare_settle = 4\n"
    async with Cluster(directory, nodes=nodes, proxies=1, webs=1, proxy_settings=settings, plants=plants) as cluster:
        yield cluster


async def compare_from_now_on(cluster: Cluster, interval_s: int) -> None:
    """Start the proxy again, with a comparison of everything in so many seconds."""
    [proxy] = cluster.proxies
    await proxy.stop()
    file = cluster.directory / "proxy-0.ini"
    file.write_text(file.read_text().replace("compare_interval = 0", f"compare_interval = {interval_s}"))
    await proxy.start()


async def passes(cluster: Cluster, partitions: int) -> dict[str, int]:
    """Wait until so many partitions were compared, and return the figures of the comparison."""
    [proxy] = cluster.proxies
    client = proxy.client()
    give_up = time.monotonic() + _PASS_S_MAX
    try:
        while True:
            stats = await client.stats()
            figures = {name: int(value) for name, value in stats.items() if name.startswith("comparison_")}
            if figures["comparison_partitions"] >= partitions:
                return figures
            assert time.monotonic() < give_up, f"{figures} after {_PASS_S_MAX} s"
            await asyncio.sleep(0.2)
    finally:
        await client.close()


async def test_anti_entropy_repairs_exactly_what_differs_and_then_moves_nothing(tmp_path, rng, fault_seconds, tally):
    count = 20_000 if fault_seconds else 2_000
    apart = count // 20
    async with cluster_that_compares_nothing(tmp_path, nodes=5) as cluster:
        nodes = Nodes(cluster, tally)
        expected = await diverge(nodes, count, apart, rng)
        assert len(await nodes.wrong(expected)) == apart

        await compare_from_now_on(cluster, interval_s=5)
        first = await passes(cluster, PARTITIONS)

        assert await nodes.wrong(expected) == []
        assert first["comparison_repaired_keys"] == apart
        assert first["comparison_unrepaired"] == 0
        second = await passes(cluster, first["comparison_partitions"] + PARTITIONS)
        assert second["comparison_repaired_keys"] == apart
        assert second["comparison_repaired_bytes"] == first["comparison_repaired_bytes"]
        print(f"first pass {first}, second {second}")
        await nodes.close()


async def test_a_comparison_that_spreads_the_older_record_is_caught(tmp_path, rng, tally):
    plants = {"proxy": "oldest-spread"}
    async with cluster_that_compares_nothing(tmp_path, nodes=3, plants=plants) as cluster:
        nodes = Nodes(cluster, tally)
        expected = await diverge(nodes, count=200, apart=50, rng=rng)

        await compare_from_now_on(cluster, interval_s=3)
        await passes(cluster, PARTITIONS)

        assert await nodes.wrong(expected) != []
        await nodes.close()


def damage_headers(home: Path, keys: Sequence[bytes]) -> None:
    """Flip a bit in the header of each key's record, and take the index away that would know what is lost."""
    shutil.rmtree(home / "index")
    for volume in (home / "volumes").glob("*.volume"):
        content = bytearray(volume.read_bytes())
        for key in keys:
            at = content.find(key + key + b" ")  # the key, and its value that begins with it
            if at >= 0:
                content[at - 20] ^= 1
        volume.write_bytes(content)


async def test_a_node_that_forgot_gets_it_back_and_is_trusted_again_by_itself(tmp_path, rng, tally):
    async with cluster_that_compares_nothing(tmp_path, nodes=4) as cluster:
        nodes = Nodes(cluster, tally)
        expected = await diverge(nodes, count=2000, apart=0, rng=rng)
        forgetful = cluster.nodes[1]
        client = forgetful.client()
        owned = [key for key in expected if f"localhost:{forgetful.port}" in nodes.names(key)]
        await forgetful.stop()
        damage_headers(cluster.data_of(forgetful.name), rng.sample(owned, 50))

        await forgetful.start()

        assert (await client.identify()).state == "suspect"
        give_up = time.monotonic() + _PASS_S_MAX
        while (await client.identify()).state == "suspect":
            assert time.monotonic() < give_up, f"{forgetful.name} is not refilled\n{cluster.tails()}"
            await asyncio.sleep(0.1)
        assert await nodes.wrong(expected) == []
        [proxy] = cluster.proxies
        stats = await proxy.client().stats()
        assert stats["refilled_nodes"] == "1"
        assert int(stats["refill_keys"]) >= 50
        await client.close()
        await nodes.close()
