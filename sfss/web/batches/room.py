"""How much of a process batches may take, so that single requests go on beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sfss.errors import Busy
from sfss.groups import GROUP_VALUE_BYTES_MAX
from sfss.web.errors import Refused
from sfss.web.memory import BodyMemory
from sfss.web.requests import Request

WINDOW_BYTES: Final = 8 * 1024 * 1024
"""Bytes of files that one batch has in hand at a time, as far as it can know."""

READS_MAX: Final = 64
"""Files of one batch that are asked for at a time."""

WRITES_MAX: Final = 256
"""Files of one batch that wait for the disks at a time: what arrives together is synced together."""


class BatchRoom:
    """Takes in up to `batches_max` batches at a time, each with `WINDOW_BYTES` of `memory`."""

    def __init__(self, memory: BodyMemory, batches_max: int) -> None:
        self._memory = memory
        self._batches_max = batches_max
        self._batches = 0

    @contextmanager
    def place(self, request: Request, bytes_more: int) -> Iterator[None]:
        """Keep a place, and memory for a window and `bytes_more`. Raises `Busy` at once where there is none."""
        if self._batches >= self._batches_max:
            raise Busy(f"{self._batches} batches are in hand; send one more when one of them is answered")
        held = WINDOW_BYTES + bytes_more
        if held > self._memory.bytes_max:
            raise Refused(
                501,
                "unsupported",
                f"a batch takes {held} bytes of BODY_MEMORY_MAX, which is {self._memory.bytes_max} here; send each "
                "file by itself",
            )
        self._memory.hold(held)
        self._count(request, 1)
        try:
            yield
        finally:
            self._count(request, -1)
            self._memory.release(held)

    def _count(self, request: Request, change: int) -> None:
        self._batches += change
        request.connection.server.counters.set("batches", self._batches)


class ReadWindow:
    """How many files may be asked for at a time, when only the sizes of those before tell how large the next will be.

    It begins small, and follows the largest of the last files: many small ones, few large ones. Where small ones are
    followed by large ones all at once, `READS_MAX` of them may come. `small`: as far as is known all of them are so
    small that a group gives them, and groups bring nothing large; then `READS_MAX` may be asked for in groups.
    """

    __slots__ = ("_largest", "_largest_seen", "_memory")

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self._largest = WINDOW_BYTES // 8
        self._largest_seen = 0

    def took(self, size: int) -> None:
        """A file of so many bytes has come."""
        # Compiled, `max` is three times the price.
        largest = self._largest * 15 // 16
        self._largest = size if size >= largest else largest
        if not self._largest:
            self._largest = 1
        largest = self._largest_seen * 15 // 16
        self._largest_seen = size if size >= largest else largest

    @property
    def small(self) -> bool:
        return self._largest_seen <= GROUP_VALUE_BYTES_MAX and not self._memory.full

    @property
    def files(self) -> int:
        if self._memory.full:
            return 1
        return max(1, min(READS_MAX, WINDOW_BYTES // self._largest))
