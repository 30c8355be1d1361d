"""What a node keeps of its cluster's ring, and how it takes part in deciding the next one. Pure: no disk, no network.

Each number's ring is decided once, by single-decree Paxos among the members of the last settled ring
(docs/decisions/ring-changes.rst). A node has a ring, and for the number after that one a promise and an acceptance;
what it learns as decided clears both. So one at a time is enough: whoever proposes for a later number knows a ring
that this node lacks, and teaches it that first.

A state is never changed: each step gives the state that is to be on disk before the answer goes out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, runtime_checkable

from sfss.errors import BadRequest, Recovering, StaleRing, WrongCluster
from sfss.ring_record import RingRecord
from sfss.store import NO_CALL, Call, Identity, Reply

BALLOT_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class HeldRing:
    """A node's present ring. `record` is None for the ring that the cluster was founded with; `number` is 0 and
    `fingerprint` empty where the node belongs to no cluster."""

    number: int
    fingerprint: str
    record: RingRecord | None = None

    @classmethod
    def of(cls, record: RingRecord) -> HeldRing:
        """A ring that was decided."""
        return cls(record.number, record.fingerprint, record)


@dataclass(frozen=True, slots=True)
class Promised:
    """No smaller ballot is accepted any more. `accepted` is what was accepted before, under `ballot`, if anything."""

    ballot: int = 0
    accepted: RingRecord | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The node accepted what was proposed."""


@dataclass(frozen=True, slots=True)
class Nack:
    """The node has promised `ballot`, and the one that it was asked with isn't above that (or is below, to accept)."""

    ballot: int


Prepared: TypeAlias = Promised | Nack | HeldRing
Voted: TypeAlias = Accepted | Nack | HeldRing
"""Answers to `prepare` and to `accept`. A ring tells that this number was decided already."""


@runtime_checkable
class RingKeeper(Protocol):
    """A replica that keeps the ring of its cluster, takes part in deciding the next one, and can let go of what it no
    longer owns. What is answered is on disk."""

    def tell_ring(self, call: Call = NO_CALL) -> Reply[HeldRing]:
        """The present ring."""

    def prepare_ring(self, number: int, ballot: int, call: Call = NO_CALL) -> Reply[Prepared]:
        """Promise to accept no smaller ballot for the ring of this number. A ballot is promised once: asked again with
        the same one the answer is `Nack`, so two that happen to choose the same ballot aren't taken for one. Raises
        `StaleRing` where the node lacks the ring before."""

    def accept_ring(self, ballot: int, record: RingRecord, call: Call = NO_CALL) -> Reply[Voted]:
        """Accept a ring for its number, unless a larger ballot was promised. Raises `StaleRing` as above, `BadRequest`
        for a ring that can't follow on the node's."""

    def learn_ring(self, record: RingRecord, call: Call = NO_CALL) -> Reply[HeldRing]:
        """Take over a ring that was decided, if its number is above the present one's; the ring that it has then."""

    def leave_ring(self, number: int, call: Call = NO_CALL) -> Reply[Identity]:
        """Drop all records: the node is in no placement of its ring, which has this number. Raises `StaleRing` for
        another number, `BadRequest` where it is a member."""

    def drop_partition(self, ring: int, partition: int, call: Call = NO_CALL) -> Reply[int]:
        """Drop all records of a partition that the node doesn't own in its ring, which is settled and has this number.
        How many went. They don't come back, whatever crashes. Raises `StaleRing`, `BadRequest`."""


