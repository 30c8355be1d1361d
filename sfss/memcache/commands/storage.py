"""set, add, replace, append, prepend, cas: a line, a block, one word of reply.

All but set decide by what is there, so they need a store that updates atomically.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sfss.errors import TooLarge
from sfss.memcache.answers import Answer, answer
from sfss.memcache.commands.words import exptime_of, is_noreply, key_of, number_of
from sfss.memcache.line import Line
from sfss.memcache.numbers import FLAGS_MAX, VERSION_MAX, absolute_expiry
from sfss.memcache.requests import Command, Request
from sfss.memcache.service import Service
from sfss.store import WIRE_VALUE_BYTES_MAX, Change, Record, Written

STORED: Final = b"STORED\r\n"
NOT_STORED: Final = b"NOT_STORED\r\n"
EXISTS: Final = b"EXISTS\r\n"
NOT_FOUND: Final = b"NOT_FOUND\r\n"

_SIZE_MAX: Final = 2**62


def parse(command: Command, words: list[bytes]) -> Request:
    """`<name> <key> <flags> <exptime> <bytes> [<cas unique>] [noreply]`; arguments: flags, exptime, cas unique."""
    fields = 6 if command.name == b"cas" else 5
    noreply = is_noreply(words, fields)
    key = key_of(words[1])
    flags = number_of(words[2], FLAGS_MAX)
    exptime = exptime_of(words[3])
    size = number_of(words[4], _SIZE_MAX, "bad data chunk")
    unique = number_of(words[5], VERSION_MAX) if fields == 6 else 0
    return Request(command, key, (flags, exptime, unique), size, noreply)


def set_(service: Service, request: Request) -> Answer:
    """Create or replace."""
    flags, exptime, _ = request.arguments
    service.counters.cmd_set += 1
    expires = absolute_expiry(exptime, service.now()) if exptime else 0
    return answer(service.store.set(request.key, request.value, flags, expires), _stored)


def _stored(written: Written) -> bytes:
    return STORED


def add_change(value: bytes, flags: int, expires: int) -> Callable[[Record | None], Change]:
    """Store only where nothing is."""
    return lambda seen: Change(value=value, flags=flags, expires=expires) if seen is None else Change(keep=True)


def replace_change(value: bytes, flags: int, expires: int) -> Callable[[Record | None], Change]:
    """Store only where something is."""
    return lambda seen: Change(keep=True) if seen is None else Change(value=value, flags=flags, expires=expires)


def extend_change(value: bytes, before: bool) -> Callable[[Record | None], Change]:
    """Put `value` after (or before) what is there; its flags and expiry stay."""

    def change(seen: Record | None) -> Change:
        if seen is None:
            return Change(keep=True)
        if seen.size + len(value) > WIRE_VALUE_BYTES_MAX:
            raise TooLarge(f"{seen.size} + {len(value)} bytes; the limit is {WIRE_VALUE_BYTES_MAX}")
        extended = value + seen.value if before else seen.value + value
        return Change(value=extended, flags=seen.flags, expires=seen.expires)

    return change


def _update(service: Service, request: Request, change: Callable[[Record | None], Change]) -> Answer:
    service.counters.cmd_set += 1

    def finish(result: tuple[Change, Record | None, Written]) -> bytes:
        return NOT_STORED if result[0].keep else STORED

    return answer(service.updater.update(request.key, change), finish)


def add(service: Service, request: Request) -> Answer:
    """Create only."""
    flags, exptime, _ = request.arguments
    return _update(service, request, add_change(request.value, flags, absolute_expiry(exptime, service.now())))


def replace(service: Service, request: Request) -> Answer:
    """Replace only."""
    flags, exptime, _ = request.arguments
    return _update(service, request, replace_change(request.value, flags, absolute_expiry(exptime, service.now())))


def append(service: Service, request: Request) -> Answer:
    """Add after what is there."""
    return _update(service, request, extend_change(request.value, before=False))


def prepend(service: Service, request: Request) -> Answer:
    """Add before what is there."""
    return _update(service, request, extend_change(request.value, before=True))


def cas(service: Service, request: Request) -> Answer:
    """Replace the version named only."""
    flags, exptime, unique = request.arguments
    value, expires = request.value, absolute_expiry(exptime, service.now())
    service.counters.cmd_set += 1

    def change(seen: Record | None) -> Change:
        if seen is None:
            return Change(NOT_FOUND, keep=True)
        if seen.version != unique:
            return Change(EXISTS, keep=True)
        return Change(STORED, value=value, flags=flags, expires=expires)

    def finish(result: tuple[Change, Record | None, Written]) -> bytes:
        reply = result[0].answer
        counters = service.counters
        counters.cas_hits += reply is STORED
        counters.cas_badval += reply is EXISTS
        counters.cas_misses += reply is NOT_FOUND
        return STORED if reply is STORED else EXISTS if reply is EXISTS else NOT_FOUND

    return answer(service.updater.update(request.key, change), finish)


SET: Final = Command(b"set", parse, set_, words_min=5, words_max=6, size_at=4, writes=True)
COMMANDS: Final = (
    SET,
    Command(b"add", parse, add, words_min=5, words_max=6, size_at=4, writes=True, needs="updater"),
    Command(b"replace", parse, replace, words_min=5, words_max=6, size_at=4, writes=True, needs="updater"),
    Command(b"append", parse, append, words_min=5, words_max=6, size_at=4, writes=True, needs="updater"),
    Command(b"prepend", parse, prepend, words_min=5, words_max=6, size_at=4, writes=True, needs="updater"),
    Command(b"cas", parse, cas, words_min=6, words_max=7, size_at=4, writes=True, needs="updater"),
)


def set_lane(line: Line) -> Request | None:
    """A key that isn't reserved, and numbers whose digits alone say that they are in range."""
    line.takes(b"set ")
    key = line.key()
    line.takes(b" ")
    flags = line.number(9)
    line.takes(b" ")
    exptime = line.number(10)
    line.takes(b" ")
    size = line.number(8)
    return Request(SET, key, (flags, exptime, 0), size) if line.ends() else None
