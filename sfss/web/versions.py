"""What HTTP knows a version of a file by: its ETag (without quotes) and its time."""

from __future__ import annotations

import hashlib
import time
from binascii import hexlify
from typing import Final

from sfss.record import is_usual, tag_of
from sfss.stamps import stamp_time
from sfss.store import Record, Written

# Names of our own: to look one up in a module costs as much as the call.
_now: Final = time.time
_hexlify: Final = hexlify


def modified_of(record: Record) -> int:
    """Unix seconds of a version; never in the future."""
    return int(min(stamp_time(record.version), _now()))


def etag_of(one: Record | Written) -> bytes:
    """Version and checksum in hex, which together order a key's writes. Two writes may have one version: coordinators
    that stamp in the same millisecond don't know of each other."""
    if one.words and is_usual(one.version):  # nearly always
        return tag_of(one.version, one.words)
    # Both in one go: half of what each by itself takes.
    return _hexlify(one.version.to_bytes(8, "big") + one.checksum.to_bytes(8, "big"), b"-", 8)


def digest_of(value: bytes) -> str:
    """128 bits of SHA-256, the ETag where servers have no versions: right for ever, whoever chose the bytes."""
    return hashlib.sha256(value).hexdigest()[:32]
