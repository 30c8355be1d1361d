"""Stamped writes that go to several nodes, alone or in groups: what is the same for each node is made once.

A node that takes a record as its newest answers with the record's own stamp. So the answer to one that is taken, or to
a group of them, is known beforehand, and looked at in one go; any other is read line by line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sfss.errors import ConnectionLost, Outcome
from sfss.keys import check_key
from sfss.memcache.answers import COPIED_BYTES_MAX, Buffers
from sfss.memcache.exchanges import MORE, Exchange, Writing, tail, unexpected, with_value
from sfss.memcache.group_exchanges import Group
from sfss.memcache.opaques import Opaques
from sfss.memcache.replies import ReplyParser
from sfss.native import mypyc_attr
from sfss.store import Applied, Call, Record, hex16

_LINE_END: Final = b"\r\n"

_opaques: Final = Opaques(b"s")


class Stamped:
    """A record and its line, without the end that each round of it has. Raises `BadKey`.

    Alone it is sent to all nodes of a round in the same words, opaque included, so that the second and the third cost
    nothing to make: 5,000 instructions less for a write to three. `applied` is what a node tells that has taken it, and
    has it on disk.
    """

    __slots__ = (
        "_answer",
        "_call",
        "_milliseconds",
        "_opaque",
        "_request",
        "_stamp",
        "_whole_answer",
        "applied",
        "key",
        "line",
        "record",
    )

    def __init__(self, key: bytes, record: Record) -> None:
        check_key(key)
        version, checksum = record.version, record.checksum
        flags, expires = record.flags, record.expires
        stamp = b"V%d H%b B" % (version, hex16(checksum))
        if record.tombstone:
            line = b"md %b A%d %b" % (key, expires, stamp)
        elif flags or expires:
            line = b"ms %b %d F%d A%d %b" % (key, len(record.value), flags, expires, stamp)
        else:
            line = b"ms %b %d F0 A0 %b" % (key, len(record.value), stamp)  # nearly all; 400 instructions less
        self.key = key
        self.record = record
        self.line = line
        self.applied = Applied(True, version, checksum, True)
        self._stamp = stamp
        self._answer = b""
        self._call: Call | None = None
        self._opaque = b""
        self._milliseconds = -1
        self._request: Buffers = b""
        self._whole_answer = b""

    @property
    def words(self) -> bytes:
        """As in `Written`."""
        return self._stamp[1:-2]

    def opaque_in(self, call: Call) -> bytes:
        """What its requests in the round of `call` have in common."""
        if call is not self._call:
            self._call = call
            self._opaque = _opaques.next(call.request_id)
            self._milliseconds = -1
            self._whole_answer = b"HD %b1/1 O%b\r\n" % (self._stamp, self._opaque)
        return self._opaque

    def request(self, call: Call, milliseconds: int, opaque: bytes) -> Buffers:
        """The request to one node."""
        if opaque is not self._opaque:
            return self._words(call, milliseconds, opaque)
        if milliseconds != self._milliseconds:
            self._milliseconds = milliseconds
            self._request = self._words(call, milliseconds, opaque)
        return self._request

    def sent(self) -> None:
        """All nodes were sent it: keep no copy of the value. Who is sent it once more gets a new one."""
        self._milliseconds = -1
        self._request = b""

    def _words(self, call: Call, milliseconds: int, opaque: bytes) -> Buffers:
        ring, record = call.ring, self.record
        if ring and not record.tombstone and len(record.value) <= COPIED_BYTES_MAX:  # nearly all; 500 instructions less
            return b"%b G%d U%d O%b\r\n%b\r\n" % (self.line, ring, milliseconds, opaque, record.value)
        line = self.line + tail(call, milliseconds, opaque)
        return line if record.tombstone else with_value(line, record.value)

    def answer(self) -> bytes:
        """How the line begins that tells of `applied`."""
        if not self._answer:
            self._answer = b"HD %b1/1" % self._stamp
        return self._answer

    def answer_to(self, opaque: bytes) -> bytes:
        """All of the line, in answer to a request by itself."""
        return self._whole_answer if opaque is self._opaque else b"%b O%b\r\n" % (self.answer(), opaque)


@mypyc_attr(free_list_len=1)
class Apply(Writing):
    """A stamped write of a record: newest wins, so it may be repeated."""

    __slots__ = ("_call", "_stamped")

    def __init__(self, stamped: Stamped, call: Call) -> None:
        super().__init__(len(stamped.record.value))
        self._stamped = stamped
        self._call = call

    def request(self, milliseconds: int) -> Buffers:
        return self._stamped.request(self._call, milliseconds, self.opaque)

    def take(self, replies: ReplyParser) -> Any:
        if replies.takes(self._stamped.answer_to(self.opaque)):
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
        size = 0
        for one in stamped:
            size += len(one.record.value)
        super().__init__(len(stamped), size)
        self._stamped = stamped
        self._call = call

    def request(self, milliseconds: int) -> Buffers:
        end = tail(self._call, milliseconds, self._begin())
        pieces: list[bytes] = []
        for one in self._stamped:
            pieces.append(one.line)
            pieces.append(end)
            if not one.record.tombstone:
                pieces.append(one.record.value)
                pieces.append(_LINE_END)
        return b"".join(pieces)

    def take(self, replies: ReplyParser) -> Any:
        if not self._results:
            stamped, end = self._stamped, b" O*%b\r\n" % self.opaque
            if replies.takes(end.join([one.answer() for one in stamped]) + end):
                return [one.applied for one in stamped]  # nearly always; a tenth of the price of reading each
        return super().take(replies)

    def _plain(self, place: int, replies: ReplyParser) -> Any:
        one = self._stamped[place]
        return one.applied if replies.takes(b"%b O*%b\r\n" % (one.answer(), self.opaque)) else None

    def _alone(self, place: int) -> Exchange:
        return Apply(self._stamped[place], self._call)
