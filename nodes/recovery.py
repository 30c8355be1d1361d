"""From what lies in a data directory to a state that can serve: replay of the tail, or of everything.

The index says up to where it covers the volumes; what lies after is replayed by version, so order and repetition
don't matter. Damage is told apart by position. Everything below the floor was on disk for certain (the index, the
identity, a batch header or a later volume says so), so damage there is rot: it is reported and what follows is
replayed. Above the floor it is the torn tail of a crash, which nobody was promised, and it is cut. Where records of
unknown keys may be missing, the node becomes *suspect*: it can no longer tell absent from lost. Where the index
knows the keys of what is lost, reads of those fail as corrupt until they are written again, and nothing else does.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from nodes.bounds import NOTE_PREFIX
from nodes.crash_note import CrashNote
from nodes.dropped import Dropped
from nodes.dropping import remove_dead
from nodes.entry import ENTRY_BYTES, HASH_BYTES, index_key, is_whole, pack_entry, unpack_fields
from nodes.format import VOLUME_HEADER_BYTES, Kind, pack_fields, record_bytes
from nodes.generation import Generation
from nodes.identity import DataDirectory, NodeState
from nodes.index import Covered, Index, IndexDamaged
from nodes.index import errors as index_errors
from nodes.overlay import DAMAGED_PREFIX, IN_TREE, Figures, Overlay
from nodes.ring_file import RingFile
from nodes.scan import Batch, Damage, Found, reader_of, walk
from nodes.tree import Tree
from nodes.volume import Volume, find_volumes, new_header, volume_path

_COMMIT_ENTRIES = 50_000

_log = logging.getLogger("sfss.node")


@dataclass(slots=True)
class Recovered:
    """What a start found. `begun` is False where the newest volume has still to be made."""

    index: Index
    overlay: Overlay
    volumes: list[Volume]
    newest: Volume
    begun: bool
    suspect: str = ""
    replayed: int = 0
    rotten: int = 0
    cut_bytes: int = 0
    lost: set[bytes] = field(default_factory=set)
    """Index keys of records that the index knows and no volume has."""

    ring: RingFile = field(default_factory=RingFile)
    """As it is on disk, with nothing left to remove."""


@dataclass(slots=True)
class _Tail:
    """The part of a volume that the index doesn't cover."""

    volume: Volume
    start: int
    fd: int = field(default=-1)


def recover(directory: DataDirectory, state: NodeState, ring: RingFile, aside: Path | None = None) -> Recovered:
    """Make volumes and index agree. Blocks; to be called before anything is served. Raises `SetupError`.

    What `ring` says is dropped is left out, and taken out of the index where a crash has left it there.
    With `aside` nothing in the directory is changed: the tail stays in the overlay, and an index that can't be used
    is built anew in that folder."""
    dropped = ring.dropped
    volumes, damaged = find_volumes(directory.volumes, state.node_bytes, clean=aside is None)
    index, covered, figures = _open_index(directory, state, bool(volumes), aside)
    index.refresh()
    overlay = Overlay(index, figures)
    reasons = [state.suspect] if state.suspect else []
    found_numbers = {volume.number for volume in volumes}
    reasons += [f"volume {number} has a damaged header" for number in damaged if number > covered.volume]
    missing = [number for number, live in figures.live.items() if live and number not in {*found_numbers, *damaged}]
    tails = [
        _Tail(volume, covered.offset if volume.number == covered.volume else VOLUME_HEADER_BYTES)
        for volume in volumes
        if volume.number >= covered.volume
    ]
    newest_number = max([covered.volume, *found_numbers, *damaged], default=0)
    replay = _Replay(index, overlay, state, dropped)
    try:
        for tail in tails:
            access = os.O_RDWR if aside is None else os.O_RDONLY
            tail.fd = os.open(volume_path(directory.volumes, tail.volume.number), access | os.O_CLOEXEC)
            if not state.closed and aside is None:
                _read_from_disk_itself(tail.fd)
        known = max(covered.position, index.durable())
        floor = max([known, state.position, dropped.highest, *(_highest_durable(tail) for tail in tails)])
        for tail in tails:
            if replay.torn:
                # Nothing above a torn place was promised; a later volume there can't exist, unless it was put there.
                reasons.append(f"volume {tail.volume.number} follows a torn one")
                break
            replay.run(tail, floor)
        if aside is None:
            for tail in tails:
                replay.cut(tail)
    finally:
        for tail in tails:
            if tail.fd >= 0:
                os.close(tail.fd)
    reasons += replay.reasons
    reasons += _unknown_losses([tail.volume for tail in tails], covered, state.closed)
    end = volumes[-1].end_position if volumes else 0
    begun = bool(volumes) and volumes[-1].number == newest_number and end >= floor
    newest = volumes[-1] if begun else _unbegun(newest_number + 1, max(end, floor), state)
    remove_dead(index, overlay, dropped, ring.removing, volumes, lambda: replay.commit_if_large(newest, begun))
    lost: set[bytes] = set()
    if missing or end < known:
        lost = {key for key in _lost_entries(index, volumes, missing) if overlay.newest(key) is not None}
        _log.error("%d records that the index knows are lost; their reads fail until they are written again", len(lost))
    if max(end, covered.position) < floor:
        reasons.append(f"data ends at position {end}, but {floor} was durable")
    for key in lost:
        entry = index.get(key)
        if entry is not None and overlay.newest(key) == entry:
            figures.found_damaged(key, entry)
    if reasons:
        figures.bounds.forget_all()  # before the node is known to be suspect, so also should it be trusted at once
    replay.commit(newest, begun, always=bool(reasons or ring.removing))
    return Recovered(
        index,
        overlay,
        volumes,
        newest,
        begun,
        "; ".join(reasons),
        replay.replayed,
        replay.rotten,
        replay.cut_bytes,
        lost,
        replace(ring, removing=()),
    )


