"""Mending the index: entries that a flipped bit has reached are found by walking it, and put right from their records.

Each entry has a check over its key and its fields. A bit of the key is the worst of all: the file is missed, and others
beside it may be, since a page that is out of order is searched in vain. The record that an entry points to says what
the entry was; where either the fields or the check still agree with that, it is put right. Else it is only told: its
file is an error until it is written again, unless it was the key. Then the file is gone here, and the entry goes where
its key belongs: where it was, it hides others from searches.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from nodes.entry import BODY_BYTES, ENTRY_BYTES, HASH_BYTES, index_key, is_whole, pack_entry, unflipped, unpack_fields
from nodes.format import pack_fields
from nodes.index import Index
from nodes.indexer import Indexer
from nodes.scan import Found, reader_of, record_at
from nodes.volume import Volume, Volumes, volume_path

_SLICE_ENTRIES = 500
_OVERLAP_ENTRIES = 64
"""More than a page of 4 KiB holds: where a page is out of order, the search for the next slice may miss by as many."""

_IDLE_PART = 20.0
"""Seconds of pause for each second of work."""


class Rotten(NamedTuple):
    """An entry that failed its check, as it lies in the index. `before` is a key before it that is found by search."""

    before: bytes
    key: bytes
    entry: bytes


class Mender:
    """Walks the index and mends it. For the loop's thread; blocking work is done in `thread`. `on_fault` gets
    sentences, `on_mended` index keys; `is_dead` is the `Scrubber`'s."""

    def __init__(
        self,
        volumes: Volumes,
        index: Index,
        indexer: Indexer,
        thread: ThreadPoolExecutor,
        on_fault: Callable[[str], None],
        on_mended: Callable[[bytes], None],
        is_dead: Callable[[bytes, int], bool],
    ) -> None:
        self._volumes = volumes
        self._index = index
        self._indexer = indexer
        self._thread = thread
        self._on_fault = on_fault
        self._on_mended = on_mended
        self._is_dead = is_dead

    async def mend(self) -> None:
        """Walk through the whole index once."""
        loop = asyncio.get_running_loop()
        walker = _Walker(self._index)
        while not walker.done:
            began = time.monotonic()
            rotten, astray = await loop.run_in_executor(self._thread, walker.next_slice)
            for entry in rotten:
                mended = await self._mend(entry)
                if not mended and entry.key != index_key(entry.key[HASH_BYTES:]):
                    await self._indexer.put_right(*entry, entry.key, entry.entry)
                self._on_fault(f"the index entry of {_name(entry.key)} is damaged{' and was mended' if mended else ''}")
            if not rotten:  # else they are found again, or told with what is in their way
                for key in astray:
                    self._on_fault(f"the index entry of {_name(key)} is not found where it belongs")
            await asyncio.sleep(_IDLE_PART * (time.monotonic() - began))

    async def _mend(self, rotten: Rotten) -> bool:
        if len(rotten.entry) != ENTRY_BYTES:
            return False
        # A flipped bit may be one of those that say where the record is.
        number, offset = unpack_fields(unflipped(rotten.key, rotten.entry) or rotten.entry)[:2]
        volume = self._volumes.by_number.get(number)
        if volume is None:
            return False
        found = await asyncio.get_running_loop().run_in_executor(
            self._thread, _read_record, self._volumes.directory, volume, offset
        )
        if found is None:
            return False
        key, entry = _entry_of(found, number)
        # A record that something else points to agrees in neither.
        if entry[:BODY_BYTES] != rotten.entry[:BODY_BYTES] and entry[BODY_BYTES:] != rotten.entry[BODY_BYTES:]:
            return False
        if self._is_dead(key, volume.header.position + offset):
            return False  # it would come back under its own key, behind the drop that missed it
        if not await self._indexer.put_right(rotten.before, rotten.key, rotten.entry, key, entry):
            return False
        self._on_mended(key)
        return True


class _Walker:
    """The thread's side: looks at all entries as they lie, in slices."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._start = b""
        self._told: set[bytes] = set()
        self.done = False

    def next_slice(self) -> tuple[list[Rotten], list[bytes]]:
        """What is rotten, and the keys of what is whole but not found by search."""
        rotten: list[Rotten] = []
        astray: list[bytes] = []
        before = self._start
        trusted: list[bytes] = []
        lying = self._index.lying_from(self._start, _SLICE_ENTRIES)
        for number, (key, entry, is_found) in enumerate(lying):
            whole = is_whole(key, entry)
            if whole and is_found:
                before = key
                if number < _SLICE_ENTRIES - _OVERLAP_ENTRIES:
                    trusted.append(key)
            elif key not in self._told:
                self._told.add(key)
                if whole:
                    astray.append(key)
                else:
                    rotten.append(Rotten(before, key, entry))
        self.done = len(lying) < _SLICE_ENTRIES or not trusted or trusted[-1] == self._start
        if not self.done:
            self._start = trusted[-1]
        return rotten, astray


def _read_record(directory: Path, volume: Volume, offset: int) -> Found | None:
    """The record at an offset, if it is whole and there."""
    try:
        fd = os.open(volume_path(directory, volume.number), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # compacted away meanwhile
    try:
        found = record_at(reader_of(fd), volume.header, offset, volume.end)
    finally:
        os.close(fd)
    return found if found is not None and found.intact else None


def _entry_of(found: Found, number: int) -> tuple[bytes, bytes]:
    """Index key and entry of a record in volume `number`."""
    kind, name, value_bytes, flags, expires, version, checksum = found.header
    key = index_key(name)
    fields = pack_fields(value_bytes, flags, expires, version, checksum)
    return key, pack_entry(key, number, found.offset, fields, kind)


def _name(key: bytes) -> str:
    return key[HASH_BYTES:].decode("utf-8", "backslashreplace")
