"""Comparing the replicas of one part of the hash space, and bringing each up to the newest of them.

The owners' hash trees are asked for from the top down, and on only where they differ; below the leaves records are
listed by version and checksum. What one owner holds newer than another is read from it, whole, and given to the other
as a read's write-back is: stored only if newer. So a comparison that runs beside clients, hints and other comparisons
does what any of these would have done, sooner. What was stamped in the last seconds is left alone, since it may be on
its way.

Ownership is by partition, which may be smaller or larger than a place of the tree. A place is compared by its digest
where all of it has the same owners; where it hasn't, only equal digests of all of them say something, and else one
looks deeper. In records only the owners of each key are compared, and nothing is copied from anybody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from proxy.asking import ask
from proxy.peer import NodeAccess, Peer
from proxy.placed_ring import Owners
from proxy.purging import RegionPurge, deleted_again
from sfss.errors import CorruptRecord, SfssError, Unsupported
from sfss.hash_tree import LEAF_DIGITS, PREFIX_DIGITS_MAX, Branch, Listed, hash_range, read_branches, read_listing
from sfss.stamps import stamp_time
from sfss.store import Call, Comparable, Record, Reply

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator

T = TypeVar("T")

_SIDE_BY_SIDE = 4
"""Leaves that are looked at together; each holds one file in memory at most."""

_LARGE_BYTES = 16 * 1024
"""A longer listing is taken apart in a thread: 4,096 records take 8 ms."""

_BREATH_RECORDS = 500
"""So many are compared before clients have their turn: 2 ms."""

_DIGITS = tuple(b"%x" % digit for digit in range(16))

_log = logging.getLogger("sfss.proxy.comparison")


class Pace:
    """Keeps the bytes moved below a rate. `bytes` counts them."""

    def __init__(self, bytes_per_s: float, monotonic: Callable[[], float]) -> None:
        self._bytes_per_s = bytes_per_s
        self._monotonic = monotonic
        self._free_at = 0.0
        self.bytes = 0

    async def spend(self, size: int) -> None:
        """Wait until what was moved, this included, is within the rate."""
        self.bytes += size
        now = self._monotonic()
        self._free_at = max(self._free_at, now) + size / self._bytes_per_s
        await asyncio.sleep(self._free_at - now)


class Comparison:
    """One comparison of the owners of one part of the hash space.

    `whole` tells whether all owners were heard and nothing was left different but for what is `too_new`;
    `repaired` counts keys, `repaired_bytes` the bytes of the values given to replicas that lacked them, `returned`
    files that had come back after they were deleted. `purge` says how far the owners have purged what is compared.
    """

    def __init__(self, coordinator: Coordinator, pace: Pace, settle_s: float, purge: RegionPurge | None = None) -> None:
        self._coordinator = coordinator
        self._placed = coordinator.placed
        self._pace = pace
        self._settle_s = settle_s
        self._purge = purge or RegionPurge(coordinator, 0)  # of which nothing is known
        self._away: set[Peer] = set()
        self.whole = True
        self.repaired = 0
        self.repaired_bytes = 0
        self.too_new = 0
        self.unrepaired = 0
        self.returned = 0

    async def compare(self, prefix: bytes) -> None:
        """Compare all below a place of the tree, which hex digits name, and repair what differs."""
        if len(prefix) >= LEAF_DIGITS:
            await self._compare_records(prefix)
            return
        branches = await self._ask_owners(prefix, read_branches)
        below = [
            prefix + digit for place, digit in enumerate(_DIGITS) if self._may_differ(prefix + digit, place, branches)
        ]
        width = _SIDE_BY_SIDE if len(prefix) + 1 == LEAF_DIGITS else 1
        for first in range(0, len(below), width):
            await asyncio.gather(*map(self.compare, below[first : first + width]))

    def _may_differ(self, prefix: bytes, place: int, branches: Mapping[Peer, Sequence[Branch]]) -> bool:
        heard = [branches[peer][place] for peer in self.peers_below(prefix) if peer in branches]
        return len(set(heard)) > 1

    async def _compare_records(self, prefix: bytes) -> None:
        listings = await self._ask_owners(prefix, read_listing)
        if len(prefix) < PREFIX_DIGITS_MAX and any(more for _, more in listings.values()):
            for digit in _DIGITS:
                await self._compare_records(prefix + digit)
            return
        held: dict[bytes, dict[Peer, Listed]] = {}
        for peer, (records, _) in listings.items():
            for record in records:
                held.setdefault(record.key, {})[peer] = record
        for number, (key, by_peer) in enumerate(held.items()):
            if not number % _BREATH_RECORDS:
                await asyncio.sleep(0)
            owners = self._placed.owners(key)
            await self._compare_record(key, [peer for peer in owners.peers if peer in listings], by_peer)

    async def _compare_record(self, key: bytes, owners: Sequence[Peer], by_peer: Mapping[Peer, Listed]) -> None:
        orders = {peer: by_peer[peer].order() if peer in by_peer else (0, 0) for peer in owners}
        newest = newest_of(orders.values())
        damaged = {peer for peer in owners if peer in by_peer and by_peer[peer].damaged}
        lacking = [peer for peer, order in orders.items() if order < newest or peer in damaged]
        if not lacking:
            return
        if stamp_time(newest[0]) > self._coordinator.now() - self._settle_s:
            self.too_new += 1
            # What is below the newest may differ where nobody looks once that is gone: it isn't certain to stay.
            self._purge.differs = True
            return
        holding = [peer for peer, order in orders.items() if order == newest and peer not in damaged]
        absent = {peer for peer in lacking if peer not in by_peer}
        if holding and len(absent) == len(lacking):
            listed = by_peer[holding[0]]
            if all(self._purge.has_purged(peer, listed.tombstone, 0, listed.version) for peer in absent):
                return
            heard_all = len(owners) == self._placed.owners(key).copies
            if heard_all and self._purge.is_returned(listed, holding, lacking):
                await self._delete_again(key, listed, holding)
                return
        if not await self._repair(key, newest, holding, lacking, damaged, absent):
            self.unrepaired += 1
            self.whole = False

    # repair

    async def _repair(
        self,
        key: bytes,
        newest: tuple[int, int],
        holding: list[Peer],
        lacking: list[Peer],
        damaged: set[Peer],
        absent: set[Peer],
    ) -> bool:
        """Bring a record from one of those that hold it to those that lack it: that have it `damaged`, or nothing of
        the key at all, or something older. False where that isn't done."""
        record = None
        for peer in holding:
            try:
                record = await self._read(peer, key)
            except CorruptRecord:
                lacking.append(peer)  # writing it once more is what mends it
                damaged.add(peer)
            except SfssError:
                continue
            if record is not None:
                break
        if record is None or record.order() < newest:
            if damaged and damaged.issuperset(holding) and not self.unrepaired:  # one line a comparison
                _log.warning("no whole copy of %r was found; write it anew", key)
            return False
        # What a listing doesn't tell is when a file expires.
        purged = [peer for peer in absent if self._purge.has_purged(peer, record.tombstone, record.expires, newest[0])]
        lacking = [peer for peer in lacking if peer not in purged]
        done = True
        accepted = 0
        if lacking and record.version < self._purge.fence:
            self._purge.differs = True
        for peer in lacking:
            try:
                if peer not in damaged:
                    await self._purge.let_in(peer, record.version)
                accepted += await self._give(peer, key, record)
            except SfssError:
                done = False
        self.repaired += bool(accepted)
        self.repaired_bytes += accepted * record.size
        await self._pace.spend(record.size * (1 + accepted))
        return done

    async def _delete_again(self, key: bytes, returned: Listed, holding: Sequence[Peer]) -> None:
        record = deleted_again(key, returned.version)
        self._purge.differs = True
        try:
            for peer in holding:
                await self._give(peer, key, record)
        except SfssError:
            self.unrepaired += 1
            self.whole = False
        else:
            self.returned += 1
            _log.warning("a file that was deleted had come back on a node, and was deleted again: %r", key)

    async def _read(self, peer: Peer, key: bytes) -> Record | None:
        if peer.suspect:
            return None
        return await self._ask(peer, lambda replica, call: replica.read(key, call))

    async def _give(self, peer: Peer, key: bytes, record: Record) -> bool:
        applied = await self._ask(peer, lambda replica, call: replica.apply(key, record, call))
        return applied.accepted

    # asking

    def peers_below(self, prefix: bytes) -> list[Peer]:
        """All that own anything below a place."""
        below = {peer for owners in self.owners_below(prefix) for peer in owners.peers}
        return [peer for peer in self._placed.peers if peer in below]

    def owners_below(self, prefix: bytes) -> set[Owners]:
        """The owners of each partition below a place that are to be compared."""
        low, high = hash_range(prefix)
        shift = self._placed.shift
        return set(self._placed.table[low >> shift : ((high - 1) >> shift) + 1])

    async def _ask_owners(self, prefix: bytes, read: Callable[[bytes], T]) -> dict[Peer, T]:
        """What each owner of anything below a place answers, of those that do."""
        owners = self.peers_below(prefix)
        answers = await asyncio.gather(*(self._ask_owner(peer, prefix, read) for peer in owners))
        return {peer: answer for peer, answer in zip(owners, answers, strict=True) if answer is not None}

    async def _ask_owner(self, peer: Peer, prefix: bytes, read: Callable[[bytes], T]) -> T | None:
        if peer in self._away or not self._can_be_asked(peer):
            self._leave_out(peer)
            return None
        try:
            text = await self._hashes(peer, prefix)
            answer = read(text) if len(text) < _LARGE_BYTES else await asyncio.to_thread(read, text)
        except (SfssError, ValueError) as error:
            _log.info("node %s can't be compared: %s", peer.name, error)
            self._leave_out(peer)
            return None
        await self._pace.spend(len(text))
        return answer

    def _leave_out(self, peer: Peer) -> None:
        """Don't ask a node again: the others are compared, and all of it once more later."""
        self._away.add(peer)
        self.whole = False

    def _can_be_asked(self, peer: Peer) -> bool:
        return not (peer.down or peer.suspect)

    async def _hashes(self, peer: Peer, prefix: bytes) -> bytes:
        return await self._ask(peer, lambda replica, call: _hashes(replica, prefix, call))

    async def _ask(self, peer: Peer, question: Callable[[NodeAccess, Call], Reply[T]]) -> T:
        """Under the ring that this comparison began with: who owns a key by that one may own it no more."""
        return await ask(self._coordinator, peer, question, ring=self._placed.number)


def newest_of(orders: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """What all owners should hold; (0, 0) where none holds anything."""
    return max(orders, default=(0, 0))


def _hashes(replica: NodeAccess, prefix: bytes, call: Call) -> Reply[bytes]:
    if not isinstance(replica, Comparable):
        raise Unsupported("it keeps no hash tree")
    return replica.hashes(prefix, call)
