"""What HTTP knows a version of a file by: its ETag (without quotes) and its time."""

from __future__ import annotations

import hashlib
import time

from sfss.stamps import stamp_time
from sfss.store import Record, Written, hex16


def modified_of(record: Record) -> int:
    """Unix seconds of a version; never in the future."""
    return int(min(stamp_time(record.version), time.time()))


def etag_of(one: Record | Written) -> bytes:
    """Version and checksum in hex, which together order a key's writes. Two writes may have one version: coordinators
    that stamp in the same millisecond don't know of each other."""
    return b"%b-%b" % (hex16(one.version), hex16(one.checksum))


def digest_of(value: bytes) -> str:
    """128 bits of SHA-256, the ETag where servers have no versions: right for ever, whoever chose the bytes."""
    return hashlib.sha256(value).hexdigest()[:32]
