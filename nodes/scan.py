"""Walking a volume record by record, past damage.

Replay, rebuild, compaction, checker and export all read volumes this way. Where a header is damaged nothing says how
long the record was; the walk then looks for the next place where a whole header lies. Header checks are 64 bits wide
and seeded with the volume's salt and the position, so neither chance nor a crafted value is taken for one.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from nodes.format import (
    BATCH_BYTES_MAX,
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    VOLUME_HEADER_BYTES,
    BatchHeader,
    Kind,
    RecordHeader,
    VolumeHeader,
    record_key_bytes,
    unpack_batch_header,
    unpack_record_header,
)
from sfss.store import KEY_BYTES_MAX, checksum_of

WINDOW_BYTES = 1024 * 1024
_UNREADABLE_STEP_BYTES = 4096

_HEAD_BYTES_MAX = RECORD_HEADER_BYTES + KEY_BYTES_MAX
_SKIMMED = struct.Struct("<4sBBHI")  # the beginning of a record's header; docs/format.rst
_NOTHING = (b"", 0, 0, 0, 0)

ReadAt: TypeAlias = Callable[[int, int], bytes]
"""`(offset, size)` to the bytes there; fewer at the end of the file."""


class Batch(NamedTuple):
    """A batch header at `offset`."""

    offset: int
    header: BatchHeader


class Found(NamedTuple):
    """A record whose header and key are whole. `intact` tells whether its value is, too; `value` is empty where values
    were not asked for."""

    offset: int
    header: RecordHeader
    value: bytes
    intact: bool

    @property
    def end(self) -> int:
        return self.offset + self.header.size


class Damage(NamedTuple):
    """Bytes between `offset` and `end` that are neither record nor batch header. `blank` when all are zero, as in room
    taken ahead; `last` when nothing whole follows."""

    offset: int
    end: int
    blank: bool
    last: bool


Event: TypeAlias = Batch | Found | Damage


def reader_of(fd: int) -> ReadAt:
    """Read from a file through a window of `WINDOW_BYTES`, which the caller's thread alone uses. A sector that can't
    be read (EIO) reads as zeros, so that a walk treats it like any other damage and goes on behind it."""
    window = b""
    window_offset = 0

    def read_at(offset: int, size: int) -> bytes:
        nonlocal window, window_offset
        start = offset - window_offset
        if start >= 0 and start + size <= len(window):
            return window[start : start + size]
        if size >= WINDOW_BYTES:
            return _pread_past_errors(fd, size, offset)
        window_offset = offset
        window = _pread_past_errors(fd, WINDOW_BYTES, offset)
        return window[:size]

    return read_at


def _pread_past_errors(fd: int, size: int, offset: int) -> bytes:
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    parts = []
    for at in range(offset, offset + size, _UNREADABLE_STEP_BYTES):
        wanted = min(_UNREADABLE_STEP_BYTES, offset + size - at)
        try:
            part = os.pread(fd, wanted, at)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            part = bytes(wanted)
        parts.append(part)
        if len(part) < wanted:
            break
    return b"".join(parts)


def walk(
    read_at: ReadAt, volume: VolumeHeader, start: int, size: int, values: bool = True, verify: bool = True
) -> Iterator[Event]:
    """Yield what lies between `start` and `size` (bytes from the volume's start) in order.

    `values=False` reads headers only, and then `intact` says no more than that the value lies within the file;
    `verify=False` leaves out the checksums of values.
    """
    offset = max(start, VOLUME_HEADER_BYTES)
    while offset < size:
        event = _event_at(read_at, volume, offset, size, values, verify)
        if event is None:
            following = _next_whole(read_at, volume, offset + 1, size)
            end = size if following is None else following
            yield Damage(offset, end, _is_blank(read_at, offset, end), following is None)
            offset = end
        elif isinstance(event, Batch):
            yield event
            offset += BATCH_HEADER_BYTES
        else:
            yield event
            offset = event.end


def skim(read_at: ReadAt, volume: VolumeHeader, size: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield offset, kind and key of the records of a volume, with headers believed and not verified: a fifth of the
    work of `walk`. Whoever uses one reads it again with `record_at`. Where the chain of lengths breaks, it goes on
    at the next whole header."""
    offset = last = VOLUME_HEADER_BYTES
    while offset < size:
        window = read_at(offset, min(WINDOW_BYTES, size - offset))
        # A head that the window may cut in two is left for the next window.
        end = len(window) if offset + len(window) >= size else len(window) - _HEAD_BYTES_MAX
        at = 0
        broken = False
        while at < end and not broken:
            magic, kind, _, key_bytes, value_bytes = _SKIMMED.unpack_from(window, at) if at + 12 <= end else _NOTHING
            if magic == RECORD_MAGIC:
                last = offset + at
                start = at + RECORD_HEADER_BYTES
                yield last, kind, window[start : start + key_bytes]
                at = start + key_bytes + value_bytes
            elif magic == BATCH_MAGIC:
                at += BATCH_HEADER_BYTES
            else:
                broken = True
        offset += at
        if broken or offset > size:
            following = _next_whole(read_at, volume, last + 1, size)
            if following is None:
                return
            offset = last = following


def record_at(read_at: ReadAt, volume: VolumeHeader, offset: int, size: int) -> Found | None:
    """Read and verify one record; None where none begins."""
    event = _event_at(read_at, volume, offset, size, values=True, verify=True)
    return event if isinstance(event, Found) else None


def _event_at(
    read_at: ReadAt, volume: VolumeHeader, offset: int, size: int, values: bool, verify: bool
) -> Batch | Found | None:
    position = volume.position + offset
    head = read_at(offset, RECORD_HEADER_BYTES)
    if head[:4] == BATCH_MAGIC:
        batch = unpack_batch_header(head[:BATCH_HEADER_BYTES], volume.salt, position)
        return None if batch is None else Batch(offset, batch)
    key_bytes = record_key_bytes(head)
    if not key_bytes:
        return None
    header = unpack_record_header(read_at(offset, RECORD_HEADER_BYTES + key_bytes), volume.salt, position)
    if header is None:
        return None
    within = offset + header.size <= size
    if not values or not within:
        return Found(offset, header, b"", within)
    value = read_at(offset + RECORD_HEADER_BYTES + key_bytes, header.value_bytes)
    return Found(offset, header, value, len(value) == header.value_bytes and (not verify or is_intact(header, value)))


def is_intact(header: RecordHeader, value: bytes) -> bool:
    """Whether header and value make up the record that was written."""
    checksum = checksum_of(
        header.key, value, header.flags, header.expires, header.version, header.kind == Kind.TOMBSTONE
    )
    return checksum == header.checksum


def _next_whole(read_at: ReadAt, volume: VolumeHeader, start: int, size: int) -> int | None:
    """The first offset from `start` on where a batch or a record has a whole header.

    A record lies in a batch, so no record is sought further from `start` than a batch reaches, unless another batch
    follows. That keeps it short where a volume was begun in the room of an old one, whose records lie behind its data.
    """
    batch = _next_header(read_at, volume, BATCH_MAGIC, start, size, size)
    end = min(size, start + BATCH_BYTES_MAX + _HEAD_BYTES_MAX) if batch is None else batch
    record = _next_header(read_at, volume, RECORD_MAGIC, start, end, size)
    return batch if record is None else record


def _next_header(read_at: ReadAt, volume: VolumeHeader, magic: bytes, start: int, end: int, size: int) -> int | None:
    """The first offset from `start` on, and before `end`, where a whole header with this magic begins."""
    overlap = len(magic) - 1
    offset = start
    while offset < end:
        chunk = read_at(offset, min(WINDOW_BYTES, end + overlap - offset))
        at = -1
        while (at := chunk.find(magic, at + 1)) >= 0:
            if _event_at(read_at, volume, offset + at, size, values=False, verify=False) is not None:
                return offset + at
        if len(chunk) <= overlap:
            return None
        offset += len(chunk) - overlap
    return None


def _is_blank(read_at: ReadAt, start: int, end: int) -> bool:
    for offset in range(start, end, WINDOW_BYTES):
        chunk = read_at(offset, min(WINDOW_BYTES, end - offset))
        if chunk.count(0) != len(chunk):
            return False
    return True
