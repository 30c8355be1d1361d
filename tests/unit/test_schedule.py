"""Every region has its turn once in an interval, and at once where something is known to be missing."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from proxy.schedule import REGIONS, Schedule


class Ticks:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def schedule_of(
    ticks: Ticks, interval_s: float = 2560.0, partitions: int = 65536, seed: int = 1, retry_s: float = 30.0
) -> Schedule:
    return Schedule(partitions, interval_s, retry_s, monotonic=ticks, rng=random.Random(seed))


def run_until(schedule: Schedule, ticks: Ticks, until: float, whole: bool = True) -> list[tuple[float, int]]:
    """What is compared, and when, if a comparison takes no time."""
    turns = []
    while True:
        region, wait_s = schedule.next()
        if ticks.now + max(wait_s, 0) > until:
            return turns
        ticks.now += max(wait_s, 0)
        schedule.begin(region)
        schedule.end(region, whole)
        turns.append((ticks.now, region))


def test_each_region_is_compared_once_in_an_interval_and_evenly():
    ticks = Ticks()
    schedule = schedule_of(ticks)

    turns = run_until(schedule, ticks, 1000.0 + 2 * 2560.0)

    assert sorted(region for _, region in turns[:REGIONS]) == list(range(REGIONS))
    assert turns[REGIONS][1] == turns[0][1]
    pauses = [after[0] - before[0] for before, after in pairwise(turns)]
    assert pauses == pytest.approx([10.0] * len(pauses))


def test_two_coordinators_are_seldom_at_the_same_region():
    orders = []
    for seed in (1, 2):
        ticks = Ticks()
        orders.append([region for _, region in run_until(schedule_of(ticks, seed=seed), ticks, 1000.0 + 2560.0)])

    assert sum(one == other for one, other in zip(*orders, strict=True)) < 10


def test_a_marked_partition_comes_next_and_then_in_its_turn_again():
    ticks = Ticks()
    schedule = schedule_of(ticks)

    schedule.mark(0x42FF)

    assert schedule.marked == 1
    assert schedule.next() == (0x42, 0.0)
    schedule.begin(0x42)
    assert schedule.marked == 0
    schedule.end(0x42, True)
    assert schedule.next()[0] != 0x42


def test_a_mark_that_comes_during_a_comparison_asks_for_another_one():
    ticks = Ticks()
    schedule = schedule_of(ticks)
    schedule.mark(0x4200)
    schedule.begin(0x42)

    schedule.mark(0x4200)
    schedule.end(0x42, True)

    assert schedule.next()[0] == 0x42
    assert schedule.next()[1] <= 0


def test_a_mark_of_what_was_too_new_to_be_compared_asks_for_another_comparison_once_it_has_settled():
    ticks = Ticks()
    schedule = schedule_of(ticks)
    schedule.mark(0x4200)
    schedule.begin(0x42)

    schedule.end(0x42, True, too_new=True, settle_s=5.0)
    schedule.mark(0x4200)

    assert schedule.next() == (0x42, 5.0)
    ticks.now += 5.0
    schedule.begin(0x42)
    schedule.end(0x42, True, settle_s=5.0)
    assert schedule.marked == 0
    assert schedule.next()[0] != 0x42


def test_what_is_too_new_where_nothing_is_known_to_be_missing_waits_for_its_turn():
    ticks = Ticks()
    schedule = schedule_of(ticks)
    region, wait_s = schedule.next()
    ticks.now += wait_s
    schedule.begin(region)

    schedule.end(region, True, too_new=True, settle_s=10.0)

    assert schedule._due[region] == ticks.now + 2560.0


def test_marks_without_end_have_a_region_compared_once_in_the_time_that_writes_take_to_settle():
    ticks = Ticks()
    schedule = schedule_of(ticks, interval_s=0.0)
    turns = []
    for _ in range(1000):
        schedule.mark(0x4200)
        region, wait_s = schedule.next()
        if wait_s <= 0:
            turns.append(region)
            schedule.begin(region)
            schedule.mark(0x4200)
            schedule.end(region, True, too_new=True, settle_s=10.0)
        ticks.now += 0.1

    assert 10 <= len(turns) <= 11


def test_marks_while_an_owner_is_away_have_nothing_compared_sooner():
    ticks = Ticks()
    schedule = schedule_of(ticks, interval_s=0.0, retry_s=30.0)
    turns = 0
    for _ in range(1000):
        schedule.mark(0x4200)
        region, wait_s = schedule.next()
        if wait_s <= 0:
            turns += 1
            schedule.begin(region)
            schedule.end(region, False, settle_s=10.0)
        ticks.now += 0.1

    assert turns <= 5


def test_a_partition_larger_than_a_region_marks_all_of_its_regions():
    ticks = Ticks()
    schedule = schedule_of(ticks, partitions=64)

    schedule.mark(1)

    assert {region for _, region in run_until(schedule, ticks, 1000.0)} == {4, 5, 6, 7}


def test_a_partition_smaller_than_a_region_marks_one():
    ticks = Ticks()
    schedule = schedule_of(ticks, partitions=1 << 20)

    schedule.mark((1 << 20) - 1)
    schedule.mark((1 << 20) - 2)

    assert schedule.marked == 1
    assert schedule.next()[0] == 0xFF


def test_what_was_compared_in_part_is_tried_again_soon():
    ticks = Ticks()
    schedule = schedule_of(ticks)
    region, wait_s = schedule.next()
    ticks.now += wait_s
    schedule.begin(region)

    schedule.end(region, False)

    assert [turn for turn in run_until(schedule, ticks, ticks.now + 31.0) if turn[1] == region]


def test_what_was_compared_in_part_waits_no_longer_than_for_its_turn():
    ticks = Ticks()
    schedule = schedule_of(ticks, interval_s=256.0, retry_s=300.0)
    run_until(schedule, ticks, ticks.now + 256.0, whole=False)  # an owner of all regions is away

    turns = run_until(schedule, ticks, ticks.now + 256.0)

    assert {region for _, region in turns} == set(range(REGIONS))


def test_without_an_interval_only_marked_regions_are_compared():
    ticks = Ticks()
    schedule = schedule_of(ticks, interval_s=0.0)

    assert schedule.next()[1] == float("inf")
    schedule.mark(0)
    assert run_until(schedule, ticks, 1e9) == [(1000.0, 0)]


def test_the_oldest_comparison_is_told_once_all_regions_were_compared():
    ticks = Ticks()
    schedule = schedule_of(ticks)

    run_until(schedule, ticks, 1000.0 + 2560.0 - 1.0)
    ticks.now = 3500.0
    assert schedule.oldest_s() == 2500.0

    run_until(schedule, ticks, 1000.0 + 2560.0)
    assert schedule.oldest_s() == pytest.approx(2550.0)
