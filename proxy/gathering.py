"""Asking the replicas of one key until enough have answered; what reads and stampings have in common.

A gathering is a state machine moved by replies, without a task: `_take` and `_fail` note what a replica said,
`_advance` then starts whatever that calls for. An error, a silence or a suspect node is no answer: another replica is
asked in its place, and when none is left the gathering fails. A slow one is overtaken: after the latency that 95 % of
its reads stay under, another is asked too, while the budget for that lasts.

A replica that is behind with its ring is brought the ring in use and asked again. Where one is at a later ring, what
was answered so far says nothing: all is asked anew, once this coordinator has that ring, too.
"""

from __future__ import annotations

from collections.abc import Container
from functools import partial
from typing import TYPE_CHECKING, Any

from proxy.peer import Peer
from proxy.placed_ring import Owners
from sfss.errors import Busy, CorruptRecord, Expired, QuorumUnavailable, SfssError, StaleRing, Unreachable
from sfss.memcache.lookup import Lookup
from sfss.native import mypyc_attr
from sfss.promise import Promise, Turn
from sfss.store import Call, Record, Reply

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator


@mypyc_attr(free_list_len=1)
class _Question(Promise[Any]):
    """What a replica was asked, which is told of its reply, and may be the promise of it: 300 instructions less than
    two objects."""

    __slots__ = ("_asking", "_peer", "_whole")

    def __init__(self, turn: Turn, asking: Gathering, peer: Peer, whole: bool) -> None:
        super().__init__(turn)
        self._asking = asking
        self._peer = peer
        self._whole = whole

    def told(self, promise: Promise[Any]) -> None:
        self._asking.replied(self._peer, self._whole, promise)


