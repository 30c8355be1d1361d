"""ma: count one key up or down."""

from __future__ import annotations

from sfss.errors import Unsupported
from sfss.memcache.answers import Answer, answer
from sfss.memcache.commands.changes import counted
from sfss.memcache.commands.meta import Meta, letters, meta_line, mode_of, nothing_known, read_meta
from sfss.memcache.numbers import absolute_expiry, remaining_s
from sfss.memcache.requests import Command, Request
from sfss.memcache.service import Service
from sfss.store import Change, Record, Written

_MODES = {
    letter: mode for mode, words in {"up": (b"I", b"i", b"+"), "down": (b"D", b"d", b"-")}.items() for letter in words
}


def _parse(command: Command, words: list[bytes]) -> Request:
    request = read_meta(command, words, 2)
    meta: Meta = request.arguments
    mode_of(meta, _MODES, "up")
    if b"E" in meta.flags:
        raise Unsupported("ma with E: versions are made by the server")
    return request


def _count(service: Service, request: Request) -> Answer:
    meta: Meta = request.arguments
    numbers = meta.numbers
    down = mode_of(meta, _MODES, "up") == "down"
    now = service.now()

    def change(seen: Record | None) -> Change:
        if seen is None:
            if b"N" not in numbers:
                return Change(b"NF", keep=True)
            return Change(value=b"%d" % numbers.get(b"J", 0), expires=absolute_expiry(numbers[b"N"], now))
        if b"C" in numbers and seen.version != numbers[b"C"]:
            return Change(b"EX", keep=True)
        value = b"%d" % counted(seen.value, numbers.get(b"D", 1), down)
        expires = absolute_expiry(numbers[b"T"], now) if b"T" in numbers else seen.expires
        return Change(value=value, flags=seen.flags, expires=expires)

    def finish(result: tuple[Change, Record | None, Written]) -> bytes:
        done, _, written = result
        if done.keep:
            return meta_line(done.answer if isinstance(done.answer, bytes) else b"NF", meta, nothing_known)

        def fact(letter: bytes) -> bytes | None:
            match letter:
                case b"t":
                    return b"%d" % remaining_s(done.expires, now)
                case b"c":
                    return b"%d" % written.version
            return None

        if meta.quiet:
            return b""
        if b"v" in meta.flags:
            return meta_line(b"VA %d" % len(done.value), meta, fact) + done.value + b"\r\n"
        return meta_line(b"HD", meta, fact)

    return answer(service.updater.update(request.key, change, request.call), finish)


COMMANDS = (
    Command(b"ma", _parse, _count, words_min=2, writes=True, needs="updater", flags=letters("bCENJDTMqtcvkOLPGU")),
)
