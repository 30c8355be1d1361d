"""Reading values from volumes without ever blocking the loop on a disk.

`preadv` with RWF_NOWAIT returns what the page cache has, at once. What it doesn't have is read by a thread. Some file
systems can't do that (EOPNOTSUPP: tmpfs, overlay): then all reads go through the thread, for good.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

from nodes.neighbourhood import NEIGHBOURHOOD_BYTES, Neighbourhoods
from nodes.page_cache import PageCache
from nodes.volume import Volumes
from sfss.errors import Busy, Expired
from sfss.store import WIRE_VALUE_BYTES_MAX

_COPIED_BYTES_MAX: Final = 32 * 1024
"""Up to this size a value is read into a buffer that is there already, and copied."""


class _ColdRead:
    """A read on its way through a thread. `then` is called with the bytes, or with what went wrong. From `ahead` on, if
    that isn't -1, the file is read ahead."""

    __slots__ = ("ahead", "deadline", "error", "fd", "number", "offset", "size", "then", "value")

    def __init__(
        self,
        number: int,
        fd: int,
        offset: int,
        size: int,
        deadline: float,
        then: Callable[[bytes, Exception | None], None],
        ahead: int,
    ) -> None:
        self.number = number
        self.fd = fd
        self.offset = offset
        self.size = size
        self.deadline = deadline
        self.then = then
        self.ahead = ahead
        self.value = b""
        self.error: Exception | None = None


class ValueReader:
    """Reads byte ranges of volumes. For the loop's thread."""

    def __init__(self, volumes: Volumes, threads_max: int, waiting_max: int) -> None:
        self._volumes = volumes
        self._loop = asyncio.get_running_loop()
        self._threads_max = threads_max
        self._threads: list[threading.Thread] = []
        # Not an executor: its futures, and a task to wait for them, cost as much again (61 µs of processor time a read,
        # four at a time; 31 without).
        self._jobs: SimpleQueue[_ColdRead | None] = SimpleQueue()
        self._ended: deque[_ColdRead] = deque()
        self._told = False
        self._waiting_max = waiting_max
        self._flags = os.RWF_NOWAIT
        self._neighbourhoods = Neighbourhoods()
        self._page_cache = PageCache()
        # One buffer for all small reads that return at once: a fresh one each would have to be zeroed first.
        self._buffer = memoryview(bytearray(_COPIED_BYTES_MAX))
        # The part of it that was read into last, as preadv takes it: many files in a row have one size (saves 700
        # instructions).
        self._views: tuple[memoryview, ...] = (self._buffer,)
        self._view_bytes = _COPIED_BYTES_MAX
        self.waiting = 0
        self.cold_reads = 0

    def read_now(self, number: int, offset: int, size: int) -> bytes | None:
        """The bytes if the page cache has them all, else None: then ask `read_later`. Raises `CorruptRecord` when the
        volume is missing."""
        if not size:
            return b""
        if not self._flags or size > WIRE_VALUE_BYTES_MAX:
            return None
        try:
            if size > _COPIED_BYTES_MAX:
                value = self._page_cache.read(self._volumes.fd(number), offset, size)
                return value if len(value) == size else None
            if size != self._view_bytes:
                self._views = (self._buffer[:size],)
                self._view_bytes = size
            if os.preadv(self._volumes.fd(number), self._views, offset, self._flags) == size:
                return self._views[0].tobytes()
        except BlockingIOError:
            pass
        except OSError as error:
            # Any other error is met again, and told, by `read_later`.
            if error.errno == errno.EOPNOTSUPP:
                self._flags = 0
        return None

    def read_later(
        self, number: int, offset: int, size: int, deadline: float, then: Callable[[bytes, Exception | None], None]
    ) -> None:
        """Have a thread read the bytes (fewer where the file ends), and call `then` with them, or with the error:
        `OSError`, or `Expired` when a thread gets to it only after `deadline` (seconds of `time.monotonic()`). Raises
        `Busy` when too many wait already."""
        if self.waiting >= self._waiting_max:
            raise Busy(f"{self.waiting} reads wait for the disk")
        try:
            # Held until it has been read: the descriptor must not be closed under the thread's hands.
            fd = self._volumes.hold(number)
        except OSError as error:
            self._loop.call_soon(then, b"", error)
            return
        # Without RWF_NOWAIT nobody knows what the page cache lacks.
        ahead = self._neighbourhoods.missed(number, offset) if self._flags else -1
        job = _ColdRead(number, fd, offset, size, deadline, then, ahead)
        self.waiting += 1
        self.cold_reads += 1
        if self.waiting > len(self._threads) < self._threads_max:
            thread = threading.Thread(target=self._work, name="sfss-reader", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put(job)

    def close(self) -> None:
        """Finish the reads that wait, and end the threads."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._settle()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if time.monotonic() > job.deadline:
                job.error = Expired("the deadline passed while the read waited for the disk")
            else:
                try:
                    job.value = os.pread(job.fd, job.size, job.offset)
                except Exception as error:
                    job.error = error
                if job.ahead >= 0:
                    with suppress(OSError):  # it is only advice
                        os.posix_fadvise(job.fd, job.ahead, NEIGHBOURHOOD_BYTES, os.POSIX_FADV_WILLNEED)
            # Reads that end while the loop is busy are told in one go: whoever finds `_told` set has added its own
            # before `_settle` begins to look.
            self._ended.append(job)
            if not self._told:
                self._told = True
                self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._told = False
        while self._ended:
            job = self._ended.popleft()
            self.waiting -= 1
            self._volumes.release(job.number)
            job.then(job.value, job.error)
