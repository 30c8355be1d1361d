"""get, gets, gat, gats; and `get ?<key>` and `get @<prefix>`, which answer a key's metadata and a part of the hash
tree, as Beansdb does.

Several keys are a stream: a key is looked up only when there is room for its value, so a long line of keys can't fill
the memory. A key that can't be read ends the reply with its error line in place of END.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from sfss.errors import BadRequest
from sfss.hash_tree import is_prefix
from sfss.memcache.answers import COPIED_BYTES_MAX, Answer, Buffers, Pending, Stream, answer, with_block
from sfss.memcache.commands.words import exptime_of, key_of
from sfss.memcache.line import Line
from sfss.memcache.numbers import absolute_expiry
from sfss.memcache.requests import RETRIEVAL_LINE_BYTES_MAX, Command, Request
from sfss.memcache.service import Service
from sfss.promise import Promise
from sfss.store import Change, Record, Written

END: Final = b"END\r\n"
WORDS_MAX: Final = RETRIEVAL_LINE_BYTES_MAX // 2
"""Keys of one byte fill the longest line."""


def parse_get(command: Command, words: list[bytes]) -> Request:
    """`get <key>*`: the arguments are the keys."""
    keys = tuple(key_of(word) for word in words[1:])
    # `?a` reads what is under `a`, `@a` what many keys hold: like several keys, they wait for every write before them.
    alone = len(keys) == 1 and keys[0][0] not in b"?@"
    return Request(command, keys[0] if alone else b"", keys)


def get(service: Service, request: Request) -> Answer:
    """Answer the values; nothing for keys that aren't there."""
    if request.key:
        return _get_one(service, request.key, False, END)
    return _get_many(service, request.arguments, False)


def get_one(service: Service, request: Request) -> Buffers | Pending:
    """The same as `get` for one key that isn't reserved, in as few calls as can be."""
    counters = service.counters
    counters.cmd_get += 1
    key = request.key
    reply = service.store.get(key)
    if isinstance(reply, Promise):
        return Pending(reply, lambda record: _value_reply(service, key, record, False, END))
    if reply is None:
        counters.get_misses += 1
        return END
    counters.get_hits += 1
    value = reply.value
    size = len(value)
    if size > COPIED_BYTES_MAX:
        return (b"VALUE %b %d %d\r\n" % (key, reply.flags, size), value, b"\r\nEND\r\n")
    return b"VALUE %b %d %d\r\n%b\r\nEND\r\n" % (key, reply.flags, size, value)


def gets(service: Service, request: Request) -> Answer:
    """The same with versions."""
    return _get_many(service, request.arguments, True)


def _get_many(service: Service, keys: tuple[bytes, ...], with_version: bool) -> Stream:
    def parts() -> Iterator[Buffers | Pending]:
        for key in keys:
            yield _get_one(service, key, with_version, b"")
        yield END

    return Stream(parts())


def _get_one(service: Service, key: bytes, with_version: bool, end: bytes) -> Buffers | Pending:
    if key[0] == ord("?") and len(key) > 1:
        return _metadata(service, key, end)
    if key[0] == ord("@"):
        return _hashes(service, key, end)
    service.counters.cmd_get += 1

    def finish(record: Record | None) -> Buffers:
        return _value_reply(service, key, record, with_version, end)

    return answer(service.store.get(key), finish)


def _value_reply(service: Service, key: bytes, record: Record | None, with_version: bool, end: bytes) -> Buffers:
    if record is None:
        service.counters.get_misses += 1
        return end
    service.counters.get_hits += 1
    value = record.value
    if with_version:
        line = b"VALUE %b %d %d %d\r\n" % (key, record.flags, len(value), record.version)
    else:
        line = b"VALUE %b %d %d\r\n" % (key, record.flags, len(value))
    return with_block(line, value, b"\r\n" + end)


