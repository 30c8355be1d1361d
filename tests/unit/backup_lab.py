"""A cluster for backups: nodes that list what they hold, and a store that answers as a proxy would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import reduce
from typing import Any

from sfss.backup.archive import Archive
from sfss.backup.folder import BackupFolder
from sfss.backup.manifest import Run
from sfss.backup.saving import Progress, Saving
from sfss.backup.tree import Node, Trees
from sfss.errors import SfssError
from sfss.hash_tree import LEAF_DIGITS, Branch, Listed, write_branches, write_listed, write_listing
from sfss.keys import hash_key
from sfss.pace import Pace
from sfss.ring_keeper import HeldRing
from sfss.stamps import COUNT_BITS
from sfss.store import NO_CALL, Call, Record, Written, checksum_of

WHEN = "2026-01-01T00:00:00Z"
CLUSTER = "11" * 16


def record_of(
    key: bytes, value: bytes = b"", at: int = 1, *, flags: int = 0, expires: int = 0, tombstone: bool = False
) -> Record:
    """A version of a file; `at` orders them."""
    version = (1_700_000_000_000 + at) << COUNT_BITS
    checksum = checksum_of(key, value, flags, expires, version, tombstone)
    return Record(value, len(value), flags, expires, version, checksum, tombstone)


class LabNode:
    """Lists `records`; `ring` is the one that it has. `failing`: every question raises this. `listed` has the places
    that were listed, `compared` those whose children were asked for."""

    def __init__(self, name: str, listed_max: int = 4096) -> None:
        self.name = name
        self.id = f"id of {name}"
        self.records: dict[bytes, Record] = {}
        self.failing: SfssError | None = None
        self.asked: Callable[[], None] = lambda: None
        """Called with every question."""
        self.ring = HeldRing(1, "f1")
        self.listed: list[bytes] = []
        self.compared: list[bytes] = []
        self._listed_max = listed_max

    async def tell_ring(self) -> HeldRing:
        return self.ring

    async def hashes(self, prefix: bytes) -> tuple[bytes, int]:
        return self._hashes(prefix), self.ring.number

    def _hashes(self, prefix: bytes) -> bytes:
        self.asked()
        if self.failing is not None:
            raise self.failing
        if len(prefix) < LEAF_DIGITS:
            self.compared.append(prefix)
            return write_branches([self._branch(prefix + b"%x" % digit) for digit in range(16)])
        self.listed.append(prefix)
        below = sorted(self._below(prefix), key=lambda item: hash_of(item[0]))
        lines = [
            write_listed(Listed(key, record.version, record.checksum, record.tombstone, record.size))
            for key, record in below[: self._listed_max]
        ]
        return write_listing(lines, len(below) > self._listed_max)

    def _branch(self, prefix: bytes) -> Branch:
        checksums = [record.checksum for _, record in self._below(prefix)]
        return Branch(reduce(lambda one, other: one ^ other, checksums, 0), len(checksums))

    def _below(self, prefix: bytes) -> Iterable[tuple[bytes, Record]]:
        return [(key, record) for key, record in self.records.items() if hash_of(key).startswith(prefix)]


def hash_of(key: bytes) -> bytes:
    """Its hex digits."""
    return b"%016x" % hash_key(key)


class LabStore:
    """`files` are what a quorum answers. `errors` are raised by operations on a key, one after the other, before it is
    answered; `reads` and `writes` have the keys that were asked for."""

    def __init__(self) -> None:
        self.files: dict[bytes, Record] = {}
        self.errors: dict[bytes, list[SfssError]] = {}
        self.reads: list[bytes] = []
        self.writes: list[bytes] = []

    def get(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        self.reads.append(key)
        self._raise(key)
        return self.files.get(key)

    def head(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        self._raise(key)
        return self.files.get(key)

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Written:
        self.writes.append(key)
        self._raise(key)
        self.files[key] = record_of(key, value, 999, flags=flags, expires=expires)
        return Written()

    def delete(self, key: bytes, call: Call = NO_CALL) -> Any:
        raise AssertionError("nothing deletes")

    def stats(self, topic: str = "", call: Call = NO_CALL) -> Any:
        raise AssertionError("nothing asks for figures")

    def _raise(self, key: bytes) -> None:
        if self.errors.get(key):
            raise self.errors[key].pop(0)


class Lab:
    """Three nodes with all files on each, W=2 and R=2; `nodes` can get more that a ring names."""

    def __init__(self, *, listed_max: int = 4096) -> None:
        self.w = self.r = 2
        self.nodes = [LabNode(name, listed_max) for name in "abc"]
        self.store = LabStore()
        self.naps: list[float] = []

    def write(self, key: bytes, value: bytes = b"", at: int = 1, *, nodes: str = "abc", **fields: Any) -> Record:
        """A write that was acknowledged."""
        record = record_of(key, value, at, **fields)
        self.lay(key, record, nodes)
        self.store.files[key] = record
        return record

    def delete(self, key: bytes, at: int, *, nodes: str = "abc") -> None:
        """A delete that was acknowledged."""
        self.lay(key, record_of(key, at=at, tombstone=True), nodes)
        self.store.files.pop(key, None)

    def lay(self, key: bytes, record: Record, nodes: str) -> None:
        """Put a record on some nodes, acknowledged or not."""
        for node in self.nodes:
            if node.name in nodes:
                node.records[key] = record

    def node_at(self, name: str) -> LabNode:
        return next(node for node in self.nodes if node.name == name)

    async def introduce(self, nodes: Sequence[Node]) -> None:
        """They know one another."""

    async def nap(self, seconds: float) -> None:
        self.naps.append(seconds)
        await asyncio.sleep(0)

    async def back_up(self, folder: BackupFolder, *, jobs: int = 4) -> tuple[Run, Progress]:
        """A whole run."""
        with closing(folder.begin(CLUSTER, WHEN)) as manifest:
            saving = Saving(
                Archive(folder, manifest),
                self.store,
                Trees(self, self.nodes[:3], self.w, self.r, sleep=self.nap),
                jobs=jobs,
                pace=Pace(0),
                sleep=self.nap,
            )
            await saving.run()
            return folder.end(manifest, WHEN), saving.progress
