"""Reads that return at once: whole, short where the file ends, refused where the disk would have to be asked."""

from __future__ import annotations

import errno
import os

import pytest

from nodes.page_cache import PageCache
from sfss.store import settled
from tests.unit.small_nodes import node

LARGE = os.urandom(1 << 20)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_bytes(LARGE)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    yield fd
    os.close(fd)


def fake_preadv(monkeypatch, *answers):
    """Let `preadv` give so many bytes each time, or raise."""
    preadv, left = os.preadv, list(answers)

    def give(fd, buffers, offset, flags=0):
        answer = left.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return preadv(fd, [buffers[0][:answer]], offset)

    monkeypatch.setattr(os, "preadv", give)


def test_a_range_comes_whole_also_in_several_pieces(file, monkeypatch):
    fake_preadv(monkeypatch, 1000, 65536, 1 << 20)

    assert PageCache().read(file, 7, 200_000) == LARGE[7:200_007]


def test_each_read_is_bytes_of_its_own(file, monkeypatch):
    fake_preadv(monkeypatch, 100_000, 100_000)
    cache = PageCache()

    first, second = cache.read(file, 0, 100_000), cache.read(file, 500_000, 100_000)

    assert (first, second) == (LARGE[:100_000], LARGE[500_000:600_000])


def test_beyond_the_end_there_are_fewer_bytes(file, monkeypatch):
    fake_preadv(monkeypatch, 100, 0)

    assert PageCache().read(file, len(LARGE) - 100, 50_000) == LARGE[-100:]


def test_what_is_only_partly_there_is_refused_and_nothing_of_it_kept(file, monkeypatch):
    fake_preadv(monkeypatch, 65536, BlockingIOError(errno.EAGAIN, "not there"), 100_000)
    cache = PageCache()

    with pytest.raises(BlockingIOError):
        cache.read(file, 0, 100_000)

    assert cache.read(file, 300_000, 100_000) == LARGE[300_000:400_000]


@pytest.mark.parametrize("answers", [(65536, BlockingIOError(errno.EAGAIN, "")), (OSError(errno.EOPNOTSUPP, ""),)])
async def test_a_large_file_that_does_not_come_at_once_comes_later(tmp_path, monkeypatch, answers):
    async with node(tmp_path) as store:
        await settled(store.set(b"k", LARGE))
        fake_preadv(monkeypatch, *answers)

        assert (await settled(store.get(b"k"))).value == LARGE
        assert store.stats()["corrupt_records"] == "0"
