"""Scrubbing finds rot before a reader does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nodes.checker import check_directory
from nodes.entry import index_key
from nodes.store import NodeStore
from nodes.volume import Volume
from sfss.errors import CorruptRecord
from sfss.store import Record, checksum_of, settled
from sfss.tasks import end
from tests.unit.small_nodes import Clock, node


async def filled(store: NodeStore) -> None:
    for number in range(20):
        value = b"%03d " % number * 2000
        record = Record(value, len(value), 0, 0, 9, checksum_of(b"k%d" % number, value, 0, 0, 9, False), False)
        await settled(store.apply(b"k%d" % number, record))


def damage(directory: Path, text: bytes) -> None:
    for volume in (directory / "volumes").iterdir():
        content = volume.read_bytes()
        at = content.find(text)
        if at >= 0:
            with volume.open("r+b") as file:
                file.seek(at)
                file.write(bytes([content[at] ^ 1]))
            return
    raise AssertionError(f"no volume holds {text!r}")


async def test_a_clean_node_has_no_faults(tmp_path):
    async with node(tmp_path) as store:
        await filled(store)
        await settled(store.delete(b"k3"))
        await settled(store.set(b"k4", b"anew"))
        before = store.stats()

        await store._scrubber.scrub()

        assert store.stats()["scrub_faults"] == "0"
        assert int(store.stats()["scrubbed_bytes"]) > 100_000
        assert "last_scrub_age_s" not in before  # none is known of: that isn't "just now"
        assert float(store.stats()["last_scrub_age_s"]) >= 0
        assert (before["scrub_passes"], store.stats()["scrub_passes"]) == ("0", "1")


async def test_rot_that_counts_is_an_error_from_then_on_and_can_be_written_again(tmp_path):
    async with node(tmp_path) as store:
        await filled(store)
        good = await settled(store.read(b"k2"))
        damage(tmp_path, b"002 002 002")

        await store._scrubber.scrub()

        assert store.stats()["scrub_faults"] == "1"
        with pytest.raises(CorruptRecord):
            store.inspect(b"k2")
        assert store.stats()["damaged_records"] == "1"
        assert (await settled(store.apply(b"k2", good))).accepted
        assert (await settled(store.get(b"k2"))) == good
        assert store.stats()["damaged_records"] == "0"


async def test_however_often_rot_is_read_it_is_logged_once(tmp_path, caplog):
    async with node(tmp_path) as store:
        await filled(store)
        damage(tmp_path, b"002 002 002")

        for _ in range(5):
            with pytest.raises(CorruptRecord):
                await settled(store.read(b"k2"))

        assert [line for line in caplog.messages if "failed its checksum" in line] == caplog.messages[:1]
        assert store.stats()["corrupt_records"] == "5"


async def test_an_entry_that_cannot_be_mended_has_the_index_looked_at_once_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path) as store:
        await filled(store)
        await end(store._scrubber._task)  # the passes are made here
        looks = 0

        async def look() -> None:
            nonlocal looks
            looks += 1
            store._scrubber.look_soon()  # as readers do that meet it

        monkeypatch.setattr(store._scrubber._mender, "mend", look)
        await store._scrubber.scrub()

        assert store.stats()["volumes"] == "3"
        assert looks == 1


async def test_rot_in_garbage_is_counted_and_harms_nobody(tmp_path):
    async with node(tmp_path) as store:
        await filled(store)
        await settled(store.set(b"k2", b"anew"))
        damage(tmp_path, b"002 002 002")

        await store._scrubber.scrub()

        assert store.stats()["scrub_faults"] == "1"
        assert store.inspect(b"k2") is not None


async def test_a_damaged_header_is_found(tmp_path):
    async with node(tmp_path) as store:
        await filled(store)
        damage(tmp_path, b"k2002 002")

        await store._scrubber.scrub()

        assert int(store.stats()["scrub_faults"]) >= 1


async def test_an_index_that_lags_behind_a_volume_is_found(tmp_path):
    async with node(tmp_path) as store:
        await filled(store)
        await settled(store.set(b"k2", b"anew"))
        await filled_up(store)
        await store._indexer.commit()
        [(lookup, entry)] = [(key, value) for key, value in store._index.entries() if key.endswith(b"k2")]
        stale = bytearray(entry)
        stale[24:32] = (5).to_bytes(8, "little")  # a version of long ago, in a volume of long ago
        stale[0:4] = (999).to_bytes(4, "little")
        store._index.commit({lookup: bytes(stale)}, store._index.covered(), {}, forget_all=False)

        await store._scrubber.scrub()

        assert int(store.stats()["scrub_faults"]) >= 1
        store._index.commit({lookup: entry}, store._index.covered(), {}, forget_all=False)


@pytest.mark.parametrize("number", [1, 2])
async def test_an_expired_file_that_compaction_gave_up_is_no_fault(tmp_path, number):
    """Until its volume goes, its record lies there; in the index is a tombstone of the same version, or nothing."""
    clock = Clock()
    for attempt in range(8):  # of two checksums either may be the larger one
        directory = tmp_path / str(attempt)
        async with node(directory, clock) as store:
            expires = int(clock.now) + 5
            for key in range(16):
                await settled(store.set(b"k%d" % key, b"%d" % attempt * 6000, 0, expires))
            clock.now += 10
            await filled_up(store)
            await store._indexer.commit()
            await store._compactor._move_live(store._volumes.by_number[number])

            await store._scrubber.scrub()

            assert store.stats()["scrub_faults"] == "0"
        assert check_directory(directory, print, now=clock) == 0


async def filled_up(store: NodeStore) -> None:
    for number in range(20):
        await settled(store.set(b"filler%d" % number, bytes(8000)))


async def test_rot_that_was_written_over_before_it_was_told_is_no_error(tmp_path):
    async with node(tmp_path) as store:
        await filled(store)
        await store._indexer.commit()
        lookup = index_key(b"k2")
        entry = store._newest_durable(lookup)
        await settled(store.set(b"k2", b"anew"))

        store._scrubber._on_damage(lookup, entry)

        assert store.inspect(b"k2").size == 4


async def test_scrubbing_passes_over_a_volume_that_is_compacted_away_meanwhile(tmp_path):
    async with node(tmp_path) as store:
        await filled(store)
        await filled_again(store)
        commit = store._indexer.commit

        async def compact_first() -> None:
            store._indexer.commit = commit
            while await store._compactor.compact():
                pass

        store._indexer.commit = compact_first
        await store._scrubber.scrub()

        assert store._compactor.compacted
        assert store.stats()["scrub_faults"] == "0"


async def filled_again(store: NodeStore) -> None:
    for number in range(20):
        await settled(store.set(b"k%d" % number, bytes(8000)))


async def test_the_age_of_a_scrub_outlives_a_restart(tmp_path):
    clock = Clock()
    async with node(tmp_path, clock) as store:
        await filled(store)
        await store._scrubber.scrub()
    clock.now += 5000.0

    async with node(tmp_path, clock) as store:
        assert store.stats()["last_scrub_age_s"] == "5000.0"
        assert store.stats()["scrub_left_bytes"] == "0"


async def test_a_pass_that_a_stop_interrupted_goes_on_where_it_was(tmp_path):
    async with node(tmp_path) as store:
        await filled(store)
        numbers = sorted(store._volumes.by_number)[:-1]
        assert len(numbers) >= 2
        read = store._scrubber._scrub_volume

        async def stop_at_the_second(volume: Volume) -> None:
            if volume.number == numbers[1]:
                raise asyncio.CancelledError
            await read(volume)

        store._scrubber._scrub_volume = stop_at_the_second
        with pytest.raises(asyncio.CancelledError):
            await store._scrubber.scrub()

    async with node(tmp_path) as store:
        left = sum(store._volumes.by_number[number].end for number in numbers[1:])
        assert store.stats()["scrub_left_bytes"] == str(left)
        assert "last_scrub_age_s" not in store.stats()

        await store._scrubber.scrub()

        assert int(store.stats()["scrubbed_bytes"]) < left
        assert (store.stats()["scrub_left_bytes"], store.stats()["scrub_passes"]) == ("0", "1")
