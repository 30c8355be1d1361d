"""The read quorum: the newest record of a key, answered once so many replicas are known to hold it that no later read
can return an older one.

The bytes come from one replica, version and checksum from others. Where all agree, that is all. Where they don't, the
newest counts: it is fetched where only its version is known, and written back to the replicas that lack it, whole:
value, flags, expiry and version, tombstones too. A newer version that shows up after the quorum has answered belongs
to a write that is still under way and needn't be returned, but a replica that holds it holds enough. The argument:
docs/replication.rst.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from proxy.gathering import Gathering
from proxy.peer import Peer
from proxy.quorum import Quorum
from sfss.errors import CorruptRecord, Expired, QuorumUnavailable
from sfss.store import Applied, Call, Record

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator


class Survey(Gathering):
    """The newest version that enough replicas to meet every write quorum know of. Nothing is promised about later
    reads: it is for a write that must be stamped above all that went before."""

    __slots__ = ()

    def __init__(self, coordinator: Coordinator, key: bytes, call: Call) -> None:
        super().__init__(coordinator, key, call, coordinator.quorum.w)

    def _wants_value(self) -> bool:
        return False

    def _gathered(self) -> bool:
        self._finish(self._best)
        return False


class Read(Gathering):
    """The newest live record, or None. `whole` is whether the value is wanted."""

    __slots__ = ("_decided", "_floor", "_quorum", "_repaired", "_target", "_waits_for_write", "_wanted")

    def __init__(self, coordinator: Coordinator, key: bytes, call: Call, quorum: Quorum, whole: bool) -> None:
        super().__init__(coordinator, key, call, quorum.answers)
        self._quorum = quorum
        self._wanted = whole
        self._decided = False
        self._floor = (0, 0)
        """Once decided: what must be returned at least, the newest that the quorum knew of."""
        self._target: Record | None = None
        """What will be returned once enough hold it."""
        self._repaired: set[Peer] = set()
        self._waits_for_write = False

    def _wants_value(self) -> bool:
        return self._wanted

    def _gathered(self) -> bool:
        quorum = self._quorum
        best = self._best
        if not self._decided:
            absent = best is None or not best.live(self._coordinator.now())
            if absent and len(self._answers) < quorum.answers_for_absence:
                self._needed = quorum.answers_for_absence
                return True
            if best is None:
                self._finish(None)
                return False
            self._decided = True
            self._floor = (best.version, best.checksum)
        target = self._target or self._complete_record()
        if target is None:
            if self._wanted or best is None or self._held_by(best) < quorum.holders:
                return self._fetch()
            target = best
        elif self._held_by(target) < quorum.holders:
            return self._write_back(target)
        self._answer(target)
        return False

    def _answer(self, target: Record) -> None:
        if not target.live(self._coordinator.now()):
            self._finish(None)
        elif self._wanted or not target.value:
            self._finish(target)
        else:
            self._finish(target._replace(value=b""))

    def _complete_record(self) -> Record | None:
        """Fix what will be returned and written back: a record that is complete, and not older than any seen."""
        whole = self._whole
        if whole is not None and (whole.version, whole.checksum) >= self._floor:
            self._target = whole
        return self._target

    def _held_by(self, target: Record) -> int:
        """How many replicas are known to hold the record or a newer one."""
        version, checksum = target.version, target.checksum
        count = 0
        for held in self._answers.values():
            if held is not None and (held.version > version or (held.version == version and held.checksum >= checksum)):
                count += 1
        return count

    # where only the version of the newest is known, or it must be written back

    def _fetch(self) -> bool:
        """Ask for the whole record, from a replica that holds it or else from one that may."""
        if any(self._pending.values()):
            return False
        for peer, held in self._answers.items():
            if held is not None and held.order() >= self._floor and peer not in self._pending:
                self._renew_call(self._coordinator.monotonic())
                return self._ask(peer, True)
        if self._unasked < len(self._owners):
            return self._ask_next(True)
        if not self._pending:
            self._finish(None, self._out_of_reach())
        return False

    # where too few are known to hold it

    def _write_back(self, target: Record) -> bool:
        """Bring the record to the replicas that lack it, and ask those not heard yet. True if one answered at once."""
        if self._waits_for_write or self._wait_for_own_write(target):
            return False
        moved = False
        self._renew_call(self._coordinator.monotonic())
        for peer, held in list(self._answers.items()):
            if peer not in self._repaired and (held is None or held.order() < target.order()):
                moved |= self._repair(peer, target)
        for peer, error in list(self._errors.items()):
            if peer not in self._repaired and isinstance(error, CorruptRecord):
                moved |= self._repair(peer, target)
        while self._unasked < len(self._owners):
            moved |= self._ask_next(False)
        if not (moved or self._pending):
            self._finish(None, self._out_of_reach())
        return moved

    def _wait_for_own_write(self, target: Record) -> bool:
        """Where this coordinator is itself writing the record or a newer one, that write brings it to enough replicas;
        on a key that is written all the time, each read would otherwise write every value once more."""
        write = self._coordinator.write_under_way(self._key)
        if write is None or write.order() < target.order():
            return False
        self._waits_for_write = True
        write.when_settled(partial(self._write_settled, target))
        return True

    def _write_settled(self, target: Record, stored: bool) -> None:
        self._waits_for_write = False
        if self._finished:
            return
        if stored:
            self._answer(target)
        else:
            self._advance()

    def _repair(self, peer: Peer, target: Record) -> bool:
        """Write the record to one replica. True if it answered at once."""
        self._repaired.add(peer)
        self._coordinator.counters.write_backs += 1
        try:
            reply = peer.replica.apply(self._key, target, self._call)
        except Exception as error:
            self._fail(peer, error)
            return True
        if isinstance(reply, asyncio.Future):
            self._pending[peer] = False
            reply.add_done_callback(partial(self._repair_replied, peer, target))
            return False
        self._note_repair(peer, target, reply)
        return True

    def _repair_replied(self, peer: Peer, target: Record, reply: asyncio.Future[Applied]) -> None:
        self._pending.pop(peer, None)
        if reply.cancelled():
            self._fail(peer, Expired("cancelled"))
        elif error := reply.exception():
            self._fail(peer, error if isinstance(error, Exception) else Expired(str(error)))
        else:
            self._note_repair(peer, target, reply.result())
        if not self._finished:
            self._advance()

    def _note_repair(self, peer: Peer, target: Record, applied: Applied) -> None:
        if peer.silences or peer.down:
            self._coordinator.health.answered(peer)
        if peer.suspect:
            return
        if applied.accepted:
            self._answers[peer] = target
        else:
            self._answers[peer] = Record(b"", 0, version=applied.version, checksum=applied.checksum)

    def _out_of_reach(self) -> QuorumUnavailable:
        holders = 0 if self._best is None else self._held_by(self._best)
        return QuorumUnavailable(
            f"the newest version is known on {holders} of {len(self._owners)} replicas, "
            f"{self._quorum.holders} needed: {self._reasons()}"
        )
