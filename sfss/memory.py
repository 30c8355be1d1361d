"""A whole node in a dict: the Store, Replica, RingKeeper, Purgeable, Updater and Flushable of the tests, and the floor
of the wire's speed.

It keeps the promises of the contract except for durability: nothing outlives the process. Versions come from a
`StampClock`; time is injected. Every answer is at hand, so no call returns a future.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from sfss.errors import BadRequest, StaleRing, WrongCluster
from sfss.keys import hash_key
from sfss.ring import HASH_BITS
from sfss.ring_keeper import HeldRing, KeptRing, Prepared, Voted, check_not_owned
from sfss.ring_record import RingRecord
from sfss.stamps import StampClock, purge_stamp, stamp_at, stamp_time, too_far_ahead
from sfss.store import NO_CALL, Applied, Call, Change, Identity, Purged, Record, Written, checksum_of

_NEVER_PURGED = Purged()


class MemoryStore:
    """Records by key, tombstones and expired ones included.

    `now` is Unix seconds. `durable` is what the answers say about being on disk; tests of upper tiers set it, so that
    their counts come out as over real nodes. `node` names it, as a data directory names a node.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.time,
        *,
        stamps: StampClock | None = None,
        node: str = "memory",
        durable: bool = False,
    ) -> None:
        self._now = now
        self._stamps = stamps or StampClock(now)
        self._durable = int(durable)
        self._identity = Identity(node=node)
        self._kept = KeptRing()
        self._owned: tuple[int, bytes] = (0, b"")
        self._total_items = 0
        self._purged: dict[int, Purged] = {}
        self.records: dict[bytes, Record] = {}

    # Store

    def get(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        record = self.records.get(key)
        if record is not None and record.live(self._now()):
            return record
        return None

    def head(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        record = self.get(key)
        return record and record.replaced(value=b"")

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Written:
        return self._write(key, value, flags, expires, tombstone=False)

    def delete(self, key: bytes, call: Call = NO_CALL) -> Written | None:
        if self.get(key) is None:
            return None
        return self._write(key, b"", 0, 0, tombstone=True)

    def stats(self, topic: str = "", call: Call = NO_CALL) -> dict[str, str]:
        if topic:
            raise BadRequest(f"no stats on {topic!r} here")
        now = self._now()
        live = sum(record.live(now) for record in self.records.values())
        return {"curr_items": str(live), "total_items": str(self._total_items)}

    # Replica

    def read(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        self._check_ring(call)
        return self.records.get(key)

    def inspect(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        record = self.read(key, call)
        return record and record.replaced(value=b"")

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Applied:
        self._check_ring(call)
        checksum = checksum_of(key, record.value, record.flags, record.expires, record.version, record.tombstone)
        if checksum != record.checksum:
            raise BadRequest(f"checksum {record.checksum:016x} sent, {checksum:016x} computed")
        if too_far_ahead(record.version, self._now()):
            raise BadRequest(f"version {record.version} is too far ahead of the node's clock")
        held = self.records.get(key)
        if held is None or held.order() < record.order():
            ring, fence, bound, _ = self._purged.get(_region(key), _NEVER_PURGED)
            if held is None and purge_stamp(record.tombstone, record.expires, record.version) < bound:
                return Applied(True, record.version, record.checksum, bool(self._durable))
            if record.version < fence and ring == self._identity.ring:
                raise BadRequest(f"version {record.version} is older than what is stored here any more")
        self._stamps.observe(record.version)
        if held is not None and held.order() > record.order():
            return Applied(False, held.version, held.checksum, bool(self._durable))
        if held is None or held.order() < record.order():
            self.records[key] = record
            self._total_items += not record.tombstone
        return Applied(True, record.version, record.checksum, bool(self._durable))

    def identify(self) -> Identity:
        return self._identity

    def bind(self, cluster: str, ring: int, fingerprint: str) -> Identity:
        if not self._identity.cluster:
            if self.records:
                raise WrongCluster("the node holds files and belongs to no cluster")
            if cluster == "new":
                cluster = uuid.uuid4().hex
            self._identity = replace(self._identity, cluster=cluster)
            self._keep(KeptRing(HeldRing(ring, fingerprint)))
        return self._identity

    def _check_ring(self, call: Call) -> None:
        if call.ring and call.ring != self._identity.ring:
            raise StaleRing(self._identity.ring)

    # RingKeeper

    def tell_ring(self, call: Call = NO_CALL) -> HeldRing:
        return self._kept.held

    def prepare_ring(self, number: int, ballot: int, call: Call = NO_CALL) -> Prepared:
        kept, answer = self._kept.prepare(number, ballot)
        self._keep(kept)
        return answer

    def accept_ring(self, ballot: int, record: RingRecord, call: Call = NO_CALL) -> Voted:
        kept, answer = self._kept.accept(ballot, record)
        self._keep(kept)
        return answer

    def learn_ring(self, record: RingRecord, call: Call = NO_CALL) -> HeldRing:
        kept, answer = self._kept.learn(record)
        self._keep(kept)
        return answer

    def leave_ring(self, number: int, call: Call = NO_CALL) -> Identity:
        self._kept.check_left(number, self._identity.node)
        self.records.clear()
        return self._identity

    def drop_partition(self, ring: int, partition: int, call: Call = NO_CALL) -> int:
        record = self._kept.settled(ring)
        if self._owned[0] != ring:
            self._owned = (ring, record.owned_by(self._identity.node))
        check_not_owned(self._owned[1], partition)
        shift = HASH_BITS - (record.partitions.bit_length() - 1)
        gone = [key for key in self.records if hash_key(key) >> shift == partition]
        for key in gone:
            del self.records[key]
        return len(gone)

    def _keep(self, kept: KeptRing) -> None:
        self._kept = kept
        self._identity = replace(self._identity, ring=kept.held.number, fingerprint=kept.held.fingerprint)

    # Purgeable

    def purged(self, region: int) -> Purged:
        told = self._purged.get(region, _NEVER_PURGED)
        fence = told.fence if told.ring == self._identity.ring else 0
        return told._replace(fence=fence, now=stamp_at(self._now()))

    def purge(self, region: int, ring: int, fence: int, bound: int) -> Purged:
        if ring != self._identity.ring:
            raise StaleRing(self._identity.ring)
        if bound > fence > 0 or stamp_time(fence) > self._now():
            raise BadRequest("a region is purged up to its fence at most, and that is no time to come")
        told = self.purged(region)
        fence = max(fence, told.fence) if fence else 0
        self._purged[region] = told = Purged(ring, fence, max(bound, told.bound))
        for key, record in list(self.records.items()):
            stamp = purge_stamp(record.tombstone, record.expires, record.version)
            if _region(key) == region and stamp < told.bound:
                del self.records[key]
        return self.purged(region)

    # Updater

    def update(
        self, key: bytes, change: Callable[[Record | None], Change], call: Call = NO_CALL
    ) -> tuple[Change, Record | None, Written]:
        seen = self.get(key)
        decision = change(seen)
        if decision.keep or (decision.delete and seen is None):
            written = Written(seen.version, seen.checksum, self._durable, 1) if seen else Written()
        elif decision.delete:
            written = self._write(key, b"", 0, 0, tombstone=True)
        else:
            written = self._write(key, decision.value, decision.flags, decision.expires, tombstone=False)
        return decision, seen, written

    # Flushable

    def flush(self) -> None:
        for key in list(self.records):
            self.delete(key)

    def _write(self, key: bytes, value: bytes, flags: int, expires: int, tombstone: bool) -> Written:
        held = self.records.get(key)
        version = self._stamps.next(held.version if held else 0)
        checksum = checksum_of(key, value, flags, expires, version, tombstone)
        self.records[key] = Record(value, len(value), flags, expires, version, checksum, tombstone)
        self._total_items += not tombstone
        return Written(version, checksum, self._durable, 1)


def _region(key: bytes) -> int:
    return hash_key(key) >> (HASH_BITS - 8)
