"""A request's body that is all there."""

from __future__ import annotations

from aiohttp.streams import EmptyStreamReader


class WholeBody(EmptyStreamReader):
    """To handlers, a stream of aiohttp's that has come to its end."""

    def __init__(self, value: bytes) -> None:
        super().__init__()
        self._value = value
        self.total_bytes = len(value)

    def read_nowait(self, n: int = -1) -> bytes:
        """All of it; `n` is not looked at."""
        return self._value
