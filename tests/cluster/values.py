"""Values that name their write and prove their own wholeness: every byte follows from (key, id, size)."""

from __future__ import annotations

import hashlib
import random

MARK = b"sfss-value"


def make_value(key: str, number: int, size: int) -> bytes:
    """The bytes of write `number` to `key`; about `size` of them, never fewer than its head line."""
    head = b"%s %d %d %s\n" % (MARK, number, size, key.encode())
    return head + hashlib.shake_128(head).digest(max(0, size - len(head)))


def number_of(key: str, body: bytes) -> int | None:
    """Which write a body came from; None when it is no whole value of `key` (short, mixed, another key's)."""
    words = body.split(b"\n", 1)[0].split(b" ")
    if len(words) != 4 or words[0] != MARK or not words[1].isdigit() or not words[2].isdigit():
        return None
    number, size = int(words[1]), int(words[2])
    return number if size < 1 << 24 and body == make_value(key, number, size) else None


def draw_size(rng: random.Random) -> int:
    """Sizes of a store of small files: mostly a few KiB, now and then enough for several reads of a socket."""
    kind = rng.random()
    if kind < 0.80:
        return rng.randint(64, 4096)
    if kind < 0.98:
        return rng.randint(4096, 128 * 1024)
    return rng.randint(128 * 1024, 512 * 1024)
