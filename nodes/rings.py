"""The ring of a running node: what it has, what it says about the next one, and letting go of what it doesn't own.

One change of the file `ring` at a time, each on disk before it is answered. A ring isn't told before what was taken
under the one before is settled: whoever hears the new number and then lists what the node holds must find it all
(docs/decisions/ring-changes.rst, rule 4). And none is learnt while a partition is being dropped: the node may own that
partition in it, and what is written there then must not meet what is about to go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from nodes.dropped import Range, ranges_of
from nodes.dropping import Dropper
from nodes.ring_file import RingFile
from sfss.errors import Busy, SfssError, StaleRing
from sfss.ring_keeper import HeldRing, KeptRing, Prepared, Voted, check_not_owned
from sfss.ring_record import RingRecord

_DROPS_MAX = 1024
"""Partitions that may wait to be dropped. They go together, at the price of one."""

_log = logging.getLogger("sfss.node")


class Rings:
    """For the loop's thread. `node` gives the id that the node is known by, and `mute` whether it may have forgotten
    what it said about the next ring (`NodeState`); `save` puts a content on disk; `settle` waits for what was taken;
    `on_ring` is told a ring's number as soon as it is on disk, `on_told` the ring when it may be told; `spawn` runs
    what the node's end waits for."""

    def __init__(
        self,
        file: RingFile,
        node: Callable[[], str],
        mute: Callable[[], bool],
        dropper: Dropper,
        *,
        save: Callable[[RingFile], Awaitable[None]],
        settle: Callable[[], Awaitable[None]],
        on_ring: Callable[[int], None],
        on_told: Callable[[HeldRing], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
    ) -> None:
        self._node = node
        self._mute = mute
        self._dropper = dropper
        self._save = save
        self._settle = settle
        self._on_ring = on_ring
        self._on_told = on_told
        self._spawn = spawn
        self._lock = asyncio.Lock()
        self._learning: asyncio.Future[None] | None = None
        self._removal: asyncio.Task[dict[int, int]] | None = None
        self._wanted: dict[tuple[int, int], asyncio.Future[int]] = {}
        self._dropping = False
        self._left = 0
        self._owned: tuple[int, asyncio.Task[bytes]] | None = None
        self.file = file

    async def bind(self, held: HeldRing) -> None:
        """The node became part of a cluster; the identity file says so."""
        async with self._lock:
            if not self.file.kept.held.number:
                self.file = replace(self.file, kept=replace(self.file.kept, held=held))

    @property
    def _kept(self) -> KeptRing:
        """What counts of what is on disk: of a node that is mute the ring, and whatever that is, no say on the next."""
        kept = self.file.kept
        return kept.without_say() if self._mute() else kept

    async def have_a_say_after(self, trusted: Callable[[], Awaitable[None]]) -> None:
        """Be mute no more once `trusted` is through, but for the ring after the present one: that number may be the one
        that it was asked about. No ring is learnt in between."""
        async with self._lock:
            await self._keep(self._kept)
            await trusted()

    def is_dead(self, lookup: bytes, position: int) -> bool:
        """Whether a record at a position is dead, as its partition was dropped since."""
        return self.file.dropped.is_dead(lookup, position)

    async def tell(self) -> HeldRing:
        """The present ring."""
        if self._learning is not None:
            await asyncio.shield(self._learning)
        return self.file.kept.held

    async def prepare(self, number: int, ballot: int) -> Prepared:
        """See `RingKeeper`."""
        async with self._lock:
            kept, answer = self._kept.prepare(number, ballot)
            await self._keep(kept)
            return answer

    async def accept(self, ballot: int, record: RingRecord) -> Voted:
        """See `RingKeeper`."""
        async with self._lock:
            kept, answer = self._kept.accept(ballot, record)
            await self._keep(kept)
            return answer

    async def learn(self, record: RingRecord) -> HeldRing:
        """See `RingKeeper`."""
        async with self._lock:
            kept, answer = self.file.kept.learn(record)
            if kept is not self.file.kept:
                await self._removed()
                await self._take(kept)
            return answer

    async def _take(self, kept: KeptRing) -> None:
        self._learning = asyncio.get_running_loop().create_future()
        try:
            await self._keep(kept)
            self._on_ring(kept.held.number)
            await self._settle()
            await self._on_told(kept.held)
            _log.info("the ring is number %d now", kept.held.number)
        finally:
            self._learning.set_result(None)
            self._learning = None

    async def _keep(self, kept: KeptRing) -> None:
        if kept != self.file.kept:
            await self._save(replace(self.file, kept=kept))
            self.file = replace(self.file, kept=kept)

    async def leave(self, number: int) -> None:
        """Drop everything; see `RingKeeper`. It can't come back once this returns, and goes from then on."""
        async with self._lock:
            self.file.kept.check_left(number, self._node())
            if self._left != number:
                await self._begin([(0, self.file.kept.settled(number).partitions)])
                self._left = number
                _log.info("the node is not in ring %d: all that it has goes", number)
            elif self.file.removing and (self._removal is None or self._removal.done()):
                self._begin_removal()  # something kept it from going, as a full disk

    async def drop(self, number: int, partition: int) -> int:
        """See `RingKeeper`."""
        record = self.file.kept.settled(number)
        check_not_owned(await self._owned_in(record), partition)
        future = self._wanted.get((number, partition))
        if future is None:
            if len(self._wanted) >= _DROPS_MAX:
                raise Busy(f"{len(self._wanted)} partitions wait to be dropped")
            future = self._wanted[number, partition] = asyncio.get_running_loop().create_future()
            if not self._dropping:
                self._dropping = True
                self._spawn(self._drop_wanted())
        return await asyncio.shield(future)

    async def _owned_in(self, record: RingRecord) -> bytes:
        """What the node owns in a ring; worked out once."""
        known = self._owned
        if known is None or known[0] != record.number or (known[1].done() and known[1].exception()):
            known = (record.number, self._spawn(asyncio.to_thread(record.owned_by, self._node())))
            self._owned = known
        return await asyncio.shield(known[1])

    async def _drop_wanted(self) -> None:
        while self._wanted:
            partitions: dict[int, asyncio.Future[int]] = {}
            try:
                async with self._lock:
                    partitions = self._take_wanted()
                    removal = await self._begin(ranges_of(partitions))
                counts = await removal
            except Exception as error:
                for future in partitions.values():
                    _fail(future, error)
                if not isinstance(error, SfssError):
                    _log.exception("dropping partitions failed")
            else:
                for partition, future in partitions.items():
                    future.set_result(counts.get(partition, 0))
        self._dropping = False

    def _take_wanted(self) -> dict[int, asyncio.Future[int]]:
        """The partitions to drop now. Another ring may have been learnt since they were asked for."""
        wanted, self._wanted = self._wanted, {}
        present = self.file.kept.held.number
        partitions = {}
        for (number, partition), future in wanted.items():
            if number == present:
                partitions[partition] = future
            else:
                _fail(future, StaleRing(present))
        return partitions

    async def _begin(self, ranges: list[Range]) -> asyncio.Task[dict[int, int]]:
        """Have what lies in these partitions dead, durably, and begin to take it out. The lock is held, and the ring is
        settled."""
        await self._removed()
        partitions = self.file.kept.settled(self.file.kept.held.number).partitions
        try:
            position = await self._dropper.settle(ranges, partitions)
            dropped = self.file.dropped.marked(ranges, position, partitions)
            file = replace(self.file, dropped=dropped, removing=tuple(ranges))
            await self._save(file)
        except BaseException:
            self._dropper.end()
            raise
        self.file = file
        return self._begin_removal()

    def _begin_removal(self) -> asyncio.Task[dict[int, int]]:
        self._removal = self._spawn(self._remove())
        self._removal.add_done_callback(_look_at)
        return self._removal

    async def _remove(self) -> dict[int, int]:
        # If this fails the drop goes on: were it over, compaction could carry dead records above their position.
        counts = await self._dropper.remove(self.file.removing, self.file.dropped)
        self._dropper.end()
        # The file says so when it is written next. Until then a start looks through these partitions for nothing.
        self.file = replace(self.file, removing=())
        return counts

    async def _removed(self) -> None:
        """Wait until nothing of an earlier drop is left. Raises what keeps it from going."""
        if self._removal is not None:
            await asyncio.wait([self._removal])
        if self.file.removing:
            await self._remove()


def _fail(future: asyncio.Future[int], error: Exception) -> None:
    future.set_exception(error)
    future.exception()  # looked at: whoever asked may have left


def _look_at(removal: asyncio.Task[dict[int, int]]) -> None:
    # Who asked for it may have left. What is left of it is tried again before anything that must not meet it.
    if not removal.cancelled() and (error := removal.exception()) is not None:
        _log.error("dropped records are left in the index for now: %s", error)
