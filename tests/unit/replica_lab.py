"""A coordinator over replicas that answer when, how and whether the test says; on virtual time.

A call to a `LabReplica` waits in `calls` until the test lets it be answered, refused, or carried out without an
answer. What it holds is a `MemoryStore`, so a replica's own rules are those of every replica.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from proxy.coordinator import Coordinator
from proxy.health import Health
from proxy.hint_store import Hint, HintStore
from proxy.hints import Hints
from proxy.options import Options
from proxy.peer import Peer
from proxy.placed_ring import PlacedRing
from proxy.quorum import Quorum
from proxy.replay import Replay
from sfss.errors import SfssError
from sfss.memory import MemoryStore
from sfss.promise import Promise, new_promise
from sfss.ring import Member, NodeRing
from sfss.stamps import COUNT_BITS, StampClock
from sfss.store import NO_CALL, Call, Identity, Record, checksum_of

KEY = b"some/file"
WALL = 1_800_000_000.0
"""Unix seconds at which a lab's time begins."""


class AlwaysReserved:
    sure_below = 0

    def covers(self, stamp: int) -> bool:
        return True


class LabCall:
    """One request that a replica has got."""

    def __init__(self, replica: LabReplica, kind: str, args: tuple[Any, ...], call: Call) -> None:
        self.kind = kind
        self.args = args
        self.call = call
        self.promise: Promise[Any] = new_promise()
        self._replica = replica

    def execute(self) -> Any:
        """Carry it out; the answer is lost."""
        return getattr(self._replica.store, self.kind)(*self.args)

    async def answer(self) -> None:
        """Carry it out and let the answer arrive."""
        self.promise.set_result(self.execute())
        self._replica.calls.remove(self)
        await turns()

    async def refuse(self, error: SfssError) -> None:
        self.promise.set_exception(error)
        self._replica.calls.remove(self)
        await turns()

    @property
    def record(self) -> Record:
        """What an apply brings."""
        record: Record = self.args[1]
        return record


class LabReplica:
    """`at_once`: answers directly. `failing`: every call raises this. `log` keeps the kinds of all calls."""

    def __init__(self, name: str, now: Any) -> None:
        self.store = MemoryStore(now, node=name, durable=True)
        self.at_once = False
        self.failing: SfssError | None = None
        self.calls: list[LabCall] = []
        self.log: list[str] = []
        self.identity = Identity(name, "cluster", 1, "fingerprint")

    def _asked(self, kind: str, args: tuple[Any, ...], call: Call) -> Any:
        self.log.append(kind)
        if self.failing is not None:
            raise self.failing
        if self.at_once:
            return getattr(self.store, kind)(*args)
        request = LabCall(self, kind, args, call)
        self.calls.append(request)
        return request.promise

    def read(self, key: bytes, call: Call = NO_CALL) -> Any:
        return self._asked("read", (key,), call)

    def inspect(self, key: bytes, call: Call = NO_CALL) -> Any:
        return self._asked("inspect", (key,), call)

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Any:
        return self._asked("apply", (key, record), call)

    def stats(self, topic: str = "", call: Call = NO_CALL) -> Any:
        return self._asked("stats", (topic,), call)

    def identify(self) -> Any:
        if self.failing is not None:
            raise self.failing
        return self.identity

    def bind(self, cluster: str, ring: int, fingerprint: str) -> Any:
        raise AssertionError("a coordinator binds nobody")

    @property
    def held(self) -> Record | None:
        return self.store.records.get(KEY)

    def hold(self, record: Record, key: bytes = KEY) -> None:
        """Put a record there behind everybody's back."""
        assert self.store.apply(key, record).accepted

    def call(self, kind: str) -> LabCall:
        """The oldest waiting call of a kind."""
        return next(call for call in self.calls if call.kind == kind)

    def waiting(self, kind: str) -> int:
        return sum(call.kind == kind for call in self.calls)


