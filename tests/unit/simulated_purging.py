"""A simulated cluster that forgets its tombstones: what `simulated_repairs` does, with a grace time of seconds, nodes
that are away for longer, messages that sleep for as long, and nodes that go back to an older copy of what they had,
fences and bounds included.

All randomness comes from one seed: `python -m tests.unit.simulated_purging SETTINGS SEED` runs a schedule again, and
tells it. Parts can be substituted to plant faults.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest.mock import patch

from proxy.quorum import Quorum
from sfss.errors import Recovering, SfssError
from sfss.keys import hash_key
from sfss.ring import HASH_BITS
from sfss.store import NO_CALL, Applied, Call, Purged, Record
from tests.unit.simulated_network import Link, Machine
from tests.unit.simulated_repairs import SimulatedRepairs, coarse_regions, tell
from tests.unit.simulated_trouble import Crashes
from tests.unit.tree_store import ForgetfulStore
from tests.unit.virtual_time import run

GRACE_S = 20.0
SLEEPERS = 0.3
"""So many of the files are given to a node once more, minutes later: by somebody who stood still in between."""

_HEALED_S = 600.0
"""How long all may take that is to heal, and once more until all tombstones are purged, in virtual seconds."""


class PurgingLink(Link):
    """A node that purges, over a network in which some messages sleep."""

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Any:
        if not record.tombstone and self._rng.random() < SLEEPERS:
            sleeps_s = self._rng.uniform(GRACE_S, 6 * GRACE_S)
            asyncio.get_running_loop().call_later(sleeps_s, self._wake, key, record, call)
        return super().apply(key, record, call)

    def _wake(self, key: bytes, record: Record, call: Call) -> None:
        if self._machine.up and not self._cut_off():
            with suppress(SfssError):
                self._machine.store.apply(key, record, call)

    def purged(self, region: int) -> Any:
        return self._send("purged", region)

    def purge(self, region: int, ring: int, fence: int, bound: int) -> Any:
        return self._send("purge", region, ring, fence, bound)


class PurgingStore(ForgetfulStore):
    """A node that drops at once what is purged, as compaction does some day. What it forgets is the end of all it did,
    as an older copy of its directory has it; the first node forgets records alone and keeps fences and bounds, as one
    does whose volumes lost their end and whose index is whole."""

    def __init__(self, now: Callable[[], float] = time.time, **options: Any) -> None:
        super().__init__(now, **options)
        self._done: list[tuple[bytes, Record] | tuple[int, Purged]] = []
        self.purged_versions: dict[bytes, int] = {}
        """The newest version of each key that was ever purged here."""
        self.purged_count = 0

    def restart(self, forget: int = 0) -> None:
        super().restart()
        if forget:
            self._forget(forget)
            self._replay()
            self.suspect = True
            for region, told in self._purged.items():
                self._purged[region] = told._replace(fence=0)

    def _forget(self, count: int) -> None:
        if self._identity.node != "n0":
            del self._done[-count:]
            return
        records = [place for place, (key, _) in enumerate(self._done) if isinstance(key, bytes)]
        for place in reversed(records[-count:]):
            del self._done[place]

    def _replay(self) -> None:
        self.records.clear()
        self._purged.clear()
        for place, what in self._done:
            if isinstance(what, Purged):
                self._purged[place] = what
            else:
                self.records[place] = what
        for key, record in list(self.records.items()):
            if record.tombstone and record.version < self.bound(key):
                del self.records[key]

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Applied:
        try:
            return super().apply(key, record, call)
        finally:
            held = self.records.get(key)
            if held is not None and (not self._done or self._done[-1] != (key, held)):
                self._done.append((key, held))

    def purge(self, region: int, ring: int, fence: int, bound: int) -> Purged:
        if self.suspect:
            raise Recovering("the end of what was stored is lost")
        before = dict(self.records)
        told = super().purge(region, ring, fence, bound)
        for key in before.keys() - self.records.keys():
            self.purged_versions[key] = max(before[key].version, self.purged_versions.get(key, 0))
            self.purged_count += 1
        self._done.append((region, self._purged[region]))
        return told

    def bound(self, key: bytes) -> int:
        """How far the key's region is purged."""
        return self._purged.get(region_of(key), Purged()).bound


