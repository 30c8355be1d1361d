"""Compaction: giving back the room of volumes that are mostly garbage.

One volume at a time, the one with the most garbage first, or a round of those in which nothing lives any more. It
takes three steps, which a crash may interrupt anywhere:

1. A thread walks the volume and picks the records that the committed index points to. They are appended again like any
   write, but with the version they have; the overlay is repointed only where the entry has not changed meanwhile.
2. The index is committed. A crash before leaves old and new copy, which are the same record.
3. When the index points to none of the records any more that it did point to, and the count agrees, the volume is
   forgotten, and its file becomes a spare or is unlinked. A read under way keeps its descriptor.

After each slice of work comes a pause, so that clients have the machine while they want it: `nodes.pace` says what
share of the time the work may take. The busier the machine is, the longer a slice takes, and so the pause.

What clients may have to wait for is bounded by work, not by time: `TURN_RECORDS` of a turn of the loop, a slice's bytes
and one record more of what is appended with their writes, a slice's look-ups where the index's map has to grow.
`turn_s_max` and `append_s_max` tell what that came to.

In append order a key's versions only rise, so what is older than a record lies before it. A tombstone is dropped when
its volume is the oldest there is: then nothing older than it is left anywhere. Elsewhere it moves along, and in a
cluster it does until it is purged, since replicas or hints may still hold what it deleted. An expired record counts as
a tombstone. A live record that fails its checksum stays where it is, and its volume with it, so that reads go on
telling.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from nodes.batch import Write
from nodes.entry import index_key
from nodes.format import RECORD_HEADER_BYTES, VOLUME_HEADER_BYTES, Kind, RecordHeader, record_key_bytes
from nodes.index import Index
from nodes.index import errors as index_errors
from nodes.indexer import Indexer
from nodes.options import NodeOptions
from nodes.overlay import Overlay
from nodes.pace import garbage_allowed, share_of_time
from nodes.reserve import Reserve
from nodes.scan import reader_of, record_at, skim
from nodes.spares import SPARES_MAX, Spares, give_back, set_aside
from nodes.volume import Volume, Volumes, volume_path
from nodes.writer import Writer
from sfss.errors import SfssError
from sfss.promise import Promise, new_promise
from sfss.store import KEY_BYTES_MAX, checksum_of
from sfss.tasks import end

_SLICE_BYTES = 128 * 1024
"""All of a slice's live records are appended as one batch, which clients' writes wait for."""

_SLICE_RECORDS = 2000
TURN_RECORDS = 64
"""So many records are handed to the writer before the loop gets its turn: well under a millisecond's work."""

_BREATH_RECORDS = 32
_BREATH_S = 0.00005
"""A look-up in the index gives the interpreter away and takes it back. While one thread does so over and over, the
others hardly come in between (a writer waited up to 8 ms for it), so after every few look-ups the thread sleeps. With
the smaller slices it halved the 99th percentile of a busy node's sets."""

_PASSES_MAX = 4
_ROUND_VOLUMES = 8
"""So many volumes share a round, and so the commit of the index that it takes."""

_SPARES_FREE = 4
"""Spares are kept where the disk has so many times their room free."""

_PAUSE_S = 1.0
_WALK_SHARE = 0.5
"""The least share of the time for work that copies nothing: it costs little, and room comes of it."""

_LEFT_ALONE_S = 60.0
"""After this long a volume that could not be compacted is tried again."""

_SHORT_DEAD_RATIO = 0.1
"""When the disk is nearly full, a volume with this little garbage is compacted too."""

_FRESH_S = 1.0
"""For so long a share of the time counts. To sum up all volumes takes a while where there are many."""

_HEAD_BYTES_MAX = RECORD_HEADER_BYTES + KEY_BYTES_MAX
_FLUSH = int(Kind.FLUSH)

_log = logging.getLogger("sfss.node")


