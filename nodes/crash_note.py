"""What a process that ends from within C code leaves behind for its next start.

LMDB trusts its pages. A rotten one may end the process, by an assertion (SIGABRT) or by where it leads (SIGSEGV,
SIGBUS), and would do so in each next life. All that can be done by then is to write down what happened. A start that
finds such words doesn't trust the index, whatever ended the process, and rebuilds it from the volumes; they are read
without a map. `kill -9` and a power cut leave none.
"""

from __future__ import annotations

import faulthandler
import logging
import os
from contextlib import suppress
from pathlib import Path

_NAME = "crashed"
_BYTES_MAX = 4096

_log = logging.getLogger("sfss.node")


class CrashNote:
    """The file `crashed` of one data directory; empty but after a crash."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME

    def keep(self) -> None:
        """Have a crash of this process written down from now on; the whole process has one such place."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            # A full disk is no reason not to serve what is there.
            _log.warning("a crash of this process won't be written down: %s: %s", self._path, error.strerror)
        else:
            faulthandler.enable(os.fdopen(fd, "ab"), all_threads=False)

    def read(self) -> str:
        """How the last life ended, in one line; empty if it was no crash."""
        try:
            with self._path.open("rb") as file:
                words = file.read(_BYTES_MAX)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{self._path} can't be read: {error.strerror}"
        return words.decode("utf-8", "replace").strip().partition("\n")[0]

    def clear(self) -> None:
        """What it says has been seen to."""
        with suppress(OSError):  # what stays is found by the next start, too
            os.truncate(self._path, 0)  # not unlinked: `keep` may have it open
