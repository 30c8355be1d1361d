"""How far a node is purged: for each of the 256 regions of the hash space a fence and a bound (`sfss.store.Purged`).

They decide what counts in the hash tree, so each commit of the index has them together with the tree's pages. An index
that is lost takes them along; then the regions are open, and tombstones count that did not. Why that is harmless:
docs/replication.rst. Format: docs/format.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import xxhash

from sfss.store import Purged

REGIONS: Final = 256
NOTE_PREFIX: Final = b"purge/"

_PACKED: Final = struct.Struct("<QQII")  # fence, bound, ring, check


class Bounds:
    """Fences and bounds, by region. For the loop's thread; its lists may be read by others."""

    def __init__(self) -> None:
        self.rings = [0] * REGIONS
        self.fences = [0] * REGIONS
        self.bounds = [0] * REGIONS
        self.lowest = [0] * REGIONS
        """What is below this may not simply be stored: the higher one of fence and bound."""
        self.openings = [0] * REGIONS
        """How often each was opened."""
        self.changed: set[int] = set()
        """Regions that are not committed yet."""

    def of(self, region: int) -> Purged:
        """How far a region is purged."""
        return Purged(self.rings[region], self.fences[region], self.bounds[region])

    def fence(self, region: int, ring: int, fence: int) -> None:
        """Take nothing from before `fence` any more; 0 opens the region."""
        if fence and self.rings[region] == ring:
            fence = max(fence, self.fences[region])
        self.openings[region] += not fence
        self._set(region, ring, fence, self.bounds[region])

    def hide(self, region: int, bound: int) -> None:
        """Let what a higher bound purges count no more. It is the caller's to take it out of the tree."""
        self._set(region, self.rings[region], self.fences[region], bound)

    def open_for(self, ring: int) -> None:
        """The node has another ring, and gets what it didn't own under the one before, whose number stays: it has lost
        nothing since."""
        for region, fence in enumerate(self.fences):
            if fence and self.rings[region] != ring:
                self.fence(region, self.rings[region], 0)

    def forget_all(self) -> None:
        """The node may have forgotten something: nothing that it lacks says anything."""
        for region, ring in enumerate(self.rings):
            if ring or self.fences[region]:
                self.fence(region, 0, 0)

    def _set(self, region: int, ring: int, fence: int, bound: int) -> None:
        if (ring, fence, bound) != (self.rings[region], self.fences[region], self.bounds[region]):
            self.rings[region], self.fences[region], self.bounds[region] = ring, fence, bound
            self.lowest[region] = max(fence, bound)
            self.changed.add(region)

    def take_changed(self) -> dict[bytes, bytes]:
        """The regions that have changed since the last call, as notes for the index."""
        taken = {note_name(region): self._pack(region) for region in self.changed}
        self.changed = set()
        return taken

    def _pack(self, region: int) -> bytes:
        fence, bound, ring = self.fences[region], self.bounds[region], self.rings[region]
        return _PACKED.pack(fence, bound, ring, _check_of(region, fence, bound, ring))

    def load(self, notes: Mapping[bytes, bytes]) -> bool:
        """Take what the index has. False where some of it is damaged: those regions are as if never purged."""
        whole = True
        for name, packed in notes.items():
            region = int(name[len(NOTE_PREFIX) :], 16)
            try:
                ring, fence, bound, _ = unpack_note(region, packed)
            except ValueError:
                whole = False
                continue
            self._set(region, ring, fence, bound)
        self.changed = set()
        return whole


def note_name(region: int) -> bytes:
    """Under which the index has a region."""
    return NOTE_PREFIX + b"%02x" % region


def unpack_note(region: int, packed: bytes) -> Purged:
    """A region as the index has it; nothing is one that never was purged. Raises `ValueError` for a damaged one."""
    if not packed:
        return Purged()
    if len(packed) != _PACKED.size:
        raise ValueError(f"the purge bounds of region {region:02x} have {len(packed)} bytes")
    fence, bound, ring, check = _PACKED.unpack(packed)
    if check != _check_of(region, fence, bound, ring):
        raise ValueError(f"the purge bounds of region {region:02x} failed their checksum")
    return Purged(ring, fence, bound)


def _check_of(region: int, fence: int, bound: int, ring: int) -> int:
    return xxhash.xxh3_64_intdigest(b"%d %d %d %d" % (region, fence, bound, ring)) & 0xFFFFFFFF
