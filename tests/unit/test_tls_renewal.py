"""When what TLS goes by is read anew."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import cast

import pytest

from sfss.errors import SetupError
from sfss.tls import LOOK_S, Renewed


class Files:
    """A certificate and a key; what is made of them is their text, as long as both say the same."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "cert", folder / "key"
        self.now = 0.0
        self.made = 0
        self.write(self.cert, "old")
        self.write(self.key, "old")
        self.tls = Renewed(self.make, (str(self.cert), "", str(self.key)), monotonic=lambda: self.now)

    def write(self, file: Path, text: str) -> None:
        beside = file.with_suffix(".new")
        beside.write_text(text)
        os.replace(beside, file)

    def make(self) -> ssl.SSLContext:
        self.made += 1
        try:
            cert, key = self.cert.read_text(), self.key.read_text()
        except OSError as error:
            raise SetupError(f"can't use {self.cert}: {error.strerror}") from None
        if cert != key:
            raise SetupError(f"can't use {self.cert} and {self.key}: they don't fit")
        return cast(ssl.SSLContext, cert)

    def speaks(self) -> str:
        """What a connection gets that is made a while later."""
        self.now += LOOK_S
        return cast(str, self.tls())


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_files_that_stay_as_they_are_are_read_once(files: Files) -> None:
    assert {files.speaks() for _ in range(10)} == {"old"}
    assert files.made == 1


def test_a_change_is_seen_by_the_next_connection_once_both_files_fit(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    files.write(files.cert, "new")
    assert [files.speaks() for _ in range(5)] == ["old"] * 5
    assert files.made == 2  # tried once for the change, not for each connection
    assert caplog.text.count("they don't fit; what was read before stays in use") == 1

    files.write(files.key, "new")
    assert files.speaks() == "new"


def test_a_file_that_is_gone_leaves_what_was_read(files: Files) -> None:
    files.cert.unlink()
    assert files.speaks() == "old"

    files.write(files.cert, "old")
    assert files.speaks() == "old"


def test_the_files_are_looked_at_once_in_a_while_however_many_connections_come(files: Files) -> None:
    files.write(files.cert, "new")
    files.write(files.key, "new")

    assert {cast(str, files.tls()) for _ in range(100)} == {"old"}
    assert files.speaks() == "new"


def test_at_the_start_what_can_not_be_used_is_refused(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.write(files.key, "another")

    with pytest.raises(SetupError, match="don't fit"):
        Renewed(files.make, (str(files.cert), str(files.key)))
