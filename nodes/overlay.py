"""Durable records that the index on disk doesn't have yet, and the figures that go with them.

Two generations: `current` takes what becomes durable; `frozen` is what the indexer is committing. A look-up asks
current, frozen and the index in this order. For the loop's thread; the indexer's thread only reads a frozen generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from nodes.bounds import REGIONS, Bounds
from nodes.entry import (
    ABSENT,
    HASH_BYTES,
    checksum_in,
    is_whole,
    unflipped,
    unpack_counted,
    unpack_fields,
)
from nodes.format import Kind, record_bytes
from nodes.hot import HotRecords
from nodes.index import Index
from nodes.tree import Tree
from sfss.hash_tree import damaged_digest
from sfss.stamps import purge_stamp

DAMAGED_PREFIX: Final = b"damaged/"
"""Of the notes in the index that name them."""

IN_TREE: Final = b"2"
"""The note of a damaged record that the tree of the same commit has. Earlier versions left them out."""

_FILE: Final = int(Kind.FILE)
_TOMBSTONE: Final = int(Kind.TOMBSTONE)


def is_purged(packed: bytes, bound: int) -> bool:
    """Whether a bound purges the record of an entry that is whole."""
    _, _, _, _, expires, version, _, kind, _, _ = unpack_fields(packed)
    return version < bound and purge_stamp(kind == _TOMBSTONE, expires, version) < bound


class Growth(NamedTuple):
    """By how much figures have changed: files of each region, and volume, region and live bytes."""

    files: list[int]
    live: list[tuple[int, int, int]]


@dataclass(slots=True)
class Figures:
    """What is counted over all entries: files, tombstones, their bytes in volumes, and each volume's share of it.

    `live` counts the bytes of the records that entries point to, tombstones included. `changed` has what of it is not
    committed yet, by volume (upper bits) and region (lower eight), and `files_changed` the same of files, by region.
    `tree` has all records that count, which are those that `bounds` don't purge. Of those whose bytes are known to be
    damaged on disk (`damaged`, index keys) it has that.
    """

    files: int = 0
    live: dict[int, int] = field(default_factory=dict)
    changed: dict[int, int] = field(default_factory=dict)
    files_changed: list[int] = field(default_factory=lambda: [0] * REGIONS)
    version_max: int = 0
    tree: Tree = field(default_factory=Tree)
    bounds: Bounds = field(default_factory=Bounds)
    tombstones: int = 0
    damaged: set[bytes] = field(default_factory=set)
    changed_notes: dict[bytes, bytes] = field(default_factory=dict)
    """Of damaged records, what is not committed yet."""

    @property
    def live_bytes(self) -> int:
        return sum(self.live.values())

    def add(self, key: bytes, entry: bytes, volume: int, size: int, version: int, checksum: int, is_file: bool) -> None:
        """An entry points to a record now. `key` is the index's key."""
        region = key[0]
        self._grow(volume, region, size)
        if is_file:
            self.files += 1
            self.files_changed[region] += 1
        else:
            self.tombstones += 1
        if version > self.version_max:
            self.version_max = version
        bound = self.bounds.bounds[region]
        if version >= bound or not is_purged(entry, bound):
            self.tree.add(key, checksum)

    def exchange(self, key: bytes, old: bytes, volume: int, size: int, version: int, checksum: int) -> bool:
        """A file has taken another one's place: `remove` and `add` in one, at half the price. False, and nothing is
        done, where they have more to look at than most writes need."""
        region = key[0]
        bound = self.bounds.bounds[region]
        if version < bound or key in self.damaged or not is_whole(key, old):
            return False
        old_volume, value_bytes, old_version, old_checksum, kind = unpack_counted(old)
        if kind != _FILE or old_version < bound:
            return False
        old_size = record_bytes(len(key) - HASH_BYTES, value_bytes)
        if old_volume != volume or old_size != size:
            self._grow(old_volume, region, -old_size)
            self._grow(volume, region, size)
        if version > self.version_max:
            self.version_max = version
        self.tree.exchange(key, old_checksum ^ checksum)
        return True

    def _grow(self, volume: int, region: int, size: int) -> None:
        live, changed = self.live, self.changed
        place = volume << 8 | region
        live[volume] = live.get(volume, 0) + size
        changed[place] = changed.get(place, 0) + size

    def remove(self, key: bytes, entry: bytes) -> None:
        """An entry is gone. `key` is the index's key."""
        if not is_whole(key, entry):
            whole = unflipped(key, entry)
            if whole is None:
                self.mended(key)
                return  # an index page is rotten; nobody knows what it counted for
            entry = whole
        volume, _, value_bytes, _, _, version, checksum, kind, _, _ = unpack_fields(entry)
        region = key[0]
        self._grow(volume, region, -record_bytes(len(key) - HASH_BYTES, value_bytes))
        if kind == _FILE:
            self.files -= 1
            self.files_changed[region] -= 1
        else:
            self.tombstones -= 1
        if key in self.damaged:
            checksum = damaged_digest(checksum)
            self.mended(key)
        bound = self.bounds.bounds[region]
        if version >= bound or not is_purged(entry, bound):
            self.tree.remove(key, checksum)

    def counts(self, key: bytes, entry: bytes) -> bool:
        """Whether the record of an entry is in the tree."""
        return is_whole(key, entry) and not is_purged(entry, self.bounds.bounds[key[0]])

    def digest_of(self, key: bytes, entry: bytes) -> int:
        """What the tree has of the record of an entry that counts."""
        checksum = checksum_in(entry)
        return damaged_digest(checksum) if key in self.damaged else checksum

    def found_damaged(self, key: bytes, entry: bytes) -> None:
        """The bytes of a record are no longer what they should be. The tree tells, so that it differs from that of any
        replica which has it whole, or hasn't got it. An entry that isn't whole itself is told as damaged without that,
        and is the mender's."""
        if key in self.damaged or not is_whole(key, entry):
            return
        counts = self.counts(key, entry)
        if counts:
            self.tree.remove(key, checksum_in(entry))
        self.damaged.add(key)
        self.changed_notes[DAMAGED_PREFIX + key] = IN_TREE
        if counts:
            self.tree.add(key, self.digest_of(key, entry))

    def found_whole(self, key: bytes, entry: bytes) -> None:
        """A record that was damaged can be read again: its volume is back."""
        if key not in self.damaged or not is_whole(key, entry):
            return
        counts = self.counts(key, entry)
        if counts:
            self.tree.remove(key, self.digest_of(key, entry))
        self.mended(key)
        if counts:
            self.tree.add(key, checksum_in(entry))

    def mended(self, key: bytes) -> None:
        """There is no damaged record of a key any more. What the tree has of it is the caller's."""
        if key in self.damaged:
            self.damaged.remove(key)
            self.changed_notes[DAMAGED_PREFIX + key] = b""

    def forget_volume(self, volume: int) -> None:
        """A volume is gone."""
        self.live.pop(volume, None)
        self.changed.setdefault(volume << 8, 0)

    def forget_all(self) -> None:
        for volume in self.live:
            self.changed.setdefault(volume << 8, 0)
        self.live = dict.fromkeys(self.live, 0)
        self.files = self.tombstones = 0
        for key in list(self.damaged):
            self.mended(key)
        self.tree.forget_all()

    def take_growth(self) -> Growth:
        """What has changed since the last call; a volume that is forgotten is there with 0 at least."""
        taken = Growth(self.files_changed, [(place >> 8, place & 255, grown) for place, grown in self.changed.items()])
        self.changed = {}
        self.files_changed = [0] * REGIONS
        return taken

    def take_changed_notes(self) -> dict[bytes, bytes]:
        """What the index is to note of bounds and damaged records since the last call."""
        taken = self.changed_notes
        self.changed_notes = {}
        taken.update(self.bounds.take_changed())
        return taken

    @property
    def uncommitted(self) -> bool:
        """Whether anything has changed that isn't committed."""
        return bool(self.changed or self.tree.changed or self.changed_notes or self.bounds.changed)


