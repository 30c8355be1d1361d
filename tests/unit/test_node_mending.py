"""A flipped bit in the index is found and mended while the node serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nodes import mending, scrub, tree_check
from nodes.checker import check_directory
from nodes.entry import HASH_BYTES, index_key
from nodes.store import NodeStore
from sfss.errors import CorruptRecord
from sfss.hash_tree import Listed, read_listing
from sfss.store import settled
from sfss.tasks import end
from tests.unit.small_nodes import node

COUNT = 700
KEY = b"key/577"


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (mending, scrub, tree_check):
        monkeypatch.setattr(module, "_IDLE_PART", 0.0)


async def filled(directory: Path) -> None:
    async with node(directory) as store:
        for number in range(COUNT):
            store.set(b"key/%d" % number, b"%d" % number)
        await settled(store.set(b"last", b"v"))


def flip(directory: Path, offset: int, mask: int) -> None:
    """Flip bits in the index at an offset from the beginning of the key; its entry follows the key."""
    path = directory / "index" / "data.mdb"
    content = bytearray(path.read_bytes())
    key = index_key(KEY)
    at = content.find(key)
    assert at >= 0
    while at >= 0:  # pages that are no longer used may hold it, too
        content[at + offset] ^= mask
        at = content.find(key, at + 1)
    path.write_bytes(content)


async def all_there(store: NodeStore) -> bool:
    values = [await settled(store.get(b"key/%d" % number)) for number in range(COUNT)]
    return [value and value.value for value in values] == [b"%d" % number for number in range(COUNT)]


PLACES = {
    "hash, high": (0, 0x80),
    "hash, low": (HASH_BYTES - 1, 0x01),
    "key": (HASH_BYTES + 6, 0x04),
    "expires": (HASH_BYTES + 7 + 19, 0x40),
    "version": (HASH_BYTES + 7 + 31, 0x40),
    "kind": (HASH_BYTES + 7 + 40, 0x02),
    "check": (HASH_BYTES + 7 + 44, 0x10),
    "volume": (HASH_BYTES + 7, 0x20),
    "offset": (HASH_BYTES + 7 + 4, 0x20),
}
"""Offset from the key's beginning, and bit; docs/format.rst. The key is 7 bytes long."""


@pytest.mark.parametrize("place", PLACES)
async def test_a_flipped_bit_in_key_or_entry_is_mended_while_the_node_serves(tmp_path, place):
    await filled(tmp_path)
    flip(tmp_path, *PLACES[place])
    assert check_directory(tmp_path, print) == 1
    async with node(tmp_path) as store:
        await store._scrubber.scrub()

        assert store.stats()["scrub_faults"] == "1"
        assert await all_there(store)
        assert store.inspect(KEY).size == 3
        await store._scrubber.scrub()
        assert store.stats()["scrub_faults"] == "1"
    assert check_directory(tmp_path, print) == 0
    async with node(tmp_path) as store:
        assert await all_there(store)


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("place", PLACES)
async def test_what_was_written_meanwhile_is_not_undone_by_mending_and_counted_once(tmp_path, place, committed):
    await filled(tmp_path)
    flip(tmp_path, *PLACES[place])
    async with node(tmp_path) as store:
        await settled(store.set(KEY, b"anew"))
        if committed:
            await store._indexer.commit()

        await store._scrubber.scrub()

        assert (await settled(store.get(KEY))).value == b"anew"
        assert store.stats()["curr_items"] == str(COUNT + 1)
    assert check_directory(tmp_path, print) == 0
    async with node(tmp_path) as store:
        assert (await settled(store.get(KEY))).value == b"anew"


@pytest.mark.parametrize("place", PLACES)
async def test_what_is_written_after_mending_has_begun_is_counted_once(tmp_path: Path, place: str) -> None:
    await filled(tmp_path)
    flip(tmp_path, *PLACES[place])
    async with node(tmp_path) as store:
        await settled(store.set(KEY, b"anew"))  # behind the commit that the mender looks at

        await store._scrubber._mender.mend()

        assert store.stats()["curr_items"] == str(COUNT + 1)
        assert (await settled(store.get(KEY))).value == b"anew"
    assert check_directory(tmp_path, print) == 0


