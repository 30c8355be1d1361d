"""A clock of its own for one part: libfaketime, which the part reads its wall clock through. The real clock, and what
measures spans of time (`CLOCK_MONOTONIC`), are left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cluster.parts import Part

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))

needs_faketime = pytest.mark.skipif(not _LIBRARIES, reason="needs libfaketime (faketime)")


class WrongClock:
    """The wall clock of a part that is not started yet: right, until it is set off."""

    def __init__(self, part: Part, file: Path) -> None:
        self._file = file
        self.set_off(0)
        part.prefix = [
            *("env", f"LD_PRELOAD={_LIBRARIES[0]}", f"FAKETIME_TIMESTAMP_FILE={file}"),
            *("FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_NO_CACHE=1"),
        ]

    def set_off(self, seconds: float) -> None:
        """Have it go wrong by so much from now on; positive is ahead."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.3f}\n")
        os.replace(new, self._file)
