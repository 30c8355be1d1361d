"""What works behind the answers (indexer, housekeeper, compaction, scrubbing) survives an error or ends the process;
it never stops in silence."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from dataclasses import replace

import lmdb
import pytest

from nodes import compaction, housekeeping, scrub
from nodes.index import Index, IndexDiskFull
from nodes.store import NodeStore
from sfss.errors import OutOfDisk
from sfss.store import settled
from tests.unit.small_nodes import SMALL, died, node


def failing(error: Exception) -> Callable[..., None]:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    return fail


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.001)


# --- the indexer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("commit", OSError(errno.EIO, "bad sector")),
        ("commit", RuntimeError("can't start new thread")),
        ("refresh", lmdb.ReadersFullError("no slot")),
        ("lacks_room_for", lmdb.Error("the map is gone")),
    ],
)
async def test_an_index_that_cannot_go_on_ends_the_process(tmp_path, monkeypatch, step, error):
    deaths: list[str] = []
    store = await NodeStore.open(tmp_path, SMALL, die=deaths.append)
    await settled(store.set(b"k", b"v"))
    monkeypatch.setattr(Index, step, failing(error))

    committing = asyncio.ensure_future(store._indexer.commit())
    await died(deaths)

    assert repr(error) in deaths[0]
    assert (await settled(store.get(b"k"))).value == b"v"
    committing.cancel()
    monkeypatch.undo()
    await store.close()
    async with node(tmp_path) as store:
        assert (await settled(store.get(b"k"))).value == b"v"


async def test_a_stop_while_the_index_cannot_be_written_loses_nothing(tmp_path, monkeypatch):
    """What a failed commit left out is not passed over by the last one."""
    commit = Index.commit
    failed, may_fail = threading.Event(), threading.Event()

    def fail_once(*arguments: object) -> None:
        if failed.is_set():
            return commit(*arguments)
        may_fail.wait(30)
        failed.set()
        raise IndexDiskFull("no room")

    store = await NodeStore.open(tmp_path, SMALL)
    await settled(store.set(b"before", b"1"))
    monkeypatch.setattr(Index, "commit", fail_once)
    committing = asyncio.ensure_future(store._indexer.commit())
    await until(lambda: bool(store._overlay.frozen))
    await settled(store.set(b"after", b"2"))
    closing = asyncio.ensure_future(store.close())
    await until(store._indexer._closing.is_set)
    may_fail.set()
    await closing
    committing.cancel()

    async with node(tmp_path) as store:
        assert (await settled(store.get(b"before"))).value == b"1"
        assert (await settled(store.get(b"after"))).value == b"2"


async def test_a_stop_while_writes_wait_for_an_index_that_cannot_be_written_is_soon_done(tmp_path, monkeypatch):
    monkeypatch.setattr(Index, "commit", failing(IndexDiskFull("no room")))
    store = await NodeStore.open(tmp_path, replace(SMALL, overlay_entries_max=10))
    writes = [settled(store.set(b"k%d" % number, b"v")) for number in range(3000)]
    acknowledged = asyncio.gather(*writes)
    await until(lambda: store._writer._held)

    async with asyncio.timeout(10):
        await store.close()
        await acknowledged

    monkeypatch.undo()
    async with node(tmp_path) as store:
        assert store.stats()["curr_items"] == "3000"


async def test_who_waits_for_an_index_that_finds_no_room_is_told_so_and_the_stop_waits_for_nobody(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(Index, "commit", failing(IndexDiskFull("no room")))
    store = await NodeStore.open(tmp_path, replace(SMALL, index_interval_s=0.05), now=lambda: 2e9)
    await settled(store.bind("new", 1, "print"))
    await settled(store.set(b"k", b"v"))

    async with asyncio.timeout(10):
        for _ in range(2):
            with pytest.raises(OutOfDisk):
                await settled(store.purge(7, 1, 1, 1))
        purging = asyncio.ensure_future(settled(store.purge(7, 1, 1, 1)))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(OutOfDisk):
            await purging


# --- the others ------------------------------------------------------------------------------------------


async def test_the_reserve_grows_back_after_the_disk_failed_to_give_it_room(tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "_PERIOD_S", 0.001)
    failures = 0

    def fail(fd: int) -> None:
        nonlocal failures
        failures += 1
        raise OSError(errno.EIO, "bad sector")

    async with node(tmp_path, reserve_bytes=1 << 20) as store:
        store._reserve.release(1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstatvfs", fail)
            await until(lambda: failures > 2)
        await until(lambda: not store._reserve.short)


async def test_a_volume_that_fails_to_be_compacted_keeps_no_other_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "_PAUSE_S", 0.001)

    def fail_in_the_first(walker: compaction._Walker) -> compaction._Slice:
        if walker._volume.number == 1:
            raise lmdb.CorruptedError("a page is rotten")
        return next_slice(walker)

    next_slice = compaction._Walker.next_slice
    monkeypatch.setattr(compaction._Walker, "next_slice", fail_in_the_first)
    async with node(tmp_path) as store:
        for number in range(10):
            for key in range(5):
                await settled(store.set(b"k%d" % key, b"%d" % number * 3000))
        await until(lambda: store._compactor.compacted > 0)

        assert 1 in store._volumes.by_number
        assert (await settled(store.get(b"k4"))).value == b"9" * 3000


async def test_scrubbing_goes_on_behind_a_volume_that_it_fails_to_read(tmp_path, monkeypatch):
    next_slice = scrub._Walker.next_slice

    def fail_in_the_first(walker: scrub._Walker) -> scrub._Slice:
        if walker._number == 1:
            raise lmdb.CorruptedError("a page is rotten")
        return next_slice(walker)

    monkeypatch.setattr(scrub._Walker, "next_slice", fail_in_the_first)
    async with node(tmp_path) as store:
        for number in range(10):
            await settled(store.set(b"k%d" % number, bytes(20_000)))
        await store._scrubber.scrub()

        assert int(store.stats()["scrubbed_bytes"]) > 100_000