def _metadata(service: Service, key: bytes, end: bytes) -> Buffers | Pending:
    def finish(record: Record | None) -> Buffers:
        if record is None:
            return end
        kind = b"tombstone" if record.tombstone else b"value"
        text = b"version=%d checksum=%016x kind=%b flags=%d size=%d expires=%d" % (
            record.version,
            record.checksum,
            kind,
            record.flags,
            record.size,
            record.expires,
        )
        return b"VALUE %b 0 %d\r\n%b\r\n%b" % (key, len(text), text, end)

    if "replica" in service.offers:
        return answer(service.replica.inspect(key[1:]), finish)
    return answer(service.store.head(key[1:]), finish)


def _hashes(service: Service, key: bytes, end: bytes) -> Buffers | Pending:
    comparable = service.comparable
    held = key[1:2] == b"?"
    prefix = key[2:] if held else key[1:]
    if not is_prefix(prefix):
        raise BadRequest("get @ takes up to 16 lowercase hex digits")

    def finish(text: bytes) -> Buffers:
        return with_block(b"VALUE %b 0 %d\r\n" % (key, len(text)), text, b"\r\n" + end)

    return answer(service.refillable.hashes_held(prefix) if held else comparable.hashes(prefix), finish)


def parse_gat(command: Command, words: list[bytes]) -> Request:
    """`gat <exptime> <key>*`: the arguments are the exptime as sent, and the keys."""
    exptime = exptime_of(words[1])
    keys = tuple(key_of(word) for word in words[2:])
    return Request(command, keys[0] if len(keys) == 1 else b"", (exptime, keys))


def gat(service: Service, request: Request) -> Answer:
    """Give the keys a new expiry, and answer their values."""
    return _gat_many(service, request.arguments, False)


def gats(service: Service, request: Request) -> Answer:
    """The same with versions."""
    return _gat_many(service, request.arguments, True)


def _gat_many(service: Service, arguments: tuple[int, tuple[bytes, ...]], with_version: bool) -> Stream:
    exptime, keys = arguments
    expires = absolute_expiry(exptime, service.now())

    def parts() -> Iterator[Buffers | Pending]:
        for key in keys:
            yield _gat_one(service, key, expires, with_version)
        yield END

    return Stream(parts())


def _gat_one(service: Service, key: bytes, expires: int, with_version: bool) -> Buffers | Pending:
    service.counters.cmd_get += 1
    service.counters.cmd_touch += 1

    def finish(result: tuple[Change, Record | None, Written]) -> Buffers:
        _, seen, written = result
        if seen is None:
            service.counters.touch_misses += 1
        else:
            service.counters.touch_hits += 1
            seen = seen.replaced(version=written.version)
        return _value_reply(service, key, seen, with_version, b"")

    return answer(service.updater.update(key, with_expiry(expires)), finish)


def with_expiry(expires: int) -> Callable[[Record | None], Change]:
    """The change that keeps a record as it is but for its expiry."""

    def change(seen: Record | None) -> Change:
        if seen is None or seen.expires == expires:
            return Change(keep=True)
        return Change(value=seen.value, flags=seen.flags, expires=expires)

    return change


GET: Final = Command(b"get", parse_get, get, words_min=2, words_max=WORDS_MAX)
GET_ONE: Final = Command(b"get", parse_get, get_one)
COMMANDS: Final = (
    GET,
    Command(b"gets", parse_get, gets, words_min=2, words_max=WORDS_MAX),
    Command(b"gat", parse_gat, gat, words_min=3, words_max=WORDS_MAX, needs="updater", writes=True),
    Command(b"gats", parse_gat, gats, words_min=3, words_max=WORDS_MAX, needs="updater", writes=True),
)


def get_lane(line: Line) -> Request | None:
    """One key that isn't reserved: nearly all gets."""
    line.takes(b"get ")
    key = line.key()
    return Request(GET_ONE, key, None) if line.ends() else None
