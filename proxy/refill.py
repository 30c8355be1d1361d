"""Bringing back what a suspect node may have forgotten, and then telling it that it is trusted.

The node is compared with the other owners of all its partitions, region by region, and given what it lacks. It may have
been one of the W replicas that an acknowledged write counted on; W - 1 of the other owners have that write, so
N - W + 1 of them, trusted ones, are heard for every partition: then one of those that have it is among them. Nothing is
left out for being new, and nothing is copied from the node. Every coordinator does so by itself, and what one has
brought back is equal for the next. The argument: docs/replication.rst.

A node counts its starts. When it is started again in the midst of this, everything begins anew, and it refuses to be
trusted for what was compared in an earlier life. The same where the ring changes: it may own other partitions then.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from proxy.asking import ask, meet
from proxy.comparison import Comparison, Pace, newest_of
from proxy.peer import NodeAccess, Peer
from proxy.placed_ring import Owners
from proxy.purging import RegionPurge
from proxy.rests import Rests, forget_replaced
from proxy.schedule import REGION_DIGITS, REGIONS
from sfss.errors import SfssError, Unsupported
from sfss.hash_tree import read_listing
from sfss.keys import hash_key
from sfss.store import Identity, Record, Refillable, Reply
from sfss.tasks import end

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.coordinator import Coordinator
    from sfss.hash_tree import Listed

_LOOK_S = 1.0
"""How often to look whether a node is known to be suspect."""

_ASK_S = 10.0
"""How often to ask each node who it is: a restart of one that no client asks for anything would else go unnoticed."""

_REST_S_MIN = 2.0
_REST_S_MAX = 60.0
"""How long to leave a node alone after too few others could be heard, at first and at last."""

_TRUST = "`sfss-node trust` (docs/operations.rst)"

_log = logging.getLogger("sfss.proxy.refill")


class Refilling(Comparison):
    """A comparison that gives one suspect node what the other owners of its partitions have."""

    def __init__(self, coordinator: Coordinator, pace: Pace, target: Peer, purge: RegionPurge | None = None) -> None:
        super().__init__(coordinator, pace, 0.0, purge)
        self._target = target

    def is_enough(self, prefix: bytes) -> bool:
        """After `compare` of a place: whether the node has all there that an acknowledged write may have counted on."""
        if self.not_given():
            return False
        return all(owners.others_know(self._target, self._away) for owners in self.owners_below(prefix))

    def missed(self) -> set[str]:
        """The others that couldn't be heard."""
        return {peer.name for peer in self._away if peer is not self._target}

    def not_given(self) -> bool:
        """Whether the node doesn't take, or tell of, what the others have."""
        return bool(self.unrepaired) or self._target in self._away

    def owners_below(self, prefix: bytes) -> set[Owners]:
        return {owners for owners in super().owners_below(prefix) if self._target in owners.peers}

    async def _compare_record(self, key: bytes, owners: Sequence[Peer], by_peer: Mapping[Peer, Listed]) -> None:
        if self._target not in owners:
            return
        listed = {peer: by_peer[peer] for peer in owners if peer in by_peer}
        held = listed.pop(self._target, None)
        others = [peer for peer in owners if peer is not self._target]
        if not listed:
            if held is not None and self._others_know(key) and self._purge.is_left_over(held, others):
                await self._delete_again(key, held, [self._target])
            return
        newest = newest_of(one.order() for one in listed.values())
        if held is not None and held.order() >= newest and not held.damaged:
            return
        holding = [peer for peer, one in listed.items() if one.order() == newest and not one.damaged]
        lacks_all = {self._target} if held is None else set()
        if lacks_all and holding:
            one = listed[holding[0]]
            if self._purge.has_purged(self._target, one.tombstone, 0, one.version):
                return
        damaged = {self._target} - lacks_all if held is not None and held.damaged else set()
        if not await self._repair(key, newest, holding, [self._target], damaged, lacks_all):
            self.unrepaired += 1
            self.whole = False

    def _others_know(self, key: bytes) -> bool:
        """Whether one of the owners that are heard has whatever was acknowledged of a key; of a joint ring one of the
        old ones and one of the new."""
        owners = self._placed.owners(key)
        return all(side.others_know(self._target, self._away) for side in owners.joint or (owners,))

    async def _give(self, peer: Peer, key: bytes, record: Record) -> bool:
        try:
            return await super()._give(peer, key, record)
        except SfssError:
            # A suspect node says of no write what has come of it; what it has does.
            if peer is not self._target or not await self._has(key, record):
                raise
            return True

    async def _has(self, key: bytes, record: Record) -> bool:
        held, _ = read_listing(await self._hashes(self._target, b"%016x" % hash_key(key)))
        return any(one.key == key and one.order() >= record.order() and not one.damaged for one in held)

    def _can_be_asked(self, peer: Peer) -> bool:
        return not peer.down if peer is self._target else super()._can_be_asked(peer)

    async def _hashes(self, peer: Peer, prefix: bytes) -> bytes:
        if peer is not self._target:
            return await super()._hashes(peer, prefix)
        return await ask(
            self._coordinator,
            peer,
            lambda replica, call: _refillable(replica).hashes_held(prefix, call),
            suspect_too=True,
        )


