"""The design of ring changes, as a model: whatever happens while nodes come, go and change places, every history is one
that a single copy could have given; and each of its rules, taken away, is missed.

A failure prints the seed of its schedule: `SEEDS` narrowed to it repeats the run.
"""

from __future__ import annotations

import functools
import random

import pytest

from tests.cluster.linearizability import linearizable
from tests.planted import TRIES
from tests.unit.ring_change_model import KEYS, Group, Placement, Ring, Rules, Run
from tests.unit.virtual_time import run

SEEDS = range(12)
PLANTED_SEEDS = range(150)
"""Many, because a planted fault shows only in some schedules; the first that shows it ends the test."""


def placed(*owners: str, w: int = 2, r: int = 2) -> Placement:
    return {key: Group(tuple(names), w, r) for key, names in zip(KEYS, owners, strict=True)}


CHANGES = {
    "a node is added": [placed("abc", "abc", "abc"), placed("abd", "dbc", "abc")],
    "a node is removed": [placed("abc", "abd", "bcd"), placed("abc", "abc", "bca")],
    "a node is replaced": [placed("abc", "bca", "cab"), placed("abd", "bda", "dab")],
    "all owners are replaced": [placed("abc", "abc", "abc"), placed("def", "def", "def")],
    "one node becomes three": [placed("a", "a", "a", w=1, r=1), placed("abc", "abc", "abc")],
    "three become five": [placed("abc", "abc", "abc"), placed("abcde", "bcdea", "cdeab", w=3, r=3)],
    "three become one": [placed("abc", "abc", "abc"), placed("b", "b", "b", w=1, r=1)],
    "one change after another": [
        placed("abc", "bcd", "cda"),
        placed("abe", "bce", "cda"),
        placed("ebf", "dce", "fda"),
        placed("abc", "bcd", "cda"),
    ],
}


@functools.cache
def followed(change: str, seed: int) -> Run:
    """A run in which nobody breaks a rule; several tests look at each."""
    return history_of(seed, CHANGES[change])


def history_of(seed: int, placements: list[Placement], rules: Rules | None = None, coordinators: int = 4) -> Run:
    async def changed() -> Run:
        model = Run(random.Random(seed), placements, rules or Rules(), coordinators)
        await model.run()
        return model

    model: Run = run(changed())
    return model


def is_clean(model: Run) -> bool:
    return all(linearizable(history) for history in model.world.histories.values())


def caught(rules: Rules, change: str = "all owners are replaced", coordinators: int = 4, likely_seed: int = 0) -> bool:
    """Whether some schedule shows the fault that was planted. `likely_seed` is of one that did: it is tried first."""
    seeds = (likely_seed, *PLANTED_SEEDS)
    return TRIES.until(not is_clean(history_of(seed, CHANGES[change], rules, coordinators)) for seed in seeds)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("change", CHANGES)
def test_every_history_is_linearizable_through_changes_of_the_ring(change: str, seed: int) -> None:
    model = followed(change, seed)

    assert is_clean(model), f"seed {seed}: {model.world.histories}"
    assert max(node.ring.number for node in model.world.nodes.values()) == 2 * len(CHANGES[change]) - 1


@pytest.mark.parametrize("change", CHANGES)
def test_clients_are_served_all_the_while(change: str) -> None:
    outcomes: dict[str, int] = {}
    for seed in range(5):
        for outcome, count in followed(change, seed).world.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count

    served = outcomes["r ok"] + outcomes["w ok"]
    assert served > 0.5 * sum(outcomes.values())


def test_only_the_new_quorums_during_a_change_are_caught() -> None:
    class OnlyNew(Rules):
        def groups(self, ring: Ring, key: str) -> list[Group]:
            return ring.groups(key)[-1:]

    assert caught(OnlyNew())


def test_only_the_old_quorums_during_a_change_are_caught() -> None:
    class OnlyOld(Rules):
        def groups(self, ring: Ring, key: str) -> list[Group]:
            return ring.groups(key)[:1]

    assert caught(OnlyOld())


def test_an_old_copy_that_is_removed_early_is_caught() -> None:
    class DropsEarly(Rules):
        def drops_early(self) -> bool:
            return True

    assert caught(DropsEarly())


def test_a_node_that_serves_a_stale_ring_is_caught() -> None:
    class ServesAll(Rules):
        def executes(self, node: object, number: int) -> bool:
            return True

    assert caught(ServesAll())


def test_copying_before_nodes_have_stored_the_ring_is_caught() -> None:
    class NoBarrier(Rules):
        def barrier(self, group: Group) -> int:
            return 0

    assert caught(NoBarrier())


def test_leaving_the_old_ring_before_the_new_owners_have_everything_is_caught() -> None:
    class NeverFills(Rules):
        def fills(self) -> bool:
            return False

    assert caught(NeverFills())


def test_movers_that_do_not_agree_on_the_next_ring_are_caught() -> None:
    class EachItsOwn(Rules):
        def decides(self) -> bool:
            return False

    assert caught(EachItsOwn(), "one change after another", coordinators=2, likely_seed=124)
