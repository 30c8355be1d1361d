"""One request and the reply that belongs to it: what to send, and how to read what comes back.

An exchange is asked for its request when it is sent (the deadline is told in milliseconds left), and then, once it is
the oldest of its connection, for its reply. `take` gives the result, or `MORE`; raises what an error line stands for
(the connection goes on); or raises `OutOfStep` when the reply can't be its own: another opaque, another key, a size
that isn't the one asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from sfss.errors import BadRequest, CorruptRecord, Outcome, SfssError, Stopping
from sfss.groups import Item, bounded
from sfss.memcache import own
from sfss.memcache.access import Access
from sfss.memcache.answers import COPIED_BYTES_MAX, Buffers
from sfss.memcache.errors import error_of, is_error
from sfss.memcache.replies import OutOfStep, ReplyParser
from sfss.native import mypyc_attr
from sfss.promise import Promise
from sfss.store import Call, Identity, Purged, Record, Written, checksum_of


class _More:
    """The type of `MORE`."""


_NEVER: Final = float("inf")

MORE: Final = _More()
"""The reply isn't whole yet."""


class Exchange:
    """A request on its way to its reply.

    `promise` is the caller's; once it is done (cancelled, expired) the reply is read and dropped. `writes`: the server
    may have changed something once any of it was sent. `repeatable`: sending it twice does what sending it once does.
    `size` is what it holds in memory.
    """

    __slots__ = ("deadline", "opaque", "promise", "repeated", "sent", "size")

    writes = False
    repeatable = True

    promise: Promise[Any]

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.deadline = _NEVER
        self.opaque = b""
        self.sent = False
        self.repeated = False

    def request(self, milliseconds: int) -> Buffers:
        """The bytes to send, with the time that is left."""
        raise NotImplementedError

    def take(self, replies: ReplyParser) -> Any:
        """Read the reply."""
        raise NotImplementedError

    def check(self, opaque: bytes | None) -> None:
        """Raise `OutOfStep` where a reply's opaque isn't this request's."""
        if opaque is None or opaque != self.opaque:
            raise OutOfStep(f"opaque {opaque!r} came for {self.opaque!r}")

    @property
    def outcome(self) -> Outcome:
        """What may have become of it if no reply comes."""
        return Outcome.UNKNOWN if self.writes and self.sent else Outcome.NOT_APPLIED

    def heard_of_end(self) -> bool:
        """Whether its server said that it stops, in what came of the reply: what is unanswered was not begun."""
        return False

    def fail(self, error: SfssError) -> None:
        """Tell the caller, if one is still there."""
        promise = self.promise
        if not promise.done():
            promise.set_exception(error)


def unexpected(line: bytes) -> SfssError:
    """What a line stands for that isn't the answer hoped for: a server's error, or a stream out of step."""
    if is_error(line):
        return error_of(line)
    return OutOfStep(f"{line[:80]!r} answers another request")


def tail(call: Call, milliseconds: int, opaque: bytes) -> bytes:
    """The flags G, U and O, and the end of the line."""
    if call.ring:
        return b" G%d U%d O%b\r\n" % (call.ring, milliseconds, opaque)
    return b" U%d O%b\r\n" % (milliseconds, opaque)


def asked_of(value: bool, raw: bool) -> bytes:
    """The flags of a read: with its value, and as nodes keep it."""
    if value:
        return b" v s f A V H Y" if raw else b" v s f A V H"
    return b" s f A V H Y" if raw else b" s f A V H"


def with_value(line: bytes, value: bytes) -> Buffers:
    """A line and its block."""
    if len(value) > COPIED_BYTES_MAX:
        return (line, value, b"\r\n")
    return b"%b%b\r\n" % (line, value)


