"""Going to the background: the parent waits until the node serves, so its exit status tells the truth.

In the child, logging goes to a file from the start, and what refuses a start still goes to the terminal.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nodes.volume import make_directory
from sfss.errors import SetupError

_READY = b"ready"


class Daemon:
    """Made before anything else runs: it forks. In the parent only `wait` is to be called; in the child `log_to`, then,
    after logging is set up, `keep_terminal`, and in the end `ready`."""

    def __init__(self) -> None:
        read_end, write_end = os.pipe()
        self._terminal = os.dup(2)
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

    def keep_terminal(self) -> None:
        """Let refusals go to the terminal, while logging goes where standard error goes."""
        sys.stderr = os.fdopen(self._terminal, "w")

    def ready(self) -> None:
        """Let the parent end, and the terminal go."""
        sys.stderr.close()
        sys.stderr = sys.__stderr__
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        os.write(self._pipe, _READY)
        os.close(self._pipe)


def log_to(path: Path) -> None:
    """Send standard error, where all logging goes, to the end of a file, whose folder is made. Raises `SetupError`."""
    sys.stderr.flush()
    try:
        make_directory(path.parent)  # it may be the data directory
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise SetupError(f"can't log to {path}: {error.strerror or error}") from None
    os.dup2(fd, 2)
    os.close(fd)
