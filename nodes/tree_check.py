"""Comparing the hash tree with the entries that it stands for, in the background.

An entry that a flipped bit has reached is in the tree and stands for nothing any more; once it is overwritten nobody
knows what to take out. So the scrubber works out each leaf anew from the entries of one commit, beside the pages that
were committed with them: what these differ by is what the tree in memory is off by, whatever was written since.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from nodes.bounds import note_name, unpack_note
from nodes.entry import checksum_in, is_whole, names_its_key
from nodes.index import Frozen, Index
from nodes.indexer import Indexer
from nodes.overlay import DAMAGED_PREFIX, is_purged
from nodes.tree import LEAVES, PAGE_LEAVES, Tree, empty_page, unpack_page
from sfss.hash_tree import LISTED_MAX, damaged_digest

_SLICE_ENTRIES = 500
_IDLE_PART = 20.0
"""Seconds of pause for each second of work."""

BREATH_RECORDS = 200
BREATH_S = 0.0002
"""After so many records the interpreter is left to others: it is held for about half a millisecond."""


class Correction(NamedTuple):
    """What a leaf is off by: `digest` to XOR, `records` to add."""

    leaf: int
    digest: int
    records: int


class TreeChecker:
    """Puts the tree right. For the loop's thread; blocking work is done in `thread`."""

    def __init__(self, index: Index, indexer: Indexer, tree: Tree, thread: ThreadPoolExecutor) -> None:
        self._index = index
        self._indexer = indexer
        self._tree = tree
        self._thread = thread

    async def check(self) -> int:
        """Go through all leaves once; returns how many were off."""
        off = 0
        leaf = 0
        await self._indexer.commit()
        while leaf < LEAVES:
            began = time.monotonic()
            digests = self._tree.digests
            wrong, leaf = await asyncio.get_running_loop().run_in_executor(self._thread, _slice, self._index, leaf)
            if self._tree.digests is digests:  # else everything was forgotten meanwhile, what was wrong too
                for correction in wrong:
                    self._tree.correct(*correction)
                off += len(wrong)
            await asyncio.sleep(_IDLE_PART * (time.monotonic() - began))
        if off:
            await self._indexer.commit()  # leaves are told again from then on
        return off


def _slice(index: Index, leaf: int) -> tuple[list[Correction], int]:
    """What is off from a leaf on, and the leaf to go on at: where there were enough entries."""
    with index.frozen() as commit:
        entries = commit.between(leaf.to_bytes(2), None, _SLICE_ENTRIES)
        end = LEAVES
        if len(entries) == _SLICE_ENTRIES:
            end = next((_leaf_of(key) for key, entry in reversed(entries) if is_whole(key, entry)), leaf)
        if end <= leaf:  # it has more entries than that alone
            end = leaf + 1
            entries = commit.between(leaf.to_bytes(2), end.to_bytes(2) if end < LEAVES else None, sys.maxsize)
        numbers = range(leaf // PAGE_LEAVES, (end - 1) // PAGE_LEAVES + 1)
        pages = {number: commit.tree_page(number) for number in numbers}
        counts = {number: _counting(commit, number) for number in numbers}
    keys = [key for key, _ in entries]
    if keys != sorted(keys):
        # A key was damaged and isn't mended yet, so that a search here doesn't find all that there is.
        return [], max(end, leaf + 1)
    there = {number: empty_page() for number in {_leaf_of(key) // PAGE_LEAVES for key, _ in entries}}
    for key, entry in entries:
        number, place = divmod(_leaf_of(key), PAGE_LEAVES)
        bound, damaged = counts[number]
        if is_whole(key, entry) and not is_purged(entry, bound):
            checksum = checksum_in(entry)
            digests, records = there[number]
            digests[place] ^= damaged_digest(checksum) if key in damaged else checksum
            records[place] += 1
    wrong: list[Correction] = []
    for number, packed in pages.items():
        if packed or number in there:
            first = number * PAGE_LEAVES
            places = range(max(leaf - first, 0), min(end - first, PAGE_LEAVES))
            wrong += _compare(number, packed, there.get(number) or empty_page(), places)
    return wrong, end


def is_off(index: Index, leaf: int) -> bool:
    """Whether entries below a leaf are missing that it was made of, or it was not made of those that are there: a key
    was damaged, or a damaged entry was written over, and it isn't mended yet. For any thread. Not told of a leaf with
    more entries than one listing has."""
    region, place = divmod(leaf, PAGE_LEAVES)
    with index.frozen() as commit:
        entries = commit.between(leaf.to_bytes(2), (leaf + 1).to_bytes(2) if leaf + 1 < LEAVES else None, LISTED_MAX)
        page = commit.tree_page(region)
        bound, known_damaged = _counting(commit, region)
    if len(entries) == LISTED_MAX:
        return False
    digest = count = damaged = 0
    for number, (key, entry) in enumerate(entries, 1):
        if not number % BREATH_RECORDS:
            time.sleep(BREATH_S)
        if not is_whole(key, entry):
            damaged += names_its_key(key, entry)
        elif not is_purged(entry, bound):
            checksum = checksum_in(entry)
            digest ^= damaged_digest(checksum) if key in known_damaged else checksum
            count += 1
    try:
        digests, counts = unpack_page(region, page) if page else empty_page()
    except ValueError:
        return True
    if damaged:  # what they were in the tree nobody knows
        return not count <= counts[place] <= count + damaged
    return (digest, count) != (digests[place], counts[place])


def _counting(commit: Frozen, region: int) -> tuple[int, set[bytes]]:
    """How a region counts, as of a commit: what is purged by which bound, and the damaged records."""
    try:
        bound = unpack_note(region, commit.notes(note_name(region)).get(note_name(region), b"")).bound
    except ValueError:
        bound = 0
    return bound, {name[len(DAMAGED_PREFIX) :] for name in commit.notes(DAMAGED_PREFIX + bytes([region]))}


def _compare(number: int, packed: bytes, there: tuple[array[int], array[int]], places: range) -> Iterator[Correction]:
    """What some leaves of a page are off by."""
    first = number * PAGE_LEAVES
    try:
        kept = unpack_page(number, packed) if packed else empty_page()
    except ValueError:
        # What is in memory is committed in its stead, and looked at in the next round.
        yield Correction(first, 0, 0)
        return
    for place in places:
        digest, count = there[0][place], there[1][place]
        if (digest, count) != (kept[0][place], kept[1][place]):
            yield Correction(first + place, digest ^ kept[0][place], count - kept[1][place])


def _leaf_of(key: bytes) -> int:
    return key[0] << 8 | key[1]
