"""The requests about rings and their replies (`sfss.ring_keeper`)."""

from __future__ import annotations

from typing import Any, Final

from sfss.memcache.answers import Buffers
from sfss.memcache.exchanges import MORE, Exchange, unexpected, with_value
from sfss.memcache.replies import OutOfStep, ReplyParser
from sfss.ring_keeper import Accepted, HeldRing, Nack, Promised
from sfss.ring_record import RECORD_BYTES_MAX, RingRecord


class AskRing(Exchange):
    """`sfss ring …`: a ring, a promise, an acceptance or a refusal. `kinds` are the answers that fit, by first word."""

    __slots__ = ("_kinds", "_line", "_record", "_told")

    def __init__(self, line: bytes, kinds: tuple[bytes, ...], record: bytes = b"") -> None:
        super().__init__(len(record))
        self._line = line
        self._kinds = kinds
        self._record = record
        self._told: tuple[list[bytes], int] | None = None

    def request(self, milliseconds: int) -> Buffers:
        self._told = None
        if self._record:
            return with_value(b"%b %d\r\n" % (self._line, len(self._record)), self._record)
        return self._line + b"\r\n"

    def take(self, replies: ReplyParser) -> Any:
        if self._told is None:
            line = replies.line()
            if line is None:
                return MORE
            self._told = self._head(line)
        words, size = self._told
        if words[0] == b"NACK":
            return Nack(int(words[1]))
        if words[0] == b"ACCEPTED":
            return Accepted()
        block = replies.block(size)
        if block is None:
            return MORE
        record = RingRecord.decode(block) if block else None
        if words[0] == b"PROMISE":
            return Promised(int(words[1]), record)
        held = HeldRing(int(words[1]), "" if words[2] == b"-" else words[2].decode("ascii", "replace"), record)
        if record is not None and held != HeldRing.of(record):
            raise OutOfStep(f"ring {held.number} came with the record of ring {record.number}")
        return held

    def _head(self, line: bytes) -> tuple[list[bytes], int]:
        """The words of a line, and the size of the block that follows."""
        words = line.split(b" ")
        if words[0] not in self._kinds:
            raise unexpected(line)
        numbers = words[1:]
        if words[0] == b"RING":
            del numbers[1:2]
        if len(words) != _WORDS[words[0]] or not all(number.isdigit() and len(number) < 20 for number in numbers):
            raise OutOfStep(f"{line[:80]!r} is no answer about rings")
        size = int(words[-1]) if words[0] in (b"RING", b"PROMISE") else 0
        if size > RECORD_BYTES_MAX:
            raise OutOfStep(f"a ring of {size} bytes")
        return words, size


class ChangeRing(AskRing):
    """One that may change what the node keeps. Sent again it changes nothing more."""

    __slots__ = ()

    writes = True


class PrepareRing(ChangeRing):
    """A ballot is promised once: sent again, it would be refused by itself."""

    __slots__ = ()

    repeatable = False


class DropPartition(Exchange):
    """`sfss drop`: how many records went. Sent again, the rest of them."""

    __slots__ = ("_line",)

    writes = True

    def __init__(self, ring: int, partition: int) -> None:
        super().__init__()
        self._line = b"sfss drop %d %d\r\n" % (ring, partition)

    def request(self, milliseconds: int) -> bytes:
        return self._line

    def take(self, replies: ReplyParser) -> Any:
        line = replies.line()
        if line is None:
            return MORE
        word, _, count = line.partition(b" ")
        if word != b"DROPPED" or not count.isdigit():
            raise unexpected(line)
        return int(count)


_WORDS: Final = {b"RING": 4, b"PROMISE": 3, b"NACK": 2, b"ACCEPTED": 1}
