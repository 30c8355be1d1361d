"""The write quorum: one stamped record sent to all owners of a key, acknowledged when W of them have taken it.

Why each rule is as it is: docs/replication.rst. In short:

1. A replica that holds something newer refuses (*held*). Whether the write then counts depends on what was known when
   it was stamped. Stamped blindly, only *accepted* counts. Stamped above what a read quorum had answered (*asked*),
   *held* counts too: whatever is newer was written meanwhile, so this write came just before it.
2. A blind stamp that surely is at no replica may be given up for one above all that was held, which then is an asked
   one. After one acceptance or one silence never: a reader may have seen it.
3. A blind write that a later one of this coordinator overtook came just before that one, and is stored if that one
   was taken as the newest by W replicas.
4. Whatever else falls short is unknown; not applied only if every replica surely left it alone.
5. Where the ring changes, the same record goes to the owners under the later ring, and is counted anew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from proxy.peer import Peer
from proxy.reading import Read, Survey
from sfss.errors import (
    BadRequest,
    Busy,
    Expired,
    Outcome,
    OutOfDisk,
    QuorumUnavailable,
    SfssError,
    StaleRing,
    Stopping,
    TooLarge,
    Unreachable,
    Unsupported,
    WrongCluster,
)
from sfss.memcache.stamped import Stamped
from sfss.native import mypyc_attr
from sfss.promise import Promise, Turn
from sfss.store import Applied, Call, Record, Reply, Written, checksum_of

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator
    from proxy.grouping import GroupWrite

_SURELY_NOT_APPLIED: Final = (
    BadRequest,
    Busy,
    Expired,
    OutOfDisk,
    Stopping,
    TooLarge,
    Unreachable,
    Unsupported,
    WrongCluster,
)
"""Errors that a replica gives before it stores anything, unless they say otherwise themselves (`outcome`)."""


@mypyc_attr(free_list_len=1)
class _Delivery(Promise[Any]):
    """What a replica was given in the round of `call`, which is told of its reply, and may be the promise of it: 300
    instructions less than two objects."""

    __slots__ = ("_peer", "_round", "_write")

    def __init__(self, turn: Turn, write: Write, peer: Peer, call: Call) -> None:
        super().__init__(turn)
        self._write = write
        self._peer = peer
        self._round = call

    def told(self, promise: Promise[Any]) -> None:
        if promise.cancelled():
            self._write.heard(self._peer, self._round, Expired("cancelled", Outcome.UNKNOWN))
        else:
            self._write.heard(self._peer, self._round, promise.exception() or promise.result())


class Write:
    """One set or delete, from the stamp to the last replica's answer. It goes on when its caller leaves."""

    __slots__ = (
        "_accepted",
        "_asked",
        "_coordinator",
        "_deadline",
        "_doubtful",
        "_durable",
        "_error",
        "_errors",
        "_expires",
        "_flags",
        "_held",
        "_highest",
        "_left",
        "_owners",
        "_place",
        "_promise",
        "_record",
        "_sent",
        "_settled",
        "_shared",
        "_size",
        "_stamped",
        "_strictly",
        "_together",
        "_tombstone",
        "_value",
        "_votes",
        "_waiting",
        "_watchers",
        "_written",
        "due",
        "key",
        "later",
        "round",
        "started",
    )

    def __init__(
        self, coordinator: Coordinator, key: bytes, value: bytes, flags: int, expires: int, tombstone: bool, call: Call
    ) -> None:
        self._coordinator = coordinator
        self.key = key
        self._value = value
        self._size = len(value)
        self._flags = flags
        self._expires = expires
        self._tombstone = tombstone
        self._owners = coordinator.owners(key)
        self.started = coordinator.monotonic()
        self._deadline = min(call.deadline, self.started + coordinator.options.deadline_s)
        self.round = Call(self._deadline, self._owners.ring, call.request_id)
        """What goes to the replicas with it now; another one where it begins again."""
        self.due = coordinator.ends_at(self.started, call)
        """When `overdue` wants to be called (monotonic seconds)."""
        self._shared = call.shared
        self._record: Record | None = None
        self._stamped: Stamped | None = None
        """The same as each replica is given it."""
        self._asked = False
        """Whether the stamp is above what a read quorum answered after the write began."""
        self._sent = False
        self._left = False
        """Whether the ring of `_owners` is left for a later one, which isn't known here yet."""
        self._waiting = 0
        self._accepted = 0
        self._held = 0
        self._votes: dict[Peer, bool] | None = None
        """Of joint owners: who accepted it, and who held something newer."""
        self._doubtful = 0
        """Replicas that may have stored it without that counting: silent, failed half-way, suspect, or asked under a
        ring that was left."""
        self._durable = 0
        self._highest = 0
        self._errors: dict[Peer, Exception] | None = None
        self.later: Write | None = None
        """The next write of the key that this coordinator stamped while this one wasn't settled."""
        self._watchers: list[Callable[[Write], None]] | None = None
        self._settled = False
        self._strictly = False
        """Whether W replicas took it, or a later one in its stead, as the newest: proof that its stamp is above all
        that was acknowledged before."""
        self._written: Written | None = None
        self._error: Exception | None = None
        self._promise: Promise[Written | None] | None = None
        self._together: GroupWrite | None = None
        self._place = 0

    def start(self) -> Reply[Written | None]:
        """Begin. None is the answer of a delete that found nothing."""
        coordinator = self._coordinator
        self._begin()
        if not self._settled:
            self._promise = Promise(coordinator.turn)
            coordinator.watch(self)
            return self._promise
        if self._error is not None:
            raise self._error
        return self._written

    def start_in(self, together: GroupWrite, place: int) -> None:
        """Begin as one of a group, which sends what can be sent at once, and is told of the outcome of its `place`."""
        self._together = together
        self._place = place
        self._begin()
        if not self._settled:
            self._coordinator.watch(self)

    def _begin(self) -> None:
        coordinator = self._coordinator
        coordinator.admit(self._size)
        version = None
        if not (self._tombstone or self._shared or coordinator.must_ask(self.key, self._owners)):
            version = coordinator.stamp_unasked()
        if version is not None:
            self._send(version, self._together)
        elif self._tombstone:
            # Strict even where R = 1: what it finds decides whether anything is written.
            self._inquire(Read(coordinator, self.key, self.round, False, True))
        else:
            self._inquire(Survey(coordinator, self.key, self.round))

    def overdue(self, now: float) -> None:
        """Called once the deadline has passed: who hasn't answered by now won't."""
        if not self._settled:
            if not self._sent:
                self._settle(None, QuorumUnavailable(f"nothing was written in {now - self.started:.1f} s"))
            else:
                self._settle(None, self._shortfall(now, silent=self._waiting))

    def break_off(self, error: Exception) -> None:
        """End it with `error`, since `overdue` raised."""
        if not self._settled:
            self._settle(None, error)

    def order(self) -> tuple[int, int]:
        """What compares it with records; below all of them as long as it isn't stamped."""
        return self._record.order() if self._record else (0, 0)

    def proven_record(self) -> Record | None:
        """What was written, if W replicas hold it or newer and its stamp is known to be above all that was acknowledged
        before; a write that took the outcome of a later one lacks that proof."""
        proven = self._written is not None and (self._asked or self._is_accepted())
        return self._record if proven else None

    def when_settled(self, watcher: Callable[[Write], None]) -> None:
        """Call `watcher` with this write soon after its outcome is known."""
        if self._watchers is None:
            self._watchers = []
        self._watchers.append(watcher)

    # 1. asking, where that must come first

    def _inquire(self, inquiry: Read | Survey) -> None:
        try:
            reply = inquiry.start()
        except Exception as error:
            self._settle(None, error)
            return
        if isinstance(reply, Promise):
            reply.add_done_callback(self._inquired)
        else:
            self._answered(reply)

    def _inquired(self, reply: Promise[Record | None]) -> None:
        if self._settled:
            return
        error = reply.exception()
        if error is None:
            self._answered(reply.result())
        else:
            self._settle(None, error if isinstance(error, Exception) else Expired(str(error)))

    def _answered(self, found: Record | None) -> None:
        if self._tombstone and found is None:
            self._settle(None, None)
        else:
            self._asked = True
            if self._owners.ring != self._coordinator.placed.number:
                self._take_owners()
            self._send(self._coordinator.next_stamp(found.version if found else 0))

    # 2. sending

    def _send(self, version: int, together: GroupWrite | None = None) -> None:
        coordinator = self._coordinator
        key, value, flags, expires, tombstone = self.key, self._value, self._flags, self._expires, self._tombstone
        checksum = checksum_of(key, value, flags, expires, version, tombstone)
        record = Record(value, self._size, flags, expires, version, checksum, tombstone)
        self._record = record
        coordinator.joined(self)
        self._sent = True
        self._deliver(record, together)

    def _deliver(self, record: Record, together: GroupWrite | None = None) -> None:
        coordinator, owners = self._coordinator, self._owners
        self._votes = None if owners.joint is None else {}
        skip = not coordinator.health.well and coordinator.enough_are_well(owners)
        peers = coordinator.in_order(owners)
        self._waiting = len(peers)
        for peer in peers:
            if skip and peer.down:
                self._refused(peer, Unreachable(f"skipped: {peer.error}"))
                continue
            if together is not None:
                together.add(peer, self)
                continue
            self._give(peer)
            if self._left:
                return
        if self._stamped is not None:
            self._stamped.sent()
        self._decide()

    def stamped(self) -> Stamped:
        """What is sent, the same to each replica. Only once it has its stamp. Raises `BadKey`."""
        stamped, record = self._stamped, cast(Record, self._record)
        if stamped is None or stamped.record is not record:
            stamped = self._stamped = Stamped(self.key, record)
        return stamped

    def _give(self, peer: Peer) -> None:
        try:
            delivery = _Delivery(self._coordinator.turn, self, peer, self.round)
            reply = peer.apply(self.stamped(), self.round, delivery)
        except Exception as error:
            if not (isinstance(error, StaleRing) and self._follow_ring(peer, error)):
                self._coordinator.health.failed(peer, error)
                self._refused(peer, error)
            return
        if isinstance(reply, Promise):
            reply.tell(delivery)
        else:
            self._count(peer, reply)

    # 3. counting answers

    def heard(self, peer: Peer, call: Call, outcome: Applied | BaseException) -> None:
        """Count what a replica answered in the round of `call`."""
        # Each round has a call of its own, also one under the same ring: a replica counts once in it.
        if self._left or call is not self.round:
            return  # to a question of a round that was left: what it may have stored is among the doubtful
        if not isinstance(outcome, Applied):
            failure = outcome if isinstance(outcome, Exception) else Expired(str(outcome), Outcome.UNKNOWN)
            if isinstance(failure, StaleRing) and self._follow_ring(peer, failure):
                return
            coordinator = self._coordinator
            took_s = coordinator.monotonic() - self.started
            # That a caller was in a hurry says nothing about the node.
            if not isinstance(failure, Expired) or took_s >= coordinator.options.node_deadline_s:
                coordinator.health.failed(peer, failure, self.started)
            self._refused(peer, failure)
        else:
            peer.apply_latency.record(self._coordinator.monotonic() - self.started)
            if peer.silences or peer.down or peer.suspect:
                self._coordinator.health.answered(peer, self.started)
            self._count(peer, outcome)
        if not self._settled:
            self._decide()

    def applied(self, peer: Peer, call: Call, outcome: Applied) -> None:
        """The same of a peer that is well, whose latency the caller notes."""
        if self._left or call is not self.round:
            return
        self._count(peer, outcome)
        if not self._settled:
            self._decide()

    def _count(self, peer: Peer, applied: Applied) -> None:
        self._waiting -= 1
        if applied.accepted:
            if peer.suspect:
                self._doubtful += 1
                return
            self._accepted += 1
            if self._votes is not None:
                self._votes[peer] = True
        else:
            self._coordinator.clock.observe(applied.version)
            self._highest = max(self._highest, applied.version)
            if not self._settled and applied.version > self._newest_own_stamp():
                self._coordinator.share(self.key)  # somebody else writes it too
            if peer.suspect:
                return
            self._held += 1
            if self._votes is not None:
                self._votes[peer] = False
        self._durable += applied.durable

    def _newest_own_stamp(self) -> int:
        newest = self
        while newest.later is not None:
            newest = newest.later
        return newest.order()[0]

    def _refused(self, peer: Peer, error: Exception) -> None:
        self._waiting -= 1
        if self._errors is None:
            self._errors = {}
        self._errors[peer] = error
        if not (isinstance(error, _SURELY_NOT_APPLIED) and error.outcome is Outcome.NOT_APPLIED):
            self._doubtful += 1
        if self._written is not None:
            self._hint(peer)

    # where rings differ

    def _follow_ring(self, peer: Peer, error: StaleRing) -> bool:
        """A replica refused, since it is at another ring: bring it ours, or wait for that one and begin again. False
        where neither is to be had."""
        rings = self._coordinator.rings
        if rings is None or error.ring == self._owners.ring:
            return False
        if error.ring < self._owners.ring:
            rings.teach(peer).add_done_callback(partial(self._taught, peer, self.round, error))
            return True
        if self._settled:
            rings.heard(peer, error.ring)
            return False
        if not rings.after(error.ring, peer, self):
            return False
        self._left = True
        self._doubtful += self._accepted + self._waiting - 1
        self._accepted = self._held = self._durable = self._waiting = 0
        self._errors = {peer: error}
        return True

    def _taught(self, peer: Peer, call: Call, refusal: StaleRing, taught: Promise[None]) -> None:
        """The replica is at our ring, or could not be brought there."""
        record = self._record
        if self._left or call is not self.round or record is None:
            return
        if taught.exception() is None:
            self._give(peer)
        else:
            self._refused(peer, refusal)
        if not (self._settled or self._left):
            self._decide()

    def begin_again(self) -> None:
        """A later ring is in use: the same record goes to its owners, since it may be stored already. An asked stamp
        stays one: nobody could be asked under a ring that was left by then."""
        record = self._record
        if not self._settled and record is not None:
            self._left = False
            self._errors = None
            self._take_owners()
            self._deliver(record)

    def _take_owners(self) -> None:
        self._owners = self._coordinator.owners(self.key)
        self.round = self.round.at_ring(self._owners.ring)

    # 4. deciding

    def _is_accepted(self) -> bool:
        """Whether a write quorum has taken it as the newest."""
        return self._accepted >= self._owners.w and (self._votes is None or self._is_everywhere(False))

    def _is_taken(self) -> bool:
        """Whether a write quorum has taken it, or holds something newer."""
        enough = self._accepted + self._held >= self._owners.w
        return enough and (self._votes is None or self._is_everywhere(True))

    def _is_everywhere(self, refusals_too: bool) -> bool:
        """Whether it is so among the old owners and among the new ones."""
        votes = self._votes or {}
        for side in self._owners.joint or ():
            if sum(votes[peer] or refusals_too for peer in side.peers if peer in votes) < side.w:
                return False
        return True

    def _decide(self) -> None:
        if self._is_accepted():
            self._strictly = True
            self._settle(self._achieved(self._durable), None)
        elif self._asked and self._is_taken():
            self._settle(self._achieved(self._durable), None)
        elif not self._waiting:
            self._fall_short()

    def _fall_short(self) -> None:
        coordinator = self._coordinator
        if not (self._asked or self._accepted or self._doubtful) and self._is_taken():
            # It is nowhere, and more than a read quorum has said what it holds.
            coordinator.counters.restamped += 1
            self._asked = True
            self._held = self._durable = 0
            self._errors = None
            self.later = None
            self._send(coordinator.next_stamp(self._highest))
        elif self.later is not None:
            self._follow(self.later)
        else:
            self._settle(None, self._shortfall(coordinator.monotonic(), silent=0))

    def _follow(self, later: Write) -> None:
        """Take the outcome of a later write of this coordinator, the next one whose outcome vouches for this one."""
        while later._settled:
            if later._strictly and later._written is not None and later.order() > self.order():
                self._strictly = True
                self._settle(self._achieved(later._written.durable), None)
                return
            if later.later is None:
                self._settle(None, self._shortfall(self._coordinator.monotonic(), silent=0))
                return
            later = later.later
        later.when_settled(self._followed)

    def _followed(self, later: Write) -> None:
        if not self._settled:
            self._follow(later)

    def _hint(self, peer: Peer) -> None:
        """An owner missed what was acknowledged: note it down. Counts toward nothing."""
        hints = self._coordinator.hints
        if hints is not None and self._record is not None:
            hints.add(peer, self.key, self._record)

    def _achieved(self, durable: int) -> Written:
        record = self._record
        if record is None:
            return Written()
        written = Written(record.version, record.checksum, durable, self._owners.copies)
        stamped = self._stamped
        if stamped is not None and stamped.record is record:
            written.words = stamped.words
        return written

    def _settle(self, written: Written | None, error: Exception | None) -> None:
        coordinator = self._coordinator
        self._settled = True
        self._written, self._error = written, error
        if self._record is not None:
            coordinator.left(self)
        if self._strictly:
            self.later = None  # nobody asks further; else a write that waits for a slow node holds all later ones
        coordinator.dismiss(self._size)
        if self._left and coordinator.rings is not None:
            coordinator.rings.leave(self)
        if written is not None and self._errors is not None:
            for peer in self._errors:
                self._hint(peer)
        if error is not None and self._sent:
            coordinator.counters.count_failure(error)
        promise = self._promise
        if promise is not None:
            coordinator.unwatch(self)
            if not promise.done():
                if error is None:
                    promise.set_result(written)
                else:
                    promise.set_exception(error)
        elif self._together is not None:
            coordinator.unwatch(self)
            self._together.settled(self._place, written if error is None else error)
        watchers, self._watchers = self._watchers, None
        for watcher in watchers or ():
            # Not at once: of a thousand writes that wait one for the next, the first's stack would hold all others'.
            coordinator.loop.call_soon(watcher, self)

    def _shortfall(self, now: float, silent: int) -> SfssError:
        """The error for too few acceptances, in numbers, and what may have become of the write."""
        owners = self._owners
        errors = self._errors or {}
        if not (self._accepted or self._doubtful or silent):
            kinds = {type(error) for error in errors.values()}
            if len(errors) == len(owners.peers) and len(kinds) == 1:
                kind = kinds.pop()
                if kind in (Unreachable, Busy, OutOfDisk, TooLarge):
                    return kind("; ".join(f"{peer.name}: {error}" for peer, error in errors.items()))
            outcome = Outcome.NOT_APPLIED
        else:
            outcome = Outcome.UNKNOWN
        reasons = "; ".join(f"{peer.name}: {error or type(error).__name__}" for peer, error in errors.items())
        return QuorumUnavailable(
            f"{owners.w} of {owners.copies} replicas needed, {self._accepted} took it, {self._held} held a newer one, "
            f"{silent} didn't answer in {now - self.started:.1f} s{': ' if reasons else ''}{reasons}",
            outcome,
        )
