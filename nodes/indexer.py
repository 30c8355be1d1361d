"""Moving durable records into the index on disk, about once a second, in a thread of its own.

What is durable is frozen, committed with full sync, and then dropped from memory. It goes in slices
(`nodes.generation`), of which the last one has the position that is covered; until then the overlay answers for all
of it. When the disk is full the reserve gives room, and the commit is tried again; meanwhile writes wait once the
overlay is full, so memory stays bounded, and whoever else waits is told that there is no room. Any other failure ends
the process: nobody knows what a map is worth whose commit, growth or renewal failed, and a start replays all that was
durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nodes.entry import unflipped
from nodes.generation import Generation, Slice
from nodes.index import Covered, Index, IndexDamaged, IndexDiskFull, IndexFull
from nodes.options import NodeOptions
from nodes.overlay import Overlay
from nodes.reserve import Reserve
from nodes.writer import Writer
from sfss.errors import OutOfDisk

T = TypeVar("T")

_RELEASE_BYTES = 4 * 1024 * 1024

_log = logging.getLogger("sfss.node")


class Indexer:
    """Runs the commits. Methods are for the loop's thread."""

    def __init__(
        self,
        index: Index,
        overlay: Overlay,
        writer: Writer,
        reserve: Reserve,
        options: NodeOptions,
        node: str,
        die: Callable[[str], None],
    ) -> None:
        self._index = index
        self._overlay = overlay
        self._writer = writer
        self._reserve = reserve
        self._options = options
        self._node = node
        self._die = die
        self._thread = ThreadPoolExecutor(1, "sfss-indexer")
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.complete = False
        """After `close`: whether all that was durable is in the index."""
        self.commits = 0
        self.covered_position = 0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def added(self) -> None:
        """Look whether the overlay has grown too large; called after records were put there."""
        size = len(self._overlay.current)
        if size >= self._options.overlay_entries_max:
            self._wake.set()
            if self._lags:
                self._writer.hold(True)

    @property
    def _lags(self) -> bool:
        return len(self._overlay.current) >= 3 * self._options.overlay_entries_max

    async def commit(self) -> None:
        """Wait until all that is durable now is in the index. Raises `OutOfDisk` when there is no room for it now."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        self._wake.set()
        await future

    async def put_right(self, before: bytes, wrong_key: bytes, wrong: bytes, key: bytes, entry: bytes) -> bool:
        """Put an entry in place of a damaged one that lies behind the key `before`. Returns whether it is done now."""
        try:
            done = await self._in_thread(self._index.put_right, before, wrong_key, wrong, key, entry)
        except (IndexFull, IndexDiskFull):
            return False
        if done:
            # The damaged entry's record was still counted for the key, even where a newer one has been put since;
            # unless that met the damaged entry, and could tell what it had been (`Figures.remove`).
            met = wrong_key == key and unflipped(key, wrong) is not None
            if not met and self._overlay.newest(key) not in (None, wrong):
                self._overlay.figures.remove(key, entry)
            self._index.refresh()
            self._overlay.shifts += 1
        return done

    async def close(self) -> None:
        """Commit what is left, if there is room for it, and end the thread."""
        self._closing.set()
        self._wake.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        try:
            while not self._closing.is_set():
                await self._pause(self._wake)
                self._wake.clear()
                await self._commit_all()
            await self._commit_all()
            self.complete = True
        except IndexDiskFull:
            # The node stops. No later commit may follow: it would cover what this one left out.
            _log.error("the index lacks what was written last; the next start replays it")
        except IndexDamaged as error:
            self._index.condemn()
            self._die(f"the index is damaged ({error}); the next start rebuilds it")
        except Exception as error:
            self._die(f"the index can't be kept ({error!r}); the next start goes on with what it has")

    async def _pause(self, event: asyncio.Event) -> None:
        """Wait for an event, but no longer than the time between two commits."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.index_interval_s):
                await event.wait()

    async def _commit_all(self) -> None:
        overlay = self._overlay
        waiters, self._waiters = self._waiters, []
        figures = overlay.figures
        if overlay.current or overlay.forget_index or figures.uncommitted:
            before = self._index.covered()
            frozen = asyncio.get_running_loop().create_future()
            # Frozen at the moment of the sync, so that no entry is committed whose record might not be on disk.
            self._writer.when_synced(lambda: frozen.set_result(self._freeze(before)))
            await self._commit(await frozen, waiters)
        self._writer.hold(self._lags)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _refuse(self, waiters: list[asyncio.Future[None]]) -> None:
        """Tell those who wait, and those who came since, that there is no room."""
        for waiter in waiters + self._waiters:
            if not waiter.done():
                waiter.set_exception(OutOfDisk("out of disk"))
        self._waiters = []

    def _freeze(self, before: Covered) -> Generation:
        figures = self._overlay.figures
        volume = self._writer.volume
        covered = Covered(
            self._node, volume.number, volume.end, self._writer.synced_position, figures.version_max, figures.files
        )
        return Generation(self._overlay, covered, before)

    async def _commit(self, generation: Generation, waiters: list[asyncio.Future[None]]) -> None:
        """Commit one slice after another; what is frozen is answered from memory until all of them are."""
        for part in await self._in_thread(generation.slices):
            await self._commit_slice(part, waiters)
            # Reads that go on in the commit before would keep its pages from the next one.
            self._index.refresh()
        self.commits += 1
        self.covered_position = generation.covered.position
        self._overlay.committed(generation.entries)

    async def _commit_slice(self, part: Slice, waiters: list[asyncio.Future[None]]) -> None:
        """Try until it is done; `waiters` don't wait that long. Raises `IndexDiskFull` when the node stops."""
        while True:
            if self._index.lacks_room_for(len(part.entries)):
                self._index.grow()
            try:
                await self._in_thread(self._index.commit, *part)
            except IndexFull:
                self._index.grow()
            except IndexDiskFull as error:
                _log.error("the index can't be written: %s", error)
                if self._closing.is_set():
                    raise
                if not await self._in_thread(self._reserve.release, _RELEASE_BYTES):
                    self._refuse(waiters)
                    await self._pause(self._closing)
            else:
                break

    def _in_thread(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
