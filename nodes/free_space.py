"""How much room the disk has that a data directory lies on, as its node's statistics tell it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FRESH_S = 1.0
"""For so long an answer of the disk is given again, however many ask for statistics."""


class FreeSpace:
    """Free room on the disk of `directory`. `clock` is monotonic; `ask` is `os.statvfs`."""

    def __init__(
        self,
        directory: Path,
        clock: Callable[[], float] = time.monotonic,
        ask: Callable[[Path], os.statvfs_result] = os.statvfs,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._ask = ask
        self._asked_at = float("-inf")
        self._free = 0

    def bytes_free(self) -> int:
        """Bytes that a process without privileges can still take; the last known where the disk doesn't tell."""
        now = self._clock()
        if now >= self._asked_at + FRESH_S:
            self._asked_at = now
            with suppress(OSError):  # a failing disk is no reason to tell nothing of its node
                told = self._ask(self._directory)
                self._free = told.f_bavail * told.f_frsize
        return self._free
