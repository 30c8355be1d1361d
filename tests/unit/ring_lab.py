"""A cluster whose ring is changed: nodes in memory that keep rings as real ones do, movers that are killed, and clients
that read and write by the rules of docs/decisions/ring-changes.rst, on virtual time and from one seed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

from sfss.errors import BadRequest, CorruptRecord, StaleRing, Unreachable, WrongCluster
from sfss.hash_tree import LEAF_DIGITS, Branch, Listed, hash_range, write_branches, write_listed, write_listing
from sfss.keys import hash_key
from sfss.pace import Pace
from sfss.ring_change.ending import Outcome
from sfss.ring_change.mover import Mover
from sfss.ring_change.node import Nodes
from sfss.ring_change.wish import Wish
from sfss.ring_keeper import HeldRing, KeptRing, Prepared, Voted
from sfss.ring_plan import Change
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.stamps import COUNT_BITS
from sfss.store import Applied, Identity, Record, checksum_of

PARTITIONS = 64
CLUSTER = "c" * 32


def quorum(nodes: int) -> tuple[int, int, int]:
    """3/2/2, or what is left of it over fewer nodes."""
    return min(3, nodes), min(2, nodes), min(2, nodes)


def id_of(name: str) -> str:
    return f"{hash_key(name.encode()):032x}"


def first_ring(names: Iterable[str], partitions: int = PARTITIONS) -> RingRecord:
    members = tuple(RingMember(id_of(name), name) for name in names)
    return RingRecord(1, partitions, (Placement(members, *quorum(len(members)), 1),))


def record_of(key: bytes, at: int, *, tombstone: bool = False) -> Record:
    """The version of a key that was written at second `at`."""
    value = b"" if tombstone else b"%b at %d" % (key, at)
    version = (1_700_000_000 + at) * 1000 << COUNT_BITS
    return Record(value, len(value), 0, 0, version, checksum_of(key, value, 0, 0, version, tombstone), tombstone)


class LabNode:
    """One node. `up` and `full` are switched by tests; `listings` counts what was listed."""

    def __init__(self, lab: RingLab, name: str) -> None:
        self.name = name
        self.id = id_of(name)
        self.records: dict[bytes, Record] = {}
        self.damaged: set[bytes] = set()
        self.kept = KeptRing()
        self.cluster = ""
        self.up = True
        self.suspect = False
        self.dropped: list[tuple[int, int]] = []
        self.removal_s = 0.0
        """How long what it drops when it leaves is still counted; it goes one by one."""

        self._going: dict[bytes, float] = {}
        self._lab = lab

    def found(self, ring: RingRecord) -> None:
        self.cluster = CLUSTER
        self.kept = KeptRing(HeldRing(1, ring.fingerprint))

    def identity(self) -> Identity:
        held = self.kept.held
        return Identity(self.id, self.cluster, held.number, held.fingerprint, state="suspect" if self.suspect else "ok")

    def check(self, number: int) -> None:
        if number != self.kept.held.number:
            raise StaleRing(self.kept.held.number)

    def put(self, key: bytes, record: Record) -> Applied:
        held = self.records.get(key)
        if held is None or held.order() <= record.order():
            self.records[key] = record
            self.damaged.discard(key)
            return Applied(True, record.version, record.checksum, True)
        return Applied(False, held.version, held.checksum, True)

    def hashes(self, prefix: bytes) -> bytes:
        first, end = hash_range(prefix)
        now = asyncio.get_running_loop().time()
        going = [key for key, until in self._going.items() if until > now]
        below = sorted((hash_key(key), key) for key in [*self.records, *going])
        below = [(key_hash, key) for key_hash, key in below if first <= key_hash < end]
        if len(prefix) < LEAF_DIGITS:
            digests = [[0, 0] for _ in range(16)]
            for key_hash, key in below:
                place = digests[key_hash >> 4 * (15 - len(prefix)) & 15]
                place[0] ^= self.listed(key).digest() if key in self.records else 1
                place[1] += 1
            return write_branches([Branch(digest, count) for digest, count in digests])
        lines = [write_listed(self.listed(key)) for _, key in below[: self._lab.listed_max]]
        return write_listing(lines, len(below) > self._lab.listed_max)

    def listed(self, key: bytes) -> Listed:
        record = self.records[key]
        damaged = key in self.damaged
        return Listed(key, record.version, record.checksum, record.tombstone, record.size, damaged)

    def read(self, key: bytes) -> Record | None:
        if key in self.damaged:
            raise CorruptRecord("it failed its checksum")
        return self.records.get(key)

    def drop(self, number: int, partition: int) -> None:
        ring = self.kept.settled(number)
        if self._lab.owns(ring, self.name, partition):
            raise BadRequest(f"partition {partition} is owned")
        self.dropped.append((number, partition))
        shift = 64 - (ring.partitions.bit_length() - 1)
        for key in [key for key in self.records if hash_key(key) >> shift == partition]:
            del self.records[key]

    def leave(self, number: int) -> None:
        ring = self.kept.settled(number)
        if self.name in {member.name for member in ring.members}:
            raise BadRequest("the node is a member")
        if self.removal_s:
            now = asyncio.get_running_loop().time()
            each_s = self.removal_s / max(1, len(self.records))
            self._going |= {key: now + number * each_s for number, key in enumerate(self.records, start=1)}
        self.records.clear()


class RingLab:
    """Nodes by name, the network to them, and who owns what. `calls` counts what movers have asked."""

    def __init__(
        self, seed: int, names: Iterable[str], *, spare: Iterable[str] = (), partitions: int = PARTITIONS
    ) -> None:
        self.rng = random.Random(seed)
        self.first = first_ring(names, partitions)
        self.nodes = {name: LabNode(self, name) for name in [*names, *spare]}
        self.listed_max = 4096
        self.calls = 0
        self.crash_at = 0
        """At which of them `victim` is killed. Each question is two: before it is carried out, and after."""

        self.victim: asyncio.Task[Outcome] | None = None
        self.decided: dict[int, RingRecord] = {1: self.first}
        self.said: list[str] = []
        self.applied = 0
        self._tables: dict[int, list[list[tuple[str, ...]]]] = {}
        for member in self.first.members:
            self.nodes[member.name].found(self.first)

    # what is there

    @property
    def ring(self) -> RingRecord:
        """The latest that any node has."""
        return self.decided[max(node.kept.held.number for node in self.nodes.values())]

    def owners(self, ring: RingRecord, partition: int) -> list[tuple[str, ...]]:
        """One tuple for each placement."""
        if ring.number not in self._tables:
            self._tables[ring.number] = [
                [
                    tuple(placement.members[index].name for index in owners)
                    for owners in placement.node_ring(ring.number, ring.partitions).table
                ]
                for placement in ring.placements
            ]
        return [table[partition] for table in self._tables[ring.number]]

    def owns(self, ring: RingRecord, name: str, partition: int) -> bool:
        return any(name in owners for owners in self.owners(ring, partition))

    def partition(self, key: bytes) -> int:
        return hash_key(key) >> 64 - (self.first.partitions.bit_length() - 1)

    def write(self, key: bytes, record: Record, on: int | None = None) -> None:
        """As a coordinator under the present ring would: on W owners of each placement, or on `on` of them."""
        ring = self.ring
        for placement, owners in zip(ring.placements, self.owners(ring, self.partition(key)), strict=True):
            for owner in self.rng.sample(owners, placement.w if on is None else on):
                self.nodes[owner].put(key, record)

    def holders(self, key: bytes, record: Record) -> set[str]:
        return {name for name, node in self.nodes.items() if node.records.get(key) == record}

    def check_acknowledged(self, expected: dict[bytes, Record]) -> None:
        """Each key's record is on W owners of every placement that is counted on, however far the change is."""
        ring = self.ring
        placement = ring.placements[0]  # of a joint ring: the old owners have everything until the new one is decided
        for key, record in expected.items():
            owners = self.owners(ring, self.partition(key))[0]
            holding = [
                owner
                for owner in owners
                if key in self.nodes[owner].records and self.nodes[owner].records[key].order() >= record.order()
            ]
            assert len(holding) >= placement.w, f"{key!r} is on {holding} of {owners} under ring {ring.number}"

    def check_all(self, expected: dict[bytes, Record]) -> None:
        """Each key's record is on all of its owners and on nobody else."""
        for key, record in expected.items():
            [owners] = self.owners(self.ring, self.partition(key))
            assert self.holders(key, record) == set(owners), key

    # movers

    def nodes_for(self) -> Nodes:
        loop = asyncio.get_running_loop()
        return Nodes(lambda name: LabLink(self, name), loop.time)

    def mover(self, names: Iterable[str] | None = None, pace: Pace | None = None) -> Mover:
        async def first(_: dict[str, Identity]) -> RingRecord:
            return self.first

        return Mover(
            self.nodes_for(),
            list(names or [member.name for member in self.first.members]),
            first,
            say=self.said.append,
            pace=pace,
            rng=self.rng,
            monotonic=asyncio.get_running_loop().time,
        )

    async def apply(self, change: Change | None) -> Outcome:
        wish = None if change is None else Wish(change, quorum)
        return await self.mover().apply(wish)

    async def apply_until_done(self, change: Change, crash_at: int) -> Outcome:
        """Mover after mover, the first of which is killed."""
        self.calls, self.crash_at = 0, crash_at
        self.victim = asyncio.ensure_future(self.apply(change))
        await asyncio.wait([self.victim])
        if not self.victim.cancelled():
            return self.victim.result()
        return await self.apply(change if self.ring.number == 1 else None)

    async def step(self) -> None:
        """One step of a question on its way."""
        await asyncio.sleep(self.rng.expovariate(1 / 0.002))
        self.calls += 1
        if self.calls == self.crash_at and self.victim is not None:
            self.victim.cancel()
            await asyncio.sleep(3600)


