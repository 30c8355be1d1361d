"""What a node keeps in memory of what was read lately: never anything but the newest record, never more than it may."""

from __future__ import annotations

import gc
import random
import tracemalloc
from pathlib import Path

import pytest

from nodes.entry import index_key
from nodes.hot import _STEPS_MAX, PLACE_BYTES, VALUE_BYTES_MAX, HotRecords
from nodes.store import NodeStore
from sfss.errors import CorruptRecord
from sfss.store import Record, checksum_of, settled
from tests.unit.small_nodes import Clock, newest_volume, node

KIB = 1024


def key_of(number: int) -> bytes:
    return index_key(b"key/%d" % number)


def read(hot: HotRecords, number: int, size: int = 1000) -> bool:
    """Read a file as a node does. Whether it was in memory."""
    key = key_of(number)
    if hot.get(key) is not None:
        return True
    if hot.wants(key, size):
        hot.keep(key, bytes(size), number, number)
    return False


def room_for(files: int, size: int = 1000) -> int:
    return files * (PLACE_BYTES + len(key_of(1000)) + size)


async def value_of(store: NodeStore, key: bytes) -> bytes | None:
    record = await settled(store.get(key))
    return None if record is None else record.value


# --- what is kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_what_is_got_is_what_was_kept_last_and_not_forgotten_since_and_takes_no_more_than_it_may(seed: int) -> None:
    rng = random.Random(seed)
    hot = HotRecords(100 * KIB)
    kept: dict[bytes, Record] = {}
    for number in range(5000):
        key = key_of(rng.randrange(60))
        doing = rng.random()
        if doing < 0.5:
            value = rng.randbytes(rng.choice([0, 1, 100, 5000, 30_000]))
            hot.forget(key)  # as its newest record is another one now
            hot.keep(key, value, number, number << 40)
            kept[key] = Record(value, len(value), version=number, checksum=number << 40)
        elif doing < 0.6:
            hot.forget(key)
            kept.pop(key, None)
        elif doing < 0.601:
            hot.forget_all()
            kept.clear()
        elif doing < 0.7 and key in kept:
            hot.keep_head(key, kept[key].size, kept[key].version, kept[key].checksum)
        elif doing < 0.8 and key in kept:
            hot.keep(key, kept[key].value, kept[key].version, kept[key].checksum)
        got, head = hot.get(key), hot.head(key)
        assert got is None or got == kept[key]
        assert head is None or head == kept[key].replaced(value=b"")
        assert hot.bytes <= 100 * KIB
        there = [key for key in kept if hot.head(key) is not None]
        assert len(hot) == len(there)
        whole = [kept[key].size for key in there if hot.get(key) is not None]
        assert hot.bytes == sum(PLACE_BYTES + len(key) for key in there) + sum(whole)


def test_what_is_read_stays_while_other_files_come_and_go() -> None:
    hot = HotRecords(room_for(100))
    for number in range(50):
        read(hot, number)
    for number in range(1000, 3000):
        for _ in range(2):
            read(hot, number)
        if number % 10 == 0:
            assert all(read(hot, often) for often in range(50))
    assert read(hot, 2999)


def test_reading_everything_once_drives_nothing_out() -> None:
    hot = HotRecords(room_for(100))
    for number in range(100):
        read(hot, number)
    for number in range(1000, 2000):
        read(hot, number)

    there = sum(read(hot, number) for number in range(100))

    assert there >= 90  # one in 256 of the others is taken for one that was read before


def test_what_is_read_again_comes_in_where_nobody_reads_what_is_there() -> None:
    hot = HotRecords(room_for(100))
    for number in range(100):
        read(hot, number)
    for _ in range(3):
        for number in range(1000, 1050):
            read(hot, number)

    assert all(read(hot, number) for number in range(1000, 1050))


def test_one_value_makes_few_others_go() -> None:
    hot = HotRecords(room_for(10_000, 10))
    for number in range(10_000):
        read(hot, number, 10)
    before = len(hot)
    hot.keep(key_of(20_000), bytes(VALUE_BYTES_MAX), 1, 1)

    assert before - _STEPS_MAX <= len(hot) < before


def test_large_values_are_not_kept_and_without_room_nothing_is() -> None:
    assert not HotRecords(1 << 30).wants(key_of(1), VALUE_BYTES_MAX + 1)
    nothing = HotRecords(0)
    assert not nothing.wants(key_of(1), 0)
    nothing.keep(key_of(1), b"", 1, 1)
    assert (len(nothing), nothing.bytes, nothing.get(key_of(1))) == (0, 0, None)


