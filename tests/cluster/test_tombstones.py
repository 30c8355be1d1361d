"""Deleted files stay deleted when their tombstones are gone: a node was away, with the files, for longer than anybody
keeps notes of what it misses; everything else went on as if it never came back.

Files and deletions are written to the nodes directly, with stamps of half an hour ago, so that a grace time of ten
minutes is over at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sfss.errors import BadRequest
from sfss.keys import hash_key
from sfss.stamps import stamp_at
from sfss.store import Record, checksum_of
from tests.cluster.cluster import PROXY_TIMES, Cluster
from tests.cluster.http_client import HttpClient

pytestmark = pytest.mark.slow

DELETED = [b"deleted/%d" % number for number in range(12)]
KEPT = [b"kept/%d" % number for number in range(12)]
GRACE = "tombstone_days = 0.007\nhint_hours = 0.05\n"
AWAY, OFTEN = "compare_interval = 0\n", "compare_interval = 1\n"
_WAIT_S_MAX = 60.0

_REGION_BYTES = 16 * len("0/ 0123456789abcdef 0\r\n")
"""What a node tells of a region at least."""


def record_of(key: bytes, minutes_ago: float, tombstone: bool = False) -> Record:
    version = stamp_at(time.time() - 60 * minutes_ago)
    value = b"" if tombstone else b"%b " % key * 10
    return Record(value, len(value), 0, 0, version, checksum_of(key, value, 0, 0, version, tombstone), tombstone)


class Nodes:
    """The nodes of a cluster, each asked and written to by itself."""

    def __init__(self, cluster: Cluster, tally: Counter[str]) -> None:
        self._tally = tally
        self.clients = [node.client() for node in cluster.nodes]

    async def close(self) -> None:
        for client in self.clients:
            await client.close()

    async def write(self, records: dict[bytes, Record], among: int = 3) -> None:
        for client in self.clients[:among]:
            await asyncio.gather(*(client.apply(key, record) for key, record in records.items()))
            self._tally.update(operations=len(records), acknowledged=len(records))

    async def held(self, key: bytes) -> list[Record | None]:
        return await asyncio.gather(*(client.inspect(key) for client in self.clients))

    async def purged(self, among: int = 3) -> bool:
        """Whether so many nodes have purged each region of a deleted file."""
        regions = {hash_key(key) >> 56 for key in DELETED}
        told = await asyncio.gather(*(client.purged(region) for client in self.clients[:among] for region in regions))
        return all(one.bound for one in told)


async def compare_from_now_on(cluster: Cluster) -> None:
    """Start the proxy again, with comparisons of everything once a second, or as soon as they can be done."""
    [proxy] = cluster.proxies
    await proxy.stop()
    file = cluster.directory / "proxy-0.ini"
    file.write_text(file.read_text().replace(AWAY, OFTEN))
    await proxy.start()


async def all_compared_in_part(cluster: Cluster) -> bool:
    """Whether the proxy has asked two nodes for every region since it was started."""
    client = cluster.proxies[0].client()
    try:
        return int((await client.stats())["comparison_bytes"]) >= 2 * 256 * _REGION_BYTES
    finally:
        await client.close()


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    give_up = time.monotonic() + _WAIT_S_MAX
    while not await look():
        assert time.monotonic() < give_up, f"not after {_WAIT_S_MAX} s"
        await asyncio.sleep(0.1)


async def statuses(cluster: Cluster, keys: list[bytes]) -> list[int]:
    client = HttpClient(*cluster.webs[0].address)
    found = [(await client.request("GET", f"/file?path={key.decode()}")).status for key in keys]
    client.close()
    return found


async def purged_or_back(cluster: Cluster, nodes: Nodes) -> bool:
    return await nodes.purged() or 200 in await statuses(cluster, DELETED)


async def away_with_deleted_files(directory: Path, tally: Counter[str], **plants: str) -> None:
    """A node is away with files that are deleted meanwhile, and all replicas are compared; it comes back, and all are
    compared until every tombstone is purged. No file may come back, and none be lost."""
    settings = PROXY_TIMES + GRACE + AWAY
    async with Cluster(directory, nodes=3, proxies=1, webs=1, proxy_settings=settings, plants=plants) as cluster:
        nodes = Nodes(cluster, tally)
        files = {key: record_of(key, 30) for key in (*DELETED, *KEPT)}
        await nodes.write(files)
        await cluster.nodes[2].stop()
        await nodes.write({key: record_of(key, 20, tombstone=True) for key in DELETED}, among=2)
        await compare_from_now_on(cluster)
        if "proxy" in plants:
            await until(lambda: nodes.purged(among=2))
        else:
            await until(lambda: all_compared_in_part(cluster))
            assert not await nodes.purged(among=2)

        await cluster.nodes[2].start()
        await compare_from_now_on(cluster)
        await until(lambda: purged_or_back(cluster, nodes))

        assert await statuses(cluster, DELETED) == [404] * len(DELETED), "deleted files came back"
        assert await statuses(cluster, KEPT) == [200] * len(KEPT)
        for key in DELETED:
            assert await nodes.held(key) == [None] * 3, "nobody needs the tombstone any more"
            for client in nodes.clients:
                with pytest.raises(BadRequest):
                    await client.apply(key, files[key])
        await nodes.close()


async def test_no_deleted_file_comes_back_when_its_tombstone_is_gone(tmp_path: Path, tally: Counter[str]) -> None:
    await away_with_deleted_files(tmp_path, tally, node="purged-is-gone")


async def test_a_purge_that_does_not_ask_all_owners_is_caught(tmp_path: Path, tally: Counter[str]) -> None:
    with pytest.raises(AssertionError, match="deleted files came back"):
        await away_with_deleted_files(tmp_path, tally, node="purged-is-gone", proxy="purge-by-those-present")
