"""Requests of one kind that are asked and answered as one, and their replies: a group reads and writes many files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sfss.errors import Outcome, SfssError, Stopping
from sfss.groups import Item, bounded
from sfss.memcache import own
from sfss.memcache.answers import Buffers
from sfss.memcache.exchanges import MORE, Exchange, Fetch, Put, asked_of, tail, verify
from sfss.memcache.replies import OutOfStep, ReplyParser
from sfss.store import Call


class Group(Exchange):
    """`count` requests of one kind, sent and answered one behind the other; its result is the list of theirs, errors as
    values.

    Each line has the same opaque, which begins with a star: so a server knows that they belong together. One that
    doesn't, answers them all the same. What is plain is read with what all lines have in common, at half the price;
    what isn't, by an exchange made for it alone.
    """

    __slots__ = ("_count", "_one", "_results")

    def __init__(self, count: int, size: int = 0) -> None:
        super().__init__(size)
        self._count = count
        self._results: list[Any] = []
        self._one: Exchange | None = None
        """What reads the next answer, where its block has begun to come."""

    def _begin(self) -> bytes:
        """The opaque of all lines, which are sent now."""
        self._results = []
        self._one = None
        return b"*" + self.opaque

    def _plain(self, place: int, replies: ReplyParser) -> Any:
        """The next answer, for one of them by its place, if it is plain and all there; else None."""
        raise NotImplementedError

    def _alone(self, place: int) -> Exchange:
        """What reads any answer to one of them."""
        raise NotImplementedError

    def take(self, replies: ReplyParser) -> Any:
        results = self._results
        while len(results) < self._count:
            place = len(results)
            try:
                result = None if self._one is not None else self._plain(place, replies)
                if result is None:
                    result = self._take_alone(place, replies)
            except OutOfStep:
                raise
            except SfssError as error:
                if self.repeated and self.writes:
                    error.outcome = Outcome.UNKNOWN  # as in `Link`: the first sending may have been carried out
                result = error
            if result is MORE:
                return MORE
            results.append(bounded(result))  # a server of before knows of no limit
        return results

    def _take_alone(self, place: int, replies: ReplyParser) -> Any:
        one = self._one
        if one is None:
            one = self._alone(place)
            one.opaque = b"*" + self.opaque
            one.promise = self.promise
            one.repeated = self.repeated
        self._one = None
        result = one.take(replies)
        if result is MORE and replies.inside_block:
            self._one = one
        return result

    def heard_of_end(self) -> bool:
        return bool(self._results) and isinstance(self._results[-1], Stopping)

    def fail(self, error: SfssError) -> None:
        """Tell the caller; what has been answered stays answered."""
        promise = self.promise
        if promise.done():
            return
        results = self._results
        if results:
            # A server that stops says so once, whatever is left of a group.
            left = results[-1] if self.heard_of_end() else error
            promise.set_result(results + [left] * (self._count - len(results)))
        else:
            promise.set_exception(error)


class FetchGroup(Group):
    """Reads that differ in their keys only."""

    __slots__ = ("_call", "_end", "_keys", "_raw", "_value")

    def __init__(self, keys: Sequence[bytes], value: bool, raw: bool, call: Call) -> None:
        super().__init__(len(keys))
        self._keys = keys
        self._value = value
        self._raw = raw
        self._call = call
        self._end = b""
        """How the lines end that tell of a file."""

    def request(self, milliseconds: int) -> Buffers:
        opaque = self._begin()
        self._end = b"%b O%b\r\n" % (b" Yv" if self._raw else b"", opaque)
        end = asked_of(self._value, self._raw) + tail(self._call, milliseconds, opaque)
        return b"mg " + (end + b"mg ").join(self._keys) + end

    def _plain(self, place: int, replies: ReplyParser) -> Any:
        record = own.record_in(replies.begin(), self._end) if self._value else None
        if record is None:
            return None
        value = replies.whole_block(record.size)
        if value is None:
            return None
        record.value = value
        verify(self._keys[place], record)
        return record

    def _alone(self, place: int) -> Exchange:
        return Fetch(self._keys[place], self._value, self._raw, self._call)


class InspectGroup(FetchGroup):
    """Reads of versions. A file's is told in words (`Record.words`), to be compared with those of the record: a tenth
    of the price of reading them."""

    __slots__ = ()

    def __init__(self, keys: Sequence[bytes], call: Call) -> None:
        super().__init__(keys, False, True, call)

    def take(self, replies: ReplyParser) -> Any:
        if not self._results:
            words = replies.all_between(b"HD", self._end, self._count)
            if words is not None:
                return words  # nearly always; a quarter of the price of each by itself
        return super().take(replies)

    def _plain(self, place: int, replies: ReplyParser) -> Any:
        return replies.between(b"HD", self._end) or None


class PutGroup(Group):
    """Unstamped sets of one call."""

    __slots__ = ("_call", "_end", "_items")

    writes = True
    repeatable = False

    def __init__(self, items: Sequence[Item], call: Call) -> None:
        size = 0
        for item in items:
            size += len(item.value)
        super().__init__(len(items), size)
        self._items = items
        self._call = call
        self._end = b""

    def request(self, milliseconds: int) -> Buffers:
        opaque = self._begin()
        self._end = b" O%b\r\n" % opaque
        shared = b" Q" if self._call.shared else b""
        end = b" V H B" + shared + tail(self._call, milliseconds, opaque)
        usual = b" F0 A0" + end
        pieces: list[bytes] = []
        for item in self._items:
            value = item.value
            pieces.append(b"ms %b %d" % (item.key, len(value)))
            if item.flags or item.expires:
                pieces.append(b" F%d A%d%b" % (item.flags, item.expires, end))
            else:
                pieces.append(usual)
            pieces.append(value)
            pieces.append(b"\r\n")
        return b"".join(pieces)

    def _plain(self, place: int, replies: ReplyParser) -> Any:
        written = own.written_in(replies.begin(), self._end)
        if written is not None:
            replies.end()
        return written

    def _alone(self, place: int) -> Exchange:
        item = self._items[place]
        return Put(item.key, item.value, item.flags, item.expires, self._call)
