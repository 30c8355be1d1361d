"""Following the ring: a coordinator and its nodes come to be at the latest ring that any of them knows of.

A node tells the number of its ring whenever it says who it is, and when it refuses a request that was placed by another
one. All that are ahead are asked for their ring at once, and the first that tells it is enough: it is taken over as a
whole, new members are connected, the table of owners is worked out in a thread, and from one moment on requests go by
it. Where a node is behind it is taught. Only rings that were decided are stored on nodes, so what a node says is its
ring may be believed (docs/decisions/ring-changes.rst, rules 1 to 3).

A request that waits for a ring waits for one node's answer at most; whatever comes of it the request begins again, and
ends at its deadline. A node that gives no ring for the number that it tells is of no use until it does: it is refused
when it says who it is, and asked again ever less often.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from proxy.asking import ask, meet
from proxy.members import Members
from proxy.peer import NodeAccess, Peer
from proxy.placed_ring import PlacedRing
from proxy.quorum import Quorum
from proxy.rests import Rests, forget_replaced
from sfss.errors import ConnectionLost, SfssError, Unavailable, Unsupported, WrongCluster
from sfss.promise import Promise
from sfss.ring import NodeRing
from sfss.ring_keeper import RingKeeper
from sfss.ring_record import Placement, RingRecord
from sfss.store import Identity

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator, WaitsForRing

_REST_S = 0.05
"""How long to leave it at that when a ring could not be learnt; requests that wait for it then try once more."""

_USELESS_S_MIN = 1.0
_USELESS_S_MAX = 60.0
"""How soon, and how seldom at last, a node that gave no ring is asked for it again."""

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
        self._learning: dict[Peer, tuple[int, asyncio.Task[None]]] = {}
        """Who is asked for a later ring, and which one it is said to be at."""
        self._taking_over = asyncio.Lock()
        self._useless: dict[Peer, tuple[int, str]] = {}
        """Who gave no ring for the number that it tells, and why not."""
        self._told: dict[Peer, tuple[int, str]] = {}
        """Of whom it was last logged that this ring can't be learnt, and why not."""
        self._quiet = Rests(_USELESS_S_MIN, _USELESS_S_MAX, coordinator.monotonic)
        """Whom nothing is logged of for a while, should another reason and the last one come by turns."""
        self._rests = Rests(_USELESS_S_MIN, _USELESS_S_MAX, coordinator.monotonic)
        self._waiting: dict[WaitsForRing, tuple[int, Peer]] = {}
        """Requests that wait for a ring, and who is asked for it."""
        self._teaching: dict[Peer, Promise[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def close(self) -> None:
        """Stop; from now on no ring is learnt or taught. Idempotent."""
        self._closed = True
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def heard(self, peer: Peer, number: int) -> None:
        """A peer said that this is the number of its ring; 0 where it belongs to no cluster."""
        if number > self._coordinator.placed.number:
            self._learn_from(peer, number)
        elif 0 < number < self._coordinator.placed.number:
            self.teach(peer)

    def examine(self, peer: Peer, identity: Identity) -> None:
        """A peer said who it is. Raises `WrongCluster` for one that gives no ring for the number that it tells."""
        self.heard(peer, identity.ring)
        why = self._why_useless(peer, identity.ring)
        if why and peer not in self._learning:
            raise WrongCluster(why)

    def after(self, number: int, peer: Peer, request: WaitsForRing) -> bool:
        if number <= self._coordinator.placed.number:
            asyncio.get_running_loop().call_soon(request.begin_again)
            return True
        self._learn_from(peer, number)
        if self._closed or peer not in self._learning:
            return False
        self._waiting[request] = number, peer
        return True

    def leave(self, request: WaitsForRing) -> None:
        self._waiting.pop(request, None)

    def teach(self, peer: Peer) -> Promise[None]:
        taught = self._teaching.get(peer)
        if taught is None:
            taught = Promise(self._coordinator.turn)
            if self._closed:
                taught.set_exception(_stops())
                return taught
            self._teaching[peer] = taught
            bringing = self._spawn(self._bring_ring(peer), f"{peer.name} is taught the ring")
            bringing.add_done_callback(partial(self._brought, peer, taught))
        return taught

    # learning

    def _why_useless(self, peer: Peer, number: int) -> str:
        """Why a peer's ring of this number can't be had from it; empty where that isn't known."""
        told, why = self._useless.get(peer, (0, ""))
        return why if told == number > self._coordinator.placed.number else ""

    def _learn_from(self, peer: Peer, number: int) -> None:
        if self._closed:
            return
        if peer not in self._learning and (not self._why_useless(peer, number) or self._rests.is_over(peer)):
            task = self._spawn(self._learn(peer, number), f"the ring is learnt from {peer.name}")
            self._learning[peer] = number, task
            task.add_done_callback(partial(self._learnt, peer))

    async def _learn(self, peer: Peer, number: int) -> None:
        try:
            await self._take_over_from(peer, number)
        except Unavailable as error:
            self._tell(peer, number, str(error))
            await asyncio.sleep(_REST_S)
        except SfssError as error:
            self._gave_nothing(peer, number, str(error))
        else:
            self._useless.pop(peer, None)
            self._told.pop(peer, None)
            self._quiet.forget(peer)
            self._rests.forget(peer)

    def _learnt(self, peer: Peer, _: asyncio.Task[None]) -> None:
        del self._learning[peer]
        self._release(lambda _, asked: asked is peer)

    def _gave_nothing(self, peer: Peer, number: int, why: str) -> None:
        """What a peer refuses for no reason that can be had must not hold up what others can answer."""
        self._tell(peer, number, why)
        self._useless[peer] = number, why
        self._rests.rest(peer)
        self._coordinator.health.failed(peer, WrongCluster(why))

    def _tell(self, peer: Peer, number: int, why: str) -> None:
        """Log it once, however often requests that wait for the ring have it asked for."""
        if self._told.get(peer) != (number, why) and self._quiet.is_over(peer):
            self._told[peer] = number, why
            self._quiet.rest(peer)
            _log.warning("the ring can't be learnt from %s: %s", peer.name, why)

    async def _take_over_from(self, peer: Peer, number: int) -> None:
        coordinator = self._coordinator
        held = await ask(
            coordinator,
            peer,
            lambda replica, call: keeper(replica).tell_ring(call),
            within_s=coordinator.options.node_deadline_s,
            suspect_too=True,
        )
        async with self._taking_over:
            if max(held.number, number) <= coordinator.placed.number:
                return
            record = held.record
            if held.number < number:
                raise WrongCluster(f"it said that it is at ring {number}, and tells ring {held.number}")
            if record is None:
                raise WrongCluster(f"it knows the number of its ring, {held.number}, and not the ring")
            if record.partitions != coordinator.placed.partitions:
                raise WrongCluster(f"its ring has {record.partitions} partitions, ours {coordinator.placed.partitions}")
            known = dict(zip(self._record.placements, coordinator.placed.rings, strict=True)) if self._record else {}
            self._take_over(record, await place(record, self._members, known))

    def _take_over(self, record: RingRecord, placed: PlacedRing) -> None:
        coordinator = self._coordinator
        coordinator.take_over(placed)
        self._record = record
        self._taken_over(record, placed)
        self._members.keep([member.name for member in record.members], coordinator.options.deadline_s)
        forget_replaced(self._useless, placed.peers)
        forget_replaced(self._told, placed.peers)
        self._quiet.keep(placed.peers)
        self._rests.keep(placed.peers)
        _log.info("ring %d is in use: %s", record.number, told(record))
        for number, task in self._learning.values():
            if number <= record.number and task is not asyncio.current_task():
                task.cancel()
        self._release(lambda number, _: number <= record.number)
        for member in placed.peers:
            self._spawn(self._meet(member), f"{member.name} says who it is")

    def _release(self, chosen: Callable[[int, Peer], bool]) -> None:
        """Let requests begin again that wait for a ring."""
        released = [request for request, (number, peer) in self._waiting.items() if chosen(number, peer)]
        for request in released:
            del self._waiting[request]
        if released:
            self._spawn(_begin_again(released), "requests begin again")

    async def _meet(self, peer: Peer) -> None:
        """See whether a member is the node that the ring says, and at this ring."""
        await meet(self._coordinator, peer)

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
            taught.set_exception(_stops())
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


def _stops() -> ConnectionLost:
    return ConnectionLost("the coordinator stops")


async def _begin_again(requests: Sequence[WaitsForRing]) -> None:
    for count, request in enumerate(requests, 1):
        try:
            request.begin_again()
        except Exception:
            _log.exception("a request could not begin again")
        if not count % _TURN_REQUESTS:
            await asyncio.sleep(0)


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
