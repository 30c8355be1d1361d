"""A start after a crash, a torn tail, or rot: whatever was acknowledged is there, or reading it is an error."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path

import pytest

from nodes.checker import check_directory
from nodes.entry import HASH_BYTES
from nodes.index import Index
from nodes.index import errors as index_errors
from nodes.offline import open_offline
from nodes.store import NodeStore
from sfss.errors import CorruptRecord, Recovering, SetupError, SfssError
from sfss.store import settled
from tests.unit.small_nodes import Clock, data_end, killed, newest_volume, node

LONG = b"v" * 3000


async def filled(directory: Path, count: int = 12, commit: bool = True) -> dict[bytes, bytes]:
    """A node that was stopped cleanly, with files in several volumes."""
    files = {b"key/%d" % number: b"%d " % number * 4000 for number in range(count)}
    async with node(directory) as store:
        for key, value in files.items():
            await settled(store.set(key, value))
    return files


async def answers(store: NodeStore, files: dict[bytes, bytes]) -> dict[bytes, object]:
    """What a reader gets: `right`, `missing`, or the class of the error."""
    found: dict[bytes, object] = {}
    for key, value in files.items():
        try:
            record = await settled(store.get(key))
        except SfssError as error:
            found[key] = type(error)
        else:
            assert record is None or record.value == value, f"{key!r} is served with other bytes"
            found[key] = "missing" if record is None else "right"
    return found


async def test_a_killed_node_has_all_that_it_acknowledged(tmp_path):
    async with node(tmp_path / "a") as store:
        await settled(store.set(b"indexed", LONG))
        await store._indexer.commit()
        await settled(store.set(b"tail", LONG))
        await settled(store.delete(b"indexed"))
        after = killed(tmp_path / "a", tmp_path / "b")
    async with node(after) as store:
        assert store.stats()["replayed_records"] == "2"
        assert (await settled(store.get(b"tail"))).value == LONG
        assert store.get(b"indexed") is None
        assert store.stats()["state"] == "ok"


async def test_a_restart_after_a_clean_stop_replays_nothing(tmp_path):
    await filled(tmp_path)
    async with node(tmp_path) as store:
        assert store.stats()["replayed_records"] == "0"


async def test_replay_goes_by_version_and_not_by_order(tmp_path):
    """Two volumes swapped in time, as compaction may leave them, make no difference."""
    async with node(tmp_path) as store:
        for number in range(40):
            await settled(store.set(b"k", b"%d" % number * 1000))
            await settled(store.set(b"other/%d" % number, LONG))
        await store._indexer.commit()
        while await store._compactor.compact():
            pass
        await settled(store.set(b"last", b"v"))
    shutil.rmtree(tmp_path / "index")
    async with node(tmp_path) as store:
        assert (await settled(store.get(b"k"))).value == b"39" * 1000
        assert store.stats()["curr_items"] == "42"


async def test_an_entry_that_rotted_hides_no_record_that_is_replayed(tmp_path):
    """Whatever version it claims."""
    async with node(tmp_path / "a") as store:
        await settled(store.set(b"k", b"old"))
        await store._indexer.commit()
        [(lookup, entry)] = store._index.entries()
        rotten = bytearray(entry)
        rotten[31] ^= 0x40  # the highest byte of the version
        store._index.commit({lookup: bytes(rotten)}, store._index.covered(), {}, forget_all=False)
        await settled(store.set(b"k", b"new"))
        after = killed(tmp_path / "a", tmp_path / "b")
    async with node(after) as store:
        assert (await settled(store.get(b"k"))).value == b"new"


@pytest.mark.parametrize("damage", ["lost", "emptied", "of another node", "truncated"])
async def test_a_lost_index_is_rebuilt_from_the_volumes(tmp_path, damage):
    files = await filled(tmp_path / "a")
    index = tmp_path / "a" / "index"
    if damage == "of another node":
        await filled(tmp_path / "b")
        shutil.rmtree(index)
        shutil.copytree(tmp_path / "b" / "index", index)
    elif damage == "truncated":
        os.truncate(index / "data.mdb", 8192)
    elif damage == "emptied":
        (index / "data.mdb").write_bytes(b"")
    else:
        shutil.rmtree(index)

    assert check_directory(tmp_path / "a", print) == 0
    async with node(tmp_path / "a") as store:
        assert set((await answers(store, files)).values()) == {"right"}
        assert store.stats()["curr_items"] == str(len(files))


# --- torn tails ------------------------------------------------------------------------------------------


async def test_a_tail_torn_anywhere_in_an_unacknowledged_batch_is_cut_and_the_rest_is_there(tmp_path):
    """Every cut from 1 to 5,000 bytes off a log whose last batch nobody was promised: what a start finds. Some of them
    are then started from."""
    async with node(tmp_path / "a") as store:
        await settled(store.set(b"indexed", b"1"))
        await store._indexer.commit()
        await settled(store.set(b"acknowledged", b"2"))
        await settled(store.set(b"also", b"3"))
        before = data_end(newest_volume(tmp_path / "a"))
        await settled(store.set(b"torn", b"\xff" * 4960))
        killed(tmp_path / "a", tmp_path / "b")
    volume = newest_volume(tmp_path / "b")
    whole = volume.read_bytes()
    end = data_end(volume)
    assert end - before > 5000
    for cut in range(1, 5001, 1 if os.environ.get("CI") else 37):
        os.truncate(volume, end - cut)
        with open_offline(tmp_path / "b") as offline:
            assert {key[HASH_BYTES:] for key, _ in offline.entries()} == {b"indexed", b"acknowledged", b"also"}
            assert (offline.recovered.suspect, offline.recovered.newest.end) == ("", before)
    for cut in range(1, 5001, 37):
        volume.write_bytes(whole[: end - cut])
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        shutil.copytree(tmp_path / "b", tmp_path / "c")
        async with node(tmp_path / "c") as store:
            assert (await settled(store.get(b"indexed"))).value == b"1"
            assert (await settled(store.get(b"acknowledged"))).value == b"2"
            assert (await settled(store.get(b"also"))).value == b"3"
            assert store.get(b"torn") is None
            assert store.stats()["state"] == "ok"
            assert newest_volume(tmp_path / "c").stat().st_size == before
            await settled(store.set(b"more", b"4"))
        async with node(tmp_path / "c") as store:
            assert (await settled(store.get(b"more"))).value == b"4"


async def test_what_is_cut_off_a_clean_log_is_never_a_miss(tmp_path):
    """The index knows what lay there: reading it fails, and writing it again heals it."""
    files = await filled(tmp_path / "a")
    for cut in [1, 7, 40, 100, 1000, 4000, 5000, 20_000]:
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        volume = newest_volume(tmp_path / "b")
        os.truncate(volume, volume.stat().st_size - cut)

        assert check_directory(tmp_path / "b", print) == 1
        async with node(tmp_path / "b") as store:
            found = await answers(store, files)
            lost = [key for key, answer in found.items() if answer is CorruptRecord]
            assert set(found.values()) == {"right", CorruptRecord}
            assert store.stats()["state"] == "ok"
            for key in lost:
                with pytest.raises(CorruptRecord):
                    store.inspect(key)
                await settled(store.set(key, files[key]))
            assert set((await answers(store, files)).values()) == {"right"}
        async with node(tmp_path / "b") as store:
            assert set((await answers(store, files)).values()) == {"right"}
        assert check_directory(tmp_path / "b", print) in (0, 1)


async def test_a_log_that_is_shorter_than_what_was_durable_makes_the_node_suspect(tmp_path):
    """Without an index nothing tells whose records are lost, so no answer can be given until an operator says so."""
    files = await filled(tmp_path)
    volume = newest_volume(tmp_path)
    os.truncate(volume, volume.stat().st_size - 20_000)
    shutil.rmtree(tmp_path / "index")

    for _ in range(2):
        async with node(tmp_path) as store:
            assert store.identify().state == "suspect"
            assert set((await answers(store, files)).values()) == {Recovering}
            with pytest.raises(Recovering):
                await settled(store.set(b"new", b"stored all the same"))
    from nodes.command import _trust

    assert _trust(tmp_path) == 0
    async with node(tmp_path) as store:
        assert (await settled(store.get(b"new"))).value == b"stored all the same"
        assert set((await answers(store, files)).values()) == {"missing", "right", CorruptRecord}


# --- rot ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_index", [True, False])
async def test_rot_in_a_volume_is_detected_and_costs_no_other_file(tmp_path, with_index, rng):
    files = await filled(tmp_path / "a")
    volumes = sorted((tmp_path / "a" / "volumes").iterdir())
    assert len(volumes) > 1
    if not with_index:
        shutil.rmtree(tmp_path / "a" / "index")
    for _ in range(25):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        flip_a_bit(tmp_path / "b" / "volumes" / rng.choice(volumes).name, rng)

        async with node(tmp_path / "b") as store:
            found = list((await answers(store, files)).values())
            if store.identify().state == "suspect":
                assert set(found) == {Recovering}
            else:
                assert "missing" not in found
                assert len([answer for answer in found if answer is CorruptRecord]) <= 1
        assert check_directory(tmp_path / "b", print) == 1 or untouched_by(tmp_path / "a", tmp_path / "b")


def untouched_by(before: Path, after: Path) -> bool:
    """Whether the flipped bit lay where nothing is kept (the padding of a volume's first block)."""
    for volume in (before / "volumes").iterdir():
        one, two = volume.read_bytes(), (after / "volumes" / volume.name).read_bytes()
        changed = [at for at, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
        if changed and changed[0] >= 4096:
            return False
    return True


async def test_rot_in_the_index_never_serves_other_bytes_nor_ends_the_process(tmp_path, rng):
    files = await filled(tmp_path / "a", 200)
    for _ in range(60):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        flip_a_bit(tmp_path / "b" / "index" / "data.mdb", rng)
        deaths: list[str] = []
        try:
            store = await NodeStore.open(tmp_path / "b", die=deaths.append)
        except SetupError:
            continue
        try:
            await answers(store, files)
        finally:
            await store.close()


@pytest.mark.parametrize("part", ["tree_pages", "count", "notes"])
async def test_an_index_of_which_a_page_is_rotten_is_rebuilt_at_the_start(tmp_path, monkeypatch, part):
    """What a look-up doesn't pass through is read at the start, too."""
    files = await filled(tmp_path / "a", 20)
    read = getattr(Index, part)
    rotten = iter([True])

    def meet_rot(self, *args):
        if next(rotten, False):
            raise index_errors("MDB_CORRUPTED: Located page was wrong type")
        return read(self, *args)

    monkeypatch.setattr(Index, part, meet_rot)

    async with node(tmp_path / "a") as store:
        assert set((await answers(store, files)).values()) == {"right"}
        assert store.stats()["state"] == "ok"


@pytest.mark.parametrize("offset", [0, 8192])
async def test_an_index_that_the_disk_cannot_read_is_rebuilt_after_a_crash(tmp_path, monkeypatch, caplog, offset):
    """Reading it through its map would be a SIGBUS, and the next start's again."""
    files = await filled(tmp_path / "a", 200)
    async with node(tmp_path / "a"):
        after = killed(tmp_path / "a", tmp_path / "b")
    unreadable = (after / "index" / "data.mdb").stat()
    pread = os.pread

    def fail_there(fd: int, size: int, at: int) -> bytes:
        if os.fstat(fd).st_ino == unreadable.st_ino and at <= offset < at + size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", fail_there)
    assert check_directory(after, print) == 0
    async with node(after) as store:
        assert set((await answers(store, files)).values()) == {"right"}
        assert store.stats()["replayed_records"] == "200"

    assert "can't be read: Input/output error) and will be rebuilt from the volumes" in caplog.text


async def test_rot_in_the_identity_refuses_the_start_in_one_line(tmp_path, rng):
    await filled(tmp_path, 1)
    flip_a_bit(tmp_path / "identity", rng)

    with pytest.raises(SetupError) as refused:
        await NodeStore.open(tmp_path)

    assert "\n" not in str(refused.value)


async def test_a_volume_that_is_missing_is_known_by_the_index(tmp_path):
    files = await filled(tmp_path)
    sorted((tmp_path / "volumes").iterdir())[0].unlink()

    async with node(tmp_path) as store:
        found = set((await answers(store, files)).values())

    assert found == {"right", CorruptRecord}
    assert check_directory(tmp_path, print) == 1


async def test_a_volume_of_a_newer_format_is_refused_in_one_line(tmp_path, monkeypatch):
    await filled(tmp_path)
    import nodes.format
    from nodes.volume import read_header

    path = newest_volume(tmp_path)
    header = read_header(path)
    monkeypatch.setattr(nodes.format, "FORMAT", 2)
    block = nodes.format.pack_volume_header(header)
    monkeypatch.undo()
    with path.open("r+b") as file:
        file.write(block)

    with pytest.raises(SetupError, match="format 2, which is newer than this program"):
        await NodeStore.open(tmp_path)


async def test_unfinished_files_of_a_crash_are_cleared_away(tmp_path):
    files = await filled(tmp_path)
    (tmp_path / "volumes" / "0000000099.new").write_bytes(b"half a header")
    (tmp_path / "identity.new").write_bytes(b"half")

    async with node(tmp_path, Clock()) as store:
        assert set((await answers(store, files)).values()) == {"right"}
    assert not list((tmp_path / "volumes").glob("*.new"))


def flip_a_bit(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