@pytest.mark.parametrize("place", ["expires", "version", "kind", "volume", "offset"])
async def test_a_read_that_meets_a_damaged_entry_has_it_mended_at_once(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    await filled(tmp_path)
    flip(tmp_path, *PLACES[place])
    async with node(tmp_path) as store:
        with pytest.raises(CorruptRecord):
            await settled(store.get(KEY))

        async with asyncio.timeout(10):  # nobody waits for the next pass
            while not await is_given(store):
                await asyncio.sleep(0.01)
        assert caplog.messages == ["the index entry of key/577 is damaged and was mended"]


async def is_given(store: NodeStore) -> bool:
    try:
        return await settled(store.get(KEY)) is not None
    except CorruptRecord:
        return False


LEAF = b"%04x" % int.from_bytes(index_key(KEY)[:2], "big")
POINTERS = {"volume, two bits": (HASH_BYTES + 7, 0x30), "offset, two bits": (HASH_BYTES + 7 + 4, 0x30)}
"""What they point to says nothing of them, so they aren't mended."""


async def listed(store: NodeStore) -> dict[bytes, Listed]:
    records, _ = read_listing(await settled(store.hashes(LEAF)))
    return {record.key: record for record in records}


@pytest.mark.parametrize("place", [*PLACES, *POINTERS])
async def test_a_listing_never_leaves_a_record_out_whose_entry_is_damaged(tmp_path: Path, place: str) -> None:
    await filled(tmp_path)
    async with node(tmp_path) as store:
        expected = await listed(store)
    flip(tmp_path, *(PLACES | POINTERS)[place])
    async with node(tmp_path) as store:
        try:
            found = await listed(store)
            # With the version that it has: beside a larger one, what others have of it would count for nothing, and
            # beside a smaller one an older file of theirs for the newest.
            assert found == expected | {KEY: expected[KEY]._replace(damaged=True)}
        except CorruptRecord:
            assert place in ("hash, high", "hash, low", "key")

        if place in POINTERS:
            await settled(store.set(KEY, b"anew"))
            expected[KEY] = (await listed(store))[KEY]
        async with asyncio.timeout(10):  # nobody waits for the next pass
            while not await is_listed_as(store, expected):
                await asyncio.sleep(0.01)


async def is_listed_as(store: NodeStore, expected: dict[bytes, Listed]) -> bool:
    try:
        return await listed(store) == expected
    except CorruptRecord:
        return False


async def test_a_leaf_is_told_again_once_it_is_known_that_a_key_is_lost(tmp_path: Path) -> None:
    """Else nobody could bring back what the node has lost there."""
    await filled(tmp_path)
    async with node(tmp_path) as store:
        expected = await listed(store)
        lost = await settled(store.read(KEY))
    flip(tmp_path, *POINTERS["volume, two bits"])
    flip(tmp_path, *PLACES["hash, high"])
    async with node(tmp_path) as store:
        await end(store._scrubber._task)  # the pass is made here
        with pytest.raises(CorruptRecord):
            await listed(store)

        await store._scrubber.scrub()

        assert await listed(store) == {key: record for key, record in expected.items() if key != KEY}
        assert (await settled(store.apply(KEY, lost))).accepted
        assert await listed(store) == expected


@pytest.mark.parametrize("place", POINTERS)
async def test_an_entry_that_points_elsewhere_is_told_and_stays_an_error(tmp_path, place):
    """Nothing says which record it was: one that it points to by chance may be an older one."""
    await filled(tmp_path)
    flip(tmp_path, *POINTERS[place])
    async with node(tmp_path) as store:
        await store._scrubber.scrub()

        assert int(store.stats()["scrub_faults"]) >= 1
        with pytest.raises(CorruptRecord):
            await settled(store.get(KEY))
