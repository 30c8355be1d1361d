"""The free bytes that a node tells: the disk's own figure, asked for seldom."""

from __future__ import annotations

import os
from pathlib import Path

from small_nodes import node

from nodes.free_space import FRESH_S, FreeSpace


class Disk:
    """A disk of 1,000 blocks of 4 KiB, 100 of them for root alone."""

    def __init__(self) -> None:
        self.free_blocks = 1000
        self.asked = 0
        self.broken = False
        self.now = 0.0

    def ask(self, path: Path) -> os.statvfs_result:
        self.asked += 1
        if self.broken:
            raise OSError(5, "Input/output error")
        return os.statvfs_result((65536, 4096, 1000, self.free_blocks, self.free_blocks - 100, 0, 0, 0, 0, 255))

    def clock(self) -> float:
        return self.now


def test_what_only_root_may_take_is_not_free() -> None:
    disk = Disk()

    assert FreeSpace(Path("/"), disk.clock, disk.ask).bytes_free() == 900 * 4096


def test_the_disk_is_asked_once_a_second_however_many_ask() -> None:
    disk = Disk()
    free = FreeSpace(Path("/"), disk.clock, disk.ask)
    for _ in range(100):
        free.bytes_free()
    disk.free_blocks = 500
    assert free.bytes_free() == 900 * 4096
    assert disk.asked == 1

    disk.now += FRESH_S

    assert free.bytes_free() == 400 * 4096


def test_a_disk_that_does_not_answer_hides_no_other_statistics() -> None:
    disk = Disk()
    free = FreeSpace(Path("/"), disk.clock, disk.ask)
    free.bytes_free()
    disk.broken = True
    disk.now += FRESH_S

    assert free.bytes_free() == 900 * 4096


async def test_a_node_tells_what_its_disk_has_left(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        told = int(store.stats()["disk_free_bytes"])

    assert 0 < told <= os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
