"""Percentiles of latencies."""

import pytest

from proxy.latency import Latency


def test_nothing_recorded_has_no_percentile():
    assert Latency().quantile(0.5) is None


@pytest.mark.parametrize("seconds", [0.000002, 0.00001, 0.0004, 0.003, 0.25, 1.0, 100.0])
def test_a_percentile_is_at_most_a_quarter_above_what_was_recorded(seconds):
    latency = Latency()

    latency.record(seconds)

    assert seconds < latency.quantile(0.5) <= 1.26 * seconds + 0.000001


def test_percentiles_separate_the_slow_from_the_usual():
    latency = Latency()
    for _ in range(95):
        latency.record(0.001)
    for _ in range(5):
        latency.record(0.1)

    assert latency.quantile(0.5) < 0.002
    assert latency.quantile(0.99) > 0.1


def test_what_is_long_ago_weighs_less_and_less():
    latency = Latency()
    for _ in range(4_000):
        latency.record(0.1)
    for _ in range(20_000):
        latency.record(0.001)

    assert latency.quantile(0.95) < 0.002


def test_hours_are_recorded_as_the_longest():
    latency = Latency()

    latency.record(10_000.0)

    assert latency.quantile(0.5) > 200
