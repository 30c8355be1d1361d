"""When an item was last fetched by a meta get: what the flags h and l tell.

memcached keeps this in the item; a file store doesn't write because somebody reads. It is kept for the keys last
fetched, in memory, and only meta gets count.
"""

from __future__ import annotations

from collections import OrderedDict

ACCESSES_MAX = 65_536


class Accesses:
    """Unix seconds of the last access, for up to `accesses_max` keys; the longest unfetched are forgotten."""

    def __init__(self, accesses_max: int = ACCESSES_MAX) -> None:
        # A plain dict takes ever longer to find its first key while first keys are deleted.
        self._last: OrderedDict[bytes, float] = OrderedDict()
        self._accesses_max = accesses_max

    def last(self, key: bytes) -> float | None:
        """When the key was last fetched, None if that isn't known."""
        return self._last.get(key)

    def note(self, key: bytes, now: float) -> None:
        """Take note of an access."""
        self._last[key] = now
        self._last.move_to_end(key)
        if len(self._last) > self._accesses_max:
            self._last.popitem(last=False)
