"""What a node's store promises to the tiers above it."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from nodes.options import Sync
from nodes.store import NodeStore
from sfss.errors import (
    BadRequest,
    Busy,
    CorruptRecord,
    Expired,
    OutOfDisk,
    StaleRing,
    TooLarge,
    Unavailable,
    Unsupported,
    WrongCluster,
)
from sfss.promise import Promise
from sfss.stamps import COUNT_BITS
from sfss.store import (
    WIRE_VALUE_BYTES_MAX,
    Applied,
    Call,
    Change,
    Flushable,
    Record,
    Replica,
    Updater,
    Written,
    checksum_of,
    settled,
)
from tests.unit.small_nodes import Clock, died, newest_volume, node


def stamped(key: bytes, value: bytes, version: int, expires: int = 0, tombstone: bool = False) -> Record:
    checksum = checksum_of(key, value, 5, expires, version, tombstone)
    return Record(value, len(value), 5, expires, version, checksum, tombstone)


def test_a_node_store_offers_all_four_contracts():
    for contract in (Replica, Updater, Flushable):
        assert issubclass(NodeStore, contract)


async def test_a_file_comes_back_as_it_was_stored(tmp_path):
    async with node(tmp_path) as store:
        written = await settled(store.set(b"k", b"value", 77, 0))
        record = store.get(b"k")

        assert written.durable == written.copies == 1
        assert record == Record(b"value", 5, 77, 0, written.version, written.checksum, False)
        assert written.checksum == checksum_of(b"k", b"value", 77, 0, written.version, False)
        assert store.head(b"k") == record.replaced(value=b"")
        assert store.inspect(b"k") == record.replaced(value=b"")


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 2 * 1024 * 1024, WIRE_VALUE_BYTES_MAX])
async def test_every_size_up_to_the_limit_is_kept_over_a_restart(tmp_path, size):
    value = os.urandom(size)
    async with node(tmp_path) as store:
        await settled(store.set(b"k", value))
        assert (await settled(store.get(b"k"))).value == value
    async with node(tmp_path) as store:
        assert (await settled(store.get(b"k"))).value == value


async def test_a_value_over_the_limit_is_refused(tmp_path):
    async with node(tmp_path) as store:
        with pytest.raises(TooLarge, match=str(WIRE_VALUE_BYTES_MAX)):
            store.set(b"k", bytes(WIRE_VALUE_BYTES_MAX + 1))


async def test_what_is_not_there_is_none_and_deleting_it_writes_nothing(tmp_path):
    async with node(tmp_path) as store:
        before = store.stats()["position"]

        assert store.get(b"k") is store.head(b"k") is store.read(b"k") is store.inspect(b"k") is None
        assert await settled(store.delete(b"k")) is None
        assert store.stats()["position"] == before


async def test_a_reader_sees_only_what_is_durable(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"old"))

        writing = store.set(b"k", b"new")

        assert (await settled(store.get(b"k"))).value == b"old"
        await writing
        assert (await settled(store.get(b"k"))).value == b"new"


async def test_an_answer_that_rests_on_a_pending_record_waits_for_it(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"v"))
        deleting = store.delete(b"k")

        again = store.delete(b"k")

        assert isinstance(again, Promise)
        assert not again.done()
        assert await again is None
        assert deleting.done()


async def test_writes_that_arrive_together_share_one_sync(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"first", b""))
        before = int(store.stats()["fsyncs"])

        await asyncio.gather(*(store.set(b"k%d" % number, b"v") for number in range(100)))

        assert int(store.stats()["fsyncs"]) - before <= 2


async def test_a_caller_that_leaves_does_not_undo_its_write(tmp_path):
    async with node(tmp_path) as store:
        store.set(b"k", b"v").cancel()
        await settled(store.set(b"other", b""))

        assert (await settled(store.get(b"k"))).value == b"v"


async def test_an_expired_file_is_not_seen_but_a_replica_is_told(tmp_path):
    clock = Clock()
    async with node(tmp_path, clock) as store:
        await settled(store.set(b"k", b"v", 0, int(clock.now) + 10))

        clock.now += 9.5
        assert (await settled(store.get(b"k"))).value == b"v"
        clock.now += 0.5
        assert store.get(b"k") is None
        assert store.head(b"k") is None
        assert (await settled(store.read(b"k"))).value == b"v"
        assert await settled(store.delete(b"k")) is None


async def test_a_stamped_write_is_stored_only_if_it_is_newer(tmp_path):
    async with node(tmp_path) as store:
        second = stamped(b"k", b"second", 200)

        assert await settled(store.apply(b"k", second)) == Applied(True, 200, second.checksum, True)
        assert await settled(store.apply(b"k", stamped(b"k", b"first", 100))) == Applied(
            False, 200, second.checksum, True
        )
        assert (await settled(store.get(b"k"))).value == b"second"


async def test_of_two_writes_with_one_stamp_the_same_wins_on_every_replica(tmp_path):
    one, two = sorted((stamped(b"k", b"one", 100), stamped(b"k", b"two", 100)), key=Record.order)
    for name, order in (("a", (one, two)), ("b", (two, one))):
        async with node(tmp_path / name) as store:
            for record in order:
                await settled(store.apply(b"k", record))

            assert (await settled(store.get(b"k"))).value == two.value


async def test_a_repeated_write_is_accepted_and_written_once(tmp_path):
    async with node(tmp_path) as store:
        record = stamped(b"k", b"v", 100)
        first, pending = store.apply(b"k", record), store.apply(b"k", record)
        assert await first == await pending
        before = store.stats()["position"]

        assert (await settled(store.apply(b"k", record))).accepted
        assert store.stats()["position"] == before


async def test_a_stale_write_is_answered_once_the_newer_one_is_durable(tmp_path):
    async with node(tmp_path) as store:
        newer = store.apply(b"k", stamped(b"k", b"new", 200))

        stale = store.apply(b"k", stamped(b"k", b"old", 100))

        assert not stale.done()
        assert not (await stale).accepted
        assert newer.done()


async def test_a_stamped_tombstone_hides_and_stays(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.apply(b"k", stamped(b"k", b"v", 100)))
        await settled(store.apply(b"k", stamped(b"k", b"", 200, tombstone=True)))

        assert store.get(b"k") is None
        assert store.read(b"k").tombstone
        assert not (await settled(store.apply(b"k", stamped(b"k", b"late", 150)))).accepted


async def test_a_write_whose_checksum_is_wrong_is_refused(tmp_path):
    async with node(tmp_path) as store:
        with pytest.raises(BadRequest, match="checksum"):
            store.apply(b"k", stamped(b"k", b"v", 100).replaced(value=b"x"))


async def test_a_stamp_far_in_the_future_is_refused(tmp_path):
    clock = Clock()
    async with node(tmp_path, clock) as store:
        far = int((clock.now + 601) * 1000) << COUNT_BITS
        near = int((clock.now + 599) * 1000) << COUNT_BITS

        with pytest.raises(BadRequest, match="600 s ahead"):
            store.apply(b"k", stamped(b"k", b"v", far))
        assert (await settled(store.apply(b"k", stamped(b"k", b"v", near)))).accepted


async def test_a_plain_write_goes_above_every_stamp_that_was_stored(tmp_path):
    clock = Clock()
    async with node(tmp_path, clock) as store:
        ahead = int((clock.now + 500) * 1000) << COUNT_BITS
        await settled(store.apply(b"k", stamped(b"k", b"v", ahead)))

        assert (await settled(store.set(b"k", b"plain"))).version > ahead
        assert (await settled(store.get(b"k"))).value == b"plain"


async def test_no_stamp_is_issued_again_after_a_restart_with_the_clock_set_back(tmp_path):
    clock = Clock()
    async with node(tmp_path, clock) as store:
        before = (await settled(store.set(b"k", b"v"))).version
    clock.now -= 3600
    async with node(tmp_path, clock) as store:
        assert (await settled(store.set(b"other", b"v"))).version > before


async def test_a_ring_that_is_not_the_nodes_is_refused(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.bind("c" * 32, 4, "print"))

        for work in (store.read, store.inspect):
            with pytest.raises(StaleRing, match="stale ring 4"):
                work(b"k", Call(ring=5))
        with pytest.raises(StaleRing, match="stale ring 4"):
            store.apply(b"k", stamped(b"k", b"v", 1), Call(ring=3))
        assert store.read(b"k", Call(ring=4)) is None
        assert store.read(b"k") is None


async def test_a_call_whose_deadline_has_passed_is_dropped(tmp_path):
    async with node(tmp_path) as store:
        late = Call(deadline=time.monotonic() - 0.001)

        for work in (
            lambda: store.get(b"k", late),
            lambda: store.set(b"k", b"v", call=late),
            lambda: store.delete(b"k", late),
            lambda: store.apply(b"k", stamped(b"k", b"v", 1), late),
            lambda: store.update(b"k", lambda seen: Change(), late),
        ):
            with pytest.raises(Expired):
                work()
        assert store.get(b"k") is None


async def test_binding_lasts_and_is_done_once(tmp_path):
    async with node(tmp_path) as store:
        bound = await settled(store.bind("new", 1, "print"))
        assert (await settled(store.bind("other", 2, "else"))).cluster == bound.cluster
    async with node(tmp_path) as store:
        again = store.identify()

    assert len(bound.cluster) == 32
    assert (again.node, again.cluster, again.ring, again.fingerprint) == (bound.node, bound.cluster, 1, "print")
    assert again.epoch == bound.epoch + 1
    assert again.state == "ok"


async def test_a_node_with_files_of_its_own_is_not_bound(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"v"))

        with pytest.raises(WrongCluster, match="holds 1 files"):
            store.bind("new", 1, "print")


async def test_position_never_falls(tmp_path):
    positions = []
    for life in range(3):
        async with node(tmp_path) as store:
            positions.append(store.identify().position)
            await settled(store.set(b"k%d" % life, bytes(50_000)))
            positions.append(store.identify().position)
    assert positions == sorted(positions)
    assert positions[-1] > 150_000


# --- update --------------------------------------------------------------------------------------------------


async def test_updates_of_one_key_follow_one_another(tmp_path):
    async with node(tmp_path) as store:

        def count(seen: Record | None) -> Change:
            return Change(value=b"%d" % (int(seen.value) + 1 if seen else 1))

        await asyncio.gather(*(settled(store.update(b"n", count)) for _ in range(50)))

        assert (await settled(store.get(b"n"))).value == b"50"


async def test_an_update_of_a_value_that_has_to_be_read_from_disk_is_atomic_too(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"n", b"1"))
        store._reader._flags = 0  # as on a file system without RWF_NOWAIT

        def count(seen: Record | None) -> Change:
            return Change(value=b"%d" % (int(seen.value) + 1))

        await asyncio.gather(*(settled(store.update(b"n", count)) for _ in range(20)))

        assert (await settled(store.get(b"n"))).value == b"21"


async def test_an_update_may_keep_delete_or_fail(tmp_path):
    async with node(tmp_path) as store:
        written = await settled(store.set(b"k", b"v"))

        change, seen, kept = await settled(store.update(b"k", lambda seen: Change("seen", keep=True)))
        assert (change.answer, seen.value) == ("seen", b"v")
        assert kept == Written(written.version, written.checksum, 1, 1)

        with pytest.raises(ZeroDivisionError):
            await settled(store.update(b"k", lambda seen: 1 // 0))
        assert (await settled(store.get(b"k"))).value == b"v"

        await settled(store.update(b"k", lambda seen: Change(delete=True)))
        assert store.get(b"k") is None


async def test_keeping_what_is_pending_waits_until_it_is_durable(tmp_path):
    async with node(tmp_path) as store:
        writing = store.set(b"k", b"v")

        keeping = store.update(b"k", lambda seen: Change(keep=True))

        assert not keeping.done()
        _, seen, _ = await keeping
        assert seen.value == b"v"
        assert writing.done()


# --- flush ---------------------------------------------------------------------------------------------------


async def test_flush_forgets_what_was_stored_before_and_nothing_else(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"indexed", b"v"))
        await store._indexer.commit()
        await settled(store.set(b"durable", b"v"))
        pending = store.set(b"pending", b"v")

        flushing = store.flush()
        after = store.set(b"after", b"v")
        _, seen, _ = await settled(store.update(b"durable", lambda seen: Change(value=b"anew")))
        await asyncio.gather(pending, flushing, after)

        assert seen is None
        for _ in range(2):
            held = [key for key in (b"indexed", b"durable", b"pending", b"after") if store.get(key)]
            assert held == [b"durable", b"after"]
            assert store.stats()["curr_items"] == "2"
            await store._indexer.commit()
    async with node(tmp_path) as store:
        assert store.get(b"indexed") is None
        assert (await settled(store.get(b"durable"))).value == b"anew"


async def test_a_node_of_a_cluster_does_not_flush(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.bind("new", 1, "print"))
        with pytest.raises(Unsupported):
            store.flush()


# --- errors ----------------------------------------------------------------------------------------------------


async def test_a_damaged_value_is_an_error_is_counted_and_can_be_written_again(tmp_path):
    async with node(tmp_path) as store:
        record = stamped(b"k", b"v" * 1000, 100)
        await settled(store.apply(b"k", record))
        volume = newest_volume(tmp_path)
        content = volume.read_bytes()
        with volume.open("r+b") as file:
            file.seek(content.index(b"v" * 1000) + 500)
            file.write(b"w")

        for work in (store.get, store.read):
            with pytest.raises(CorruptRecord):
                await settled(work(b"k"))
        with pytest.raises(CorruptRecord):
            store.inspect(b"k")
        assert store.stats()["corrupt_records"] == "2"

        assert (await settled(store.apply(b"k", record))).accepted
        assert (await settled(store.get(b"k"))).value == record.value


async def test_a_damaged_index_entry_is_never_a_miss(tmp_path):
    async with node(tmp_path, cache_bytes=0) as store:
        await settled(store.set(b"k", b"v"))
        [(lookup, entry)] = store._overlay.current.items()
        for bit in range(len(entry) * 8):
            damaged = bytearray(entry)
            damaged[bit // 8] ^= 1 << bit % 8
            store._overlay.current[lookup] = bytes(damaged)
            with suppress(CorruptRecord):
                assert (await settled(store.get(b"k"))).value == b"v"
            with pytest.raises(CorruptRecord):
                store.inspect(b"k")
        store._overlay.current[lookup] = entry


FIELDS = {"volume": 0, "value bytes": 8, "expires": 16, "version": 31, "checksum": 39, "kind": 40, "check": 44}
"""Where an entry's fields lie; docs/format.rst. Of version and checksum the highest byte."""


