"""What a crash leaves for the next start."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodes.crash_note import CrashNote
from tests.unit.small_nodes import node

WORDS = b"Fatal Python error: Aborted\n\nThread 0x00007f12 (most recent call first):\n"


def test_the_first_line_is_told_until_it_is_cleared(tmp_path: Path) -> None:
    note = CrashNote(tmp_path)
    assert note.read() == ""
    note.clear()

    (tmp_path / "crashed").write_bytes(WORDS * 1000)
    assert note.read() == "Fatal Python error: Aborted"

    note.clear()
    assert note.read() == ""


def test_bytes_that_are_no_words_are_a_crash_too(tmp_path: Path) -> None:
    (tmp_path / "crashed").write_bytes(b"\xff\xfe")

    assert CrashNote(tmp_path).read() != ""


def test_one_that_can_not_be_read_is_taken_for_a_crash(tmp_path: Path) -> None:
    (tmp_path / "crashed").mkdir()

    assert CrashNote(tmp_path).read().endswith("can't be read: Is a directory")


def test_a_disk_that_takes_no_note_stops_no_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    CrashNote(tmp_path / "missing").keep()

    assert "won't be written down" in caplog.text


async def test_a_start_after_a_crash_does_not_open_the_index(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with node(tmp_path) as store:
        await store.set(b"k", b"v")
    (tmp_path / "index" / "data.mdb").write_bytes(b"whatever LMDB would make of it")
    (tmp_path / "crashed").write_bytes(WORDS)

    async with node(tmp_path) as store:
        record = store.get(b"k")
        assert record is not None
        assert record.value == b"v"

    assert "the process ended by a crash, perhaps over it: Fatal Python error: Aborted" in caplog.text
    assert (tmp_path / "crashed").read_bytes() == b""
