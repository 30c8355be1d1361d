"""The coordinator: one `Store` over N replicas of each key.

It owns the ring in use, stamps, admission and the one timer of all requests in flight; what happens to a request is in
`proxy.reading` and `proxy.writing`. It holds no files, and of keys only which ones somebody else was seen to write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from proxy.counters import Counters
from proxy.figures import Figures, check_topic
from proxy.gathering import Gathering
from proxy.grouping import GroupRead, GroupWrite
from proxy.health import Health
from proxy.options import Options
from proxy.peer import Peer
from proxy.placed_ring import Owners, PlacedRing
from proxy.reading import Read
from proxy.writing import Write
from sfss.errors import Busy, Outcome, Unavailable
from sfss.groups import Item
from sfss.keys import hash_key
from sfss.promise import Promise, Turn, promised, turn_of
from sfss.stamps import StampClock, too_far_ahead
from sfss.store import NO_CALL, Call, Record, Reply, Written

_HEDGES_SAVED_MAX: Final = 10.0

_log = logging.getLogger("sfss.proxy")


class Reserve(Protocol):
    """How far stamps may rise before a later life of this coordinator could issue them again. Those below `sure_below`
    surely won't be issued again, which needs no asking."""

    sure_below: int

    def covers(self, stamp: int) -> bool:
        """Whether a stamp surely won't be issued again. Sees to it that later ones are covered, too."""


class HintKeeper(Protocol):
    """Who sees to it that a replica gets what it missed of a write that was acknowledged."""

    def add(self, peer: Peer, key: bytes, record: Record) -> None:
        """The peer may lack the record. Never raises, never waits."""

    def figures(self, peers: Sequence[Peer]) -> dict[str, str]:
        """What `stats` tells of it."""


class WaitsForRing(Protocol):
    """A request that was refused for its ring."""

    def begin_again(self) -> None:
        """Ask once more, under whatever ring is in use now."""


class Rings(Protocol):
    """Who sees to it that this coordinator and its nodes are at one ring, the latest that any of them knows of."""

    def after(self, number: int, peer: Peer, request: WaitsForRing) -> bool:
        """The peer is at a later ring than ours. The request begins again once we are at that one, or it can't be had
        for now. False where the peer is known to have nothing but the number."""

    def leave(self, request: WaitsForRing) -> None:
        """The request has ended, and waits no more if it did."""

    def teach(self, peer: Peer) -> Promise[None]:
        """Bring our ring to a peer that is behind. The future has an error where that fails."""

    def heard(self, peer: Peer, number: int) -> None:
        """A peer said that this is the number of its ring: see to it in time."""


