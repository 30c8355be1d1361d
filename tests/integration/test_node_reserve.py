"""The reserve on a disk that is really full: clients can't use it up, whatever they do."""

import contextlib
from dataclasses import replace

import pytest

from nodes.options import MIB, NodeOptions
from nodes.store import NodeStore
from sfss.errors import OutOfDisk
from sfss.store import settled
from tests.cluster.disks import SmallDisk, needs_root

pytestmark = [pytest.mark.root, needs_root]

OPTIONS = NodeOptions(volume_bytes=2 * MIB, reserve_bytes=8 * MIB, preallocate_bytes=MIB, index_interval_s=3600.0)


async def fill_up(store: NodeStore, name: bytes) -> int:
    """Write until not even a small file fits; returns how many large ones did."""
    count = 0
    for size in (64 * 1024, 4096, 16):
        number = 0
        with contextlib.suppress(OutOfDisk):
            while True:
                await settled(store.set(b"%s/%d/%d" % (name, size, number), bytes(size)))
                number += 1
                count += size == 64 * 1024
    return count


async def test_rounds_of_delete_and_write_on_a_full_disk_leave_the_reserve_to_deletes(tmp_path):
    with SmallDisk(tmp_path / "disk", 48 * MIB) as disk:
        # Nothing is compacted here, so all room that there is comes from the reserve.
        store = await NodeStore.open(disk.path / "home", replace(OPTIONS, compact_dead_ratio=1.0))
        await fill_up(store, b"first")
        held = store._reserve.held_bytes
        for number in range(40):
            assert await settled(store.delete(b"first/65536/%d" % number)) is not None
            await fill_up(store, b"round %d" % number)

        assert store._reserve.held_bytes >= held - 2 * OPTIONS.reserve_bytes // 8
        await store.close()


async def test_a_disk_that_deletes_have_cleared_takes_writes_again(tmp_path):
    with SmallDisk(tmp_path / "disk", 48 * MIB) as disk:
        store = await NodeStore.open(disk.path / "home", OPTIONS)
        count = await fill_up(store, b"first")
        for number in range(count):
            await settled(store.delete(b"first/65536/%d" % number))
        await store._indexer.commit()
        while await store._compactor.compact():
            pass

        assert await fill_up(store, b"second") > count // 2
        await store.close()
