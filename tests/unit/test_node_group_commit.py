"""What holds while one batch is on its way to disk and the next is laid out behind it."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodes.options import Sync
from nodes.scan import Batch, reader_of, walk
from nodes.store import NodeStore
from nodes.volume import read_header
from nodes.writer import Writer
from sfss.errors import OutOfDisk, Unavailable
from sfss.store import Written, settled
from tests.unit.small_nodes import data_end, died, newest_volume, node


class SlowDisk:
    """Holds appends until `go`; the first of them fails when `first` raises."""

    def __init__(self, patch: pytest.MonkeyPatch, first: Callable[[], None] = lambda: None) -> None:
        self.go = threading.Event()
        self.twice = threading.Event()
        self.appends: list[bytes] = []
        self._first = first
        self._write = os.pwritev
        patch.setattr(os, "pwritev", self._append)

    def _append(self, fd: int, buffers: list[bytes], offset: int, flags: int = 0) -> int:
        assert self.go.wait(30)
        self.appends.append(b"".join(buffers))
        if len(self.appends) == 1:
            self._first()
        written = self._write(fd, buffers, offset, flags)
        if len(self.appends) == 2:
            self.twice.set()
        return written


def fail(number: int) -> Callable[[], None]:
    def first() -> None:
        raise OSError(number, os.strerror(number))

    return first


async def laid_out_behind(store: NodeStore, batches: int) -> None:
    """Let the loop lay out what waits, and see that it did."""
    await asyncio.sleep(0)
    assert len(store._writer._batches) == batches


async def test_the_disk_goes_on_to_the_next_batch_without_the_loop(tmp_path, monkeypatch):
    async with node(tmp_path) as store:
        await settled(store.set(b"volume", b"begun"))
        disk = SlowDisk(monkeypatch)
        one = store.set(b"one", b"v")
        await laid_out_behind(store, 1)
        two = store.set(b"two", b"v")
        await laid_out_behind(store, 2)

        disk.go.set()
        assert disk.twice.wait(30), "the loop stands still here"

        assert not one.done()
        await asyncio.gather(one, two)
    async with node(tmp_path) as store:
        assert (await settled(store.read(b"one"))).value == (await settled(store.read(b"two"))).value == b"v"


async def test_a_batch_is_not_split_into_smaller_ones(tmp_path, monkeypatch):
    async with node(tmp_path) as store:
        disk = SlowDisk(monkeypatch)
        writes = [store.set(b"a%d" % number, b"v") for number in range(4)]
        await laid_out_behind(store, 1)
        for number in range(3):
            writes.append(store.set(b"b%d" % number, b"v"))
            await laid_out_behind(store, 1)
        writes.append(store.set(b"b3", b"v"))
        await laid_out_behind(store, 2)
        writes += [store.set(b"c%d" % number, b"v") for number in range(9)]
        await laid_out_behind(store, 2)

        disk.go.set()
        await asyncio.gather(*writes)

        assert len(disk.appends) == 3


@pytest.mark.parametrize("sync", [Sync.ALWAYS, Sync.INTERVAL])
async def test_a_batch_says_only_what_is_durable_before_it(tmp_path, monkeypatch, sync):
    async with node(tmp_path, sync=sync, sync_interval_s=3600.0) as store:
        await settled(store.set(b"volume", b"begun"))
        disk = SlowDisk(monkeypatch)
        one = store.set(b"one", b"v")
        await laid_out_behind(store, 1)
        two = store.set(b"two", b"v")
        await laid_out_behind(store, 2)
        disk.go.set()
        await asyncio.gather(one, two)

    said = durable_said(newest_volume(tmp_path))
    assert len(said) == 3
    if sync is Sync.ALWAYS:
        assert all(durable == position for position, durable in said[1:])
    else:
        assert all(durable == said[0][1] for _, durable in said)


def durable_said(volume: Path) -> list[tuple[int, int]]:
    """For each batch its position, and the position that it says was durable."""
    header = read_header(volume)
    assert header is not None
    fd = os.open(volume, os.O_RDONLY)
    try:
        events = list(walk(reader_of(fd), header, 4096, data_end(volume), values=False))
    finally:
        os.close(fd)
    return [(header.position + event.offset, event.header.durable) for event in events if isinstance(event, Batch)]


@pytest.mark.parametrize(("number", "refusal"), [(errno.ENOSPC, OutOfDisk), (errno.EFBIG, Unavailable)])
@pytest.mark.parametrize("size", [1, 40_000], ids=["same volume", "next volume"])
async def test_behind_a_failed_batch_plain_writes_fail_and_deletes_go_on(tmp_path, monkeypatch, size, number, refusal):
    async with node(tmp_path) as store:
        await settled(store.set(b"doomed", b"v"))
        disk = SlowDisk(monkeypatch, fail(number))
        first = store.set(b"first", bytes(size))
        await laid_out_behind(store, 1)
        behind: list[Any] = [store.set(b"behind", bytes(size)), store.delete(b"doomed")]
        await laid_out_behind(store, 2)
        waiting = store.set(b"waiting", b"v")
        disk.go.set()
        results = await asyncio.gather(first, *behind, waiting, return_exceptions=True)

        assert [type(result) for result in results] == [refusal, refusal, Written, refusal]
        assert len(disk.appends) == 2
        await settled(store.set(b"after", b"v"))
        assert store.stats()["pending_bytes"] == "0"
    assert len(list((tmp_path / "volumes").iterdir())) == 1
    async with node(tmp_path) as store:
        assert (await settled(store.read(b"after"))).value == b"v"
        assert [key for key in (b"doomed", b"first", b"behind", b"waiting") if store.get(key)] == []


async def test_nothing_is_written_behind_a_failed_sync(tmp_path, monkeypatch):
    deaths: list[str] = []
    store = await NodeStore.open(tmp_path, die=deaths.append)
    disk = SlowDisk(monkeypatch, fail(errno.EIO))
    one = store.set(b"one", b"v")
    await laid_out_behind(store, 1)
    two = store.set(b"two", b"v")
    await laid_out_behind(store, 2)

    disk.go.set()
    await died(deaths)
    store._writer._worker.join(30)

    assert len(disk.appends) == 1
    assert not one.done()
    assert not two.done()
    store._directory.close()
    for task in (store._indexer._task, store._compactor._task, *store._housekeeper._tasks):
        task.cancel()


async def test_a_sync_that_is_wished_for_does_not_wait_behind_ever_more_batches(tmp_path, monkeypatch):
    async with node(tmp_path, sync=Sync.INTERVAL, sync_interval_s=3600.0) as store:
        writer: Writer = store._writer
        await settled(store.set(b"acknowledged", b"v"))
        disk = SlowDisk(monkeypatch)
        one = store.set(b"one", b"v")
        await laid_out_behind(store, 1)
        appended_then: list[int] = []
        writer.when_synced(lambda: appended_then.append(len(disk.appends)))
        two = store.set(b"two", b"v")
        await laid_out_behind(store, 1)

        disk.go.set()
        await asyncio.gather(one, two)

        assert appended_then == [1]