class Gathering:
    """Collects what enough of a key's owners hold; `purpose` is an index into `Owners.needed`. A child says in
    `_gathered` what then happens."""

    __slots__ = (
        "_answers",
        "_asked_at",
        "_best",
        "_call",
        "_coordinator",
        "_deadline",
        "_error",
        "_errors",
        "_fetching",
        "_finished",
        "_key",
        "_left",
        "_lookup",
        "_needed",
        "_owners",
        "_peers",
        "_pending",
        "_promise",
        "_purpose",
        "_result",
        "_started",
        "_unasked",
        "_whole",
        "due",
    )

    def __init__(self, coordinator: Coordinator, key: bytes, call: Call, owners: Owners, purpose: int) -> None:
        self._coordinator = coordinator
        self._key = key
        self._owners = owners
        self._peers = coordinator.in_order(owners)
        self._purpose = purpose
        self._needed = owners.needed[purpose]
        self._unasked = 0
        """The place in `_peers` of the next replica to ask."""
        self._pending: dict[Peer, Promise[Any]] = {}
        """Asked and not yet heard. What was given up is out of it; its answer counts when it comes all the same."""
        self._lookup: Lookup | None = None
        """The key, as all replicas are asked for it."""
        self._fetching: Promise[Any] | None = None
        """The last question for a value, while it is pending."""
        self._answers: dict[Peer, Record | None] = {}
        """The newest that each replica is known to hold."""
        self._errors: dict[Peer, Exception] = {}
        self._best: Record | None = None
        """The newest of the answers; with its value where one came with it."""
        self._whole: Record | None = None
        """The newest complete record in hand (a tombstone is complete without a value)."""
        self._started = self._asked_at = coordinator.monotonic()
        self._deadline = coordinator.ends_at(self._started, call)
        self._call = coordinator.call_to_node(self._started, self._deadline, owners.ring, call.request_id)
        self.due = 0.0
        """When `overdue` wants to be called (monotonic seconds)."""
        self._left = False
        """Whether the ring of `owners` is left for a later one."""
        self._finished = False
        self._result: Record | None = None
        self._error: Exception | None = None
        self._promise: Promise[Record | None] | None = None

    def start(self) -> Reply[Record | None]:
        """Ask as many as are needed, the first one for the value where one is wanted."""
        peers = self._peers
        coordinator = self._coordinator
        self.due = self._started + peers[0].hedge_s
        self._ask(peers[0], self._wants_value())
        # Without enough that are well it fails, or a sick one is back: one silence is enough to find out, not two.
        # Of joint owners it is a step at a time: who is asked for one side may be enough for the other.
        asked = self._needed if self._owners.joint is None else 1
        if not (coordinator.health.well or coordinator.enough_are_well(self._owners)):
            asked = len(peers)
        for place in range(1, asked):
            self._ask(peers[place], False)
        self._unasked = asked
        self._advance()
        if not self._finished:
            self._promise = Promise(coordinator.turn)
            coordinator.watch(self)
            return self._promise
        if self._error is not None:
            raise self._error
        return self._result

    def overdue(self, now: float) -> None:
        """Called once `due` has passed: overtake the slow, then give up the silent, then everything."""
        if self._finished:
            return
        options = self._coordinator.options
        silent_at = self._asked_at + options.node_deadline_s
        if self._left:
            self._finish(None, self._shortfall(now))
        elif now >= self._deadline:
            self._give_up(blame=now >= silent_at)
            self._finish(None, self._shortfall(now))
        elif now >= silent_at:
            # No answer within a node's deadline is none; what is asked from here on has one of its own.
            self._give_up(blame=True)
            self._renew_call(now)
            self.due = min(now + options.node_deadline_s, self._deadline)
            self._advance()
        else:
            self.due = min(silent_at, self._deadline)
            self._hedge(now)
            self._advance()

    def break_off(self, error: Exception) -> None:
        """End it with `error`, since `overdue` raised."""
        self._finish(None, error)

    def _give_up(self, blame: bool) -> None:
        """Stop waiting for whoever hasn't answered. `blame`: they had a node's whole deadline."""
        for peer in self._pending:
            self._errors[peer] = Expired("no answer in time")
            if blame:
                self._coordinator.health.silent(peer, self._started)
        self._pending.clear()
        self._fetching = None

    def _hedge(self, now: float) -> None:
        """Ask one more replica for whatever is slow to come."""
        if self._unasked < len(self._peers) and self._pending and self._coordinator.may_hedge():
            self._renew_call(now)
            self._ask_next(self._fetching is not None)

    # asking and being answered

    def _renew_call(self, now: float) -> None:
        """What is asked from now on has a node's whole deadline before it."""
        self._asked_at = now
        self._call = self._coordinator.call_to_node(now, self._deadline, self._owners.ring, self._call.request_id)

    def _ask(self, peer: Peer, whole: bool) -> bool:
        """Ask one replica. True if it answered (or failed) at once."""
        try:
            lookup = self._lookup
            if lookup is None:
                lookup = self._lookup = Lookup(self._key)
            question = _Question(self._coordinator.turn, self, peer, whole)
            reply = peer.read(lookup, whole, self._call, question)
        except Exception as error:
            self._fail(peer, error)
            return True
        if isinstance(reply, Promise):
            self._pending[peer] = reply
            if whole:
                self._fetching = reply
            reply.tell(question)
            return False
        self._take(peer, reply, whole)
        return True

    def _ask_next(self, whole: bool) -> bool:
        now = self._coordinator.monotonic()
        if now >= self._call.deadline:
            self._renew_call(now)  # whoever is asked in place of one that took all of it has as much
        peer = self._peers[self._unasked]
        self._unasked += 1
        return self._ask(peer, whole)

    def replied(self, peer: Peer, whole: bool, reply: Promise[Record | None]) -> None:
        """Called once what a replica was asked is answered, or won't be."""
        self._heard(peer, reply)
        if reply.cancelled():
            self._fail(peer, Expired("cancelled"))
        elif error := reply.exception():
            self._fail(peer, error if isinstance(error, Exception) else Expired(str(error)))
        else:
            seconds = self._coordinator.monotonic() - self._started
            if whole:
                peer.read_took(seconds)
            else:
                peer.inspect_latency.record(seconds)
            if peer.silences or peer.down or peer.suspect:
                self._coordinator.health.answered(peer, self._started)
            if self._finished:
                return
            self._take(peer, reply.result(), whole)
        if not self._finished:
            self._advance()

    def _heard(self, peer: Peer, reply: Promise[Any]) -> None:
        """A reply came; it may be to a question that was given up, with another one pending at the same peer."""
        if self._pending.get(peer) is reply:
            del self._pending[peer]
        if self._fetching is reply:
            self._fetching = None

    def _take(self, peer: Peer, record: Record | None, whole: bool) -> None:
        if record is not None:
            if is_newer(record, self._best):
                self._best = record
                if record.version > self._coordinator.clock.last:
                    self._coordinator.clock.observe(record.version)
            if (whole or record.tombstone) and is_newer(record, self._whole):
                self._whole = record
        self._answers[peer] = record

    def _fail(self, peer: Peer, error: Exception) -> None:
        if isinstance(error, StaleRing) and self._follow_ring(peer, error):
            return
        self._errors[peer] = error
        if isinstance(error, CorruptRecord):
            self._coordinator.counters.corrupt += 1
        self._answers.pop(peer, None)  # what it said before it failed (a record that turns out corrupt) is void
        self._coordinator.health.failed(peer, error, self._started)

    # moving on

    def _advance(self) -> None:
        """Do what the present state calls for, until it calls for waiting."""
        while not (self._finished or self._left) and self._step():
            pass

    def _step(self) -> bool:
        """One such step; true if it changed the state at once."""
        if self._owners.joint is not None:
            return self._step_jointly()
        answered = len(self._answers)
        if answered >= self._needed:
            return self._gathered()
        moved = False
        while answered + len(self._pending) < self._needed and not moved:
            if self._unasked >= len(self._peers):
                if not self._pending:
                    self._finish(None, self._shortfall(self._coordinator.monotonic()))
                return False
            moved = self._ask_next(self._wants_value() and self._whole is None and self._fetching is None)
        return moved

    def _step_jointly(self) -> bool:
        """The same where enough old owners and enough new ones are needed."""
        if self._is_enough(self._answers):
            return self._gathered()
        moved = False
        while not (moved or self._is_enough(self._answers.keys() | self._pending.keys())):
            if self._unasked >= len(self._peers):
                if not self._pending:
                    self._finish(None, self._shortfall(self._coordinator.monotonic()))
                return False
            moved = self._ask_next(self._wants_value() and self._whole is None and self._fetching is None)
        return moved

    def _is_enough(self, peers: Container[Peer]) -> bool:
        """Whether these are as many of the old owners and of the new ones as are needed."""
        for side in self._owners.joint or ():
            if sum(peer in peers for peer in side.peers) < side.needed[self._purpose]:
                return False
        return True

    # where rings differ

    def _follow_ring(self, peer: Peer, error: StaleRing) -> bool:
        """A replica refused, since it is at another ring: bring it ours, or wait for that one and begin again. False
        where neither is to be had."""
        rings, ring = self._coordinator.rings, error.ring
        if rings is None or ring == self._owners.ring:
            return False
        if self._left or self._finished:
            rings.heard(peer, ring)
            return False
        if ring > self._owners.ring:
            if not rings.after(ring, peer, self):
                return False
            self._left = True
            self._pending.clear()
            self._errors[peer] = error
            self.due = self._deadline
        else:
            self._answers.pop(peer, None)
            taught = rings.teach(peer)
            self._pending[peer] = taught
            taught.add_done_callback(partial(self._taught, peer))
        return True

    def _taught(self, peer: Peer, taught: Promise[None]) -> None:
        """The replica is at our ring, or could not be brought there."""
        if self._finished or self._left or self._pending.get(peer) is not taught:
            return
        del self._pending[peer]
        error = taught.exception()
        if error is not None:
            self._errors[peer] = error if isinstance(error, Exception) else Expired(str(error))
        else:
            self._ask(peer, self._wants_value() and self._whole is None and self._fetching is None)
        self._advance()

    def begin_again(self) -> None:
        """A later ring is in use: ask its owners, for as long as is left."""
        if self._finished:
            return
        ends_at = self._deadline + self._coordinator.options.sweep_s  # which it takes off once more
        again = self._again(Call(ends_at, 0, self._call.request_id))
        try:
            reply = again.start()
        except Exception as error:
            self._conclude(None, error)
            return
        if isinstance(reply, Promise):
            self._coordinator.unwatch(self)
            reply.add_done_callback(self._ended)
        else:
            self._conclude(reply, None)

    def _ended(self, reply: Promise[Record | None]) -> None:
        error = reply.exception()
        if error is None:
            self._conclude(reply.result(), None)
        else:
            self._conclude(None, error if isinstance(error, Exception) else Expired(str(error)))

    def _again(self, call: Call) -> Gathering:
        """The same, anew."""
        raise NotImplementedError

    def _wants_value(self) -> bool:
        raise NotImplementedError

    def _gathered(self) -> bool:
        """Enough have answered: move on; true if that changed the state at once."""
        raise NotImplementedError

    def _finish(self, result: Record | None, error: Exception | None = None) -> None:
        if error is not None:
            self._coordinator.counters.count_failure(error)
        self._conclude(result, error)

    def _conclude(self, result: Record | None, error: Exception | None) -> None:
        self._finished = True
        self._result, self._error = result, error
        if self._left and (rings := self._coordinator.rings) is not None:
            rings.leave(self)
        promise = self._promise
        if promise is None:
            return
        self._coordinator.unwatch(self)
        if not promise.done():
            if error is None:
                promise.set_result(result)
            else:
                promise.set_exception(error)

    def _shortfall(self, now: float) -> SfssError:
        """The error for too few answers, in numbers."""
        kinds = {type(error) for error in self._errors.values()}
        if not self._answers and len(self._errors) == len(self._peers):
            if kinds == {Unreachable}:
                return Unreachable(f"none of {len(self._peers)} nodes can be reached: {self._reasons()}")
            if kinds == {Busy}:
                return Busy(f"all {len(self._peers)} nodes are busy")
        return QuorumUnavailable(
            f"{self._needed} of {len(self._peers)} replicas needed, {len(self._answers)} answered "
            f"in {now - self._started:.1f} s: {self._reasons()}"
        )

    def _reasons(self) -> str:
        return (
            "; ".join(f"{peer.name}: {error or type(error).__name__}" for peer, error in self._errors.items())
            or "no errors"
        )


def is_newer(record: Record, other: Record | None) -> bool:
    """Whether a record is newer than another one, or that is none: as their `order` says, without making any."""
    if other is None or record.version > other.version:
        return True
    return record.version == other.version and record.checksum > other.checksum
