"""Whether something holds up the event loop: a timer that notes how late it is called.

A sample, not a trace: a stall is seen when a tick was due in it, so one of `TICK_S` or longer always is, and a shorter
one now and then. A process that the system does not run (SIGSTOP, a starved machine) looks the same.
"""

from __future__ import annotations

import asyncio
import logging

TICK_S = 0.025
"""40 timers a second: under 0.1 % of a core."""

STALL_S_MIN = 0.010
"""Nothing may hold the loop longer than this; a tick that is later counts as a stall."""

TOLD_S_MIN = 1.0
"""A stall this long is logged."""

_log = logging.getLogger("sfss.loop")


class LoopWatch:
    """Counts the stalls of one loop. `start` in it, `close` when done."""

    def __init__(self) -> None:
        self.stalls = 0
        self.longest_s = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._arm()

    def close(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def figures(self) -> dict[str, str]:
        """For STATS (docs/wire.rst)."""
        return {"loop_stalls": str(self.stalls), "loop_stall_max_ms": f"{self.longest_s * 1000:.0f}"}

    def _arm(self) -> None:
        self._due = self._loop.time() + TICK_S
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        late_s = self._loop.time() - self._due
        if late_s > STALL_S_MIN:
            self.stalls += 1
            self.longest_s = max(self.longest_s, late_s)
            if late_s > TOLD_S_MIN:
                _log.warning("the event loop was held up for %.1f s", late_s)
        self._arm()
