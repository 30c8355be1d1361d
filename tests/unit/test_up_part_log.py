"""The log of a supervised part: rotated, bounded, and never a reason to stop."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sfss.commands.part_log import PartLog


def texts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_lines_are_appended_over_lives(tmp_path: Path) -> None:
    for line in (b"one\n", b"two\n"):
        log = PartLog(tmp_path / "node-0.log")
        log.write(line)
        log.close()

    assert texts(tmp_path) == {"node-0.log": b"one\ntwo\n"}


def test_a_full_file_is_rotated_between_two_lines(tmp_path: Path) -> None:
    log = PartLog(tmp_path / "web.log", bytes_max=10)
    log.write(b"first\nsec")
    log.write(b"ond\nthird\n")
    log.close()

    assert texts(tmp_path) == {"web.log": b"third\n", "web.log.1": b"first\nsecond\n"}


def test_a_line_without_an_end_does_not_grow_a_file_for_ever(tmp_path: Path) -> None:
    log = PartLog(tmp_path / "web.log", bytes_max=10)
    for _ in range(10):
        log.write(b"x" * 8)
    log.close()

    assert all(len(text) <= 10 for text in texts(tmp_path).values())


def test_only_so_many_files_are_kept_and_the_newest_lines_are_in_them(tmp_path: Path) -> None:
    log = PartLog(tmp_path / "web.log", bytes_max=20, files_max=3)
    for number in range(100):
        log.write(b"line %03d\n" % number)
    log.close()

    kept = texts(tmp_path)
    assert sorted(kept) == ["web.log", "web.log.1", "web.log.2"]
    assert (kept["web.log.2"] + kept["web.log.1"] + kept["web.log"]).endswith(
        b"".join(b"line %03d\n" % number for number in range(95, 100))
    )


def test_a_disk_without_room_costs_lines_and_the_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = PartLog(tmp_path / "web.log")
    write = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log.write(b"before\n")
    monkeypatch.setattr(os, "write", full)
    log.write(b"lost\n")
    log.write(b"lost too\n")
    monkeypatch.setattr(os, "write", write)
    log.write(b"after\n")
    log.close()

    assert texts(tmp_path)["web.log"] == (
        b"before\n14 bytes of log were lost here: the file could not be written\nafter\n"
    )


def test_last_words_are_the_last_line_that_is_not_blank(tmp_path: Path) -> None:
    log = PartLog(tmp_path / "web.log")
    assert log.last_words() == ""

    log.write(b"first\n  sfss: no such")
    log.write(b" folder\n\n")

    assert log.last_words() == "sfss: no such folder"
    log.forget_last_words()
    assert log.last_words() == ""
    log.close()
