"""A simulated cluster whose nodes die and forget, while its coordinators replay hints, compare replicas and refill who
forgot, all as the product does it.

All randomness comes from one seed: `python -m tests.unit.simulated_repairs SETTINGS SEED` runs a schedule again, and
tells it. Parts can be substituted to plant faults.
"""

from __future__ import annotations

import asyncio
import functools
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from proxy import comparer, refill, schedule
from proxy.comparer import Comparer
from proxy.coordinator import Coordinator
from proxy.health import Health
from proxy.hint_store import HintStore
from proxy.hints import Hints
from proxy.options import Options
from proxy.peer import Peer
from proxy.placed_ring import PlacedRing
from proxy.quorum import Quorum
from proxy.refill import Refill
from proxy.replay import Replay
from proxy.schedule import Schedule
from sfss.ring import Member, NodeRing
from sfss.stamps import StampClock
from tests.cluster.linearizability import linearizable
from tests.unit.replica_lab import AlwaysReserved
from tests.unit.simulated_cluster import SimulatedCluster, Weather
from tests.unit.simulated_network import Link, Machine
from tests.unit.simulated_trouble import Crashes, Trouble
from tests.unit.tree_store import ForgetfulStore
from tests.unit.virtual_time import run

CALM = Weather(late_times=3.0, lost=0.0, refused=0.0, corrupt=0.0, cut_off_every_s=1e9)
STORMY = Weather(late=0.08, late_times=100.0, cut_off_every_s=20.0)

HEALED_S = 3600.0
"""How long all may take that is to heal, in virtual seconds."""

HOPELESS_S = 15.0
"""How long to wait where it may never."""


