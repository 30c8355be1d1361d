"""What a node promises while its disk is full, beyond one write that is refused."""

from __future__ import annotations

import asyncio
import errno
import os
import threading

import pytest

from nodes.identity import DataDirectory, NodeState
from nodes.reserve import Reserve
from nodes.store import NodeStore
from sfss.errors import OutOfDisk
from sfss.store import Record, checksum_of, settled
from tests.unit.small_nodes import SMALL, died, node

RESERVE_BYTES = 8 * 1024 * 1024


def stamped(key: bytes, value: bytes, version: int) -> Record:
    return Record(value, len(value), 0, 0, version, checksum_of(key, value, 0, 0, version, False), False)


async def test_a_delete_whose_successor_is_refused_is_not_undone_by_an_older_write(tmp_path, monkeypatch):
    async with node(tmp_path, reserve_bytes=RESERVE_BYTES) as store:
        await settled(store.apply(b"k", stamped(b"k", b"first", 1)))
        allocate, write = os.posix_fallocate, os.pwritev
        may_write = threading.Event()

        def refuse(fd: int, offset: int, size: int) -> None:
            if not store._reserve.short:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            allocate(fd, offset, size)

        def write_later(fd: int, buffers: list[bytes], offset: int, flags: int) -> int:
            may_write.wait(30)
            return write(fd, buffers, offset, flags)

        monkeypatch.setattr(os, "posix_fallocate", refuse)
        monkeypatch.setattr(os, "pwritev", write_later)
        refused = store.set(b"big", bytes(40_000))
        deleting = store.delete(b"k")
        await asyncio.sleep(0)  # these two are a batch now
        again = store.set(b"k", b"second")
        results = await asyncio.gather(refused, again, return_exceptions=True)
        assert [type(result) for result in results] == [OutOfDisk, OutOfDisk]

        late = store.apply(b"k", stamped(b"k", b"late", 2))
        may_write.set()

        deleted = await deleting
        assert not (await settled(late)).accepted
        assert store.read(b"k").tombstone
        assert store.read(b"k").version == deleted.version


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_disk_or_a_quota_that_is_full_leaves_deletes_the_reserve(tmp_path, monkeypatch, number):
    async with node(tmp_path, reserve_bytes=RESERVE_BYTES, preallocate_bytes=0) as store:
        await settled(store.set(b"k", b"v"))
        allocate = os.posix_fallocate

        def refuse(fd: int, offset: int, size: int) -> None:
            if not store._reserve.short:
                raise OSError(number, os.strerror(number))
            allocate(fd, offset, size)

        monkeypatch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(OutOfDisk):
            await settled(store.set(b"next", b"v"))
        assert await settled(store.delete(b"k")) is not None
        assert store.get(b"k") is None


async def test_a_node_starts_and_stops_on_a_full_disk(tmp_path, monkeypatch):
    """It still has files to read and to delete."""
    async with node(tmp_path, reserve_bytes=RESERVE_BYTES) as store:
        await settled(store.set(b"k", b"v"))
    save = DataDirectory.save

    def save_if_there_is_room(directory: DataDirectory, state: NodeState) -> None:
        if directory.reserve.stat().st_size == RESERVE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(directory, state)

    monkeypatch.setattr(DataDirectory, "save", save_if_there_is_room)
    async with node(tmp_path, reserve_bytes=RESERVE_BYTES) as store:
        assert (await settled(store.get(b"k"))).value == b"v"
        assert store.identify().epoch == 2
        store._reserve.fill()
    async with node(tmp_path, reserve_bytes=RESERVE_BYTES) as store:
        assert store.identify().epoch == 3
        assert store.stats()["replayed_records"] == "0"


async def test_a_stop_that_cannot_save_who_the_node_is_lets_the_directory_go(tmp_path, monkeypatch):
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"v"))

        def refuse(directory: DataDirectory, state: NodeState) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(DataDirectory, "save", refuse)
    monkeypatch.undo()
    async with node(tmp_path) as store:
        assert (await settled(store.get(b"k"))).value == b"v"


def test_room_is_made_only_as_far_as_the_disk_lacks_it(tmp_path, monkeypatch):
    reserve = Reserve(tmp_path / "reserve", RESERVE_BYTES)
    try:
        reserve.fill()
        monkeypatch.setattr(reserve, "_free_bytes", lambda: RESERVE_BYTES - reserve.held_bytes)
        reserve.make_room(0)
        assert not reserve.short

        reserve.make_room(RESERVE_BYTES // 4)
        assert reserve.held_bytes == RESERVE_BYTES * 3 // 4
        reserve.make_room(2 * RESERVE_BYTES)
        assert reserve.held_bytes == 0
    finally:
        reserve.close()


async def test_a_volume_whose_beginning_cannot_be_synced_ends_the_node(tmp_path, monkeypatch):
    deaths: list[str] = []
    store = await NodeStore.open(tmp_path, SMALL, die=deaths.append)

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(os, "fsync", fail)
    writing = store.set(b"k", b"v")
    await died(deaths)

    assert "sync" in deaths[0]
    assert not writing.done()
    store._directory.close()
    for task in (store._indexer._task, store._compactor._task, *store._housekeeper._tasks):
        task.cancel()
