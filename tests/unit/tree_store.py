"""Replicas in memory that can be compared and refilled, as nodes can."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sfss.errors import BadRequest, Outcome, Recovering
from sfss.hash_tree import (
    FANOUT,
    LEAF_DIGITS,
    LISTED_MAX,
    Branch,
    Listed,
    hash_range,
    write_branches,
    write_listed,
    write_listing,
)
from sfss.keys import hash_key
from sfss.memory import MemoryStore
from sfss.store import NO_CALL, Applied, Call, Identity, Record, Seen


class TreeStore(MemoryStore):
    """A replica with a hash tree, which is worked out anew for each question: it is for some records, or thousands, not
    for a million."""

    def __init__(self, now: Callable[[], float] = time.time, *, listed_max: int = LISTED_MAX, **options: Any) -> None:
        super().__init__(now, **options)
        self._listed_max = listed_max

    def hashes(self, prefix: bytes, call: Call = NO_CALL) -> bytes:
        low, high = hash_range(prefix)
        below = [(place, key) for key in self.records if low <= (place := hash_key(key)) < high]
        return self._listing(below) if len(prefix) >= LEAF_DIGITS else self._branches(below, high - low)

    def _branches(self, below: list[tuple[int, bytes]], width: int) -> bytes:
        digests, counts = [0] * FANOUT, [0] * FANOUT
        for place, key in below:
            digit = place % width // (width // FANOUT)
            digests[digit] ^= self.records[key].checksum
            counts[digit] += 1
        return write_branches([Branch(*branch) for branch in zip(digests, counts, strict=True)])

    def _listing(self, below: list[tuple[int, bytes]]) -> bytes:
        below.sort()
        listed = [
            Listed(key, record.version, record.checksum, record.tombstone, record.size)
            for _, key in below[: self._listed_max]
            for record in [self.records[key]]
        ]
        return write_listing(map(write_listed, listed), len(below) > self._listed_max)


class ForgetfulStore(TreeStore):
    """A node that may lose the end of what it stored, and then knows it: it stores, answers nothing else, and tells
    what it has if asked for that, until it is trusted."""

    def __init__(self, now: Callable[[], float] = time.time, **options: Any) -> None:
        super().__init__(now, **options)
        self.suspect = False
        self.epoch = 1
        self._stored: list[tuple[bytes, Record]] = []

    def restart(self, forget: int = 0) -> None:
        """Start once more, without the last `forget` of the records that were stored."""
        self.epoch += 1
        if forget:
            del self._stored[-forget:]
            self.records.clear()
            self.records.update(self._stored)
            self.suspect = True

    def identify(self) -> Identity:
        return replace(super().identify(), epoch=self.epoch, state="suspect" if self.suspect else "ok")

    def read(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        self._refuse_while_suspect()
        return super().read(key, call)

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Applied:
        before = self.records.get(key)
        applied = super().apply(key, record, call)
        if self.records[key] is not before:
            self._stored.append((key, self.records[key]))
        self._refuse_while_suspect(Outcome.UNKNOWN)
        return applied

    def hashes(self, prefix: bytes, call: Call = NO_CALL) -> bytes:
        self._refuse_while_suspect()
        return super().hashes(prefix, call)

    def hashes_held(self, prefix: bytes, call: Call = NO_CALL) -> bytes:
        return super().hashes(prefix, call)

    def trust(self, epoch: int) -> Identity:
        if epoch != self.epoch:
            raise BadRequest(f"the node was started {self.epoch} times, not {epoch}")
        self.suspect = False
        return self.identify()

    def recall(self, seen: Seen) -> Identity:
        return self.identify()

    def adopt(self, cluster: str, ring: int, fingerprint: str, node: str) -> Identity:
        raise AssertionError("it never lost its directory")

    def _refuse_while_suspect(self, outcome: Outcome = Outcome.NOT_APPLIED) -> None:
        if self.suspect:
            raise Recovering("the end of what was stored is lost", outcome)
