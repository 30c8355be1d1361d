"""Bringing nodes what they missed while they were away: hints replayed at a bounded pace.

For each hint the node is asked what it holds. If that is older, the record is read from another owner, whatever is the
newest there, and given to the node as a write-back of a read is: stored only if newer. So a hint that is replayed late,
twice, in any order or across a newer write changes nothing that it shouldn't. A hint is done once the right node was
seen to hold its record or a newer one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

from proxy.asking import ask
from proxy.hint_store import Hint
from proxy.hints import Hints
from proxy.peer import Peer
from proxy.rests import Rests
from sfss.errors import (
    Busy,
    ConnectionLost,
    CorruptRecord,
    Expired,
    Recovering,
    RemoteError,
    SfssError,
    Stopping,
    Unreachable,
    WrongCluster,
)
from sfss.store import Record

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator

_BATCH = 128
_IN_FLIGHT = 4
"""Hints replayed to one node side by side; each holds one file in memory at most."""

_REST_S_MAX = 60.0
"""How long at most to leave a node's hints alone after none could be replayed."""

_TIDY_S = 60.0

_AWAY = (Busy, ConnectionLost, Expired, Recovering, RemoteError, Stopping, TimeoutError, Unreachable, WrongCluster)
"""What a node answers that should be left alone for a while, whatever the key."""

_log = logging.getLogger("sfss.proxy.hints")


class _Came(Enum):
    """What came of a hint: the node has the record; it can't be replayed any more; it waits; the node does."""

    DONE = 1
    MOOT = 2
    LATER = 3
    AWAY = 4


class Replay:
    """Replays the hints of one coordinator, from `start` to `close`."""

    def __init__(self, coordinator: Coordinator, hints: Hints) -> None:
        options = coordinator.options
        self._coordinator = coordinator
        self._hints = hints
        self._round_s = options.hint_round_s
        self._rate = options.hint_rate
        self._byte_rate = options.hint_byte_rate
        self._task: asyncio.Task[None] | None = None
        self._passes: dict[Peer, asyncio.Task[None]] = {}
        self._rests = Rests(options.hint_round_s, _REST_S_MAX, coordinator.monotonic)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._rounds(), name="replay of hints")

    async def close(self) -> None:
        """Stop; idempotent. What is under way is replayed once more by the next life."""
        tasks = [*self._passes.values(), *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _rounds(self) -> None:
        tidy_at = self._coordinator.monotonic() + _TIDY_S
        while True:
            await asyncio.sleep(self._round_s)
            try:
                self._begin_passes()
                if self._coordinator.monotonic() >= tidy_at:
                    tidy_at = self._coordinator.monotonic() + _TIDY_S
                    await self._tidy()
            except Exception:
                # One fault must not end all replays to come.
                _log.exception("a round of replaying hints failed")

    async def _tidy(self) -> None:
        nodes = [self._hints.node_of(peer) for peer in self._coordinator.placed.peers]
        if self._hints.waiting():
            await self._hints.tidy(nodes if all(nodes) else None)

    def _begin_passes(self) -> None:
        waiting = self._hints.waiting()
        peers = self._coordinator.placed.peers
        self._rests.keep(peers)
        for peer in peers:
            idle = peer not in self._passes and self._rests.is_over(peer)
            if idle and self._is_there(peer) and self._hints.node_of(peer) in waiting:
                self._begin_pass(peer)

    def _begin_pass(self, peer: Peer) -> None:
        task = asyncio.get_running_loop().create_task(self._pass(peer), name=f"replay of hints to {peer.name}")
        self._passes[peer] = task
        task.add_done_callback(lambda task: self._passed(peer, task))

    def _passed(self, peer: Peer, task: asyncio.Task[None]) -> None:
        del self._passes[peer]
        if not task.cancelled() and (error := task.exception()):
            _log.error("hints for %s could not be replayed", peer.name, exc_info=error)
            self._rests.rest(peer)

    def _is_there(self, peer: Peer) -> bool:
        return not (peer.down or peer.suspect)

    async def _pass(self, peer: Peer) -> None:
        """Go once through the hints for a node, for as long as it is there."""
        node = self._hints.node_of(peer)
        key = b""
        moved, stuck, there = False, False, True
        while there and (batch := await self._hints.after(node, key, _BATCH)):
            key = batch[-1].key
            came: dict[_Came, list[Hint]] = {what: [] for what in _Came}
            for first in range(0, len(batch), _IN_FLIGHT):
                there = there and await self._replay_some(peer, batch[first : first + _IN_FLIGHT], came)
            if came[_Came.DONE]:
                await self._hints.done(came[_Came.DONE])
            if came[_Came.MOOT]:
                await self._hints.moot(came[_Came.MOOT])
            moved = moved or bool(came[_Came.DONE] or came[_Came.MOOT])
            stuck = stuck or bool(came[_Came.LATER] or came[_Came.AWAY])
        if stuck and not moved:
            self._rests.rest(peer)
        else:
            self._rests.rest_shortly(peer)

    async def _replay_some(self, peer: Peer, hints: Sequence[Hint], came: dict[_Came, list[Hint]]) -> bool:
        """Replay a few hints side by side, and wait for as long as they may take. False when the node should be left
        alone."""
        began = self._coordinator.monotonic()
        results = await asyncio.gather(*(self._replay(peer, hint) for hint in hints))
        for hint, (what, _) in zip(hints, results, strict=True):
            came[what].append(hint)
        if came[_Came.AWAY] or not self._is_there(peer):
            return False
        due = began + len(hints) / self._rate + sum(size for _, size in results) / self._byte_rate
        await asyncio.sleep(max(due - self._coordinator.monotonic(), 0.0))
        return True

    async def _replay(self, peer: Peer, hint: Hint) -> tuple[_Came, int]:
        """Bring one record to a node; what came of it, and the bytes that were sent."""
        placed = self._coordinator.placed
        owners = self._coordinator.in_order(placed.owners(hint.key))
        if peer not in owners:
            return _Came.MOOT, 0
        others = [owner for owner in owners if owner is not peer]
        sources = [owner for owner in others if self._is_there(owner)]
        if not sources:
            return _Came.LATER, 0
        size = 0
        try:
            if not await self._holds(peer, hint):
                record, heard = await self._newest(sources, hint)
                if record is None:
                    # Where all have answered nobody has it: comparing them is all that is left to do.
                    return _Came.MOOT if heard == len(others) else _Came.LATER, 0
                size = record.size
                await ask(
                    self._coordinator,
                    peer,
                    lambda replica, call: replica.apply(hint.key, record, call),
                    ring=placed.number,
                )
        except _AWAY:
            return _Came.AWAY, size
        except SfssError:
            return _Came.LATER, size
        # Accepted, or held newer: either way the node is up to date, if it is the one that was meant.
        return _Came.DONE if self._hints.node_of(peer) == hint.node else _Came.LATER, size

    async def _holds(self, peer: Peer, hint: Hint) -> bool:
        try:
            held = await ask(self._coordinator, peer, lambda replica, call: replica.inspect(hint.key, call))
        except CorruptRecord:
            return False  # writing it once more is what mends it
        return held is not None and held.order() >= hint.order()

    async def _newest(self, sources: Sequence[Peer], hint: Hint) -> tuple[Record | None, int]:
        """The record, or a newer one, from the first owner that has it; and how many said what they have."""
        heard = 0
        for source in sources:
            try:
                record = await ask(self._coordinator, source, lambda replica, call: replica.read(hint.key, call))
            except SfssError:
                continue
            heard += 1
            if record is not None and record.order() >= hint.order():
                return record, heard
        return None, heard