@pytest.mark.parametrize("field", [*FIELDS, "length"])
@pytest.mark.parametrize("committed", [True, False])
async def test_an_entry_that_rotted_in_any_field_is_healed_by_writing_the_record_again(tmp_path, field, committed):
    async with node(tmp_path) as store:
        record = stamped(b"k", b"v" * 1000, 100)
        await settled(store.apply(b"k", record))
        await store._indexer.commit()
        [(lookup, entry)] = store._index.entries()
        rotten = bytearray(entry)
        if field == "length":
            rotten.pop()
        else:
            rotten[FIELDS[field]] ^= 0x40
        if committed:
            store._index.commit({lookup: bytes(rotten)}, store._index.covered(), {}, forget_all=False)
            store._index.refresh()
        else:
            store._overlay.current[lookup] = bytes(rotten)
        with pytest.raises(CorruptRecord):
            store.inspect(b"k")

        assert (await settled(store.apply(b"k", record))) == Applied(True, 100, record.checksum, True)

        assert store.read(b"k") == record
        await store._indexer.commit()
        assert store.read(b"k") == record
        assert all(count >= 0 for count in store._overlay.figures.live.values())


async def test_a_full_disk_refuses_files_and_takes_deletes_from_the_reserve(tmp_path, monkeypatch):
    async with node(tmp_path, reserve_bytes=8 * 1024 * 1024) as store:
        await settled(store.set(b"kept", b"v"))
        await settled(store.set(b"doomed", b"v"))
        full = True
        allocate = os.posix_fallocate

        def refuse(fd: int, offset: int, size: int) -> None:
            if full and not store._reserve.short:
                raise OSError(errno.ENOSPC, "no room")
            allocate(fd, offset, size)

        monkeypatch.setattr(os, "posix_fallocate", refuse)
        replies = [store.set(b"big", bytes(40_000)), store.delete(b"doomed"), store.set(b"next", bytes(40_000))]

        results = await asyncio.gather(*replies, return_exceptions=True)

        assert [type(result) for result in results] == [OutOfDisk, Written, OutOfDisk]
        assert store.get(b"doomed") is store.get(b"big") is None
        assert (await settled(store.get(b"kept"))).value == b"v"
        full = False
        await settled(store.set(b"big", bytes(40_000)))
        assert store.stats()["pending_bytes"] == "0"


