"""Verify: every byte of a run is read and compared with its checksum, without a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sfss.backup.manifest import Manifest, Row
from sfss.backup.segments import Member, members, read_bytes, segment_path
from sfss.errors import CorruptRecord
from sfss.store import checksum_of

Say = Callable[[str], None]


def verify(manifest: Manifest, segments: Path, say: Say, stopped: Callable[[], bool] = lambda: False) -> int:
    """Check the manifest, that each of its files is whole, and that `tar` finds the same file at the same place.
    Names what is damaged; returns how much that is. `stopped` is asked before each segment: once it says yes, the rest
    isn't looked at."""
    damages = 0

    def damaged(what: str) -> None:
        nonlocal damages
        damages += 1
        say(what)

    if found := manifest.damage():
        damaged(f"{manifest.path}: {found}")
        return damages
    run = manifest.run()
    totals = manifest.totals()
    if run is None or (run.files, run.size) != totals:
        damaged(f"{manifest.path} has {totals[0]} files of {totals[1]} bytes, which isn't what the run had")
    for number in sorted(manifest.segments_in_use()):
        if stopped():
            break
        _verify_segment(manifest.in_segment(number), segment_path(segments, number), damaged)
    return damages


def _verify_segment(rows: dict[int, Row], path: Path, damaged: Say) -> None:
    found = dict.fromkeys(rows, False)
    try:
        for offset, member in members(path):
            row = rows.get(offset)
            if row is not None:
                found[offset] = member == Member(row.key, row.size, row.flags, row.expires, row.version, row.checksum)
    except CorruptRecord as error:
        damaged(str(error))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        damaged(f"{path} can't be read ({error.strerror}): {len(rows)} files are in it")
        return
    try:
        for offset, row in rows.items():
            try:
                read_whole(fd, row)
            except CorruptRecord as error:
                damaged(f"{text_of(row.key)}: {error} ({path.name}, byte {offset})")
            else:
                if not found[offset]:
                    damaged(f"{text_of(row.key)}: its header in {path.name} is damaged, and `tar` won't find it")
    finally:
        os.close(fd)


def read_whole(fd: int, row: Row) -> bytes:
    """The bytes of a file out of its open segment. Raises `CorruptRecord` when they aren't those that were saved."""
    try:
        value = read_bytes(fd, row.offset, row.size)
    except OSError as error:
        raise CorruptRecord(f"can't be read: {error.strerror}") from None
    if checksum_of(row.key, value, row.flags, row.expires, row.version, False) != row.checksum:
        raise CorruptRecord("the saved bytes fail their checksum")
    return value


def text_of(key: bytes) -> str:
    """A key for people, and for their terminals."""
    text = key.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