class _Live(NamedTuple):
    """A record to move: where it lies, what the index says of it, and all of it."""

    offset: int
    lookup: bytes
    entry: bytes
    header: RecordHeader
    value: bytes


class _Slice(NamedTuple):
    """What a thread found in one go. `stuck` counts records that can't be moved."""

    live: list[_Live]
    stuck: int
    more: bool


class Compactor:
    """Runs compaction. Methods are for the loop's thread. `clock` is monotonic."""

    def __init__(
        self,
        volumes: Volumes,
        overlay: Overlay,
        index: Index,
        indexer: Indexer,
        writer: Writer,
        reserve: Reserve,
        spares: Spares,
        options: NodeOptions,
        *,
        is_pending: Callable[[bytes], bool],
        may_go: Callable[[bytes, RecordHeader], bool],
        free_bytes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._volumes = volumes
        self._overlay = overlay
        self._index = index
        self._indexer = indexer
        self._writer = writer
        self._reserve = reserve
        self._spares = spares
        self._options = options
        self._is_pending = is_pending
        self._may_go = may_go
        self._free_bytes = free_bytes
        self._clock = clock
        self._sleep = sleep
        self._thread = ThreadPoolExecutor(1, "sfss-compactor")
        self._left_alone: dict[int, float] = {}
        self._share_now = 1.0
        self._share_asked_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self.moving: set[bytes] = set()
        """Index keys of copies that are not durable yet."""
        self.compacted = 0
        self.moved_bytes = 0
        self.turn_s_max = 0.0
        """The longest that the loop was held."""
        self.append_s_max = 0.0
        """The longest that a slice was on its way to disk, which clients' writes may wait for."""
        self.dropped = 0
        """Tombstones, and expired files, that are gone for good."""

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop, in the middle of a volume if need be."""
        await end(self._task)
        self._thread.shutdown()

    async def compact(self) -> bool:
        """Compact what has the most garbage, if anything has enough. Returns whether there was something."""
        began = self._clock()
        victims = self._victims()
        self._held_since(began)
        if not victims:
            return False
        for number in await self._compact(victims):
            self._left_alone[number] = self._clock() + _LEFT_ALONE_S
            _log.warning("volume %d can't be compacted now and is left alone", number)
        return True

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE_S)
            try:
                while await self.compact() and self._reserve.short:
                    pass
            except SfssError as error:
                _log.error("compaction failed and will be tried again: %s", error)
            except Exception:
                _log.exception("compaction failed and will be tried again")
                await asyncio.sleep(_LEFT_ALONE_S)

    def _victims(self) -> list[Volume]:
        """The volumes in which nothing lives, as many as may share a round; else the one with the most garbage."""
        least = _SHORT_DEAD_RATIO if self._reserve.short else self._options.compact_dead_ratio
        now = self._clock()
        live = self._overlay.figures.live
        empty: list[Volume] = []
        best: Volume | None = None
        best_ratio = 0.0
        for volume in self._volumes:
            if volume.number == self._writer.volume.number or self._left_alone.get(volume.number, 0.0) > now:
                continue
            alive = live.get(volume.number, 0)
            if not alive:
                empty.append(volume)
                continue
            ratio = 1 - alive / max(volume.end - VOLUME_HEADER_BYTES, 1)
            if ratio >= least and (best is None or (ratio, -volume.number) > (best_ratio, -best.number)):
                best, best_ratio = volume, ratio
        if empty:
            return sorted(empty, key=lambda volume: volume.number)[:_ROUND_VOLUMES]
        return [] if best is None else [best]

    async def _compact(self, victims: list[Volume]) -> list[int]:
        """Move what is live and retire what is empty; returns the numbers of the volumes that could not go."""
        stay: list[int] = []
        left: list[tuple[Volume, array[int] | None]] = [(volume, None) for volume in victims]
        for _ in range(_PASSES_MAX):
            await self._indexer.commit()
            again: list[tuple[Volume, array[int] | None]] = []
            for volume, offsets in left:
                try:
                    live, stuck = await self._move_live(volume, offsets)
                    if live and not stuck:
                        again.append((volume, live))
                    elif stuck or self._overlay.figures.live.get(volume.number, 0):
                        stay.append(volume.number)
                    else:
                        await self._retire(volume)
                except (OSError, index_errors) as error:
                    # Every step may be repeated: the volume is whole until nothing points into it any more.
                    _log.error("compaction of volume %d failed: %s", volume.number, error)
                    stay.append(volume.number)
            left = again
            if not left:
                break
        return stay + [volume.number for volume, _ in left]

    async def _move_live(self, volume: Volume, offsets: array[int] | None = None) -> tuple[array[int], int]:
        """Move what is live in a volume, or of it at `offsets`; returns where that was, and how much of it can't be
        moved."""
        loop = asyncio.get_running_loop()
        found = array("I")
        stuck = 0
        walker = _Walker(volume, self._volumes.directory, self._index, offsets)
        try:
            more = True
            while more:
                began = self._clock()
                piece = await loop.run_in_executor(self._thread, walker.next_slice)
                more = piece.more
                stuck += piece.stuck
                found.extend([live.offset for live in piece.live])
                await self._append_again(volume, piece.live)
                await self._rest(began, sum(live.header.size for live in piece.live))
        finally:
            await loop.run_in_executor(self._thread, walker.close)
        if walker.flushes and volume.number != self._volumes.oldest_number:
            stuck += 1
        return found, stuck

    async def _rest(self, began: float, moved: int) -> None:
        """Leave the machine to the clients after a slice of work. Not when room is short: they can't write then
        anyway."""
        least = 0.0 if moved else _WALK_SHARE
        worked_s = self._clock() - began
        while not self._reserve.short:
            # The share is asked for again and again: garbage may grow during a long pause.
            all_s = max(worked_s / max(self._share(), least), moved / self._options.compact_bytes_per_s)
            left_s = began + all_s - self._clock()
            if left_s <= 0:
                break
            await self._sleep(min(left_s, _FRESH_S))

    def _share(self) -> float:
        if self._clock() >= self._share_asked_at + _FRESH_S:
            self._share_asked_at = self._clock()
            live = self._overlay.figures.live_bytes
            garbage = sum(each.end for each in self._volumes) - live
            allowed = garbage_allowed(live, self._free_bytes(), self._options.volume_bytes)
            self._share_now = share_of_time(garbage, allowed, self._options.compact_share)
        return self._share_now

    def _held_since(self, began: float) -> None:
        self.turn_s_max = max(self.turn_s_max, self._clock() - began)

    async def _append_again(self, volume: Volume, live: list[_Live]) -> None:
        """Append records again, but those that have changed meanwhile; returns once they are durable."""
        first = self._clock()
        appended: list[Promise[None]] = []
        for start in range(0, len(live), TURN_RECORDS):
            if start:
                await asyncio.sleep(0)
            began = self._clock()
            appended += self._hand_over(volume, live[start : start + TURN_RECORDS])
            self._held_since(began)
        for durable in appended:
            await durable
        if appended:
            self.append_s_max = max(self.append_s_max, self._clock() - first)

    def _hand_over(self, volume: Volume, live: list[_Live]) -> list[Promise[None]]:
        """Give records to the writer; what is returned tells when the last of them is durable."""
        writes = []
        for _, lookup, entry, header, value in live:
            if self._is_pending(lookup) or self._overlay.newest(lookup) != entry:
                continue
            if self._may_go(lookup, header):
                if volume.number == self._volumes.oldest_number:
                    self._overlay.drop(lookup)
                    self.dropped += 1
                    continue
                if header.kind != Kind.TOMBSTONE:
                    header, value = _as_tombstone(header), b""
            kind, key, _, flags, expires, version, checksum = header
            write = Write(lookup, kind, key, value, flags, expires, version, checksum, moves=entry)
            self.moved_bytes += write.size
            self.moving.add(lookup)
            self._writer.add(write)
            writes.append(write)
        if not writes:
            return []
        last: Promise[None] = new_promise()
        writes[-1].wait(last, None)  # they become durable in order
        return [last]

    async def _retire(self, volume: Volume) -> None:
        # First the name, for good: what is forgotten must not come back at the next start, since with it gone
        # tombstones of what it holds are dropped.
        loop = asyncio.get_running_loop()
        aside = await loop.run_in_executor(self._thread, set_aside, volume_path(self._volumes.directory, volume.number))
        unused = self._volumes.retire(volume.number)
        self._overlay.figures.forget_volume(volume.number)
        self._left_alone.clear()  # what is the oldest volume has changed
        self.compacted += 1
        _log.info("volume %d is compacted away", volume.number)
        if unused and self._spare_wanted(volume):
            self._spares.offer(aside)
        else:
            await loop.run_in_executor(self._thread, give_back, aside)

    def _spare_wanted(self, volume: Volume) -> bool:
        size = self._options.volume_bytes
        return (
            len(self._spares) < SPARES_MAX
            and volume.end >= size // 2
            and not self._reserve.short
            and self._free_bytes() >= _SPARES_FREE * SPARES_MAX * size
        )


class _Walker:
    """The thread's side: walks one volume in slices, or of its records those at `offsets`."""

    def __init__(self, volume: Volume, directory: Path, index: Index, offsets: array[int] | None = None) -> None:
        self._volume = volume
        self._index = index
        self._fd = os.open(volume_path(directory, volume.number), os.O_RDONLY | os.O_CLOEXEC)
        self._read_at = reader_of(self._fd)
        self._records = skim(self._read_at, volume.header, volume.end) if offsets is None else self._pick(offsets)
        self._number = volume.number.to_bytes(4, "little")
        self.flushes = 0

    def next_slice(self) -> _Slice:
        """Walk on until there is enough to move, or the volume ends."""
        live: list[_Live] = []
        number = self._number
        stuck = taken = seen = 0
        with self._index.snapshot() as get:
            for offset, kind, key in self._records:
                seen += 1
                if not seen % _BREATH_RECORDS:
                    time.sleep(_BREATH_S)
                if kind == _FLUSH:
                    self.flushes += 1
                lookup = index_key(key)
                entry = get(lookup)
                # An entry begins with volume and offset. Most point into another volume.
                if entry is not None and entry.startswith(number) and entry[4:8] == offset.to_bytes(4, "little"):
                    found = record_at(self._read_at, self._volume.header, offset, self._volume.end)
                    if found is not None and found.intact:
                        live.append(_Live(offset, lookup, entry, found.header, found.value))
                        taken += found.header.size
                    else:
                        stuck += 1
                # Dead records count too: `grow` waits on the loop for a snapshot to end.
                if taken >= _SLICE_BYTES or seen >= _SLICE_RECORDS:
                    return _Slice(live, stuck, True)
        return _Slice(live, stuck, False)

    def _pick(self, offsets: array[int]) -> Iterator[tuple[int, int, bytes]]:
        # Without the window of `reader_of`: the few that were live lie far apart.
        for offset in offsets:
            head = os.pread(self._fd, _HEAD_BYTES_MAX, offset)
            key = head[RECORD_HEADER_BYTES : RECORD_HEADER_BYTES + record_key_bytes(head)]
            yield offset, Kind.FILE, key  # or a tombstone; no entry points to a flush

    def close(self) -> None:
        os.close(self._fd)


def _as_tombstone(header: RecordHeader) -> RecordHeader:
    checksum = checksum_of(header.key, b"", 0, 0, header.version, True)
    return RecordHeader(Kind.TOMBSTONE, header.key, 0, 0, 0, header.version, checksum)