@mypyc_attr(free_list_len=1)
class Fetch(Exchange):
    """get, head, read or inspect: a record or None. What comes with a checksum is verified against it, key included."""

    __slots__ = ("_call", "_found", "_key", "_raw", "_value")

    def __init__(self, key: bytes, value: bool, raw: bool, call: Call) -> None:
        super().__init__()
        self._key = key
        self._value = value
        self._raw = raw
        self._call = call
        self._found: own.Found | None = None

    def request(self, milliseconds: int) -> bytes:
        self._found = None
        ring, asked = self._call.ring, asked_of(self._value, self._raw)
        if ring:
            return b"mg %b%b G%d U%d O%b\r\n" % (self._key, asked, ring, milliseconds, self.opaque)
        return b"mg %b%b U%d O%b\r\n" % (self._key, asked, milliseconds, self.opaque)

    def take(self, replies: ReplyParser) -> Any:
        found = self._found
        if found is None:
            found = own.found_in(replies.begin())
            if found is None:
                return self._take_miss(replies)
            replies.end()
        self.check(found.opaque)
        with_block = found.block >= 0
        if with_block and found.block != found.size:
            raise OutOfStep(f"a block of {found.block} bytes for a record of {found.size}")
        value = b""
        if with_block:
            keep = not self.promise.done()
            taken = replies.block(found.size, keep)
            if taken is None:
                self._found = found
                return MORE
            value = taken
            if not keep:
                return None
        tombstone, checksum = found.tombstone, found.checksum
        if found.raw != self._raw or with_block != (self._value and not tombstone):
            raise OutOfStep("a reply of another form than asked for")
        record = Record(value, found.size, found.flags, found.expires, found.version, checksum, tombstone)
        record.words = found.words
        if with_block:
            verify(self._key, record)
        return record

    def _take_miss(self, replies: ReplyParser) -> Any:
        missed = own.missed_in(replies.begin())
        if missed is not None:
            replies.end()
            self.check(missed.opaque)
            return None
        line = replies.line()
        if line is None:
            return MORE
        raise unexpected(line)


def verify(key: bytes, record: Record) -> None:
    """Raise `CorruptRecord` where a record that came with a checksum has another one."""
    told = record.checksum
    if not told:
        return
    computed = checksum_of(key, record.value, record.flags, record.expires, record.version, record.tombstone)
    if computed != told:
        raise CorruptRecord(f"checksum {told:016x} came with a record of checksum {computed:016x}")


class Writing(Exchange):
    """A write that is answered with version, checksum and durability."""

    __slots__ = ()

    writes = True

    def stored(self, replies: ReplyParser) -> own.Stored | bytes | None:
        """What a line says that is of this form, else any other line, else None."""
        stored = own.stored_in(replies.begin())
        if stored is None:
            return replies.line()
        replies.end()
        self.check(stored.opaque)
        return stored


@mypyc_attr(free_list_len=1)
class Put(Writing):
    """An unstamped set: repeated, it would be another write."""

    __slots__ = ("_call", "_expires", "_flags", "_key", "value")

    repeatable = False

    def __init__(self, key: bytes, value: bytes, flags: int, expires: int, call: Call) -> None:
        super().__init__(len(value))
        self._key = key
        self.value = value
        self._flags = flags
        self._expires = expires
        self._call = call

    def request(self, milliseconds: int) -> Buffers:
        shared = b" Q" if self._call.shared else b""
        end = tail(self._call, milliseconds, self.opaque)
        line = b"ms %b %d F%d A%d V H B%b%b" % (
            self._key,
            len(self.value),
            self._flags,
            self._expires,
            shared,
            end,
        )
        return (line, self.value, b"\r\n")

    def take(self, replies: ReplyParser) -> Any:
        stored = self.stored(replies)
        if stored is None:
            return MORE
        if isinstance(stored, bytes):
            raise unexpected(stored)
        return written_of(stored)


