"""What a node's hash tree has of records that it can't give back: neither what a whole one has, nor nothing."""

from __future__ import annotations

import random
from functools import reduce
from operator import xor
from pathlib import Path

import pytest

from nodes.checker import check_directory
from nodes.entry import index_key
from nodes.index import Index
from nodes.overlay import DAMAGED_PREFIX
from nodes.store import NodeStore
from sfss.hash_tree import Branch, Listed, damaged_digest, read_branches, read_listing
from sfss.store import settled
from tests.unit.small_nodes import Clock, node
from tests.unit.test_node_purging import KEYS, bound, file_of, purge, tombstone_of

KEY = KEYS[7]
LEAF = b"%04x" % int.from_bytes(index_key(KEY)[:2])


def find_damaged(store: NodeStore, key: bytes) -> None:
    entry = store._overlay.newest(index_key(key))
    assert entry is not None
    store._note_damage_of(index_key(key), entry)


def find_whole(store: NodeStore, key: bytes) -> None:
    entry = store._overlay.newest(index_key(key))
    if entry is not None:
        store._note_whole(index_key(key), entry)


def leaf_of(store: NodeStore, key: bytes) -> Branch:
    place = int.from_bytes(index_key(key)[:2])
    return read_branches(store.hashes(b"%03x" % (place >> 4)))[place & 15]


async def check_sums(store: NodeStore) -> None:
    """Each leaf is the sum of what is listed there."""
    for leaf in {b"%04x" % int.from_bytes(index_key(key)[:2]) for key in KEYS}:
        records, _ = read_listing(await settled(store.hashes(leaf)))
        digest = reduce(xor, (record.digest() for record in records), 0)
        assert read_branches(store.hashes(leaf[:3]))[int(leaf[3:], 16)] == Branch(digest, len(records)), leaf


def test_damaged_records_do_not_cancel_out() -> None:
    checksums = [3, 5, 6]  # of which the sum is nothing

    assert reduce(xor, checksums) == 0
    assert reduce(xor, map(damaged_digest, checksums)) != 0
    assert Listed(b"k", 1, 3, False, 1).digest() != Listed(b"k", 1, 3, False, 1, damaged=True).digest()


@pytest.mark.parametrize("tombstone", [False, True])
async def test_a_damaged_record_looks_neither_whole_nor_absent_and_the_same_on_all_replicas(
    tmp_path: Path, tombstone: bool
) -> None:
    record = tombstone_of(KEY, 3) if tombstone else file_of(KEY, 3)
    async with node(tmp_path / "a") as store, node(tmp_path / "b") as other, node(tmp_path / "c") as empty:
        for each in (store, other):
            await settled(each.apply(KEY, record))
        whole = leaf_of(other, KEY)

        find_damaged(store, KEY)

        assert leaf_of(store, KEY).records == 1
        assert leaf_of(store, KEY) not in (whole, leaf_of(empty, KEY))
        find_damaged(other, KEY)
        assert leaf_of(store, KEY) == leaf_of(other, KEY)
        await settled(store.apply(KEY, record))
        assert leaf_of(store, KEY) == whole


@pytest.mark.parametrize("seed", range(6))
async def test_leaves_are_the_sums_of_what_is_listed_whatever_is_damaged_overwritten_and_purged(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    clock = Clock()
    async with node(tmp_path, clock) as store:
        await bound(store)
        for key in KEYS:
            await settled(store.apply(key, tombstone_of(key, 30) if rng.random() < 0.3 else file_of(key, 30)))
    days = 29.0
    for _ in range(4):
        async with node(tmp_path, clock) as store:
            for _ in range(60):
                key = rng.choice(KEYS)
                days -= 0.01
                match rng.randrange(8):
                    case 0:
                        await settled(store.apply(key, file_of(key, days, expired=rng.choice([0, 20]))))
                    case 1:
                        await settled(store.apply(key, tombstone_of(key, days)))
                    case 2:
                        find_whole(store, key)
                    case 3:
                        store._overlay.drop(index_key(key))
                    case 4:
                        await store._indexer.commit()
                    case _ if store._overlay.newest(index_key(key)):
                        find_damaged(store, key)
            await purge(store, days + 2)
            await check_sums(store)
            assert int(store.stats()["damaged_records"])
            assert await store._scrubber._tree_checker.check() == 0
            find_damaged(store, next(key for key in KEYS if store._overlay.newest(index_key(key))))
            await check_sums(store)
        said: list[str] = []
        check_directory(tmp_path, said.append)
        assert not [line for line in said if "hash tree" in line]


async def test_the_tree_of_a_version_that_left_damaged_records_out_is_made_anew(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        await settled(store.apply(KEY, file_of(KEY, 3)))
        find_damaged(store, KEY)
        right = leaf_of(store, KEY)
    node_id = await identity_of(tmp_path)
    index = Index.open(tmp_path / "index", node_id)
    note = DAMAGED_PREFIX + index_key(KEY)
    page = b"tree/%02x" % index_key(KEY)[0]
    with index._environment.begin(write=True) as transaction:
        assert transaction.put(note, b"1", db=index._meta)
        assert transaction.delete(page, db=index._meta)  # it was the only one there
    index.close()

    async with node(tmp_path) as store:
        assert leaf_of(store, KEY) == right
        await store._indexer.commit()
        assert store._index.notes(note) == {note: b"2"}


async def identity_of(directory: Path) -> str:
    async with node(directory) as store:
        return store._state.node


async def test_an_entry_that_rots_under_a_damaged_record_is_whole_once_it_is_written_again(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        record = file_of(KEY, 3)
        await settled(store.apply(KEY, record))
        find_damaged(store, KEY)
        lookup = index_key(KEY)
        entry = store._overlay.newest(lookup)
        assert entry is not None
        store._overlay.current[lookup] = entry[:20] + b"\xff" + entry[21:]

        await settled(store.apply(KEY, record))

        assert store.inspect(KEY).order() == record.order()
        assert store.stats()["damaged_records"] == "0"
        await store._scrubber._tree_checker.check()
        await check_sums(store)
