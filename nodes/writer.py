"""Group commit: writes that arrive together are appended together, synced once, and then acknowledged.

The loop's side collects writes and lays out batches; one thread appends and syncs them, one batch at a time; writes
that arrive meanwhile go in the next batch. Once they are as many as the batch on its way has, the next one is laid out
and queued behind it: the disk doesn't wait for the loop. Offsets, positions and headers are decided on the loop, so the
thread does system calls only, and mostly a single one for a batch: an append that syncs what it wrote (RWF_DSYNC). Each
return from a system call competes for the interpreter with the loop.

A batch that doesn't fit the newest volume begins a new one. When the disk is full the plain writes of a batch fail
and so do those that wait behind it, laid out or not (they may have been decided on a failed one); deletes, moves and
the like go on from the reserve, and as long as that is short, plain writes leave them a step of room. A failed append
is cut off again. A failed sync ends the process (`die`): the kernel has marked pages clean that are not on disk, so
nothing may be acknowledged after it. What failed, when append and sync are one call, is told by `_Appender._write`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from nodes.entry import pack_entry
from nodes.format import (
    BATCH_BYTES_MAX,
    BATCH_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    VOLUME_HEADER_BYTES,
    Kind,
    VolumeHeader,
    pack_batch_header,
    pack_record_header,
)
from nodes.options import NodeOptions, Sync
from nodes.reserve import FULL, Reserve
from nodes.spares import Spares
from nodes.volume import SyncFailed, Volume, create_volume, volume_path
from sfss.errors import Outcome, OutOfDisk, SfssError, Unavailable
from sfss.promise import Promise, turn_of

BATCH_RECORDS_MAX: Final = 500
"""With two buffers a record, just under the 1,024 that one pwritev takes (Linux, IOV_MAX)."""

_JOIN_BYTES_MAX: Final = 512
"""Values up to here are copied behind their header: a copy is cheaper than another buffer for the kernel to walk."""

_NEVER: Final = sys.maxsize
"""More writes than ever wait."""

_NO_ROOM: Final = (*FULL, errno.EFBIG)
"""What a write says when the disk, a quota or the largest size of a file leaves no room for it."""

_UNKNOWN_FLAG: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a system says that can't append and sync in one call: Linux before 4.7, or some sandboxes."""

_log = logging.getLogger("sfss.node")


class Write:
    """One record on its way to disk, and who waits for it.

    `moves` is the entry that a compaction's copy replaces; None for a client's write. `entry` is set when the write is
    laid out in a volume. It is settled once it is durable or, with `error` set, never will be. Plain attributes
    throughout: one is made for every write, and the batch's layout reads them all.
    """

    __slots__ = (
        "answer",
        "checksum",
        "entry",
        "error",
        "expires",
        "flags",
        "index_key",
        "key",
        "kind",
        "moves",
        "promise",
        "settled",
        "size",
        "value",
        "version",
        "waiters",
    )

    def __init__(
        self,
        index_key: bytes,
        kind: int,
        key: bytes,
        value: bytes,
        flags: int,
        expires: int,
        version: int,
        checksum: int,
        moves: bytes | None = None,
    ) -> None:
        self.index_key = index_key
        self.kind = kind
        self.key = key
        self.value = value
        self.flags = flags
        self.expires = expires
        self.version = version
        self.checksum = checksum
        self.moves = moves
        self.size = RECORD_HEADER_BYTES + len(key) + len(value)
        self.entry = b""
        self.settled = False
        self.error: SfssError | None = None
        self.promise: Promise[Any] | None = None
        self.answer: object = None
        self.waiters: list[tuple[Promise[Any], object]] | None = None

    @property
    def privileged(self) -> bool:
        """Whether it may use the reserve: it is what makes room, now or later."""
        return self.kind != Kind.FILE or self.moves is not None

    def wait(self, promise: Promise[Any], answer: object) -> None:
        """Have `promise` get `answer` once the record is durable, or the error."""
        if self.promise is None:
            self.promise = promise
            self.answer = answer
        elif self.waiters is None:
            self.waiters = [(promise, answer)]
        else:
            self.waiters.append((promise, answer))

    def settle(self, error: SfssError | None) -> None:
        """Tell all that wait."""
        self.settled = True
        self.error = error
        self.value = b""
        waiters = [(self.promise, self.answer)] if self.promise is not None else []
        if self.waiters is not None:
            waiters += self.waiters
        for promise, answer in waiters:
            if not promise.done():
                if error is None:
                    promise.set_result(answer)
                else:
                    promise.set_exception(error)


