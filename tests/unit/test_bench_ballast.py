"""What free memory there is gets used once, and costs no room on disk."""

from __future__ import annotations

import os

import pytest

from bench import ballast
from bench.ballast import LEFT_FREE_BYTES, Ballast, free_bytes

MIB = 1 << 20


def test_free_memory_is_taken_up_by_the_cache_of_a_file_without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    free = iter([LEFT_FREE_BYTES + 10 * MIB, LEFT_FREE_BYTES - 1, LEFT_FREE_BYTES + 3 * MIB])
    read: list[int] = []
    preadv = os.preadv
    monkeypatch.setattr(ballast, "free_bytes", lambda: next(free))
    monkeypatch.setattr(os, "preadv", lambda *call: read.append(preadv(*call)))

    with Ballast(said.append) as taken:
        for _ in range(3):
            taken.take_up()
        status = os.fstat(taken._file.fileno())

    assert (status.st_size, status.st_blocks) == (13 * MIB, 0)
    assert sum(read) == 13 * MIB  # what was taken before isn't read again
    assert len(said) == 2


def test_there_is_never_more_free_memory_than_memory() -> None:
    assert 0 < free_bytes() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
