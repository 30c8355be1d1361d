"""Disks whose power can be cut: ext4 in image files on an XFS that can clone a file at once (root only).

The clone of an image, made while a node runs on it, *is* the disk after a power cut: what only the page cache held
isn't in it. The ext4 is mounted with `commit=300`, or the kernel would write back by itself what a careless node never
synced, and a cut would find it there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems, so it needs root")
needs_xfs = pytest.mark.skipif(
    shutil.which("mkfs.xfs") is None or shutil.which("mkfs.ext4") is None,
    reason="needs mkfs.xfs (xfsprogs) and mkfs.ext4",
)


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def _take_off(path: Path) -> None:
    """Unmount at the end of a test, which must not leave anything behind even if a file of it is still open."""
    try:
        _run("umount", path)
    except OSError:
        _run("umount", "--lazy", path)


class CuttableDisks:
    """A pool of ext4 disks, each mounted at `path(name)`. Use as a context: everything is unmounted at its end."""

    def __init__(self, directory: Path, disk_bytes: int = 256 << 20, pool_bytes: int = 8 << 30) -> None:
        self._directory = directory
        self._pool = directory / "pool"
        self._disk_bytes = disk_bytes
        self._pool_bytes = pool_bytes
        self._mounted: list[Path] = []
        self._generation: dict[str, int] = {}

    def __enter__(self) -> CuttableDisks:
        image = self._directory / "pool.img"
        with image.open("wb") as file:
            file.truncate(self._pool_bytes)
        _run("mkfs.xfs", "-q", "-m", "reflink=1", image)
        self._mount(image, self._pool)
        return self

    def __exit__(self, *_: object) -> None:
        for path in reversed(self._mounted):
            _take_off(path)
        (self._directory / "pool.img").unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        return self._directory / f"disk-{name}"

    def add(self, name: str) -> Path:
        """Make an empty disk and mount it."""
        image = self._image(name)
        with image.open("wb") as file:
            file.truncate(self._disk_bytes)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", image)
        self._mount(image, self.path(name), "commit=300")
        shutil.rmtree(self.path(name) / "lost+found")
        # The directory itself must survive the cut.
        _run("sync", "-f", self.path(name))
        return self.path(name)

    def clone(self, name: str) -> None:
        """Take the disk as a power cut at this moment would leave it. Some milliseconds; the node may go on running."""
        number = self._generation.get(name, 0)
        _run("cp", "--reflink=always", self._image(name), self._pool / f"{name}.{number + 1}.img")

    def put_back(self, name: str) -> None:
        """Mount the clone in place of the disk. Nothing may use the disk any more."""
        self._unmount(self.path(name))
        self._image(name).unlink()
        self._generation[name] = self._generation.get(name, 0) + 1
        self._mount(self._image(name), self.path(name), "commit=300")

    def _image(self, name: str) -> Path:
        return self._pool / f"{name}.{self._generation.get(name, 0)}.img"

    def _mount(self, image: Path, path: Path, options: str = "") -> None:
        path.mkdir(exist_ok=True)
        _run("mount", "-o", ",".join(["loop", "noatime", *([options] if options else [])]), image, path)
        self._mounted.append(path)

    def _unmount(self, path: Path) -> None:
        _run("umount", path)
        self._mounted.remove(path)


class SmallDisk:
    """A tmpfs of a given size, and a filler that takes what is left of it."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self._size_bytes = size_bytes

    def __enter__(self) -> SmallDisk:
        self.path.mkdir(exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={self._size_bytes}", "tmpfs", self.path)
        return self

    def __exit__(self, *_: object) -> None:
        _take_off(self.path)

    def fill(self) -> None:
        """Take all the room that is left, to the last page."""
        with (self.path / "filler").open("ab", buffering=0) as file:
            for chunk in (1 << 20, 4096):
                try:
                    while True:
                        file.write(bytes(chunk))
                except OSError:
                    continue

    def free(self) -> None:
        (self.path / "filler").unlink(missing_ok=True)
