"""The read quorum: the newest record of a key, answered once so many replicas are known to hold it that no later read
can return an older one.

The bytes come from one replica, version and checksum from others. Where all agree, that is all. Where they don't, the
newest counts: it is fetched where only its version is known, and written back to the replicas that lack it, whole:
value, flags, expiry and version, tombstones too. A replica that turns out to hold something newer still makes that the
newest. What is returned is held by W replicas as it is, not merely overtaken there: only that proves that its stamp
is above all that was acknowledged before it was written. The argument: docs/replication.rst.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from proxy.gathering import Gathering
from proxy.peer import Peer
from proxy.placed_ring import FOR_ABSENCE, FOR_HIT, FOR_STAMP
from sfss.errors import CorruptRecord, Expired, QuorumUnavailable
from sfss.promise import Promise
from sfss.store import Applied, Call, Record

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator
    from proxy.writing import Write


class Survey(Gathering):
    """The newest version that enough replicas to meet every write quorum know of. Nothing is promised about later
    reads: it is for a write that must be stamped above all that went before."""

    __slots__ = ()

    def __init__(self, coordinator: Coordinator, key: bytes, call: Call) -> None:
        super().__init__(coordinator, key, call, coordinator.owners(key), FOR_STAMP)

    def _again(self, call: Call) -> Survey:
        return Survey(self._coordinator, self._key, call)

    def _wants_value(self) -> bool:
        return False

    def _gathered(self) -> bool:
        self._finish(self._best)
        return False


class Read(Gathering):
    """The newest live record, or None. `whole` is whether the value is wanted; `strictly`: also where R = 1."""

    __slots__ = ("_decided", "_floor", "_newest", "_repaired", "_strictly", "_waits_for_write", "_wanted")

    def __init__(self, coordinator: Coordinator, key: bytes, call: Call, whole: bool, strictly: bool = False) -> None:
        owners = coordinator.owners(key)
        super().__init__(coordinator, key, call, owners.strictly if strictly else owners, FOR_HIT)
        self._wanted = whole
        self._strictly = strictly
        self._decided = False
        self._floor = (0, 0)
        """Once decided: what must be returned at least, the newest that the quorum knew of."""
        self._newest = (0, 0)
        """The newest that any replica was seen to hold; of one that refused a write-back no more is known."""
        self._repaired: dict[Peer, tuple[int, int]] = {}
        """What was last written back to whom."""
        self._waits_for_write = False

    def _again(self, call: Call) -> Read:
        return Read(self._coordinator, self._key, call, self._wanted, self._strictly)

    def _wants_value(self) -> bool:
        return self._wanted

    def _gathered(self) -> bool:
        owners = self._owners
        best = self._best
        if not self._decided:
            absent = best is None or not self._coordinator.shows(best)
            if absent and self._purpose != FOR_ABSENCE:
                self._purpose = FOR_ABSENCE
                self._needed = owners.needed[FOR_ABSENCE]
                return True
            if best is None:
                self._finish(None)
                return False
            self._decided = True
            self._floor = self._newest = (best.version, best.checksum)
        elif best is not None:
            self._newest = max(self._newest, best.order())
        whole = self._whole
        if whole is not None and self._suffices(whole):
            self._answer(whole)
            return False
        if not self._wanted and best is not None and self._suffices(best):
            self._answer(best)
            return False
        if self._waits_for_write or self._wait_for_own_write():
            return False
        if whole is None or whole.order() < self._newest:
            return self._fetch()
        return self._write_back(whole)

    def _suffices(self, record: Record) -> bool:
        """Whether it may be returned: no older than what the quorum knew of, and held by enough."""
        version, checksum = self._floor
        if record.version < version or (record.version == version and record.checksum < checksum):
            return False
        return self._is_held(record)

    def _answer(self, record: Record) -> None:
        if not self._coordinator.shows(record):
            self._finish(None)
        elif self._wanted or not record.value:
            self._finish(record)
        else:
            self._finish(record.replaced(value=b""))

    def _is_held(self, record: Record) -> bool:
        """Whether enough replicas are known to hold this very record."""
        owners = self._owners
        if owners.joint is not None:
            for side in owners.joint:
                answers = [self._answers.get(peer) for peer in side.peers]
                if sum(held is not None and held.order() == record.order() for held in answers) < side.holders:
                    return False
            return True
        version, checksum = record.version, record.checksum
        count = 0
        for held in self._answers.values():
            if held is not None and held.version == version and held.checksum == checksum:
                count += 1
        return count >= owners.holders

    # where only the version of the newest is known

    def _fetch(self) -> bool:
        """Ask for the whole record, from a replica that holds it or else from one that may; one that fell silent over
        it comes last."""
        if self._fetching is not None:
            return False
        self._renew_call(self._coordinator.monotonic())
        holders = [
            peer
            for peer, held in self._answers.items()
            if held is not None and held.order() >= self._newest and peer not in self._pending
        ]
        for peer in holders:
            if peer not in self._errors:
                return self._ask(peer, True)
        if self._unasked < len(self._peers):
            return self._ask_next(True)
        if holders:
            return self._ask(holders[0], True)
        if not self._pending:
            self._finish(None, self._out_of_reach())
        return False

    # where too few are known to hold it

    def _write_back(self, target: Record) -> bool:
        """Bring the record to the replicas that lack it, and ask those not heard yet. True if one answered at once."""
        order = target.order()
        moved = False
        self._renew_call(self._coordinator.monotonic())
        for peer in self._peers:
            if self._repaired.get(peer) != order and peer not in self._pending and self._lacks(peer, order):
                self._repaired[peer] = order
                moved |= self._repair(peer, target)
        while self._unasked < len(self._peers):
            moved |= self._ask_next(False)
        if not (moved or self._pending):
            self._finish(None, self._out_of_reach())
        return moved

    def _lacks(self, peer: Peer, order: tuple[int, int]) -> bool:
        """Whether a replica is known to hold something older, nothing, or a corrupt record."""
        if peer not in self._answers:
            return isinstance(self._errors.get(peer), CorruptRecord)
        held = self._answers[peer]
        return held is None or held.order() < order

    def _wait_for_own_write(self) -> bool:
        """Where this coordinator is itself writing the newest or a newer one, that write brings it to enough replicas;
        on a key that is written all the time, each read would otherwise write every value once more."""
        write = self._coordinator.write_under_way(self._key)
        if write is None or write.order() < self._newest:
            return False
        self._waits_for_write = True
        write.when_settled(self._write_settled)
        return True

    def _write_settled(self, write: Write) -> None:
        self._waits_for_write = False
        if self._finished or self._left:
            return
        record = write.proven_record()
        if record is not None:
            self._answer(record)
        else:
            self._advance()

    def _repair(self, peer: Peer, target: Record) -> bool:
        """Write the record to one replica. True if it answered at once."""
        self._coordinator.counters.write_backs += 1
        try:
            reply = peer.replica.apply(self._key, target, self._call)
        except Exception as error:
            self._fail(peer, error)
            return True
        if isinstance(reply, Promise):
            self._pending[peer] = reply
            reply.add_done_callback(partial(self._repair_replied, peer, target))
            return False
        self._note_repair(peer, target, reply)
        return True

    def _repair_replied(self, peer: Peer, target: Record, reply: Promise[Applied]) -> None:
        self._heard(peer, reply)
        if reply.cancelled():
            self._fail(peer, Expired("cancelled"))
        elif error := reply.exception():
            self._fail(peer, error if isinstance(error, Exception) else Expired(str(error)))
        else:
            self._note_repair(peer, target, reply.result())
        if not self._finished:
            self._advance()

    def _taught(self, peer: Peer, taught: Promise[None]) -> None:
        self._repaired.pop(peer, None)
        super()._taught(peer, taught)

    def _note_repair(self, peer: Peer, target: Record, applied: Applied) -> None:
        if peer.silences or peer.down or peer.suspect:
            self._coordinator.health.answered(peer, self._started)
        if peer.suspect:
            return
        self._errors.pop(peer, None)
        if applied.accepted:
            self._answers[peer] = target
        else:
            held = Record(b"", 0, version=applied.version, checksum=applied.checksum)
            self._answers[peer] = held
            self._newest = max(self._newest, held.order())

    def _out_of_reach(self) -> QuorumUnavailable:
        holders = sum(held is not None and held.order() >= self._newest for held in self._answers.values())
        return QuorumUnavailable(
            f"the newest version is known on {holders} of {len(self._peers)} replicas, "
            f"{self._owners.holders} needed: {self._reasons()}"
        )
