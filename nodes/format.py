"""The bytes of a volume file: its header, batch headers and records. Pure: bytes in, fields out.

docs/format.rst tells the format as prose. Each field here defends against a failure that its comment names. All
integers are little-endian. A `check` is xxh3-64 of everything before it in the same header (for a record: and
of the key), seeded with the volume's salt and the position, so that bytes which are whole but lie in the wrong place
(an old block, another volume's block, a user's file that quotes a volume) are not taken for a header.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Final, NamedTuple

from xxhash import xxh3_64_digest, xxh3_64_intdigest

FORMAT: Final = 1
"""Version of everything in a data directory. A higher one is refused."""

ORDER_MARK: Final = 0x0102
"""Reads as 0x0201 on a machine, or in a program, of the other byte order."""

VOLUME_MAGIC: Final = b"SFSSVOL\n"
BATCH_MAGIC: Final = b"\xd5sfB"
RECORD_MAGIC: Final = b"\xd5sfR"

_MASK: Final = (1 << 64) - 1
_digest_of: Final = xxh3_64_intdigest
_digest_bytes_of: Final[Callable[[bytes, int], bytes]] = xxh3_64_digest

# magic, format, byte order, bytes to the first batch, number, position, node, salt, check
_VOLUME: Final = struct.Struct("<8sHHIQQ16sQQ")
# magic, bytes of records that follow, position of this header, position that was durable, check
_BATCH: Final = struct.Struct("<4sIQQQ")
# magic, kind, zero, key bytes, value bytes, flags, expires, version, checksum (then check, then the key)
_RECORD: Final = struct.Struct("<4sBBHIIQQQ")
_RECORD_BYTES: Final = 40
_FIELDS: Final = struct.Struct("<IIQQQ")
_CHECK: Final = struct.Struct("<Q")

VOLUME_HEADER_BYTES: Final = 4096
"""The header lies at the very start and once more at the end of this block, against a lost sector."""

BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of the records of a batch. A single record may be a batch whatever it takes."""

BATCH_HEADER_BYTES: Final = _BATCH.size
RECORD_HEADER_BYTES: Final = _RECORD.size + _CHECK.size


class Kind(IntEnum):
    """What a record is."""

    FILE = 1
    TOMBSTONE = 2
    FLUSH = 3
    """Forgets every record before it."""


_RECORD_BEGINS: Final = tuple(RECORD_MAGIC + bytes((kind, 0)) for kind in range(len(Kind) + 1))


class VolumeHeader(NamedTuple):
    """Who a volume is. `position` counts the bytes that the node appended before this volume's first byte."""

    number: int
    position: int
    node: bytes
    salt: int


class BatchHeader(NamedTuple):
    """`durable` is the position up to which all was on disk when the batch was written: damage below it is rot,
    damage above it may be a torn tail."""

    size: int
    durable: int


class RecordHeader(NamedTuple):
    """A record's fields but for its value. `key` is checked together with the header."""

    kind: int
    key: bytes
    value_bytes: int
    flags: int
    expires: int
    version: int
    checksum: int

    @property
    def size(self) -> int:
        """Bytes of the whole record in the volume."""
        return record_bytes(len(self.key), self.value_bytes)


def record_bytes(key_bytes: int, value_bytes: int) -> int:
    """Bytes that a record takes in a volume."""
    return RECORD_HEADER_BYTES + key_bytes + value_bytes


def pack_volume_header(header: VolumeHeader) -> bytes:
    """The first block of a volume."""
    packed = _VOLUME.pack(
        VOLUME_MAGIC,
        FORMAT,
        ORDER_MARK,
        VOLUME_HEADER_BYTES,
        header.number,
        header.position,
        header.node,
        header.salt,
        0,
    )[: -_CHECK.size]
    packed += _CHECK.pack(_digest_of(packed))
    return packed + bytes(VOLUME_HEADER_BYTES - 2 * len(packed)) + packed


def unpack_volume_header(block: bytes) -> VolumeHeader | None:
    """Read a volume's first block. None when neither copy of the header is whole. Raises `NewerFormat`."""
    for packed in (block[: _VOLUME.size], block[VOLUME_HEADER_BYTES - _VOLUME.size : VOLUME_HEADER_BYTES]):
        if len(packed) < _VOLUME.size:
            continue
        magic, version, order, _, number, position, node, salt, check = _VOLUME.unpack(packed)
        if magic == VOLUME_MAGIC and check == _digest_of(packed[: -_CHECK.size]):
            if version > FORMAT or order != ORDER_MARK:
                raise NewerFormat(version)
            return VolumeHeader(number, position, node, salt)
    return None


class NewerFormat(Exception):
    """A file is whole, but was written by a newer version of this program. `args[0]` is its format."""


def pack_batch_header(salt: int, position: int, size: int, durable: int) -> bytes:
    """`position` is the header's own; `size` the bytes of the records that follow."""
    head = _BATCH.pack(BATCH_MAGIC, size, position, durable, 0)[: -_CHECK.size]
    return head + _digest_of(head, salt ^ position).to_bytes(8, "little")


def unpack_batch_header(packed: bytes, salt: int, position: int) -> BatchHeader | None:
    """None where no batch begins."""
    if len(packed) < BATCH_HEADER_BYTES or packed[:4] != BATCH_MAGIC:
        return None
    _, size, own_position, durable, check = _BATCH.unpack_from(packed)
    head = packed[: BATCH_HEADER_BYTES - _CHECK.size]
    if own_position != position or check != _digest_of(head, (salt ^ position) & _MASK):
        return None
    return BatchHeader(size, durable)


pack_fields: Final[Callable[[int, int, int, int, int], bytes]] = _FIELDS.pack
"""Bytes of the value, flags, expires, version and checksum, which lie in the same order in a record's header and in its
index entry: packed once for both, these take half the time."""


def pack_record_header(salt: int, position: int, kind: int, key: bytes, fields: bytes) -> bytes:
    """Header and key of a record whose header begins at `position`; the value follows it. `fields` are of
    `pack_fields`."""
    checked = b"%b%b%b%b" % (_RECORD_BEGINS[kind], len(key).to_bytes(2, "little"), fields, key)
    # A digest has its highest byte first. To turn it is less work than to put a number in order.
    check = _digest_bytes_of(checked, salt ^ position)[::-1]
    return b"%b%b%b" % (checked[:_RECORD_BYTES], check, key)


def record_key_bytes(packed: bytes) -> int:
    """How long the key is that a record header, perhaps a damaged one, announces; 0 where no record begins."""
    if len(packed) < RECORD_HEADER_BYTES or packed[:4] != RECORD_MAGIC:
        return 0
    return int.from_bytes(packed[6:8], "little")


def unpack_record_header(packed: bytes, salt: int, position: int) -> RecordHeader | None:
    """Read header and key. None where they are not whole, or no record begins."""
    key_bytes = record_key_bytes(packed)
    if not key_bytes or len(packed) < RECORD_HEADER_BYTES + key_bytes:
        return None
    key = packed[RECORD_HEADER_BYTES : RECORD_HEADER_BYTES + key_bytes]
    (check,) = _CHECK.unpack_from(packed, _RECORD.size)
    if check != _digest_of(packed[: _RECORD.size] + key, (salt ^ position) & _MASK):
        return None
    _, kind, _, _, value_bytes, flags, expires, version, checksum = _RECORD.unpack_from(packed)
    return RecordHeader(kind, key, value_bytes, flags, expires, version, checksum)