class Coordinator:
    """Implements `sfss.store.Store` over the members of `placed`.

    `reserve` is None where stamps leave no trace: then every write asks before it stamps. `now` is Unix seconds, and
    decides for all replicas whether a record has expired; `monotonic` is what deadlines are in. Without `hints` a
    replica that missed a write lacks it until it is read or compared.
    """

    def __init__(
        self,
        placed: PlacedRing,
        *,
        options: Options | None = None,
        health: Health | None = None,
        clock: StampClock | None = None,
        reserve: Reserve | None = None,
        hints: HintKeeper | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.placed = placed
        """The ring in use."""
        self.options = options or Options()
        self.health = health or Health(
            placed.peers,
            probe_s_min=self.options.probe_s_min,
            probe_s_max=self.options.probe_s_max,
            monotonic=monotonic,
        )
        self.clock = clock or StampClock(now)
        self.now = now
        self.monotonic = monotonic
        self.counters = Counters()
        self.figures = Figures(self)
        self.hints = hints
        self.rings: Rings | None = None
        """None where the ring never changes."""
        self._reserve = reserve
        self._shift = placed.shift
        self._table = placed.table
        # In the order of their beginning, which a set doesn't keep: a simulated schedule must repeat exactly.
        self._in_flight: dict[Gathering | GroupRead | Write, None] = {}
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: Turn | None = None
        self._newest_writes: dict[bytes, Write] = {}
        self._shared_keys: dict[bytes, float] = {}
        self._hedges_saved = _HEDGES_SAVED_MAX
        self._drained: asyncio.Future[None] | None = None

    # Store

    def get(self, key: bytes, call: Call = NO_CALL) -> Reply[Record | None]:
        return self._read(key, call, True)

    def head(self, key: bytes, call: Call = NO_CALL) -> Reply[Record | None]:
        return self._read(key, call, False)

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Reply[Written]:
        return Write(self, key, value, flags, expires, False, call).start()  # type: ignore[return-value]  # never None

    def delete(self, key: bytes, call: Call = NO_CALL) -> Reply[Written | None]:
        return Write(self, key, b"", 0, 0, True, call).start()

    def get_many(self, keys: Sequence[bytes], call: Call = NO_CALL) -> Reply[list[Any]]:
        """Read several keys with one question to each node; what isn't plain is left out (`sfss.groups`)."""
        self._admit_read(len(keys))
        return GroupRead(self, keys).start(call)

    def set_many(self, items: Sequence[Item], call: Call = NO_CALL) -> Reply[list[Any]]:
        """Write several files; what can be stamped at once goes to each node in one request."""
        together = GroupWrite(self)
        for item in items:
            together.begin(Write(self, item.key, item.value, item.flags, item.expires, False, call))
        return together.send()

    def stats(self, topic: str = "", call: Call = NO_CALL) -> Reply[dict[str, str]]:
        check_topic(topic)
        return promised(self.loop.create_task(self.figures.of_topic(topic), name="stats"))

    async def close(self, grace_s: float = 5.0) -> None:
        """Let writes under way reach their replicas, at most for `grace_s`; idempotent. The replicas stay open: they
        belong to whoever made them."""
        if self._in_flight:
            self._drained = self.loop.create_future()
            await asyncio.wait([self._drained], timeout=grace_s)
        self.health.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.figures.close()

    def _read(self, key: bytes, call: Call, whole: bool) -> Reply[Record | None]:
        self._admit_read(1)
        return Read(self, key, call, whole).start()

    def _admit_read(self, keys: int) -> None:
        if len(self._in_flight) >= self.options.in_flight_max:
            self.counters.busy += 1
            raise Busy(f"{len(self._in_flight)} requests in flight")
        if self._hedges_saved < _HEDGES_SAVED_MAX:
            self._hedges_saved += keys * self.options.hedge_budget

    def take_over(self, placed: PlacedRing) -> None:
        """Go over to another ring. Requests under way end under the one that they began with, or begin again."""
        self.placed = placed
        self._shift = placed.shift
        self._table = placed.table
        self.health.watch(placed.peers)

    # what requests ask of their coordinator

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    @property
    def turn(self) -> Turn:
        if self._turn is None:
            self._turn = turn_of(self.loop)
        return self._turn

    def owners(self, key: bytes) -> Owners:
        """Who keeps a key."""
        return self._table[hash_key(key) >> self._shift]

    def in_order(self, owners: Owners) -> tuple[Peer, ...]:
        """The peers in the order in which to ask them: troubled ones last."""
        if self.health.well:
            return owners.peers
        return tuple(sorted(owners.peers, key=lambda peer: peer.down + peer.suspect))

    def shows(self, record: Record) -> bool:
        """Whether a reader may see a record now. Few expire: for the others nobody asks what time it is."""
        return not record.tombstone and (record.expires == 0 or record.expires > self.now())

    def ends_at(self, started: float, call: Call) -> float:
        """When a request is to be given up, so that its answer is there at its deadline: requests are looked at every
        `sweep_s`."""
        return min(call.deadline, started + self.options.deadline_s) - self.options.sweep_s

    def call_to_node(self, now: float, deadline: float, ring: int, request_id: bytes) -> Call:
        """What goes with a question to a node that is asked now, as an owner under a ring."""
        return Call(min(deadline, now + self.options.node_deadline_s), ring, request_id)

    def enough_are_well(self, owners: Owners) -> bool:
        """Whether a write quorum is to be had without those that are down or suspect."""
        if owners.joint is not None:
            return self.enough_are_well(owners.joint[0]) and self.enough_are_well(owners.joint[1])
        return sum(not (peer.down or peer.suspect) for peer in owners.peers) >= owners.w

    def may_hedge(self, reads: int = 1) -> bool:
        """Whether the budget allows one read more; takes it. Of a group it takes all `reads`, and may be overdrawn."""
        if self._hedges_saved < 1.0:
            return False
        self._hedges_saved -= reads
        self.counters.hedges += reads
        return True

    # figures

    @property
    def in_flight(self) -> int:
        """Requests not yet answered."""
        return len(self._in_flight)

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of the values of writes not yet answered."""
        return self._bytes

    @property
    def shared_keys(self) -> int:
        """Keys that somebody else was lately seen to write."""
        return len(self._shared_keys)

    @property
    def stamping(self) -> str:
        """Whether writes are stamped at once, or ask first."""
        return "ask first" if self.options.shared or self._reserve is None else "at once"

    # admission, and the timer of all requests

    def admit(self, size: int) -> None:
        """Take on a write of so many bytes, or refuse it (`Busy`)."""
        if len(self._in_flight) >= self.options.in_flight_max or self._bytes + size > self.options.in_flight_bytes_max:
            self.counters.busy += 1
            raise Busy(f"{len(self._in_flight)} requests with {self._bytes} bytes to write are in flight")
        self._bytes += size

    def dismiss(self, size: int) -> None:
        self._bytes -= size

    def watch(self, request: Gathering | GroupRead | Write) -> None:
        """Call the request's `overdue` when it is due, until `unwatch`; its `break_off` where that raises."""
        self._in_flight[request] = None
        if self._timer is None:
            self._timer = self.loop.call_later(self.options.sweep_s, self._sweep)

    def unwatch(self, request: Gathering | GroupRead | Write) -> None:
        if request in self._in_flight:
            del self._in_flight[request]
        if self._drained is not None and not self._in_flight and not self._drained.done():
            self._drained.set_result(None)

    def _sweep(self) -> None:
        now = self.monotonic()
        for request in [request for request in self._in_flight if request.due <= now]:
            try:
                request.overdue(now)
            except Exception:
                # The timer is everybody's: one request's fault must not stop it.
                _log.exception("a request could not be ended in time")
                self.unwatch(request)
                request.break_off(Unavailable("a fault kept it from ending; the proxy's log has more", Outcome.UNKNOWN))
        self._timer = self.loop.call_later(self.options.sweep_s, self._sweep) if self._in_flight else None

    # the writes of one key

    def must_ask(self, key: bytes, owners: Owners) -> bool:
        """Whether a write has to ask before it stamps: others write the key, stamps leave no trace, or so few nodes
        are up that the asking may well fail, after which surely nothing was written."""
        if self.options.shared or self._reserve is None:
            return True
        if not self.health.well and not self.enough_are_well(owners):
            return True
        if self._shared_keys:
            until = self._shared_keys.get(key)
            if until is not None:
                if until > self.monotonic():
                    return True
                del self._shared_keys[key]
        return False

    def stamp_unasked(self) -> int | None:
        """A stamp for a write that doesn't ask; None where a later life could issue it again."""
        stamp, reserve = self.next_stamp(), self._reserve
        return stamp if reserve is not None and (stamp < reserve.sure_below or reserve.covers(stamp)) else None

    def next_stamp(self, above: int = 0) -> int:
        """A stamp above all issued and seen before, unless those were issued by a clock that was far ahead and has
        been set right since: nodes would refuse every stamp until time has caught up."""
        if too_far_ahead(self.clock.last, self.now()):
            _log.warning("the clock was set back by over 10 minutes; stamps follow it")
            self.clock = StampClock(self.now)
        return self.clock.next(above)

    def share(self, key: bytes) -> None:
        """Somebody else was seen to write the key."""
        self._shared_keys.pop(key, None)
        self._shared_keys[key] = self.monotonic() + self.options.shared_key_s
        if len(self._shared_keys) > self.options.shared_keys_max:
            del self._shared_keys[next(iter(self._shared_keys))]

    def joined(self, write: Write) -> None:
        """The write has its stamp: it comes after all others of its key."""
        key = write.key
        before = self._newest_writes.get(key)
        if before is not None and before is not write:
            before.later = write
        self._newest_writes[key] = write

    def left(self, write: Write) -> None:
        """The write is settled."""
        if self._newest_writes.get(write.key) is write:
            del self._newest_writes[write.key]

    def write_under_way(self, key: bytes) -> Write | None:
        """The write of the key that was stamped last, while it isn't settled."""
        return self._newest_writes.get(key)
