"""Random schedules of a simulated cluster: every history must be one that a single copy could have given; and each
rule, taken away, must be missed by that judgement.

A failure prints the seed of its schedule: `SEEDS` narrowed to it repeats the run.
"""

import random

import pytest

from proxy.quorum import Quorum
from proxy.reading import Read
from proxy.writing import Write
from sfss.memory import MemoryStore
from sfss.store import NO_CALL, Applied
from tests.cluster.linearizability import linearizable
from tests.planted import TRIES
from tests.unit.simulated_cluster import SimulatedCluster, Weather
from tests.unit.virtual_time import run

SEEDS = range(12)
PLANTED_SEEDS = range(200)
"""Many, because a planted fault shows only in some schedules; the first that shows it ends the test."""

CALM = Weather(late_times=3.0, lost=0.0, refused=0.0, corrupt=0.0, cut_off_every_s=1e9)

SETTINGS = {
    "one coordinator": {"coordinators": 1},
    "several that share their keys": {"coordinators": 4, "sharing": 4},
    "several that don't know of one another": {"coordinators": 3},
    "several with clocks apart": {"coordinators": 3, "skew_s": 2.0},
    "several that share, with clocks apart": {"coordinators": 3, "skew_s": 2.0, "sharing": 3},
    "some that share and some that don't": {"coordinators": 4, "skew_s": 0.5, "sharing": 2},
}


async def simulate(seed, clients=8, operations=40, keys=2, grouped=False, **settings):
    cluster = SimulatedCluster(random.Random(seed), **settings)
    await cluster.run(clients=clients, operations=operations, keys=keys, grouped=grouped)
    return cluster


def is_clean(cluster):
    return all(linearizable(history) for history in cluster.histories.values())


