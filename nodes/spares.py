"""Files of volumes that were compacted away, kept to be written over instead of given back.

Room that has been written before takes a batch in about two thirds of the time of new room (docs/performance.rst): its
blocks are known to the file system, so that a sync puts the data on disk and no metadata, and its pages are mostly in
the page cache. What lies there from before can't be taken for anything: each volume has a salt of its own.

A spare counts as free room. It is given up when the disk has none left, when the node stops, and when it starts.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from pathlib import Path

from nodes.volume import SPARE, sync_directory

SPARES_MAX = 4
"""Compaction brings a few at a time, and a busy writer takes one or two until it brings the next."""

_log = logging.getLogger("sfss.node")


class Spares:
    """Any thread may call; what is found by one is no other's."""

    def __init__(self) -> None:
        self._paths: deque[Path] = deque()

    def __len__(self) -> int:
        return len(self._paths)

    def offer(self, path: Path) -> None:
        """Take a file that `set_aside` made."""
        self._paths.append(path)

    def take(self) -> Path | None:
        """A file to write over, with all its room; the caller has it now."""
        with suppress(IndexError):
            return self._paths.popleft()
        return None

    def give_up(self) -> bool:
        """Give all room back to the disk. Returns whether there was any."""
        found = False
        while (path := self.take()) is not None:
            give_back(path)
            found = True
        return found


def set_aside(path: Path) -> Path:
    """Take a volume's name from its file, durably; returns where the file lies now. Raises `OSError`."""
    aside = path.with_suffix(SPARE)
    path.rename(aside)
    sync_directory(path.parent)
    return aside


def give_back(path: Path) -> None:
    """Unlink a file that was set aside. Nothing depends on whether that lasts: a start does it again."""
    try:
        path.unlink()
    except OSError as error:
        _log.error("the room of %s can't be given back: %s", path, error)