@pytest.mark.parametrize(("count", "size"), [(3000, 4096), (11_000, 10), (22_000, 10), (11_000, 300)])
def test_what_it_says_it_takes_is_at_least_what_it_takes(count: int, size: int) -> None:
    hot = HotRecords(1 << 30)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            hot.keep(key_of(number), bytes(size), 1 << 61 | number, 1 << 63 | number)
            hot.get(key_of(number))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert taken <= hot.bytes


def test_tiny_values_that_gave_way_to_large_ones_leave_nothing_behind() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        hot = HotRecords(8 << 20)
        for number in range(20_000):
            hot.keep(key_of(number), bytes(10), 1 << 61 | number, 1 << 63 | number)
        tiny = len(hot)
        for number in range(20_000, 22_000):
            hot.keep(key_of(number), bytes(VALUE_BYTES_MAX), 1 << 61 | number, 1 << 63 | number)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert len(hot) < 300 < 15_000 < tiny
    assert taken <= 1.15 * hot.bytes


def test_the_garbage_collector_of_a_node_that_serves_never_looks_through_it_also_after_a_flush() -> None:
    hot = HotRecords(1 << 20)
    gc.freeze()  # as a node does once it has started
    try:
        for _ in range(2):
            for number in range(1000):
                hot.keep(key_of(number), b"v", number, number)
            assert len(hot) == 1000
            assert not [it for it in gc.get_objects() if isinstance(it, list | dict) and len(it) >= 1000]
            hot.forget_all()
    finally:
        gc.unfreeze()


# --- in a node ---------------------------------------------------------------------------------------------------


async def test_a_file_that_is_read_again_comes_from_memory_and_is_the_same(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"v" * 1000))
        assert store.stats()["cached_files"] == "0"  # what was merely written isn't kept

        first, again, raw = [await settled(look(b"k")) for look in (store.get, store.get, store.read)]

        assert first == again == raw == Record(b"v" * 1000, 1000, 0, 0, first.version, first.checksum)
        assert first.checksum == checksum_of(b"k", b"v" * 1000, 0, 0, first.version, False)
        told = store.stats()
        assert (told["cached_reads"], told["cached_files"], int(told["cached_bytes"]) > 1000) == ("2", "1", True)


async def test_a_version_that_is_asked_for_again_comes_from_memory_and_is_the_same(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        written = await settled(store.set(b"k", b"v" * 1000))
        expected = Record(b"", 1000, 0, 0, written.version, written.checksum)

        first, again = store.inspect(b"k"), store.inspect(b"k")
        assert first == again == expected
        told = store.stats()
        assert (told["cached_reads"], told["cached_files"], int(told["cached_bytes"]) < 1000) == ("1", "1", True)

        assert await value_of(store, b"k") == await value_of(store, b"k") == b"v" * 1000
        assert store.inspect(b"k") == await settled(store.head(b"k")) == expected
        told = store.stats()
        assert (told["cached_reads"], told["cached_files"], int(told["cached_bytes"]) > 1000) == ("4", "1", True)


async def test_of_a_file_that_is_too_large_for_it_the_version_is_kept(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        await settled(store.set(b"k", bytes(VALUE_BYTES_MAX + 1)))
        assert store.inspect(b"k") == store.inspect(b"k")

        assert await value_of(store, b"k") == await value_of(store, b"k") == bytes(VALUE_BYTES_MAX + 1)
        assert store.stats()["cached_reads"] == "1"


async def test_a_version_of_what_expires_or_has_flags_or_is_deleted_is_not_kept(tmp_path: Path) -> None:
    clock = Clock()
    async with node(tmp_path, clock) as store:
        await settled(store.set(b"expires", b"v", expires=int(clock.now) + 10))
        await settled(store.set(b"flags", b"v", flags=7))
        await settled(store.set(b"deleted", b"v"))
        await settled(store.delete(b"deleted"))

        told = [[store.inspect(key) for _ in range(2)] for key in (b"expires", b"flags", b"deleted", b"none")]

        assert all(first == again for first, again in told)
        assert [first and (first.expires > 0, first.flags, first.tombstone) for first, _ in told] == [
            (True, 0, False),
            (False, 7, False),
            (False, 0, True),
            None,
        ]
        assert store.stats()["cached_files"] == "0"


async def test_whatever_becomes_of_a_file_a_reader_never_gets_what_it_was(tmp_path: Path) -> None:
    rng = random.Random(1)
    held: dict[bytes, bytes] = {}
    async with node(tmp_path, volume_bytes=256 * KIB, cache_bytes=64 * KIB) as store:
        for number in range(3000):
            key = b"k%d" % rng.randrange(40)
            doing = rng.random()
            if doing < 0.2:
                held[key] = b"%d " % number * rng.choice([1, 100, 600])
                await settled(store.set(key, held[key]))
            elif doing < 0.25:
                held.pop(key, None)
                await settled(store.delete(key))
            elif doing < 0.252:
                held.clear()
                await settled(store.flush())
            elif doing < 0.26:
                await store._indexer.commit()
            for _ in range(rng.randrange(3)):
                told = store.inspect(key)
                size = None if told is None or told.tombstone else told.size
                assert size == (len(held[key]) if key in held else None)
            assert await value_of(store, key) == held.get(key)
        assert int(store.stats()["cached_reads"]) > 300


async def test_what_expires_is_not_kept(tmp_path: Path) -> None:
    clock = Clock()
    async with node(tmp_path, clock) as store:
        await settled(store.set(b"k", b"v", expires=int(clock.now) + 10))
        assert await value_of(store, b"k") == await value_of(store, b"k") == b"v"
        clock.now += 11

        assert await value_of(store, b"k") is None
        assert store.stats()["cached_files"] == "0"


async def test_a_file_with_flags_has_them_however_often_it_is_read(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"v", flags=7))

        assert [(await settled(store.get(b"k"))).flags for _ in range(3)] == [7, 7, 7]


async def test_what_is_dropped_with_its_partition_is_not_served_from_memory(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"v"))
        assert await value_of(store, b"k") == await value_of(store, b"k") == b"v"

        store._overlay.drop(index_key(b"k"))

        assert await value_of(store, b"k") is await settled(store.read(b"k")) is None
        assert store.stats()["cached_files"] == "0"


