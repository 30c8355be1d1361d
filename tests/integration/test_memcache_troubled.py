"""A node and a proxy that can't serve say why, in one line: never END, never STORED, and the connection goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from memcache_tier import WAYS, connected, serving

from nodes.identity import DataDirectory
from nodes.options import NodeOptions
from nodes.store import NodeStore
from sfss.errors import CorruptRecord, Outcome, OutOfDisk, Recovering, SfssError
from sfss.memcache.server import MemcacheServer, ServerLimits
from sfss.memory import MemoryStore
from sfss.store import NO_CALL, Applied, Call, Record, Seen, settled
from tests.integration.test_proxy_cluster import Nodes, opened, running
from tests.unit.small_nodes import newest_volume

VALUE = b"a value that is not there twice"
OPTIONS = replace(NodeOptions(), reserve_bytes=0, preallocate_bytes=0)


@asynccontextmanager
async def node(directory: Path, limits: ServerLimits | None = None) -> AsyncIterator[MemcacheServer]:
    """A node's server. It has a file `a`."""
    store = await NodeStore.open(directory, OPTIONS)
    try:
        await settled(store.set(b"a", VALUE))
        async with serving(store, limits=limits or ServerLimits()) as server:
            yield server
    finally:
        await store.close()


@asynccontextmanager
async def corrupt_node(directory: Path, _: pytest.MonkeyPatch) -> AsyncIterator[MemcacheServer]:
    async with node(directory) as server:
        volume = newest_volume(directory)
        with volume.open("r+b") as file:
            file.seek(volume.read_bytes().index(VALUE))
            file.write(b"A")
        yield server


@asynccontextmanager
async def recovering_node(directory: Path, _: pytest.MonkeyPatch) -> AsyncIterator[MemcacheServer]:
    async with node(directory):
        pass
    identity = DataDirectory.open(directory)
    identity.save(replace(identity.load(), suspect="a test says so"))
    identity.close()
    async with serving(await NodeStore.open(directory, OPTIONS)) as server:
        yield server
        await server.service.store.close()


