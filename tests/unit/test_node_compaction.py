"""Compaction gives room back and loses nothing, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from pathlib import Path

import pytest

from nodes import compaction
from nodes.checker import check_directory
from nodes.entry import index_key
from nodes.store import NodeStore
from sfss.errors import CorruptRecord
from sfss.store import settled
from tests.unit.small_nodes import Clock, killed, node, take_turns_on_disk


async def compacted(store: NodeStore) -> int:
    """Compact all that is worth it; returns how many volumes went."""
    before = store._compactor.compacted
    store._compactor._left_alone.clear()
    await store._indexer.commit()
    while await store._compactor.compact():
        pass
    await store._indexer.commit()
    return store._compactor.compacted - before


async def overwrite(store: NodeStore, rounds: int = 10, keys: int = 5) -> None:
    for number in range(rounds):
        for key in range(keys):
            await settled(store.set(b"k%d" % key, b"%d" % number * 3000))


def used(directory: Path) -> int:
    """Room that isn't free for new volumes."""
    return sum(path.stat().st_size for path in (directory / "volumes").glob("*.volume"))


class Machine:
    """Time in which each slice of work takes a second, and in which pauses are counted instead of slept."""

    def __init__(self, store: NodeStore) -> None:
        self.now = self.worked_s = self.paused_s = 0.0
        self.compactor = store._compactor
        self.append = self.compactor._append_again
        self.compactor._append_again = self.work
        self.compactor._clock = lambda: self.now
        self.compactor._sleep = self.pause
        self.compactor._free_bytes = lambda: 1 << 40

    async def work(self, *arguments: object) -> None:
        await self.append(*arguments)
        self.now += 1
        self.worked_s += 1

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        self.paused_s += seconds


async def with_live_rest(store: NodeStore, rounds: int = 5) -> None:
    """Overwrite, so that the first volume alone has something alive in it."""
    await settled(store.set(b"kept", b"v"))
    await overwrite(store, rounds)
    await store._indexer.commit()


async def test_room_of_overwritten_files_comes_back(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"kept", b"from the first volume"))
        await overwrite(store)
        before = used(tmp_path)

        assert await compacted(store) > 0

        assert used(tmp_path) < before / 2
        assert (await settled(store.get(b"kept"))).value == b"from the first volume"
        assert (await settled(store.get(b"k4"))).value == b"9" * 3000
    assert check_directory(tmp_path, print) == 0


async def test_a_version_is_not_changed_by_moving(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"kept", b"v", 9))
        before = store.inspect(b"kept")
        await overwrite(store)

        await compacted(store)

        assert store.inspect(b"kept") == before


async def test_a_file_written_while_it_is_moved_stays_written(tmp_path):
    async with node(tmp_path) as store:
        for key in range(5):
            await settled(store.set(b"kept%d" % key, b"old"))
        await overwrite(store)
        moving = asyncio.ensure_future(compacted(store))

        for turn in range(200):
            await settled(store.set(b"kept%d" % (turn % 5), b"new %d" % turn))
        await moving

        for key in range(5):
            assert (await settled(store.get(b"kept%d" % key))).value == b"new %d" % (195 + key)
    assert check_directory(tmp_path, print) == 0


async def test_a_deleted_file_does_not_come_back_even_if_the_index_is_lost(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"pinned", b"p" * 40_000))
        await settled(store.set(b"doomed", b"v"))
        await overwrite(store)
        await settled(store.delete(b"doomed"))
        await overwrite(store)
        await compacted(store)
        assert store.read(b"doomed").tombstone, "its volume still holds the older record"
    shutil.rmtree(tmp_path / "index")
    async with node(tmp_path) as store:
        assert store.get(b"doomed") is None


async def test_a_tombstone_goes_once_nothing_older_is_left(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"doomed", b"v"))
        await settled(store.delete(b"doomed"))
        await overwrite(store, 20)

        await compacted(store)

        assert store.read(b"doomed") is None
    shutil.rmtree(tmp_path / "index")
    async with node(tmp_path) as store:
        assert store.read(b"doomed") is None


async def test_a_node_of_a_cluster_keeps_its_tombstones_and_expired_files(tmp_path):
    clock = Clock()
    async with node(tmp_path, clock) as store:
        await settled(store.bind("new", 1, "print"))
        await settled(store.set(b"doomed", b"v"))
        await settled(store.delete(b"doomed"))
        await settled(store.set(b"short", b"lived", 0, int(clock.now) + 5))
        clock.now += 10
        await overwrite(store, 20)

        await compacted(store)

        assert store.read(b"doomed").tombstone
        assert (await settled(store.read(b"short"))).value == b"lived"