class _Batch:
    """What the thread does in one go. `begins` is the header of the volume to begin first, if any; `size` the bytes of
    the records; `failures` how many batches had failed when it was laid out: after one more, its place is wrong."""

    __slots__ = ("begins", "buffers", "end", "failures", "offset", "privileged", "size", "sync", "volume", "writes")

    def __init__(
        self,
        volume: Volume,
        begins: VolumeHeader | None,
        offset: int,
        writes: list[Write],
        size: int,
        durable: int,
        sync: bool,
        failures: int,
    ) -> None:
        self.volume = volume
        self.begins = begins
        self.writes = writes
        self.size = size
        self.offset = offset
        self.end = offset + BATCH_HEADER_BYTES + size
        self.sync = sync
        self.failures = failures
        privileged = True
        salt = volume.header.salt
        base = volume.header.position
        number = volume.header.number
        buffers = [pack_batch_header(salt, base + offset, size, durable)]
        offset += BATCH_HEADER_BYTES
        for write in writes:
            kind = write.kind
            value = write.value
            value_bytes = len(value)
            flags, expires, version, checksum = write.flags, write.expires, write.version, write.checksum
            head = pack_record_header(
                salt, base + offset, kind, write.key, value_bytes, flags, expires, version, checksum
            )
            if value_bytes <= _JOIN_BYTES_MAX:
                buffers.append(head + value)
            else:
                buffers.append(head)
                buffers.append(value)
            write.entry = pack_entry(
                write.index_key, number, offset, value_bytes, flags, expires, version, checksum, kind
            )
            offset += write.size
            if kind == Kind.FILE and write.moves is None:
                privileged = False
        self.buffers = buffers
        self.privileged = privileged


