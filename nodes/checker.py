"""The offline checker: reads every byte of a data directory and compares volumes and index both ways, and the hash
tree with the index.

It says what is damaged, what a start would do about it, and changes nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from nodes.entry import HASH_BYTES, index_key, is_newer, unpack_entry
from nodes.format import Kind
from nodes.offline import Offline, open_offline
from nodes.scan import Damage, Found, reader_of, walk
from nodes.tree import Tree
from nodes.volume import Volume, volume_path
from sfss.errors import CorruptRecord

_NAMED_MAX = 100
"""Faults that are named; the rest is only counted."""


def check_directory(
    path: Path, say: Callable[[str], None], quiet: bool = False, now: Callable[[], float] = time.time
) -> int:
    """Check a directory; `say` gets lines for people, `now` is Unix seconds. Returns 0 when all is well and 1 when not.
    Raises `SetupError`."""
    with open_offline(path) as offline:
        check = _Check(offline, (lambda _: None) if quiet else say, now())
        check.run()
    say(check.verdict())
    return 1 if check.faults else 0


class _Check:
    def __init__(self, offline: Offline, say: Callable[[str], None], now: float) -> None:
        self._now = now
        self._offline = offline
        self._say = say
        self._unindexed: dict[bytes, str] = {}
        self._pointed_to = 0
        self._files = 0
        self._records = 0
        self._live: dict[int, int] = {}
        self._tree = Tree()
        self.faults = 0

    def run(self) -> None:
        recovered = self._offline.recovered
        for reason in filter(None, recovered.suspect.split("; ")):
            self._fault(reason)
        going = sum(end - first for first, end in self._offline.ring.removing)
        if going:
            self._say(
                f"{going} partitions were dropped last; the next start looks whether the index has anything of them"
            )
        for key in sorted(recovered.lost):
            self._fault(f"{_name(key)}: the index knows it, but no volume has it")
        for volume in recovered.volumes:
            self._check_volume(volume)
        for newer in self._unindexed.values():
            self._fault(newer)
        self._check_entries()
        self._check_figures()

    def verdict(self) -> str:
        """One line that says it all."""
        what = f"{self._files} files, {self._records} records in {len(self._offline.recovered.volumes)} volumes"
        return f"{what}: {f'{self.faults} faults' if self.faults else 'all is well'}"

    def _fault(self, what: str) -> None:
        self.faults += 1
        if self.faults <= _NAMED_MAX:
            self._say(what)
        elif self.faults == _NAMED_MAX + 1:
            self._say("… and more")

    def _check_volume(self, volume: Volume) -> None:
        path = volume_path(self._offline.directory.volumes, volume.number)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for event in walk(reader_of(fd), volume.header, 0, volume.end):
                if isinstance(event, Damage):
                    self._fault(f"{path.name}: damaged from {event.offset} to {event.end}")
                elif isinstance(event, Found):
                    self._records += 1
                    self._check_record(volume, event, f"{path.name}: the record at {event.offset}")
            surplus = os.fstat(fd).st_size - volume.end
        finally:
            os.close(fd)
        if surplus and not self._offline.state.closed:
            self._say(f"{path.name}: {surplus} bytes behind its end, which the next start cuts off")
        elif surplus:
            self._fault(f"{path.name}: {surplus} bytes behind its end, although the last stop was clean")

    def _check_record(self, volume: Volume, found: Found, where: str) -> None:
        header = found.header
        if not found.intact:
            self._fault(f"{where} failed its checksum")
        if header.kind == Kind.FLUSH:
            self._unindexed.clear()
            return
        key = index_key(header.key)
        if self._offline.ring.dropped.is_dead(key, volume.header.position + found.offset):
            return
        packed = self._offline.newest(key)
        newer = f"{where} is newer than what the index has"
        if packed is None:
            # A tombstone is taken out of the index before its volume goes, and with it all that it had deleted. An
            # expired file counts as one.
            if header.kind == Kind.TOMBSTONE or 0 < header.expires <= self._now:
                self._unindexed.pop(key, None)
            else:
                self._unindexed[key] = newer
            return
        try:
            entry = unpack_entry(key, packed)
        except CorruptRecord:
            return  # counted when the entries are checked
        if (entry.volume, entry.offset) == (volume.number, found.offset):
            self._unindexed.pop(key, None)
            self._pointed_to += 1
            same = (header.value_bytes, header.flags, header.expires, header.version, header.checksum, header.kind)
            if same != (entry.value_bytes, entry.flags, entry.expires, entry.version, entry.checksum, entry.kind):
                self._fault(f"{where} differs from what the index says of it")
        elif is_newer(header, entry.version, entry.checksum, entry.kind):
            self._unindexed[key] = newer

    def _check_entries(self) -> None:
        count = 0
        last = b""
        for key, packed in self._offline.entries():
            count += 1
            if key[:HASH_BYTES] != index_key(key[HASH_BYTES:])[:HASH_BYTES]:
                self._fault(f"{_name(key)}: the index has it under a wrong hash")
            if self._offline.newest(key) != packed:
                self._fault(f"{_name(key)}: out of order in the index, after {_name(last)}")
            last = key
            try:
                entry = unpack_entry(key, packed)
            except CorruptRecord as error:
                self._fault(f"{_name(key)}: {error}")
                continue
            figures = self._offline.recovered.overlay.figures
            if figures.counts(key, packed):
                self._tree.add(key, figures.digest_of(key, packed))
            self._files += entry.kind == Kind.FILE
            self._live[entry.volume] = self._live.get(entry.volume, 0) + entry.record_bytes(len(key) - HASH_BYTES)
        known_lost = len(self._offline.recovered.lost)
        if count != self._pointed_to + known_lost:
            self._fault(f"the index has {count} entries; {self._pointed_to} point to a record")

    def _check_figures(self) -> None:
        figures = self._offline.recovered.overlay.figures
        if figures.files != self._files:
            self._fault(f"the index counts {figures.files} files and has {self._files}")
        for number in sorted({*figures.live, *self._live}):
            counted, there = figures.live.get(number, 0), self._live.get(number, 0)
            if counted != there:
                self._fault(f"volume {number}: the index counts {counted} live bytes and has {there}")
        kept, there_are = figures.tree, self._tree
        if (kept.digests, kept.counts) != (there_are.digests, there_are.counts):
            self._fault("the hash tree differs from what the index has; the next scrubbing puts it right")


def _name(key: bytes) -> str:
    return key[HASH_BYTES:].decode("utf-8", "backslashreplace")
