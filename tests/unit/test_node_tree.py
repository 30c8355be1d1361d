"""The hash tree of a node says what it holds, whatever was written, compacted, forgotten, killed or flipped."""

from __future__ import annotations

import asyncio
import json
from functools import reduce
from operator import xor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.checker import check_directory
from nodes.entry import index_key
from nodes.index import Index
from nodes.store import NodeStore
from nodes.tree import LEAVES, Tree, unpack_page
from sfss.errors import Busy, Recovering
from sfss.hash_tree import (
    Branch,
    Listed,
    hash_range,
    read_branches,
    read_listing,
    write_branches,
    write_listed,
    write_listing,
)
from sfss.keys import hash_key
from sfss.store import Record, checksum_of, settled
from tests.unit.small_nodes import killed, node

KEYS = [b"key/%d" % number for number in range(40)]


def file_of(key: bytes, version: int, value: bytes = b"v", tombstone: bool = False) -> Record:
    return Record(
        value, len(value), 0, 0, version, checksum_of(key, value, 0, 0, version, tombstone), tombstone=tombstone
    )


def summed(records: dict[bytes, int], prefix: bytes) -> list[Branch]:
    """The children of a place, worked out from keys and checksums."""
    children = []
    for digit in range(16):
        low, high = hash_range(prefix + b"%x" % digit)
        below = [checksum for key, checksum in records.items() if low <= hash_key(key) < high]
        children.append(Branch(reduce(xor, below, 0), len(below)))
    return children


async def listed(store: NodeStore, prefix: bytes) -> list[Listed]:
    records, more = read_listing(await settled(store.hashes(prefix)))
    assert not more
    return records


async def all_listed(store: NodeStore) -> dict[bytes, Listed]:
    """Every record that the store lists, and each leaf's sum beside what the leaf says."""
    found = {}
    for page in range(256):
        prefix = b"%02x" % page
        for first, branch in zip("0123456789abcdef", read_branches(store.hashes(prefix)), strict=True):
            if not branch.records:
                continue
            for second, leaf in zip(
                "0123456789abcdef", read_branches(store.hashes(prefix + first.encode())), strict=True
            ):
                if leaf.records:
                    records = await listed(store, prefix + (first + second).encode())
                    assert leaf == Branch(reduce(xor, (record.digest() for record in records)), len(records))
                    found.update((record.key, record) for record in records)
    return found


# --- the tree alone ------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(1, (1 << 64) - 1), st.booleans()),
        max_size=80,
    ),
    st.sampled_from([b"", b"3", b"a7", b"fff", b"000"]),
)
def test_a_tree_kept_up_is_the_tree_worked_out_anew(steps: list[tuple[int, int, bool]], prefix: bytes) -> None:
    tree, kept = Tree(), dict[bytes, int]()
    stored: dict[int, bytes] = {}
    for number, checksum, goes in steps:
        key = b"k%d" % number
        if key in kept:
            tree.remove(index_key(key), kept.pop(key))
        if not goes:
            tree.add(index_key(key), checksum)
            kept[key] = checksum
        if number % 7 == 0:
            stored.update(tree.take_changed())
    stored.update(tree.take_changed())
    again = Tree()
    for page, packed in stored.items():
        if packed:
            again.load(page, packed)

    assert tree.children(prefix) == again.children(prefix) == summed(kept, prefix)
    assert not tree.changed


def test_only_pages_that_changed_are_written() -> None:
    tree = Tree()
    key = index_key(b"a")

    tree.add(key, 5)

    assert list(tree.take_changed()) == [key[0]]
    assert tree.take_changed() == {}


def test_no_bit_of_a_page_can_flip_unnoticed() -> None:
    tree = Tree()
    tree.add(index_key(b"a"), 5)
    [(number, packed)] = tree.take_changed().items()

    assert len(packed) + 16 <= 4096
    unpack_page(number, packed)
    for byte in range(0, len(packed), 7):
        damaged = bytearray(packed)
        damaged[byte] ^= 1
        with pytest.raises(ValueError):
            unpack_page(number, bytes(damaged))
    with pytest.raises(ValueError):
        unpack_page(number ^ 1, packed)


# --- the text ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 31)), min_size=16, max_size=16))
def test_branches_are_read_as_they_were_written(pairs: list[tuple[int, int]]) -> None:
    branches = [Branch(*pair) for pair in pairs]

    assert read_branches(write_branches(branches)) == branches


@given(
    st.lists(
        st.builds(
            Listed,
            st.binary(min_size=1, max_size=250).filter(lambda key: not any(byte <= 32 or byte == 127 for byte in key)),
            st.integers(0, (1 << 64) - 1),
            st.integers(0, (1 << 64) - 1),
            st.booleans(),
            st.integers(0, 1 << 22),
        ),
        max_size=5,
    ),
    st.booleans(),
)
def test_listings_are_read_as_they_were_written(records: list[Listed], more: bool) -> None:
    assert read_listing(write_listing(map(write_listed, records), more)) == (records, more)


@pytest.mark.parametrize("text", [b"x", b"a 1 00 F 1\r\n", b"...", b"a 1 0000000000000001 F 1\r\nmore\r\n"])
def test_anything_else_is_no_listing(text: bytes) -> None:
    with pytest.raises(ValueError):
        read_listing(text)
    with pytest.raises(ValueError):
        read_branches(text)


# --- a node --------------------------------------------------------------------------------------


