"""What a round of the indexer commits goes to disk in slices: nothing that is promised comes apart between them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from nodes import generation, index, recovery
from nodes.checker import check_directory
from nodes.entry import index_key, pack_entry, unpack_fields
from nodes.format import Kind, pack_fields
from nodes.generation import Generation
from nodes.index import Covered, Index
from nodes.overlay import Figures, Overlay
from nodes.store import NodeStore
from sfss.errors import OutOfDisk, Recovering
from sfss.store import settled
from tests.unit.small_nodes import Clock, killed, node

NODE = "ab" * 16
KEYS = [b"key/%d" % number for number in range(60)]
ROUND_ENTRIES = 8_000


@pytest.fixture
def small_slices(monkeypatch):
    monkeypatch.setattr(generation, "SLICE_ENTRIES_MIN", 1)


def copied_after_each_commit(monkeypatch: pytest.MonkeyPatch, directory: Path, copies: Path) -> list[Path]:
    """What a process leaves that is killed right behind any commit of the index, in a folder each."""
    made: list[Path] = []
    commit = index.Index.commit

    def copying(*arguments: Any) -> None:
        commit(*arguments)
        made.append(killed(directory, copies / str(len(made))))

    monkeypatch.setattr(index.Index, "commit", copying)
    return made


async def all_set(store: NodeStore, keys: list[bytes], value: bytes) -> dict[bytes, bytes]:
    await asyncio.gather(*(settled(store.set(key, value)) for key in keys))
    return dict.fromkeys(keys, value)


async def test_a_node_killed_between_two_slices_has_lost_and_miscounted_nothing(tmp_path, monkeypatch, small_slices):
    clock = Clock()
    held: dict[bytes, bytes] = {}
    async with node(tmp_path / "node", clock) as store:
        held.update(await all_set(store, KEYS[:40], b"old" * 300))
        await store._indexer.commit()
        await all_set(store, KEYS[20:], b"between")
        held.update(await all_set(store, KEYS[20:], b"new"))
        for key in KEYS[::7]:
            del held[key]
        await asyncio.gather(*(settled(store.delete(key)) for key in KEYS[::7]))
        figures = store._overlay.figures
        expected = (figures.files, figures.tombstones, dict(figures.live), list(figures.tree.digests))
        copies = copied_after_each_commit(monkeypatch, tmp_path / "node", tmp_path / "killed")
        await store._indexer.commit()
        monkeypatch.undo()

    assert len(copies) == generation.SLICES_MAX
    for copy in copies:
        assert check_directory(copy, print) == 0, copy
        async with node(copy, clock) as store:
            figures = store._overlay.figures
            assert (figures.files, figures.tombstones, figures.live, list(figures.tree.digests)) == expected
            found = {key: await settled(store.get(key)) for key in KEYS}
        assert {key: record.value for key, record in found.items() if record is not None} == held


async def test_a_round_that_forgets_all_comes_to_disk_at_once(tmp_path, monkeypatch, small_slices):
    async with node(tmp_path / "node") as store:
        await all_set(store, KEYS, b"v")
        await settled(store.flush())
        await all_set(store, KEYS[:20], b"v")
        copies = copied_after_each_commit(monkeypatch, tmp_path / "node", tmp_path / "killed")
        await store._indexer.commit()
        monkeypatch.undo()

    assert len(copies) == 1


async def test_records_that_slices_had_and_that_are_gone_are_missed_at_the_next_start(
    tmp_path, monkeypatch, small_slices
):
    """What the index has of them was on disk when it was committed: the disk has lost it."""
    async with node(tmp_path / "node") as store:
        await settled(store.set(b"first", b"v"))
        await store._indexer.commit()
        [volume] = (tmp_path / "node" / "volumes").glob("*.volume")
        end = store._writer.volume.end
        await all_set(store, KEYS, b"v" * 100)
        copies = copied_after_each_commit(monkeypatch, tmp_path / "node", tmp_path / "killed")
        await store._indexer.commit()
        monkeypatch.undo()
    os.truncate(copies[2] / "volumes" / volume.name, end)

    async with node(copies[2]) as store:
        with pytest.raises(Recovering):
            store.get(b"first")


async def test_records_of_slices_that_are_gone_are_missed_also_after_a_start_that_was_killed(
    tmp_path, monkeypatch, small_slices
):
    """The start commits what it replays step by step, and is killed behind the first of them."""
    async with node(tmp_path / "node") as store:
        await settled(store.set(b"first", b"v"))
        await store._indexer.commit()
        await all_set(store, KEYS[:30], b"v" * 100)
        middle = store._writer.volume.end
        await all_set(store, KEYS[30:], b"v" * 100)
        copies = copied_after_each_commit(monkeypatch, tmp_path / "node", tmp_path / "killed")
        await store._indexer.commit()
        monkeypatch.undo()
    started = copied_after_each_commit(monkeypatch, copies[2], tmp_path / "started")
    monkeypatch.setattr(recovery, "_COMMIT_ENTRIES", 20)
    async with node(copies[2]):
        pass
    monkeypatch.undo()
    [volume] = (started[0] / "volumes").glob("*.volume")
    os.truncate(volume, middle)

    async with node(started[0]) as store:
        with pytest.raises(Recovering):
            store.get(b"first")


@pytest.mark.parametrize("room_again", [True, False])
async def test_a_round_that_finds_no_room_half_way_loses_nothing(tmp_path, monkeypatch, small_slices, room_again):
    async with node(tmp_path / "node") as store:
        held = await all_set(store, KEYS, b"old")
        await store._indexer.commit()
        held |= await all_set(store, KEYS[20:], b"new")
        commit, slices = index.Index.commit, []

        def full_half_way(*arguments: Any) -> None:
            slices.append(arguments)
            if len(slices) == 4 or (len(slices) > 4 and not room_again):
                raise index.IndexDiskFull("planted")
            commit(*arguments)

        monkeypatch.setattr(index.Index, "commit", full_half_way)
        with pytest.raises(OutOfDisk):
            await store._indexer.commit()

        assert {key: (await settled(store.get(key))).value for key in KEYS} == held
    monkeypatch.undo()

    assert store._indexer.complete == room_again
    assert len(slices) >= 5
    assert check_directory(tmp_path / "node", print) == 0
    async with node(tmp_path / "node") as store:
        assert {key: (await settled(store.get(key))).value for key in KEYS} == held


def test_no_slice_has_a_higher_version_than_it_says(tmp_path, small_slices):
    """No stamp below that is issued again, even where what followed in the volumes is lost."""
    index = Index.open(tmp_path / "index", NODE)
    index.refresh()
    overlay = Overlay(index, Figures())
    for number, key in enumerate(map(index_key, KEYS), 1):
        entry = pack_entry(key, 1, number, pack_fields(1, 0, 0, number, number), Kind.FILE)
        overlay.put(key, entry, 1, 100, number, number, True)
    parts = Generation(overlay, Covered(NODE, 1, 9, 9, len(KEYS), len(KEYS)), index.covered()).slices()
    index.close()

    assert len(parts) == generation.SLICES_MAX
    for part in parts:
        assert part.covered.version_max >= max(unpack_fields(entry)[5] for entry in part.entries.values())


def test_a_mark_of_what_is_on_disk_stays_until_the_index_covers_it(tmp_path):
    index = Index.open(tmp_path / "index", NODE)
    for covered, durable, left in ((10, 50, 50), (20, 30, 50), (30, 0, 50), (50, 0, 0), (50, 90, 90), (90, 0, 0)):
        index.commit({}, Covered(NODE, 1, covered, covered), {}, False, {}, {}, durable)

        assert index.durable() == left
    index.close()


def test_the_pages_of_a_small_index_are_not_there_three_times(tmp_path):
    """With rounds of one transaction each it takes 390 bytes an entry, of which 26 are the tree's."""
    index = Index.open(tmp_path / "index", NODE)
    index.refresh()
    overlay = Overlay(index, Figures())
    for entry_round in range(5):
        for number in range(ROUND_ENTRIES):
            key = index_key(b"a/folder/file-%d-%d" % (entry_round, number))
            entry = pack_entry(key, 1, number, pack_fields(4096, 0, 0, number, number), Kind.FILE)
            overlay.put(key, entry, 1, 4200, number, number, True)
        figures = overlay.figures
        covered = Covered(NODE, 1, 0, entry_round, figures.version_max, figures.files)
        round_of_it = Generation(overlay, covered, index.covered())
        for part in round_of_it.slices():
            index.commit(*part)
            index.refresh()
        overlay.committed(round_of_it.entries)

    assert index.count() == 5 * ROUND_ENTRIES
    assert (tmp_path / "index" / "data.mdb").stat().st_blocks * 512 < 220 * index.count()
    index.close()
