"""How many bytes of bodies a process may hold at a time; more is refused at once rather than swapped."""

from __future__ import annotations

from sfss.errors import Busy


class BodyMemory:
    """Counts bytes held: bodies being received, waiting for the store, or waiting for their reader."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.held = 0

    def hold(self, count: int) -> None:
        """Take `count` bytes, or raise `Busy`."""
        if self.held + count > self.bytes_max:
            raise Busy(f"{self.held} of {self.bytes_max} bytes for bodies are in use")
        self.held += count

    @property
    def full(self) -> bool:
        return self.held >= self.bytes_max

    def hold_anyway(self, count: int) -> None:
        """Take bytes that are there already."""
        self.held += count

    def release(self, count: int) -> None:
        self.held -= count
