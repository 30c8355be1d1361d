"""A data directory opened by a tool while no node runs on it.

Tools change nothing: what the index doesn't cover yet is kept in memory, and an index that is lost or damaged is built
anew in a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nodes.identity import DataDirectory, NodeState
from nodes.recovery import Recovered, recover
from nodes.ring_file import RingFile, read_ring_file


@dataclass(frozen=True, slots=True)
class Offline:
    """A directory as a start would see it."""

    directory: DataDirectory
    state: NodeState
    ring: RingFile
    recovered: Recovered

    def newest(self, key: bytes) -> bytes | None:
        """The newest entry under an index key."""
        return self.recovered.overlay.newest(key)

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """The newest entry of every key."""
        tail = self.recovered.overlay.current
        if not self.recovered.overlay.forget_index:
            for key, entry in self.recovered.index.entries():
                if key not in tail:
                    yield key, entry
        for key, entry in tail.items():
            if entry:
                yield key, entry


@contextmanager
def open_offline(path: Path) -> Iterator[Offline]:
    """Open a data directory for a tool. Raises `SetupError` where there is none, or a node runs on it."""
    directory = DataDirectory.open(path, create=False)
    try:
        state = directory.load()
        ring = read_ring_file(directory.path, state)
        with tempfile.TemporaryDirectory(prefix="sfss-node-") as aside:
            recovered = recover(directory, state, ring, Path(aside))
            try:
                yield Offline(directory, state, ring, recovered)
            finally:
                recovered.index.close()
    finally:
        directory.close()
