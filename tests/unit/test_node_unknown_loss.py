"""Where records are gone that the index never had, a node knows that it forgot: no read is answered by a miss."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodes.command import _trust
from nodes.format import VOLUME_HEADER_BYTES
from nodes.store import NodeStore
from sfss.errors import Recovering
from sfss.store import settled
from tests.unit.small_nodes import killed, node

VALUE = b"\xee" * 20_000


async def killed_with_a_tail(directory: Path) -> tuple[Path, int]:
    """A node killed with 3 records in its index, and 6 behind them over three volumes; and where the index ends."""
    async with node(directory / "a") as store:
        for number in range(3):
            await settled(store.set(b"indexed%d" % number, VALUE))
        await store._indexer.commit()
        covered = store._writer.volume.end
        for number in range(6):
            await settled(store.set(b"tail%d" % number, VALUE))
        return killed(directory / "a", directory / "b"), covered


async def refuses_reads(store: NodeStore) -> bool:
    with pytest.raises(Recovering):
        await settled(store.get(b"tail0"))
    return store.identify().state == "suspect"


async def test_nothing_is_missing_after_a_kill_alone(tmp_path):
    after, _ = await killed_with_a_tail(tmp_path)
    async with node(after) as store:
        assert store.identify().state == "ok"
        assert (await settled(store.get(b"tail5"))).value == VALUE


async def test_a_log_cut_below_what_the_index_has_had_more_behind_that(tmp_path):
    after, covered = await killed_with_a_tail(tmp_path)
    first, *later = sorted((after / "volumes").iterdir())
    for volume in later:
        volume.unlink()
    os.truncate(first, covered - 1000)
    async with node(after) as store:
        assert await refuses_reads(store)


async def test_a_lost_volume_that_the_index_ends_in_had_more_behind_that(tmp_path):
    after, _ = await killed_with_a_tail(tmp_path)
    sorted((after / "volumes").iterdir())[0].unlink()
    async with node(after) as store:
        assert await refuses_reads(store)


async def test_a_lost_header_of_the_volume_that_the_index_ends_in_hides_what_is_behind(tmp_path):
    after, _ = await killed_with_a_tail(tmp_path)
    with sorted((after / "volumes").iterdir())[0].open("r+b") as file:
        file.write(bytes(VOLUME_HEADER_BYTES))
    async with node(after) as store:
        assert await refuses_reads(store)


async def test_a_volume_cut_at_the_end_of_a_record_is_shorter_than_the_next_one_says(tmp_path):
    after, _ = await killed_with_a_tail(tmp_path)
    middle = sorted((after / "volumes").iterdir())[1]
    content = middle.read_bytes()
    os.truncate(middle, content.rindex(VALUE, 0, content.rindex(VALUE)) + len(VALUE))
    async with node(after) as store:
        assert await refuses_reads(store)


async def test_what_an_operator_declared_trusted_stays_so(tmp_path):
    after, covered = await killed_with_a_tail(tmp_path)
    first, *later = sorted((after / "volumes").iterdir())
    for volume in later:
        volume.unlink()
    os.truncate(first, covered - 1000)
    async with node(after):
        again = killed(after, tmp_path / "c")
    assert _trust(again) == 0
    async with node(again) as store:
        assert store.identify().state == "ok"
        assert store.get(b"tail0") is None