class LabLink:
    """Implements `sfss.ring_change.node.RingNode`."""

    def __init__(self, lab: RingLab, name: str) -> None:
        self._lab = lab
        self._name = name
        self._expected: tuple[str, str] | None = None

    def expect(self, node: str, cluster: str) -> None:
        self._expected = node, cluster

    async def close(self) -> None:
        pass

    async def _ask(self, question: Callable[[LabNode], Any]) -> Any:
        await self._lab.step()
        node = self._lab.nodes.get(self._name)
        if node is None or not node.up:
            raise Unreachable("Connection refused")
        if self._expected is not None and self._expected != (node.id, node.cluster):
            raise WrongCluster(f"at {self._name} is another node")
        answer = question(node)
        await self._lab.step()
        return answer

    async def identify(self) -> Identity:
        return await self._ask(lambda node: node.identity())

    async def bind(self, cluster: str, fingerprint: str) -> Identity:
        def bind(node: LabNode) -> Identity:
            if not node.cluster:
                node.cluster = cluster
                node.kept = KeptRing(HeldRing(1, fingerprint))
            return node.identity()

        return await self._ask(bind)

    async def ring(self) -> HeldRing:
        return await self._ask(lambda node: node.kept.held)

    async def prepare(self, number: int, ballot: int) -> Prepared:
        def prepare(node: LabNode) -> Prepared:
            node.kept, answer = node.kept.prepare(number, ballot)
            return answer

        return await self._ask(prepare)

    async def accept(self, ballot: int, record: RingRecord) -> Voted:
        def accept(node: LabNode) -> Voted:
            node.kept, answer = node.kept.accept(ballot, record)
            return answer

        return await self._ask(accept)

    async def learn(self, record: RingRecord) -> HeldRing:
        known = self._lab.decided.setdefault(record.number, record)
        assert known == record, f"two rings have the number {record.number}"

        def learn(node: LabNode) -> HeldRing:
            node.kept, held = node.kept.learn(record)
            return held

        return await self._ask(learn)

    async def left(self, number: int) -> None:
        await self._ask(lambda node: node.leave(number))

    async def drop(self, number: int, partition: int) -> None:
        await self._ask(lambda node: node.drop(number, partition))

    async def hashes(self, prefix: bytes) -> bytes:
        return await self._ask(lambda node: node.hashes(prefix))

    async def read(self, key: bytes, number: int) -> Record | None:
        def read(node: LabNode) -> Record | None:
            node.check(number)
            return node.read(key)

        return await self._ask(read)

    async def apply(self, key: bytes, record: Record, number: int) -> Applied:
        def apply(node: LabNode) -> Applied:
            node.check(number)
            self._lab.applied += 1
            return node.put(key, record)

        return await self._ask(apply)
