"""A data block that arrives in pieces: kept as it comes, and joined once.

A file of 2 MiB that arrives in reads of 64 KiB is copied one time. Small pieces are gathered as they come, because a
peer that sends a byte at a time would else cost forty times what it sends.

Where the peer is trusted to send what it announced, the rest of a large block can be received in place (`room`).
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

SMALL_BYTES: Final = 4096
"""Pieces below this size are gathered at once."""


class Block:
    """Takes `size` bytes off the stream; without `keep` they are dropped as they come."""

    __slots__ = ("_pieces", "_placed", "_size", "keep", "missing")

    def __init__(self, size: int, keep: bool = True) -> None:
        self._size = size
        self._placed: BytesIO | None = None
        self._pieces: list[bytes | bytearray | memoryview] = []
        self.missing = size
        self.keep = keep

    def fill(self, buffer: bytes, at: int) -> int:
        """Take what `buffer` has of the block from `at` on; returns where the block's part of it ends."""
        piece: bytes | memoryview = buffer
        if at or len(buffer) > self.missing:
            # A view, so that the join is the only copy that is made of these bytes.
            piece = memoryview(buffer)[at : at + self.missing]
        count = len(piece)
        self.missing -= count
        if self.keep and count:
            pieces = self._pieces
            if count >= SMALL_BYTES:
                pieces.append(piece)
            elif pieces and isinstance(pieces[-1], bytearray):
                pieces[-1] += piece
            else:
                pieces.append(bytearray(piece))
        return at + count

    def room(self) -> memoryview:
        """All that is missing, to be written there; `took` is to be told of it. Nothing is filled any more. No view of
        it may be left when the value is asked for."""
        # A BytesIO gives its memory away as bytes without a copy. Its pass of zeros costs half of what joining does.
        self._placed = placed = BytesIO()
        placed.writelines(self._pieces)
        self._pieces.clear()
        placed.seek(self._size - 1)
        placed.write(b"\0")
        return placed.getbuffer()[self._size - self.missing :]

    def took(self, count: int) -> None:
        """So many bytes more were written to the room."""
        self.missing -= count

    def value(self) -> bytes:
        """The block, once nothing is missing; empty if it wasn't kept."""
        if self._placed is not None:
            return self._placed.getvalue()
        return b"".join(self._pieces)
