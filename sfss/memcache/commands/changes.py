"""delete, incr, decr, touch: one key, no block."""

from __future__ import annotations

from collections.abc import Callable

from sfss.errors import BadRequest
from sfss.memcache.answers import Answer, answer
from sfss.memcache.commands.retrieval import with_expiry
from sfss.memcache.commands.storage import NOT_FOUND
from sfss.memcache.commands.words import BAD_FORMAT, exptime_of, is_noreply, key_of, number_of
from sfss.memcache.numbers import VERSION_MAX, absolute_expiry, decimal
from sfss.memcache.requests import Command, Request
from sfss.memcache.service import Service
from sfss.store import Change, Record, Written

DELETED = b"DELETED\r\n"
TOUCHED = b"TOUCHED\r\n"
NOT_A_NUMBER = "cannot increment or decrement non-numeric value"


def parse_delete(command: Command, words: list[bytes]) -> Request:
    """`delete <key> [0] [noreply]`; the 0 is what older clients send as a time."""
    if len(words) > 2 and words[2] == b"0":
        del words[2]
    if len(words) > 3 or (len(words) == 3 and words[2] != b"noreply"):
        raise BadRequest(f"{BAD_FORMAT}.  Usage: delete <key> [noreply]")
    return Request(command, key_of(words[1]), None, noreply=len(words) == 3)


def delete(service: Service, request: Request) -> Answer:
    """Delete what is there."""
    service.counters.cmd_delete += 1

    def finish(written: Written | None) -> bytes:
        if written is None:
            service.counters.delete_misses += 1
            return NOT_FOUND
        service.counters.delete_hits += 1
        return DELETED

    return answer(service.store.delete(request.key), finish)


def parse_count(command: Command, words: list[bytes]) -> Request:
    """`incr <key> <delta> [noreply]`; the argument is the delta."""
    noreply = is_noreply(words, 3)
    key = key_of(words[1])
    delta = number_of(words[2], VERSION_MAX, "invalid numeric delta argument")
    return Request(command, key, delta, noreply=noreply)


def counted(value: bytes, delta: int, down: bool) -> int:
    """The number that a value and a delta make: 64 bits, wrapping upwards, stopping at 0 downwards."""
    number = decimal(value.rstrip(b" "), VERSION_MAX)
    if number is None:
        raise BadRequest(NOT_A_NUMBER)
    return max(0, number - delta) if down else (number + delta) & VERSION_MAX


def _count(service: Service, request: Request, down: bool) -> Answer:
    def change(seen: Record | None) -> Change:
        if seen is None:
            return Change(NOT_FOUND, keep=True)
        text = b"%d" % counted(seen.value, request.arguments, down)
        return Change(text + b"\r\n", value=text, flags=seen.flags, expires=seen.expires)

    return answer(service.updater.update(request.key, change), _answer_of)


def _answer_of(result: tuple[Change, Record | None, Written]) -> bytes:
    reply = result[0].answer
    return reply if isinstance(reply, bytes) else NOT_FOUND


def incr(service: Service, request: Request) -> Answer:
    """Count up."""
    return _count(service, request, down=False)


def decr(service: Service, request: Request) -> Answer:
    """Count down."""
    return _count(service, request, down=True)


def parse_touch(command: Command, words: list[bytes]) -> Request:
    """`touch <key> <exptime> [noreply]`; the argument is the exptime as sent."""
    noreply = is_noreply(words, 3)
    return Request(command, key_of(words[1]), exptime_of(words[2]), noreply=noreply)


def touch(service: Service, request: Request) -> Answer:
    """Give what is there another expiry."""
    service.counters.cmd_touch += 1

    def finish(result: tuple[Change, Record | None, Written]) -> bytes:
        if result[1] is None:
            service.counters.touch_misses += 1
            return NOT_FOUND
        service.counters.touch_hits += 1
        return TOUCHED

    change: Callable[[Record | None], Change] = with_expiry(absolute_expiry(request.arguments, service.now()))
    return answer(service.updater.update(request.key, change), finish)


COMMANDS = (
    Command(b"delete", parse_delete, delete, words_min=2, words_max=6, writes=True),
    Command(b"incr", parse_count, incr, words_min=3, words_max=4, writes=True, needs="updater"),
    Command(b"decr", parse_count, decr, words_min=3, words_max=4, writes=True, needs="updater"),
    Command(b"touch", parse_touch, touch, words_min=3, words_max=4, writes=True, needs="updater"),
)
