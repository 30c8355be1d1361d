"""Going to the background: the parent waits until the node serves, so its exit status tells the truth."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_READY = b"ready"


class Daemon:
    """Made before anything else runs: it forks. In the parent only `wait` is to be called, in the child only
    `ready`."""

    def __init__(self, log_file: Path | None) -> None:
        self._log_file = log_file
        read_end, write_end = os.pipe()
        self._child = os.fork()
        self.is_parent = self._child != 0
        if self.is_parent:
            os.close(write_end)
            self._pipe = read_end
        else:
            os.close(read_end)
            self._pipe = write_end
            os.setsid()

    def wait(self) -> int:
        """Wait until the child serves or has ended; returns the exit status to end with."""
        if os.read(self._pipe, len(_READY)) == _READY:
            return 0
        _, status = os.waitpid(self._child, 0)
        return os.waitstatus_to_exitcode(status) or 1

    def ready(self) -> None:
        """Let the parent end, and the terminal go. Until now refusals went there."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        if self._log_file is not None:
            log_to(self._log_file)
        os.write(self._pipe, _READY)
        os.close(self._pipe)


def log_to(path: Path) -> None:
    """Send standard error, where all logging goes, to the end of a file."""
    sys.stderr.flush()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 2)
    os.close(fd)
