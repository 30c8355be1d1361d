"""What one round of the indexer commits, and how it is cut into slices, each a transaction of its own.

The entries of a second lie all over the index: they touch nearly every page of a small one, and LMDB, which never
writes over a page that the commit before still needs, takes again what one transaction freed only in the next but one.
A round in a single transaction needs up to three times the pages that are live; in eight, each a part of the hash
space, a quarter more than those.

A process that ends between two slices leaves an index that still covers what it did before the round, and knows some of
what came after. The next start replays all of that by version, which changes nothing where it is known already, as long
as all figures of a region of the hash space (its first byte) are those of its entries. So each slice has its own part
of the figures, with the tree's pages and the notes of its regions; the last one moves on what is covered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from nodes.bounds import NOTE_PREFIX, REGIONS
from nodes.index import Covered
from nodes.overlay import DAMAGED_PREFIX, Overlay

SLICES_MAX: Final = 8

SLICE_ENTRIES_MIN: Final = 1000
"""A slice has about as many at least: each costs two syncs."""


class Slice(NamedTuple):
    """The arguments of one `Index.commit`."""

    entries: Mapping[bytes, bytes]
    covered: Covered
    live_bytes: Mapping[int, int]
    forget_all: bool
    tree: Mapping[int, bytes]
    notes: Mapping[bytes, bytes]
    durable: int = 0


@dataclass(slots=True)
class _Part:
    """What a slice is made of. `grown` has by how much its entries have changed the live bytes of a volume."""

    entries: dict[bytes, bytes] = field(default_factory=dict)
    tree: dict[int, bytes] = field(default_factory=dict)
    notes: dict[bytes, bytes] = field(default_factory=dict)
    grown: dict[int, int] = field(default_factory=dict)
    files: int = 0


class Generation:
    """All that an overlay had when it was frozen. `covered` is how far the index goes with it, `before` without."""

    def __init__(self, overlay: Overlay, covered: Covered, before: Covered) -> None:
        figures = overlay.figures
        self.covered = covered
        self.entries = overlay.freeze()
        self._before = before
        self._forget_all = overlay.forget_index
        self._growth = figures.take_growth()
        self._live = {volume: figures.live.get(volume, 0) for volume, _, _ in self._growth.live}
        self._tree = figures.tree.take_changed()
        self._notes = figures.take_changed_notes()

    def slices(self) -> list[Slice]:
        """The commits to be made, in this order. For any thread."""
        count = min(SLICES_MAX, len(self.entries) // SLICE_ENTRIES_MIN)
        if count < 2 or self._forget_all:  # what is forgotten goes at once
            return [Slice(self.entries, self.covered, self._live, self._forget_all, self._tree, self._notes)]
        parts = self._parts(count)
        live = self._live
        files = self.covered.files
        # From the last one back: each but for that has what those behind it have not changed yet.
        slices = [Slice(parts[-1].entries, self.covered, live, False, parts[-1].tree, parts[-1].notes)]
        for part, behind in zip(parts[-2::-1], parts[:0:-1], strict=True):
            live = {volume: count - behind.grown.get(volume, 0) for volume, count in live.items()}
            files -= behind.files
            covered = replace(self._before, files=files, version_max=self.covered.version_max)
            changed = {volume: live[volume] for volume in part.grown}
            slices.append(
                Slice(part.entries, covered, changed, False, part.tree, part.notes, durable=self.covered.position)
            )
        slices.reverse()
        return slices

    def _parts(self, count: int) -> list[_Part]:
        parts = [_Part() for _ in range(count)]
        of_region = [parts[region * count // REGIONS] for region in range(REGIONS)]
        for key, entry in self.entries.items():
            of_region[key[0]].entries[key] = entry
        for page, packed in self._tree.items():
            of_region[page].tree[page] = packed
        for name, note in self._notes.items():
            of_region[_region_of(name)].notes[name] = note
        for region, files in enumerate(self._growth.files):
            of_region[region].files += files
        for volume, region, grown in self._growth.live:
            of_region[region].grown[volume] = of_region[region].grown.get(volume, 0) + grown
        return parts


def _region_of(name: bytes) -> int:
    """Which region's a note is."""
    if name.startswith(DAMAGED_PREFIX):
        return name[len(DAMAGED_PREFIX)]
    return int(name[len(NOTE_PREFIX) :], 16)
