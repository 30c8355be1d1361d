"""Stalls of an event loop are counted, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from sfss.loop_watch import STALL_S_MIN, TICK_S, LoopWatch


class Timer:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop(asyncio.AbstractEventLoop):
    """As much of a loop as the watch uses."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[tuple[float, Callable[[], None], Timer]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None], *_: object, **__: object) -> Timer:  # type: ignore[override]
        self.due.append((when, callback, Timer()))
        return self.due[-1][2]

    def turn(self, late_s: float = 0.0) -> None:
        """Call what is due next, so much too late."""
        when, callback, _ = self.due.pop()
        self.now = when + late_s
        callback()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def watch(loop: Loop) -> LoopWatch:
    watch = LoopWatch()
    watch.start(loop)
    return watch


def test_a_loop_that_keeps_time_has_no_stalls(loop: Loop, watch: LoopWatch) -> None:
    for _ in range(10):
        loop.turn(late_s=STALL_S_MIN * 0.9)

    assert watch.figures() == {"loop_stalls": "0", "loop_stall_max_ms": "0"}


def test_stalls_are_counted_and_the_longest_is_kept(loop: Loop, watch: LoopWatch) -> None:
    for late_s in (0.0, 0.020, 0.0, 0.250, 0.030):
        loop.turn(late_s)

    assert watch.figures() == {"loop_stalls": "3", "loop_stall_max_ms": "250"}


def test_one_stall_is_counted_once(loop: Loop, watch: LoopWatch) -> None:
    loop.turn(late_s=10 * TICK_S)
    loop.turn()

    assert watch.stalls == 1


def test_a_long_stall_is_logged(loop: Loop, watch: LoopWatch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        loop.turn(late_s=0.5)
        loop.turn(late_s=2.5)

    assert [record.getMessage() for record in caplog.records] == ["the event loop was held up for 2.5 s"]


def test_a_closed_watch_leaves_no_timer(loop: Loop, watch: LoopWatch) -> None:
    watch.close()
    watch.close()

    assert loop.due[0][2].cancelled