APPEND_FAILURES = [
    (Sync.ALWAYS, errno.EFBIG, Unavailable),
    (Sync.ALWAYS, errno.ENOSPC, OutOfDisk),
    (Sync.ALWAYS, errno.EDQUOT, OutOfDisk),
    (Sync.INTERVAL, errno.EIO, Unavailable),
]


@pytest.mark.parametrize(("sync", "number", "refusal"), APPEND_FAILURES)
async def test_a_failed_append_is_cut_off_and_the_next_one_goes_on(tmp_path, monkeypatch, sync, number, refusal):
    async with node(tmp_path, sync=sync) as store:
        await settled(store.set(b"before", b"v"))
        write = os.pwritev

        def fail_halfway(fd: int, buffers: list[bytes], offset: int, flags: int = 0) -> int:
            write(fd, buffers[:2], offset)
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "pwritev", fail_halfway)
        with pytest.raises(refusal):
            await settled(store.set(b"lost", b"v"))
        monkeypatch.undo()
        lost = newest_volume(tmp_path).read_bytes()
        assert b"before" in lost
        assert b"lost" not in lost
        await settled(store.set(b"after", b"v"))
    async with node(tmp_path) as store:
        assert [key for key in (b"before", b"lost", b"after") if store.get(key)] == [b"before", b"after"]


