"""Reads and writes of several keys, with one question to each node for all keys that it is asked about.

A group of reads answers what is plain: as many replicas as a read needs, asked together, know the same version of the
key. That is the first step of `proxy.reading` where all agree, and is answered by the same rule. Whatever else comes,
an error, a silence, a difference, a ring that changes, is left out, and gets a read of its own when it is asked for
again. Of a group of writes each is a `Write` as any other; only their way to the nodes is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from proxy.peer import Peer
from proxy.placed_ring import FOR_ABSENCE, FOR_HIT, Owners
from sfss.errors import Expired, Outcome, StaleRing
from sfss.groups import LeftOut
from sfss.promise import Promise
from sfss.store import Applied, Call, Record, Reply

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator
    from proxy.writing import Write


class GroupRead:
    """One group of reads. The first owner of each key is asked for the value, the next for the version."""

    __slots__ = (
        "_asked",
        "_coordinator",
        "_ends_at",
        "_finished",
        "_found",
        "_keys",
        "_places",
        "_promise",
        "_silent_at",
        "_started",
        "_unheard",
        "due",
    )

    def __init__(self, coordinator: Coordinator, keys: Sequence[bytes]) -> None:
        self._coordinator = coordinator
        self._keys = keys
        self._places: dict[Owners, list[int]] = {}
        """The keys, by their places, of which the same peers are the owners: they are asked alike."""
        self._unheard = LeftOut("not all have answered")
        self._found: list[Any] = [self._unheard] * len(keys)
        """For each key what was heard of it so far; an error once it isn't plain. In the end its outcome."""
        self._asked: dict[Promise[list[Any]], tuple[Peer, list[int]]] = {}
        """The questions that aren't answered yet, and that nobody was blamed for."""
        self._started = coordinator.monotonic()
        self._silent_at = self._started + coordinator.options.node_deadline_s
        self._ends_at = 0.0
        self._finished = False
        self._promise: Promise[list[Any]] | None = None
        self.due = 0.0
        """When `overdue` wants to be called (monotonic seconds)."""

    def start(self, call: Call) -> Reply[list[Any]]:
        """Ask, each replica at most twice: for values, and for versions."""
        coordinator = self._coordinator
        ring = coordinator.placed.number
        well = coordinator.health.well
        for_values: dict[Peer, list[int]] = {}
        for_versions: dict[Peer, list[int]] = {}
        hedge_s = 0.0
        for place, key in enumerate(self._keys):
            owners = coordinator.owners(key)
            places = self._places.get(owners)
            if places is None:
                self._places[owners] = [place]
            else:
                places.append(place)
        for owners, places in self._places.items():
            asked = owners.needed[FOR_HIT]
            if owners.joint is not None or owners.ring != ring or asked < owners.holders:
                self._leave_out(places, "its owners change")
                continue
            peers = coordinator.in_order(owners)[:asked]
            if not well and any(peer.down or peer.suspect for peer in peers):
                self._leave_out(places, "too few replicas are well")
                continue
            questions = for_values
            for peer in peers:
                if peer in questions:
                    questions[peer] += places
                else:
                    questions[peer] = places.copy()
                questions = for_versions
            hedge_s = max(hedge_s, peers[0].hedge_s)
        ends_at = coordinator.ends_at(self._started, call)
        node_call = coordinator.call_to_node(self._started, ends_at, ring, call.request_id)
        self._ends_at = node_call.deadline
        self.due = min(self._started + hedge_s, self._ends_at)
        for whole, questions in ((True, for_values), (False, for_versions)):
            for peer, places in questions.items():
                self._ask(peer, whole, places, node_call)
        if self._asked:
            self._promise = Promise(coordinator.turn)
            coordinator.watch(self)
            return self._promise
        return self._outcomes()

    def overdue(self, now: float) -> None:
        """Called once `due` has passed: what is slow to come is left out, if the budget for asking twice allows it; in
        any case what its deadline was not enough for."""
        if self._finished:
            return
        if now >= self._ends_at:
            for peer, places in self._asked.values():
                self._blame(peer, places)
            self._finish()
            self._asked.clear()
        elif self._coordinator.may_hedge(len({place for _, places in self._asked.values() for place in places})):
            self._finish()
        else:
            self.due = self._ends_at

    def break_off(self, error: Exception) -> None:
        """End it with `error`, since `overdue` raised."""
        self._finished = True
        if self._promise is not None and not self._promise.done():
            self._promise.set_exception(error)

    def _ask(self, peer: Peer, whole: bool, places: list[int], call: Call) -> None:
        keys = self._keys
        try:
            reply = peer.read_many([keys[place] for place in places], whole, call)
        except Exception as error:
            self._fail(peer, places, error)
            return
        if isinstance(reply, Promise):
            self._asked[reply] = peer, places
            reply.add_done_callback(partial(self._replied, peer, whole, places))
        else:
            self._take(places, whole, reply)

    def _replied(self, peer: Peer, whole: bool, places: list[int], reply: Promise[list[Any]]) -> None:
        unheard = self._asked.pop(reply, None) is not None
        if reply.cancelled():
            self._fail(peer, places, Expired("cancelled"))
        elif error := reply.exception():
            if unheard and isinstance(error, Expired):
                self._blame(peer, places)  # its client was the first to see that it says nothing
            self._fail(peer, places, error if isinstance(error, Exception) else Expired(str(error)))
        else:
            outcomes = reply.result()
            if (peer.silences or peer.down or peer.suspect) and not any(map(_is_error, outcomes)):
                self._coordinator.health.answered(peer, self._started)
            if not self._finished:
                self._take(places, whole, outcomes)
        if not (self._asked or self._finished):
            self._finish()

    def _take(self, places: list[int], whole: bool, outcomes: list[Any]) -> None:
        found, unheard, clock = self._found, self._unheard, self._coordinator.clock
        for at, place in enumerate(places):
            outcome, before = outcomes[at], found[place]
            if isinstance(outcome, Record):
                if outcome.version > clock.last:
                    clock.observe(outcome.version)
            elif outcome is not None and not isinstance(outcome, bytes):
                found[place] = outcome
                continue
            if before is unheard:
                found[place] = outcome
            elif _same(before, outcome):
                if whole:
                    found[place] = outcome
            elif not isinstance(before, Exception):
                found[place] = LeftOut("its replicas differ")

    def _fail(self, peer: Peer, places: list[int], error: Exception) -> None:
        if not isinstance(error, StaleRing):  # of rings, the reads see to it
            self._coordinator.health.failed(peer, error, self._started)
        if not self._finished:
            self._leave_out(places, str(error))

    def _blame(self, peer: Peer, places: list[int]) -> None:
        """A peer hasn't answered. If it had a node's whole deadline, it was silent to as many requests as it was asked
        about keys; that a caller was in a hurry says nothing about it."""
        if self._coordinator.monotonic() >= self._silent_at:
            for _ in places:
                self._coordinator.health.silent(peer, self._started)

    def _leave_out(self, places: list[int], reason: str) -> None:
        for place in places:
            self._found[place] = LeftOut(reason)

    def _finish(self) -> None:
        self._finished = True
        self._coordinator.unwatch(self)
        for _, places in self._asked.values():
            for place in places:
                self._found[place] = self._unheard
        promise = self._promise
        if promise is not None and not promise.done():
            promise.set_result(self._outcomes())

    def _outcomes(self) -> list[Any]:
        """What was found, as it is told."""
        found, coordinator = self._found, self._coordinator
        for owners, places in self._places.items():
            tells_absence = owners.needed[FOR_ABSENCE] <= owners.needed[FOR_HIT]
            for place in places:
                outcome = found[place]
                if isinstance(outcome, Record) and coordinator.shows(outcome):
                    continue
                if isinstance(outcome, Exception):
                    found[place] = outcome if isinstance(outcome, LeftOut) else LeftOut(str(outcome))
                elif tells_absence:
                    found[place] = None
                else:
                    found[place] = LeftOut("to say that there is none more have to be asked")
        return found


