"""Whether the machine itself stood still while a test ran.

Machines are shared: a disk may sync nothing for seconds, and whole machines are paused. What then takes longer than
its deadline is answered with an error, as promised, and is no evidence against anybody. Nothing is excused by it but
such an error: the histories are judged all the same.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType

STANDSTILL_S = 0.3
"""How long a round may take; on a machine that works, some milliseconds. Requests to clusters under test have 0.4 s or
more."""

RECOVERS_S = 2.0
"""How long after a standstill its errors may begin: who was taken for down meanwhile has to be found again."""

LATE = frozenset({0, 503, 504})
"""How a request is answered that took too long, or that found who should answer it too late."""

_ROUND_S = 0.02


class Standstills:
    """The moments in which it stood still. To know them it writes and syncs a block of a file again and again, in a
    thread, on the disk on which the nodes do. Use as a context."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over: list[tuple[float, float]] = []
        self._began = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="standstills", daemon=True)

    def seen(self) -> list[tuple[float, float]]:
        """First and last moment of each (seconds of `time.monotonic()`), one that lasts still included."""
        began, now = self._began, time.monotonic()
        return [*self._over, *([(began, now)] if now - began > STANDSTILL_S else [])]

    def excuses(self, status: int, start: float, end: float) -> bool:
        """Whether it is no evidence against anybody that what began and ended at these moments was answered so (0: not
        at all)."""
        return status in LATE and any(start < over + RECOVERS_S and began < end for began, over in self.seen())

    def _watch(self) -> None:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT)
        try:
            while not self._end.wait(_ROUND_S):
                os.pwrite(file, os.urandom(512), 0)
                os.fdatasync(file)
                now = time.monotonic()
                if now - self._began > STANDSTILL_S:
                    self._over.append((self._began, now))
                self._began = now
        finally:
            os.close(file)

    def __enter__(self) -> Standstills:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()