class SimulatedRepairs(SimulatedCluster):
    """With `hints` coordinators keep and replay them, in so many bytes; with `repairs` they compare and refill."""

    healed_s = HEALED_S

    def __init__(
        self,
        rng: random.Random,
        *,
        coordinators: int = 2,
        sharing: int = 0,
        skew_s: float = 0.0,
        nodes: int = 3,
        quorum: Quorum | None = None,
        weather: Weather = STORMY,
        node: Callable[..., ForgetfulStore] = ForgetfulStore,
        hints: bool = True,
        hint_bytes: int = 1 << 20,
        repairs: bool = True,
        crashes: Crashes | None = None,
        link: type[Link] = Link,
        partitions: int = 0,
        **options: Any,
    ) -> None:
        """`partitions` 0 is a number that suits the nodes; `options` are further ones of the coordinators."""
        self._copies = quorum or Quorum.over(nodes)
        self._placement = _ring(nodes, self._copies.n, partitions or (2 if nodes == 3 else 16))
        self._keeps_hints = hints
        self._repairs = repairs
        self._crashes = crashes or Crashes()
        self._link = link
        self._options = Options(
            deadline_s=3.0,
            node_deadline_s=0.3,
            sweep_s=0.05,
            hint_round_s=0.5,
            hint_bytes_max=hint_bytes,
            compare_settle_s=6.0,
            compare_interval_s=0.0,  # what is marked is compared: at a moment of chance, and at the end
            compare_retry_s=5.0,
            shared=bool(sharing),
            **options,
        )
        self._links: list[Link] = []
        self._plans: list[Schedule] = []
        self._workers: list[Comparer | Refill] = []
        self.machines = [Machine(node(self.now, node=f"n{index}", durable=True)) for index in range(nodes)]
        for machine in self.machines:
            machine.store.bind("cluster", self._placement.number, self._placement.fingerprint)
        self.healed = False
        self.promised: dict[bytes, int] = {}
        """The newest version of each key that any client was told of."""
        self.too_few: list[str] = []
        """When fewer owners than W held what was promised, or could still have it: who forgot is no such owner again
        until it is trusted."""
        self.unhealed: list[str] = []
        """What was not as it should be once all had healed, before anybody read it."""
        super().__init__(rng, coordinators=coordinators, skew_s=skew_s, weather=weather, sharing=sharing)
        self._mix = [8, 5, 2, 5]
        self._keys = 3
        self.trouble = Trouble(self, rng, weather, self._crashes)

    # what coordinators are made of

    def _coordinator(self, skew_s: float, shared: bool) -> Coordinator:
        links = [
            self._link(machine, self._weather, self._rng, functools.partial(self._is_cut_off, machine))
            for machine in self.machines
        ]
        self._links += links
        peers = [Peer(f"n{index}:1", link) for index, link in enumerate(links)]
        health = Health(peers, probe_s_min=0.05, probe_s_max=0.5, rng=self._rng, monotonic=self._loop.time)
        for peer, link in zip(peers, links, strict=True):
            link.greet = functools.partial(health.identified, peer)
        coordinator = Coordinator(
            PlacedRing.of(self._placement, peers, self._copies),
            options=self._options,
            health=health,
            clock=StampClock(lambda: self.now() + skew_s),
            reserve=AlwaysReserved(),
            now=self.now,
            monotonic=self._loop.time,
        )
        plan = Schedule(
            self._placement.partitions,
            self._options.compare_interval_s,
            self._options.compare_retry_s,
            monotonic=self._loop.time,
            rng=self._rng,
        )
        if self._keeps_hints:
            self._keep_marked_hints(coordinator, plan)
        if self._repairs:
            self._plans.append(plan)
            for worker in (Comparer(coordinator, plan), Refill(coordinator, rng=self._rng)):
                self._workers.append(worker)
                worker.start()
        return coordinator

    def _keep_marked_hints(self, coordinator: Coordinator, plan: Schedule) -> None:
        store = HintStore(None)
        weakref.finalize(self, store.close)
        coordinator.hints = hints = Hints(
            store,
            self._placement.partition,
            node_of=lambda peer: f"node at {peer.name}",
            mark=plan.mark,
            options=self._options,
            now=self.now,
            monotonic=self._loop.time,
        )
        self.hints.append(hints)
        self.replays.append(Replay(coordinator, hints))
        self.replays[-1].start()

    def _is_cut_off(self, machine: Machine) -> bool:
        return machine.cut_off_until > self._loop.time()

    # a run

    async def run_strikes(self, strikes: int = 2) -> None:
        """Clients work while nodes are struck, and do little while they come back. Then all heals, and is read."""
        watch = asyncio.ensure_future(self._watch())
        self.trouble.start()
        for _ in range(strikes):
            await self._strike()
        self.trouble.end()
        for link in self._links:
            link.clear_up(CALM)
        await asyncio.sleep(self._options.deadline_s)  # for what is still unheard
        self.healed = await self._heal()
        self.unhealed = self._not_as_it_should_be()
        for coordinator in self.coordinators:
            await self._read_all(coordinator)
        watch.cancel()
        for worker in (*self.replays, *self._workers):
            await worker.close()
        for coordinator in self.coordinators:
            await coordinator.close(10.0)

    async def _strike(self) -> None:
        rng = self._rng
        await self.trouble.strike(lambda: self._work(clients=5, operations=4, pause_s=0.02))
        await asyncio.sleep(rng.uniform(0.0, 10.0))
        if self._plans and rng.random() < 0.5:
            rng.choice(self._plans).mark(rng.randrange(self._placement.partitions))
        await self._work(clients=rng.choice([0, 0, 1, 2]), operations=3, pause_s=5.0)
        await asyncio.sleep(rng.uniform(0.0, 20.0))

    async def _work(self, clients: int, operations: int, pause_s: float) -> None:
        await asyncio.gather(*(self._client(number, operations, self._keys, pause_s) for number in range(clients)))

    async def _heal(self) -> bool:
        """Wait until nobody is suspect, no hint is left, and all was compared; whether that came to be."""
        try:
            async with asyncio.timeout(HOPELESS_S if self._crashes.several else self.healed_s):
                while self._repairs and any(machine.suspect for machine in self.machines):
                    await asyncio.sleep(0.5)
                while any(hints.waiting() for hints in self.hints):
                    await asyncio.sleep(0.1)
                await asyncio.sleep(self._options.compare_settle_s)
                since = self._loop.time()
                for plan in self._plans:
                    for partition in range(self._placement.partitions):
                        plan.mark(partition)
                while any(self._loop.time() - plan.oldest_s() < since for plan in self._plans):
                    await asyncio.sleep(0.5)
        except TimeoutError:
            return False
        return True

    def _not_as_it_should_be(self) -> list[str]:
        if not self.healed:
            return [] if self._crashes.several else ["not all healed"]
        faults = [f"{what} lacks what was acknowledged" for what in self.behind()] if self._keeps_hints else []
        if self._repairs:
            faults += [f"owners differ in {key!r}" for key in self.histories if self._differ(key)]
        return faults

    async def _read_all(self, coordinator: Coordinator) -> None:
        """Read every key until that succeeds; where nothing has healed, once."""
        for key in list(self.histories):
            for _ in range(100 if self.healed else 1):
                before = self.outcomes.get("get ok", 0)
                await self._operate(coordinator, key, "get")
                if self.outcomes.get("get ok", 0) > before:
                    break
            else:
                if self.healed:
                    self.unhealed.append(f"{key!r} can't be read")

    # what came of it

    def faults(self) -> list[str]:
        """What is wrong."""
        illegal = [key for key, history in self.histories.items() if not linearizable(history)]
        return [f"{key!r} is not linearizable" for key in illegal] + self.too_few + self.unhealed

    def behind(self) -> list[tuple[int, bytes]]:
        return [
            (self.machines.index(machine), key)
            for key, version in self.acknowledged.items()
            for machine in self._owners(key)
            if version and not self._holds(machine, key, version)
        ]

    def _owners(self, key: bytes) -> list[Machine]:
        return [self.machines[index] for index in self._placement.owners(key)]

    def _holds(self, machine: Machine, key: bytes, version: int) -> bool:
        return machine.holds(key, version)

    def _differ(self, key: bytes) -> bool:
        return len({machine.store.records.get(key) for machine in self._owners(key)}) > 1

    def _promise(self, key: bytes, version: int) -> None:
        if version:
            self.promised[key] = max(self.promised.get(key, 0), version)

    async def _watch(self) -> None:
        """Look all the time whether enough owners hold what was promised."""
        while True:
            await asyncio.sleep(0.3)
            for key, version in self.promised.items():
                held = sum(machine.suspect or self._holds(machine, key, version) for machine in self._owners(key))
                if held < self._copies.w:
                    self.too_few.append(f"{self._loop.time():.6f} too few owners hold what was promised of {key!r}")


