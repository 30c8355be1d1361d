"""The file with users and passwords."""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from typing import Any

import pytest

from sfss.errors import SetupError
from sfss.secret import LINE_BYTES_MAX, LINES_MAX, read_secret


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secret"


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_client_gives_the_first_line_and_a_server_takes_every_one(path: Path) -> None:
    secret = read_secret(write(path, b"new:sesame\nold:thyme\n"))

    assert secret.words == b"new sesame"
    assert secret.knows(b"new", b"sesame")
    assert secret.knows(b"old", b"thyme")


@pytest.mark.parametrize(
    ("user", "password"),
    [
        (b"new", b"thyme"),
        (b"old", b"sesame"),
        (b"new", b"sesam"),
        (b"new", b"sesame "),
        (b"ne", b"w sesame"),
        (b"", b""),
    ],
)
def test_what_is_nearly_right_is_wrong(path: Path, user: bytes, password: bytes) -> None:
    secret = read_secret(write(path, b"new:sesame\nold:thyme\n"))

    assert not secret.knows(user, password)


def test_every_byte_but_blanks_and_control_characters_may_stand_in_a_password(path: Path) -> None:
    password = bytes(byte for byte in range(0x21, 0x100) if byte != 0x7F)
    for half in (password[:110], password[110:]):
        assert read_secret(write(path, b"\xff\xfe:" + half)).knows(b"\xff\xfe", half)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_last_line_may_end_as_editors_end_it(path: Path, end: bytes) -> None:
    assert read_secret(write(path, b"a:b\r\nc:d" + end)).knows(b"c", b"d")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", 1),
        (b"sesame", 1),
        (b":sesame", 1),
        (b"user:", 1),
        (b"a:b\n\nc:d\n", 2),
        (b"a:b\n# comment\n", 2),
        (b"a:b\nus er:pass", 2),
        (b"a:pass word", 1),
        (b"a:pass\x00word", 1),
        (b"a:" + b"x" * LINE_BYTES_MAX, 1),
    ],
)
def test_a_line_that_is_no_user_and_password_is_refused_by_its_number_and_not_told(
    path: Path, content: bytes, line: int
) -> None:
    with pytest.raises(SetupError, match=rf"^line {line} of .* is not user:password") as refused:
        read_secret(write(path, content))

    assert "\n" not in str(refused.value)
    assert "sesame" not in str(refused.value).replace(str(path), "")


def test_more_lines_than_memcached_reads_are_refused(path: Path) -> None:
    read_secret(write(path, b"a:b\n" * LINES_MAX))
    with pytest.raises(SetupError, match="9 lines"):
        read_secret(write(path, b"a:b\n" * (LINES_MAX + 1)))
    with pytest.raises(SetupError, match="over 2048 bytes"):
        read_secret(write(path, b"a:b\n" * 1000))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_file_that_others_can_read_or_write_is_refused(path: Path, mode: int) -> None:
    with pytest.raises(SetupError, match=r"by others; chmod 600 "):
        read_secret(write(path, b"a:b\n", mode))


def test_what_is_no_file_is_refused_at_once(path: Path) -> None:
    with pytest.raises(SetupError, match="No such file"):
        read_secret(path)
    os.mkfifo(path, 0o600)
    with pytest.raises(SetupError, match="it is no file"):
        read_secret(path)
    with pytest.raises(SetupError, match="can't be read: "):
        read_secret(path.parent)


def test_a_secret_does_not_show_in_what_is_printed(path: Path) -> None:
    secret = read_secret(write(path, b"cluster:sesame\n"))

    assert "sesame" not in repr(secret)
    assert "cluster" not in repr(secret)


def test_every_line_is_compared_to_its_end_whatever_came_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    compare: Any = hmac.compare_digest

    def counting(given: bytes, known: bytes) -> bool:
        compared.append((len(given), len(known)))
        return bool(compare(given, known))

    monkeypatch.setattr(hmac, "compare_digest", counting)
    secret = read_secret(write(path, b"a:first\nb:second\nc:third\n"))

    for user, password in ((b"a", b"first"), (b"c", b"third"), (b"x", b""), (b"y", b"p" * 500)):
        compared.clear()
        secret.knows(user, password)
        assert compared == [(32, 32)] * 3
