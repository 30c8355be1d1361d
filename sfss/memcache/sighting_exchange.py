"""The request that tells a node what was seen of the others, and its reply."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sfss.memcache.answers import Buffers
from sfss.memcache.exchanges import MORE, Exchange, unexpected, with_value
from sfss.memcache.replies import OutOfStep, ReplyParser
from sfss.sightings import BYTES_MAX, decode, encode
from sfss.store import Seen


class TellSightings(Exchange):
    """`sfss witness`. Sent again it changes nothing more."""

    __slots__ = ("_block", "_told")

    def __init__(self, sightings: Iterable[Seen]) -> None:
        block = encode(sightings)
        super().__init__(len(block))
        self._block = block
        self._told: int | None = None

    def request(self, milliseconds: int) -> Buffers:
        self._told = None
        return with_value(b"sfss witness %d\r\n" % len(self._block), self._block)

    def take(self, replies: ReplyParser) -> Any:
        if self._told is None:
            line = replies.line()
            if line is None:
                return MORE
            word, _, size = line.partition(b" ")
            if word != b"WITNESS":
                raise unexpected(line)
            if not size.isdigit() or len(size) > 9 or int(size) > BYTES_MAX:
                raise OutOfStep(f"{line[:80]!r} is no answer of a witness")
            self._told = int(size)
        block = replies.block(self._told)
        return MORE if block is None else decode(bytes(block))