def _is_error(outcome: Any) -> bool:
    return isinstance(outcome, Exception)


def _same(one: object, other: object) -> bool:
    """Whether two replicas told of one version, a record or in words, or of none."""
    if isinstance(one, Record):
        if isinstance(other, Record):
            return one.version == other.version and one.checksum == other.checksum
        return isinstance(other, bytes) and other == one.words
    if isinstance(one, bytes):
        return one == (other.words if isinstance(other, Record) else other)
    return one is None and other is None


class GroupWrite:
    """A group of writes: their records, gathered for each owner and sent to it at once, and what became of them."""

    __slots__ = ("_by_peer", "_coordinator", "_missing", "_outcomes", "_promise")

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._by_peer: dict[Peer, list[Write]] = {}
        self._outcomes: list[Any] = []
        self._missing = 0
        self._promise: Promise[list[Any]] | None = None

    def begin(self, write: Write) -> None:
        """Begin one more write, up to its sending."""
        place = len(self._outcomes)
        self._outcomes.append(None)
        self._missing += 1
        try:
            write.start_in(self, place)
        except Exception as error:
            self.settled(place, error)

    def add(self, peer: Peer, write: Write) -> None:
        """Have what a write is to store go to a peer."""
        of_peer = self._by_peer.get(peer)
        if of_peer is None:
            self._by_peer[peer] = [write]
        else:
            of_peer.append(write)

    def send(self) -> Reply[list[Any]]:
        """Send all."""
        # Kept no longer: else a group and its writes would hold each other, and all values, until a collection.
        by_peer, self._by_peer = self._by_peer, {}
        # Known before any answers, since a write that hears of another ring may begin another round.
        rounds_of = [[write.round for write in writes] for writes in by_peer.values()]
        for (peer, writes), rounds in zip(by_peer.items(), rounds_of, strict=True):
            try:
                reply = peer.apply_many([write.stamped() for write in writes], rounds[0])
            except Exception as error:
                self._tell(peer, writes, rounds, [error] * len(writes))
                continue
            if isinstance(reply, Promise):
                reply.add_done_callback(partial(self._replied, peer, writes, rounds))
            else:
                self._tell(peer, writes, rounds, reply)
        if not self._missing:
            return self._outcomes
        self._promise = Promise(self._coordinator.turn)
        return self._promise

    def settled(self, place: int, outcome: Any) -> None:
        """What became of a write, or its error."""
        self._outcomes[place] = outcome
        self._missing -= 1
        if not self._missing and self._promise is not None and not self._promise.done():
            self._promise.set_result(self._outcomes)

    def _replied(self, peer: Peer, writes: list[Write], rounds: list[Call], reply: Promise[list[Any]]) -> None:
        if reply.cancelled():
            outcomes: list[Any] = [Expired("cancelled", Outcome.UNKNOWN)] * len(writes)
        elif error := reply.exception():
            outcomes = [error] * len(writes)
        else:
            outcomes = reply.result()
        self._tell(peer, writes, rounds, outcomes)

    def _tell(self, peer: Peer, writes: list[Write], rounds: list[Call], outcomes: list[Any]) -> None:
        """Have each write hear what a peer answered in its round; of a peer that is well, its latency is noted once for
        all."""
        applied = 0
        for at, write in enumerate(writes):
            outcome = outcomes[at]
            if isinstance(outcome, Applied) and not (peer.silences or peer.down or peer.suspect):
                applied += 1
                write.applied(peer, rounds[at], outcome)
            else:
                write.heard(peer, rounds[at], outcome)
        if applied:
            took_s = self._coordinator.monotonic() - writes[0].started
            peer.apply_latency.record(took_s, applied)
