"""The opaques of requests: a count, and the request id that goes with them down the tiers.

A client has its own, of digits. What is sent to several servers has one for all of them, which begins with a letter, so
that no client makes it by itself.
"""

from __future__ import annotations

from typing import Final

SEQUENCES: Final = 1_000_000
"""Opaques count up to here: a letter or a group's star, 6 digits, a dot and 24 bytes of request id are the 32 that one
may have."""


class Opaques:
    """Opaques that begin with `letter`, if any."""

    __slots__ = ("_count", "_letter")

    def __init__(self, letter: bytes = b"") -> None:
        self._letter = letter
        self._count = 0

    def next(self, request_id: bytes) -> bytes:
        """Another one than any of the last million."""
        count = self._count = (self._count + 1) % SEQUENCES
        if request_id:
            return b"%b%d.%b" % (self._letter, count, request_id)
        return b"%b%d" % (self._letter, count)