class _Progress:
    """How far the refill of one life of a node, under one ring, has come. `begins_at` is in monotonic seconds."""

    def __init__(self, epoch: int, ring: int, begins_at: float, rng: random.Random) -> None:
        self.epoch = epoch
        self.ring = ring
        self.begins_at = begins_at
        self.left = list(range(REGIONS))
        rng.shuffle(self.left)  # so that several coordinators find much of it equal already
        self.missed: set[str] = set()
        """The others that couldn't be heard the last time."""
        self.ungiven = False
        """Whether something wasn't given to it then."""
        self.keys = 0
        self.bytes = 0


def _why_not(progress: _Progress) -> str:
    """Why parts are left, and what to do."""
    parts = f"{len(progress.left)} of {REGIONS} parts of what it may have forgotten"
    if progress.ungiven:
        return f"{parts} couldn't be given to it; its log and those of the others say why"
    if not progress.missed:
        return f"{parts} are kept by no other node; put its directory back as it was, or declare it whole: {_TRUST}"
    missed = ", ".join(sorted(progress.missed))
    return (
        f"{parts} can't be known without {missed}; once enough of these answer and are trusted, it is refilled, and "
        f"where they are lost for good: {_TRUST}"
    )


class Refill:
    """Refills the suspect nodes of one coordinator, from `start` to `close`."""

    def __init__(self, coordinator: Coordinator, *, rng: random.Random | None = None) -> None:
        self._coordinator = coordinator
        self._rng = rng or random.Random()
        self._pace = Pace(coordinator.options.compare_bytes_per_s, coordinator.monotonic)
        self._progress: dict[Peer, _Progress] = {}
        self._rests = Rests(_REST_S_MIN, _REST_S_MAX, coordinator.monotonic)
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._keys = 0
        self._bytes = 0
        self._refilled = 0

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), name="refill of suspect nodes")
        self._looking = loop.create_task(self._look(), name="asking nodes who they are")

    async def close(self) -> None:
        """Stop. Idempotent."""
        await end(self._looking)
        await end(self._task)

    def figures(self) -> dict[str, str]:
        """What `stats` tells of it; counts since the start."""
        figures = {
            "refill_regions_left": sum(len(progress.left) for progress in self._progress.values()),
            "refill_keys": self._keys,
            "refill_bytes": self._bytes,
            "refilled_nodes": self._refilled,
        }
        return {name: str(value) for name, value in figures.items()}

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_ASK_S)
            try:
                # Of the others their health asks.
                well = [peer for peer in self._coordinator.placed.peers if not (peer.down or peer.suspect)]
                await asyncio.gather(*(meet(self._coordinator, peer) for peer in well))
            except Exception:
                _log.exception("nodes couldn't be asked who they are, and will be again")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            peers = self._coordinator.placed.peers
            forget_replaced(self._progress, peers)
            self._rests.keep(peers)
            for peer in peers:
                if not peer.suspect:
                    self._progress.pop(peer, None)
                    self._rests.forget(peer)
                elif not peer.down and self._rests.is_over(peer):
                    await self._try(peer)

    async def _try(self, peer: Peer) -> None:
        try:
            if await self.refill(peer):
                return
        except SfssError as error:
            _log.info("node %s can't be refilled now: %s", peer.name, error)
        except Exception:
            _log.exception("refilling node %s failed and will be tried again", peer.name)
        progress = self._progress.get(peer)
        if progress is not None and self._coordinator.monotonic() < progress.begins_at:
            self._rests.rest_until(peer, progress.begins_at)
        else:
            self._rests.rest(peer)

    async def _latest_ring(self, cluster: str, but: Peer) -> int:
        """The latest ring that any node of the cluster is at that answers, but one. Those count that must not be used,
        too: they may be so for being at a ring that can't be had from them."""
        others = [one for one in self._coordinator.placed.peers if one is not but]
        answers = await asyncio.gather(*(meet(self._coordinator, one) for one in others))
        rings = [answer.ring for answer in answers if answer is not None and answer.cluster == cluster]
        return max(self._coordinator.placed.number, *rings)

    async def refill(self, peer: Peer) -> bool:
        """Compare what is left of a suspect node's partitions, and have it trusted when nothing is. Returns whether it
        is. Raises `SfssError`."""
        identity = await ask(self._coordinator, peer, lambda replica, call: replica.identify(), suspect_too=True)
        progress = self._progress.get(peer)
        ring = self._coordinator.placed.number
        if identity.ring != ring:
            if self._coordinator.rings is not None:
                self._coordinator.rings.heard(peer, identity.ring)
            return False
        if progress is None or progress.epoch != identity.epoch or progress.ring != ring:
            _log.warning("node %s may have forgotten writes; what it lacks is brought back from the others", peer.name)
            # A write that the node took before it forgot may still be on its way to the owner that it is acknowledged
            # with. When all such writes have ended it is there, or never acknowledged.
            begins_at = self._coordinator.monotonic() + self._coordinator.options.compare_settle_s
            progress = self._progress[peer] = _Progress(identity.epoch, ring, begins_at, self._rng)
        if self._coordinator.monotonic() < progress.begins_at:
            return False
        progress.missed = set()
        progress.ungiven = False
        for region in list(progress.left):
            if await self._refill_region(peer, progress, region):
                progress.left.remove(region)
            if peer.down or not peer.suspect or self._coordinator.placed.number != ring:
                break
        if not peer.suspect:
            return True  # another coordinator was sooner
        if self._coordinator.placed.number != ring:
            return False
        if progress.left:
            why = _why_not(progress)
            _log.warning("node %s isn't refilled yet: %s", peer.name, why)
            self._coordinator.health.explain(peer, why)
            return False
        # It may have counted for a write under a later ring, which others know and we don't yet.
        if await self._latest_ring(identity.cluster, peer) != ring:
            return False
        epoch = progress.epoch
        trusted = await ask(self._coordinator, peer, lambda replica, call: _trust(replica, epoch), suspect_too=True)
        self._coordinator.health.identified(peer, trusted)
        self._refilled += 1
        _log.info("node %s has got back %d keys (%d bytes) and is trusted", peer.name, progress.keys, progress.bytes)
        return True

    async def _refill_region(self, peer: Peer, progress: _Progress, region: int) -> bool:
        prefix = b"%0*x" % (REGION_DIGITS, region)
        purge = RegionPurge(self._coordinator, region)
        refilling = Refilling(self._coordinator, self._pace, peer, purge)
        await purge.ask(refilling.peers_below(prefix), suspect_too=True)
        try:
            await refilling.compare(prefix)
        finally:
            self._keys += refilling.repaired
            self._bytes += refilling.repaired_bytes
            progress.keys += refilling.repaired
            progress.bytes += refilling.repaired_bytes
            progress.missed |= refilling.missed()
            progress.ungiven |= refilling.not_given()
        return refilling.is_enough(prefix)


def _refillable(replica: NodeAccess) -> Refillable:
    if not isinstance(replica, Refillable):
        raise Unsupported("it can't be refilled")
    return replica


def _trust(replica: NodeAccess, epoch: int) -> Reply[Identity]:
    return _refillable(replica).trust(epoch)
