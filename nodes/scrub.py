"""Scrubbing: reading all volumes in the background, so that rot is found while other replicas still have good copies.

Each record is verified, and compared with the index both ways: what the index points to must be whole, and no whole
record may be newer than what the index has. A damaged record that counts is remembered as such, so that a repair
can write it again; damaged entries of the index are mended first, and then the hash tree. Slow on purpose: it takes a
small part of the disk's and the interpreter's time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from nodes.entry import ENTRY_BYTES, index_key, is_newer, unpack_fields
from nodes.format import Kind
from nodes.index import Index, IndexDamaged
from nodes.index import errors as index_errors
from nodes.indexer import Indexer
from nodes.mending import Mender
from nodes.options import NodeOptions
from nodes.scan import Damage, Event, Found, reader_of, walk
from nodes.tree import Tree
from nodes.tree_check import TreeChecker
from nodes.volume import Volume, Volumes, volume_path
from sfss.errors import OutOfDisk, SfssError
from sfss.tasks import end

_SLICE_BYTES = 1024 * 1024
_SLICE_RECORDS = 500
_IDLE_PART = 20.0
"""Seconds of pause for each second of work."""

_BETWEEN_PASSES_S = 3600.0
_RESUME_S = 60.0
"""After a start, before a pass goes on that was under way, or begins that was due; and at least between two looks at
the index alone."""

_log = logging.getLogger("sfss.node")


class _Slice(NamedTuple):
    """What a thread found in one go. `damaged` are index keys, each with the entry that points to a record that is not
    whole; `whole` those that were known as such and are no more; `faults` are sentences."""

    damaged: list[tuple[bytes, bytes]]
    whole: list[tuple[bytes, bytes]]
    faults: list[str]
    size: int
    more: bool


class Scrubber:
    """Runs the scrubbing. For the loop's thread. `on_damage` gets index key and entry of each damaged
    record that the index points to, `on_whole` of each that was known to be (in `damaged`, index keys) and isn't any
    more, `on_mended` the index keys of entries that were mended. `is_dead` tells
    of an index key and a position whether a record there counts for nothing since its partition was dropped."""

    def __init__(
        self,
        volumes: Volumes,
        index: Index,
        indexer: Indexer,
        tree: Tree,
        options: NodeOptions,
        on_damage: Callable[[bytes, bytes], None],
        on_whole: Callable[[bytes, bytes], None],
        on_mended: Callable[[bytes], None],
        is_dead: Callable[[bytes, int], bool],
        damaged: Container[bytes],
        scrubbed_at: float,
        scrub_next: int,
        save: Callable[[float, int], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._volumes = volumes
        self._index = index
        self._indexer = indexer
        self._options = options
        self._on_damage = on_damage
        self._is_dead = is_dead
        self._on_whole = on_whole
        self._damaged = damaged
        self._thread = ThreadPoolExecutor(1, "sfss-scrubber")
        self._mender = Mender(volumes, index, indexer, self._thread, self._tell, on_mended, is_dead)
        self._tree_checker = TreeChecker(index, indexer, tree, self._thread)
        self._task: asyncio.Task[None] | None = None
        self._doubt = asyncio.Event()
        self._look_again_at = 0.0
        self.faults = 0
        self.scrubbed_bytes = 0
        self.passes = 0
        self.scrubbed_at = scrubbed_at
        """When the last pass ended, perhaps in an earlier life (Unix seconds); 0 before the first one did."""
        self._next = scrub_next
        self._save = save
        self._now = now

    def start(self) -> None:
        if self._options.scrub_bytes_per_s:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop, in the middle of a volume if need be."""
        await end(self._task)
        self._thread.shutdown()

    def look_soon(self) -> None:
        """Look at the index before the next pass does: something in it is damaged that others ask for."""
        self._doubt.set()

    async def scrub(self) -> None:
        """Look at the whole index, and read all volumes but the newest, once; or the rest of that, where an earlier
        life had begun with it."""
        if not self._next:
            await self._check_index()
        for number in self._left():
            self._next = number
            await self._save_progress()
            if self._doubt.is_set() and time.monotonic() >= self._look_again_at:
                await self._check_index()
            await self._indexer.commit()
            volume = self._volumes.by_number.get(number)
            if volume is None:
                continue  # compacted away meanwhile
            try:
                await self._scrub_volume(volume)
            except (OSError, SfssError, index_errors) as error:
                _log.error("scrubbing of volume %d failed: %s", number, error)
        self.passes += 1
        self.scrubbed_at = self._now()
        self._next = 0
        await self._save_progress()

    async def _check_index(self) -> None:
        self._doubt.clear()
        began = time.monotonic()
        try:
            await self._indexer.commit()
            await self._mender.mend()
            off = await self._tree_checker.check()
            if off:
                self._tell(f"{off} leaves of the hash tree were off and were put right")
        except (OSError, IndexDamaged, index_errors) as error:
            _log.error("mending the index failed: %s", error)
        # What can't be mended is met again and again, and a large index takes minutes: volumes are to be read, too.
        ended = time.monotonic()
        self._look_again_at = ended + max(_RESUME_S, ended - began)

    def _left(self) -> list[int]:
        """The volumes that this pass has yet to read."""
        return [number for number in sorted(self._volumes.by_number)[:-1] if number >= self._next]

    @property
    def left_bytes(self) -> int:
        """What is left to be read of the pass that is under way; 0 where none is."""
        return sum(self._volumes.by_number[number].end for number in self._left()) if self._next else 0

    async def _save_progress(self) -> None:
        try:
            await self._save(self.scrubbed_at, self._next)
        except OSError as error:
            _log.error("how far scrubbing has come can't be written: %s", error)

    async def _run(self) -> None:
        wait_s = _RESUME_S
        if not self._next:
            wait_s = min(max(self.scrubbed_at + _BETWEEN_PASSES_S - self._now(), _RESUME_S), _BETWEEN_PASSES_S)
            wait_s = wait_s if self.scrubbed_at else _BETWEEN_PASSES_S
        while True:
            try:
                await self._pause(wait_s)
                wait_s = _BETWEEN_PASSES_S
                await self.scrub()
            except OutOfDisk as error:
                _log.error("scrubbing stopped and will go on later: %s", error)
                wait_s = _RESUME_S
            except Exception:
                _log.exception("scrubbing failed and will be tried again")

    async def _pause(self, seconds: float) -> None:
        """Wait for the next pass, and look at the index meanwhile where that is asked for."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            rest_s = self._look_again_at - time.monotonic()
            if rest_s > 0:
                await asyncio.sleep(min(rest_s, left_s))
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._doubt.wait()
            if self._doubt.is_set():
                await self._check_index()

    async def _scrub_volume(self, volume: Volume) -> None:
        loop = asyncio.get_running_loop()
        with self._volumes.held(volume.number) as fd:
            walker = _Walker(volume, fd, self._index, self._is_dead, self._damaged)
            more = True
            while more:
                began = time.monotonic()
                piece = await self._in_thread(loop, walker)
                more = piece.more
                self.scrubbed_bytes += piece.size
                if volume.number not in self._volumes.by_number:
                    return  # compacted away meanwhile: what was found there no longer counts
                for lookup, entry in piece.damaged:
                    self._on_damage(lookup, entry)
                for lookup, entry in piece.whole:
                    self._on_whole(lookup, entry)
                for fault in piece.faults:
                    self._tell(fault)
                working_s = time.monotonic() - began
                await asyncio.sleep(max(piece.size / self._options.scrub_bytes_per_s, _IDLE_PART * working_s))

    def _tell(self, fault: str) -> None:
        self.faults += 1
        _log.error("%s", fault)

    async def _in_thread(self, loop: asyncio.AbstractEventLoop, walker: _Walker) -> _Slice:
        # Shielded: a stop must not release the descriptor under the thread's hands.
        walking = loop.run_in_executor(self._thread, walker.next_slice)
        try:
            return await asyncio.shield(walking)
        except asyncio.CancelledError:
            await asyncio.wait([walking])
            raise


class _Walker:
    """The thread's side: verifies one volume in slices."""

    def __init__(
        self,
        volume: Volume,
        fd: int,
        index: Index,
        is_dead: Callable[[bytes, int], bool],
        damaged: Container[bytes],
    ) -> None:
        self._base = volume.header.position
        self._is_dead = is_dead
        self._name = volume_path(Path(), volume.number).name
        self._number = volume.number
        self._index = index
        self._known_damaged = damaged
        self._events: Iterator[Event] = walk(reader_of(fd), volume.header, 0, volume.end)
        # A record that the index lacks is a fault only if no tombstone or flush behind it explains that.
        self._newer: dict[bytes, str] = {}

    def next_slice(self) -> _Slice:
        """Verify until there is enough for one go, or the volume ends."""
        piece = _Slice([], [], [], 0, True)
        faults = piece.faults
        size = seen = 0
        for event in self._events:
            if isinstance(event, Damage):
                faults.append(f"{self._name} is damaged from {event.offset} to {event.end}")
            elif isinstance(event, Found):
                seen += 1
                size += event.header.size
                self._check(event, piece)
            if size >= _SLICE_BYTES or seen >= _SLICE_RECORDS:
                return piece._replace(size=size)
        return piece._replace(faults=[*faults, *self._newer.values()], size=size, more=False)

    def _check(self, found: Found, piece: _Slice) -> None:
        faults = piece.faults
        header = found.header
        if header.kind == Kind.FLUSH:
            self._newer.clear()
            return
        lookup = index_key(header.key)
        with self._index.snapshot() as get:
            entry = get(lookup)
        where = f"{self._name}: the record at {found.offset}"
        if not found.intact:
            faults.append(f"{where} failed its checksum")
        if entry is None:
            # Tombstones are taken out of the index before their volume goes, and flushed files may wait to go.
            return
        if len(entry) != ENTRY_BYTES:
            faults.append(f"{where} has a damaged entry in the index")
            return
        volume, offset, _, _, _, version, checksum, kind, _, _ = unpack_fields(entry)
        if (volume, offset) == (self._number, found.offset):
            self._newer.pop(lookup, None)
            if not found.intact:
                piece.damaged.append((lookup, entry))
            elif lookup in self._known_damaged:
                piece.whole.append((lookup, entry))
        elif (
            found.intact
            and is_newer(header, version, checksum, kind)
            and not self._is_dead(lookup, self._base + found.offset)
        ):
            self._newer[lookup] = f"{where} is newer than what the index has"
