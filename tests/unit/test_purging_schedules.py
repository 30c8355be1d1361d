"""Random schedules in which tombstones are purged within seconds, while nodes are away for longer, die and go back to
older copies of themselves, and messages sleep: no deleted file comes back, none that wasn't is lost, and in the end all
tombstones are gone. Each rule, taken away, must be missed by that judgement.

A failure prints the command that runs its schedule again, and tells it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import pytest

from proxy.asking import ask
from proxy.comparison import Comparison
from proxy.coordinator import Coordinator
from proxy.hints import Hints
from proxy.peer import Peer
from proxy.purging import RegionPurge
from sfss.hash_tree import Listed
from sfss.store import NO_CALL, Applied, Call, Record
from tests.planted import TRIES
from tests.unit.simulated_purging import SETTINGS, PurgingStore, coarse_purging, simulate
from tests.unit.virtual_time import run

SEEDS = 1
"""Of each setting; with `--fault-seconds` as many as there is time for."""

PLANTED_SEEDS = range(60)
"""Many, because a planted fault shows only in some schedules; the first that shows it ends the test."""


@pytest.fixture(autouse=True)
def few_regions() -> Iterator[None]:
    logging.disable()
    with coarse_purging():
        yield
    logging.disable(logging.NOTSET)


def caught(settings: str = "nobody forgets", likely_seed: int = 0, **changes: Any) -> bool:
    """Whether some schedule shows the fault that was planted. `likely_seed` is of one that did: it is tried first."""
    seeds = (likely_seed, *PLANTED_SEEDS)
    return TRIES.until(bool(run(simulate(seed, settings, **changes)).faults()) for seed in seeds)


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_schedule_brings_a_deleted_file_back_or_leaves_a_tombstone(
    settings: str, request: pytest.FixtureRequest, tally: Counter[str]
) -> None:
    first = request.config.getoption("--seed") * 1_000_000
    seconds = request.config.getoption("--fault-seconds")
    until = time.monotonic() + (seconds or 0.0) / len(SETTINGS)
    number = 0

    while number < SEEDS or (seconds and time.monotonic() < until):
        cluster = run(simulate(first + number, settings))
        number += 1
        tally.update(cluster.figures())
        assert not cluster.faults(), f"python -m tests.unit.simulated_purging {settings!r} {first + number - 1}"


def test_schedules_purge_while_clients_work() -> None:
    assert sum(run(simulate(seed, "nobody forgets")).purged for seed in range(3))


# Faults planted by substituting a part. If one of these isn't caught, the judgement above proves nothing.


class TakesAllForNew(RegionPurge):
    """Else most of what came back would soon be deleted again."""

    def is_returned(self, newest: Listed, holding: Iterable[Peer], others: Sequence[Peer]) -> bool:
        return False


def test_a_purge_that_asks_w_owners_in_place_of_all_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    ask_all = RegionPurge.ask

    async def ask_w(self: RegionPurge, peers: Sequence[Peer], *, suspect_too: bool = False) -> None:
        await ask_all(self, peers, suspect_too=suspect_too)
        self._all_told = len(self._told) >= self._coordinator.placed.quorum.w

    class AnyIsWhole(Comparison):
        def _leave_out(self, peer: Peer) -> None:
            self._away.add(peer)

    monkeypatch.setattr(RegionPurge, "ask", ask_w)
    monkeypatch.setattr("proxy.comparer.Comparison", AnyIsWhole)

    assert caught(away=1.0)


def test_a_node_that_stores_what_is_from_before_its_fence_is_caught() -> None:
    class StoresAnything(PurgingStore):
        def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Applied:
            purged = self._purged.copy()
            self._purged.clear()
            try:
                return super().apply(key, record, call)
            finally:
                self._purged.update(purged)

    assert caught(node=StoresAnything)


def test_a_comparison_that_copies_from_a_suspect_node_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class BelievesAnybody(Comparison):
        def _can_be_asked(self, peer: Peer) -> bool:
            return not peer.down

        async def _hashes(self, peer: Peer, prefix: bytes) -> bytes:
            return await ask(self._coordinator, peer, lambda replica, _: replica.hashes_held(prefix), suspect_too=True)

        async def _read(self, peer: Peer, key: bytes) -> Record | None:
            return await ask(self._coordinator, peer, lambda replica, _: replica.read_held(key), suspect_too=True)

    class TellsAll(PurgingStore):
        def read_held(self, key: bytes) -> Record | None:
            return self.records.get(key)

    monkeypatch.setattr("proxy.comparer.RegionPurge", TakesAllForNew)
    assert not run(simulate(0, "three nodes")).faults(), "a refill deletes again what came back, before it counts"
    monkeypatch.setattr("proxy.comparer.Comparison", BelievesAnybody)

    assert caught("three nodes", likely_seed=2, node=TellsAll)


def test_a_purge_that_does_not_wait_for_hints_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class LeavesItToHints(Comparison):
        """As if an owner for which hints wait had what they stand for."""

        def _leave_out(self, peer: Peer) -> None:
            self._away.add(peer)
            self.whole = self.whole and is_hinted(self._coordinator, peer)

    async def ask_others(self: RegionPurge, peers: Sequence[Peer], *, suspect_too: bool = False) -> None:
        await ask_all(self, peers, suspect_too=suspect_too)
        self._all_told = all(peer in self._told or is_hinted(self._coordinator, peer) for peer in peers)

    def is_hinted(coordinator: Coordinator, peer: Peer) -> bool:
        return f"node at {peer.name}" in coordinator.hints.waiting()

    async def keep(self: Hints, nodes: Collection[str] | None) -> None:
        """As if no hint were ever too old."""

    ask_all = RegionPurge.ask
    monkeypatch.setattr(RegionPurge, "ask", ask_others)
    monkeypatch.setattr("proxy.comparer.Comparison", LeavesItToHints)
    monkeypatch.setattr("proxy.comparer.RegionPurge", TakesAllForNew)
    monkeypatch.setattr(Hints, "tidy", keep)

    assert caught(away=1.0, coordinators=1)
