"""What a benchmark says: turns that are fair, medians and spreads, and no figure of a side that failed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.contests import Contest, limited, ratio, size_text, summary
from bench.loads import Load, Run
from bench.servers import Unavailable
from bench.targets import TARGETS, Target, unmeasured, verdicts
from bench.verdict import Verdict


def run(rate: float, *, generator_cores: float = 0.5, p99_us: float = 100.0, server_s: float = 1.0) -> Run:
    return Run(
        done=int(rate * 2),
        seconds=2.0,
        p50_us=50.0,
        p90_us=80.0,
        p99_us=p99_us,
        max_us=200.0,
        generator_cores=generator_cores,
        server_s=server_s,
    )


def contest(**rates: list[float]) -> Contest:
    def measure(side: str, left: list[float]) -> Callable[[], Run]:
        return lambda: run(left.pop(0))

    held = Contest("get", "HTTP", Load())
    held.entrants = {side: measure(side, list(each)) for side, each in rates.items()}
    for number in range(len(next(iter(rates.values())))):
        held.turn(number)
    return held


def test_everyone_goes_first_in_turn() -> None:
    order: list[str] = []

    def measure(side: str) -> Callable[[], Run]:
        def note() -> Run:
            order.append(side)
            return run(1)

        return note

    held = Contest("get", "HTTP", Load(), entrants={side: measure(side) for side in "abc"})
    for number in range(3):
        held.turn(number)

    assert "".join(order) == "abcbcacab"


def test_a_ratio_is_of_the_medians_and_its_spread_of_the_turns() -> None:
    found = ratio([10.0, 50.0, 20.0], [100.0, 90.0, 110.0])

    assert found.value == 0.2
    assert found.least == 0.1
    assert found.most == pytest.approx(50 / 90)


def test_a_ratio_of_lists_that_do_not_match_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_a_side_is_summed_up_by_medians_and_the_whole_spread() -> None:
    found = summary([run(100, p99_us=7), run(300, p99_us=9), run(200, p99_us=8)], size=4096)

    assert found["rate_per_s"] == 200
    assert found["rate_spread"] == [100, 300]
    assert found["p99_us"] == 8
    assert found["mb_per_s"] == pytest.approx(200 * 4096 / 1e6)
    assert found["processor_s_per_1000"] == pytest.approx(1000 / 400)


@pytest.mark.parametrize(
    ("turns", "said"),
    [([], False), ([False], False), ([True], True), ([True, False], True), ([True, False, False], False)],
)
def test_the_load_was_the_limit_when_the_median_may_be_such_a_turn(turns: list[bool], said: bool) -> None:
    assert limited(turns) is said


def test_a_load_that_takes_nearly_a_core_was_the_limit() -> None:
    assert not run(1, generator_cores=0.89).generator_was_limit
    assert run(1, generator_cores=0.9).generator_was_limit


def test_a_side_that_fails_once_is_out_with_all_its_turns_and_named() -> None:
    def fails() -> Run:
        raise Unavailable("3 of 10 answers were errors")

    held = Contest("get", "HTTP", Load(), entrants={"good": lambda: run(10), "bad": lambda: run(20)})
    held.turn(0)
    held.entrants["bad"] = fails

    troubles = held.turn(1)
    held.turn(2)

    assert troubles == ["HTTP GET 4 KiB: 3 of 10 answers were errors"]
    assert held.rates("good") == [10, 10, 10]
    assert list(held.figures()["sides"]) == ["good"]


def test_a_contest_in_which_nobody_is_left_has_no_turns() -> None:
    assert Contest("get", "HTTP", Load()).turn(0) == []


@pytest.mark.parametrize(
    ("load", "cache", "name"),
    [
        (Load(), "warm", "HTTP GET 4 KiB"),
        (Load(bytes=100, connections=1), "cold", "HTTP GET 100 B, 1 connection, cold"),
        (Load(bytes=1 << 20, connections=256), "warm", "HTTP GET 1 MiB, 256 connections"),
    ],
)
def test_a_contest_is_named_by_what_is_not_usual(load: Load, cache: str, name: str) -> None:
    assert Contest("get", "HTTP", load, cache).name == name


def test_sizes_are_said_in_whole_units() -> None:
    assert [size_text(size) for size in (100, 1024, 1500, 65536, 1 << 20)] == [
        "100 B",
        "1 KiB",
        "1500 B",
        "64 KiB",
        "1 MiB",
    ]


def test_a_target_is_judged_by_the_ratio_and_says_whose_load_was_the_limit() -> None:
    held = contest(ours=[50, 50, 50], theirs=[100, 100, 100])
    held.runs["theirs"] = [run(100, generator_cores=0.95)] * 3

    found = Target("HTTP GET 4 KiB", "ours", "theirs", 0.5).verdict(held)

    assert found.met
    assert (found.value, found.spread) == (0.5, (0.5, 0.5))
    assert found.note == "the load was the limit for theirs"


def test_a_target_whose_peer_is_missing_is_named_and_not_judged() -> None:
    held = contest(ours=[50], theirs=[100])
    measured = Target("HTTP GET 4 KiB", "ours", "theirs", 1.0)
    missing = Target("HTTP GET 4 KiB", "ours", "nobody", 1.0)

    assert [verdict.met for verdict in verdicts([held], [measured, missing])] == [False]
    assert unmeasured([held], [measured, missing]) == [missing]


def test_every_target_is_of_a_contest_that_is_planned() -> None:
    from bench.run import TARGET_STAGES

    planned = {
        Contest(cell.operation, stage.protocol, Load(stage.size, cell.connections), cell.cache).name
        for stage in TARGET_STAGES
        for cell in stage.cells
    }

    assert {target.contest for target in TARGETS} == planned


def test_a_verdict_is_at_most_or_at_least() -> None:
    assert Verdict("memory", 1.0, 1.0, "MiB").met
    assert not Verdict("memory", 1.01, 1.0, "MiB").met
    assert Verdict("ratio", 1.0, 1.0, "×", at_least=True).met
    assert not Verdict("ratio", 0.99, 1.0, "×", at_least=True).met