@functools.cache
def _ring(nodes: int, copies: int, partitions: int) -> NodeRing:
    return NodeRing([Member(f"n{index}:1") for index in range(nodes)], copies, partitions=partitions)


@contextmanager
def coarse_regions() -> Iterator[None]:
    """Sixteen regions to be compared in place of 256: some keys need no more, and it takes a sixteenth of the time."""
    with ExitStack() as patches:
        for module in (schedule, comparer, refill):
            patches.enter_context(patch.multiple(module, REGION_DIGITS=1, REGIONS=16))
        yield


SETTINGS: dict[str, dict[str, Any]] = {
    "three nodes": {},
    "five nodes": {"nodes": 5},
    "five copies": {"nodes": 5, "quorum": Quorum(5, 3, 3)},
    "coordinators that share their keys, with clocks apart": {"sharing": 2, "skew_s": 0.5},
    "no room for hints": {"hint_bytes": 0},
    "hints are lost": {"hints": False},
    "hints alone": {"repairs": False, "crashes": Crashes(forget=0.0)},
    "several forget at a time": {"crashes": Crashes(several=True)},
}


async def simulate(seed: int, settings: str, **changes: Any) -> SimulatedRepairs:
    """Run one schedule."""
    cluster = SimulatedRepairs(random.Random(seed), **{**SETTINGS[settings], **changes})
    await cluster.run_strikes()
    return cluster


def tell(simulated: Callable[[str, int], SimulatedRepairs]) -> None:
    """Run the schedule that the command line names, and tell all of it, in the order of time."""
    cluster = simulated(sys.argv[1], int(sys.argv[2]))
    told = list(cluster.trouble.events)
    for key, history in cluster.histories.items():
        told += [(start, f"{key.decode()} {kind} {value} until {end:.6f}") for start, end, kind, value in history]
    for at, what in sorted(told):
        print(f"{at:12.6f}  {what}")
    for index, machine in enumerate(cluster.machines):
        for key, record in sorted(machine.store.records.items()):
            print(f"n{index} {key.decode()} {record.version} {record.flags} {record.tombstone}")
    print("\n".join(cluster.faults()) or "no fault")


if __name__ == "__main__":
    with coarse_regions():
        tell(lambda settings, seed: run(simulate(seed, settings)))
