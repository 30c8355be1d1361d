"""The room of compacted volumes is written over: nothing in it comes back, and it goes back to the disk when needed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from nodes.checker import check_directory
from nodes.spares import SPARES_MAX
from nodes.store import NodeStore
from sfss.errors import Unavailable
from sfss.store import settled
from tests.unit.small_nodes import killed, newest_volume, node

VALUE_BYTES = 3000


def value(number: int) -> bytes:
    return b"%d" % (number % 10) * VALUE_BYTES


def files(directory: Path, suffix: str) -> list[Path]:
    return sorted((directory / "volumes").glob(f"*{suffix}"))


async def overwrite(store: NodeStore, rounds: int, keys: int = 5) -> None:
    for number in range(rounds):
        for key in range(keys):
            await settled(store.set(b"k%d" % key, value(number)))


async def with_spares(store: NodeStore) -> None:
    """Fill some volumes with garbage, a file among it that is deleted since, and compact them."""
    await settled(store.set(b"deleted", b"must not come back"))
    await settled(store.delete(b"deleted"))
    await overwrite(store, 20)
    await store._indexer.commit()
    while await store._compactor.compact():
        pass
    await store._indexer.commit()
    assert store._compactor.compacted >= SPARES_MAX
    assert len(store._spares) == SPARES_MAX


async def begin_volume(store: NodeStore) -> None:
    """Write until a volume has just been begun."""
    number = store._writer.volume.number
    while store._writer.volume.number == number:
        await overwrite(store, 1)


async def test_a_new_volume_is_written_into_the_room_of_an_old_one(tmp_path):
    async with node(tmp_path) as store:
        await with_spares(store)
        rooms = {path.stat().st_ino for path in files(tmp_path, ".spare")}

        await begin_volume(store)

        path = newest_volume(tmp_path)
        assert path.stat().st_ino in rooms
        assert path.stat().st_size > store._writer.volume.end, "what was there before is still there behind the data"
        assert store.stats()["spare_volumes"] == str(SPARES_MAX - 1)
        await overwrite(store, 30)
        assert (await settled(store.read(b"k4"))).value == value(29)
    assert check_directory(tmp_path, print) == 0
    async with node(tmp_path) as store:
        assert (await settled(store.read(b"k0"))).value == value(29)
        assert await settled(store.get(b"deleted")) is None


async def test_after_a_kill_nothing_comes_back_that_lay_there_before(tmp_path):
    async with node(tmp_path / "a") as store:
        await with_spares(store)
        await begin_volume(store)
        await settled(store.set(b"last", b"v"))
        after = killed(tmp_path / "a", tmp_path / "b")
    shutil.copytree(after, tmp_path / "c")
    shutil.rmtree(tmp_path / "c" / "index")

    for directory in (after, tmp_path / "c"):
        async with node(directory) as store:
            assert not store._suspect
            assert await settled(store.get(b"deleted")) is None
            assert (await settled(store.read(b"last"))).value == b"v"
            assert files(directory, ".spare") == []
        assert check_directory(directory, print) == 0


async def test_a_batch_torn_anywhere_over_old_records_takes_only_itself_along(tmp_path):
    """A power cut leaves of the last batch what had reached the disk, and behind it what was there before."""
    async with node(tmp_path / "a") as store:
        await with_spares(store)
        await begin_volume(store)
        await settled(store.set(b"acked", b"v"))
        before = newest_volume(tmp_path / "a").read_bytes()
        begins = store._writer.volume.end
        await settled(store.set(b"torn", b"t" * 200))
        after = killed(tmp_path / "a", tmp_path / "b")
        ends = store._writer.volume.end
    whole = newest_volume(after).read_bytes()
    assert len(before) == len(whole)

    for cut in range(begins, ends + 1, 8):
        directory = shutil.copytree(after, tmp_path / f"cut{cut}")
        newest_volume(directory).write_bytes(whole[:cut] + before[cut:])
        async with node(directory) as store:
            assert not store._suspect
            assert (await settled(store.read(b"acked"))).value == b"v"
            assert await settled(store.get(b"deleted")) is None
            found = await settled(store.get(b"torn"))
            assert found is None if cut < ends else found is not None
        shutil.rmtree(directory)


async def test_spares_go_back_to_the_disk_when_it_is_full(tmp_path, monkeypatch):
    allocate = os.posix_fallocate

    def full(fd: int, offset: int, size: int) -> None:
        if offset + size > os.fstat(fd).st_size and files(tmp_path, ".spare"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(fd, offset, size)

    async with node(tmp_path) as store:
        await with_spares(store)
        monkeypatch.setattr(os, "posix_fallocate", full)

        await settled(store.set(b"large", b"v" * 60_000))

        assert files(tmp_path, ".spare") == []
        assert (await settled(store.read(b"large"))).value == b"v" * 60_000


async def test_no_spares_are_kept_where_room_is_scarce(tmp_path):
    async with node(tmp_path) as store:
        store._compactor._free_bytes = lambda: 4 * SPARES_MAX * store._options.volume_bytes - 1
        await overwrite(store, 20)
        await store._indexer.commit()
        while await store._compactor.compact():
            pass

        assert store._compactor.compacted > 0
        assert files(tmp_path, ".spare") == []


async def test_a_volume_that_a_read_still_uses_is_not_written_over(tmp_path):
    async with node(tmp_path) as store:
        await overwrite(store, 5)
        await store._indexer.commit()
        with store._volumes.held(1) as fd:
            before = os.pread(fd, 60_000, 0)
            while await store._compactor.compact():
                pass
            assert 1 not in store._volumes.by_number
            await overwrite(store, 50)

            assert os.pread(fd, 60_000, 0) == before


async def test_a_node_that_stops_keeps_no_spares(tmp_path):
    async with node(tmp_path) as store:
        await with_spares(store)
    assert files(tmp_path, ".spare") == []


@pytest.mark.parametrize("fault", ["lost", "not ours"])
async def test_a_spare_that_cannot_be_used_costs_one_batch(tmp_path, fault):
    async with node(tmp_path) as store:
        await with_spares(store)
        for path in files(tmp_path, ".spare"):
            path.unlink()
            if fault == "not ours":
                path.mkdir()
        await overwrite_whatever(store)
        for path in files(tmp_path, ".spare"):
            path.rmdir()

        await overwrite(store, 3)

        assert (await settled(store.read(b"k0"))).value == value(2)


async def overwrite_whatever(store: NodeStore) -> None:
    """As many volumes as there are spares, each of which makes one write fail."""
    failed = 0
    for number in range(1000):
        try:
            await settled(store.set(b"k", value(number)))
        except Unavailable:
            failed += 1
        if failed == SPARES_MAX:
            return
    raise AssertionError(failed)