class Writer:
    """The only one that appends to volumes. Methods are for the loop's thread.

    `on_durable(writes, volume)` is called for each batch once it may be acknowledged, before its writes are settled;
    `on_failed(writes, waiting)` for writes that never will be, with those that still may; `on_volume(volume)` when one
    has been begun.
    `pending_bytes` counts what is not acknowledged yet.
    """

    def __init__(
        self,
        directory: Path,
        node: bytes,
        newest: Volume,
        begun: bool,
        options: NodeOptions,
        reserve: Reserve,
        spares: Spares,
        *,
        on_durable: Callable[[list[Write], int], None],
        on_failed: Callable[[list[Write], list[Write]], None],
        on_volume: Callable[[Volume], None],
        die: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._turn = turn_of(self._loop)
        self._node = node
        self._options = options
        self._volume = newest
        self._begun = begun
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._on_volume = on_volume
        self._appender = _Appender(directory, options, reserve, spares, die)
        self._jobs: SimpleQueue[_Batch | _SyncJob | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="sfss-writer", daemon=True)
        self._queue: deque[Write] = deque()
        self._urgent: list[_SyncJob] = []
        # With the thread, in this order: two at most, and none during a sync job.
        self._batches: deque[_Batch] = deque()
        self._syncing = False
        self._enough = 1
        self._failures = 0
        self._scheduled = False
        self._held = False
        self._finishing = False
        self._idle = asyncio.Event()
        self.pending_bytes = 0
        # The header of a volume that isn't there yet doesn't count.
        self.acknowledged_position = newest.end_position if begun else newest.header.position
        self.synced_position = self.acknowledged_position
        self.oldest_unsynced_at: float | None = None
        self.appended_bytes = 0
        if begun:
            self._appender.adopt(newest)
        self._worker.start()

    @property
    def syncs(self) -> int:
        """Batches, ends of volumes and failed appends that were put on disk."""
        return self._appender.syncs

    @property
    def volume(self) -> Volume:
        """The volume that is appended to."""
        return self._volume

    @property
    def waiting(self) -> int:
        """Writes that are not with the thread yet."""
        return len(self._queue)

    def add(self, write: Write) -> None:
        """Take a write. It goes to disk with all that come in the same turn of the loop."""
        self.pending_bytes += write.size
        if self.oldest_unsynced_at is None:
            self.oldest_unsynced_at = time.monotonic()
        self._queue.append(write)
        if not self._scheduled and len(self._queue) >= self._enough:
            self._scheduled = True
            self._loop.call_soon(self._next)

    def hold(self, held: bool) -> None:
        """Stop beginning batches (the index lags), or go on; a writer that is to finish does."""
        self._held = held and not self._finishing
        if not self._held and not self._scheduled:
            self._next()

    def when_synced(self, then: Callable[[], None]) -> None:
        """Make all durable that is acknowledged, and call `then` in the very turn of the loop in which it is so:
        nothing more has been acknowledged then."""
        if self.synced_position == self.acknowledged_position:
            then()
            return
        self._urgent.append(_SyncJob(then))
        if not self._scheduled:
            self._next()

    async def sync(self) -> None:
        """Make all durable that is acknowledged now."""
        done = asyncio.Event()
        self.when_synced(done.set)
        await done.wait()

    async def settled(self) -> None:
        """Wait until all that was taken so far is durable, or never will be."""
        taken = [write for batch in self._batches for write in batch.writes]
        taken.extend(self._queue)
        # In order but for a full disk, where the plain ones fail at once and the others go on, in their order.
        last = taken[-1] if taken else None
        last_privileged = next((write for write in reversed(taken) if write.privileged), None)
        for write in (last, last_privileged):
            if write is not None and not write.settled:
                promise: Promise[None] = Promise(self._turn)
                write.wait(promise, None)
                with suppress(SfssError):  # its own caller is told
                    await promise

    def finish(self) -> None:
        """Write all that was taken, however far the index lags: the node stops."""
        self._finishing = True
        self.hold(False)

    async def close(self) -> None:
        """Write all that was taken, sync it, give back room taken ahead and end the thread."""
        while self._queue or self._batches or self._syncing or self._scheduled:
            self._idle.clear()
            await self._idle.wait()
        await self.sync()
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._worker.join)
        self._appender.close()

    def _next(self) -> None:
        """Give the thread what it may do now. A second batch waits until it has as many writes as the one before it:
        else large ones would fall apart into small ones, each with a sync of its own."""
        self._scheduled = False
        if self._syncing:
            return
        if self._batches:
            if len(self._queue) >= self._enough and not (self._urgent or self._held):
                self._hand_over(self._lay_out())
        elif self._urgent:
            self._syncing = True
            self._enough = _NEVER
            self._jobs.put(self._urgent.pop())
        elif self._queue and not self._held:
            self._hand_over(self._lay_out())
        else:
            self._idle.set()

    def _hand_over(self, batch: _Batch) -> None:
        self._batches.append(batch)
        self._enough = len(batch.writes) if len(self._batches) == 1 else _NEVER
        self._jobs.put(batch)

    def _lay_out(self) -> _Batch:
        queue = self._queue
        room = BATCH_BYTES_MAX
        writes: list[Write] = []
        size = 0
        while queue and len(writes) < BATCH_RECORDS_MAX:
            size += queue[0].size
            if size > room and writes:
                size -= queue[0].size
                break
            writes.append(queue.popleft())
        return self._place(writes, size)

    def _place(self, writes: list[Write], size: int) -> _Batch:
        sync = self._options.sync is Sync.ALWAYS
        durable = self.synced_position
        if self._batches:
            before = self._batches[-1]
            volume, offset, begun = before.volume, before.end, True
            if sync:
                # What comes before is on disk when this one is written, or this one never is.
                durable = volume.header.position + offset
        else:
            volume, offset, begun = self._volume, self._volume.end, self._begun
        begins = None
        if not begun:
            begins = volume.header
        elif offset + BATCH_HEADER_BYTES + size > self._options.volume_bytes and offset > VOLUME_HEADER_BYTES:
            begins = new_header(volume.number + 1, volume.header.position + offset, self._node)
            volume = Volume(begins, VOLUME_HEADER_BYTES)
            offset = VOLUME_HEADER_BYTES
        return _Batch(volume, begins, offset, writes, size, durable, sync, self._failures)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, _Batch) and job.failures != self._appender.failures:
                continue  # it was laid out behind one that failed; the loop lays out its writes anew
            error = self._appender.do(job)
            if self._appender.dead:
                return
            self._loop.call_soon_threadsafe(self._done, job, error)

    def _done(self, job: _Batch | _SyncJob, error: OSError | None) -> None:
        if isinstance(job, _SyncJob):
            self._syncing = False
            self._enough = 1
            self._synced(self.acknowledged_position)
            job.then()
            self._next()
            return
        self._batches.popleft()
        self._enough = len(self._batches[0].writes) if self._batches else 1
        if error is not None:
            self._failed(job, error)
            return
        if job.begins is not None:
            self._take_over(job.volume)
        job.volume.end = job.end
        self.appended_bytes += job.end - job.offset
        self.acknowledged_position = job.volume.end_position
        self.pending_bytes -= job.size
        if job.sync:
            self._synced(self.acknowledged_position)
        # The next batch first: the disk works while the answers of this one are written.
        self._next()
        self._on_durable(job.writes, job.volume.number)
        self._turn.gather()
        for write in job.writes:
            write.settle(None)
        self._turn.run()

    def _take_over(self, volume: Volume) -> None:
        """A volume has been begun: what follows goes there."""
        self._begun = True
        self._on_volume(volume)
        self._volume = volume

    def _synced(self, position: int) -> None:
        self.synced_position = position
        self.oldest_unsynced_at = time.monotonic() if self._queue or self._batches else None

    def _failed(self, batch: _Batch, error: OSError) -> None:
        self._failures += 1
        if self._batches:
            # The thread leaves it alone.
            self._queue.extendleft(reversed(self._batches.pop().writes))
            self._enough = 1
        if batch.begins is not None and self._appender.number == batch.volume.number:
            # It was begun before its first batch failed, and the appender stands in it. The volume before was synced
            # whole then.
            self._take_over(batch.volume)
            self.acknowledged_position = batch.volume.end_position
            self._synced(self.acknowledged_position)
        full = error.errno in FULL
        reason: SfssError
        if full:
            reason = OutOfDisk("out of disk")
        else:
            _log.error("append to volume %d failed: %s", batch.volume.number, error)
            reason = Unavailable(f"append failed: {error.strerror}", Outcome.NOT_APPLIED)
        survivors = [write for write in batch.writes if write.privileged] if full and not batch.privileged else []
        failed = [write for write in batch.writes if not (survivors and write.privileged)]
        failed += [write for write in self._queue if not write.privileged]
        self._queue = deque(write for write in self._queue if write.privileged)
        waiting = [*survivors, *self._queue]
        self.pending_bytes -= sum(write.size for write in failed)
        if survivors:
            self._hand_over(self._place(survivors, sum(write.size for write in survivors)))
        else:
            self._next()
        self._on_failed(failed, waiting)
        for write in failed:
            write.settle(reason)