async def test_what_is_listed_is_what_is_held_and_the_leaves_are_its_sums(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        for number, key in enumerate(KEYS):
            await settled(store.apply(key, file_of(key, 10 + number)))
        await store._indexer.commit()
        await settled(store.apply(KEYS[0], file_of(KEYS[0], 100, b"newer")))
        await settled(store.apply(KEYS[1], file_of(KEYS[1], 101, b"", tombstone=True)))
        await settled(store.apply(b"unindexed", file_of(b"unindexed", 102)))
        await settled(store.apply(KEYS[2], file_of(KEYS[2], 3, b"too late")))

        found = await all_listed(store)

        assert sorted(found) == sorted([*KEYS, b"unindexed"])
        for key, record in found.items():
            held = store.inspect(key)
            assert record == Listed(key, held.version, held.checksum, held.tombstone, held.size)
        assert read_branches(store.hashes(b"")) == summed({key: each.checksum for key, each in found.items()}, b"")


async def test_a_listing_is_in_hash_order_and_of_its_prefix_alone(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        for key in KEYS:
            await settled(store.apply(key, file_of(key, 5)))
        wanted = b"%016x" % hash_key(KEYS[7])

        assert [record.key for record in await listed(store, wanted)] == [KEYS[7]]
        assert KEYS[7] in [record.key for record in await listed(store, wanted[:5])]
        assert await listed(store, b"%016x" % (hash_key(KEYS[7]) ^ 1)) == []


async def test_a_long_listing_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.listing.LISTED_MAX", 3)
    same_leaf: dict[bytes, list[bytes]] = {}
    number = 0
    while max(map(len, same_leaf.values()), default=0) < 4:
        key = b"n%d" % number
        number += 1
        same_leaf.setdefault(b"%016x" % hash_key(key), [])
        same_leaf.setdefault(b"%04x" % (hash_key(key) >> 48), []).append(key)
    [(leaf, keys)] = [(leaf, keys) for leaf, keys in same_leaf.items() if len(keys) == 4]
    async with node(tmp_path) as store:
        for key in keys[:2]:
            await settled(store.apply(key, file_of(key, 5)))
        await store._indexer.commit()
        for key in keys[2:]:
            await settled(store.apply(key, file_of(key, 5)))

        records, more = read_listing(await settled(store.hashes(leaf)))

        assert more
        assert [record.key for record in records] == sorted(keys, key=hash_key)[:3]


async def test_the_tree_outlives_a_stop_a_kill_and_the_loss_of_its_pages(tmp_path: Path) -> None:
    directory, copied = tmp_path / "node", tmp_path / "killed"
    async with node(directory) as store:
        for key in KEYS:
            await settled(store.apply(key, file_of(key, 5)))
        await store._indexer.commit()
        await settled(store.apply(KEYS[3], file_of(KEYS[3], 9)))
        before = [store.hashes(b"%x" % digit) for digit in range(16)]
        killed(directory, copied)
    for lost in (b"", b"tree", b"tree/%02x" % index_key(KEYS[3])[0]):
        for path in (directory, copied):
            if lost:
                spoil(path, lost)
            assert check_directory(path, lambda line: None) == 0
            async with node(path) as store:
                assert [store.hashes(b"%x" % digit) for digit in range(16)] == before


def spoil(path: Path, name: bytes) -> None:
    """Damage one value of the index's meta database."""
    identity = json.loads((path / "identity").read_text().splitlines()[1])
    index = Index.open(path / "index", identity["node"])
    with index._environment.begin(write=True) as transaction:
        packed = transaction.get(name, db=index._meta)
        assert packed
        transaction.put(name, bytes([packed[0] ^ 1]) + packed[1:], db=index._meta)
    index.close()


async def test_compaction_leaves_the_tree_as_it_is(tmp_path: Path) -> None:
    async with node(tmp_path, compact_dead_ratio=0.1) as store:
        for version in (5, 6):
            for key in KEYS:
                await settled(store.apply(key, file_of(key, version + (key in KEYS[::3]), bytes(4000))))
        before = store.hashes(b"")

        while await store._compactor.compact():
            pass

        assert store.stats()["compacted_volumes"] != "0"
        assert store.hashes(b"") == before


async def test_a_flush_empties_the_tree(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        for key in KEYS:
            await settled(store.set(key, b"v"))
        await store._indexer.commit()

        await settled(store.flush())

        assert {branch.records for branch in read_branches(store.hashes(b""))} == {0}
        await store._indexer.commit()
        assert await all_listed(store) == {}
    async with node(tmp_path) as store:
        assert set(read_branches(store.hashes(b""))) == {Branch(0, 0)}


async def test_a_tree_that_is_off_is_put_right_by_scrubbing(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        for key in KEYS:
            await settled(store.apply(key, file_of(key, 5)))
        right = store.hashes(b"")
        store._overlay.figures.tree.correct(77, 12345, 3)
        store._overlay.figures.tree.correct(LEAVES - 1, 1, -1)

        await store._scrubber.scrub()

        assert store.hashes(b"") == right
        assert store.stats()["scrub_faults"] == "1"
        await store._scrubber.scrub()
        assert store.stats()["scrub_faults"] == "1"


async def test_the_checker_tells_of_a_tree_that_is_off(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        await settled(store.apply(KEYS[0], file_of(KEYS[0], 5)))
        store._overlay.figures.tree.correct(77, 12345, 3)
    said: list[str] = []

    assert check_directory(tmp_path, said.append) == 1
    assert any("hash tree" in line for line in said)


async def test_a_suspect_node_tells_nothing(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        store._suspect = "a volume is gone"

        for prefix in (b"", b"0123"):
            with pytest.raises(Recovering):
                store.hashes(prefix)


async def test_more_listings_than_may_wait_are_refused(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        listings = [store.hashes(b"0123") for _ in range(64)]

        with pytest.raises(Busy):
            store.hashes(b"0123")

        await asyncio.gather(*listings)
        assert await listed(store, b"0123") == []
