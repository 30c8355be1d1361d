"""The log file of one supervised process: appended to, rotated by size, bounded in total.

Whatever goes wrong with the disk costs log lines and nothing else: the supervisor goes on reading what the process
says, so that it never waits, and the file says later how much is missing.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

BYTES_MAX = 4 * 1024 * 1024
"""Size of a file from which it is rotated, in bytes. Exceeded by one chunk at most."""

FILES_MAX = 4
"""Files kept of each process: `name.log`, then `name.log.1` (the newest of the old ones) and so on."""

_LAST_WORDS_BYTES = 4096

_log = logging.getLogger("sfss.up")


class PartLog:
    """The files `path`, `path.1` … of one process."""

    def __init__(self, path: Path, bytes_max: int = BYTES_MAX, files_max: int = FILES_MAX) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._fd = -1
        self._size = 0
        self._tail = b""
        self._lost = 0

    def write(self, chunk: bytes) -> None:
        """Append; rotates between two lines where there is an end of line."""
        self._tail = (self._tail + chunk)[-_LAST_WORDS_BYTES:]
        try:
            if self._fd < 0:
                self._open()
            if self._size + len(chunk) > self._bytes_max:
                cut = chunk.find(b"\n") + 1
                self._append(chunk[:cut])
                chunk = chunk[cut:]
                self._rotate()
            if self._lost:
                notice = b"%d bytes of log were lost here: the file could not be written\n" % self._lost
                self._append(notice)
                self._lost = 0
            self._append(chunk)
        except OSError as error:
            if not self._lost:
                _log.warning("%s: %s; its lines are lost until that is over", self.path, error.strerror)
            self._lost += len(chunk)

    def last_words(self) -> str:
        """The last line that was written and is not blank, for a message to people."""
        lines = self._tail.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def forget_last_words(self) -> None:
        """Called between two lives of the process, so that the second is not blamed for the first."""
        self._tail = b""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _append(self, chunk: bytes) -> None:
        written = os.write(self._fd, chunk) if chunk else 0
        self._size += written
        if written < len(chunk):  # the disk filled up in the middle
            self._lost += len(chunk) - written

    def _rotate(self) -> None:
        self.close()
        for number in range(self._files_max - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            newer = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            if newer.exists():
                newer.replace(older)
        self._open()
