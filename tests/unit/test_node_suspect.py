"""A node that knows that it may have lost writes tells nobody that a file isn't there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from nodes.identity import DataDirectory
from nodes.store import NodeStore
from sfss.errors import Recovering
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
