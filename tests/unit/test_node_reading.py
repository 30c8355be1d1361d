"""Reads that fail for other reasons than what lies on the disk."""

from __future__ import annotations

import errno
import os

import pytest

from sfss.errors import Busy
from sfss.store import settled
from tests.unit.small_nodes import node


async def test_too_many_open_files_are_a_busy_node_and_no_damage(tmp_path, monkeypatch):
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"v"))

        def refuse(*arguments: object) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(Busy):
            await settled(store.get(b"k"))
        monkeypatch.undo()

        assert store.inspect(b"k").size == 1
        assert (await settled(store.get(b"k"))).value == b"v"
        assert store.stats()["corrupt_records"] == "0"
