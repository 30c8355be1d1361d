"""Random schedules in which tombstones are purged before and after the ring changes, with movers killed, nodes away for
longer than tombstones live, and messages that sleep through it all: no deleted file comes back, none that wasn't is
lost, and in the end all tombstones are gone. A rule, taken away, must be missed by that judgement.

A failure prints the command that runs its schedule again, and tells it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from sfss.ring_record import Placement
from sfss.store import Call
from tests.planted import TRIES
from tests.unit.simulated_purging import PurgingStore, coarse_purging
from tests.unit.simulated_purging_rings import CHANGES, simulate
from tests.unit.virtual_time import run

PLANTED_SEEDS = (3, *range(40))
"""The first is of a schedule that showed the fault."""

_node_ring = cache(Placement.node_ring)


@pytest.fixture(autouse=True)
def few_regions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And rings are worked out once."""
    monkeypatch.setattr(Placement, "node_ring", lambda *arguments: _node_ring(*arguments))
    logging.disable()
    with coarse_purging():
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("change", CHANGES)
def test_no_schedule_brings_a_deleted_file_back_or_leaves_a_tombstone_while_the_ring_changes(
    change: str, request: pytest.FixtureRequest, tally: Counter[str]
) -> None:
    seed = request.config.getoption("--seed") * 1_000_000
    until = time.monotonic() + (request.config.getoption("--fault-seconds") or 0.0) / len(CHANGES)
    more = True

    while more:
        cluster = run(simulate(seed, change))
        tally.update(cluster.figures())
        assert not cluster.faults(), f"python -m tests.unit.simulated_purging_rings {change!r} {seed}"
        assert cluster.moved
        assert cluster.purged
        seed += 1
        more = time.monotonic() < until


def test_nodes_that_store_what_slept_through_a_change_are_caught() -> None:
    class ServesAnyRing(PurgingStore):
        def _check_ring(self, call: Call) -> None:
            """As if every request were placed by its own."""

    def is_clean(seed: int, **settings: Any) -> bool:
        return not run(simulate(seed, "one is replaced", **settings)).faults()

    assert is_clean(PLANTED_SEEDS[0])
    assert TRIES.until(not is_clean(seed, node=ServesAnyRing) for seed in PLANTED_SEEDS)
