"""A batch that begins a volume and then finds no room, and what comes after it."""

import errno
import os

import pytest

from nodes.options import MIB, NodeOptions
from nodes.store import NodeStore
from sfss.errors import OutOfDisk
from sfss.store import settled

OPTIONS = NodeOptions(volume_bytes=4 * MIB, reserve_bytes=0)


async def test_a_write_after_one_that_failed_in_a_new_volume_is_read_back_also_after_a_restart(tmp_path, monkeypatch):
    store = await NodeStore.open(tmp_path / "n", OPTIONS)
    for number in range(7):
        await settled(store.set(b"filler%d" % number, bytes(500_000)))
    fallocate = os.posix_fallocate

    def room_for_a_header(fd, offset, length):
        if length > 65_536:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fallocate(fd, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", room_for_a_header)
    with pytest.raises(OutOfDisk):
        await settled(store.set(b"large", bytes(1_000_000)))
    monkeypatch.setattr(os, "posix_fallocate", fallocate)

    await settled(store.set(b"small", b"acknowledged"))

    assert (await settled(store.get(b"small"))).value == b"acknowledged"
    await store.close()
    store = await NodeStore.open(tmp_path / "n", OPTIONS)
    assert (await settled(store.get(b"small"))).value == b"acknowledged"
    assert (await settled(store.get(b"filler6"))).value == bytes(500_000)
    assert await settled(store.get(b"large")) is None
    await store.close()
