"""Room kept aside on disk, so that deletes, compaction and the index go on when clients' writes find the disk full.

A file whose blocks are really taken, since free space that is merely left alone goes to whoever else writes on the
disk. It is shortened step by step when room is needed and grows back when the disk has room to spare. While it is
short, a step's room on the disk belongs to it too: clients' writes must leave that free, or each round of deleting
and writing would use up another step.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import threading
from pathlib import Path

from nodes.format import FORMAT, ORDER_MARK

_HEADER = struct.Struct("<8sHH")
_MAGIC = b"SFSSRSV\n"
_STEP_BYTES_MAX = 4 * 1024 * 1024

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when a disk, or a quota on it, is full."""

_log = logging.getLogger("sfss.node")


class Reserve:
    """The reserve file. For any thread but the loop's."""

    def __init__(self, path: Path, size: int) -> None:
        self._wanted = size
        self._step_bytes = min(_STEP_BYTES_MAX, -(-size // 8))
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held = os.fstat(self._fd).st_size
        if self._held > size:
            os.ftruncate(self._fd, size)
            self._held = size

    @property
    def held_bytes(self) -> int:
        """Room that it holds now."""
        return self._held

    @property
    def short(self) -> bool:
        """Whether it has given room away that it has not got back."""
        return self._held < self._wanted

    def forbids(self, size: int) -> bool:
        """Whether a client may not take `size` bytes of the disk, since the reserve has given room away and deletes may
        need what is left. Raises `OSError`."""
        return self.short and self._free_bytes() < size + self._step_bytes

    def fill(self) -> None:
        """Take what is missing, as long as the disk keeps as much again free for clients."""
        with self._lock:
            while self._held < self._wanted:
                step = min(self._step_bytes, self._wanted - self._held)
                if self._free_bytes() < 2 * step:
                    return
                try:
                    os.posix_fallocate(self._fd, self._held, step)
                except OSError as error:
                    if error.errno not in FULL:
                        _log.warning("the reserve can't be filled: %s", error)
                    return
                if not self._held:
                    os.pwrite(self._fd, _HEADER.pack(_MAGIC, FORMAT, ORDER_MARK), 0)
                self._held += step

    def release(self, size: int) -> bool:
        """Give back at least `size` bytes; False when it can't, mostly since it holds nothing any more."""
        with self._lock:
            if not self._held:
                return False
            left = max(0, self._held - max(size, self._step_bytes))
            try:
                os.ftruncate(self._fd, left)
            except OSError as error:
                _log.error("the reserve can't be shortened: %s", error)
                return False
            self._held = left
            _log.warning("the disk is full; the reserve is down to %d of %d bytes", self._held, self._wanted)
            return True

    def make_room(self, size: int) -> None:
        """Give back what it takes to have `size` bytes free on the disk, as far as it holds that much."""
        while self._free_bytes() < size and self.release(size):
            pass

    def _free_bytes(self) -> int:
        free = os.fstatvfs(self._fd)
        return free.f_bavail * free.f_frsize

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)