async def test_what_a_thread_has_read_is_kept_only_while_it_is_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"old"))
        monkeypatch.setattr(store._reader, "read_now", lambda number, offset, size: None)
        reading = store.get(b"k")
        store._overlay.put(*_another(store, b"k"))  # durable before the thread's answer is looked at

        assert (await settled(reading)).value == b"old"
        assert store.stats()["cached_files"] == "0"
    async with node(tmp_path / "b") as store:
        await settled(store.set(b"k", b"v"))
        monkeypatch.setattr(store._reader, "read_now", lambda number, offset, size: None)
        assert await value_of(store, b"k") == await value_of(store, b"k") == b"v"
        assert store.stats()["cached_reads"] == "1"


def _another(store: NodeStore, key: bytes) -> tuple[bytes, bytes, int, int, int, int, bool]:
    """A newer record of a key, for the overlay."""
    lookup = index_key(key)
    entry = bytearray(store._overlay.newest(lookup) or b"")
    entry[4] ^= 8
    return lookup, bytes(entry), 1, 100, 1, 1, True


async def test_the_scrub_looks_at_the_disk_and_what_it_finds_damaged_is_an_error_also_to_who_read_it_before(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as store:
        record = await settled(store.set(b"k", b"v" * 1000)) and await settled(store.read(b"k"))
        volume = newest_volume(tmp_path)
        for number in range(20):
            await settled(store.set(b"filler%d" % number, bytes(8000)))
        content = volume.read_bytes()
        with volume.open("r+b") as file:
            file.seek(content.index(b"v" * 1000) + 500)
            file.write(b"w")
        assert await value_of(store, b"k") == b"v" * 1000  # whole, as it was when it was read

        await store._scrubber.scrub()

        assert store.stats()["damaged_records"] == "1"
        for look in (store.get, store.read, store.inspect):
            with pytest.raises(CorruptRecord):
                await settled(look(b"k"))
        assert (await settled(store.apply(b"k", record))).accepted
        assert await value_of(store, b"k") == await value_of(store, b"k") == b"v" * 1000


async def test_with_a_cache_of_nothing_every_read_looks_at_the_disk(tmp_path: Path) -> None:
    async with node(tmp_path, cache_bytes=0) as store:
        await settled(store.set(b"k", b"v"))

        assert await value_of(store, b"k") == await value_of(store, b"k") == b"v"
        told = store.stats()
        assert (told["cached_reads"], told["cached_files"], told["cached_bytes"]) == ("0", "0", "0")
