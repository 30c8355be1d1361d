"""Writes that reached their quorum and not every replica: noted down, so that the replica gets them once it is back.

A hint counts toward no quorum and delays no answer: it is collected in memory and written by a thread soon after, many
with one sync. What is lost with a killed process within that time, doesn't fit, or gets too old isn't lost from the
cluster: its partition is marked, or found anyway, when replicas are compared. A failing disk is never a client's error.

Hints are for a node by its id, not for an address. What becomes of them is `proxy.replay`. Why they are what they are:
docs/decisions/hints.rst.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from proxy.hint_store import HINT_BYTES, Hint, HintStore, Waiting
from proxy.options import Options
from proxy.peer import Peer
from sfss.errors import SetupError
from sfss.store import Record

T = TypeVar("T")

_COLLECTED_MAX = 10_000
"""Hints that wait for the disk; dropping so many at once takes the loop a few ms."""

_TAKEN_MAX = 500
_COMPLAIN_S = 60.0
_CLOSE_S_MAX = 5.0

_log = logging.getLogger("sfss.proxy.hints")


class _Collected:
    """Hints on their way to the disk."""

    def __init__(self) -> None:
        self.hints: dict[tuple[str, bytes], Hint] = {}
        self.waiting: dict[str, Waiting] = {}

    def add(self, hint: Hint) -> None:
        place = (hint.node, hint.key)
        before = self.hints.get(place)
        if before is None:
            self.hints[place] = hint
            total = self.waiting.get(hint.node) or Waiting(0, 0, hint.since)
            self.waiting[hint.node] = Waiting(
                total.number + 1, total.size + HINT_BYTES + len(hint.key), min(total.oldest, hint.since)
            )
        elif hint.order() > before.order():
            self.hints[place] = hint._replace(since=before.since)


class Hints:
    """Implements `proxy.coordinator.HintKeeper`.

    `partition` gives a key's partition, `node_of` the id of the node that belongs at a peer's address, empty while that
    isn't known. `mark` is called with each partition of which a hint was dropped. `durable` is whether the store
    outlives the process. `now` is Unix seconds.
    """

    def __init__(
        self,
        store: HintStore,
        partition: Callable[[bytes], int],
        *,
        node_of: Callable[[Peer], str],
        mark: Callable[[int], None],
        durable: bool = True,
        options: Options | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        options = options or Options()
        self._store = store
        self._partition = partition
        self.node_of = node_of
        self._mark = mark
        self._bytes_max = options.hint_bytes_max if durable else options.hint_memory_bytes_max
        self._age_s = options.hint_age_s
        self._flush_s = options.hint_flush_s
        self._now = now
        self._monotonic = monotonic
        self._thread = ThreadPoolExecutor(1, "hints")
        self._collecting = _Collected()
        self._writing = _Collected()
        self._written: dict[str, Waiting] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._closed = False
        self._complain_at = float("-inf")
        self.replayed = 0
        """Hints whose node was found to have the record, or was brought it."""
        self.dropped = 0

    async def start(self) -> None:
        """Learn what an earlier life left. Raises `SetupError`."""
        try:
            self._written = await self._in_thread(self._store.waiting)
        except OSError as error:
            raise SetupError(f"the hints in the state directory can't be read: {error}") from None

    async def close(self) -> None:
        """Write what is collected, and let go of the store; idempotent. A disk that hangs is left behind."""
        if self._closed:
            return
        try:
            async with asyncio.timeout(_CLOSE_S_MAX):
                await self.flush()
                self._closed = True
                await self._in_thread(self._store.close)
        except TimeoutError:
            self._closed = True
            _log.error("hints are left unwritten: the disk of the state directory hangs")
        self._thread.shutdown(wait=False)

    def add(self, peer: Peer, key: bytes, record: Record) -> None:
        """Note that a node lacks a record. Nobody waits for the disk."""
        node = self.node_of(peer)
        if self._closed:
            self._drop([key], "the proxy stops")
        elif not node:
            self._drop([key], f"nobody knows yet which node belongs at {peer.name}")
        elif len(self._collecting.hints) >= _COLLECTED_MAX:
            self._drop([key], f"{_COLLECTED_MAX} hints wait for the disk")
        else:
            self._collecting.add(Hint(node, key, record.version, record.checksum, self._now()))
            if self._timer is None and self._flushing is None:
                self._timer = asyncio.get_running_loop().call_later(self._flush_s, self._begin_flush)

    # figures

    def waiting(self) -> dict[str, Waiting]:
        """The hints for each node by its id. One that is on its way to the disk may be counted twice."""
        total = dict(self._written)
        for collected in (self._writing, self._collecting):
            for node, more in collected.waiting.items():
                known = total.get(node) or Waiting(0, 0, more.oldest)
                total[node] = Waiting(
                    known.number + more.number, known.size + more.size, min(known.oldest, more.oldest)
                )
        return total

    def figures(self, peers: Sequence[Peer]) -> dict[str, str]:
        """What `stats` tells. The age of the oldest is never told too small."""
        now = self._now()
        waiting = self.waiting()

        def age_s(one: Waiting) -> int:
            return math.ceil(max(now - one.oldest, 0.0))

        figures = {
            "hints_waiting": sum(one.number for one in waiting.values()),
            "hints_bytes": sum(one.size for one in waiting.values()),
            "hints_oldest_s": max((age_s(one) for one in waiting.values()), default=0),
            "hints_replayed": self.replayed,
            "hints_dropped": self.dropped,
        }
        for peer in peers:
            one = waiting.get(self.node_of(peer))
            figures[f"{peer.name}/hints_waiting"] = one.number if one else 0
            figures[f"{peer.name}/hints_oldest_s"] = age_s(one) if one else 0
        return {name: str(figure) for name, figure in figures.items()}

    # what the replay asks; none of these raises for a disk that fails

    async def after(self, node: str, key: bytes, count: int) -> list[Hint]:
        """Up to so many hints for a node, in the order of keys, from the first above `key` on."""
        try:
            return await self._in_thread(self._store.after, node, key, count)
        except OSError as error:
            self._complain(f"can't be read, and wait: {error}")
            return []

    async def done(self, hints: Sequence[Hint]) -> None:
        """The node was seen to hold these records, or newer ones. A hint that can't be removed is replayed once more,
        which changes nothing."""
        self.replayed += len(hints)
        await self._remove(hints)

    async def moot(self, hints: Sequence[Hint]) -> None:
        """Hints that can't be replayed any more: the node doesn't own the key, or nobody has the record."""
        self._drop([hint.key for hint in hints], "their node owns the keys no more, or no replica has the records")
        await self._remove(hints)

    async def tidy(self, nodes: Collection[str] | None) -> None:
        """Drop hints that are too old, and those for nodes that aren't among `nodes` (None: not all are known)."""
        try:
            while keys := await self._in_thread(self._store.take_older, self._now() - self._age_s, _TAKEN_MAX):
                self._drop(keys, f"older than {self._age_s / 3600:g} hours")
            strangers = [node for node in self._written if node not in nodes] if nodes is not None else []
            for node in strangers:
                while keys := await self._in_thread(self._store.take_of, node, _TAKEN_MAX):
                    self._drop(keys, f"node {node} is none of this cluster's")
            self._written = await self._in_thread(self._store.waiting)
        except OSError as error:
            self._complain(f"can't be tidied, and wait: {error}")

    async def flush(self) -> None:
        """Write what was collected before the call."""
        if self._flushing is not None:
            await asyncio.wait([self._flushing])
        if self._collecting.hints:
            await asyncio.wait([self._begin_flush()])

    def _begin_flush(self) -> asyncio.Task[None]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flushing = asyncio.get_running_loop().create_task(self._flush(), name="hints to disk")
        self._flushing.add_done_callback(self._flushed)
        return self._flushing

    def _flushed(self, flushing: asyncio.Task[None]) -> None:
        self._flushing = None
        if not flushing.cancelled() and (error := flushing.exception()):
            _log.error("hints could not be written", exc_info=error)
        if self._collecting.hints and self._timer is None and not self._closed:
            self._timer = flushing.get_loop().call_later(self._flush_s, self._begin_flush)

    async def _flush(self) -> None:
        batch = self._writing = self._collecting
        self._collecting = _Collected()
        hints = list(batch.hints.values())
        try:
            kept, self._written = await self._in_thread(self._put, hints)
        except OSError as error:
            self._drop([hint.key for hint in hints], f"can't be written: {error}")
        else:
            if kept < len(hints):
                self._drop([hint.key for hint in hints[kept:]], f"{self._bytes_max} bytes of hints are the limit")
        finally:
            self._writing = _Collected()

    # in the thread

    def _put(self, hints: Sequence[Hint]) -> tuple[int, dict[str, Waiting]]:
        return self._store.put(hints, self._bytes_max), self._store.waiting()

    def _forget(self, hints: Sequence[Hint]) -> dict[str, Waiting]:
        self._store.remove(hints)
        return self._store.waiting()

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _remove(self, hints: Sequence[Hint]) -> None:
        try:
            self._written = await self._in_thread(self._forget, hints)
        except OSError as error:
            self._complain(f"can't be removed, and are replayed again: {error}")

    # what can't be kept

    def _drop(self, keys: Sequence[bytes], reason: str) -> None:
        if not keys:
            return
        self.dropped += len(keys)
        for key in keys:
            self._mark(self._partition(key))
        self._complain(f"are dropped ({self.dropped} so far), their partitions are compared instead: {reason}")

    def _complain(self, what: str) -> None:
        now = self._monotonic()
        if now >= self._complain_at:
            self._complain_at = now + _COMPLAIN_S
            _log.warning("hints %s", what)
