"""The index on disk: what was committed is there, whole and together."""

from __future__ import annotations

import os
import threading

import pytest

from nodes.entry import ABSENT, ENTRY_BYTES, HASH_BYTES, index_key, pack_entry, unpack_entry
from nodes.format import Kind, pack_fields
from nodes.index import Covered, Index, IndexDamaged, IndexFull, check_readable
from sfss.errors import CorruptRecord, SetupError
from sfss.keys import hash_key

NODE = "ab" * 16


@pytest.fixture
def index(tmp_path):
    index = Index.open(tmp_path / "index", NODE)
    index.refresh()
    yield index
    index.close()


def entries(count: int, version: int = 1) -> dict[bytes, bytes]:
    keys = [index_key(b"key/%d" % number) for number in range(count)]
    return {
        key: pack_entry(key, 1, number, pack_fields(100, 0, 0, version, 7), Kind.FILE)
        for number, key in enumerate(keys)
    }


def committed(index: Index, puts: dict[bytes, bytes], **covered: int) -> None:
    index.commit(puts, Covered(NODE, **covered), {}, forget_all=False)
    index.refresh()


@pytest.mark.parametrize(("seconds", "pieces"), [(2.0, 2), (1e9, 5)])
def test_a_start_reads_an_index_for_so_long_and_no_longer(tmp_path, monkeypatch, seconds, pieces):
    data = tmp_path / "data.mdb"
    data.write_bytes(bytes(5 << 20))
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: (read.append(at), pread(fd, size, at))[1])
    clock = iter(range(100))

    check_readable(data, seconds, lambda: float(next(clock)))

    assert read[:5] == [piece << 20 for piece in range(pieces)]


def test_an_index_key_sorts_by_the_hash_that_places_the_key():
    key = "ключ/文件".encode()

    assert index_key(key) == hash_key(key).to_bytes(HASH_BYTES, "big") + key


def test_no_bit_of_an_entry_can_flip_unnoticed():
    key = index_key(b"k")
    packed = pack_entry(key, 3, 4096, pack_fields(100, 5, 6, 1 << 60, (1 << 64) - 1), Kind.TOMBSTONE)

    assert len(packed) == ENTRY_BYTES == 48
    assert unpack_entry(key, packed)[:8] == (3, 4096, 100, 5, 6, 1 << 60, (1 << 64) - 1, Kind.TOMBSTONE)
    for bit in range(len(packed) * 8):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRecord):
            unpack_entry(key, bytes(damaged))
    with pytest.raises(CorruptRecord):
        unpack_entry(index_key(b"other"), packed)


def test_a_commit_is_seen_after_a_refresh_and_over_a_restart(tmp_path):
    puts = entries(1000)
    index = Index.open(tmp_path / "index", NODE)
    index.refresh()
    index.commit(puts, Covered(NODE, 3, 500, 70_000, 9, 1000), {1: 5000, 2: 0}, forget_all=False)
    assert index.get(next(iter(puts))) is None
    index.refresh()
    assert index.get(next(iter(puts))) is not None
    index.close()

    again = Index.open(tmp_path / "index", NODE)
    again.refresh()

    assert dict(again.entries()) == puts
    assert list(dict(again.entries())) == sorted(puts)
    assert again.covered() == Covered(NODE, 3, 500, 70_000, 9, 1000)
    assert again.live_bytes() == {1: 5000}
    again.close()


def test_a_figure_below_nothing_which_none_can_be_stops_no_commit(index):
    """Else a node that has miscounted a damaged entry could never start again."""
    index.commit(entries(10), Covered(NODE, 3, 500, 70_000, 9, 10), {1: 5000, 2: 70}, forget_all=False)

    index.commit({}, Covered(NODE, 3, 600, 70_100, 9, 10), {2: -1}, forget_all=False)

    assert index.live_bytes() == {1: 5000}


def test_absent_takes_an_entry_out_and_forget_all_takes_all(index):
    puts = entries(10)
    committed(index, puts)
    gone = next(iter(puts))

    committed(index, {gone: ABSENT, index_key(b"never there"): ABSENT})
    assert index.count() == 9

    index.commit({gone: puts[gone]}, Covered(NODE), {}, forget_all=True)
    index.refresh()
    assert dict(index.entries()) == {gone: puts[gone]}


def test_a_map_that_is_full_grows_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("nodes.index.MAP_BYTES_MIN", 64 * 1024)
    index = Index.open(tmp_path / "index", NODE)
    index.refresh()
    puts = entries(5000)

    with pytest.raises(IndexFull):
        index.commit(puts, Covered(NODE), {}, forget_all=False)
    assert index.get(next(iter(puts))) is None
    assert index.lacks_room_for(len(puts))
    while index.lacks_room_for(len(puts)):
        index.grow()
    committed(index, puts)

    assert all(index.get(key) == value for key, value in puts.items())
    index.close()


def test_the_map_does_not_grow_under_the_feet_of_another_threads_look_ups(index):
    committed(index, entries(10))
    inside, go_on = threading.Event(), threading.Event()

    def look_up() -> None:
        with index.snapshot() as get:
            inside.set()
            go_on.wait(10)
            found.append(get(index_key(b"key/3")))

    found: list[bytes | None] = []
    looking = threading.Thread(target=look_up)
    growing = threading.Thread(target=index.grow)
    looking.start()
    inside.wait(10)
    growing.start()
    go_on.set()
    looking.join(10)
    growing.join(10)

    assert found == [entries(10)[index_key(b"key/3")]]


def test_the_end_of_the_file_is_out_of_reach_of_a_flipped_offset(tmp_path):
    """LMDB looks where an offset of 16 bits leads before it checks it, and behind the file's end that is a SIGBUS."""
    index = Index.open(tmp_path / "index", NODE)
    for count in range(0, 20_000, 1000):
        committed(index, entries(count))
        info, stat = index._environment.info(), index._environment.stat()
        last_page = info["last_pgno"] * stat["psize"]

        assert (tmp_path / "index" / "data.mdb").stat().st_size >= last_page + (1 << 16) + 8
    index.close()


def test_another_nodes_index_is_not_used(tmp_path):
    index = Index.open(tmp_path / "index", NODE)
    committed(index, {})
    index.close()

    with pytest.raises(IndexDamaged, match="belongs to node"):
        Index.open(tmp_path / "index", "cd" * 16)


def test_a_newer_index_is_refused(tmp_path):
    index = Index.open(tmp_path / "index", NODE)
    index.commit({}, Covered(NODE, format=2), {}, forget_all=False)
    index.close()

    with pytest.raises(SetupError, match="format 2, which is newer"):
        Index.open(tmp_path / "index", NODE)


def test_a_tool_that_only_reads_makes_nothing(tmp_path):
    with pytest.raises(IndexDamaged):
        Index.open(tmp_path / "index", NODE, read_only=True)

    assert not (tmp_path / "index").exists()