async def test_an_expired_file_gives_its_room_back(tmp_path):
    clock = Clock()
    async with node(tmp_path, clock) as store:
        await settled(store.set(b"pinned", b"p" * 40_000))
        await settled(store.set(b"short", b"s" * 15_000, 0, int(clock.now) + 5))
        await overwrite(store)
        await settled(store.set(b"pinned", b"elsewhere"))
        clock.now += 10

        await compacted(store)

        assert store.get(b"short") is None
        record = await settled(store.read(b"short"))
        assert record is None or record.tombstone


async def test_a_damaged_file_is_not_dropped_with_its_volume(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"damaged", b"\xee" * 2000))
        await overwrite(store)
        volume = tmp_path / "volumes" / "0000000001.volume"
        content = volume.read_bytes()
        with volume.open("r+b") as file:
            file.seek(content.index(b"\xee" * 2000))
            file.write(b"\xef")

        await compacted(store)

        with pytest.raises(CorruptRecord):
            await settled(store.get(b"damaged"))
        await settled(store.set(b"damaged", b"healed"))
        await compacted(store)
        assert not volume.exists()


async def test_a_kill_at_any_moment_of_compaction_loses_nothing(tmp_path, monkeypatch):
    take_turns_on_disk(monkeypatch)
    async with node(tmp_path / "a") as store:
        for key in range(5):
            await settled(store.set(b"kept%d" % key, b"kept"))
        await settled(store.set(b"doomed", b"v"))
        await settled(store.delete(b"doomed"))
        await overwrite(store)
        moving = asyncio.ensure_future(compacted(store))
        copies = []
        while not moving.done():
            copies.append(killed(tmp_path / "a", tmp_path / f"copy{len(copies)}"))
            for _ in range(20):
                await asyncio.sleep(0)
        await moving
    assert len(copies) > 5
    for copy in copies:
        assert check_directory(copy, print) == 0
        async with node(copy) as store:
            for key in range(5):
                assert (await settled(store.get(b"kept%d" % key))).value == b"kept"
                assert (await settled(store.get(b"k%d" % key))).value == b"9" * 3000
            assert store.get(b"doomed") is None


async def test_a_read_under_way_outlives_its_volume(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"old" * 1000))
        await overwrite(store)
        store._reader._flags = 0
        reading = store.get(b"k")
        await asyncio.sleep(0)
        with store._volumes.held(1):
            await settled(store.set(b"k", b"new"))
            await compacted(store)
            assert not (tmp_path / "volumes" / "0000000001.volume").exists()
        assert (await reading).value == b"old" * 1000


async def test_compaction_goes_on_after_a_disk_that_was_too_full_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "_PAUSE_S", 0.001)
    full = False
    refused = 0
    allocate = os.posix_fallocate

    def take_room(fd: int, offset: int, size: int) -> None:
        nonlocal refused
        if full:
            refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", take_room)
    # The newest volume has no room taken ahead, so each move asks the disk for more.
    async with node(tmp_path, preallocate_bytes=0, compact_dead_ratio=1.0) as store:
        await settled(store.set(b"kept", b"v"))
        await overwrite(store)
        full = True
        object.__setattr__(store._options, "compact_dead_ratio", 0.5)
        async with asyncio.timeout(30):
            while refused < 10:  # some three for each try
                await asyncio.sleep(0.001)
            full = False
            while not store._compactor.compacted:
                await asyncio.sleep(0.001)

        assert (await settled(store.get(b"kept"))).value == b"v"


