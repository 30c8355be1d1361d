"""Replicas that differ become equal, by few bytes, and nothing is copied that shouldn't be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
import xxhash

from nodes.tree import LEAVES, Tree
from proxy import comparison
from proxy.comparer import Comparer
from proxy.comparison import Comparison, Pace
from proxy.coordinator import Coordinator
from proxy.health import Health
from proxy.options import Options
from proxy.peer import Peer
from proxy.placed_ring import PlacedRing
from proxy.quorum import Quorum
from proxy.schedule import REGIONS, Schedule
from sfss.errors import Busy, CorruptRecord, Recovering, SfssError, Unreachable
from sfss.hash_tree import LEAF_DIGITS, Listed, hash_range, write_branches, write_listed, write_listing
from sfss.keys import hash_key
from sfss.memory import MemoryStore
from sfss.ring import Member, NodeRing
from sfss.stamps import COUNT_BITS
from sfss.store import NO_CALL, Applied, Call, Record, checksum_of
from tests.unit.virtual_time import in_virtual_time

NOW = 1_800_000_000.0


def stamp(seconds_ago: float) -> int:
    return int((NOW - seconds_ago) * 1000) << COUNT_BITS


def file_of(key: bytes, value: bytes = b"v", seconds_ago: float = 3600.0, tombstone: bool = False) -> Record:
    version = stamp(seconds_ago)
    checksum = checksum_of(key, value, 0, 0, version, tombstone)
    return Record(value, len(value), 0, 0, version, checksum, tombstone)


class TreeStore(MemoryStore):
    """A replica in memory with a hash tree. `answered` has the texts that it told; `trouble` may refuse a request by
    its kind and key, or prefix; `applied` has the keys that were written."""

    def __init__(self, name: str, listed_max: int = 4096, now: Callable[[], float] = lambda: NOW) -> None:
        super().__init__(now, node=name, durable=True)
        self._listed_max = listed_max
        self.answered: list[bytes] = []
        self.applied: list[bytes] = []
        self.trouble: Callable[[str, bytes], SfssError | None] = lambda kind, key: None

    def _check(self, kind: str, key: bytes) -> None:
        error = self.trouble(kind, key)
        if error is not None:
            raise error

    def read(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        self._check("read", key)
        return self.records.get(key)

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Applied:
        self._check("apply", key)
        self.applied.append(key)
        return super().apply(key, record)

    def hold(self, key: bytes, record: Record) -> None:
        self.records[key] = record

    def hashes(self, prefix: bytes, call: Call = NO_CALL) -> bytes:
        self._check("hashes", prefix)
        low, high = hash_range(prefix)
        if len(prefix) < LEAF_DIGITS:
            tree = Tree()
            for key, record in self.records.items():
                tree.add(hash_key(key).to_bytes(8) + key, record.checksum)
            text = write_branches(tree.children(prefix))
        else:
            keys = sorted((key for key in self.records if low <= hash_key(key) < high), key=hash_key)
            listed = [
                Listed(key, record.version, record.checksum, record.tombstone, record.size)
                for key in keys[: self._listed_max]
                for record in [self.records[key]]
            ]
            text = write_listing(map(write_listed, listed), len(keys) > self._listed_max)
        self.answered.append(text)
        return text


class Replicas:
    """A coordinator over stores in memory."""

    def __init__(self, stores: list[Any], *, n: int = 3, partitions: int = 256, **options: Any) -> None:
        self.stores = stores
        loop = asyncio.get_running_loop()
        members = [Member(f"{name}:1") for name in "abcdefgh"[: len(stores)]]
        self.ring = NodeRing(members, n, partitions=partitions, number=0)
        self.peers = [Peer(member.name, store) for member, store in zip(members, stores, strict=True)]
        self.coordinator = Coordinator(
            PlacedRing.of(self.ring, self.peers, Quorum.over(len(stores), n, 2, 2)),
            options=Options(**options),
            health=Health(self.peers, monotonic=loop.time),
            now=lambda: NOW,
            monotonic=loop.time,
        )
        self.pace = Pace(1e12, loop.time)

    def owners(self, key: bytes) -> list[Any]:
        return [self.stores[index] for index in self.ring.owners(key)]

    async def compare(self, prefix: bytes = b"", settle_s: float = 10.0) -> Comparison:
        done = Comparison(self.coordinator, self.pace, settle_s)
        await done.compare(prefix)
        self.coordinator.health.close()
        return done


def three(count: int = 60, **options: Any) -> tuple[Replicas, list[TreeStore], list[bytes]]:
    """Three replicas that hold the same keys."""
    stores = [TreeStore(name) for name in "abc"]
    keys = [b"key/%d" % number for number in range(count)]
    for key in keys:
        for store in stores:
            store.hold(key, file_of(key))
    return Replicas(stores, **options), stores, keys


async def test_equal_replicas_are_found_equal_by_one_question_each() -> None:
    replicas, stores, _ = three()

    done = await replicas.compare()

    assert done.whole
    assert (done.repaired, done.too_new) == (0, 0)
    assert [len(store.answered) for store in stores] == [1, 1, 1]


async def test_each_kind_of_difference_is_repaired_and_a_second_comparison_moves_nothing() -> None:
    replicas, (a, b, c), keys = three()
    del a.records[keys[0]]
    b.hold(keys[1], file_of(keys[1], b"older", seconds_ago=7200))
    c.hold(keys[2], file_of(keys[2], b"newer", seconds_ago=1800))
    b.hold(keys[3], file_of(keys[3], b"", seconds_ago=1800, tombstone=True))
    c.hold(b"only/one/has/it", file_of(b"only/one/has/it", b"x" * 1000))
    a.hold(keys[4], file_of(keys[4], b"as old as the others but for its bytes"))
    expected = {
        key: max((store.records[key] for store in (a, b, c) if key in store.records), key=Record.order) for key in keys
    }

    done = await replicas.compare()

    assert (done.whole, done.repaired, done.unrepaired) == (True, 6, 0)
    assert a.records == b.records == c.records
    assert {key: a.records[key] for key in keys} == expected
    assert a.records[keys[3]].tombstone
    for store in (a, b, c):
        store.applied.clear()
    again = await replicas.compare()
    assert (again.whole, again.repaired, again.repaired_bytes) == (True, 0, 0)
    assert a.applied + b.applied + c.applied == []


async def test_only_those_who_lack_a_record_are_written_to() -> None:
    replicas, (a, b, c), keys = three()
    b.hold(keys[7], file_of(keys[7], b"older", seconds_ago=7200))

    await replicas.compare()

    assert (a.applied, b.applied, c.applied) == ([], [keys[7]], [])


async def test_what_was_stamped_in_the_last_seconds_is_left_alone() -> None:
    replicas, (a, b, c), keys = three()
    a.hold(keys[0], file_of(keys[0], b"on its way", seconds_ago=5))
    del b.records[keys[0]]

    done = await replicas.compare(settle_s=10.0)

    assert (done.whole, done.repaired, done.too_new) == (True, 0, 1)
    assert keys[0] not in b.records
    assert (await replicas.compare(settle_s=3.0)).repaired == 1
    assert a.records == b.records == c.records


async def test_an_owner_that_is_away_makes_the_comparison_a_partial_one_and_the_others_equal() -> None:
    for error in (Unreachable("gone"), Recovering("lost something"), Busy("later")):
        replicas, (a, b, c), keys = three()
        del a.records[keys[0]]
        del c.records[keys[0]]
        c.trouble = lambda kind, key, error=error: error  # type: ignore[misc]

        done = await replicas.compare()

        assert not done.whole
        assert a.records == b.records
        assert keys[0] not in c.records


async def test_nothing_is_copied_from_a_suspect_node() -> None:
    replicas, (a, b, c), keys = three()
    a.hold(keys[0], file_of(keys[0], b"of doubtful worth", seconds_ago=60))
    replicas.peers[0].suspect = True

    done = await replicas.compare()

    assert not done.whole
    assert b.records[keys[0]] == c.records[keys[0]] == file_of(keys[0])


async def test_a_corrupt_record_is_not_copied_but_mended_from_a_whole_one() -> None:
    replicas, (a, b, c), keys = three()
    del c.records[keys[0]]
    a.trouble = lambda kind, key: CorruptRecord("rot") if kind == "read" else None

    done = await replicas.compare()

    assert done.whole
    assert keys[0] in a.applied
    assert keys[0] in c.records
    assert b.applied == []


async def test_where_no_whole_copy_is_left_nothing_is_done_and_it_is_told() -> None:
    replicas, (a, b, c), keys = three()
    del c.records[keys[0]]
    a.trouble = b.trouble = lambda kind, key: CorruptRecord("rot") if kind == "read" else None

    done = await replicas.compare()

    assert (done.whole, done.unrepaired, done.repaired) == (False, 1, 0)
    assert keys[0] not in c.records


async def test_only_owners_are_compared_and_written_to() -> None:
    rng = random.Random(5)
    stores = [TreeStore(name) for name in "abcde"]
    replicas = Replicas(stores, partitions=4096)
    keys = [b"key/%d" % number for number in range(120)]
    for key in keys:
        for store in replicas.owners(key):
            store.hold(key, file_of(key))
    stray = next(store for store in stores if store not in replicas.owners(keys[0]))
    stray.hold(keys[0], file_of(keys[0], b"left behind by nobody knows whom", seconds_ago=60))
    lost = rng.sample(keys[1:], 10)
    for key in lost:
        del rng.choice(replicas.owners(key)).records[key]

    done = await replicas.compare()

    assert (done.whole, done.repaired) == (True, 10)
    assert sorted(key for store in stores for key in store.applied) == sorted(lost)
    for key in keys:
        assert all(store.records[key] == file_of(key) for store in replicas.owners(key))


async def test_partitions_smaller_than_a_leaf_are_told_apart() -> None:
    stores = [TreeStore(name) for name in "abcd"]
    replicas = Replicas(stores, n=2, partitions=1 << 20)
    keys = [b"key/%d" % number for number in range(50)]
    for key in keys:
        for store in replicas.owners(key):
            store.hold(key, file_of(key))
    del replicas.owners(keys[3])[1].records[keys[3]]

    done = await replicas.compare()

    assert (done.whole, done.repaired) == (True, 1)
    assert [key for store in stores for key in store.applied] == [keys[3]]


async def test_a_leaf_with_more_records_than_one_answer_holds_is_compared_in_pieces() -> None:
    stores = [TreeStore(name, listed_max=3) for name in "abc"]
    replicas = Replicas(stores)
    keys = [b"key/%d" % number for number in range(30)]
    for store in stores:
        for key in keys:
            store.hold(key, file_of(key))
    leaf = hash_key(keys[0]) >> 48
    crowd = [key for key in (b"n%d" % number for number in range(900_000)) if hash_key(key) >> 48 == leaf][:9]
    for key in crowd:
        for store in stores:
            store.hold(key, file_of(key))
    del stores[1].records[crowd[8]]

    done = await replicas.compare()

    assert (done.whole, done.repaired) == (True, 1)
    assert stores[0].records == stores[1].records


async def test_a_replica_without_a_tree_is_left_out() -> None:
    replicas = Replicas([TreeStore("a"), TreeStore("b"), MemoryStore(lambda: NOW, node="c")])

    done = await replicas.compare()

    assert not done.whole


# --- faults planted into the comparison ----------------------------------------------------------


async def test_a_comparison_that_spreads_the_older_record_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "newest_of", lambda orders: min(order for order in orders if order != (0, 0)))

    with pytest.raises(AssertionError):
        await test_each_kind_of_difference_is_repaired_and_a_second_comparison_moves_nothing()


async def test_replicas_that_take_whatever_comes_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is overtaken between listing and writing: the version check alone keeps the newer one."""

    async def overtaken() -> None:
        replicas, (_, b, _), keys = three()
        newest = file_of(keys[0], b"newest", seconds_ago=30)
        del b.records[keys[0]]

        def write_meanwhile(kind: str, key: bytes) -> SfssError | None:
            if kind == "apply" and key == keys[0]:
                b.hold(key, newest)
            return None

        b.trouble = write_meanwhile
        await replicas.compare()
        assert b.records[keys[0]] == newest

    await overtaken()

    def take_anything(self: MemoryStore, key: bytes, record: Record, call: Call = NO_CALL) -> Applied:
        self.records[key] = record
        return Applied(True, record.version, record.checksum, True)

    monkeypatch.setattr(MemoryStore, "apply", take_anything)
    with pytest.raises(AssertionError):
        await overtaken()


