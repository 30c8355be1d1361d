"""A simulated cluster whose ring changes under its clients: the product's coordinators, which follow the ring by
themselves, and the product's movers, which are killed at any moment, over nodes behind a bad network.

All randomness comes from one seed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from proxy.coordinator import Coordinator
from proxy.following import Following
from proxy.health import Health
from proxy.members import Members
from proxy.options import Options
from proxy.peer import Peer
from proxy.placed_ring import PlacedRing
from proxy.quorum import Quorum
from sfss.errors import SetupError
from sfss.keys import hash_key
from sfss.promise import Promise
from sfss.ring import HASH_BITS
from sfss.ring_change.mover import Mover
from sfss.ring_change.node import Nodes
from sfss.ring_change.wish import Wish
from sfss.ring_plan import Change
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.stamps import StampClock
from sfss.store import NO_CALL, Applied, Call, Identity, Record, settled
from tests.unit.replica_lab import AlwaysReserved
from tests.unit.ring_lab import id_of, quorum
from tests.unit.simulated_cluster import SimulatedCluster, SimulatedNode, Weather
from tests.unit.tree_store import TreeStore

PARTITIONS = 8
_QUESTION_S = 0.5


class SimulatedRingNode(SimulatedNode):
    """One node behind the network of one coordinator or mover; it keeps a ring."""

    def _ask(self, kind: str, *args: Any) -> Promise[Any]:
        return self._send_until(asyncio.get_running_loop().time() + _QUESTION_S, kind, *args)

    def bind(self, cluster: str, ring: int, fingerprint: str) -> Any:
        return self._ask("bind", cluster, ring, fingerprint)

    def hashes(self, prefix: bytes, call: Call = NO_CALL) -> Any:
        return self._ask("hashes", prefix)

    def tell_ring(self, call: Call = NO_CALL) -> Any:
        return self._ask("tell_ring")

    def prepare_ring(self, number: int, ballot: int, call: Call = NO_CALL) -> Any:
        return self._ask("prepare_ring", number, ballot)

    def accept_ring(self, ballot: int, record: RingRecord, call: Call = NO_CALL) -> Any:
        return self._ask("accept_ring", ballot, record)

    def learn_ring(self, record: RingRecord, call: Call = NO_CALL) -> Any:
        return self._ask("learn_ring", record)

    def leave_ring(self, number: int, call: Call = NO_CALL) -> Any:
        return self._ask("leave_ring", number)

    def drop_partition(self, ring: int, partition: int, call: Call = NO_CALL) -> Any:
        return self._ask("drop_partition", ring, partition)

    async def close(self) -> None:
        """What is under way arrives all the same."""


class MoversLink:
    """Implements `sfss.ring_change.node.RingNode` over a simulated node."""

    def __init__(self, node: SimulatedRingNode) -> None:
        self._node = node

    def expect(self, node: str, cluster: str) -> None:
        pass

    async def close(self) -> None:
        pass

    async def _ask(self, question: Callable[[SimulatedRingNode], Any]) -> Any:
        return await settled(question(self._node))

    async def identify(self) -> Identity:
        return await self._ask(lambda node: node.identify())

    async def bind(self, cluster: str, fingerprint: str) -> Identity:
        return await self._ask(lambda node: node.bind(cluster, 1, fingerprint))

    async def ring(self) -> Any:
        return await self._ask(lambda node: node.tell_ring())

    async def prepare(self, number: int, ballot: int) -> Any:
        return await self._ask(lambda node: node.prepare_ring(number, ballot))

    async def accept(self, ballot: int, record: RingRecord) -> Any:
        return await self._ask(lambda node: node.accept_ring(ballot, record))

    async def learn(self, record: RingRecord) -> Any:
        return await self._ask(lambda node: node.learn_ring(record))

    async def left(self, number: int) -> None:
        await self._ask(lambda node: node.leave_ring(number))

    async def drop(self, number: int, partition: int) -> None:
        await self._ask(lambda node: node.drop_partition(number, partition))

    async def hashes(self, prefix: bytes) -> bytes:
        return await self._ask(lambda node: node.hashes(prefix))

    async def read(self, key: bytes, number: int) -> Record | None:
        return await self._ask(lambda node: node._ask("read", key, Call(ring=number)))

    async def apply(self, key: bytes, record: Record, number: int) -> Applied:
        return await self._ask(lambda node: node._ask("apply", key, record, Call(ring=number)))


class SimulatedRingChange(SimulatedCluster):
    """A cluster founded by `names`, in which `change` is carried out while clients work. `moved` once it is."""

    begins_within_s = 1.0

    def __init__(
        self,
        rng: random.Random,
        names: Iterable[str],
        change: Change,
        *,
        node: Callable[..., TreeStore] = TreeStore,
        coordinators: int = 3,
        sharing: int = 0,
        skew_s: float = 0.0,
        weather: Weather | None = None,
        hints: bool = False,
        partitions: int = PARTITIONS,
    ) -> None:
        founders = sorted(names)
        everybody = sorted({*founders, *change.add, *change.replace.values()})
        self._change = change
        self._partitions = partitions
        loop = asyncio.get_running_loop()
        self._nodes = {name: node(lambda: self.now(), node=id_of(name), durable=True) for name in everybody}
        self._cut_until = dict.fromkeys(everybody, loop.time())
        members = tuple(RingMember(id_of(name), name) for name in founders)
        self._first = RingRecord(1, partitions, (Placement(members, *quorum(len(members)), 1),))
        self.moved = False
        self.lives = 0
        super().__init__(rng, coordinators=coordinators, sharing=sharing, skew_s=skew_s, weather=weather, hints=hints)
        for name in founders:
            self._nodes[name].bind("c" * 32, 1, "founded")

    def _dial(self, name: str, *_: object) -> tuple[str, SimulatedRingNode]:
        cut_off = partial(self._is_cut_off, name)
        return name, SimulatedRingNode(self._nodes[name], self._weather, self._rng, cut_off)

    def _is_cut_off(self, name: str) -> bool:
        return self._cut_until[name] > self._loop.time()

    def _coordinator(self, skew_s: float, shared: bool) -> Coordinator:
        members = Members(self._dial)
        [placement] = self._first.placements
        ring = placement.node_ring(1, self._partitions)
        peers = [members.take_in(member.name, "") for member in ring.members]
        options = self._options(shared)
        following: Following | None = None

        def examine(peer: Peer, identity: Identity) -> None:
            if following is not None:
                following.examine(peer, identity)

        coordinator = Coordinator(
            PlacedRing.of(ring, peers, Quorum(placement.n, placement.w, placement.r)),
            options=options,
            health=Health(
                peers, probe_s_min=0.05, probe_s_max=0.5, rng=self._rng, monotonic=self._loop.time, examine=examine
            ),
            clock=StampClock(lambda: self.now() + skew_s),
            reserve=AlwaysReserved(),
            now=self.now,
            monotonic=self._loop.time,
        )
        if self._with_hints:
            self._keep_hints(coordinator, options)
        coordinator.rings = following = Following(coordinator, members, None, lambda record, placed: None)
        return coordinator

    def _options(self, shared: bool) -> Options:
        return Options(shared=shared, deadline_s=2.0, node_deadline_s=0.3, hint_round_s=0.1)

    def _partition(self, key: bytes) -> int:
        return hash_key(key) >> HASH_BITS - (self._partitions.bit_length() - 1)

    def _heal(self) -> None:
        self._cut_until = dict.fromkeys(self._cut_until, 0.0)

    async def _make_trouble(self) -> None:
        mover = asyncio.ensure_future(self._move())
        try:
            while True:
                await asyncio.sleep(self._rng.expovariate(1 / self._weather.cut_off_every_s))
                name = self._rng.choice(sorted(self._nodes))
                self._cut_until[name] = self._loop.time() + self._rng.expovariate(1 / self._weather.cut_off_s)
        finally:
            mover.cancel()

    async def _move(self) -> None:
        """Movers that are killed at any moment, and started again."""
        await asyncio.sleep(self._rng.random() * self.begins_within_s)
        while not self.moved:
            self.lives += 1
            changed = any(store.identify().ring > 1 for store in self._nodes.values())
            life = asyncio.ensure_future(self._mover().apply(None if changed else Wish(self._change, quorum)))
            patience_s = self._rng.expovariate(1 / 4.0) if self.lives < 6 else 60.0
            done, _ = await asyncio.wait([life], timeout=patience_s)
            if not done:
                life.cancel()
                await asyncio.wait([life])
            elif isinstance(life.exception(), SetupError):
                await asyncio.sleep(0.1)
            else:
                life.result()
                self.moved = max(store.identify().ring for store in self._nodes.values()) == 3

    def _mover(self) -> Mover:
        async def first(_: dict[str, Identity]) -> RingRecord:
            return self._first

        return Mover(
            Nodes(lambda name: MoversLink(self._dial(name)[1]), self._loop.time),
            [member.name for member in self._first.members],
            first,
            say=lambda line: None,
            rng=self._rng,
            monotonic=self._loop.time,
        )

    async def _client(self, number: int, operations: int, keys: int, pause_s: float) -> None:
        """As before, and until the ring has changed."""
        while not self.moved:
            await super()._client(number, 10, keys, pause_s)
        await super()._client(number, operations, keys, pause_s)