async def test_a_volume_that_keeps_its_name_is_not_forgotten(tmp_path, monkeypatch):
    """Else tombstones of what it holds would be dropped, and a start would find it again."""
    async with node(tmp_path) as store:
        await settled(store.set(b"doomed", b"v"))
        await overwrite(store)
        await settled(store.delete(b"doomed"))
        await overwrite(store)
        first = tmp_path / "volumes" / "0000000001.volume"
        rename = Path.rename

        def fail(path: Path, target: Path) -> Path:
            if path == first:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return rename(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", fail)
            assert await compacted(store) > 0, "other volumes are compacted"

        assert first.exists()
        assert store.read(b"doomed").tombstone
        assert await compacted(store) > 0
        assert not first.exists()
    assert check_directory(tmp_path, print) == 0


async def test_what_a_flush_forgot_while_it_was_moved_stays_forgotten_after_a_kill(tmp_path):
    async with node(tmp_path / "a") as store:
        await settled(store.set(b"flushed", b"v"))
        await overwrite(store)
        await store._indexer.commit()
        add = store._compactor._append_again

        async def flush_first(*arguments: object) -> None:
            flushing = store.flush()
            await add(*arguments)
            await flushing

        store._compactor._append_again = flush_first
        await store._compactor._move_live(store._volumes.by_number[1])
        assert store.get(b"flushed") is None
        after = killed(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(after / "index")
    async with node(after) as store:
        assert store.get(b"flushed") is None


async def test_a_volume_of_small_dead_records_is_walked_in_slices(tmp_path, monkeypatch):
    """A slice holds a snapshot of the index, for which the loop may have to wait."""
    monkeypatch.setattr(compaction, "_SLICE_RECORDS", 10)
    async with node(tmp_path) as store:
        for number in range(100):
            await settled(store.set(b"k", b"%d" % number))
        await store._indexer.commit()
        volume = store._volumes.by_number[1]
        walker = compaction._Walker(volume, store._volumes.directory, store._index)
        try:
            slices = [walker.next_slice()]
            while slices[-1].more:
                slices.append(walker.next_slice())
        finally:
            walker.close()

        assert len(slices) >= 10
        assert sum(len(piece.live) for piece in slices) == 1


async def test_compaction_takes_a_small_part_of_the_time_while_garbage_is_no_trouble(tmp_path):
    async with node(tmp_path, compact_share=0.1) as store:
        await with_live_rest(store)
        machine = Machine(store)

        assert await store._compactor.compact()

        assert store._compactor.compacted == 1
        assert machine.worked_s == 2, "one slice copies, the next finds nothing alive any more"
        assert machine.paused_s == pytest.approx(9 + 1)


async def test_compaction_works_all_the_time_when_there_is_more_garbage_than_allowed(tmp_path):
    async with node(tmp_path, compact_share=0.1) as store:
        await with_live_rest(store, 50)
        machine = Machine(store)
        machine.compactor._left_alone = {number: 1e12 for number in store._volumes.by_number if number != 1}

        assert await store._compactor.compact()

        assert machine.worked_s > 0
        assert machine.paused_s == 0


async def test_compaction_works_all_the_time_when_the_disk_has_less_room_than_there_is_garbage(tmp_path):
    async with node(tmp_path, compact_share=0.1) as store:
        await with_live_rest(store)
        machine = Machine(store)
        machine.compactor._free_bytes = lambda: 1000

        assert await store._compactor.compact()

        assert machine.worked_s > 0
        assert machine.paused_s == 0


async def test_a_disk_that_fills_up_during_a_pause_ends_it(tmp_path):
    async with node(tmp_path, compact_share=0.001) as store:
        await with_live_rest(store)
        machine = Machine(store)

        async def fill_up(seconds: float) -> None:
            await machine.pause(seconds)
            machine.compactor._free_bytes = lambda: 1000

        machine.compactor._sleep = fill_up
        assert await store._compactor.compact()

        assert 0 < machine.paused_s <= 2, "not the 1,000 s that it would have been"


async def test_a_volume_with_nothing_alive_goes_first_and_waits_little(tmp_path):
    async with node(tmp_path, compact_share=0.001) as store:
        await with_live_rest(store, 15)
        machine = Machine(store)

        assert await store._compactor.compact()

        assert min(store._volumes.by_number) == 1
        assert store._compactor.compacted > 1, "empty ones share a round"
        assert machine.worked_s > 0
        assert machine.paused_s == pytest.approx(machine.worked_s)


async def test_copies_are_made_no_faster_than_told_however_much_garbage_there_is(tmp_path):
    async with node(tmp_path, compact_bytes_per_s=100) as store:
        await settled(store.set(b"kept", b"v" * 10_000))
        await overwrite(store)
        await store._indexer.commit()
        machine = Machine(store)
        machine.compactor._left_alone = {number: 1e12 for number in store._volumes.by_number if number != 1}

        assert await store._compactor.compact()

        assert machine.paused_s + machine.worked_s >= 100


async def test_what_was_garbage_once_is_not_looked_at_again(tmp_path, monkeypatch):
    looks = []

    def count(key: bytes) -> bytes:
        looks.append(key)
        return index_key(key)

    monkeypatch.setattr(compaction, "index_key", count)
    async with node(tmp_path) as store:
        await with_live_rest(store)
        await store._compactor._compact([store._volumes.by_number[1]])

        assert store._compactor.compacted == 1
        walk, again = looks[:-1], looks[-1]
        assert walk.count(b"kept") == 1
        assert set(walk) == {b"kept", *(b"k%d" % key for key in range(5))}
        assert again == b"kept"


async def test_a_volume_that_the_index_still_points_into_is_kept_whatever_the_count_says(tmp_path):
    async with node(tmp_path) as store:
        await with_live_rest(store)
        store._compactor._is_pending = lambda lookup: True  # so nothing is moved
        store._overlay.figures.live[1] = 0

        assert await store._compactor.compact()

        assert 1 in store._volumes.by_number
        assert (await settled(store.get(b"kept"))).value == b"v"


async def test_a_volume_that_the_count_says_is_alive_is_kept_whatever_the_index_says(tmp_path):
    async with node(tmp_path) as store:
        await with_live_rest(store)
        store._overlay.figures.live[1] += 1

        assert await store._compactor.compact()

        assert 1 in store._volumes.by_number