@asynccontextmanager
async def full_node(directory: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[MemcacheServer]:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with node(directory) as server:
        patch.setattr(os, "posix_fallocate", refuse)
        yield server


@asynccontextmanager
async def busy_node(directory: Path, _: pytest.MonkeyPatch) -> AsyncIterator[MemcacheServer]:
    async with node(directory) as server:
        server.bytes_held += server.limits.bytes_held_max + 1
        yield server


class Failing(MemoryStore):
    """A replica that answers reads and writes with an error, once it has one for them."""

    reads: SfssError | None = None
    writes: SfssError | None = None

    def read(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        _raise(self.reads)
        return super().read(key, call)

    def inspect(self, key: bytes, call: Call = NO_CALL) -> Seen | None:
        _raise(self.reads)
        return super().inspect(key, call)

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Applied:
        _raise(self.writes)
        return super().apply(key, record, call)


def _raise(error: SfssError | None) -> None:
    if error is not None:
        raise error


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[Nodes, MemcacheServer]]:
    """A proxy's server, and its three nodes. They have a file `a`."""
    async with running(store=lambda name: Failing(node=name, durable=True)) as nodes, opened(nodes) as cluster:
        await settled(cluster.coordinator.set(b"a", VALUE))
        async with serving(cluster.coordinator) as server:
            yield nodes, server


@asynccontextmanager
async def proxy_of_corrupt_nodes(_: Path, __: pytest.MonkeyPatch) -> AsyncIterator[MemcacheServer]:
    async with proxy() as (nodes, server):
        for store in nodes.stores:
            store.reads = CorruptRecord("rot")  # type: ignore[attr-defined]
        yield server


@asynccontextmanager
async def proxy_of_recovering_nodes(_: Path, __: pytest.MonkeyPatch) -> AsyncIterator[MemcacheServer]:
    async with proxy() as (nodes, server):
        for store in nodes.stores[:2]:
            store.reads = Recovering("it forgot")  # type: ignore[attr-defined]
            store.writes = Recovering("it forgot", Outcome.UNKNOWN)  # type: ignore[attr-defined]
        yield server


@asynccontextmanager
async def proxy_of_full_nodes(_: Path, __: pytest.MonkeyPatch) -> AsyncIterator[MemcacheServer]:
    async with proxy() as (nodes, server):
        for store in nodes.stores:
            store.writes = OutOfDisk("full")  # type: ignore[attr-defined]
        yield server


@asynccontextmanager
async def proxy_of_one_node_left(_: Path, __: pytest.MonkeyPatch) -> AsyncIterator[MemcacheServer]:
    async with proxy() as (nodes, server):
        for index in (0, 1):
            await nodes.stop(index)
        yield server


@asynccontextmanager
async def busy_proxy(_: Path, __: pytest.MonkeyPatch) -> AsyncIterator[MemcacheServer]:
    async with proxy() as (_, server):
        server.bytes_held += server.limits.bytes_held_max + 1
        yield server


GET, GETS, MG = b"get a\r\n", b"gets b a\r\n", b"mg a v\r\n"
MISS = b"get b\r\n"
SET, MS = b"set c 0 0 9\r\nget a\r\n x\r\n", b"ms c 9\r\nget a\r\n x\r\n"
DELETE, MD = b"delete a\r\n", b"md a\r\n"

CORRUPT, RECOVERING = b"SERVER_ERROR corrupt\r\n", b"SERVER_ERROR recovering\r\n"
FULL, BUSY = b"SERVER_ERROR out of disk\r\n", b"SERVER_ERROR busy\r\n"
NO_QUORUM, PERHAPS = b"SERVER_ERROR quorum unavailable not-applied ", b"SERVER_ERROR quorum unavailable unknown "

Trouble = Callable[[Path, pytest.MonkeyPatch], AbstractAsyncContextManager[MemcacheServer]]

TROUBLES: dict[Trouble, dict[bytes, bytes]] = {
    # What is said, and how the answer begins.
    corrupt_node: dict.fromkeys((GET, GETS, MG), CORRUPT),
    recovering_node: {
        **dict.fromkeys((GET, GETS, MG, MISS), RECOVERING),
        **dict.fromkeys((SET, MS, DELETE), PERHAPS),  # it is stored, and counts for nothing
        MD: RECOVERING,  # there was nothing left to delete
    },
    full_node: dict.fromkeys((SET, MS, DELETE, MD), FULL),  # without a reserve
    busy_node: dict.fromkeys((GET, GETS, MG, MISS, SET, MS, DELETE, MD), BUSY),
    proxy_of_corrupt_nodes: dict.fromkeys((GET, GETS, MG), NO_QUORUM),
    proxy_of_recovering_nodes: dict.fromkeys((GET, GETS, MG, MISS, DELETE, SET, MS, MD), NO_QUORUM),
    proxy_of_full_nodes: dict.fromkeys((SET, MS, DELETE, MD), FULL),
    proxy_of_one_node_left: dict.fromkeys((GET, GETS, MG, MISS, SET, MS, DELETE, MD), NO_QUORUM),
    busy_proxy: dict.fromkeys((GET, GETS, MG, MISS, SET, MS, DELETE, MD), BUSY),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("trouble", TROUBLES, ids=[trouble.__name__ for trouble in TROUBLES])
async def test_trouble_is_said_in_one_line_and_the_connection_stays_in_step(
    trouble: Trouble, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trouble(tmp_path, monkeypatch) as server, connected(server) as client:
        for said, begins in TROUBLES[trouble].items():
            answer = await client.answer(said, way)

            assert answer.startswith(begins), (said, answer)
            assert answer.count(b"\r\n") == 1, (said, answer)
