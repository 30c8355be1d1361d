"""The in-memory store keeps the contract that all stores keep."""

from __future__ import annotations

import pytest
from memcache_peer import Clock

from sfss.errors import BadRequest, StaleRing, WrongCluster
from sfss.memory import MemoryStore
from sfss.stamps import AHEAD_S_MAX, COUNT_BITS
from sfss.store import Applied, Call, Change, Flushable, Record, Replica, Updater, checksum_of

KEY = b"folder/file"


def record(version: int, value: bytes = b"value", *, expires: int = 0, tombstone: bool = False) -> Record:
    checksum = checksum_of(KEY, value, 0, expires, version, tombstone)
    return Record(value, len(value), 0, expires, version, checksum, tombstone)


def test_it_is_a_replica_an_updater_and_flushable() -> None:
    store = MemoryStore()

    assert isinstance(store, Replica)
    assert isinstance(store, Updater)
    assert isinstance(store, Flushable)


def test_what_is_set_is_got_until_it_is_deleted() -> None:
    store = MemoryStore()
    written = store.set(KEY, b"value", 7)

    got = store.get(KEY)

    assert got == Record(b"value", 5, 7, 0, written.version, written.checksum)
    assert store.head(KEY) == got.replaced(value=b"")
    deleted = store.delete(KEY)
    assert deleted is not None
    assert deleted.version > written.version
    assert store.get(KEY) is None
    held = store.read(KEY)
    assert held is not None
    assert held.tombstone


def test_deleting_what_isnt_there_writes_nothing() -> None:
    store = MemoryStore()

    assert store.delete(KEY) is None
    assert store.read(KEY) is None


def test_what_has_expired_is_absent_but_still_a_record() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    store.set(KEY, b"value", expires=int(clock.now) + 10)

    clock.now += 10

    assert store.get(KEY) is None
    assert store.delete(KEY) is None
    assert store.read(KEY) is not None


def test_a_stamped_write_is_stored_only_if_newer_and_a_repeat_is_accepted() -> None:
    store = MemoryStore()

    assert store.apply(KEY, record(10)) == Applied(True, 10, record(10).checksum, False)
    assert store.apply(KEY, record(10)).accepted
    assert store.apply(KEY, record(9)) == Applied(False, 10, record(10).checksum, False)
    assert store.read(KEY) == record(10)
    assert store.apply(KEY, record(11, b"", tombstone=True)).accepted
    assert not store.apply(KEY, record(10)).accepted
    assert store.get(KEY) is None


def test_equal_versions_end_with_the_same_record_in_either_order() -> None:
    one, two = MemoryStore(), MemoryStore()
    first, second = record(10, b"first"), record(10, b"second")

    one.apply(KEY, first)
    one.apply(KEY, second)
    two.apply(KEY, second)
    two.apply(KEY, first)

    assert one.read(KEY) == two.read(KEY)


def test_a_wrong_checksum_a_version_far_ahead_and_another_ring_are_refused() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    ahead = int((clock.now + AHEAD_S_MAX + 1) * 1000) << COUNT_BITS
    store.bind("c1", 3, "f")

    with pytest.raises(BadRequest, match="checksum"):
        store.apply(KEY, record(10).replaced(checksum=1))
    with pytest.raises(BadRequest, match="ahead"):
        store.apply(KEY, record(ahead))
    with pytest.raises(StaleRing, match="stale ring 3"):
        store.apply(KEY, record(10), Call(ring=2))
    assert store.apply(KEY, record(10), Call(ring=3)).accepted


def test_own_writes_are_stamped_above_what_was_applied() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    ahead = int((clock.now + 60) * 1000) << COUNT_BITS
    store.apply(KEY, record(ahead))

    assert store.set(KEY, b"newer").version > ahead


def test_an_update_decides_on_what_is_live_and_says_what_it_saw() -> None:
    store = MemoryStore()
    change, seen, written = store.update(KEY, lambda seen: Change("made", value=b"one"))
    assert (change.answer, seen) == ("made", None)

    change, seen, kept = store.update(KEY, lambda seen: Change(keep=True))
    assert seen is not None
    assert (seen.value, kept.version) == (b"one", written.version)

    store.update(KEY, lambda seen: Change(delete=True))
    assert store.get(KEY) is None


def test_an_exception_of_an_update_writes_nothing() -> None:
    store = MemoryStore()
    store.set(KEY, b"value")

    def change(seen: Record | None) -> Change:
        raise BadRequest("no")

    with pytest.raises(BadRequest):
        store.update(KEY, change)
    held = store.get(KEY)
    assert held is not None
    assert held.value == b"value"


def test_flushing_deletes_every_file() -> None:
    store = MemoryStore()
    store.set(KEY, b"value")

    store.flush()

    assert store.get(KEY) is None
    assert store.stats()["curr_items"] == "0"


def test_an_unbound_node_that_holds_files_cant_be_bound() -> None:
    store = MemoryStore()
    store.set(KEY, b"value")

    with pytest.raises(WrongCluster):
        store.bind("c1", 1, "f")


def test_a_bound_node_stays_what_it_is() -> None:
    store = MemoryStore()
    bound = store.bind("new", 1, "f")

    assert bound.cluster not in ("", "new")
    assert store.bind("other", 2, "g") == bound
