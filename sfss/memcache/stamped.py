"""Stamped writes that go to several nodes, alone or in groups: what is the same for each node is made once.

A node that takes a record as its newest answers with the record's own stamp. So the answer to one that is taken, or to
a group of them, is known beforehand, and looked at in one go; any other is read line by line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sfss.errors import ConnectionLost, Outcome
from sfss.keys import check_key
from sfss.memcache.answers import Buffers
from sfss.memcache.exchanges import MORE, Group, Writing, tail, unexpected
from sfss.memcache.replies import ReplyParser
from sfss.native import mypyc_attr
from sfss.store import Applied, Call, Record, hex16

_LINE_END: Final = b"\r\n"


class Stamped:
    """A record and its line, without the end that is each node's own. `answer` is how the line begins that tells of
    `applied`: taken, and on disk. Raises `BadKey`."""

    __slots__ = ("answer", "applied", "key", "line", "record")

    def __init__(self, key: bytes, record: Record) -> None:
        check_key(key)
        version, checksum = record.version, record.checksum
        stamp = b"V%d H%b B" % (version, hex16(checksum))
        if record.tombstone:
            line = b"md %b A%d %b" % (key, record.expires, stamp)
        else:
            line = b"ms %b %d F%d A%d %b" % (key, len(record.value), record.flags, record.expires, stamp)
        self.key = key
        self.record = record
        self.line = line
        self.answer = b"HD %b1/1" % stamp
        self.applied = Applied(True, version, checksum, True)


@mypyc_attr(free_list_len=1)
class Apply(Writing):
    """A stamped write of a record: newest wins, so it may be repeated."""

    __slots__ = ("_call", "_stamped")

    def __init__(self, stamped: Stamped, call: Call) -> None:
        super().__init__(len(stamped.record.value))
        self._stamped = stamped
        self._call = call

    def request(self, milliseconds: int) -> Buffers:
        stamped, ring = self._stamped, self._call.ring
        if ring:
            line = b"%b G%d U%d O%b\r\n" % (stamped.line, ring, milliseconds, self.opaque)
        else:
            line = stamped.line + tail(self._call, milliseconds, self.opaque)
        record = stamped.record
        return line if record.tombstone else (line, record.value, _LINE_END)

    def take(self, replies: ReplyParser) -> Any:
        if replies.takes(b"%b O%b\r\n" % (self._stamped.answer, self.opaque)):
            return self._stamped.applied
        stored = self.stored(replies)
        if stored is None:
            return MORE
        if isinstance(stored, bytes):
            raise unexpected(stored)
        if not stored.newest and self.repeated:
            # Refused now, but the first sending may have been stored, and replaced since: whoever stamped it must not
            # take it for one that never was there.
            raise ConnectionLost("the connection was lost; a newer record is held now", Outcome.UNKNOWN)
        return Applied(stored.newest, stored.version, stored.checksum, stored.durable > 0)


class ApplyGroup(Group):
    """Stamped writes to one node."""

    __slots__ = ("_call", "_stamped")

    writes = True

    def __init__(self, stamped: Sequence[Stamped], call: Call) -> None:
        super().__init__([])
        self._stamped = stamped
        self._call = call
        for one in stamped:
            self.size += len(one.record.value)

    def request(self, milliseconds: int) -> Buffers:
        self._results = []
        end = tail(self._call, milliseconds, b"*" + self.opaque)
        pieces: list[bytes] = []
        for one in self._stamped:
            pieces.append(one.line)
            pieces.append(end)
            if not one.record.tombstone:
                pieces.append(one.record.value)
                pieces.append(_LINE_END)
        return b"".join(pieces)

    def take(self, replies: ReplyParser) -> Any:
        stamped, end = self._stamped, b" O*%b\r\n" % self.opaque
        if not self._results and replies.takes(end.join([one.answer for one in stamped]) + end):
            return [one.applied for one in stamped]  # nearly always; a tenth of the price of reading each
        return self._take_each(replies, len(stamped))

    def _take_one(self, place: int, replies: ReplyParser) -> Any:
        one = self._stamped[place]
        if replies.takes(one.answer + b" O*%b\r\n" % self.opaque):
            return one.applied
        apply = Apply(one, self._call)
        apply.opaque = b"*" + self.opaque
        apply.repeated = self.repeated
        return apply.take(replies)

    def _left(self) -> int:
        return len(self._stamped) - len(self._results)
