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
"""How long a round may take; on a machine that works, some milliseconds. The shortest deadline that clusters under test
have is 0.4 s."""

RECOVERS_S = 2.0
"""How long after a standstill its errors may begin: who was taken for down meanwhile has to be found again."""

_ROUND_S = 0.02


class Witness:
    """Writes and syncs a block of a file again and again, in a thread, as a node does on the same disk. Use as a
    context."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over: list[tuple[float, float]] = []
        self._began = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)

    def standstills(self) -> list[tuple[float, float]]:
        """First and last moment of each so far (seconds of `time.monotonic()`), one that lasts still included."""
        began, now = self._began, time.monotonic()
        return [*self._over, *([(began, now)] if now - began > STANDSTILL_S else [])]

    def excuses(self, start: float, end: float) -> bool:
        """Whether an error of what began and ended at these moments is no evidence against anybody."""
        return any(start < over + RECOVERS_S and began < end for began, over in self.standstills())

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

    def __enter__(self) -> Witness:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()