class _SyncJob:
    """A wish to have everything appended so far on disk."""

    __slots__ = ("then",)

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then


class _Appender:
    """The thread's side: system calls on the newest volume's file."""

    def __init__(
        self,
        directory: Path,
        options: NodeOptions,
        reserve: Reserve,
        spares: Spares,
        die: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._options = options
        self._reserve = reserve
        self._spares = spares
        self._die = die
        self._fd = -1
        self.number = -1
        """Of the volume that it appends to."""
        self._allocated = 0
        self._end = 0
        self._sync_flag = os.RWF_DSYNC
        self._flag_works = False
        self.failures = 0
        """Appends that failed."""
        self.syncs = 0
        self.dead = False

    def adopt(self, volume: Volume) -> None:
        """Go on in an existing volume, whose file ends where its data does."""
        path = volume_path(self._directory, volume.number)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.number = volume.number
        self._allocated = self._end = volume.end

    def do(self, job: _Batch | _SyncJob) -> OSError | None:
        """Carry out a job; returns why an append failed. `dead` is set when the process must end."""
        try:
            if isinstance(job, _SyncJob):
                self._sync()
            else:
                self._append(job)
        except SyncFailed as failure:
            self.dead = True
            self._die(f"sync of volume {self.number} failed: {failure}; acknowledging nothing more")
        except OSError as error:
            self.failures += 1
            return error
        return None

    def _append(self, batch: _Batch) -> None:
        if not batch.privileged:
            needed = batch.end if batch.begins is not None else batch.end - self._allocated
            if needed > 0 and self._lacks_room(needed):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if batch.begins is not None:
            self._begin(batch.begins, batch.privileged)
        self._allocate(batch.end, batch.privileged)
        try:
            self._write(batch.buffers, batch.offset, batch.end, batch.sync)
        except OSError:
            self._cut()
            raise
        self._end = batch.end

    def _lacks_room(self, needed: int) -> bool:
        forbids = self._reserve.forbids
        return forbids(needed) and (not self._spares.give_up() or forbids(needed))

    def _begin(self, header: VolumeHeader, privileged: bool) -> None:
        if self._fd >= 0:
            self._finish()
        spare = self._spares.take()
        try:
            fd = create_volume(self._directory, header, spare)
        except OSError as error:
            if not (privileged and error.errno in FULL and self._reserve.release(VOLUME_HEADER_BYTES * 4)):
                raise
            fd = create_volume(self._directory, header)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self.number = header.number
        self._end = VOLUME_HEADER_BYTES
        self._allocated = os.fstat(fd).st_size

    def _finish(self) -> None:
        """Give back the room taken ahead and put the volume on disk for good: a later volume says so by existing."""
        try:
            os.ftruncate(self._fd, self._end)
        except OSError as error:
            raise SyncFailed(str(error)) from error
        self._allocated = self._end
        self._sync()

    def _allocate(self, end: int, privileged: bool) -> None:
        if end <= self._allocated:
            return
        # Room taken ahead is free for clients' writes, so none is taken while the reserve lacks room.
        ahead = 0 if self._reserve.short else min(end + self._options.preallocate_bytes, self._options.volume_bytes)
        for wanted in (max(ahead, end), end):
            try:
                os.posix_fallocate(self._fd, self._allocated, wanted - self._allocated)
            except OSError as error:
                if error.errno not in FULL:
                    raise
            else:
                self._allocated = wanted
                return
        if self._spares.give_up():
            self._allocate(end, privileged)
            return
        if not (privileged and self._reserve.release(end - self._allocated)):
            self._cut()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            os.posix_fallocate(self._fd, self._allocated, end - self._allocated)
        except OSError:
            self._cut()
            raise
        self._allocated = end

    def _write(self, buffers: list[bytes], offset: int, end: int, sync: bool) -> None:
        """Append, and have it on disk when `sync`. Raises `OSError` for a failed append, which is to be cut off, and
        `SyncFailed`.

        With RWF_DSYNC the kernel (`generic_write_sync`) puts what one call wrote on disk before the call returns, as
        fdatasync of that range would; all before the range is there already, since every batch is synced. A short
        write is synced as far as it came, and the rest by its own call. Errors of both halves come back alike:

        * No room is a failed append. Should it be the sync that found none (space that a file system or a thin volume
          takes only then), that's still right: what is missing on disk lies behind `_end`, and `_cut` takes it off the
          file and syncs that, or ends the process.
        * Anything else may have left pages that look clean and are not on disk, so it is a failed sync.
        * A flag that the system doesn't know is told by the first call. From then on append and sync are two calls;
          they write all of the batch again.
        """
        while True:
            offset += self._write_some(buffers, offset, sync)
            if offset >= end:
                break
            buffers = [b"".join(buffers)[offset - end :]]
        if sync:
            if self._sync_flag:
                self.syncs += 1
            else:
                self._sync()

    def _write_some(self, buffers: list[bytes], offset: int, sync: bool) -> int:
        if not (sync and self._sync_flag):
            return os.pwritev(self._fd, buffers, offset)
        try:
            written = os.pwritev(self._fd, buffers, offset, self._sync_flag)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise
            if self._flag_works or error.errno not in _UNKNOWN_FLAG:
                raise SyncFailed(str(error)) from error
            _log.info("this system can't append and sync in one call (%s)", error)
            self._sync_flag = 0
            return os.pwritev(self._fd, buffers, offset)
        self._flag_works = True
        return written

    def _cut(self) -> None:
        """Take a failed append off the file again, durably, so that it can't come to be after a restart."""
        try:
            os.ftruncate(self._fd, self._end)
        except OSError as error:
            raise SyncFailed(str(error)) from error
        self._allocated = self._end
        self._sync()

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise SyncFailed(str(error)) from error
        self.syncs += 1

    def close(self) -> None:
        if self._fd >= 0:
            os.ftruncate(self._fd, self._end)
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1


def new_header(number: int, position: int, node: bytes) -> VolumeHeader:
    """A volume to begin, with a salt of its own."""
    return VolumeHeader(number, position, node, int.from_bytes(os.urandom(8), "little"))
