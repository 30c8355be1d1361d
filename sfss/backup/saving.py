"""A backup run: every file of a live cluster, as some acknowledged version of it from between the run's start and end.

1. The nodes' hash trees tell which leaves have changed since they were last saved, and those are listed (`tree`).
2. A key whose newest listed version is the saved one is as it was. Every other one is read through a proxy, which
   hears a quorum; so what is saved was acknowledged, or will never be denied to a reader. Where it hears one node
   (R=1), an answer that is older than what nodes list is none.
3. A saved file leaves the manifest only when such a read finds none: a tombstone that is listed may be of a delete that
   was never acknowledged. For a file that isn't saved it does if W owners list it, so that old deletes cost nothing.

A leaf counts as saved once all of its files are, and nothing in it is listed that may yet come to be. Files that can't
be read keep the version of an earlier run, if there is one; they are counted, named, and tried again by the next run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from sfss.backup.archive import Archive
from sfss.backup.known import Known
from sfss.backup.manifest import Row
from sfss.backup.patience import Patience
from sfss.backup.tree import Newest, Trees
from sfss.errors import RemoteError, SfssError, Unavailable
from sfss.hash_tree import LEAF_DIGITS, Branch
from sfss.pace import Pace, side_by_side
from sfss.store import Call, Record, Store, settled

T = TypeVar("T")

_DIGITS = "0123456789abcdef"


@dataclass(slots=True)
class Progress:
    """What a run has done so far."""

    part: float = 0.0
    """Of the hash tree, from 0 to 1."""
    saved: int = 0
    bytes_saved: int = 0
    dropped: int = 0
    failed: int = 0


class Saving:
    """One run into an `Archive`. `jobs` files at most are read at a time."""

    def __init__(
        self,
        archive: Archive,
        store: Store,
        trees: Trees,
        *,
        jobs: int,
        pace: Pace,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.progress = Progress()
        self._archive = archive
        self._manifest = archive.manifest
        self._store = store
        self._trees = trees
        self._jobs = jobs
        self._pace = pace
        self._patience = Patience("read", "run it again: it goes on from there", sleep)
        # All work on the archive is done here, in the order in which it was asked for: a disk holds up no request.
        self._thread = ThreadPoolExecutor(1, "sfss-archive")

    async def run(self) -> None:
        """Go through all files. Whatever ends it, what was saved until then is committed. Raises `BackupFailed`,
        `OSError`."""
        try:
            await side_by_side(self._jobs, self._parts(), self._save_part)
            self.progress.part = 1.0
        finally:
            await self._archived(self._archive.close)
            self._thread.shutdown()

    async def _parts(self) -> AsyncGenerator[str, None]:
        """The places of three digits below which something has changed."""
        known = await self._archived(Known, self._manifest)
        places = [""]
        for _ in range(LEAF_DIGITS - 1):
            changed: list[str] = []
            for place in places:
                branches = await self._trees.branches(place)
                changed.extend(
                    below for below, digests in _children(place, branches) if not known.is_settled(below, digests)
                )
            places = changed
        for number, place in enumerate(places):
            self.progress.part = number / len(places)
            yield place

    async def _save_part(self, place: str) -> None:
        branches = await self._trees.branches(place)
        known = await self._archived(Known, self._manifest, place)
        for leaf, digests in _children(place, branches):
            if known.is_settled(leaf, digests):
                continue
            # Digests of before the listing: what comes in between is seen as a change by the next run.
            whole = await self._save_below(leaf)
            await self._archived(self._manifest.see, leaf, digests if whole else {})

    async def _save_below(self, place: str) -> bool:
        """Save what changed below a place; returns whether all could be."""
        listed = await self._trees.records(place)
        if listed is None:
            return all([await self._save_below(place + digit) for digit in _DIGITS])
        saved = await self._archived(self._manifest.with_hash, place)
        whole = True
        for key, newest in listed.items():
            row = saved.pop(key, None)
            if row is None:
                as_it_was = newest.record.tombstone and newest.proven
            else:
                as_it_was = row.order() == newest.record.order()
            if not as_it_was:
                whole &= await self._save(key, row, newest)
        for key, row in saved.items():
            # Nobody has so much as a tombstone of it left.
            whole &= await self._save(key, row, None)
        return whole

    async def _save(self, key: bytes, row: Row | None, newest: Newest | None) -> bool:
        """Bring one file up to date; returns whether it is settled: until a node's digest says otherwise, no reader
        finds anything else."""
        try:
            record = await self._patience.ask(lambda call: self._read(key, newest, call))
        except SfssError as error:
            self.progress.failed += 1
            await self._archived(self._manifest.fail, key, str(error) or type(error).__name__)
            self._patience.failed(error)
            return False
        self._patience.succeeded()
        if record is None:
            if row is not None:
                await self._drop(key)
        elif row is None or record.order() != row.order():
            await self._archived(self._archive.save, key, record)
            self.progress.saved += 1
            self.progress.bytes_saved += record.size
            await self._pace.spend(record.size)
        return self._settled(record, newest)

    def _settled(self, record: Record | None, newest: Newest | None) -> bool:
        # A version that is listed and was never acknowledged may be met by a reader later, and is then written to a
        # node that may be the one left out by the next run; the digests of the others have it already.
        if newest is None:
            return record is None
        if record is None:
            return newest.record.tombstone or newest.proven
        return record.order() >= newest.record.order()

    async def _read(self, key: bytes, newest: Newest | None, call: Call) -> Record | None:
        record = await settled(self._store.get(key, call))
        if record is not None and not record.version:
            raise RemoteError("the server that answered keeps no versions")
        if newest and _may_be_old(record, newest):
            read = "nothing" if record is None else f"version {record.version}"
            raise Unavailable(f"{read} was read and nodes hold version {newest.record.version}")
        return record

    async def _drop(self, key: bytes) -> None:
        await self._archived(self._manifest.drop, key)
        self.progress.dropped += 1

    async def _archived(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def _may_be_old(record: Record | None, newest: Newest) -> bool:
    """Whether less was read than there may be. Where readers hear one node (R=1), that one may lack what was
    acknowledged; where they hear a quorum, what is newer and not proven was not."""
    if record is None:
        # Proven, it was deleted meanwhile: so many nodes as it takes to say that there is none meet those that had it.
        return newest.reads_one and not newest.proven and not newest.record.tombstone
    return (newest.reads_one or newest.proven) and record.order() < newest.record.order()


def _children(place: str, branches: Mapping[str, Sequence[Branch]]) -> Iterator[tuple[str, dict[str, Branch]]]:
    """The places below a place, and each node's digest of them."""
    for index, digit in enumerate(_DIGITS):
        yield place + digit, {node: children[index] for node, children in branches.items()}