def _unknown_losses(volumes: list[Volume], covered: Covered, closed: bool) -> Iterator[str]:
    """Reasons to think that records are gone which the index didn't have yet. `volumes` are those from where it ends,
    in order; `closed` tells that it had everything."""
    first = volumes[0] if volumes and volumes[0].number == covered.volume else None
    # An index that ends right behind a volume's header may do so for a volume that was never begun.
    if not closed and covered.offset > VOLUME_HEADER_BYTES and (first is None or first.end < covered.offset):
        yield f"volume {covered.volume} is damaged or cut off, and so is what had followed"
    for before, after in pairwise(volumes):
        # Numbers in between belong to volumes that were compacted away before an index was rebuilt.
        if after.number == before.number + 1 and before.end_position < after.header.position:
            yield f"volume {before.number} ends at {before.end}, but the next one begins further on"


def _lost_entries(index: Index, volumes: list[Volume], missing: list[int]) -> set[bytes]:
    """Keys of the committed entries that point behind the end of their volume, or into a missing one. Reads the whole
    index: a second for a million files."""
    ends = {volume.number: volume.end for volume in volumes} | dict.fromkeys(missing, 0)
    lost = set()
    for key, packed in index.entries():
        if len(packed) != ENTRY_BYTES:
            continue
        volume, offset, value_bytes = unpack_fields(packed)[:3]
        if volume in ends and offset + record_bytes(len(key) - HASH_BYTES, value_bytes) > ends[volume]:
            lost.add(key)
    return lost


def _unbegun(number: int, position: int, state: NodeState) -> Volume:
    return Volume(new_header(number, position, state.node_bytes), VOLUME_HEADER_BYTES)


def _open_index(
    directory: DataDirectory, state: NodeState, has_volumes: bool, aside: Path | None
) -> tuple[Index, Covered, Figures]:
    note = CrashNote(directory.path)
    try:
        _check_crash(note)
        index = Index.open(directory.index, state.node, read_only=aside is not None, distrusted=not state.closed)
        figures = _figures_of(index)
    except IndexDamaged as error:
        _log.error("the index is damaged (%s) and will be rebuilt from the volumes", error)
        if aside is None:
            Index.remove(directory.index)
            note.clear()
        index = Index.open(aside or directory.index, state.node)
        figures = _figures_of(index)
    covered = index.covered()
    if has_volumes and not covered.volume:
        _log.info("building the index from the volumes")
    return index, covered, figures


def _check_crash(note: CrashNote) -> None:
    crash = note.read()
    if crash:
        raise IndexDamaged(f"the process ended by a crash, perhaps over it: {crash}")


def _figures_of(index: Index) -> Figures:
    """The figures as of the last commit. Closes an index that can't be read, and raises `IndexDamaged`."""
    try:
        return _read_figures(index, index.covered())
    except (IndexDamaged, index_errors) as error:
        index.close()
        raise IndexDamaged(str(error)) from None


def _read_figures(index: Index, covered: Covered) -> Figures:
    figures = Figures(covered.files, index.live_bytes(), version_max=covered.version_max)
    figures.tombstones = max(0, index.count() - covered.files)
    notes = index.notes(DAMAGED_PREFIX)
    figures.damaged = {name[len(DAMAGED_PREFIX) :] for name in notes}
    figures.changed_notes = {name: IN_TREE for name, note in notes.items() if note != IN_TREE}
    bounds_are_whole = figures.bounds.load(index.notes(NOTE_PREFIX))
    figures.tree = _tree_of(index, covered, figures, bounds_are_whole and not figures.changed_notes)
    return figures


def _tree_of(index: Index, covered: Covered, figures: Figures, kept_up: bool) -> Tree:
    """The hash tree as of the last commit; where it wasn't kept up or is damaged, made from all entries: some seconds
    for a million files."""
    tree = Tree()
    try:
        pages = index.tree_pages() if kept_up else None
        if pages is not None:
            for number, packed in pages.items():
                tree.load(number, packed)
            return tree
        reason = "the index has none"
    except ValueError as error:
        reason = str(error)
    if covered.volume:
        _log.info("making the hash tree from the index: %s", reason)
    tree = Tree()
    for key, entry in index.entries():
        if figures.counts(key, entry):
            tree.add(key, figures.digest_of(key, entry))
    tree.change_all()
    return tree


