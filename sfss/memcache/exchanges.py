"""One request and the reply that belongs to it: what to send, and how to read what comes back.

An exchange is asked for its request when it is sent (the deadline is told in milliseconds left), and then, once it is
the oldest of its connection, for its reply. `take` gives the result, or `MORE`; raises what an error line stands for
(the connection goes on); or raises `OutOfStep` when the reply can't be its own: another opaque, another key, a size
that isn't the one asked for.
"""

from __future__ import annotations

from typing import Any, Final

from sfss.errors import BadRequest, CorruptRecord, Outcome, SfssError
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