def caught(**settings):
    """Whether some schedule shows the fault that was planted."""
    return TRIES.until(not is_clean(run(simulate(seed, **settings))) for seed in PLANTED_SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_history_is_linearizable(settings, seed, tally):
    cluster = run(simulate(seed, **settings))
    tally.update(cluster.figures())

    assert is_clean(cluster), f"seed {seed}: {cluster.histories}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_with_hints_every_history_is_linearizable_and_all_nodes_get_what_was_acknowledged(settings, seed, tally):
    cluster = run(simulate(seed, hints=True, **settings))
    tally.update(cluster.figures())

    assert is_clean(cluster), f"seed {seed}: {cluster.histories}"
    assert (cluster.behind(), cluster.marked) == ([], []), f"seed {seed}"
    assert sum(hints.replayed for hints in cluster.hints)


@pytest.mark.parametrize("seed", SEEDS[:3])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_with_groups_every_history_is_linearizable_and_all_nodes_get_what_was_acknowledged(settings, seed, tally):
    cluster = run(simulate(seed, clients=5, operations=30, keys=3, grouped=True, hints=True, **settings))
    tally.update(cluster.figures())

    assert is_clean(cluster), f"seed {seed}: {cluster.histories}"
    assert (cluster.behind(), cluster.marked) == ([], []), f"seed {seed}"
    assert cluster.outcomes["get_many ok"]
    assert cluster.outcomes["set_many ok"]


@pytest.mark.parametrize("sharing", [0, 4])
def test_one_hot_key_on_a_calm_network_gives_no_error_at_all(sharing):
    async def hot():
        cluster = SimulatedCluster(random.Random(1), coordinators=max(sharing, 1), sharing=sharing, weather=CALM)
        await cluster.run(clients=64, operations=30, keys=1, pause_s=0.001)
        return cluster

    cluster = run(hot())

    assert {outcome.split()[1] for outcome in cluster.outcomes} == {"ok"}
    assert is_clean(cluster)


@pytest.mark.parametrize(("asking", "sure"), [(0, False), (1, False), (2, True)])
def test_writes_of_two_coordinators_are_sure_only_if_both_ask_first(asking, sure):
    def unknown(seed):
        outcomes = run(
            simulate(
                seed, clients=64, operations=30, keys=100, coordinators=2, sharing=asking, skew_s=4.0, weather=CALM
            )
        ).outcomes
        return sum(count for name, count in outcomes.items() if name.endswith("unknown"))

    assert any(unknown(seed) for seed in range(6)) is not sure


def test_most_operations_succeed_in_bad_weather():
    outcomes = run(simulate(1, clients=8, operations=100)).outcomes

    assert outcomes["set ok"] > 0.8 * sum(count for name, count in outcomes.items() if name.startswith("set"))
    assert outcomes["get ok"] > 0.8 * sum(count for name, count in outcomes.items() if name.startswith("get"))


# Faults planted by substituting a part. If one of these isn't caught, the judgement above proves nothing.


def test_a_write_quorum_of_one_is_caught():
    assert caught(quorum=Quorum(3, 1, 2), coordinators=2)


def test_a_read_quorum_of_one_is_caught():
    class ReadsOne(Quorum):
        answers = answers_for_absence = holders = 1

    assert caught(quorum=ReadsOne(3, 2, 1))


def test_answering_without_write_back_is_caught(monkeypatch):
    class NoWriteBack(Read):
        def _write_back(self, target):
            self._answer(target)
            return False

    monkeypatch.setattr("proxy.coordinator.Read", NoWriteBack)

    assert caught(coordinators=3)


def test_a_group_that_takes_the_first_answer_of_each_key_is_caught(monkeypatch):
    monkeypatch.setattr("proxy.grouping._same", lambda one, other: True)

    assert caught(coordinators=3, grouped=True)


def test_nodes_that_store_whatever_comes_last_are_caught():
    class LastComesWins(MemoryStore):
        def apply(self, key, record, call=NO_CALL):
            self.records[key] = record
            return Applied(True, record.version, record.checksum, True)

    assert caught(node=LastComesWins)


def test_a_hint_counted_as_a_copy_is_caught(monkeypatch):
    class CountsHints(Write):
        def _refused(self, peer, error):
            super()._refused(peer, error)
            self._accepted += 1

    monkeypatch.setattr("proxy.coordinator.Write", CountsHints)

    assert caught(hints=True)


def test_a_replica_forgotten_once_the_client_was_answered_is_caught(monkeypatch):
    class ForgetsTheLate(Write):
        def _refused(self, peer, error):
            if not self._settled:
                super()._refused(peer, error)

    monkeypatch.setattr("proxy.coordinator.Write", ForgetsTheLate)

    assert TRIES.until(bool(run(simulate(seed, hints=True)).behind()) for seed in PLANTED_SEEDS)


def test_counting_refusals_of_a_blind_stamp_is_caught(monkeypatch):
    class CountsRefusals(Write):
        def _decide(self):
            self._asked = True
            super()._decide()

    monkeypatch.setattr("proxy.coordinator.Write", CountsRefusals)

    assert caught(coordinators=3, skew_s=2.0)


def test_stamping_again_after_an_acceptance_is_caught(monkeypatch):
    class StampsAgain(Write):
        def _fall_short(self):
            if self._held:
                self._accepted = self._doubtful = self._held = 0
                self._asked = True
                self.later = None
                self._send(self._coordinator.clock.next(self._highest))
            else:
                super()._fall_short()

    monkeypatch.setattr("proxy.coordinator.Write", StampsAgain)

    assert caught(coordinators=3, skew_s=2.0)


def test_taking_an_error_for_a_miss_is_caught(monkeypatch):
    class ErrorIsAMiss(Read):
        def _fail(self, peer, error):
            self._take(peer, None, False)

    monkeypatch.setattr("proxy.coordinator.Read", ErrorIsAMiss)

    assert caught()


def test_saying_not_applied_of_a_write_that_may_come_to_be_is_caught(monkeypatch):
    class ForgetsDoubts(Write):
        def _shortfall(self, now, silent):
            self._accepted = self._doubtful = 0
            return super()._shortfall(now, 0)

    monkeypatch.setattr("proxy.coordinator.Write", ForgetsDoubts)

    assert caught(weather=Weather(lost=0.2))
