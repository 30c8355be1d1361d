"""Records: who may see them, and what their checksum covers."""

from __future__ import annotations

import pytest

from sfss.store import Record, checksum_of


def test_a_record_is_live_until_it_expires_or_is_a_tombstone() -> None:
    assert Record(b"x", 1).live(now=10.0)
    assert Record(b"x", 1, expires=11).live(now=10.0)
    assert not Record(b"x", 1, expires=10).live(now=10.0)
    assert not Record(b"", 0, tombstone=True).live(now=10.0)


ORIGINAL = {"key": b"k", "value": b"value", "flags": 1, "expires": 2, "version": 3, "tombstone": False}


@pytest.mark.parametrize(
    "change",
    [
        {"key": b"l"},
        {"value": b"valuf"},
        {"value": b"valu"},
        {"flags": 2},
        {"expires": 3},
        {"version": 4},
        {"tombstone": True},
    ],
)
def test_the_checksum_covers_every_field(change: dict[str, object]) -> None:
    assert checksum_of(**{**ORIGINAL, **change}) != checksum_of(**ORIGINAL)


def test_the_checksum_of_a_record_never_changes() -> None:
    # It is on disk and on the wire between versions of the software.
    assert checksum_of(**ORIGINAL) == 0x85057D5CE17BC1A
