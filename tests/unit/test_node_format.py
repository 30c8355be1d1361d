"""The bytes of a volume: what is whole is read, whatever else is there is not taken for it."""

from __future__ import annotations

import struct

import hypothesis.strategies as st
import pytest
import xxhash
from hypothesis import given

from nodes.entry import is_whole, pack_entry
from nodes.format import (
    BATCH_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    VOLUME_HEADER_BYTES,
    BatchHeader,
    Kind,
    NewerFormat,
    RecordHeader,
    VolumeHeader,
    pack_batch_header,
    pack_fields,
    pack_record_header,
    pack_volume_header,
    unpack_batch_header,
    unpack_record_header,
    unpack_volume_header,
)

VOLUME = VolumeHeader(number=7, position=123_456, node=bytes(range(16)), salt=0xFEDC_BA98_7654_3210)
RECORD = RecordHeader(Kind.FILE, b"folder/file", 4096, 0xFFFF_FFFF, 1_900_000_000, 1 << 60, (1 << 64) - 1)


def flipped(packed: bytes, bit: int) -> bytes:
    changed = bytearray(packed)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_headers_have_the_sizes_that_the_format_page_names():
    assert (VOLUME_HEADER_BYTES, BATCH_HEADER_BYTES, RECORD_HEADER_BYTES) == (4096, 32, 48)


def test_a_volume_header_is_read_back_from_either_copy():
    block = pack_volume_header(VOLUME)

    assert len(block) == VOLUME_HEADER_BYTES
    assert unpack_volume_header(block) == VOLUME
    assert unpack_volume_header(bytes(512) + block[512:]) == VOLUME
    assert unpack_volume_header(block[:512]) == VOLUME


def test_a_volume_header_with_both_copies_damaged_is_no_header():
    block = pack_volume_header(VOLUME)

    for bit in range(64 * 8):
        assert unpack_volume_header(flipped(flipped(block, bit), (VOLUME_HEADER_BYTES - 64) * 8 + bit)) is None
    assert unpack_volume_header(b"") is None


def test_a_volume_of_a_newer_format_is_told_from_a_damaged_one(monkeypatch):
    monkeypatch.setattr("nodes.format.FORMAT", 2)
    block = pack_volume_header(VOLUME)
    monkeypatch.undo()

    with pytest.raises(NewerFormat):
        unpack_volume_header(block)


def test_a_batch_header_is_read_back_at_its_own_place_only():
    packed = pack_batch_header(VOLUME.salt, 5000, 300, 4900)

    assert unpack_batch_header(packed, VOLUME.salt, 5000) == BatchHeader(size=300, durable=4900)
    assert unpack_batch_header(packed, VOLUME.salt, 5001) is None
    assert unpack_batch_header(packed, VOLUME.salt + 1, 5000) is None
    assert all(unpack_batch_header(flipped(packed, bit), VOLUME.salt, 5000) is None for bit in range(len(packed) * 8))
    assert all(unpack_batch_header(packed[:size], VOLUME.salt, 5000) is None for size in range(len(packed)))


def test_a_record_header_is_read_back_at_its_own_place_only():
    packed = pack_record_header(VOLUME.salt, 9000, RECORD.kind, RECORD.key, pack_fields(*RECORD[2:]))

    assert len(packed) == RECORD_HEADER_BYTES + len(RECORD.key)
    assert unpack_record_header(packed, VOLUME.salt, 9000) == RECORD
    assert unpack_record_header(packed, VOLUME.salt, 9001) is None
    assert unpack_record_header(packed, VOLUME.salt ^ 1, 9000) is None


def test_no_bit_of_a_record_header_or_its_key_can_flip_unnoticed():
    packed = pack_record_header(VOLUME.salt, 9000, RECORD.kind, RECORD.key, pack_fields(*RECORD[2:]))

    assert all(unpack_record_header(flipped(packed, bit), VOLUME.salt, 9000) is None for bit in range(len(packed) * 8))
    assert all(unpack_record_header(packed[:size], VOLUME.salt, 9000) is None for size in range(len(packed)))


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**62),
    st.sampled_from(Kind),
    st.binary(min_size=1, max_size=250),
    st.tuples(*(st.integers(0, 2**bits - 1) for bits in (32, 32, 64, 64, 64))),
    st.integers(0, 2**32 - 1),
)
def test_what_is_packed_field_by_field_is_what_the_format_says(salt, position, kind, key, fields, number):
    packed = pack_fields(*fields)

    head = struct.pack("<4sBBHIIQQQ", b"\xd5sfR", kind, 0, len(key), *fields)
    check = struct.pack("<Q", xxhash.xxh3_64_intdigest(head + key, salt ^ position))
    assert pack_record_header(salt, position, kind, key, packed) == head + check + key
    entry = struct.pack("<IIIIQQQHH", number, number ^ 1, *fields, kind, 0)
    check = struct.pack("<I", xxhash.xxh3_64_intdigest(entry + key) & 0xFFFFFFFF)
    assert pack_entry(key, number, number ^ 1, packed, kind) == entry + check
    assert is_whole(key, entry + check)
