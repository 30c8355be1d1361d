"""Recache marks: who has won the right to recache an item, which item is stale, and stubs of vivified misses.

memcached keeps these as bits of the item. A file store has no room for them and no need to outlive the process with
them, so they are kept here, each tied to the version it was given for: any write of the key, through whichever
connection or server, ends it. A restart forgets them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sfss.errors import Busy

MARKS_MAX = 65_536

PURGE_S = 1.0
"""How often, when there are that many, they are looked through for stubs that have expired: it takes milliseconds."""


@dataclass(slots=True)
class Mark:
    """The marks of one version of a key. A stub stands for a missing item until `stub_expires` (Unix seconds, 0
    never)."""

    version: int
    stale: bool = False
    won: bool = False
    stub: bool = False
    stub_expires: int = 0


class RecacheMarks:
    """Marks by key, at most `MARKS_MAX`: one that isn't kept would be a lie, so more are refused (`Busy`)."""

    def __init__(self, marks_max: int = MARKS_MAX) -> None:
        self._marks: dict[bytes, Mark] = {}
        self._marks_max = marks_max
        self._purged = float("-inf")

    def of(self, key: bytes, version: int) -> Mark | None:
        """The mark of the live record of this version; drops one of an older life of the key."""
        mark = self._marks.get(key)
        if mark is not None and mark.version != version:
            del self._marks[key]
            return None
        return mark

    def stub(self, key: bytes, now: float) -> Mark | None:
        """The stub that stands for a key without a record."""
        mark = self._marks.get(key)
        if mark is None:
            return None
        if not mark.stub or (mark.stub_expires and mark.stub_expires <= now):
            del self._marks[key]
            return None
        return mark

    def put(self, key: bytes, mark: Mark, now: float) -> None:
        """Mark a key, in place of what it was marked with. `now` (Unix seconds) tells which stubs have expired."""
        if key not in self._marks and len(self._marks) >= self._marks_max and abs(now - self._purged) >= PURGE_S:
            self._purged = now
            for other in [each for each, held in self._marks.items() if held.stub]:
                self.stub(other, now)
        if key not in self._marks and len(self._marks) >= self._marks_max:
            raise Busy(f"{self._marks_max} items are marked for recaching")
        self._marks[key] = mark

    def drop(self, key: bytes) -> bool:
        """Forget a key's mark; says whether it was a stub."""
        mark = self._marks.pop(key, None)
        return mark is not None and mark.stub

    def clear(self) -> None:
        """Forget all."""
        self._marks.clear()
