"""Segments: tar archives of bounded size that hold the bytes of saved files.

A member's name is the file's key (`sfss.tar_names`) and its time that of the version. A comment among its PAX headers
has the rest, the key percent-encoded:

    sfss version=<n> checksum=<16 hex digits> flags=<n> expires=<n> key=<key>

So a segment says all about its files by itself, and any `tar` reads it (GNU tar grumbles at keywords of one's own). A
segment is only ever appended to, by one process, and ends as a tar does once `sync` has returned.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from sfss.errors import CorruptRecord
from sfss.stamps import stamp_time
from sfss.store import Record
from sfss.tar_names import tar_name

SEGMENT_BYTES = 64 * 1024 * 1024
"""A segment that has reached this size is followed by another one."""

_END = bytes(2 * tarfile.BLOCKSIZE)
_COMMENT = re.compile("sfss version=([0-9]+) checksum=([0-9a-f]{16}) flags=([0-9]+) expires=([0-9]+) key=([!-~]+)")


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.tar"


class SegmentWriter:
    """Appends to one new segment."""

    def __init__(self, folder: Path, number: int) -> None:
        """Make the file, durably. Raises `OSError`."""
        self.number = number
        self.end = 0
        """Bytes of the members so far."""
        self._fd = os.open(segment_path(folder, number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        sync_folder(folder)

    def append(self, key: bytes, record: Record) -> int:
        """Add a file; returns where its bytes begin. Durable after `sync`. Raises `OSError`; then nothing more may be
        appended."""
        head = _head(key, record)
        padding = bytes(-len(record.value) % tarfile.BLOCKSIZE)
        _write(self._fd, head + record.value + padding, self.end)
        offset = self.end + len(head)
        self.end = offset + len(record.value) + len(padding)
        return offset

    def sync(self) -> None:
        """Make all that was appended durable, as a whole archive."""
        _write(self._fd, _END, self.end)
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def cut_segment(folder: Path, number: int, end: int) -> None:
    """Make a whole archive of the first `end` bytes of a segment: what comes after was appended and never counted."""
    fd = os.open(segment_path(folder, number), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, end)
        _write(fd, _END, end)
        os.fsync(fd)
    finally:
        os.close(fd)


class Member(NamedTuple):
    """What a segment says of a file, besides its bytes."""

    key: bytes
    size: int
    flags: int
    expires: int
    version: int
    checksum: int


def members(path: Path) -> Iterator[tuple[int, Member | None]]:
    """All files of a segment as `tar` finds them: where the bytes begin, and what the headers say (None where they are
    damaged). Raises `CorruptRecord` where the archive can't be read on."""
    try:
        with tarfile.open(path, "r:", errorlevel=2) as archive:
            while (info := archive.next()) is not None:
                yield info.offset_data, _member(info)
                archive.members = []  # type: ignore[attr-defined]  # else every header stays in memory
    except (tarfile.TarError, OSError) as error:
        raise CorruptRecord(f"{path.name} can't be read on: {error}") from None


def read_bytes(fd: int, offset: int, size: int) -> bytes:
    """`size` bytes of an open segment; fewer where it ends before."""
    pieces = []
    while size > 0:
        piece = os.pread(fd, size, offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return b"".join(pieces)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _head(key: bytes, record: Record) -> bytes:
    info = tarfile.TarInfo(tar_name(key))
    info.size = len(record.value)
    info.mtime = int(stamp_time(record.version))
    info.mode = 0o600
    comment = (
        f"sfss version={record.version} checksum={record.checksum:016x} flags={record.flags} "
        f"expires={record.expires} key={quote_from_bytes(key)}"
    )
    info.pax_headers = {"comment": comment}
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _member(info: tarfile.TarInfo) -> Member | None:
    found = _COMMENT.fullmatch(info.pax_headers.get("comment", ""))
    if found is None:
        return None
    version, checksum, flags, expires, key = found.groups()
    return Member(unquote_to_bytes(key), info.size, int(flags), int(expires), int(version), int(checksum, 16))


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        at += written
        view = view[written:]
