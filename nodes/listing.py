"""Answering `get @…`: from the tree in memory what lies above the leaves, from the index and the overlay the records.

Records are listed in a thread of its own, one listing at a time: the loop copies what isn't indexed yet (half a
millisecond for a full overlay) and no more. Answers speak of what was durable when they were asked for, or later.

Whoever asks may let other copies go for what is answered. So a record whose index entry is damaged is listed as
damaged, with the version that it had if a single bit flipped; and a leaf isn't told at all while its entries aren't
those that its digest is made of.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple

from nodes.entry import HASH_BYTES, is_whole, names_its_key, unflipped, unpack_fields
from nodes.format import Kind
from nodes.index import Index
from nodes.overlay import Overlay, is_purged
from nodes.tree_check import BREATH_RECORDS, BREATH_S, is_off
from sfss.errors import Busy, CorruptRecord
from sfss.hash_tree import LEAF_DIGITS, LISTED_MAX, Listed, hash_range, write_branches, write_listed, write_listing

_WAITING_MAX = 64
"""Listings asked for and not answered; one more is refused as busy. Each holds a copy of what isn't indexed."""

_SLICE_ENTRIES = 500

_HASH_END = 1 << 64


class Lister:
    """Tells what a node holds. For the loop's thread. `on_doubt` is called where the index should be looked at."""

    def __init__(self, index: Index, overlay: Overlay, on_doubt: Callable[[], None]) -> None:
        self._index = index
        self._overlay = overlay
        self._thread = ThreadPoolExecutor(1, "sfss-lister")
        self._on_doubt = on_doubt
        self._waiting = 0

    def close(self) -> None:
        """End the thread; what waits is answered first."""
        self._thread.shutdown()

    def hashes(self, prefix: bytes) -> bytes | asyncio.Future[bytes]:
        """What `get @<prefix>` answers. A listing's future may have an error of the index (`nodes.index.errors`), and
        `CorruptRecord` where it isn't known what is there."""
        overlay = self._overlay
        if len(prefix) < LEAF_DIGITS:
            return write_branches(overlay.figures.tree.children(prefix))
        if self._waiting >= _WAITING_MAX:
            raise Busy(f"{self._waiting} listings wait")
        self._waiting += 1
        # Newest first. What is frozen doesn't change any more.
        unindexed = (overlay.current.copy(), overlay.frozen)
        counts = _Counts(overlay.figures.bounds.bounds[int(prefix[:2], 16)], overlay.figures.damaged)
        loop = asyncio.get_running_loop()
        on_doubt = partial(loop.call_soon_threadsafe, self._on_doubt)
        listing = loop.run_in_executor(
            self._thread, _list, self._index, prefix, unindexed, overlay.forget_index, counts, on_doubt
        )
        listing.add_done_callback(self._listed)
        return listing

    def _listed(self, _: asyncio.Future[bytes]) -> None:
        self._waiting -= 1


class _Counts(NamedTuple):
    """What of a region counts. `damaged` is the store's own set, and may change meanwhile."""

    bound: int
    damaged: set[bytes]

    def is_told(self, key: bytes, entry: bytes) -> bool:
        if not is_whole(key, entry):
            return names_its_key(key, entry)
        return not is_purged(entry, self.bound)


def _list(
    index: Index,
    prefix: bytes,
    unindexed: tuple[Mapping[bytes, bytes], ...],
    forget_index: bool,
    counts: _Counts,
    on_doubt: Callable[[], object],
) -> bytes:
    first, end = hash_range(prefix)
    low = first.to_bytes(HASH_BYTES)
    high = end.to_bytes(HASH_BYTES) if end < _HASH_END else None
    newest: dict[bytes, bytes] = {}
    for generation in reversed(unindexed):
        newest.update((key, entry) for key, entry in generation.items() if key >= low and (high is None or key < high))
    if not forget_index:
        if len(prefix) == LEAF_DIGITS and is_off(index, int(prefix, 16)):
            on_doubt()
            raise CorruptRecord(f"entries of the index below {prefix.decode()} are damaged")
        # As many more as might be gone since.
        for key, entry in islice(_indexed(index, low, high, counts), LISTED_MAX + 1 + len(newest)):
            newest.setdefault(key, entry)
    lines = []
    told = (key for key in sorted(newest) if counts.is_told(key, newest[key]))
    for key in islice(told, LISTED_MAX):
        entry = newest[key]
        damaged = key in counts.damaged
        if not is_whole(key, entry):
            damaged = True
            entry = unflipped(key, entry) or entry
            on_doubt()
            time.sleep(BREATH_S)
        _, _, size, _, _, version, checksum, kind, _, _ = unpack_fields(entry)
        lines.append(write_listed(Listed(key[HASH_BYTES:], version, checksum, kind == Kind.TOMBSTONE, size, damaged)))
        if not len(lines) % BREATH_RECORDS:
            time.sleep(BREATH_S)
    return write_listing(lines, next(told, None) is not None)


def _indexed(index: Index, low: bytes, high: bytes | None, counts: _Counts) -> Iterator[tuple[bytes, bytes]]:
    """What the index has to tell from a key on, however much lies between that doesn't count."""
    more = True
    while more:
        with index.frozen() as commit:
            found = commit.between(low, high, _SLICE_ENTRIES)
        more = len(found) == _SLICE_ENTRIES
        for low, entry in found:
            if counts.is_told(low, entry):
                yield low, entry
        low += b"\0"
