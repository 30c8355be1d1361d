"""Reads of one key at several nodes: what is the same for each node is made once.

Replicas nearly always hold the same record, and each tells it in the same words. So what one has said is known when
the next one answers, and compared in one go; only what differs is read field by field.
"""

from __future__ import annotations

from typing import Any, Final

from sfss.keys import check_key
from sfss.memcache import own
from sfss.memcache.exchanges import Fetch, asked_of, tail
from sfss.memcache.opaques import Opaques
from sfss.memcache.replies import ReplyParser
from sfss.native import mypyc_attr
from sfss.store import Call, Record

_opaques: Final = Opaques(b"r")


class Lookup:
    """One key, to be asked for at several nodes. `seen` is the file that one of them was the first to tell of. Raises
    `BadKey`."""

    __slots__ = ("_call", "_end", "_milliseconds", "_opaque", "key", "seen")

    def __init__(self, key: bytes) -> None:
        check_key(key)
        self.key = key
        self.seen: Record | None = None
        self._call: Call | None = None
        self._opaque = b""
        self._milliseconds = -1
        self._end = b""

    def opaque_in(self, call: Call) -> bytes:
        """What the requests that go with `call` have in common."""
        if call is not self._call:
            self._call = call
            self._opaque = _opaques.next(call.request_id)
            self._milliseconds = -1
        return self._opaque

    def end(self, call: Call, milliseconds: int, opaque: bytes) -> bytes:
        """The end of a request's line."""
        if opaque is not self._opaque:
            return tail(call, milliseconds, opaque)
        if milliseconds != self._milliseconds:
            self._milliseconds = milliseconds
            self._end = tail(call, milliseconds, opaque)
        return self._end


@mypyc_attr(free_list_len=1)
class Consult(Fetch):
    """read or inspect at one of the nodes."""

    __slots__ = ("_lookup",)

    def __init__(self, lookup: Lookup, value: bool, call: Call) -> None:
        super().__init__(lookup.key, value, True, call)
        self._lookup = lookup

    def request(self, milliseconds: int) -> bytes:
        self._found = None
        end = self._lookup.end(self._call, milliseconds, self.opaque)
        return b"mg %b%b%b" % (self._key, asked_of(self._value, True), end)

    def take(self, replies: ReplyParser) -> Any:
        seen = self._lookup.seen
        if seen is not None and self._found is None:
            # A third of the price of reading the line.
            if not self._value:
                if replies.takes(b"HD%b Yv O%b\r\n" % (seen.words, self.opaque)):
                    return seen
            elif replies.takes(b"VA %d%b Yv O%b\r\n" % (seen.size, seen.words, self.opaque)):
                self._found = own.Found(
                    seen.size,
                    seen.size,
                    seen.flags,
                    seen.expires,
                    seen.version,
                    seen.checksum,
                    True,
                    False,
                    self.opaque,
                    seen.words,
                )
        record = super().take(replies)
        if seen is None and isinstance(record, Record) and not record.tombstone:
            self._lookup.seen = record
        return record
