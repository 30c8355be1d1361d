"""Purging: letting tombstones count no more that no owner needs, region by region, behind everything else.

A coordinator that found all owners of a region equal, twice, tells them how far it is purged (docs/replication.rst).
The fence is moved at once; it is told once it is in the index. The bound follows: what it purges is sought in the index
by a thread, and taken out of the hash tree a few at a time, by as many steps of the bound, so that bound and tree agree
after each of them. Compaction drops the records then.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nodes.bounds import Bounds
from nodes.entry import is_whole, unpack_fields
from nodes.format import Kind
from nodes.index import Index
from nodes.index import errors as index_errors
from nodes.indexer import Indexer
from nodes.overlay import Overlay, is_purged
from sfss.errors import SfssError
from sfss.stamps import purge_stamp
from sfss.store import Purged
from sfss.tasks import end

_SLICE_ENTRIES = 500
_IDLE_PART = 5.0
"""Seconds of pause for each second that the thread looks for what is purged."""

_FOUND_MAX = 10_000
"""So many are looked for in one go; where there are more, another one follows. They take 2 MB, and 5 ms to be sorted,
in which the interpreter is held."""

_STEP = 300
"""So many are taken out of the tree in one turn of the loop: 2 ms."""

_TOMBSTONE = int(Kind.TOMBSTONE)

_log = logging.getLogger("sfss.node")


class Purger:
    """Moves fences and bounds. For the loop's thread; from `start` to `close`."""

    def __init__(self, index: Index, indexer: Indexer, overlay: Overlay, now_stamp: Callable[[], int]) -> None:
        self._index = index
        self._indexer = indexer
        self._overlay = overlay
        self._bounds: Bounds = overlay.figures.bounds
        self._now_stamp = now_stamp
        self._thread = ThreadPoolExecutor(1, "sfss-purger")
        self._wanted: dict[int, int] = {}
        self._at_work = False
        self._wake = asyncio.Event()
        self._stopped = threading.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop, in the middle of a region if need be: a bound is moved on when it is told again."""
        self._stopped.set()
        await end(self._task)
        self._thread.shutdown()

    @property
    def busy(self) -> bool:
        """Whether a bound is on its way to where it was told to be."""
        return self._at_work or bool(self._wanted)

    def told(self, region: int) -> Purged:
        """How far a region is purged, and what time it is here."""
        return self._bounds.of(region)._replace(now=self._now_stamp())

    def purge(self, region: int, ring: int, fence: int, bound: int) -> Coroutine[Any, Any, Purged]:
        """Move fence and bound of a region up, or open it with a fence of 0. The fence is there at once, so that
        nothing comes between it and what the caller has looked at; it is on disk when what is returned ends."""
        self._bounds.fence(region, ring if fence else 0, fence)  # it is opened for what the node lacks
        if fence and bound > self._bounds.bounds[region]:
            self._wanted[region] = max(bound, self._wanted.get(region, 0))
            self._wake.set()
        return self._committed(region)

    async def _committed(self, region: int) -> Purged:
        await self._indexer.commit()
        return self.told(region)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted:
                region, bound = self._wanted.popitem()
                self._at_work = True
                try:
                    await self.hide(region, bound)
                except (index_errors, SfssError) as error:
                    _log.error("purging failed and will be tried when it is asked for again: %s", error)
                except Exception:
                    _log.exception("purging failed and will be tried when it is asked for again")
                finally:
                    self._at_work = False

    async def hide(self, region: int, bound: int) -> None:
        """Move the bound of a region up and let what it purges count no more. Ends early where the region is opened
        meanwhile."""
        bounds = self._bounds
        openings = bounds.openings[region]
        # Nothing that it purges comes after this commit, but for what compaction moves: the fence is no lower.
        if len(self._overlay):
            await self._indexer.commit()
        limit = _FOUND_MAX
        while (below := bounds.bounds[region]) < bound:
            found = await asyncio.get_running_loop().run_in_executor(
                self._thread, _purged_between, self._index, region, below, bound, limit, self._stopped
            )
            # Of the last stamp there may be more. All of one stamp go together, however many there are of it.
            upto_all = found[-1][0] if len(found) == limit else bound
            if upto_all == below:
                limit *= 2
                continue
            limit = _FOUND_MAX
            for upto, keys in _steps(found, upto_all):
                if bounds.openings[region] != openings:
                    return
                self._move(region, upto, keys)
                await asyncio.sleep(0)

    def _move(self, region: int, bound: int, keys: list[bytes]) -> None:
        figures = self._overlay.figures
        counted = []
        for key in keys:
            entry = self._overlay.newest(key)
            if entry is not None and figures.counts(key, entry) and is_purged(entry, bound):
                counted.append((key, figures.digest_of(key, entry)))
        self._bounds.hide(region, bound)
        for key, digest in counted:
            figures.tree.remove(key, digest)


def _steps(found: list[tuple[int, bytes]], last: int) -> Iterator[tuple[int, list[bytes]]]:
    """Bounds up to `last`, each with the keys that it purges and the one before doesn't: few at a time, those of one
    stamp together."""
    first = 0
    while True:
        behind = min(first + _STEP, len(found))
        while behind < len(found) and found[behind][0] == found[behind - 1][0]:
            behind += 1
        upto = min(found[behind][0], last) if behind < len(found) else last
        yield upto, [key for stamp, key in found[first:behind] if stamp < upto]
        if upto == last:
            return
        first = behind


def _purged_between(
    index: Index, region: int, below: int, bound: int, limit: int, stopped: threading.Event
) -> list[tuple[int, bytes]]:
    """What `bound` purges of a region and `below` doesn't: stamps and index keys, the lowest first."""
    return heapq.nsmallest(limit, _walk(index, region, below, bound, stopped))


def _walk(index: Index, region: int, below: int, bound: int, stopped: threading.Event) -> Iterator[tuple[int, bytes]]:
    low = bytes([region])
    high = bytes([region + 1]) if region < 255 else None
    more = True
    while more and not stopped.is_set():
        began = time.monotonic()
        with index.frozen() as commit:
            entries = commit.between(low, high, _SLICE_ENTRIES)
        for key, entry in entries:
            if is_whole(key, entry):
                _, _, _, _, expires, version, _, kind, _, _ = unpack_fields(entry)
                stamp = purge_stamp(kind == _TOMBSTONE, expires, version)
                if below <= stamp < bound:
                    yield stamp, key
        more = len(entries) == _SLICE_ENTRIES
        if more:
            low = entries[-1][0] + b"\0"
            stopped.wait(_IDLE_PART * (time.monotonic() - began))