class Lab:
    """`replicas` are in the order in which the coordinator asks those of `KEY`."""

    def __init__(
        self,
        count: int = 3,
        n: int = 3,
        w: int = 2,
        r: int = 2,
        *,
        reserve: Any = None,
        asks: bool = False,
        **options: Any,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._offset = WALL - loop.time()
        self.wall_ahead = 0.0
        members = [Member(f"{name}:1") for name in "abcdefgh"[:count]]
        quorum = Quorum.over(count, n, w, r)
        self.ring = NodeRing(members, quorum.n, partitions=2)
        everybody = [LabReplica(member.name, self.now) for member in self.ring.members]
        self.peers = [Peer(member.name, replica) for member, replica in zip(self.ring.members, everybody, strict=True)]
        self.replicas = [everybody[index] for index in self.ring.owners(KEY)]
        self.health = Health(self.peers, probe_s_min=0.1, probe_s_max=1.0, monotonic=loop.time)
        self.clock = StampClock(self.now)
        self.coordinator = Coordinator(
            PlacedRing.of(self.ring, self.peers, quorum),
            options=Options(**options),
            health=self.health,
            clock=self.clock,
            reserve=None if asks else reserve or AlwaysReserved(),
            now=self.now,
            monotonic=loop.time,
        )

    def now(self) -> float:
        return self._offset + asyncio.get_event_loop().time() + self.wall_ahead

    def peer(self, replica: LabReplica) -> Peer:
        return next(peer for peer in self.peers if peer.replica is replica)

    def at_once(self, *replicas: LabReplica) -> None:
        for replica in replicas or self.replicas:
            replica.at_once = True

    def stamp(self, seconds_ago: float = 0.0) -> int:
        return int((self.now() - seconds_ago) * 1000) << COUNT_BITS

    def record(
        self,
        value: bytes = b"",
        *,
        seconds_ago: float = 60.0,
        flags: int = 0,
        expires: int = 0,
        tombstone: bool = False,
        key: bytes = KEY,
    ) -> Record:
        """A record as it was written so long ago."""
        version = self.stamp(seconds_ago)
        checksum = checksum_of(key, value, flags, expires, version, tombstone)
        return Record(value, len(value), flags, expires, version, checksum, tombstone)


class HintLab(Lab):
    """A lab whose coordinator keeps hints, in memory. `nodes` has the id of the node at each address, `marked` the
    partitions of dropped hints; `replay` isn't started."""

    def __init__(self, store: HintStore | None = None, **options: Any) -> None:
        super().__init__(**options)
        loop = asyncio.get_running_loop()
        self.nodes = {peer.name: f"node of {peer.name}" for peer in self.peers}
        self.marked: list[int] = []
        self.store = store or HintStore(None)
        weakref.finalize(self, self.store.close)
        self.hints = Hints(
            self.store,
            self.ring.partition,
            node_of=lambda peer: self.nodes.get(peer.name, ""),
            mark=self.marked.append,
            options=self.coordinator.options,
            now=self.now,
            monotonic=loop.time,
        )
        self.coordinator.hints = self.hints
        self.replay = Replay(self.coordinator, self.hints)

    def node(self, replica: LabReplica) -> str:
        return self.nodes[self.peer(replica).name]

    def kept(self, node: str = "") -> list[Hint]:
        """The hints in the store, for one node or all that are known."""
        return [
            hint for one in ([node] if node else self.nodes.values()) for hint in self.store.after(one, b"", 10_000)
        ]

    def figures(self) -> dict[str, str]:
        return self.hints.figures(self.peers)


async def turns(count: int = 5) -> None:
    """Let everything happen that needs no time."""
    for _ in range(count):
        await asyncio.sleep(0)


async def outcome(reply: Any) -> Any:
    """What came of a reply: the value, or the error."""
    try:
        return await reply
    except SfssError as error:
        return error
