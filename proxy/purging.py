"""Purging: forgetting the tombstones of a region once no owner needs them. The argument: docs/replication.rst.

A comparison that finds all owners of a region equal has each of them put up a *fence*: nothing from before it is stored
there any more. The next comparison that finds them equal below that fence has seen that no owner holds anything that a
tombstone below it still deletes, and that nothing of that kind can come: then all are told to *purge* up to there. What
a coordinator has begun another one goes on with, since the nodes tell how far they are.

An owner may be behind the others for a while. What it lists and they have purged is no difference; a file that none of
them has, from before what they have purged, has come back to it from an older life, and is deleted once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from proxy.asking import ask
from proxy.peer import NodeAccess, Peer
from sfss.errors import SfssError, Unsupported
from sfss.hash_tree import Listed
from sfss.stamps import purge_stamp, stamp_at, stamp_time
from sfss.store import Purgeable, Purged, Record, checksum_of

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator

_STEPS = 8
"""Fences and bounds move by this part of the grace time at least: a quiet cluster is told something once a day."""

_NEVER = Purged()

_log = logging.getLogger("sfss.proxy.comparison")


class RegionPurge:
    """How far the owners of one region have purged it, for one comparison of them, and what follows from it."""

    def __init__(self, coordinator: Coordinator, region: int) -> None:
        self._coordinator = coordinator
        self._placed = coordinator.placed
        self._region = region
        self._told: dict[Peer, Purged] = {}
        self._all_told = False
        self.fence = 0
        """How far the owners might put their fence: the grace time ago, by the slowest of all clocks."""
        self.differs = False
        """Whether the comparison found a difference below that."""

    async def ask(self, peers: Sequence[Peer], *, suspect_too: bool = False) -> None:
        """Ask owners how far they are. One that doesn't tell counts as one that never purged anything."""
        answers = await asyncio.gather(*(self._ask(peer, suspect_too) for peer in peers))
        self._told = {peer: told for peer, told in zip(peers, answers, strict=True) if told is not None}
        self._all_told = len(self._told) == len(peers)
        clocks = [self._coordinator.now(), *(stamp_time(told.now) for told in self._told.values())]
        options = self._coordinator.options
        # What is too new to be compared can't be known to be equal.
        self.fence = stamp_at(min(clocks) - max(options.tombstone_grace_s, options.compare_settle_s))

    async def _ask(self, peer: Peer, suspect_too: bool) -> Purged | None:
        if peer.down or (peer.suspect and not suspect_too) or not isinstance(peer.replica, Purgeable):
            return None
        try:
            return await ask(
                self._coordinator,
                peer,
                lambda replica, _: _purgeable(replica).purged(self._region),
                suspect_too=suspect_too,
            )
        except SfssError as error:
            _log.info("node %s doesn't tell how far it is purged: %s", peer.name, error)
            return None

    # what differs and what doesn't

    def _of(self, peer: Peer) -> Purged:
        return self._told.get(peer, _NEVER)

    def _is_complete(self, peer: Peer) -> bool:
        """Whether it has all that is older than its bound and not purged."""
        told = self._of(peer)
        return bool(told.fence) and told.ring == self._placed.number

    def has_purged(self, peer: Peer, tombstone: bool, expires: int, version: int) -> bool:
        """Whether a peer that has nothing of a key lacks this record for having purged it."""
        return purge_stamp(tombstone, expires, version) < self._of(peer).bound

    def is_returned(self, newest: Listed, holding: Iterable[Peer], others: Sequence[Peer]) -> bool:
        """Whether a file has come back after its tombstone was purged. `holding` list it, `others` are all other owners
        of the key, and list nothing of it.

        The others purged up to a bound above it, so all owners were equal then: each had it, or none did. They would
        have it still. Those that list it forgot something since, so that their word is worth less."""
        return (
            not newest.tombstone
            and bool(others)
            and all(self._is_complete(peer) and newest.version + 1 < self._of(peer).bound for peer in others)
            and not any(self._is_complete(peer) for peer in holding)
        )

    def is_left_over(self, listed: Listed, others: Iterable[Peer]) -> bool:
        """The same for a file that a suspect node has, where `others`, the owners that were heard, are so many that one
        of them has whatever was acknowledged, and list nothing of it.

        So it was not, or it was deleted; and one of them has purged tombstones from after it. Fences tell nothing more:
        a change of the ring opens them for what comes, and while a node is suspect nobody closes them. But where an
        owner that had purged so far has lost something since, it may be that."""
        told = [self._of(peer) for peer in others]
        purged = [one for one in told if one.bound > listed.version + 1]
        return not listed.tombstone and bool(purged) and all(one.ring for one in purged)

    # what is told

    async def let_in(self, peer: Peer, version: int) -> None:
        """See to it that a peer takes a record that a comparison found it to lack, from before its fence too. Raises
        `SfssError`."""
        told = self._of(peer)
        if version < told.fence:
            _log.warning("node %s lacks records that it had; a part of it is compared without a fence", peer.name)
            self._told[peer] = await self._tell(peer, 0, 0)

    async def advance(self) -> bool:
        """After a comparison that left nothing different: move the fences up, and the bounds to where the fences were
        before it. Returns whether anybody was told anything."""
        if self.differs or not self._told or not self._all_told or self._placed.joint:
            return False
        grace_s = self._coordinator.options.tombstone_grace_s
        if not grace_s:
            return False
        fences = [told.fence if self._is_complete(peer) else 0 for peer, told in self._told.items()]
        bounds = [told.bound for told in self._told.values()]
        fence = max(self.fence, min(fences))
        bound = min(fence, max(min(fences), *bounds))
        step = stamp_at(grace_s / _STEPS)
        if fence < min(fences) + step and bound < min(bounds) + step and min(bounds) == max(bounds) and min(fences):
            return False
        await asyncio.gather(*(self._advance(peer, fence, bound) for peer in self._told))
        return True

    async def _advance(self, peer: Peer, fence: int, bound: int) -> None:
        try:
            self._told[peer] = await self._tell(peer, fence, bound)
        except SfssError as error:
            _log.info("node %s isn't told how far to purge: %s", peer.name, error)

    async def _tell(self, peer: Peer, fence: int, bound: int) -> Purged:
        ring = self._placed.number
        return await ask(
            self._coordinator, peer, lambda replica, _: _purgeable(replica).purge(self._region, ring, fence, bound)
        )

    @property
    def bound(self) -> int | None:
        """How far all owners have purged the region; None where not all tell."""
        return min(told.bound for told in self._told.values()) if self._told and self._all_told else None


def deleted_again(key: bytes, version: int) -> Record:
    """The tombstone of a file that came back: the next version, the same whoever makes it."""
    version += 1
    return Record(b"", 0, 0, 0, version, checksum_of(key, b"", 0, 0, version, True), True)


def _purgeable(replica: NodeAccess) -> Purgeable:
    if not isinstance(replica, Purgeable):
        raise Unsupported("it purges nothing")
    return replica
