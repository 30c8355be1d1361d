"""The requests that any memcache server understands, and their replies, in which values have no version; and that for a
part of a node's hash tree, which is asked for likewise."""

from __future__ import annotations

import re
from typing import Any, Final

from sfss.memcache.answers import Buffers
from sfss.memcache.exchanges import MORE, Exchange, unexpected, with_value
from sfss.memcache.replies import OutOfStep, ReplyParser
from sfss.store import Record, Written

_VALUE: Final = re.compile(rb"VALUE ([^ ]{1,250}) ([0-9]{1,10}) ([0-9]{1,8})(?: [0-9]{1,20})?\r\n")


class ClassicGet(Exchange):
    """`get` of one key on any memcache server. Its records have no version."""

    __slots__ = ("_found", "_key", "_value", "_with_value")

    def __init__(self, key: bytes, with_value: bool) -> None:
        super().__init__()
        self._key = key
        self._with_value = with_value
        self._found: re.Match[bytes] | None = None
        self._value: bytes | None = None

    def request(self, milliseconds: int) -> bytes:
        self._found = self._value = None
        return b"get %b\r\n" % self._key

    def take(self, replies: ReplyParser) -> Any:
        if self._found is None:
            self._found = replies.match(_VALUE)
            if self._found is None:
                line = replies.line()
                if line is None:
                    return MORE
                if line == b"END":
                    return None
                raise unexpected(line)
            if self._found[1] != self._key:
                raise OutOfStep(f"{self._found[1]!r} came for {self._key!r}")
        flags, size = int(self._found[2]), int(self._found[3])
        if self._value is None:
            self._value = replies.block(size, self._with_value and not self.promise.done())
            if self._value is None:
                return MORE
        line = replies.line()
        if line is None:
            return MORE
        if line != b"END":
            raise unexpected(line)
        return Record(self._value if self._with_value else b"", size, flags)


class AskHashes(ClassicGet):
    """`get @<prefix>`: a part of a node's hash tree, as text."""

    __slots__ = ()

    def __init__(self, prefix: bytes) -> None:
        super().__init__(b"@" + prefix, True)

    def take(self, replies: ReplyParser) -> Any:
        record = super().take(replies)
        if record is None:
            raise OutOfStep("END came for a part of the hash tree")
        return record.value if isinstance(record, Record) else record


class ClassicSet(Exchange):
    """`set` on any memcache server."""

    __slots__ = ("_expires", "_flags", "_key", "_value")

    writes = True
    repeatable = False

    def __init__(self, key: bytes, value: bytes, flags: int, expires: int) -> None:
        super().__init__(len(value))
        self._key = key
        self._value = value
        self._flags = flags
        self._expires = expires

    def request(self, milliseconds: int) -> Buffers:
        # Any Unix time of these days is beyond the 30 days up to which an exptime is relative.
        line = b"set %b %d %d %d\r\n" % (self._key, self._flags, self._expires, len(self._value))
        return with_value(line, self._value)

    def take(self, replies: ReplyParser) -> Any:
        line = replies.line()
        if line is None:
            return MORE
        if line != b"STORED":
            raise unexpected(line)
        return Written()


class ClassicDelete(Exchange):
    """`delete` on any memcache server."""

    __slots__ = ("_key",)

    writes = True
    repeatable = False

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self._key = key

    def request(self, milliseconds: int) -> bytes:
        return b"delete %b\r\n" % self._key

    def take(self, replies: ReplyParser) -> Any:
        line = replies.line()
        if line is None:
            return MORE
        if line == b"DELETED":
            return Written()
        if line == b"NOT_FOUND":
            return None
        raise unexpected(line)
