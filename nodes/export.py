"""Export: the live files of a directory that no node runs on, as a tar archive."""

from __future__ import annotations

import io
import logging
import os
import sys
import tarfile
import time
from pathlib import Path
from typing import BinaryIO

from nodes.entry import HASH_BYTES, unpack_entry
from nodes.format import RECORD_HEADER_BYTES, Kind
from nodes.offline import open_offline
from nodes.volume import volume_path
from sfss.errors import CorruptRecord
from sfss.stamps import stamp_time
from sfss.store import checksum_of
from sfss.tar_names import tar_name

_log = logging.getLogger("sfss.node")


def export_directory(directory: Path, out: BinaryIO) -> int:
    """Write a tar of all live files to `out`; names are the keys, times those of the versions. Returns the exit status:
    0, or 1 when some files were damaged (each is named on standard error). Raises `SetupError`.

    A key that is no safe file name (absolute, or with a `..` segment) is written below `unsafe/`, percent-encoded.
    """
    status = 0
    now = time.time()
    descriptors: dict[int, int] = {}
    with open_offline(directory) as offline, tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        try:
            for lookup, packed in offline.entries():
                key = lookup[HASH_BYTES:]
                try:
                    entry = unpack_entry(lookup, packed)
                    if entry.kind != Kind.FILE or (entry.expires and entry.expires <= now):
                        continue
                    if entry.volume not in descriptors:
                        path = volume_path(directory / "volumes", entry.volume)
                        descriptors[entry.volume] = os.open(path, os.O_RDONLY)
                    value = os.pread(
                        descriptors[entry.volume], entry.value_bytes, entry.offset + RECORD_HEADER_BYTES + len(key)
                    )
                    _verify(key, value, entry.flags, entry.expires, entry.version, entry.checksum)
                except (CorruptRecord, OSError) as error:
                    sys.stderr.write(f"{key.decode('utf-8', 'backslashreplace')}: {error}\n")
                    status = 1
                    continue
                info = tarfile.TarInfo(tar_name(key))
                info.size = len(value)
                info.mtime = stamp_time(entry.version)
                info.mode = 0o600
                tar.addfile(info, io.BytesIO(value))
        finally:
            for fd in descriptors.values():
                os.close(fd)
    return status


def _verify(key: bytes, value: bytes, flags: int, expires: int, version: int, checksum: int) -> None:
    if checksum_of(key, value, flags, expires, version, False) != checksum:
        raise CorruptRecord("the record failed its checksum")
