"""What free memory there is gets used once, and costs no room on disk."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from bench import ballast
from bench.ballast import LEFT_FREE_BYTES, Ballast, free_bytes

MIB = 1 << 20


class Memory:
    """What is free, of which reading takes a part."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, taken: float = 1.0) -> None:
        self.free = free
        self.taken = taken
        self.read = 0
        self._preadv = os.preadv
        monkeypatch.setattr(ballast, "STEP_BYTES", 8 * MIB)
        monkeypatch.setattr(ballast, "free_bytes", lambda: self.free)
        monkeypatch.setattr(os, "preadv", self.preadv)

    def preadv(self, *call: Any) -> int:
        count = self._preadv(*call)
        self.read += count
        self.free -= int(count * self.taken)
        return count


def test_free_memory_is_taken_up_by_the_cache_of_a_file_without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    memory = Memory(monkeypatch, LEFT_FREE_BYTES + 21 * MIB)

    with Ballast(said.append) as taken:
        taken.take_up()
        assert (memory.free, memory.read) == (LEFT_FREE_BYTES, 21 * MIB)
        taken.take_up()
        memory.free += 3 * MIB
        taken.take_up()
        status = os.fstat(taken._file.fileno())

    assert (status.st_size, status.st_blocks) == (24 * MIB, 0)
    assert memory.read == 24 * MIB  # what was taken before isn't read again
    assert said == [f"using {size} MiB of free memory once" for size in (21, 3)]


def test_what_others_take_meanwhile_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, LEFT_FREE_BYTES + 80 * MIB, taken=4.0)

    with Ballast([].append) as taken:
        taken.take_up()

    assert memory.read == 24 * MIB


def test_where_files_take_no_memory_it_is_said_and_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    memory = Memory(monkeypatch, LEFT_FREE_BYTES + (1 << 40), taken=0.0)

    with Ballast(said.append) as taken:
        taken.take_up()

    assert memory.read == 8 * MIB
    assert "TMPDIR" in said[-1]


def test_where_files_are_limited_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    Memory(monkeypatch, LEFT_FREE_BYTES + 9 * MIB)

    def refuse(descriptor: int, size: int) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(os, "truncate", refuse)
    with Ballast(said.append) as taken:
        taken.take_up()

    assert said[-1].endswith(": File too large")


def test_there_is_never_more_free_memory_than_memory() -> None:
    assert 0 < free_bytes() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
