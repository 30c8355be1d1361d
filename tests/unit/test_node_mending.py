"""A flipped bit in the index is found and mended while the node serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodes.checker import check_directory
from nodes.entry import HASH_BYTES, index_key
from nodes.store import NodeStore
from sfss.errors import CorruptRecord
from sfss.store import settled
from tests.unit.small_nodes import node

COUNT = 700
KEY = b"key/577"


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


@pytest.mark.parametrize("place", PLACES)
async def test_what_was_written_meanwhile_is_not_undone_by_mending(tmp_path, place):
    await filled(tmp_path)
    flip(tmp_path, *PLACES[place])
    async with node(tmp_path) as store:
        await settled(store.set(KEY, b"anew"))

        await store._scrubber.scrub()

        assert (await settled(store.get(KEY))).value == b"anew"
    async with node(tmp_path) as store:
        assert (await settled(store.get(KEY))).value == b"anew"


@pytest.mark.parametrize("offset", [HASH_BYTES + 7, HASH_BYTES + 7 + 4])
async def test_an_entry_that_points_elsewhere_is_told_and_stays_an_error(tmp_path, offset):
    """Nothing says which record it was: one that it points to by chance may be an older one."""
    await filled(tmp_path)
    flip(tmp_path, offset, 0x20)
    async with node(tmp_path) as store:
        await store._scrubber.scrub()

        assert int(store.stats()["scrub_faults"]) >= 1
        with pytest.raises(CorruptRecord):
            await settled(store.get(KEY))