async def test_an_append_that_stops_short_is_finished_and_synced_to_its_end(tmp_path, monkeypatch):
    async with node(tmp_path) as store:
        await settled(store.set(b"before", b"v"))
        write = os.pwritev
        synced = []

        def write_some(fd: int, buffers: list[bytes], offset: int, flags: int) -> int:
            assert flags == os.RWF_DSYNC
            synced.append(write(fd, [b"".join(buffers)[:1000]], offset, flags))
            return synced[-1]

        monkeypatch.setattr(os, "pwritev", write_some)
        before = store._writer.appended_bytes
        syncs = store._writer.syncs
        await settled(store.set(b"k", bytes(range(250)) * 10))

        assert sum(synced) == store._writer.appended_bytes - before
        assert len(synced) == 3
        assert store._writer.syncs == syncs + 1
        assert (await settled(store.read(b"k"))).value == bytes(range(250)) * 10


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
async def test_where_append_and_sync_cannot_be_one_call_each_batch_is_still_synced(tmp_path, monkeypatch, number):
    write, sync = os.pwritev, os.fdatasync
    calls: list[str] = []

    def write_alone(fd: int, buffers: list[bytes], offset: int, flags: int = 0) -> int:
        calls.append("write and sync" if flags else "write")
        if flags:
            raise OSError(number, os.strerror(number))
        return write(fd, buffers, offset)

    def note_sync(fd: int) -> None:
        calls.append("sync")
        sync(fd)

    async with node(tmp_path) as store:
        monkeypatch.setattr(os, "pwritev", write_alone)
        monkeypatch.setattr(os, "fdatasync", note_sync)
        await settled(store.set(b"a", b"v"))
        await settled(store.set(b"b", b"v"))

        assert calls == ["write and sync", "write", "sync", "write", "sync"]
        assert (await settled(store.read(b"a"))).value == (await settled(store.read(b"b"))).value == b"v"
        assert store._writer.syncs == 2


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("in_one_call", [True, False])
async def test_a_failed_sync_ends_the_node_and_acknowledges_nothing(tmp_path, monkeypatch, in_one_call, number):
    deaths = []
    store = await NodeStore.open(tmp_path, die=deaths.append)
    if not in_one_call:
        store._writer._appender._sync_flag = 0
    await settled(store.set(b"k", b"old"))
    write = os.pwritev

    def fail(fd: int) -> None:
        raise OSError(number, "lost")

    def write_and_fail(fd: int, buffers: list[bytes], offset: int, flags: int = 0) -> int:
        written = write(fd, buffers, offset)
        if flags:
            fail(fd)
        return written

    monkeypatch.setattr(os, "fdatasync", fail)
    monkeypatch.setattr(os, "pwritev", write_and_fail)
    writing = store.set(b"k", b"new")
    await died(deaths)

    assert "sync" in deaths[0]
    assert not writing.done()
    assert (await settled(store.get(b"k"))).value == b"old"
    store._directory.close()
    for task in (store._indexer._task, store._compactor._task, *store._housekeeper._tasks):
        task.cancel()