class Overlay:
    """The newest durable entry of every key."""

    def __init__(self, index: Index, figures: Figures) -> None:
        self.current: dict[bytes, bytes] = {}
        self.frozen: dict[bytes, bytes] = {}
        self.figures = figures
        self.hot = HotRecords(0)
        """What of it is kept in memory; a node that serves reads has one with room."""
        self._index = index
        self.shifts = 0
        """How often newest entries have changed otherwise than by writes."""
        self.forget_index = False
        """Whether a flush waits for its commit, and what the index has counts for nothing."""

    def __len__(self) -> int:
        return len(self.current) + len(self.frozen)

    def newest(self, key: bytes) -> bytes | None:
        """The newest durable entry under an index key; None where there is none."""
        # Where nothing was written lately the key needn't even be hashed (600 instructions).
        entry = self.current.get(key) if self.current else None
        if entry is None:
            entry = self.frozen.get(key) if self.frozen else None
            if entry is None:
                return None if self.forget_index else self._index.get(key)
        return entry or None

    def put(self, key: bytes, entry: bytes, volume: int, size: int, version: int, checksum: int, is_file: bool) -> None:
        """A record has become durable: `size` bytes in `volume`, as the entry says."""
        self.replace(self.newest(key), key, entry, volume, size, version, checksum, is_file)

    def replace(
        self,
        old: bytes | None,
        key: bytes,
        entry: bytes,
        volume: int,
        size: int,
        version: int,
        checksum: int,
        is_file: bool,
    ) -> None:
        """The same where `old` is known to be the newest entry."""
        figures = self.figures
        if old is None or not (is_file and figures.exchange(key, old, volume, size, version, checksum)):
            if old is not None:
                figures.remove(key, old)
            figures.add(key, entry, volume, size, version, checksum, is_file)
        self.current[key] = entry
        self.hot.forget(key)

    def drop(self, key: bytes) -> None:
        """A key's entry is to go."""
        self.shifts += 1
        old = self.newest(key)
        if old is not None:
            self.figures.remove(key, old)
        self.current[key] = ABSENT
        self.hot.forget(key)

    def forget_all(self) -> None:
        """Every entry is to go."""
        self.shifts += 1
        self.current = {}
        self.frozen = {}
        self.hot.forget_all()
        self.figures.forget_all()
        self.forget_index = True

    def freeze(self) -> Mapping[bytes, bytes]:
        """Begin a new generation, and hand out the one to commit."""
        self.frozen, self.current = self.current, {}
        return self.frozen

    def committed(self, frozen: Mapping[bytes, bytes]) -> None:
        """A generation is in the index now; see it there."""
        self._index.refresh()
        if frozen is self.frozen:
            self.frozen = {}
            self.forget_index = False
