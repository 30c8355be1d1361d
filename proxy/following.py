"""Following the ring: a coordinator and its nodes come to be at the latest ring that any of them knows of.

A node tells the number of its ring whenever it says who it is, and when it refuses a request that was placed by another
one. Where it is ahead its ring is learnt from it and taken over as a whole: new members are connected, the table of
owners is worked out in a thread, and from one moment on requests go by it. Where it is behind it is taught. Only rings
that were decided are stored on nodes, so what a node says is its ring may be believed
(docs/decisions/ring-changes.rst, rules 1 to 3).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from proxy.asking import ask
from proxy.members import Members
from proxy.peer import NodeAccess, Peer
from proxy.placed_ring import PlacedRing
from proxy.quorum import Quorum
from sfss.errors import ConnectionLost, SfssError, Unsupported, WrongCluster
from sfss.promise import Promise
from sfss.ring import NodeRing
from sfss.ring_keeper import RingKeeper
from sfss.ring_record import Placement, RingRecord

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator

_REST_S = 0.05
"""How long to leave it at that when a ring could not be learnt; requests that wait for it then try once more."""

_TURN_REQUESTS = 32
"""Requests that begin again before others have their turn: a few milliseconds."""

_log = logging.getLogger("sfss.proxy.ring")


class Following:
    """Implements `proxy.coordinator.Rings` for one coordinator. `record` is the ring in use, None for the one of the
    configuration. `taken_over` is called with each later one."""

    def __init__(
        self,
        coordinator: Coordinator,
        members: Members,
        record: RingRecord | None,
        taken_over: Callable[[RingRecord, PlacedRing], None],
    ) -> None:
        self._coordinator = coordinator
        self._members = members
        self._record = record
        self._taken_over = taken_over
        self._ahead: dict[Peer, int] = {}
        """Who is said to be at a later ring, and at which one."""
        self._waiting: list[Callable[[], None]] = []
        self._learning: asyncio.Task[None] | None = None
        self._teaching: dict[Peer, Promise[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def heard(self, peer: Peer, number: int) -> None:
        """A peer said that this is the number of its ring; 0 where it belongs to no cluster."""
        if number > self._coordinator.placed.number:
            self._learn_from(peer, number)
        elif 0 < number < self._coordinator.placed.number:
            self.teach(peer)

    def after(self, number: int, peer: Peer, then: Callable[[], None]) -> None:
        if number <= self._coordinator.placed.number:
            asyncio.get_running_loop().call_soon(then)
            return
        self._waiting.append(then)
        self._learn_from(peer, number)

    def teach(self, peer: Peer) -> Promise[None]:
        taught = self._teaching.get(peer)
        if taught is None:
            taught = self._teaching[peer] = Promise(self._coordinator.turn)
            bringing = self._spawn(self._bring_ring(peer), f"{peer.name} is taught the ring")
            bringing.add_done_callback(partial(self._brought, peer, taught))
        return taught

    # learning

    def _learn_from(self, peer: Peer, number: int) -> None:
        self._ahead[peer] = max(self._ahead.get(peer, 0), number)
        if self._learning is None or self._learning.done():
            self._learning = self._spawn(self._learn(), "the ring is learnt")

    async def _learn(self) -> None:
        while self._ahead or self._waiting:
            peer = max(self._ahead, key=self._ahead.__getitem__, default=None)
            if peer is not None and self._ahead.pop(peer) > self._coordinator.placed.number:
                try:
                    await self._take_over_from(peer)
                except SfssError as error:
                    _log.warning("the ring can't be learnt from %s: %s", peer.name, error)
                    if isinstance(error, WrongCluster):
                        # What it refuses for no reason that can be had must not hold up what others can answer.
                        self._coordinator.health.failed(peer, error)
                    await asyncio.sleep(_REST_S)
            if not self._ahead:
                await self._release()

    async def _take_over_from(self, peer: Peer) -> None:
        coordinator = self._coordinator
        held = await ask(coordinator, peer, lambda replica, call: keeper(replica).tell_ring(call), suspect_too=True)
        record = held.record
        if held.number <= coordinator.placed.number:
            return
        if record is None:
            raise WrongCluster(f"it knows the number of its ring, {held.number}, and not the ring")
        if record.partitions != coordinator.placed.partitions:
            raise WrongCluster(f"its ring has {record.partitions} partitions, ours {coordinator.placed.partitions}")
        known = dict(zip(self._record.placements, coordinator.placed.rings, strict=True)) if self._record else {}
        placed = await place(record, self._members, known)
        coordinator.take_over(placed)
        self._record = record
        self._taken_over(record, placed)
        self._members.keep([member.name for member in record.members], coordinator.options.deadline_s)
        _log.info("ring %d is in use: %s", record.number, told(record))
        for member in placed.peers:
            self._spawn(self._meet(member), f"{member.name} says who it is")

    async def _release(self) -> None:
        """Let requests begin again that waited for a later ring."""
        waiting, self._waiting = self._waiting, []
        for count, then in enumerate(waiting, 1):
            try:
                then()
            except Exception:
                _log.exception("a request could not begin again")
            if not count % _TURN_REQUESTS:
                await asyncio.sleep(0)

    async def _meet(self, peer: Peer) -> None:
        """See whether a member is the node that the ring says, and at this ring."""
        try:
            identity = await ask(self._coordinator, peer, lambda replica, call: replica.identify(), suspect_too=True)
            self._coordinator.health.identified(peer, identity)
        except WrongCluster as error:
            self._coordinator.health.failed(peer, error)
        except SfssError:
            return  # its health was told

    # teaching

    async def _bring_ring(self, peer: Peer) -> None:
        record = self._record
        if record is None:
            raise WrongCluster("it has no ring, and ours is the one that the cluster was founded with")
        held = await ask(
            self._coordinator,
            peer,
            lambda replica, call: keeper(replica).learn_ring(record, call),
            suspect_too=True,
        )
        self.heard(peer, held.number)

    def _brought(self, peer: Peer, taught: Promise[None], bringing: asyncio.Task[None]) -> None:
        del self._teaching[peer]
        if bringing.cancelled():
            taught.set_exception(ConnectionLost("the coordinator stops"))
        elif error := bringing.exception():
            _log.info("%s can't be taught the ring: %s", peer.name, error)
            taught.set_exception(error)
        else:
            taught.set_result(None)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, SfssError):
            _log.error("the ring could not be followed", exc_info=error)


def keeper(replica: NodeAccess) -> RingKeeper:
    """The replica, if it keeps a ring. Raises `Unsupported`."""
    if not isinstance(replica, RingKeeper):
        raise Unsupported("it keeps no ring")
    return replica


async def place(
    record: RingRecord, members: Members, known: Mapping[Placement, NodeRing] = MappingProxyType({})
) -> PlacedRing:
    """The ring over peers, new ones among them; worked out in a thread. `known` are the rings of some placements, which
    take long (0.2 s each). Raises `SetupError`."""
    peers = {member.name: members.take_in(member.name, member.zone) for member in record.members}
    quorums = [Quorum.over(len(one.members), one.n, one.w, one.r) for one in record.placements]

    def work() -> PlacedRing:
        rings = [known.get(one) or one.node_ring(record.number, record.partitions) for one in record.placements]
        return PlacedRing(record.number, record.fingerprint, rings, quorums, peers)

    return await asyncio.to_thread(work)


def told(record: RingRecord) -> str:
    """A ring in words."""
    numbers = [len(placement.members) for placement in record.placements]
    if record.joint:
        return f"on the way from {numbers[0]} nodes to {numbers[1]}"
    return f"{numbers[0]} nodes"
