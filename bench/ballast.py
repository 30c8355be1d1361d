"""Memory that is free, used once before anything is measured.

A virtual machine's memory is often the host's until it is first touched, and again once it was free for seconds (a
balloon with free page reporting). The first touch then waits for the host: 10 to 17 us for each 4 KiB were seen, as
much as all that a node does for a file of that size. Whoever writes files pays it, whoever keeps its values doesn't. On
a machine that has been in use for a day the page cache has all memory, and gives room to new files from what it has; so
that is brought about first, by reading a file that is one large hole.

Where that doesn't work, no more comes of it than a line that says so: a tmpfs keeps no pages of a hole, a container may
not have all that its machine has free, and files may be limited in size.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from bench.usage import kib_of

LEFT_FREE_BYTES = 256 << 20
PIECE_BYTES = 4 << 20
STEP_BYTES = 256 << 20
"""How often it is looked at what is free still: others may need it meanwhile, and have nothing driven out for this."""


class Ballast:
    """A file without name or blocks, whose pages in the cache take up what memory is free. A context manager."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end of the block
        self._bytes = 0

    def take_up(self) -> None:
        """Take up what is free now. What was taken before may have gone to others since: that was used, too."""
        free = free_bytes()
        if free <= LEFT_FREE_BYTES:
            return
        self._say(f"using {free - LEFT_FREE_BYTES >> 20:,} MiB of free memory once")
        while free > LEFT_FREE_BYTES:
            size = min(STEP_BYTES, free - LEFT_FREE_BYTES)
            try:
                self._read(size)
            except OSError as error:
                self._say(f"which can't be done with a file in {tempfile.gettempdir()}: {error.strerror}")
                return
            before, free = free, free_bytes()
            if size < STEP_BYTES:
                return
            if free > before - size // 2:
                self._say(f"which files in {tempfile.gettempdir()} don't do here; TMPDIR names another folder")
                return

    def _read(self, size: int) -> None:
        """Read so much more of the hole."""
        begin, end = self._bytes, self._bytes + size
        descriptor = self._file.fileno()
        os.truncate(descriptor, end)
        self._bytes = end
        piece = bytearray(PIECE_BYTES)
        for offset in range(begin, end, PIECE_BYTES):
            os.preadv(descriptor, [piece], offset)

    def __enter__(self) -> Ballast:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def free_bytes() -> int:
    """Memory that nobody uses, not even the page cache."""
    return kib_of("MemFree", Path("/proc/meminfo").read_text()) << 10