class SimulatedPurging(SimulatedRepairs):
    """With short lives of tombstones. All regions with keys are compared every now and then. `away` is how often a
    node is away for longer than tombstones live."""

    healed_s = _HEALED_S

    def __init__(self, rng: random.Random, away: float = 0.4, **settings: Any) -> None:
        given = {
            "node": PurgingStore,
            "link": PurgingLink,
            "partitions": 16,
            "hint_age_s": GRACE_S / 2,
            "tombstone_grace_s": GRACE_S,
        }
        super().__init__(rng, **{**given, **settings})
        self._mix = [5, 5, 1, 6]
        self._keys = 6
        self._away = away
        self.purged = 0
        """How many times a node purged something before all was healed."""

    async def run_strikes(self, strikes: int = 3) -> None:
        comparing = asyncio.ensure_future(self._mark_now_and_then())
        await super().run_strikes(strikes)
        comparing.cancel()

    async def _mark_now_and_then(self) -> None:
        """Most comparisons are where something may be purged."""
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / 1.5))
            keys = self._deleted() if self._rng.random() < 0.8 else sorted(self.histories)
            if keys:
                self._rng.choice(self._plans).mark(self._placement.partition(self._rng.choice(keys)))

    def _deleted(self) -> list[bytes]:
        tombstones = {
            key for machine in self.machines for key, record in machine.store.records.items() if record.tombstone
        }
        return sorted(tombstones)

    async def _strike(self) -> None:
        """Clients hurry, then there is little to do for longer than tombstones live."""
        rng = self._rng
        if rng.random() < self._away:
            await self._work(clients=3, operations=4, pause_s=0.02)
            self.trouble.cut_one_off(rng.uniform(2 * GRACE_S, 5 * GRACE_S))
            await self._work(clients=3, operations=3, pause_s=0.5)
        else:
            await self.trouble.strike(lambda: self._work(clients=5, operations=4, pause_s=0.02))
        await asyncio.sleep(rng.uniform(GRACE_S, 3 * GRACE_S))
        await self._work(clients=rng.choice([0, 1, 2]), operations=3, pause_s=GRACE_S / 4)

    async def _heal(self) -> bool:
        self.purged = sum(machine.store.purged_count for machine in self.machines)
        healed = await super()._heal()
        return healed and (self._crashes.several or await self._all_purged())

    async def _all_purged(self) -> bool:
        try:
            async with asyncio.timeout(_HEALED_S):
                while self._deleted():
                    await asyncio.sleep(0.5)
        except TimeoutError:
            self.unhealed.append("tombstones are left")
            return False
        return True

    def _holds(self, machine: Machine, key: bytes, version: int) -> bool:
        """What was purged, once all had it, nobody has to hold any more. That it was too early is for the histories to
        show."""
        return super()._holds(machine, key, version) or any(
            owner.store.purged_versions.get(key, 0) >= version for owner in self._owners(key)
        )

    def _differ(self, key: bytes) -> bool:
        owners = [machine.store for machine in self._owners(key)]
        bound = max(store.bound(key) for store in owners)
        held = {store.records.get(key) for store in owners}
        return len({None if record and record.tombstone and record.version < bound else record for record in held}) > 1


def region_of(key: bytes) -> int:
    """The region of a key: one of sixteen."""
    return hash_key(key) >> (HASH_BITS - 4)


@contextmanager
def coarse_purging() -> Iterator[None]:
    """Sixteen regions to be compared, and to be purged."""
    with coarse_regions(), patch("sfss.memory._region", region_of):
        yield


SETTINGS: dict[str, dict[str, Any]] = {
    "three nodes": {},
    "five copies": {"nodes": 5, "quorum": Quorum(5, 3, 3)},
    "coordinators that share their keys, with clocks apart": {"sharing": 2, "skew_s": 0.5},
    "hints are lost": {"hints": False},
    "nobody forgets": {"crashes": Crashes(forget=0.0)},
    "several forget at a time": {"crashes": Crashes(several=True)},
}


async def simulate(seed: int, settings: str, **changes: Any) -> SimulatedPurging:
    """Run one schedule."""
    cluster = SimulatedPurging(random.Random(seed), **{**SETTINGS[settings], **changes})
    await cluster.run_strikes()
    return cluster


if __name__ == "__main__":
    with coarse_purging():
        tell(lambda settings, seed: run(simulate(seed, settings)))
