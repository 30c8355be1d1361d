"""A whole cluster on virtual time: coordinators with clocks of their own, nodes behind a network that delays, reorders,
loses requests and answers, and cuts nodes off; clients that write unique values and note what they saw.

All randomness comes from one seed, so a run can be repeated. Parts can be substituted to plant faults.
"""

from __future__ import annotations

import asyncio
import math
import random
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.coordinator import Coordinator
from proxy.health import Health
from proxy.hint_store import HintStore
from proxy.hints import Hints
from proxy.options import Options
from proxy.peer import Peer
from proxy.placed_ring import PlacedRing
from proxy.quorum import Quorum
from proxy.replay import Replay
from sfss.errors import Busy, ConnectionLost, CorruptRecord, Expired, Outcome, SfssError, Unreachable
from sfss.groups import Item, LeftOut
from sfss.memory import MemoryStore
from sfss.promise import Promise, new_promise
from sfss.ring import Member, NodeRing
from sfss.stamps import StampClock
from sfss.store import NO_CALL, Call, Record, Written, settled
from tests.cluster.linearizability import Operation
from tests.unit.replica_lab import WALL, AlwaysReserved


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad the network is. Probabilities are per request; delays are seconds, and some are `late_times` as long, so
    that requests overtake one another and now and then one arrives when all is over."""

    delay_s: float = 0.01
    late: float = 0.03
    late_times: float = 30.0
    lost: float = 0.02
    refused: float = 0.02
    corrupt: float = 0.01
    cut_off_every_s: float = 2.0
    cut_off_s: float = 1.0


class SimulatedNode:
    """One node behind the network of one coordinator."""

    def __init__(self, store: MemoryStore, weather: Weather, rng: random.Random, cut_off: Callable[[], bool]) -> None:
        self._store = store
        self._weather = weather
        self._rng = rng
        self._cut_off = cut_off

    def _send(self, kind: str, *args: Any) -> Promise[Any]:
        loop = asyncio.get_running_loop()
        promise = new_promise()
        rng, weather = self._rng, self._weather
        if rng.random() < weather.refused:
            raise rng.choice([Busy("simulated"), Unreachable("simulated")])
        if rng.random() >= weather.lost:
            loop.call_later(self._delay(), self._arrive, promise, kind, args)
        elif rng.random() < 0.5:
            loop.call_later(self._delay(), self._fail, promise, ConnectionLost("simulated", Outcome.UNKNOWN))
        return promise

    def _send_until(self, deadline: float, kind: str, *args: Any) -> Promise[Any]:
        """For requests that nobody gives up: as a connection does that has heard nothing for so long."""
        promise = self._send(kind, *args)
        asyncio.get_running_loop().call_at(deadline, self._fail, promise, Expired("simulated", Outcome.UNKNOWN))
        return promise

    def _delay(self) -> float:
        late = self._rng.random() < self._weather.late
        return self._rng.expovariate(1 / self._weather.delay_s) * (self._weather.late_times if late else 1.0)

    def _arrive(self, promise: Promise[Any], kind: str, args: tuple[Any, ...]) -> None:
        if self._cut_off():
            return
        loop = asyncio.get_running_loop()
        if kind == "read" and self._rng.random() < self._weather.corrupt:
            loop.call_later(self._delay(), self._fail, promise, CorruptRecord("simulated"))
            return
        try:
            answer = getattr(self._store, kind)(*args)
        except SfssError as error:
            loop.call_later(self._delay(), self._fail, promise, error)
            return
        if self._rng.random() < self._weather.lost:
            loop.call_later(self._delay(), self._fail, promise, ConnectionLost("simulated", Outcome.UNKNOWN))
        else:
            loop.call_later(self._delay(), self._resolve, promise, answer)

    def _resolve(self, promise: Promise[Any], answer: Any) -> None:
        if not promise.done():
            promise.set_result(answer)

    def _fail(self, promise: Promise[Any], error: SfssError) -> None:
        if not promise.done():
            promise.set_exception(error)
            promise.exception()

    def read(self, key: bytes, call: Call = NO_CALL) -> Any:
        return self._send("read", key, call)

    def inspect(self, key: bytes, call: Call = NO_CALL) -> Any:
        return self._send("inspect", key, call)

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Any:
        return self._send_until(call.deadline, "apply", key, record, call)

    def identify(self) -> Any:
        return self._send_until(asyncio.get_running_loop().time() + 1.0, "identify")

    def bind(self, cluster: str, ring: int, fingerprint: str) -> Any:
        raise AssertionError("a coordinator binds nobody")

    def stats(self, topic: str = "", call: Call = NO_CALL) -> Any:
        return self._send("stats", topic)


class SimulatedCluster:
    """Three nodes and some coordinators, of which `sharing` know that there are others. `histories` has what clients
    saw, by key. With `hints` the coordinators keep and replay them, and all that was acknowledged comes to be on all
    nodes."""

    def __init__(
        self,
        rng: random.Random,
        *,
        coordinators: int = 1,
        sharing: int = 0,
        skew_s: float = 0.0,
        quorum: Quorum | None = None,
        weather: Weather | None = None,
        node: Callable[..., MemoryStore] = MemoryStore,
        hints: bool = False,
    ) -> None:
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._weather = weather or Weather()
        self._cut_off_until = [0.0, 0.0, 0.0]
        self._stores = [node(self.now, node=f"n{index}", durable=True) for index in range(3)]
        self._ring = NodeRing([Member(f"n{index}:1") for index in range(3)], 3, partitions=2)
        for store in self._stores:
            store.bind("cluster", self._ring.number, self._ring.fingerprint)
        self._quorum = quorum or Quorum.over(3)
        self._value = 0
        self._grouped = False
        self._mix = [8, 8, 3, 2]
        """How often clients set, get, head and delete."""
        self.histories: dict[bytes, list[Operation]] = {}
        self.outcomes: dict[str, int] = {}
        self.marked: list[int] = []
        """The partitions of hints that were dropped."""
        self.hints: list[Hints] = []
        self.replays: list[Replay] = []
        self._with_hints = hints
        self.acknowledged: dict[bytes, int] = {}
        """The newest acknowledged version of each key."""
        self.coordinators = [
            self._coordinator(rng.uniform(-skew_s, skew_s), shared=index < sharing) for index in range(coordinators)
        ]

    def now(self) -> float:
        return WALL + self._loop.time()

    def _coordinator(self, skew_s: float, shared: bool) -> Coordinator:
        peers = [
            Peer(f"n{index}:1", SimulatedNode(store, self._weather, self._rng, lambda index=index: self._is_cut(index)))
            for index, store in enumerate(self._stores)
        ]
        options = Options(shared=shared, deadline_s=1.0, node_deadline_s=0.3, hint_round_s=0.1)
        coordinator = Coordinator(
            PlacedRing.of(self._ring, peers, self._quorum),
            options=options,
            health=Health(peers, probe_s_min=0.05, probe_s_max=0.5, rng=self._rng, monotonic=self._loop.time),
            clock=StampClock(lambda: self.now() + skew_s),
            reserve=AlwaysReserved(),
            now=self.now,
            monotonic=self._loop.time,
        )
        if self._with_hints:
            self._keep_hints(coordinator, options)
        return coordinator

    def _keep_hints(self, coordinator: Coordinator, options: Options) -> None:
        store = HintStore(None)
        weakref.finalize(self, store.close)
        hints = coordinator.hints = Hints(
            store,
            self._partition,
            node_of=lambda peer: f"node at {peer.name}",
            mark=self.marked.append,
            options=options,
            now=self.now,
            monotonic=self._loop.time,
        )
        self.hints.append(hints)
        self.replays.append(Replay(coordinator, hints))
        self.replays[-1].start()

    def _partition(self, key: bytes) -> int:
        return self._ring.partition(key)

    def _heal(self) -> None:
        self._cut_off_until = [0.0, 0.0, 0.0]

    async def _settle_hints(self) -> None:
        """Wait until no hint is left, with the nodes where they are."""
        self._heal()
        await asyncio.sleep(3.0)  # for what is still unheard
        async with asyncio.timeout(3600):
            while any(hints.waiting() for hints in self.hints):
                await asyncio.sleep(0.1)
        for replay in self.replays:
            await replay.close()

    def behind(self) -> list[tuple[int, bytes]]:
        """The nodes, and keys, that lack what was acknowledged."""
        return [
            (index, key)
            for index, store in enumerate(self._stores)
            for key, version in self.acknowledged.items()
            if key not in store.records or store.records[key].version < version
        ]

    def _is_cut(self, index: int) -> bool:
        return self._cut_off_until[index] > self._loop.time()

    async def run(
        self, *, clients: int, operations: int, keys: int = 2, pause_s: float = 0.01, grouped: bool = False
    ) -> None:
        """Let clients work side by side, each on one coordinator; then wait until nothing is under way. `grouped`: half
        of their reads and sets are of all keys in one group."""
        self._grouped = grouped
        trouble = asyncio.ensure_future(self._make_trouble())
        await asyncio.gather(*(self._client(number, operations, keys, pause_s) for number in range(clients)))
        trouble.cancel()
        if self._with_hints:
            await self._settle_hints()
        for coordinator in self.coordinators:
            await coordinator.close(10.0)

    async def _make_trouble(self) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self._weather.cut_off_every_s))
            index = self._rng.randrange(3)
            self._cut_off_until[index] = self._loop.time() + self._rng.expovariate(1 / self._weather.cut_off_s)

    async def _client(self, number: int, operations: int, keys: int, pause_s: float) -> None:
        coordinator = self.coordinators[number % len(self.coordinators)]
        for _ in range(operations):
            key = b"key/%d" % self._rng.randrange(keys)
            kind = self._rng.choices(["set", "get", "head", "delete"], self._mix)[0]
            if self._grouped and kind in ("set", "get") and self._rng.random() < 0.5:
                every = [b"key/%d" % number for number in range(keys)]
                await (self._set_many if kind == "set" else self._get_many)(coordinator, every)
            else:
                await self._operate(coordinator, key, kind)
            await asyncio.sleep(self._rng.expovariate(1 / pause_s))

    async def _get_many(self, coordinator: Coordinator, keys: list[bytes]) -> None:
        """As the web tier does: what a group leaves out is asked for alone."""
        began = self._loop.time()
        try:
            outcomes = await settled(coordinator.get_many(keys))
        except Busy:
            return
        for key, outcome in zip(keys, outcomes, strict=True):
            if isinstance(outcome, LeftOut):
                self._count("get_many", "left out")
                await self._operate(coordinator, key, "get")
                continue
            self._promise(key, outcome.version if outcome is not None else 0)
            seen = None if outcome is None else outcome.flags
            assert outcome is None or outcome.value == b"%d" % seen * 3
            self.histories.setdefault(key, []).append((began, self._loop.time(), "r", seen))
            self._count("get_many", "ok")

    async def _set_many(self, coordinator: Coordinator, keys: list[bytes]) -> None:
        began = self._loop.time()
        numbers = range(self._value + 1, self._value + 1 + len(keys))
        self._value += len(keys)
        items = [Item(key, b"%d" % number * 3, number) for key, number in zip(keys, numbers, strict=True)]
        outcomes = await settled(coordinator.set_many(items))
        for key, number, outcome in zip(keys, numbers, outcomes, strict=True):
            history = self.histories.setdefault(key, [])
            if isinstance(outcome, Written):
                self._acknowledge(key, outcome.version)
                history.append((began, self._loop.time(), "w", number))
                self._count("set_many", "ok")
                continue
            assert isinstance(outcome, SfssError)
            if outcome.outcome is Outcome.UNKNOWN:
                history.append((began, math.inf, "w", number))
            self._count("set_many", outcome.outcome.value)

    async def _operate(self, coordinator: Coordinator, key: bytes, kind: str) -> None:
        history = self.histories.setdefault(key, [])
        began = self._loop.time()
        written: int | None = None
        try:
            if kind == "set":
                self._value += 1
                written = self._value
                # The flags carry the value's number, so that a head tells which write it saw.
                done = await settled(coordinator.set(key, b"%d" % written * 3, flags=written))
                self._acknowledge(key, done.version)
                history.append((began, self._loop.time(), "w", written))
            elif kind == "delete":
                found = await settled(coordinator.delete(key))
                self._acknowledge(key, found.version if found is not None else 0)
                history.append((began, self._loop.time(), "r" if found is None else "w", None))
            else:
                record = await settled(getattr(coordinator, kind)(key))
                self._promise(key, record.version if record is not None else 0)
                if record is not None and kind == "get":
                    assert record.value == b"%d" % record.flags * 3
                history.append((began, self._loop.time(), "r", None if record is None else record.flags))
            self._count(kind, "ok")
        except SfssError as error:
            if kind in ("set", "delete") and error.outcome is Outcome.UNKNOWN:
                history.append((began, math.inf, "w", written))
            self._count(kind, error.outcome.value if kind in ("set", "delete") else "failed")

    def figures(self) -> dict[str, int]:
        """What clients did, as `make torture` adds it up."""
        operations = [operation for history in self.histories.values() for operation in history]
        writes = [end for _, end, kind, _ in operations if kind == "w"]
        unknown = sum(end == math.inf for end in writes)
        return {
            "operations": sum(self.outcomes.values()),
            "acknowledged": len(writes) - unknown,
            "unknown": unknown,
            "histories": len(self.histories),
        }

    def _acknowledge(self, key: bytes, version: int) -> None:
        self.acknowledged[key] = max(self.acknowledged.get(key, 0), version)
        self._promise(key, version)

    def _promise(self, key: bytes, version: int) -> None:
        """A client was told of a version, which its writer may or may not know to be stored."""

    def _count(self, kind: str, outcome: str) -> None:
        self.outcomes[f"{kind} {outcome}"] = self.outcomes.get(f"{kind} {outcome}", 0) + 1
