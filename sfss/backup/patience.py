"""How long a run bears with a cluster that can't answer: every request is tried again a few times, and a run in which
file after file fails ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sfss.backup.errors import BackupFailed
from sfss.errors import SfssError, Unavailable
from sfss.store import Call

T = TypeVar("T")

ANSWER_S = 10.0
"""For one try."""

PAUSES_S = (0.2, 1.0, 3.0)
"""How long to wait before each further try. A write that failed may well have been carried out: a write of the same
file again does no harm."""

FAILURES_IN_A_ROW_MAX = 50
"""So many files that can't be had one after the other mean that none can."""


class Patience:
    """That of one run. `could_not`: what the files could not, for the error that ends it, and `then` what to do."""

    def __init__(self, could_not: str, then: str, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._could_not = could_not
        self._then = then
        self._sleep = sleep
        self._failures = 0

    async def ask(self, once: Callable[[Call], Awaitable[T]]) -> T:
        """Ask until it answers. Raises what the last try raised, and at once whatever isn't `Unavailable`."""
        for pause_s in PAUSES_S:
            try:
                return await once(Call(time.monotonic() + ANSWER_S))
            except Unavailable:
                await self._sleep(pause_s)
        return await once(Call(time.monotonic() + ANSWER_S))

    def succeeded(self) -> None:
        """A file could be had."""
        self._failures = 0

    def failed(self, error: SfssError) -> None:
        """A file could not. Raises `BackupFailed` when it was one too many."""
        if not isinstance(error, Unavailable):
            return  # it is this file's own trouble
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW_MAX:
            raise BackupFailed(
                f"the last {FAILURES_IN_A_ROW_MAX} files could not be {self._could_not} ({error}); see to the cluster, "
                f"then {self._then}"
            )
