"""Stamps rise, whatever the clock does, and carry its time while it is right."""

from __future__ import annotations

from itertools import product

import pytest

from sfss.stamps import AHEAD_S_MAX, StampClock, stamp_time, too_far_ahead


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_stamps_rise_while_the_clock_stands_still_or_goes_back() -> None:
    clock = Clock(1000.0)
    stamps = StampClock(clock)

    first, second = stamps.next(), stamps.next()
    clock.now = 10.0
    third = stamps.next()

    assert first < second < third


def test_a_stamp_carries_its_time() -> None:
    assert stamp_time(StampClock(Clock(1234.567)).next()) == pytest.approx(1234.567)


def test_a_stamp_is_above_what_was_observed_what_was_asked_and_the_floor() -> None:
    stamps = StampClock(Clock(0.0), floor=5)

    assert stamps.next() == 6
    stamps.observe(40)
    assert stamps.next() == 41
    assert stamps.next(above=100) == 101


def test_a_version_far_in_the_future_is_refused_and_not_caught_by_the_clock() -> None:
    clock = Clock(1000.0)
    stamps = StampClock(clock)
    poisoned = StampClock(Clock(1000.0 + AHEAD_S_MAX + 1)).next()

    stamps.observe(poisoned)

    assert too_far_ahead(poisoned, clock.now)
    assert stamps.next() < poisoned


def test_a_stamp_is_the_least_that_is_above_all_that_it_must_be() -> None:
    for now, last, above in product((0.001, 0.002, 0.003), (0, 1 << 16, 2 << 16, 3 << 16), (0, 65536, 131072, 262144)):
        clock = StampClock(Clock(now), floor=last)

        assert clock.next(above) == clock.last == max(last + 1, above + 1, int(now * 1000) << 16)
