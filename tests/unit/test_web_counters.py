"""Figures of several workers together."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sfss.web.counters import OPERATIONS, TIMED, SharedCounters, bucket_ceiling, bucket_of, percentile

NOW = 2e9


def figures(counters: SharedCounters) -> dict[str, Any]:
    return counters.figures(NOW)


def test_workers_are_added_up_and_listed() -> None:
    counters = SharedCounters(3)
    for index in (0, 2):
        worker = counters.worker(index)
        worker.start()
        worker.answered("get", 200, 0.001, 0, 10)
        worker.answered("put", 500, 0.1, 7, 0)
        worker.set("curr_connections", 4)

    told = figures(counters)

    assert told["requests_get"] == "2"
    assert told["status_2xx"] == "2"
    assert told["status_5xx"] == "2"
    assert (told["bytes_in"], told["bytes_out"], told["curr_connections"]) == ("14", "20", "8")
    assert len(told["workers"]) == 2
    assert told["workers"][0]["pid"] == str(os.getpid())
    assert told["workers"][1]["requests_get"] == "1"


def test_hits_and_misses_are_of_gets_alone() -> None:
    counters = SharedCounters(1)
    worker = counters.worker(0)
    worker.start()
    for operation, status in (("get", 200), ("get", 206), ("get", 404), ("get", 503), ("head", 404), ("delete", 404)):
        worker.answered(operation, status, 0.0, 0, 0)

    told = figures(counters)

    assert (told["get_hits"], told["get_misses"], told["requests_get"]) == ("2", "1", "4")


def test_a_restarted_worker_counts_on() -> None:
    counters = SharedCounters(1)
    counters.worker(0).start()
    counters.worker(0).answered("get", 200, 0.0, 0, 0)
    counters.worker(0).set("curr_connections", 9)

    counters.worker(0).start()

    told = figures(counters)
    assert (told["requests_get"], told["curr_connections"], told["restarts"]) == ("1", "0", "1")


def test_others_see_at_once_what_is_set_and_requests_once_they_are_published() -> None:
    counters, elsewhere = SharedCounters(1), SharedCounters(1)
    elsewhere._words = counters._words
    worker = counters.worker(0)
    worker.start()
    worker.set("curr_connections", 4)
    worker.add("aborted")
    worker.answered("get", 200, 0.001, 3, 10)
    worker.answered("batch_get", 503, 0.001, 3, 10)

    told = figures(elsewhere)
    before = elsewhere.requests()
    worker.publish()

    assert (told["curr_connections"], told["aborted"]) == ("4", "1")
    assert sum(before.answered.values()) == 0
    assert elsewhere.requests() == counters.requests()
    assert elsewhere.requests().answered["batch_get", "5xx"] == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(OPERATIONS),
            st.sampled_from([200, 201, 206, 304, 400, 404, 412, 500, 503]),
            st.floats(0, 100),
            st.integers(0, 1 << 40),
            st.integers(0, 1 << 40),
            st.sampled_from(["", "get", "add", "publish"]),
        ),
        max_size=20,
    )
)
def test_nothing_is_counted_twice_or_lost_whenever_it_is_added_up(requests: list[Any]) -> None:
    counters = SharedCounters(1)
    worker = counters.worker(0)
    worker.start()
    for operation, status, seconds, bytes_in, bytes_out, then in requests:
        worker.answered(operation, status, seconds, bytes_in, bytes_out)
        if then == "get":
            worker.get("bytes_in")
        elif then == "add":
            worker.add("retries")
        elif then == "publish":
            worker.publish()

    told, counted = figures(counters), counters.requests()

    kinds = [(operation, f"{status // 100}xx") for operation, status, *_ in requests]
    assert {pair: count for pair, count in counted.answered.items() if count} == dict(Counter(kinds))
    gets = [status for operation, status, *_ in requests if operation == "get"]
    assert told["get_hits"] == str(sum(status < 300 for status in gets))
    assert told["get_misses"] == str(gets.count(404))
    assert told["bytes_in"] == str(sum(one[3] for one in requests))
    assert told["bytes_out"] == str(sum(one[4] for one in requests))
    for name in TIMED:
        took = [int(seconds * 1e6) for operation, _, seconds, *_ in requests if operation == name]
        assert sum(counted.latencies[name]) == len(took)
        assert counted.seconds[name] == sum(took) / 1e6


def test_a_worker_sees_its_own_requests_at_once() -> None:
    counters = SharedCounters(2)
    counters.worker(1).start()

    for count in range(1, 4):
        counters.worker(1).answered("get", 200, 0.001, 0, 10)
        assert figures(counters)["requests_get"] == str(count)


def test_a_successor_counts_on_from_what_was_published() -> None:
    counters, successor = SharedCounters(1), SharedCounters(1)
    successor._words = counters._words
    counters.worker(0).start()
    counters.worker(0).answered("get", 200, 0.001, 0, 10)
    counters.worker(0).publish()

    successor.worker(0).start()
    successor.worker(0).answered("get", 200, 0.001, 0, 10)

    told = figures(successor)
    assert (told["requests_get"], told["bytes_out"], told["restarts"]) == ("2", "20", "1")
    assert told["latency_get_p99_us"] == "1024"


def test_percentiles_are_those_of_the_latencies_within_a_quarter() -> None:
    counters = SharedCounters(1)
    worker = counters.worker(0)
    worker.start()
    for milliseconds in range(1, 101):
        worker.answered("get", 200, milliseconds / 1000, 0, 0)

    told = figures(counters)

    for percent, expected_us in ((50, 50_000), (90, 90_000), (99, 99_000)):
        assert expected_us <= int(told[f"latency_get_p{percent}_us"]) <= expected_us * 1.25 + 1
    assert "latency_put_p50_us" not in told


def test_percentiles_forget_what_is_over_twenty_seconds_old() -> None:
    counters = SharedCounters(1)
    worker = counters.worker(0)
    worker.start()
    for second in range(0, 60, 10):
        worker.answered("get", 200, 10.0 if second == 0 else 0.001, 0, 0)
        worker.measure_process(second)

    told = figures(counters)

    assert int(told["latency_get_p99_us"]) < 2000
    assert told["requests_get"] == "6"


@given(st.integers(0, 10**8))
def test_a_bucket_holds_what_lies_below_its_ceiling_and_not_below_the_one_before(microseconds: int) -> None:
    bucket = bucket_of(microseconds)

    if microseconds < 50_000_000:
        assert microseconds < bucket_ceiling(bucket)
    assert bucket == 0 or bucket_ceiling(bucket - 1) <= microseconds


def test_a_percentile_of_nothing_is_nothing() -> None:
    assert percentile([0, 0], 99) == 0
