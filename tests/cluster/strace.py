"""System calls of a running process that fail or take long, without the process knowing why (root, strace)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.parts import Part

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

SYNCS = "fdatasync,fsync,pwritev2"
"""What puts data on the disk; an append syncs what it writes."""


@contextmanager
def injected(part: Part, calls: str, effect: str) -> Iterator[None]:
    """Have system calls of all threads of a process end or begin otherwise, from now until the end of the block.

    `effect` is as strace takes it behind `inject=…:`, for example `error=EIO:when=3+` or `delay_enter=1000000` (in
    microseconds)."""
    command = [
        *("strace", "-f", "-o", "/dev/null", "-p", str(part.process.pid)),
        *("-e", f"trace={calls}", "-e", f"inject={calls}:{effect}"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as strace:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        assert b"attached" in said, said
        try:
            yield
        finally:
            strace.terminate()
            strace.stderr.read()
