"""The hash tree of a replica, as text: what `get @…` answers, and how it is read back. No I/O. Format: docs/wire.rst.

Records are sorted by the 64-bit hash of their key. A *leaf* is all whose hashes begin with the same 16 bits; its digest
is the XOR of their checksums, which are the same on all replicas; a record that is damaged on a replica has another
digest there. So equal digests mean equal listings but for a chance of one in 2^64. What lies above a leaf is the XOR of
what lies below, sixteen at a time: so a prefix of hex digits names any place in the tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import xxhash

LEAF_DIGITS = 4
PREFIX_DIGITS_MAX = 16
FANOUT = 16

LISTED_MAX = 4096
"""Records in one answer."""

is_prefix = re.compile(rb"[0-9a-f]{0,16}").fullmatch
"""Whether bytes name a place in the tree."""

_BRANCH = re.compile(rb"([0-9a-f])/ ([0-9a-f]{16}) ([0-9]{1,19})\r\n")
_LISTED = re.compile(rb"([^\x00-\x20\x7f]{1,250}) ([0-9]{1,20}) ([0-9a-f]{16}) ([FTft]) ([0-9]{1,10})\r\n")
_MORE = b"...\r\n"
_KINDS = (b"F", b"T", b"f", b"t")
"""File and tombstone; the same damaged."""


class Branch(NamedTuple):
    """All records below one place: the XOR of their digests, and how many they are."""

    digest: int
    records: int


class Listed(NamedTuple):
    """A record as a listing names it. `size` is the value's length. `damaged`: this replica can't give it back."""

    key: bytes
    version: int
    checksum: int
    tombstone: bool
    size: int
    damaged: bool = False

    def order(self) -> tuple[int, int]:
        """What to compare two records of one key by."""
        return (self.version, self.checksum)

    def digest(self) -> int:
        """What the tree has of it."""
        return damaged_digest(self.checksum) if self.damaged else self.checksum


def damaged_digest(checksum: int) -> int:
    """What stands for a damaged record. By no XOR is it made of checksums, so several don't cancel out."""
    return xxhash.xxh3_64_intdigest(b"damaged %016x" % checksum)


def hash_range(prefix: bytes) -> tuple[int, int]:
    """The first hash below a place, and the first one behind it (2^64 at the end)."""
    shift = 4 * (PREFIX_DIGITS_MAX - len(prefix))
    first = int(prefix or b"0", 16)
    return first << shift, (first + 1) << shift


def write_branches(branches: Sequence[Branch]) -> bytes:
    """The sixteen children of a place."""
    return b"".join(b"%x/ %016x %d\r\n" % (digit, digest, records) for digit, (digest, records) in enumerate(branches))


def read_branches(text: bytes) -> list[Branch]:
    """The other way round. Raises `ValueError`."""
    found = _BRANCH.findall(text)
    if b"".join(digit for digit, _, _ in found) != b"0123456789abcdef" or len(text) != _length(found, 5):
        raise ValueError(f"{text[:80]!r} is no branch of a hash tree")
    return [Branch(int(digest, 16), int(records)) for _, digest, records in found]


def write_listed(record: Listed) -> bytes:
    """One line of a listing."""
    key, version, checksum, tombstone, size, damaged = record
    kind = _KINDS[2 * damaged + tombstone]
    return b"%b %d %016x %b %d\r\n" % (key, version, checksum, kind, size)


def write_listing(lines: Iterable[bytes], more: bool) -> bytes:
    """A whole listing. `more`: there are more records than these."""
    return b"".join(lines) + (_MORE if more else b"")


def read_listing(text: bytes) -> tuple[list[Listed], bool]:
    """The records of a listing, and whether there are more. Raises `ValueError`."""
    more = text.endswith(_MORE)
    found = _LISTED.findall(text)
    if len(text) != _length(found, 6) + (len(_MORE) if more else 0) or len(found) > LISTED_MAX:
        raise ValueError(f"{text[:80]!r} is no listing of a hash tree")
    return [
        Listed(key, int(version), int(checksum, 16), kind in b"Tt", int(size), kind in b"ft")
        for key, version, checksum, kind, size in found
    ], more


def _length(found: list[tuple[bytes, ...]], between: int) -> int:
    """Bytes of lines, with `between` bytes beside their fields: what was skipped is missing in it."""
    return sum(map(len, (field for fields in found for field in fields))) + between * len(found)