async def test_too_many_waiting_bytes_are_refused_as_busy(tmp_path):
    async with node(tmp_path, pending_bytes_max=5 * 1024 * 1024) as store:
        replies = [store.set(b"k%d" % number, bytes(1024 * 1024)) for number in range(5)]

        with pytest.raises(Busy):
            replies.append(store.set(b"more", bytes(1024 * 1024)))
        await asyncio.gather(*replies)
        await settled(store.set(b"more", b"v"))


async def test_too_many_waiting_reads_are_refused_as_busy(tmp_path):
    async with node(tmp_path, reads_waiting_max=2) as store:
        await settled(store.set(b"k", b"v"))
        store._reader._flags = 0

        async def ask() -> Record | None:
            return await settled(store.get(b"k"))

        answers = await asyncio.gather(*(ask() for _ in range(5)), return_exceptions=True)

        assert sorted(type(answer).__name__ for answer in answers) == ["Busy", "Busy", "Busy", "Record", "Record"]


async def test_a_read_that_waited_for_the_disk_past_its_deadline_is_dropped(tmp_path, monkeypatch):
    async with node(tmp_path, read_threads=1) as store:
        await settled(store.set(b"k", b"v"))
        store._reader._flags = 0
        held_up = threading.Event()

        def slow_pread(fd: int, size: int, offset: int, pread: Callable[[int, int, int], bytes] = os.pread) -> bytes:
            held_up.wait(10)
            return pread(fd, size, offset)

        monkeypatch.setattr(os, "pread", slow_pread)
        before = store.get(b"k")
        deadline = time.monotonic() + 0.01
        reading = store.get(b"k", Call(deadline=deadline))
        while time.monotonic() <= deadline:
            await asyncio.sleep(0)
        held_up.set()

        with pytest.raises(Expired):
            await reading
        assert (await before).value == b"v"


