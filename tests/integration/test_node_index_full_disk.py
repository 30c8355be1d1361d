"""The index on a disk without room: a commit is refused, and works again when there is room."""

import os

import pytest

from nodes.index import Covered, Index, IndexDiskFull
from tests.cluster.disks import SmallDisk, needs_root

pytestmark = [pytest.mark.root, needs_root]


@pytest.mark.parametrize("pages_left", [0, 1, 7, 30, 64, 100])
def test_a_commit_that_finds_room_for_a_part_of_it_is_refused_as_disk_full(tmp_path, pages_left):
    with SmallDisk(tmp_path / "disk", 16 << 20) as disk:
        index = Index.open(disk.path / "index", "n")
        index.commit({}, Covered("n"), {}, False)
        disk.fill()
        with (disk.path / "filler").open("r+b") as filler:
            filler.truncate(os.path.getsize(filler.name) - 4096 * pages_left)
        entries = {os.urandom(8) + b"key %d" % n: bytes(60) for n in range(20_000)}

        with pytest.raises(IndexDiskFull):
            index.commit(entries, Covered("n"), {}, False)
        disk.free()
        index.commit(entries, Covered("n"), {}, False)

        assert index.count() == len(entries)
        index.close()
