"""Comparing the hash tree with the entries that it stands for, in the background.

An entry that a flipped bit has reached is in the tree and stands for nothing any more; once it is overwritten nobody
knows what to take out. So the scrubber works out each leaf anew from the entries of one commit, beside the pages that
were committed with them: what these differ by is what the tree in memory is off by, whatever was written since.
"""

from __future__ import annotations

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from nodes.entry import checksum_in, is_whole
from nodes.index import Frozen, Index
from nodes.indexer import Indexer
from nodes.tree import LEAVES, PAGE_LEAVES, Tree, empty_page, unpack_page

_SLICE_ENTRIES = 500
_IDLE_PART = 20.0
"""Seconds of pause for each second of work."""


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
        return off


def _slice(index: Index, leaf: int) -> tuple[list[Correction], int]:
    """What is off from a leaf on, and the leaf to go on at: where a page ends, or there were enough entries."""
    wrong: list[Correction] = []
    number = leaf // PAGE_LEAVES
    seen = 0
    with index.frozen() as commit:
        packed = commit.tree_page(number)
        try:
            digests, counts = unpack_page(number, packed) if packed else empty_page()
        except ValueError:
            # What is in memory is committed in its stead, and looked at in the next round.
            return [Correction(leaf, 0, 0)], (number + 1) * PAGE_LEAVES
        while leaf < (number + 1) * PAGE_LEAVES and seen < _SLICE_ENTRIES:
            digest, count, looked_at = _sum_up(commit, leaf)
            seen += looked_at
            place = leaf % PAGE_LEAVES
            if (digest, count) != (digests[place], counts[place]):
                wrong.append(Correction(leaf, digest ^ digests[place], count - counts[place]))
            leaf += 1
    return wrong, leaf


def _sum_up(commit: Frozen, leaf: int) -> tuple[int, int, int]:
    """Digest and count of a leaf's entries that are whole, and how many entries it has."""
    low = leaf.to_bytes(2)
    high = (leaf + 1).to_bytes(2) if leaf + 1 < LEAVES else None
    digest = count = 0
    entries = commit.between(low, high, sys.maxsize)
    for key, entry in entries:
        if is_whole(key, entry):
            digest ^= checksum_in(entry)
            count += 1
    return digest, count, len(entries)
