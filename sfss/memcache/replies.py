"""The client's half of the codec: bytes in, lines, patterns and blocks out, and no I/O.

What a reply looks like depends on its request, so the parser is asked by the oldest request
(`sfss.memcache.exchanges`) for what that one expects: a line of a known form, any line, a block of a given size. None
means that more bytes are needed; what was taken before stays taken. `OutOfStep` means that the bytes can't be what
was asked for, and that nothing that follows on this connection can be trusted.
"""

from __future__ import annotations

import re
from typing import Final

from sfss.errors import SfssError
from sfss.memcache.block import Block
from sfss.memcache.line import Line
from sfss.memcache.requests import LINE_BYTES_MAX
from sfss.store import WIRE_VALUE_BYTES_MAX

_CR: Final = 0x0D
_LF: Final = 0x0A

WORDS_BYTES_MAX: Final = 80
"""A line says no record in more (`Record.words`)."""

ROOM_BYTES_MIN: Final = 64 * 1024
"""A block of which more than this is missing is received in place."""


class OutOfStep(SfssError):
    """The bytes received are no reply to the oldest request."""


class ReplyParser:
    """Holds one connection's received bytes until they are taken. A block that arrives in pieces is joined once."""

    def __init__(self, value_bytes_max: int = WIRE_VALUE_BYTES_MAX) -> None:
        self._value_bytes_max = value_bytes_max
        self._buffer = b""
        self._at = 0
        self._block: Block | None = None
        self._line = Line()

    @property
    def waiting(self) -> int:
        """Bytes received and not taken."""
        return len(self._buffer) - self._at

    @property
    def inside_block(self) -> bool:
        """Whether a block has begun to be taken, and isn't whole."""
        return self._block is not None

    @property
    def missing(self) -> int:
        """Bytes of the present block that are still to come."""
        return self._block.missing if self._block is not None else 0

    def room(self) -> memoryview | None:
        """Where to receive the rest of the present block, if that is much; `took` is to be told of what came."""
        block = self._block
        return block.room() if block is not None and block.keep and block.missing > ROOM_BYTES_MIN else None

    def took(self, count: int) -> None:
        """So many bytes came into the room."""
        if self._block is not None:
            self._block.took(count)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._at == len(self._buffer):
            self._buffer = data
        else:
            self._buffer = self._buffer[self._at :] + data
        self._at = 0

    def begin(self) -> Line:
        """What comes next, to be looked at as a line of a known form (`sfss.memcache.own`); `end` takes it if it is."""
        line = self._line
        line.begin(self._buffer, self._at)
        return line

    def end(self) -> None:
        """Take the line that was found to be of a known form."""
        self._at = self._line.at

    def between(self, begin: bytes, end: bytes) -> bytes:
        """Take a line that begins and ends so, and give what stands between; empty where it is another, or isn't all
        there. `end` has the end of the line."""
        buffer, at = self._buffer, self._at
        stop = buffer.find(b"\n", at, at + LINE_BYTES_MAX) + 1
        first, last = at + len(begin), stop - len(end)
        if last <= first or buffer[at:first] != begin or buffer[last:stop] != end:
            return b""
        self._at = stop
        return buffer[first:last]

    def all_between(self, begin: bytes, end: bytes, count: int) -> list[bytes] | None:
        """Take so many lines that begin and end so, and give what stands between; None where one is another, or they
        aren't all there."""
        buffer, at = self._buffer, self._at
        first, last = len(begin), len(end) - 1
        text = buffer[at : at + count * (first + WORDS_BYTES_MAX + len(end))]  # what follows may be much
        lines = text.split(b"\n", count)
        if len(lines) <= count:
            return None
        between: list[bytes] = []
        for line in lines[:count]:
            if len(line) <= first + last:
                return None
            between.append(line[first : len(line) - last])
        taken = begin + (end + begin).join(between) + end
        if not text.startswith(taken):
            return None  # a line among them has another form
        self._at = at + len(taken)
        return between

    def takes(self, text: bytes) -> bool:
        """Take `text` if it comes next, all of it; whether it did."""
        at = self._at
        end = at + len(text)
        if self._buffer[at:end] != text:
            return False
        self._at = end
        return True

    def match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """The same by a pattern that ends with CRLF: for what other servers answer."""
        match = pattern.match(self._buffer, self._at)
        if match is not None:
            self._at = match.end()
        return match

    def line(self) -> bytes | None:
        """Take a line, whatever it says; without its CRLF."""
        buffer, at = self._buffer, self._at
        end = buffer.find(b"\r\n", at, at + LINE_BYTES_MAX + 2)
        if end < 0:
            if len(buffer) - at > LINE_BYTES_MAX + 2:
                raise OutOfStep(f"a line of over {LINE_BYTES_MAX} bytes")
            return None
        self._at = end + 2
        return buffer[at:end]

    def whole_block(self, size: int) -> bytes | None:
        """Take the line that was found to be of a known form, and the block that follows it, if that is all there."""
        buffer, at = self._buffer, self._line.at
        end = at + size
        if end + 2 > len(buffer) or buffer[end] != _CR or buffer[end + 1] != _LF:
            return None
        self._at = end + 2
        return buffer[at:end]

    def block(self, size: int, keep: bool = True) -> bytes | None:
        """Take a block and its CRLF. Without `keep` it is dropped as it arrives, and comes out empty."""
        buffer, at, block = self._buffer, self._at, self._block
        if block is None:
            if size > self._value_bytes_max:
                raise OutOfStep(f"a block of {size} bytes; the limit is {self._value_bytes_max}")
            end = at + size
            if end + 2 <= len(buffer) and buffer[end] == _CR and buffer[end + 1] == _LF:
                self._at = end + 2
                return buffer[at:end]
            self._block = block = Block(size, keep)
        block.keep = block.keep and keep
        if block.missing:
            self._at = at = block.fill(buffer, at)
            if block.missing:
                return None
        ending = buffer[at : at + 2]
        if ending != b"\r\n":
            if b"\r\n".startswith(ending):
                return None
            raise OutOfStep("a block that doesn't end with CRLF")
        self._at = at + 2
        self._block = None
        return block.value() if block.keep else b""
