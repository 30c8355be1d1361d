"""When an item was last fetched by a meta get: what the flags h and l tell.

memcached keeps this in the item; a file store doesn't write because somebody reads. It is kept for the keys last
fetched, in memory, and only meta gets count.
"""

from __future__ import annotations

ACCESSES_MAX = 65_536


class Accesses:
    """Unix seconds of the last access, for up to `accesses_max` keys; the longest unfetched are forgotten."""

    def __init__(self, accesses_max: int = ACCESSES_MAX) -> None:
        self._last: dict[bytes, float] = {}
        self._accesses_max = accesses_max

    def last(self, key: bytes) -> float | None:
        """When the key was last fetched, None if that isn't known."""
        return self._last.get(key)

    def note(self, key: bytes, now: float) -> None:
        """Take note of an access."""
        self._last.pop(key, None)
        self._last[key] = now
        if len(self._last) > self._accesses_max:
            del self._last[next(iter(self._last))]