# --- many records, few differences ---------------------------------------------------------------


class Million:
    """What all replicas hold of a million keys, worked out once."""

    def __init__(self, count: int = 1_000_000) -> None:
        self.tree = Tree()
        self.by_leaf: list[list[int]] = [[] for _ in range(LEAVES)]
        add, by_leaf, digest = self.tree.add, self.by_leaf, xxhash.xxh3_64_digest
        for number in range(count):
            lookup = digest(b"n%d" % number)
            add(lookup, number + 1)
            by_leaf[lookup[0] << 8 | lookup[1]].append(number)


class OneOfMany:
    """A replica of a million keys of which it lacks some. `told` counts the bytes that it answered."""

    def __init__(self, all_of_them: Million, lacks: set[int]) -> None:
        self._all = all_of_them
        self._tree = Tree()
        self._tree.digests = all_of_them.tree.digests[:]
        self._tree.counts = all_of_them.tree.counts[:]
        self.lacks = set(lacks)
        for number in lacks:
            self._tree.remove(xxhash.xxh3_64_digest(b"n%d" % number), number + 1)
        self.told = 0
        self.questions = 0

    def hashes(self, prefix: bytes, call: Call = NO_CALL) -> bytes:
        if len(prefix) < LEAF_DIGITS:
            text = write_branches(self._tree.children(prefix))
        else:
            numbers = [number for number in self._all.by_leaf[int(prefix, 16)] if number not in self.lacks]
            listed = [Listed(b"n%d" % number, stamp(3600), number + 1, False, 1) for number in numbers]
            text = write_listing(map(write_listed, listed), False)
        self.told += len(text)
        self.questions += 1
        return text

    def read(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        return Record(b"v", 1, 0, 0, stamp(3600), int(key[1:]) + 1)

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Applied:
        self.lacks.discard(int(key[1:]))
        self._tree.add(xxhash.xxh3_64_digest(key), record.checksum)
        return Applied(True, record.version, record.checksum, True)


async def test_a_million_keys_with_few_differences_are_compared_by_kilobytes() -> None:
    all_of_them = Million()
    stores = [OneOfMany(all_of_them, lacks) for lacks in (set(), {3, 77_777, 999_999}, set())]
    replicas = Replicas(stores)

    done = await replicas.compare()

    assert (done.whole, done.repaired) == (True, 3)
    assert [store.lacks for store in stores] == [set()] * 3
    assert max(store.told for store in stores) < 16 * 1024
    assert max(store.questions for store in stores) <= 1 + 3 * 4
    for store in stores:
        store.told = 0
    assert (await replicas.compare()).repaired == 0
    assert max(store.told for store in stores) < 1024


# --- the runner ----------------------------------------------------------------------------------


@in_virtual_time
async def test_the_runner_compares_what_is_marked_and_tells_what_it_did() -> None:
    replicas, (a, b, c), keys = three(compare_interval_s=0.0)
    del a.records[keys[0]]
    schedule = Schedule(replicas.ring.partitions, 0.0, 300.0, monotonic=asyncio.get_running_loop().time)
    schedule.mark(replicas.ring.partition(keys[0]))
    comparer = Comparer(replicas.coordinator, schedule)
    assert comparer.figures()["comparison_marked"] == "1"

    comparer.start()
    async with asyncio.timeout(10):
        while comparer.figures()["comparison_partitions"] == "0":
            await asyncio.sleep(0.1)
    await comparer.close()
    await comparer.close()

    assert a.records == b.records == c.records
    figures = comparer.figures()
    assert figures["comparison_partitions"] == str(replicas.ring.partitions // REGIONS)
    assert (figures["comparison_repaired_keys"], figures["comparison_marked"]) == ("1", "0")
    assert int(figures["comparison_bytes"]) > 1000


@in_virtual_time
async def test_a_comparison_that_breaks_does_not_end_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas, (a, _, _), keys = three(compare_interval_s=0.0)
    schedule = Schedule(replicas.ring.partitions, 0.0, 0.0, monotonic=asyncio.get_running_loop().time)
    schedule.mark(replicas.ring.partition(keys[0]))
    comparer = Comparer(replicas.coordinator, schedule)
    broken = iter([True])

    def trouble(kind: str, key: bytes) -> SfssError | None:
        if next(broken, False):
            raise RuntimeError("a fault of ours")
        return None

    a.trouble = trouble
    comparer.start()
    async with asyncio.timeout(10):
        while comparer.figures()["comparison_partitions"] == "0":
            await asyncio.sleep(0.1)
    await comparer.close()


@in_virtual_time
async def test_the_pace_keeps_bytes_below_their_rate() -> None:
    loop = asyncio.get_running_loop()
    pace = Pace(1_000_000.0, loop.time)
    began = loop.time()

    await asyncio.gather(*(pace.spend(10_000) for _ in range(5)))

    assert loop.time() - began == pytest.approx(0.05)
    assert pace.bytes == 50_000
