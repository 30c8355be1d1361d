"""Random schedules of a cluster whose ring changes under its clients: every history must be one that a single copy
could have given; and each rule, taken away, must be missed by that judgement.

A failure prints the seed of its schedule: `SEEDS` narrowed to it repeats the run.
"""

import random
from functools import cache

import pytest

from proxy.placed_ring import Owners
from sfss.ring_plan import Change
from sfss.ring_record import Placement
from tests.cluster.linearizability import linearizable
from tests.planted import TRIES
from tests.unit.simulated_cluster import Weather
from tests.unit.simulated_ring_change import SimulatedRingChange
from tests.unit.tree_store import TreeStore
from tests.unit.virtual_time import run

SEEDS = range(3)
PLANTED_SEEDS = range(40)

THREE = ("a:1", "b:1", "c:1")
CHANGES = {
    "one joins": (THREE, Change(add=("d:1",))),
    "one is replaced": (THREE, Change(replace={"b:1": "d:1"})),
    "all are replaced": (THREE, Change(replace={"a:1": "x:1", "b:1": "y:1", "c:1": "z:1"})),
    "one becomes three": (("a:1",), Change(add=("b:1", "c:1"))),
}

CALM = Weather(late_times=3.0, lost=0.0, refused=0.0, corrupt=0.0, cut_off_every_s=1e9)

_node_ring = cache(Placement.node_ring)


@pytest.fixture(autouse=True)
def rings_are_worked_out_once(monkeypatch):
    monkeypatch.setattr(Placement, "node_ring", lambda *arguments: _node_ring(*arguments))


async def simulate(seed, founders, change, clients=6, operations=20, keys=3, grouped=False, **settings):
    cluster = SimulatedRingChange(random.Random(seed), founders, change, **settings)
    await cluster.run(clients=clients, operations=operations, keys=keys, pause_s=0.05, grouped=grouped)
    return cluster


def is_clean(cluster):
    return all(linearizable(history) for history in cluster.histories.values())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", CHANGES)
def test_every_history_is_linearizable_while_the_ring_changes(kind, seed):
    cluster = run(simulate(seed, *CHANGES[kind], skew_s=0.5, sharing=1))

    assert is_clean(cluster), f"seed {seed}: {cluster.histories}"
    assert {coordinator.placed.number for coordinator in cluster.coordinators} == {3}


@pytest.mark.parametrize("kind", CHANGES)
def test_hints_are_replayed_to_the_owners_of_the_ring_that_is_in_use_and_else_dropped(kind):
    cluster = run(simulate(1, *CHANGES[kind], hints=True))

    assert is_clean(cluster), cluster.histories
    assert not any(hints.waiting() for hints in cluster.hints)
    assert sum(hints.replayed for hints in cluster.hints)


@pytest.mark.parametrize("kind", CHANGES)
def test_on_a_calm_network_no_request_fails_while_the_ring_changes(kind):
    cluster = run(simulate(1, *CHANGES[kind], coordinators=1, weather=CALM))

    assert {outcome.split()[1] for outcome in cluster.outcomes} == {"ok"}, cluster.outcomes
    assert is_clean(cluster)


@pytest.mark.parametrize("kind", CHANGES)
def test_with_groups_every_history_is_linearizable_while_the_ring_changes(kind):
    cluster = run(simulate(3, *CHANGES[kind], grouped=True))

    assert is_clean(cluster), cluster.histories
    assert cluster.outcomes["get_many ok"]
    assert cluster.outcomes["set_many ok"]


def caught(kinds=("all are replaced", "one becomes three"), **settings):
    """Whether some schedule shows the fault that was planted."""
    return TRIES.until(
        not is_clean(run(simulate(seed, *CHANGES[kind], **settings))) for seed in PLANTED_SEEDS for kind in kinds
    )


def test_quorums_of_the_new_owners_alone_are_caught(monkeypatch):
    monkeypatch.setattr(Owners, "of_both", staticmethod(lambda old, new: new))

    assert caught()


def test_quorums_of_the_old_owners_alone_are_caught(monkeypatch):
    monkeypatch.setattr(Owners, "of_both", staticmethod(lambda old, new: old))

    assert caught()


def test_nodes_that_serve_a_stale_ring_are_caught():
    class ServesAnyRing(TreeStore):
        def _check_ring(self, call):
            """As if every request were placed by its own."""

    assert caught(node=ServesAnyRing)
