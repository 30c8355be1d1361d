"""Walking volumes past damage."""

from __future__ import annotations

import os

import pytest

from nodes.format import (
    BATCH_HEADER_BYTES,
    VOLUME_HEADER_BYTES,
    Kind,
    VolumeHeader,
    pack_batch_header,
    pack_fields,
    pack_record_header,
    pack_volume_header,
)
from nodes.scan import WINDOW_BYTES, Batch, Damage, Found, reader_of, record_at, skim, walk
from sfss.store import checksum_of

HEADER = VolumeHeader(1, 10_000, b"n" * 16, 42)


def record(offset: int, key: bytes, value: bytes, salt: int = HEADER.salt) -> bytes:
    fields = pack_fields(len(value), 0, 0, 9, checksum_of(key, value, 0, 0, 9, False))
    return pack_record_header(salt, HEADER.position + offset, Kind.FILE, key, fields) + value


def volume_of(*batches: list[tuple[bytes, bytes]]) -> bytes:
    data = pack_volume_header(HEADER)
    for batch in batches:
        start = len(data)
        body = b""
        for key, value in batch:
            body += record(start + BATCH_HEADER_BYTES + len(body), key, value)
        data += pack_batch_header(HEADER.salt, HEADER.position + start, len(body), HEADER.position + start) + body
    return data


def walked(data: bytes, **how: bool) -> list[Batch | Found | Damage]:
    def read_at(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    return list(walk(read_at, HEADER, 0, len(data), **how))


def keys_of(events: list[Batch | Found | Damage]) -> list[bytes]:
    return [event.header.key for event in events if isinstance(event, Found) and event.intact]


DATA = volume_of([(b"a", b"1" * 100), (b"b", b"")], [(b"c", b"3" * 5000)], [(b"d", b"4")])


def test_a_whole_volume_is_batches_and_records_without_gaps():
    events = walked(DATA)

    assert keys_of(events) == [b"a", b"b", b"c", b"d"]
    assert [type(event) for event in events] == [Batch, Found, Found, Batch, Found, Batch, Found]
    assert [event.value for event in events if isinstance(event, Found)] == [b"1" * 100, b"", b"3" * 5000, b"4"]


def test_headers_alone_tell_the_same_without_values():
    events = walked(DATA, values=False)

    assert keys_of(events) == [b"a", b"b", b"c", b"d"]
    assert not any(event.value for event in events if isinstance(event, Found))


def test_any_flipped_bit_is_noticed_and_costs_no_more_than_its_own_record():
    for at in range(VOLUME_HEADER_BYTES, len(DATA), 7):
        damaged = bytearray(DATA)
        damaged[at] ^= 0x10

        events = walked(bytes(damaged))

        lost = {b"a", b"b", b"c", b"d"} - set(keys_of(events))
        noticed = any(isinstance(event, Damage) or (isinstance(event, Found) and not event.intact) for event in events)
        assert noticed
        assert len(lost) <= 1, f"byte {at} took {lost}"


def test_zeros_in_the_middle_cost_what_lies_there_and_no_more():
    start = DATA.index(b"1" * 100)
    events = walked(DATA[:start] + bytes(140) + DATA[start + 140 :])

    assert keys_of(events) == [b"c", b"d"]


def test_room_taken_ahead_is_blank_and_last():
    events = walked(DATA + bytes(3 * WINDOW_BYTES))

    assert events[-1] == Damage(len(DATA), len(DATA) + 3 * WINDOW_BYTES, blank=True, last=True)


def test_a_record_that_is_cut_off_is_not_intact():
    for cut in range(1, 60):
        events = walked(DATA[:-cut])
        assert keys_of(events) == [b"a", b"b", b"c"]


def test_a_file_that_quotes_a_volume_is_not_taken_for_records_when_its_own_header_is_lost():
    forged = record(VOLUME_HEADER_BYTES + 200, b"forged", b"evil", salt=7)
    data = bytearray(volume_of([(b"a", forged * 3), (b"b", b"")]))
    data[VOLUME_HEADER_BYTES + BATCH_HEADER_BYTES + 20] ^= 1

    assert keys_of(walked(bytes(data))) == [b"b"]


def test_a_whole_record_in_the_wrong_place_is_damage():
    data = DATA + DATA[VOLUME_HEADER_BYTES:]

    events = walked(data)

    assert keys_of(events) == [b"a", b"b", b"c", b"d"]
    assert isinstance(events[-1], Damage)


@pytest.mark.parametrize("value_bytes", [0, 10, WINDOW_BYTES - 200, WINDOW_BYTES, 2 * WINDOW_BYTES + 5])
def test_records_are_found_across_the_windows_of_a_file(tmp_path, value_bytes):
    value = os.urandom(value_bytes)
    path = tmp_path / "volume"
    path.write_bytes(volume_of([(b"a", value)], [(b"b", value), (b"c", b"end")]))
    fd = os.open(path, os.O_RDONLY)
    try:
        events = list(walk(reader_of(fd), HEADER, 0, path.stat().st_size))
    finally:
        os.close(fd)

    assert keys_of(events) == [b"a", b"b", b"c"]


# --- skimming -----------------------------------------------------------------------------------------------


def skimmed(data: bytes) -> list[bytes]:
    return [key for _, _, key in skim(lambda offset, size: data[offset : offset + size], HEADER, len(data))]


def test_skimming_finds_what_walking_finds():
    for data in (DATA, DATA + bytes(5000), volume_of([(b"a", b"v" * size) for size in range(0, 3000, 7)])):
        assert skimmed(data) == keys_of(walked(data))


def test_skimming_finds_records_across_windows():
    for value_bytes in (WINDOW_BYTES - 200, WINDOW_BYTES - 48 - 32, 3 * WINDOW_BYTES):
        data = volume_of([(b"a", bytes(value_bytes))], [(b"b" * 250, bytes(value_bytes)), (b"c", b"end")])
        assert skimmed(data) == [b"a", b"b" * 250, b"c"]


def test_skimming_goes_on_behind_damage():
    for at in range(VOLUME_HEADER_BYTES, len(DATA), 5):
        damaged = bytearray(DATA)
        damaged[at] ^= 0x20

        whole = set(keys_of(walked(bytes(damaged))))

        assert whole <= set(skimmed(bytes(damaged))), f"byte {at}"


def test_what_was_skimmed_is_verified_when_it_is_read():
    def read_at(offset: int, size: int) -> bytes:
        return damaged[offset : offset + size]

    at = DATA.index(b"3" * 5000)
    damaged = DATA[: at + 100] + b"!" + DATA[at + 101 :]
    for offset, _, key in skim(read_at, HEADER, len(damaged)):
        found = record_at(read_at, HEADER, offset, len(damaged))
        assert found is not None
        assert found.intact == (key != b"c")
    assert record_at(read_at, HEADER, VOLUME_HEADER_BYTES, len(damaged)) is None