async def test_a_read_that_nobody_waits_for_any_more_leaves_no_trace(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"v"))
        store._reader._flags = 0

        store.get(b"k").cancel()

        assert (await store.get(b"k")).value == b"v"
        while store._reader.waiting:  # the two reads are in threads of their own
            await asyncio.sleep(0)
        assert store._volumes._users == {}


async def test_a_stop_answers_the_reads_that_wait_for_the_disk(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"v"))
        store._reader._flags = 0
        replies = [store.get(b"k") for _ in range(20)]

        await store.close()

        assert {(await reply).value for reply in replies} == {b"v"}


async def test_closing_twice_is_closing_once(tmp_path):
    async with node(tmp_path) as store:
        writing = store.set(b"k", b"v")
        await asyncio.gather(store.close(), store.close())
        assert writing.done()
        with pytest.raises(Busy):
            store.set(b"k", b"v")


async def test_stats_count_what_is_there(tmp_path):
    async with node(tmp_path) as store:
        await asyncio.gather(*(store.set(b"k%d" % number, bytes(100)) for number in range(10)))
        await settled(store.set(b"k0", bytes(50)))
        await settled(store.delete(b"k1"))

        stats = store.stats()

        assert stats["curr_items"] == "9"
        assert stats["total_items"] == "11"
        assert int(stats["live_bytes"]) == 8 * (48 + 2 + 100) + (48 + 2 + 50) + (48 + 2)
        assert int(stats["dead_bytes"]) > 2 * 150
        assert all(isinstance(value, str) for value in stats.values())
        with pytest.raises(BadRequest):
            store.stats("slabs")


