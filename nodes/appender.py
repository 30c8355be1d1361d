"""Appending batches to the newest volume: the system calls of group commit, in the thread that makes them.

Mostly it is a single one for a batch: an append that syncs what it wrote (RWF_DSYNC). Each return from a system call
competes for the interpreter with the loop. A failed append is cut off again. A failed sync ends the process (`die`):
the kernel has marked pages clean that are not on disk, so nothing may be acknowledged after it. What failed, when
append and sync are one call, is told by `Appender._write`.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nodes.batch import Batch, SyncJob
from nodes.format import VOLUME_HEADER_BYTES, VolumeHeader
from nodes.options import NodeOptions
from nodes.reserve import FULL, Reserve
from nodes.spares import Spares
from nodes.volume import SyncFailed, Volume, create_volume, volume_path

_NO_ROOM: Final = (*FULL, errno.EFBIG)
"""What a write says when the disk, a quota or the largest size of a file leaves no room for it."""

_UNKNOWN_FLAG: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a system says that can't append and sync in one call: Linux before 4.7, or some sandboxes."""

_log = logging.getLogger("sfss.node")


class Appender:
    """The newest volume's file. From `adopt` or the first batch that begins one to `close`."""

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

    def do(self, job: Batch | SyncJob) -> OSError | None:
        """Carry out a job; returns why an append failed. `dead` is set when the process must end."""
        try:
            if isinstance(job, SyncJob):
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

    def _append(self, batch: Batch) -> None:
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
            self._cut()  # for good: a later volume says so by existing
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
        """Take off the file, durably, what lies behind the end: room taken ahead, or a failed append, which must not
        come to be after a restart."""
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
