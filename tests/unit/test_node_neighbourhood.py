"""What is read ahead once files are found missing from the page cache."""

from __future__ import annotations

import os

from test_node_store import node

from nodes.neighbourhood import MISSES, NEIGHBOURHOOD_BYTES, WINDOW_S, Neighbourhoods
from sfss.store import settled


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_several_misses_in_one_neighbourhood_have_it_read_ahead_once():
    around = Neighbourhoods(Clock())
    start = 5 * NEIGHBOURHOOD_BYTES
    told = [around.missed(7, start + number * 4096) for number in range(20)]
    assert told == [-1] * (MISSES - 1) + [start] + [-1] * (20 - MISSES)


def test_misses_far_apart_in_place_or_time_have_nothing_read_ahead():
    clock = Clock()
    around = Neighbourhoods(clock)
    assert {around.missed(1, number * NEIGHBOURHOOD_BYTES) for number in range(10_000)} == {-1}
    assert {around.missed(number, 0) for number in range(100)} == {-1}
    for _ in range(20):
        assert around.missed(1, 99) == -1
        clock.now += WINDOW_S + 0.1


def test_it_is_read_ahead_again_when_it_has_left_the_page_cache_again():
    clock = Clock()
    around = Neighbourhoods(clock)
    for _ in range(3):
        assert [around.missed(1, 0) for _ in range(MISSES)][-1] == 0
        clock.now += WINDOW_S + 0.1


async def test_a_reader_asks_the_kernel_for_the_rest_of_a_neighbourhood_and_reads_right(tmp_path, monkeypatch):
    asked = []

    def note(fd: int, offset: int, size: int, advice: int) -> None:
        asked.append((offset, size, advice))

    monkeypatch.setattr(os, "posix_fadvise", note)
    async with node(tmp_path) as store:
        for number in range(8):
            await settled(store.set(b"k%d" % number, bytes([number]) * 1000))
        monkeypatch.setattr(store._reader, "read_now", lambda number, offset, size: None)

        read = [(await settled(store.get(b"k%d" % number))).value for number in range(8)]

    assert read == [bytes([number]) * 1000 for number in range(8)]
    assert (0, NEIGHBOURHOOD_BYTES, os.POSIX_FADV_WILLNEED) in asked
