"""A simulated cluster that forgets its tombstones while its ring changes: what `simulated_ring_change` does, with a
grace time of seconds, comparers that have every region purged, nodes that are away for longer than that, and messages
of clients, comparers and movers that sleep for as long.

All randomness comes from one seed: `python -m tests.unit.simulated_purging_rings CHANGE SEED` runs a schedule again.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from proxy.comparer import Comparer
from proxy.coordinator import Coordinator
from proxy.options import Options
from proxy.schedule import Schedule
from sfss.errors import SfssError
from sfss.promise import Promise
from sfss.ring_plan import Change
from sfss.store import Call, Record
from tests.cluster.linearizability import linearizable
from tests.unit.simulated_cluster import Weather
from tests.unit.simulated_purging import GRACE_S, SLEEPERS, PurgingStore, coarse_purging
from tests.unit.simulated_ring_change import SimulatedRingChange, SimulatedRingNode
from tests.unit.virtual_time import run

PARTITIONS = 32
"""Two to a region: a node may own one of them, and come to own the other."""

ROUNDS_MIN = 3
_HEALED_S = 900.0
_WEATHER = Weather(late_times=100.0, cut_off_every_s=20.0)

THREE = ("a:1", "b:1", "c:1")
CHANGES = {
    "one joins": (THREE, Change(add=("d:1",))),
    "two leave": ((*THREE, "d:1", "e:1"), Change(remove=("d:1", "e:1"))),
    "one is replaced": ((*THREE, "e:1"), Change(replace={"b:1": "d:1"})),
}


class PurgingRingNode(SimulatedRingNode):
    """A node that purges, over a network in which some files are given once more, much later. `asleep` takes those that
    wait until the ring has changed, when nodes have no fences."""

    asleep: list[Callable[[], None]] | None = None

    def _send(self, kind: str, *args: Any) -> Promise[Any]:
        if kind == "apply" and not args[1].tombstone and self._rng.random() < SLEEPERS:
            if self.asleep is not None and self._rng.random() < 0.5:
                self.asleep.append(partial(self.wake, *args))
            else:
                sleeps_s = self._rng.uniform(GRACE_S, 6 * GRACE_S)
                asyncio.get_running_loop().call_later(sleeps_s, self.wake, *args)
        return super()._send(kind, *args)

    def wake(self, key: bytes, record: Record, call: Call) -> None:
        if not self._cut_off():
            with suppress(SfssError):
                self._store.apply(key, record, call)

    def hashes_held(self, prefix: bytes, call: Call) -> Any:
        return self._ask("hashes_held", prefix)

    def purged(self, region: int) -> Any:
        return self._ask("purged", region)

    def purge(self, region: int, ring: int, fence: int, bound: int) -> Any:
        return self._ask("purge", region, ring, fence, bound)


class SimulatedPurgingRings(SimulatedRingChange):
    """Clients come now and then, and leave the deleted alone in between for longer than tombstones live."""

    begins_within_s = GRACE_S

    def __init__(
        self,
        rng: random.Random,
        names: Iterable[str],
        change: Change,
        *,
        link: type[PurgingRingNode] = PurgingRingNode,
        **settings: Any,
    ) -> None:
        self._link = link
        self._asleep: list[Callable[[], None]] = []
        self._comparers: list[Comparer] = []
        self.unhealed: list[str] = []
        given = {"node": PurgingStore, "coordinators": 2, "weather": _WEATHER, "partitions": PARTITIONS}
        super().__init__(rng, names, change, **{**given, **settings})
        self._mix = [6, 3, 1, 6]

    def _dial(self, name: str, *_: object) -> tuple[str, SimulatedRingNode]:
        link = self._link(self._nodes[name], self._weather, self._rng, partial(self._is_cut_off, name))
        link.asleep = self._asleep
        return name, link

    async def _move(self) -> None:
        """Once some tombstones are gone."""
        while self.purged < 6:
            await asyncio.sleep(1.0)
        await super()._move()
        for wake in self._asleep:
            self._loop.call_later(self._rng.uniform(0.0, GRACE_S / 2), wake)

    def _options(self, shared: bool) -> Options:
        return replace(
            super()._options(shared), tombstone_grace_s=GRACE_S, hint_age_s=GRACE_S / 2, compare_settle_s=6.0
        )

    def _coordinator(self, skew_s: float, shared: bool) -> Coordinator:
        coordinator = super()._coordinator(skew_s, shared)
        plan = Schedule(PARTITIONS, GRACE_S / 2, GRACE_S / 4, monotonic=self._loop.time, rng=self._rng)
        self._comparers.append(Comparer(coordinator, plan))
        self._comparers[-1].start()
        return coordinator

    @property
    def purged(self) -> int:
        """How many times a node purged something."""
        return sum(store.purged_count for store in self._nodes.values())

    async def run_rounds(self) -> None:
        rng = self._rng
        trouble = asyncio.ensure_future(self._make_trouble())
        rounds = 0
        while rounds < ROUNDS_MIN or not self.moved:
            rounds += 1
            await asyncio.gather(*(self._work(number) for number in range(3)))
            if rng.random() < 0.5:
                away = rng.choice(sorted(self._nodes))
                self._cut_until[away] = self._loop.time() + rng.uniform(GRACE_S, 3 * GRACE_S)
            await self._work(0)
            await asyncio.sleep(rng.uniform(GRACE_S, 3 * GRACE_S))
        trouble.cancel()
        self._heal()
        await self._all_purged()
        for coordinator in self.coordinators:
            await self._read_all(coordinator)
        for comparer in self._comparers:
            await comparer.close()
        for coordinator in self.coordinators:
            await coordinator.close(10.0)

    async def _work(self, number: int) -> None:
        """Few keys at a time, so that others are left alone."""
        coordinator = self.coordinators[number % len(self.coordinators)]
        first = self._rng.randrange(20)
        for _ in range(5):
            key = b"key/%d" % (first + self._rng.randrange(2))
            await self._operate(coordinator, key, self._rng.choices(["set", "get", "head", "delete"], self._mix)[0])
            await asyncio.sleep(self._rng.expovariate(5.0))

    def _tombstones(self) -> list[str]:
        """Of the owners; what lies on others counts for nobody."""
        placed = self.coordinators[0].placed
        held = {
            (peer.name, key): self._nodes[peer.name].records.get(key)
            for key in self.histories
            for peer in placed.owners(key).peers
        }
        return [f"{key!r} on {name}" for (name, key), record in held.items() if record is not None and record.tombstone]

    async def _all_purged(self) -> None:
        try:
            async with asyncio.timeout(_HEALED_S):
                while self._tombstones():
                    await asyncio.sleep(GRACE_S)
        except TimeoutError:
            self.unhealed.append(f"tombstones are left: {self._tombstones()}")

    async def _read_all(self, coordinator: Coordinator) -> None:
        for key in list(self.histories):
            for _ in range(100):
                before = self.outcomes.get("get ok", 0)
                await self._operate(coordinator, key, "get")
                if self.outcomes.get("get ok", 0) > before:
                    break
            else:
                self.unhealed.append(f"{key!r} can't be read")

    def faults(self) -> list[str]:
        """What is wrong."""
        illegal = [key for key, history in self.histories.items() if not linearizable(history)]
        return [f"{key!r} is not linearizable" for key in illegal] + self.unhealed


async def simulate(seed: int, change: str, **settings: Any) -> SimulatedPurgingRings:
    """Run one schedule."""
    cluster = SimulatedPurgingRings(random.Random(seed), *CHANGES[change], **settings)
    await cluster.run_rounds()
    return cluster


if __name__ == "__main__":
    with coarse_purging():
        done = run(simulate(int(sys.argv[2]), sys.argv[1]))
        for key, history in sorted(done.histories.items()):
            for start, end, kind, value in sorted(history):
                print(f"{key.decode()} {start:10.3f} {end:10.3f} {kind} {value}")
        print("\n".join(done.faults()) or "no fault", done.outcomes, done.purged)