def _read_from_disk_itself(fd: int) -> None:
    """Put on disk what a killed process left in the page cache, and then forget the cache: after a failed sync its
    pages look clean and yet are not on disk."""
    os.fdatasync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _highest_durable(tail: _Tail) -> int:
    volume = tail.volume
    durable = volume.header.position
    for event in walk(reader_of(tail.fd), volume.header, tail.start, volume.end, values=False):
        if isinstance(event, Batch) and event.header.durable > durable:
            durable = event.header.durable
    return durable


class _Replay:
    """Puts what tails hold into the overlay, and that into the index from time to time."""

    def __init__(self, index: Index, overlay: Overlay, state: NodeState, dropped: Dropped) -> None:
        self._index = index
        self._overlay = overlay
        self._state = state
        self._dropped = dropped
        self.torn = False
        self.reasons: list[str] = []
        self.replayed = 0
        self.rotten = 0
        self.cut_bytes = 0

    def run(self, tail: _Tail, floor: int) -> None:
        """Replay one volume's tail; sets the volume's `end`."""
        volume = tail.volume
        base = volume.header.position
        end = min(tail.start, volume.end)
        for event in walk(reader_of(tail.fd), volume.header, tail.start, volume.end):
            if isinstance(event, Batch):
                end = event.offset
                continue
            if isinstance(event, Damage):
                if base + event.offset >= floor:
                    self.torn = not event.blank
                    break
                if event.last and event.blank:
                    break
                self._rot(f"volume {volume.number} is damaged from {event.offset} to {event.end}")
                end = event.end
                continue
            if not event.intact and base + event.end > floor:
                self.torn = True
                break
            if not event.intact:
                self.rotten += 1
                _log.error("volume %d: the record at %d failed its checksum", volume.number, event.offset)
            self._apply(volume, event)
            end = event.end
            if len(self._overlay.current) >= _COMMIT_ENTRIES:
                self._commit_at(volume, end, base + end)
        volume.end = max(end, VOLUME_HEADER_BYTES)

    def _rot(self, reason: str) -> None:
        self.rotten += 1
        self.reasons.append(reason)
        _log.error("%s", reason)

    def _apply(self, volume: Volume, found: Found) -> None:
        self.replayed += 1
        header = found.header
        if header.kind == Kind.FLUSH:
            self._overlay.forget_all()
            return
        key = index_key(header.key)
        if self._dropped.is_dead(key, volume.header.position + found.offset):
            return
        held = self._overlay.newest(key)
        if held is not None and is_whole(key, held):
            version, checksum = unpack_fields(held)[5:7]
            if (version, checksum) > (header.version, header.checksum):
                return
        checksum = header.checksum
        fields = pack_fields(header.value_bytes, header.flags, header.expires, header.version, checksum)
        entry = pack_entry(key, volume.number, found.offset, fields, header.kind)
        self._overlay.put(key, entry, volume.number, header.size, header.version, checksum, header.kind == Kind.FILE)
        if not found.intact:
            self._overlay.figures.found_damaged(key, entry)

    def cut(self, tail: _Tail) -> None:
        """Take off what lies behind a volume's data, durably: a torn tail, or room taken ahead."""
        surplus = os.fstat(tail.fd).st_size - tail.volume.end
        if surplus > 0:
            if self.torn:
                self.cut_bytes += surplus
                _log.warning("volume %d: %d bytes cut off its torn end", tail.volume.number, surplus)
            os.ftruncate(tail.fd, tail.volume.end)
            os.fsync(tail.fd)

    def commit(self, newest: Volume, begun: bool, always: bool) -> None:
        """Put what is left into the index; `always` also where nothing is, so that what was found out isn't again."""
        if self.replayed or always:
            self._commit_at(newest, newest.end, newest.end_position if begun else newest.header.position)

    def commit_if_large(self, newest: Volume, begun: bool) -> None:
        """The same once there is much of it."""
        if len(self._overlay.current) >= _COMMIT_ENTRIES:
            self.commit(newest, begun, always=True)

    def _commit_at(self, volume: Volume, offset: int, position: int) -> None:
        if self._index.read_only:
            return
        overlay = self._overlay
        figures = overlay.figures
        covered = Covered(
            self._state.node,
            volume.number,
            offset,
            position,
            figures.version_max,
            figures.files,
        )
        generation = Generation(overlay, covered, self._index.covered())
        for part in generation.slices():
            while self._index.lacks_room_for(len(part.entries)):
                self._index.grow()
            self._index.commit(*part)
            self._index.refresh()
        overlay.committed(generation.entries)
