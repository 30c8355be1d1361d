"""System calls of a running process that fail or take long, without the process knowing why (root, strace)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.parts import Part

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

SYNCS = "fdatasync,fsync,pwritev2"
"""What puts data on the disk; an append syncs what it writes."""


@contextmanager
def injected(part: Part, calls: str, effect: str, trace: Path | str = "/dev/null") -> Iterator[None]:
    """Have system calls of all threads of a process end or begin otherwise, from now until the end of the block.

    `effect` is as strace takes it behind `inject=…:`, for example `error=EIO:when=3+` or `delay_enter=1000000` (in
    microseconds). `trace` is the file to note those calls in, and the end of the process, each with its time."""
    command = [
        *("strace", "-f", "-ttt", "-o", str(trace), "-p", str(part.process.pid)),
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


def seconds_to_the_end(trace: Path) -> float:
    """How long the process of a trace lived on after the first call that was made to fail."""
    lines = trace.read_text().splitlines()
    failed = next(line for line in lines if "(INJECTED)" in line)
    ended = [line for line in lines if "+++ exited" in line or "+++ killed" in line]
    return float(ended[-1].split()[1]) - float(failed.split()[1])
