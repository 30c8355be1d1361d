"""One entry of the index: where a key's newest record lies, and all that is known of it without its value.

48 bytes, little-endian. Keys of the index are the key's hash (8 bytes, big-endian, so that LMDB's order is hash
order and a partition is one range) and then the key itself, so that equal hashes never mix files. The last four bytes
check the entry together with its index key: LMDB has no checksums, and a flipped bit must not turn a file into a miss.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from xxhash import xxh3_64_digest

from nodes.format import Kind, RecordHeader, record_bytes
from sfss.errors import CorruptRecord

# volume, offset of the record, value bytes, flags, expires, version, checksum, kind, zero, check
_ENTRY: Final = struct.Struct("<IIIIQQQHHI")
BODY_BYTES: Final = _ENTRY.size - 4
"""All but the check."""

ENTRY_BYTES: Final = _ENTRY.size

ABSENT: Final = b""
"""Stands in the overlay for a key whose entry is to be taken out of the index."""

HASH_BYTES: Final = 8

_KINDS: Final = tuple(kind.to_bytes(4, "little") for kind in range(len(Kind) + 1))
_pack_place: Final[Callable[[int, int], bytes]] = struct.Struct("<II").pack
_hash_of: Final[Callable[[bytes], bytes]] = xxh3_64_digest


class Entry(NamedTuple):
    """`offset` is where the record's header begins, in bytes from the volume's start."""

    volume: int
    offset: int
    value_bytes: int
    flags: int
    expires: int
    version: int
    checksum: int
    kind: int
    zero: int
    check: int

    def record_bytes(self, key_bytes: int) -> int:
        """Bytes of the whole record in its volume."""
        return record_bytes(key_bytes, self.value_bytes)


def index_key(key: bytes) -> bytes:
    """The index's key for a file's key. The hash is `sfss.keys.hash_key`."""
    return _hash_of(key) + key


def pack_entry(key: bytes, volume: int, offset: int, fields: bytes, kind: int) -> bytes:
    """`key` is the index's key, `fields` are of `nodes.format.pack_fields`."""
    body = b"%b%b%b" % (_pack_place(volume, offset), fields, _KINDS[kind])
    return body + _check_of(body, key)


def _check_of(body: bytes, key: bytes) -> bytes:
    # The lower half of a digest, which has its highest byte first; as a number it would be more work to pack.
    return _hash_of(body + key)[:3:-1]


unpack_fields: Final[Callable[[bytes], tuple[int, int, int, int, int, int, int, int, int, int]]] = _ENTRY.unpack
"""The fields of `Entry` as a plain tuple; for the hot path, where the record's checksum covers them."""


PLAIN: Final = bytes(12)
"""What an entry has from `PLAIN_AT` on where flags and expires are 0."""

PLAIN_AT: Final = 12

unpack_plain: Final[Callable[[bytes], tuple[int, int, int, int, int, int]]] = struct.Struct("<III12xQQH6x").unpack
"""Volume, offset, value bytes, version, checksum and kind; half the time of all fields."""


unpack_counted: Final[Callable[[bytes], tuple[int, int, int, int, int]]] = struct.Struct("<I4xI12xQQH6x").unpack
"""Volume, value bytes, version, checksum and kind."""


unpack_order: Final[Callable[[bytes], tuple[int, int]]] = struct.Struct("<24xQQ8x").unpack
"""Version and checksum."""


def checksum_in(packed: bytes) -> int:
    """The record's checksum, of an entry that is whole."""
    return int.from_bytes(packed[32:40], "little")


def is_whole(key: bytes, packed: bytes) -> bool:
    """Whether an entry is as it was packed for that index key. One that is not may claim anything, a version too."""
    return len(packed) == ENTRY_BYTES and _check_of(packed[:BODY_BYTES], key) == packed[BODY_BYTES:]


def unflipped(key: bytes, packed: bytes) -> bytes | None:
    """The whole entry that one flipped bit made this one of; None where more is damaged (but for one in ten million,
    for which something else is found). A fifth of a millisecond."""
    if len(packed) != ENTRY_BYTES:
        return None
    bits = int.from_bytes(packed, "big")
    for place in range(8 * ENTRY_BYTES):
        candidate = (bits ^ 1 << place).to_bytes(ENTRY_BYTES, "big")
        if is_whole(key, candidate):
            return candidate
    return None


def names_its_key(key: bytes, packed: bytes) -> bool:
    """Whether an entry that is not whole is under the key that it was put under, as far as can be told: then the
    record of that key is damaged, and not gone."""
    return len(packed) == ENTRY_BYTES and key == index_key(key[HASH_BYTES:])


def unpack_entry(key: bytes, packed: bytes) -> Entry:
    """Read and verify an entry. `key` is the index's key. Raises `CorruptRecord`."""
    if not is_whole(key, packed):
        raise CorruptRecord(f"index entry of {len(packed)} bytes failed its checksum")
    return Entry._make(_ENTRY.unpack(packed))


def is_newer(header: RecordHeader, version: int, checksum: int, kind: int) -> bool:
    """Whether a record is newer than what an entry says of its key. A file that expired may have become a tombstone of
    its own version, and is not newer than that."""
    if header.version == version and header.expires and kind == Kind.TOMBSTONE:
        return False
    return (header.version, header.checksum) > (version, checksum)