# --- what the settings do --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [Sync.INTERVAL, Sync.NEVER])
async def test_without_a_sync_for_each_write_an_answer_does_not_claim_to_be_durable(tmp_path, sync):
    async with node(tmp_path, sync=sync, sync_interval_s=3600.0) as store:
        before = int(store.stats()["fsyncs"])
        written = await settled(store.set(b"k", b"v"))
        applied = await settled(store.apply(b"other", stamped(b"other", b"v", 1)))

        assert (written.durable, written.copies) == (0, 1)
        assert applied.accepted
        assert not applied.durable
        assert int(store.stats()["fsyncs"]) == before
        assert float(store.stats()["oldest_unsynced_write_s"]) > 0
        assert store.stats()["sync"] == sync.value
        assert store.identify().position == 0
        await store._indexer.commit()
        assert store.identify().position > 0, "what the index covers is on disk first"
        assert store.stats()["oldest_unsynced_write_s"] == "0.000"


async def test_with_an_interval_a_sync_comes_by_itself(tmp_path):
    async with node(tmp_path, sync=Sync.INTERVAL, sync_interval_s=0.01) as store:
        await settled(store.set(b"k", b"v"))
        await asyncio.wait_for(synced(store), 10)


async def synced(store: NodeStore) -> None:
    while store.stats()["oldest_unsynced_write_s"] != "0.000":
        await asyncio.sleep(0)


async def test_writes_wait_for_an_index_that_lags_and_memory_stays_bounded(tmp_path, monkeypatch):
    async with node(tmp_path, overlay_entries_max=10) as store:
        most = 0

        async def write(key: bytes) -> None:
            nonlocal most
            await settled(store.set(key, b"v"))
            most = max(most, len(store._overlay))

        await asyncio.gather(*(write(b"k%d" % number) for number in range(3000)))

        assert most <= 3 * 10 + 2 * 500, "three times the overlay's limit, and two batches at most"
        assert store.stats()["curr_items"] == "3000"
        assert len([number for number in range(3000) if store.head(b"k%d" % number)]) == 3000


async def test_more_volumes_than_may_be_open_are_all_read(tmp_path):
    async with node(tmp_path, open_volumes_max=2) as store:
        for number in range(30):
            await settled(store.set(b"k%d" % number, b"%d" % number * 20_000))
        assert int(store.stats()["volumes"]) > 5

        for number in range(30):
            assert (await settled(store.get(b"k%d" % number))).value == b"%d" % number * 20_000
        assert len(store._volumes._fds) <= 2
