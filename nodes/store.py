"""A node's store: files in volumes on disk, found through an index; durable when acknowledged.

`NodeStore` composes the parts: the writer makes records durable, the overlay and the index know where each key's
newest record lies, the reader fetches values, the indexer and the compactor work behind. It implements `Store`,
`Replica`, `GroupReplica`, `Comparable`, `Purgeable`, `Refillable`, `Witness`, `Updater` and `Flushable` of
`sfss.store`, and `RingKeeper`.

A record is *pending* (with the writer), then *durable* (in the overlay), then *indexed*. Version checks and `update`
see pending records; reads serve the newest durable one; an answer that depends on a pending record waits until that
is durable.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from nodes import index as indexes
from nodes.batch import Write
from nodes.compaction import Compactor
from nodes.crash_note import CrashNote
from nodes.dropping import Dropper
from nodes.entry import (
    ENTRY_BYTES,
    HASH_BYTES,
    PLAIN,
    PLAIN_AT,
    Entry,
    index_key,
    is_whole,
    unpack_counted,
    unpack_entry,
    unpack_fields,
    unpack_order,
    unpack_plain,
)
from nodes.format import RECORD_HEADER_BYTES, Kind, RecordHeader
from nodes.free_space import FreeSpace
from nodes.hot import HotRecords
from nodes.housekeeping import Housekeeper, floor_ahead, save_for_sure
from nodes.identity import DataDirectory, NodeState
from nodes.indexer import Indexer
from nodes.lineage import next_start
from nodes.listing import Lister
from nodes.membership import Membership
from nodes.options import NodeOptions, Sync
from nodes.overlay import is_purged
from nodes.purging import Purger
from nodes.reading import ValueReader
from nodes.recovery import Recovered, recover
from nodes.reserve import Reserve
from nodes.ring_file import read_ring_file, with_ring
from nodes.scrub import Scrubber
from nodes.spares import Spares
from nodes.volume import Volumes
from nodes.writer import Writer
from sfss.errors import (
    BadRequest,
    Busy,
    CorruptRecord,
    Expired,
    Outcome,
    Recovering,
    SetupError,
    SfssError,
    StaleRing,
    TooLarge,
    Unsupported,
)
from sfss.groups import Join, each
from sfss.promise import Promise, promised, turn_of
from sfss.ring_keeper import HeldRing, Prepared, Voted
from sfss.ring_record import RingRecord
from sfss.stamps import AHEAD_S_MAX, StampClock, purge_stamp, stamp_at, stamp_time, too_far_ahead
from sfss.store import (
    NO_CALL,
    WIRE_VALUE_BYTES_MAX,
    Applied,
    Call,
    Change,
    Identity,
    Purged,
    Record,
    Reply,
    Seen,
    Written,
    checksum_of,
    settled,
)

T = TypeVar("T")

_log = logging.getLogger("sfss.node")
_DAMAGED_MAX: Final = 100_000
"""Damaged records that are remembered, so that the same version may be written once more."""

_SHORT_OF: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""A read that fails so says nothing about the record."""

_START_BYTES: Final = 16 * 1024 * 1024
"""Room that a start may need, for the index most of all; on a full disk the reserve gives it."""

_FILE: Final = int(Kind.FILE)
_TOMBSTONE: Final = int(Kind.TOMBSTONE)
_FLUSH: Final = int(Kind.FLUSH)


def die(reason: str) -> None:
    """End the process at once, without another word to any client."""
    _log.critical("%s", reason)
    os._exit(1)


