"""A record's checksum is the one of its format, whichever way it was worked out."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from sfss.record import checksum_of


def by_the_format(key: bytes, value: bytes, flags: int, expires: int, version: int, tombstone: bool) -> int:
    head = b"%x %x %x %x %d " % (version, flags, expires, len(value), tombstone)
    return xxh3_64_intdigest(value, xxh3_64_intdigest(head + key))


@given(
    st.binary(max_size=20),
    st.sampled_from([0, 1, 15, 16, 255, 256, 4095, 4096, 65_535, 65_536, 65_537, 2 * 1024 * 1024]),
    st.integers(0, 1 << 64) | st.integers(1 << 56, 1 << 62),
    st.sampled_from([(0, 0, False), (1, 0, False), (0, 1 << 31, False), (0, 0, True)]),
)
@example(b"key", 300, (1 << 56) - 1, (0, 0, False))
@example(b"key", 300, 1 << 56, (0, 0, False))
@example(b"key", 300, (1 << 62) - 1, (0, 0, False))
@example(b"key", 300, 1 << 62, (0, 0, False))
def test_a_checksum_is_that_of_the_format(key: bytes, size: int, version: int, kind: tuple[int, int, bool]) -> None:
    flags, expires, tombstone = kind
    told = (key, bytes(size), flags, expires, version, tombstone)

    assert checksum_of(*told) == by_the_format(*told)


def test_the_checksum_of_a_record_never_changes() -> None:
    assert checksum_of(b"a/b.txt", b"value", 0, 0, 0x19AA0B1C2D3E4F5, False) == 0xEDC4BF7FAE14E56F
