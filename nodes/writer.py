"""Group commit: writes that arrive together are appended together, synced once, and then acknowledged.

The loop's side collects writes and lays out batches; one thread appends and syncs them (`nodes.appender`), one batch at
a time; writes that arrive meanwhile go in the next batch. Once they are as many as the batch on its way has, the next
one is laid out and queued behind it: the disk doesn't wait for the loop.

A batch that doesn't fit the newest volume begins a new one. When the disk is full the plain writes of a batch fail
and so do those that wait behind it, laid out or not (they may have been decided on a failed one); deletes, moves and
the like go on from the reserve, and as long as that is short, plain writes leave them a step of room.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from nodes.appender import Appender
from nodes.batch import BATCH_RECORDS_MAX, Batch, SyncJob, Write
from nodes.format import BATCH_BYTES_MAX, BATCH_HEADER_BYTES, VOLUME_HEADER_BYTES
from nodes.options import NodeOptions, Sync
from nodes.reserve import FULL, Reserve
from nodes.spares import Spares
from nodes.volume import Volume, new_header
from sfss.errors import Outcome, OutOfDisk, SfssError, Unavailable
from sfss.promise import Promise, turn_of

_NEVER: Final = sys.maxsize
"""More writes than ever wait."""

_log = logging.getLogger("sfss.node")


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
        self._sync_always = options.sync is Sync.ALWAYS
        self._volume_bytes = options.volume_bytes
        self._volume = newest
        self._begun = begun
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._on_volume = on_volume
        self._appender = Appender(directory, options, reserve, spares, die)
        self._jobs: SimpleQueue[Batch | SyncJob | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="sfss-writer", daemon=True)
        self._queue: list[Write] = []
        self._queue_bytes = 0
        self._urgent: list[SyncJob] = []
        # With the thread, in this order: two at most, and none during a sync job.
        self._batches: deque[Batch] = deque()
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
        self._queue_bytes += write.size
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
        self._urgent.append(SyncJob(then))
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

    def _hand_over(self, batch: Batch) -> None:
        self._batches.append(batch)
        self._enough = len(batch.writes) if len(self._batches) == 1 else _NEVER
        self._jobs.put(batch)

    def _lay_out(self) -> Batch:
        queue, size = self._queue, self._queue_bytes
        # Nearly always all that waits goes together.
        if len(queue) <= BATCH_RECORDS_MAX and size <= BATCH_BYTES_MAX:
            self._queue, self._queue_bytes = [], 0
            return self._place(queue, size)
        count = size = 0
        for write in queue:
            if count == BATCH_RECORDS_MAX or (count and size + write.size > BATCH_BYTES_MAX):
                break
            size += write.size
            count += 1
        self._queue, self._queue_bytes = queue[count:], self._queue_bytes - size
        return self._place(queue[:count], size)

    def _wait_again(self, queue: list[Write]) -> None:
        self._queue = queue
        self._queue_bytes = sum(write.size for write in queue)

    def _place(self, writes: list[Write], size: int) -> Batch:
        sync = self._sync_always
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
        elif offset + BATCH_HEADER_BYTES + size > self._volume_bytes and offset > VOLUME_HEADER_BYTES:
            begins = new_header(volume.number + 1, volume.header.position + offset, self._node)
            volume = Volume(begins, VOLUME_HEADER_BYTES)
            offset = VOLUME_HEADER_BYTES
        return Batch(volume, begins, offset, writes, size, durable, sync, self._failures)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, Batch) and job.failures != self._appender.failures:
                continue  # it was laid out behind one that failed; the loop lays out its writes anew
            error = self._appender.do(job)
            if self._appender.dead:
                return
            self._loop.call_soon_threadsafe(self._done, job, error)

    def _done(self, job: Batch | SyncJob, error: OSError | None) -> None:
        if isinstance(job, SyncJob):
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

    def _failed(self, batch: Batch, error: OSError) -> None:
        self._failures += 1
        if self._batches:
            # The thread leaves it alone.
            self._wait_again([*self._batches.pop().writes, *self._queue])
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
        self._wait_again([write for write in self._queue if write.privileged])
        waiting = [*survivors, *self._queue]
        self.pending_bytes -= sum(write.size for write in failed)
        if survivors:
            self._hand_over(self._place(survivors, sum(write.size for write in survivors)))
        else:
            self._next()
        self._on_failed(failed, waiting)
        for write in failed:
            write.settle(reason)