class NodeStore:
    """The store of one data directory. Made by `open`; all methods are for the loop's thread."""

    def __init__(
        self,
        directory: DataDirectory,
        state: NodeState,
        options: NodeOptions,
        recovered: Recovered,
        reserve: Reserve,
        last_stamp: int,
        now: Callable[[], float],
        die: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._turn = turn_of(self._loop)
        self._directory = directory
        self._options = options
        self._now = now
        self._die = die
        self._recovered = recovered
        self._overlay = recovered.overlay
        self._index = recovered.index
        self._hot = recovered.overlay.hot = HotRecords(options.cache_bytes)
        self._pending: dict[bytes, Write] = {}
        self._pending_bytes_max = options.pending_bytes_max
        self._flushing: Write | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed: asyncio.Future[None] | None = None
        self._clock = StampClock(now, last_stamp)
        self._durable = 1 if options.sync is Sync.ALWAYS else 0
        self._corrupt_records = recovered.rotten + len(recovered.lost)
        self._damaged = recovered.overlay.figures.damaged
        self._bounds = recovered.overlay.figures.bounds
        self._stored = 0
        self._volumes = Volumes(directory.volumes, options.open_volumes_max)
        for volume in recovered.volumes:
            self._volumes.add(volume)
        self._reader = ValueReader(self._volumes, options.read_threads, options.reads_waiting_max)
        self._reserve = reserve
        self._free_space = FreeSpace(directory.volumes)
        self._spares = Spares()
        self._writer = Writer(
            directory.volumes,
            state.node_bytes,
            recovered.newest,
            recovered.begun,
            options,
            reserve,
            self._spares,
            on_durable=self._on_durable,
            on_failed=self._on_failed,
            on_volume=self._volumes.add,
            die=die,
        )
        self._indexer = Indexer(self._index, self._overlay, self._writer, reserve, options, state.node, die)
        self._dropper = Dropper(
            self._index,
            self._overlay,
            self._indexer,
            self._writer,
            self._volumes,
            options.overlay_entries_max,
            on_damage=self._index_damaged,
            stopping=lambda: self._closed is not None,
        )
        self._ring = state.ring
        self._housekeeper = Housekeeper(
            directory, state, self._clock, self._writer, reserve, options, now, on_state=self._know_state
        )
        self._membership = Membership(
            recovered.ring,
            self._housekeeper,
            self._dropper,
            self._indexer,
            self._writer,
            self._volumes,
            files_held=lambda: max(len(self._pending), self._overlay.figures.files),
            on_ring=self._take_ring,
            spawn=self._run,
        )
        self._rings = self._membership.rings
        self._compactor = Compactor(
            self._volumes,
            self._overlay,
            self._index,
            self._indexer,
            self._writer,
            reserve,
            self._spares,
            options,
            is_pending=self._is_pending,
            may_go=self._may_go,
            free_bytes=self._free_space.bytes_free,
        )
        self._moving = self._compactor.moving
        self._purger = Purger(self._index, self._indexer, self._overlay, lambda: stamp_at(now()))
        self._scrubber = Scrubber(
            self._volumes,
            self._index,
            self._indexer,
            self._overlay.figures.tree,
            options,
            on_damage=self._note_damage_of,
            on_whole=self._note_whole,
            on_mended=recovered.overlay.figures.mended,
            damaged=self._damaged,
            scrubbed_at=state.scrubbed_at,
            scrub_next=state.scrub_next,
            save=self._save_scrubbed,
            now=now,
            is_dead=self._rings.is_dead,
        )
        self._lister = Lister(self._index, self._overlay, self._scrubber.look_soon)
        self._know_state(state)

    async def _save_scrubbed(self, scrubbed_at: float, scrub_next: int) -> None:
        await self._housekeeper.save(decide=lambda _: {"scrubbed_at": scrubbed_at, "scrub_next": scrub_next})

    def _know_state(self, state: NodeState) -> None:
        self._state = state
        self._ring = max(self._ring, state.ring)
        self._floor = state.stamp_floor
        self._suspect = state.suspect
        if state.suspect:
            self._bounds.forget_all()
        else:
            self._bounds.open_for(self._ring)

    # --- life ----------------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        directory: str | Path,
        options: NodeOptions | None = None,
        *,
        now: Callable[[], float] = time.time,
        die: Callable[[str], None] = die,
        note_crashes: bool = False,
    ) -> NodeStore:
        """Open a data directory, making it if there is none, and bring it into a state to serve. Raises `SetupError`.

        `now` is Unix seconds; `die` is called from a thread when nothing may be acknowledged any more. `note_crashes`
        is for a process that is a node and nothing else.
        """
        options = options or NodeOptions()
        loop = asyncio.get_running_loop()
        data = DataDirectory.open(Path(directory))
        try:
            if note_crashes:
                CrashNote(data.path).keep()
            state, recovered, reserve, last_stamp = await loop.run_in_executor(None, _start, data, options, now)
        except BaseException:
            data.close()
            raise
        if recovered.suspect:
            _log.error("acknowledged writes may be missing here, so reads are refused: %s", recovered.suspect)
        store = cls(data, state, options, recovered, reserve, last_stamp, now, die)
        store._indexer.start()
        store._housekeeper.start()
        store._compactor.start()
        store._scrubber.start()
        store._purger.start()
        return store

    async def close(self) -> None:
        """Finish what was taken, sync, index it and let the directory go. Idempotent."""
        if self._closed is not None:
            await asyncio.shield(self._closed)
            return
        self._closed = asyncio.get_running_loop().create_future()
        await self._scrubber.close()
        await self._purger.close()
        await self._compactor.close()
        self._writer.finish()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._writer.close()
        self._spares.give_up()
        await self._indexer.close()
        await self._housekeeper.close()
        self._reader.close()
        self._lister.close()
        self._dropper.close()
        self._volumes.close()
        self._index.close()
        last = replace(
            self._state,
            position=self._writer.synced_position,
            stamp_floor=self._clock.last,
            closed=self._indexer.complete,
        )
        try:
            save_for_sure(self._directory, last, self._reserve)
        except OSError as error:
            _log.error("the identity file can't be written, so the next start takes this stop for a crash: %s", error)
        self._reserve.close()
        self._directory.close()
        self._closed.set_result(None)

    # --- Store ---------------------------------------------------------------------------------------

    def get(self, key: bytes, call: Call = NO_CALL) -> Reply[Record | None]:
        self._check_read(call)
        lookup = index_key(key)
        record = self._hot.get(lookup)
        if record is not None:
            return record
        entry = self._newest_durable(lookup)
        if entry is None:
            return None
        return self._read_value(lookup, entry, True, call)

    def head(self, key: bytes, call: Call = NO_CALL) -> Reply[Record | None]:
        record = self.inspect(key, call)
        return record if record is not None and record.live(self._now()) else None

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Reply[Written]:
        self._check_write(call, len(value))
        version = self._clock.next()
        if version > self._floor:
            return self._spawn(self._above_floor(self.set, key, value, flags, expires, call))
        write = self._add(_FILE, key, value, flags, expires, version)
        return self._when_durable(write, Written(version, write.checksum, self._durable, 1))

    def delete(self, key: bytes, call: Call = NO_CALL) -> Reply[Written | None]:
        self._check_write(call, 0)
        version = self._clock.next()
        if version > self._floor:
            return self._spawn(self._above_floor(self.delete, key, call))
        lookup = index_key(key)
        pending = self._pending.get(lookup) or self._flushing
        if pending is not None:
            if not self._pending_is_live(pending):
                return self._when_durable(pending, None)
        else:
            entry = self._newest_durable(lookup)
            if entry is None or not self._is_live(unpack_entry(lookup, entry)):
                return self._refuse_while_suspect(None)
        write = self._add(_TOMBSTONE, key, b"", 0, 0, version)
        return self._when_durable(write, Written(version, write.checksum, self._durable, 1))

    def stats(self, topic: str = "", call: Call = NO_CALL) -> dict[str, str]:
        if topic:
            raise BadRequest(f"no statistics named {topic}")
        figures = self._overlay.figures
        writer = self._writer
        live = figures.live_bytes
        oldest = writer.oldest_unsynced_at
        told = {
            "total_items": str(self._stored),
            "curr_items": str(figures.files),
            "live_bytes": str(live),
            "dead_bytes": str(max(0, sum(volume.end for volume in self._volumes) - live)),
            "volumes": str(len(self._volumes.by_number)),
            "spare_volumes": str(len(self._spares)),
            "sync": self._options.sync.value,
            "fsyncs": str(writer.syncs),
            "oldest_unsynced_write_s": f"{0.0 if oldest is None else time.monotonic() - oldest:.3f}",
            "pending_writes": str(len(self._pending)),
            "pending_bytes": str(writer.pending_bytes),
            "unindexed_records": str(len(self._overlay)),
            "index_commits": str(self._indexer.commits),
            "corrupt_records": str(self._corrupt_records),
            "damaged_records": str(len(self._damaged)),
            "tombstones": str(figures.tombstones),
            "dropped_tombstones": str(self._compactor.dropped),
            "cold_reads": str(self._reader.cold_reads),
            "cached_reads": str(self._hot.hits),
            "cached_files": str(len(self._hot)),
            "cached_bytes": str(self._hot.bytes),
            "compacted_volumes": str(self._compactor.compacted),
            "compacted_bytes": str(self._compactor.moved_bytes),
            "compaction_turn_max_ms": f"{self._compactor.turn_s_max * 1000:.2f}",
            "compaction_append_max_ms": f"{self._compactor.append_s_max * 1000:.2f}",
            "scrubbed_bytes": str(self._scrubber.scrubbed_bytes),
            "scrub_faults": str(self._scrubber.faults),
            "scrub_passes": str(self._scrubber.passes),
            "scrub_left_bytes": str(self._scrubber.left_bytes),
            "reserve_bytes": str(self._reserve.held_bytes),
            "reserve_short": str(int(self._reserve.short)),
            "disk_free_bytes": str(self._free_space.bytes_free()),
            "appended_bytes": str(writer.appended_bytes),
            "position": str(writer.synced_position),
            "replayed_records": str(self._recovered.replayed),
            "state": "suspect" if self._state.suspect else "ok",
            "epoch": str(self._state.epoch),
            "ring": str(self._state.ring),
        }
        if self._suspect:
            told["suspect_reason"] = self._suspect
        if self._scrubber.scrubbed_at:
            told["last_scrub_age_s"] = f"{max(0.0, self._now() - self._scrubber.scrubbed_at):.1f}"
        return told

    # --- Replica -------------------------------------------------------------------------------------

    def read(self, key: bytes, call: Call = NO_CALL) -> Reply[Record | None]:
        self._check_read(call)
        self._check_ring(call)
        return self._read(key, call)

    def inspect(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        self._check_read(call)
        self._check_ring(call)
        return self._inspect(key)

    def read_group(self, keys: Sequence[bytes], whole: bool, call: Call = NO_CALL) -> list[Any] | Promise[list[Any]]:
        try:
            self._check_read(call)
            self._check_ring(call)
        except SfssError as error:
            return [error] * len(keys)
        return each(lambda key: self._read(key, call), keys) if whole else each(self._inspect, keys)

    def _read(self, key: bytes, call: Call) -> Reply[Record | None]:
        lookup = index_key(key)
        record = self._hot.get(lookup)
        if record is not None:
            return record
        entry = self._newest_durable(lookup)
        if entry is None:
            return None
        return self._read_value(lookup, entry, False, call)

    def _inspect(self, key: bytes) -> Record | None:
        lookup = index_key(key)
        record = self._hot.head(lookup)
        if record is not None:
            return record
        packed = self._newest_durable(lookup)
        if packed is None:
            return None
        if lookup in self._damaged:
            raise CorruptRecord("the record is damaged and waits to be written again")
        if len(packed) == ENTRY_BYTES and packed[PLAIN_AT : PLAIN_AT + len(PLAIN)] == PLAIN:
            # Nearly all; half the work of making an `Entry`.
            _, size, version, checksum, kind = unpack_counted(packed)
            if kind == _FILE and is_whole(lookup, packed):
                if self._hot.wants(lookup, 0):
                    self._hot.keep_head(lookup, size, version, checksum)
                return Record(b"", size, 0, 0, version, checksum, False)
        entry = self._verified(lookup, packed)
        if entry.version < self._bounds.bounds[lookup[0]] and self._is_purged(lookup, packed):
            return None
        return _record(entry, b"")

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Reply[Applied]:
        self._check_write(call, len(record.value))
        self._check_ring(call)
        taken = self._take(key, record, self._now())
        return self._when_durable(taken, self._taken(taken, record)) if isinstance(taken, Write) else taken

    def apply_group(
        self, keys: Sequence[bytes], records: Sequence[Record], call: Call = NO_CALL
    ) -> list[Any] | Promise[list[Any]]:
        if self._suspect:
            return each(lambda place: self.apply(keys[place], records[place], call), range(len(keys)))
        # Once for all, which have one call: 400 instructions less for each.
        try:
            self._check_beginning(call)
            self._check_ring(call)
        except SfssError as refusal:
            return [refusal] * len(records)
        now = self._now()
        outcomes: list[Any] = []
        join = Join(outcomes)
        waits = False
        for place, record in enumerate(records):
            try:
                self._check_room(len(record.value))
                taken = self._take(keys[place], record, now)
            except Exception as error:
                outcomes.append(error)
                continue
            if not isinstance(taken, Write):
                outcomes.append(taken)
                continue
            waits = True
            answer = self._taken(taken, record)
            outcomes.append(answer)
            if taken.group is None:
                taken.wait_in(join, place)
            else:
                join.wait_for(self._when_durable(taken, answer), place)
        return join.all_came if waits else outcomes

    def _taken(self, write: Write, record: Record) -> Applied:
        """What to answer once a write is durable, which is that of the record or a newer one."""
        version, checksum = write.version, write.checksum
        return Applied(
            version == record.version and checksum == record.checksum, version, checksum, bool(self._durable)
        )

    def _take(self, key: bytes, record: Record, now: float) -> Write | Applied:
        """Take a record: the write to wait for, or what is to be said at once. `now` is Unix seconds."""
        version, checksum = record.version, record.checksum
        value, flags, expires, tombstone = record.value, record.flags, record.expires, record.tombstone
        if checksum != checksum_of(key, value, flags, expires, version, tombstone):
            raise BadRequest("the record's checksum is wrong")
        if too_far_ahead(version, now):
            _log.error("a write stamped over %d s ahead of this node's clock was refused", AHEAD_S_MAX)
            raise BadRequest(f"the version is more than {AHEAD_S_MAX:.0f} s ahead of this node's clock")
        lookup = index_key(key)
        entry: bytes | None = None
        seen_at = -1
        pending = self._pending.get(lookup)
        if pending is not None:
            if (pending.version, pending.checksum) >= (version, checksum):
                return pending
        elif self._flushing is None:
            entry = self._newest_durable(lookup)
            # A copy that waits changes it; none begins to wait while a write of the key is pending.
            if lookup not in self._moving:
                seen_at = self._overlay.shifts
            if entry is not None and len(entry) == ENTRY_BYTES:
                held_version, held_checksum = unpack_order(entry)
                newer = held_version > version or (held_version == version and held_checksum > checksum)
                same = held_version == version and held_checksum == checksum
                # An entry that rotted may claim any version; the record at hand is whole, and so it is taken.
                if (
                    (newer or (same and lookup not in self._damaged))
                    and is_whole(lookup, entry)
                    # What is purged is not told, so that nobody takes it for something that came meanwhile.
                    and (version >= self._bounds.fences[lookup[0]] or not self._is_purged(lookup, entry))
                ):
                    return self._refuse_while_suspect(Applied(same, held_version, held_checksum, bool(self._durable)))
        if version < self._bounds.lowest[lookup[0]] and self._is_purged_already(lookup, record, pending is None):
            return self._refuse_while_suspect(Applied(True, version, checksum, bool(self._durable)))
        self._clock.observe(version)
        kind = _TOMBSTONE if tombstone else _FILE
        write = Write(lookup, kind, key, value, flags, expires, version, checksum)
        write.replaces, write.replaces_at = entry, seen_at
        return self._added(write)

    def _is_purged_already(self, lookup: bytes, record: Record, settled: bool) -> bool:
        """Whether to forget a record from before the fence or the bound is to hold it: a tombstone that is purged, of a
        key of which nothing is held. Raises `BadRequest` for others from before the fence: what was sent so long ago
        may have been deleted since, and its tombstone purged. `settled`: no write of the key is under way."""
        region = lookup[0]
        bound, fence = self._bounds.bounds[region], self._bounds.fences[region]
        entry = self._newest_durable(lookup) if settled else None
        if entry is not None and (lookup in self._damaged or not is_whole(lookup, entry)):
            return False
        if settled and purge_stamp(record.tombstone, record.expires, record.version) < bound:
            return entry is None or self._is_purged(lookup, entry)
        if record.version < fence:
            raise BadRequest(
                f"the version is {stamp_time(fence) - stamp_time(record.version):.0f} s older than what is stored here "
                "any more; is the coordinator's clock right?"
            )
        return False

    def _is_purged(self, lookup: bytes, packed: bytes) -> bool:
        return is_purged(packed, self._bounds.bounds[lookup[0]])

    def hashes(self, prefix: bytes, call: Call = NO_CALL) -> Reply[bytes]:
        self._check_read(call)
        return self.hashes_held(prefix, call)

    def hashes_held(self, prefix: bytes, call: Call = NO_CALL) -> Reply[bytes]:
        reply = self._lister.hashes(prefix)
        return self._spawn(self._listed(reply)) if isinstance(reply, asyncio.Future) else reply

    async def _listed(self, listing: asyncio.Future[bytes]) -> bytes:
        try:
            return await listing
        except indexes.errors as error:
            raise self._index_damaged(error) from None

    def purged(self, region: int) -> Purged:
        return self._purger.told(region)

    def purge(self, region: int, ring: int, fence: int, bound: int) -> Reply[Purged]:
        if self._suspect:
            raise Recovering(self._suspect)
        if ring != self._ring:
            raise StaleRing(self._ring)
        if bound > fence > 0 or (fence and stamp_time(fence) > self._now()):
            raise BadRequest("a region is purged up to its fence at most, and that is no time to come")
        if any(write.version < fence and lookup[0] == region for lookup, write in self._pending.items()):
            raise Busy("older writes are under way")
        return self._spawn(self._purger.purge(region, ring, fence, bound))

    # --- what it is to its cluster, and RingKeeper ---------------------------------------------------

    def identify(self) -> Identity:
        return self._membership.identify()

    def bind(self, cluster: str, ring: int, fingerprint: str) -> Reply[Identity]:
        return self._membership.bind(cluster, ring, fingerprint)

    def adopt(self, cluster: str, ring: int, fingerprint: str, node: str) -> Reply[Identity]:
        return self._membership.adopt(cluster, ring, fingerprint, node)

    def recall(self, seen: Seen) -> Reply[Identity]:
        return self._membership.recall(seen)

    def trust(self, epoch: int) -> Reply[Identity]:
        return self._membership.trust(epoch)

    def witness(self, told: Sequence[Seen]) -> Reply[tuple[Seen, ...]]:
        return self._membership.witness(told)

    def tell_ring(self, call: Call = NO_CALL) -> Reply[HeldRing]:
        return self._surely(self._rings.tell())

    def prepare_ring(self, number: int, ballot: int, call: Call = NO_CALL) -> Reply[Prepared]:
        return self._surely(self._rings.prepare(number, ballot))

    def accept_ring(self, ballot: int, record: RingRecord, call: Call = NO_CALL) -> Reply[Voted]:
        return self._surely(self._rings.accept(ballot, record))

    def learn_ring(self, record: RingRecord, call: Call = NO_CALL) -> Reply[HeldRing]:
        return self._surely(self._rings.learn(record))

    def leave_ring(self, number: int, call: Call = NO_CALL) -> Reply[Identity]:
        return self._surely(self._membership.leave(number))

    def drop_partition(self, ring: int, partition: int, call: Call = NO_CALL) -> Reply[int]:
        return self._surely(self._rings.drop(ring, partition))

    def _is_pending(self, lookup: bytes) -> bool:
        """Whether a record that compaction would append again may be about to go, or to be another. Behind a flush or a
        drop that is on its way, the copy would come back at the next start."""
        return self._flushing is not None or lookup in self._pending or self._dropper.is_dropping(lookup)

    def _take_ring(self, number: int) -> None:
        # Refused from now on is what comes under the ring before; the new one is told a little later.
        self._ring = number
        self._bounds.open_for(number)

    # --- Updater and Flushable -----------------------------------------------------------------------

    def update(
        self, key: bytes, change: Callable[[Record | None], Change], call: Call = NO_CALL
    ) -> Reply[tuple[Change, Record | None, Written]]:
        self._check_write(call, 0)
        self._check_read(call)
        if self._clock.next() > self._floor:
            return self._spawn(self._above_floor(self.update, key, change, call))
        lookup = index_key(key)
        pending = self._pending.get(lookup) or self._flushing
        if pending is not None:
            seen = _pending_record(pending) if self._pending_is_live(pending) else None
            return self._change(key, change, seen, pending)
        entry = self._newest_durable(lookup)
        if entry is None:
            return self._change(key, change, None, None)
        reply = self._read_value(lookup, entry, True, call)
        if isinstance(reply, Promise):
            return self._spawn(self._update_later(key, lookup, change, call, entry, reply))
        return self._change(key, change, reply, None)

    async def _update_later(
        self,
        key: bytes,
        lookup: bytes,
        change: Callable[[Record | None], Change],
        call: Call,
        entry: bytes,
        reading: Promise[Record | None],
    ) -> tuple[Change, Record | None, Written]:
        seen = await reading
        if self._pending.get(lookup) is None and self._flushing is None and self._newest_durable(lookup) == entry:
            reply = self._change(key, change, seen, None)
        else:
            # Somebody else wrote while the disk was read: look again.
            reply = self.update(key, change, call)
        return await settled(reply)

    def _change(
        self, key: bytes, change: Callable[[Record | None], Change], seen: Record | None, pending: Write | None
    ) -> Reply[tuple[Change, Record | None, Written]]:
        wanted = change(seen)
        if wanted.keep or (wanted.delete and seen is None):
            version, checksum = (seen.version, seen.checksum) if seen is not None else (0, 0)
            answer = (wanted, seen, Written(version, checksum, self._durable, 1))
            return answer if pending is None else self._when_durable(pending, answer)
        if len(wanted.value) > WIRE_VALUE_BYTES_MAX:
            raise TooLarge(f"value of {len(wanted.value)} bytes; the limit is {WIRE_VALUE_BYTES_MAX}")
        version = self._clock.next()
        if wanted.delete:
            write = self._add(_TOMBSTONE, key, b"", 0, 0, version)
        else:
            write = self._add(_FILE, key, wanted.value, wanted.flags, wanted.expires, version)
        # What it was decided on lies before it in the log, so it is durable when this is.
        return self._when_durable(write, (wanted, seen, Written(version, write.checksum, self._durable, 1)))

    def flush(self) -> Reply[None]:
        if self._state.cluster:
            raise Unsupported("a node of a cluster can't forget its files: the others would bring them back")
        self._check_write(NO_CALL, 0)
        version = self._clock.next()
        if version > self._floor:
            return self._spawn(self._above_floor(self.flush))
        write = self._add(Kind.FLUSH, b"*", b"", 0, 0, version)
        # Files stored before are in batches before it; whoever decides anything from now on sees none of them.
        self._pending = {}
        self._flushing = write
        return self._when_durable(write, None)

    # --- how a record becomes durable ----------------------------------------------------------------

    def _add(
        self, kind: int, key: bytes, value: bytes, flags: int, expires: int, version: int, checksum: int = 0
    ) -> Write:
        if not checksum:
            checksum = checksum_of(key, value, flags, expires, version, kind == _TOMBSTONE)
        return self._added(Write(index_key(key), kind, key, value, flags, expires, version, checksum))

    def _added(self, write: Write) -> Write:
        self._writer.add(write)
        self._pending[write.index_key] = write
        if write.kind == _FILE:
            self._stored += 1
        return write

    def _when_durable(self, write: Write, answer: T) -> Promise[T]:
        promise: Promise[Any] = Promise(self._turn)
        if self._suspect:
            # Stored all the same, but it must not count toward a quorum: what it was compared with may be missing.
            write.wait(promise, None)
            return self._spawn(self._recovering(promise))
        write.wait(promise, answer)
        return promise

    async def _recovering(self, stored: Promise[None]) -> Any:
        await stored
        raise Recovering(self._suspect, Outcome.UNKNOWN)

    def _refuse_while_suspect(self, answer: T) -> T:
        if self._suspect:
            raise Recovering(self._suspect)
        return answer

    def _on_durable(self, writes: list[Write], volume: int) -> None:
        overlay = self._overlay
        pending = self._pending
        moving = self._moving
        for write in writes:
            lookup = write.index_key
            if write.moves is not None:
                moving.discard(lookup)
                if overlay.newest(lookup) == write.moves:
                    self._put(write, volume, write.moves)
            elif write.kind == _FLUSH:
                overlay.forget_all()
                if self._flushing is write:
                    self._flushing = None
            else:
                # A write that looked when it was taken needn't look again (1,900 instructions).
                seen = write.replaces_at == overlay.shifts
                self._put(write, volume, write.replaces if seen else overlay.newest(lookup))
                if pending.get(lookup) is write:
                    del pending[lookup]
        self._indexer.added()

    def _put(self, write: Write, volume: int, old: bytes | None) -> None:
        self._overlay.replace(
            old, write.index_key, write.entry, volume, write.size, write.version, write.checksum, write.kind == _FILE
        )

    def _on_failed(self, writes: list[Write], waiting: list[Write]) -> None:
        for write in writes:
            if self._pending.get(write.index_key) is write:
                del self._pending[write.index_key]
            if write.moves is not None:
                self._moving.discard(write.index_key)
            if self._flushing is write:
                self._flushing = None
        # A delete goes on where the file written after it fails, and is the newest of its key again.
        for write in waiting:
            if write.moves is None and write.kind != Kind.FLUSH:
                self._pending[write.index_key] = write

    # --- how one is read -----------------------------------------------------------------------------

    def _newest_durable(self, lookup: bytes) -> bytes | None:
        try:
            entry = self._overlay.newest(lookup)
        except indexes.errors as error:
            raise self._index_damaged(error) from None
        return entry

    def _index_damaged(self, error: Exception) -> CorruptRecord:
        self._index.condemn()
        self._die(f"the index is damaged ({error}); the next start rebuilds it")
        return CorruptRecord("the index is damaged")

    def _read_value(self, lookup: bytes, packed: bytes, live_only: bool, call: Call) -> Reply[Record | None]:
        if len(packed) != ENTRY_BYTES:
            self._verified(lookup, packed)
        if packed[PLAIN_AT : PLAIN_AT + len(PLAIN)] == PLAIN:
            volume, offset, size, version, checksum, kind = unpack_plain(packed)
            flags = expires = 0
        else:
            volume, offset, size, flags, expires, version, checksum, kind, _, _ = unpack_fields(packed)
        if kind != _FILE or (live_only and expires and expires <= self._now()):
            entry = self._verified(lookup, packed)
            return None if live_only or self._is_purged(lookup, packed) else _record(entry, b"")
        if expires and self._is_purged(lookup, packed):
            return None if is_whole(lookup, packed) else _record(self._verified(lookup, packed), b"")
        key = lookup[HASH_BYTES:]
        try:
            value = self._reader.read_now(volume, offset + RECORD_HEADER_BYTES + len(key), size)
        except CorruptRecord as error:
            raise self._corrupt(lookup, packed, f"can't be read: {error}") from None
        if value is None:
            return self._read_cold(lookup, packed, call)
        if checksum_of(key, value, flags, expires, version, False) != checksum:
            raise self._corrupt(lookup, packed)
        if not (flags or expires) and self._hot.wants(lookup, size):
            self._hot.keep(lookup, value, version, checksum)
        return Record(value, size, flags, expires, version, checksum, False)

    def _read_cold(self, lookup: bytes, packed: bytes, call: Call) -> Promise[Record | None]:
        volume, offset, size = unpack_fields(packed)[:3]
        if size > WIRE_VALUE_BYTES_MAX:
            raise self._corrupt(lookup, packed)
        answer: Promise[Record | None] = Promise(self._turn)
        self._reader.read_later(
            volume,
            offset + RECORD_HEADER_BYTES + len(lookup) - HASH_BYTES,
            size,
            call.deadline,
            partial(self._has_read, answer, lookup, packed),
        )
        return answer

    def _has_read(
        self,
        answer: Promise[Record | None],
        lookup: bytes,
        packed: bytes,
        value: bytes,
        error: Exception | None,
    ) -> None:
        if answer.done():
            return  # whoever asked has left
        _, _, size, flags, expires, version, checksum, _, _, _ = unpack_fields(packed)
        if isinstance(error, OSError) and error.errno in _SHORT_OF:
            answer.set_exception(Busy(f"the node is short of something: {error.strerror}"))
        elif isinstance(error, OSError):
            answer.set_exception(self._corrupt(lookup, packed, f"can't be read: {error}"))
        elif error is not None:
            answer.set_exception(error)
        elif len(value) != size or checksum_of(lookup[HASH_BYTES:], value, flags, expires, version, False) != checksum:
            answer.set_exception(self._corrupt(lookup, packed))
        else:
            # Meanwhile it may have been written again.
            if not (flags or expires) and self._hot.wants(lookup, size) and self._newest_durable(lookup) == packed:
                self._hot.keep(lookup, value, version, checksum)
            answer.set_result(Record(value, size, flags, expires, version, checksum, False))

    def _corrupt(self, lookup: bytes, packed: bytes, why: str = "failed its checksum") -> CorruptRecord:
        self._corrupt_records += 1
        volume, offset = unpack_fields(packed)[:2]
        # Readers may be many, so it is said once, when it is found.
        if not is_whole(lookup, packed):
            self._scrubber.look_soon()
        elif lookup not in self._damaged:
            _log.error("volume %d: the record at %d %s", volume, offset, why)
        self._note_damage_of(lookup, packed)
        return CorruptRecord(f"the record at {offset} in volume {volume} {why}")

    def _note_damage_of(self, lookup: bytes, packed: bytes) -> None:
        # Both the scrubber's thread and a read are behind the loop: what they found may have been written again.
        if self._newest_durable(lookup) == packed:
            self._note_damage(lookup, packed)

    def _note_whole(self, lookup: bytes, packed: bytes) -> None:
        if self._newest_durable(lookup) == packed:
            self._overlay.figures.found_whole(lookup, packed)

    def _note_damage(self, lookup: bytes, packed: bytes) -> None:
        # What memory has of it is whole, but would hide from readers that it has to be written again.
        self._hot.forget(lookup)
        if len(self._damaged) < _DAMAGED_MAX:
            self._overlay.figures.found_damaged(lookup, packed)

    def _verified(self, lookup: bytes, packed: bytes) -> Entry:
        try:
            return unpack_entry(lookup, packed)
        except CorruptRecord:
            self._corrupt_records += 1
            self._scrubber.look_soon()  # which says what it finds, once
            raise

    # --- rules ---------------------------------------------------------------------------------------

    def _check_read(self, call: Call) -> None:
        if call is not NO_CALL and call.deadline < time.monotonic():
            raise Expired("the deadline passed before the read began")
        if self._suspect:
            raise Recovering(self._suspect)

    def _check_write(self, call: Call, value_bytes: int) -> None:
        self._check_beginning(call)
        self._check_room(value_bytes)

    def _check_beginning(self, call: Call) -> None:
        if call is not NO_CALL and call.deadline < time.monotonic():
            raise Expired("the deadline passed before the write began")
        if self._closed is not None:
            raise Busy("the node is stopping")

    def _check_room(self, value_bytes: int) -> None:
        if value_bytes > WIRE_VALUE_BYTES_MAX:
            raise TooLarge(f"value of {value_bytes} bytes; the limit is {WIRE_VALUE_BYTES_MAX}")
        if self._writer.pending_bytes > self._pending_bytes_max:
            raise Busy(f"{self._writer.pending_bytes} bytes wait for the disk")

    def _check_ring(self, call: Call) -> None:
        if call.ring and call.ring != self._ring:
            raise StaleRing(self._ring)

    async def _above_floor(self, work: Callable[..., Reply[T]], *arguments: object) -> T:
        """Do `work` once its stamp can't be issued again by a later life. Comes to pass after a pause in writing,
        or when the clock leaps ahead; under load the floor is moved long before it is reached."""
        await self._housekeeper.raise_floor()
        return await settled(work(*arguments))

    def _may_go(self, lookup: bytes, header: RecordHeader) -> bool:
        """Whether compaction may drop a record once nothing older of its key is left here."""
        tombstone = header.kind == _TOMBSTONE
        if self._state.cluster:  # replicas or hints may still hold what it deleted
            return purge_stamp(tombstone, header.expires, header.version) < self._bounds.bounds[lookup[0]]
        return tombstone or 0 < header.expires <= self._now()

    def _is_live(self, entry: Entry) -> bool:
        return entry.kind == _FILE and (entry.expires == 0 or entry.expires > self._now())

    def _pending_is_live(self, write: Write) -> bool:
        return write.kind == _FILE and (write.expires == 0 or write.expires > self._now())

    def _spawn(self, work: Any) -> Promise[Any]:
        return promised(self._run(work))

    def _surely(self, work: Any) -> Promise[Any]:
        """Have something done even where whoever asked for it leaves."""
        if self._closed is not None:
            work.close()
            raise Busy("the node is stopping")
        return promised(asyncio.shield(self._run(work)))

    def _run(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _start(
    data: DataDirectory, options: NodeOptions, now: Callable[[], float]
) -> tuple[NodeState, Recovered, Reserve, int]:
    state = data.load()
    reserve = Reserve(data.reserve, options.reserve_bytes)
    try:
        reserve.make_room(_START_BYTES)  # a full disk still serves reads and deletes after a restart
        ring = read_ring_file(data.path, state)
        recovered = recover(data, state, ring)
        last = max(state.stamp_floor, recovered.overlay.figures.version_max)
        state = next_start(with_ring(state, ring))
        state = replace(state, suspect=recovered.suspect, stamp_floor=floor_ahead(now(), last))
        save_for_sure(data, state, reserve)
    except indexes.IndexDiskFull:
        reserve.close()
        raise SetupError(f"the disk of {data.path} has no room to start; free at least {_START_BYTES} bytes") from None
    except BaseException:
        reserve.close()
        raise
    reserve.fill()
    return state, recovered, reserve, last


def _record(entry: Entry, value: bytes) -> Record:
    return Record(
        value, entry.value_bytes, entry.flags, entry.expires, entry.version, entry.checksum, entry.kind == _TOMBSTONE
    )


def _pending_record(write: Write) -> Record:
    value = write.value
    return Record(value, len(value), write.flags, write.expires, write.version, write.checksum, False)
