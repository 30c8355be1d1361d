"""How many tries more than requests the web tier may make, so that proxies in trouble aren't asked twice as much.

A bucket of tokens: each request puts a part of one in, each try after its first takes one out, and without one the
request ends with the error that it has. So proxies that all are overloaded, or fail whatever they are asked, get that
part more at most, and not several times what clients ask for; while a proxy that dies with requests in its hands is
made up for by what was saved in quiet times.
"""

from __future__ import annotations

from typing import Final

from sfss.web.counters import WorkerCounters

RETRIES_SAVED_MAX: Final = 500.0
"""What one proxy has of one web process' requests in its hands when it dies, and more; as one burst it is the work of a
moment for the others."""


class RetryBudget:
    """The budget of one web process, full at its start. `share` is how much of a try each request is good for. Counts
    `retries` and `retries_refused`."""

    def __init__(
        self, share: float, saved_max: float = RETRIES_SAVED_MAX, counters: WorkerCounters | None = None
    ) -> None:
        self._share = share
        self._saved_max = saved_max
        self._saved = saved_max
        self._counters = counters

    def earn(self) -> None:
        """A request begins."""
        if self._saved < self._saved_max:
            self._saved = min(self._saved + self._share, self._saved_max)

    def take(self) -> bool:
        """Whether a request may be tried once more; takes it."""
        allowed = self._saved >= 1.0
        if allowed:
            self._saved -= 1.0
        if self._counters is not None:
            self._counters.add("retries" if allowed else "retries_refused")
        return allowed
