"""stats, version, verbosity, flush_all, mn and quit: commands without a key."""

from __future__ import annotations

from collections.abc import Mapping

from sfss.errors import BadRequest, Unsupported
from sfss.memcache.answers import CLOSE, Answer, answer
from sfss.memcache.commands.words import BAD_FORMAT, number_of
from sfss.memcache.errors import FLUSH_NOT_ALLOWED, UnknownCommand
from sfss.memcache.numbers import EXPTIME_MAX
from sfss.memcache.requests import Command, Request
from sfss.memcache.service import WIRE_VERSION, Service

OK = b"OK\r\n"
_CONTROL = dict.fromkeys((*range(32), 127), " ")


def _parse_bare(command: Command, words: list[bytes]) -> Request:
    return Request(command, b"", None)


def _parse_stats(command: Command, words: list[bytes]) -> Request:
    if b"noreply" in words:
        raise UnknownCommand("stats without a reply")
    return Request(command, b"", b" ".join(words[1:]).decode("ascii", "replace"))


def _stats(service: Service, request: Request) -> Answer:
    topic: str = request.arguments
    if topic == "":
        return answer(service.store.stats(), lambda figures: _stat_lines({**service.figures(), **figures}))
    if topic == "reset":
        service.counters.reset()
        return b"RESET\r\n"
    if topic == "settings":
        return _stat_lines(service.settings())
    if topic in ("items", "slabs", "conns"):
        return b"END\r\n"
    if topic == "sizes":
        return b"STAT sizes_status disabled\r\nEND\r\n"
    if topic.startswith("detail"):
        return OK
    return answer(service.store.stats(topic), _stat_lines)


def _stat_lines(figures: Mapping[str, str]) -> bytes:
    lines = [f"STAT {name} {value.translate(_CONTROL)}\r\n" for name, value in figures.items()]
    return "".join(lines).encode() + b"END\r\n"


def _version(service: Service, request: Request) -> Answer:
    return b"VERSION " + WIRE_VERSION.encode() + b"\r\n"


def _parse_verbosity(command: Command, words: list[bytes]) -> Request:
    noreply = words[-1] == b"noreply"
    if len(words) > 2 + noreply:
        raise UnknownCommand("verbosity takes one level")
    return Request(command, b"", None, noreply=noreply)


def _verbosity(service: Service, request: Request) -> Answer:
    return OK


def _parse_flush_all(command: Command, words: list[bytes]) -> Request:
    noreply = words[-1] == b"noreply"
    delays = words[1:-1] if noreply else words[1:]
    if len(delays) > 1:
        raise BadRequest(BAD_FORMAT)
    delay = number_of(delays[0], EXPTIME_MAX, "invalid exptime argument") if delays else 0
    return Request(command, b"", delay, noreply=noreply)


def _flush_all(service: Service, request: Request) -> Answer:
    if not service.allow_flush:
        raise BadRequest(FLUSH_NOT_ALLOWED)
    if request.arguments:
        raise Unsupported("flush_all with a delay")
    service.counters.cmd_flush += 1
    service.marks.clear()
    return answer(service.flushable.flush(), lambda _: OK)


def _mn(service: Service, request: Request) -> Answer:
    return b"MN\r\n"


def _quit(service: Service, request: Request) -> Answer:
    return CLOSE


COMMANDS = (
    Command(b"stats", _parse_stats, _stats, light=True),
    Command(b"version", _parse_bare, _version, light=True),
    Command(b"verbosity", _parse_verbosity, _verbosity, words_min=2, words_max=3, light=True),
    Command(b"flush_all", _parse_flush_all, _flush_all, words_max=3, writes=True, needs="flushable"),
    Command(b"mn", _parse_bare, _mn, words_max=1, light=True),
    Command(b"quit", _parse_bare, _quit, words_max=1, light=True),
)
