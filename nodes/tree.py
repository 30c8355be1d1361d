"""The hash tree over a node's records, kept up with every one that comes or goes: 65,536 leaves, and no more.

A leaf has an XOR of digests and a count (`sfss.hash_tree`); what lies above is summed up when it is asked for, which
takes 2 ms at the root. So a write costs two array items, and all of it 768 KiB. On disk it is cut into 256 pages by the
first byte of the hash, of which each commit of the index writes those that have changed. Format: docs/format.rst.
"""

from __future__ import annotations

from array import array
from functools import reduce
from operator import xor
from typing import Final

import xxhash

from sfss.hash_tree import FANOUT, LEAF_DIGITS, Branch

LEAVES: Final = FANOUT**LEAF_DIGITS
PAGES: Final = 256
PAGE_LEAVES: Final = LEAVES // PAGES

_DIGESTS_BYTES: Final = 8 * PAGE_LEAVES
_BODY_BYTES: Final = 12 * PAGE_LEAVES
_EMPTY_BODY: Final = bytes(_BODY_BYTES)
PAGE_BYTES: Final = _BODY_BYTES + 8
"""With LMDB's own header just under 4 KiB, which is one page there."""


class Tree:
    """The leaves. Keys are those of the index, which begin with the hash. For the loop's thread."""

    def __init__(self) -> None:
        self.digests = array("Q", bytes(8 * LEAVES))
        self.counts = array("i", bytes(4 * LEAVES))  # signed: what was damaged may be counted off twice
        self.changed: set[int] = set()
        """Pages that are not committed yet."""

    def add(self, key: bytes, digest: int) -> None:
        """A record is there now."""
        page = key[0]
        leaf = page << 8 | key[1]
        self.digests[leaf] ^= digest
        self.counts[leaf] += 1
        self.changed.add(page)

    def remove(self, key: bytes, digest: int) -> None:
        """A record is gone."""
        page = key[0]
        leaf = page << 8 | key[1]
        self.digests[leaf] ^= digest
        self.counts[leaf] -= 1
        self.changed.add(page)

    def exchange(self, key: bytes, digests: int) -> None:
        """A record takes another one's place; `digests` is the XOR of both."""
        page = key[0]
        self.digests[page << 8 | key[1]] ^= digests
        self.changed.add(page)

    def correct(self, leaf: int, digest: int, count: int) -> None:
        """A leaf was found to be off: by what digest, and by how many records it has too few."""
        self.digests[leaf] ^= digest
        self.counts[leaf] += count
        self.changed.add(leaf >> 8)

    def forget_all(self) -> None:
        """No record is there any more."""
        self.digests = array("Q", bytes(8 * LEAVES))
        self.counts = array("i", bytes(4 * LEAVES))
        self.change_all()

    def change_all(self) -> None:
        """Have every page committed."""
        self.changed = set(range(PAGES))

    def children(self, prefix: bytes) -> list[Branch]:
        """The sixteen below a place; `prefix` has 0 to 3 hex digits."""
        width = FANOUT ** (LEAF_DIGITS - 1 - len(prefix))
        first = int(prefix or b"0", 16) * width * FANOUT
        branches = []
        for start in range(first, first + width * FANOUT, width):
            digest = reduce(xor, self.digests[start : start + width])
            branches.append(Branch(digest, max(0, sum(self.counts[start : start + width]))))
        return branches

    def take_changed(self) -> dict[int, bytes]:
        """The pages that have changed since the last call, as they are to be kept; an empty one has no bytes."""
        taken = {number: self._pack(number) for number in self.changed}
        self.changed = set()
        return taken

    def _pack(self, number: int) -> bytes:
        start, end = number * PAGE_LEAVES, (number + 1) * PAGE_LEAVES
        body = self.digests[start:end].tobytes() + self.counts[start:end].tobytes()
        return body + _check_of(number, body) if body != _EMPTY_BODY else b""

    def load(self, number: int, packed: bytes) -> None:
        """Take a page as it was kept. Raises `ValueError` for a damaged one."""
        start, end = number * PAGE_LEAVES, (number + 1) * PAGE_LEAVES
        self.digests[start:end], self.counts[start:end] = unpack_page(number, packed)


def unpack_page(number: int, packed: bytes) -> tuple[array[int], array[int]]:
    """Digests and counts of a page's leaves. Raises `ValueError` for a damaged one."""
    body = packed[:_BODY_BYTES]
    if len(packed) != PAGE_BYTES or packed[_BODY_BYTES:] != _check_of(number, body):
        raise ValueError(f"page {number:02x} of the hash tree failed its checksum")
    return array("Q", body[:_DIGESTS_BYTES]), array("i", body[_DIGESTS_BYTES:])


def empty_page() -> tuple[array[int], array[int]]:
    """Digests and counts of leaves without records."""
    return array("Q", bytes(_DIGESTS_BYTES)), array("i", bytes(_BODY_BYTES - _DIGESTS_BYTES))


def _check_of(number: int, body: bytes) -> bytes:
    return xxhash.xxh3_64_digest(body, number)