@dataclass(frozen=True, slots=True)
class KeptRing:
    """All that a node keeps about rings: the present one, and what it said about the next."""

    held: HeldRing = field(default_factory=lambda: HeldRing(0, ""))
    promised: int = 0
    ballot: int = 0
    accepted: RingRecord | None = None
    forgot: int = 0
    """What it said about rings up to this number may be forgotten, so it says nothing about them."""

    def prepare(self, number: int, ballot: int) -> tuple[KeptRing, Prepared]:
        """The state and the answer that follow. See `RingKeeper`."""
        if self._is_decided(number):
            return self, self.held
        if ballot <= self.promised:
            return self, Nack(self.promised)
        return replace(self, promised=ballot), Promised(self.ballot, self.accepted)

    def accept(self, ballot: int, record: RingRecord) -> tuple[KeptRing, Voted]:
        """The state and the answer that follow. See `RingKeeper`."""
        if self._is_decided(record.number):
            return self, self.held
        if ballot < self.promised:
            return self, Nack(self.promised)
        if self.accepted is not None and ballot == self.ballot and record != self.accepted:
            raise BadRequest(f"another ring was accepted under ballot {ballot}")
        present = self.held.record
        if not (record.joint if present is None else record.may_follow(present)):
            raise BadRequest(f"ring {record.number} can't follow on the ring {self.held.number} that the node has")
        return replace(self, promised=ballot, ballot=ballot, accepted=record), Accepted()

    def learn(self, record: RingRecord) -> tuple[KeptRing, HeldRing]:
        """The state and the answer that follow. Raises `WrongCluster` for another ring of the number that it has, or
        for another number of partitions."""
        self._check_cluster()
        held = self.held
        if record.number == held.number and record.fingerprint != held.fingerprint and held.record is not None:
            raise WrongCluster(f"ring {held.number} is {held.fingerprint} here, not {record.fingerprint}")
        if held.record is not None and record.partitions != held.record.partitions:
            raise WrongCluster(f"the cluster has {held.record.partitions} partitions, not {record.partitions}")
        if record.number == held.number and record.fingerprint == held.fingerprint and held.record is None:
            # It took the place of a lost node, and was told no more than the fingerprint.
            return replace(self, held=HeldRing.of(record)), HeldRing.of(record)
        if record.number <= held.number:
            return self, held
        learnt = HeldRing.of(record)
        return KeptRing(learnt, forgot=self.forgot), learnt

    def without_say(self) -> KeptRing:
        """The state of a node that took the place of one that was lost, or whose directory is an older copy: what it
        said about the ring after the one that it has may be forgotten, and another might be promised now."""
        return KeptRing(self.held, forgot=self.held.number + 1)

    def settled(self, number: int) -> RingRecord:
        """The present ring, if it has this number and nodes may let go of what they don't own in it. Raises `StaleRing`
        or `BadRequest`."""
        self._check_cluster()
        record = self.held.record
        if self.held.number != number:
            raise StaleRing(self.held.number)
        if record is None:
            raise BadRequest("the cluster has the ring that it was founded with, so nobody has to let anything go")
        if record.joint:
            raise BadRequest(f"ring {number} is joint: until it is settled, both placements count on their copies")
        return record

    def check_left(self, number: int, node: str) -> None:
        """Refuse a node of the ring, besides what `settled` refuses, as one that has left it."""
        if any(member.node == node for member in self.settled(number).members):
            raise BadRequest(f"the node is a member of ring {number}")

    def _is_decided(self, number: int) -> bool:
        """Whether the ring of this number is known here."""
        self._check_cluster()
        if number > self.held.number + 1:
            raise StaleRing(self.held.number)
        if self.held.number < number <= self.forgot:
            raise Recovering(f"the node may have forgotten what it said about ring {number}")
        return number <= self.held.number

    def _check_cluster(self) -> None:
        if not self.held.number:
            raise WrongCluster("the node belongs to no cluster")


def check_not_owned(owned: bytes, partition: int) -> None:
    """Refuse a partition that a node can't drop. `owned` is that of `RingRecord.owned_by`. Raises `BadRequest`."""
    if partition >= len(owned):
        raise BadRequest(f"there is no partition {partition}: they are {len(owned)}")
    if owned[partition]:
        raise BadRequest(f"the node owns partition {partition}")
