"""Reading values from volumes without ever blocking the loop on a disk.

`preadv` with RWF_NOWAIT returns what the page cache has, at once. What it doesn't have is read by a thread. Some file
systems can't do that (EOPNOTSUPP: tmpfs, overlay): then all reads go through the thread, for good.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor

from nodes.volume import Volumes
from sfss.errors import Busy, Expired
from sfss.store import WIRE_VALUE_BYTES_MAX


class ValueReader:
    """Reads byte ranges of volumes. For the loop's thread."""

    def __init__(self, volumes: Volumes, threads: int, waiting_max: int) -> None:
        self._volumes = volumes
        self._threads = ThreadPoolExecutor(threads, "sfss-reader")
        self._waiting_max = waiting_max
        self._flags = os.RWF_NOWAIT
        # One buffer for all reads that return at once: a fresh one each would have to be zeroed first.
        self._buffer = memoryview(bytearray(WIRE_VALUE_BYTES_MAX))
        self.waiting = 0
        self.cold_reads = 0

    def read_now(self, number: int, offset: int, size: int) -> bytes | None:
        """The bytes if the page cache has them all, else None: then ask `read_later`. Raises `CorruptRecord` when the
        volume is missing."""
        if not size:
            return b""
        if not self._flags or size > WIRE_VALUE_BYTES_MAX:
            return None
        view = self._buffer[:size]
        try:
            if os.preadv(self._volumes.fd(number), (view,), offset, self._flags) == size:
                return bytes(view)
        except BlockingIOError:
            pass
        except OSError as error:
            # Any other error is met again, and told, by `read_later`.
            if error.errno == errno.EOPNOTSUPP:
                self._flags = 0
        return None

    async def read_later(self, number: int, offset: int, size: int, deadline: float) -> bytes:
        """The bytes, read by a thread; fewer where the file ends. Raises `Busy` when too many wait already, and
        `Expired` when a thread gets to it only after `deadline` (seconds of `time.monotonic()`)."""
        if self.waiting >= self._waiting_max:
            raise Busy(f"{self.waiting} reads wait for the disk")
        self.waiting += 1
        self.cold_reads += 1
        try:
            with self._volumes.held(number) as fd:
                # Shielded: a caller that leaves must not release the descriptor under the thread's hands.
                reading = asyncio.get_running_loop().run_in_executor(
                    self._threads, _pread_until, deadline, fd, size, offset
                )
                try:
                    return await asyncio.shield(reading)
                except asyncio.CancelledError:
                    await asyncio.wait([reading])
                    raise
        finally:
            self.waiting -= 1

    def close(self) -> None:
        self._threads.shutdown()


def _pread_until(deadline: float, fd: int, size: int, offset: int) -> bytes:
    if time.monotonic() > deadline:
        raise Expired("the deadline passed while the read waited for the disk")
    return os.pread(fd, size, offset)
