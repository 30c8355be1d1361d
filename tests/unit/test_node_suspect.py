"""A node that knows that it may have lost writes tells nobody that a file isn't there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from nodes.identity import DataDirectory
from nodes.store import NodeStore
from sfss.errors import BadRequest, Recovering
from sfss.hash_tree import read_branches
from sfss.store import Change, Record, settled
from tests.unit.small_nodes import node


@pytest.fixture
async def suspect(tmp_path) -> AsyncIterator[NodeStore]:
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"v"))
    directory = DataDirectory.open(tmp_path)
    directory.save(replace(directory.load(), suspect="a test says so"))
    directory.close()
    async with node(tmp_path) as store:
        yield store


async def test_deleting_what_is_not_there_is_no_miss(suspect):
    with pytest.raises(Recovering):
        await settled(suspect.delete(b"perhaps lost"))


async def test_nothing_is_decided_on_what_may_be_lost(suspect):
    seen: list[Record | None] = []

    def add(record: Record | None) -> Change:
        seen.append(record)
        return Change(keep=True)

    for key in (b"k", b"perhaps lost"):
        with pytest.raises(Recovering):
            await settled(suspect.update(key, add))
    assert not seen


async def test_a_delete_of_what_is_there_is_kept_though_it_does_not_count(suspect):
    with pytest.raises(Recovering):
        await settled(suspect.delete(b"k"))
    assert suspect.stats()["curr_items"] == "0"


async def test_it_tells_what_it_has_only_to_whoever_asks_for_that(suspect):
    with pytest.raises(Recovering):
        suspect.hashes(b"")

    assert sum(branch.records for branch in read_branches(suspect.hashes_held(b""))) == 1


async def test_it_is_trusted_for_its_present_life_only_and_for_good(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"v"))
    directory = DataDirectory.open(tmp_path)
    directory.save(replace(directory.load(), suspect="a test says so"))
    directory.close()
    async with node(tmp_path) as store:
        epoch = store.identify().epoch
        for other in (epoch - 1, epoch + 1):
            with pytest.raises(BadRequest):
                store.trust(other)
        assert store.identify().state == "suspect"

        assert (await settled(store.trust(epoch))).state == "ok"

        assert (await settled(store.get(b"k"))).value == b"v"
        assert (await settled(store.trust(epoch))).state == "ok"
    async with node(tmp_path) as store:
        assert store.identify().state == "ok"