class Remove(Writing):
    """An unstamped delete: None where nothing was."""

    __slots__ = ("_call", "_key")

    repeatable = False

    def __init__(self, key: bytes, call: Call) -> None:
        super().__init__()
        self._key = key
        self._call = call

    def request(self, milliseconds: int) -> bytes:
        shared = b" Q" if self._call.shared else b""
        return b"md %b V H B%b%b" % (self._key, shared, tail(self._call, milliseconds, self.opaque))

    def take(self, replies: ReplyParser) -> Any:
        stored = self.stored(replies)
        if stored is None:
            return MORE
        if isinstance(stored, bytes):
            if stored == b"NF O" + self.opaque:
                return None
            raise unexpected(stored)
        return written_of(stored)


def written_of(stored: own.Stored) -> Written:
    """What the answer to an unstamped write says. Raises `OutOfStep`."""
    if not stored.newest:
        raise OutOfStep("NS answers another request")
    written = Written(stored.version, stored.checksum, stored.durable, stored.copies)
    written.words = stored.words
    return written


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


class AskStats(Exchange):
    """stats, with or without a topic: figures by name."""

    __slots__ = ("_figures", "_topic")

    FIGURES_MAX = 10_000

    def __init__(self, topic: str) -> None:
        super().__init__()
        if any(character <= " " or character > "~" for character in topic.replace(" ", "")):
            raise BadRequest(f"{topic!r} is no topic of stats")
        self._topic = topic
        self._figures: dict[str, str] = {}

    def request(self, milliseconds: int) -> bytes:
        self._figures = {}
        return f"stats {self._topic}".rstrip().encode() + b"\r\n"

    def take(self, replies: ReplyParser) -> Any:
        while (line := replies.line()) is not None:
            if line == b"END":
                return self._figures
            if not line.startswith(b"STAT "):
                raise unexpected(line)
            if len(self._figures) >= self.FIGURES_MAX:
                raise OutOfStep(f"over {self.FIGURES_MAX} figures")
            name, _, value = line[5:].decode("utf-8", "replace").partition(" ")
            self._figures[name] = value
        return MORE


class AskIdentity(Exchange):
    """`sfss identity`, or another `sfss` command that is answered likewise. All may be repeated: then they change
    nothing."""

    __slots__ = ("_line",)

    def __init__(self, line: bytes) -> None:
        super().__init__()
        self._line = line

    def request(self, milliseconds: int) -> bytes:
        return self._line

    def take(self, replies: ReplyParser) -> Any:
        line = replies.line()
        if line is None:
            return MORE
        words = line.decode("ascii", "replace").split(" ")
        if words[0] != "IDENTITY":
            raise unexpected(line)
        try:
            _, node, cluster, ring, fingerprint, epoch, position, state = words[:8]
            start = words[8] if len(words) > 8 else ""
            return Identity(
                node,
                "" if cluster == "-" else cluster,
                int(ring),
                "" if fingerprint == "-" else fingerprint,
                int(epoch),
                int(position),
                state,
                start,
            )
        except ValueError:
            raise OutOfStep(f"{line[:80]!r} is no identity") from None


class AskPurged(Exchange):
    """`sfss purged` tells how far a region is purged; `sfss purge` moves that up, and may be repeated."""

    __slots__ = ("_line",)

    def __init__(self, line: bytes) -> None:
        super().__init__()
        self._line = line

    def request(self, milliseconds: int) -> bytes:
        return self._line

    def take(self, replies: ReplyParser) -> Any:
        line = replies.line()
        if line is None:
            return MORE
        words = line.split(b" ")
        if words[0] != b"PURGED":
            raise unexpected(line)
        if len(words) != 5 or not all(word.isdigit() and len(word) <= 20 for word in words[1:]):
            raise OutOfStep(f"{line[:80]!r} doesn't tell how far a region is purged")
        return Purged(*map(int, words[1:]))


class Authenticate(Exchange):
    """The first request of a connection to a server that asks for a user and password."""

    __slots__ = ("_access",)

    def __init__(self, access: Access) -> None:
        super().__init__()
        self._access = access

    def request(self, milliseconds: int) -> bytes:
        return self._access.request

    def take(self, replies: ReplyParser) -> Any:
        line = replies.line()
        if line is None:
            return MORE
        if line != b"STORED":
            raise unexpected(line)
        return None


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
