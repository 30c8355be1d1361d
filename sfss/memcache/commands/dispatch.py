"""Between the parser and the handlers: every refusal that depends on the server and not on the line alone."""

from __future__ import annotations

import logging
from typing import Final

from sfss.errors import BadKey, BadRequest, Expired, SfssError, Unsupported
from sfss.groups import LeftOut
from sfss.log import of_call
from sfss.memcache.answers import Answer
from sfss.memcache.errors import BUSY, FLUSH_NOT_ALLOWED, INTERNAL, UnknownCommand, error_line
from sfss.memcache.requests import Request
from sfss.memcache.service import Service
from sfss.store import NO_CALL

_QUESTION_MARK: Final = 0x3F
_AT: Final = 0x40
_log = logging.getLogger("sfss.memcache")


def carry_out(service: Service, request: Request) -> Answer:
    """Refuse a request, or have its handler answer it. Never raises."""
    command = request.command
    try:
        if request.needs not in service.offers:
            return error_reply(service, request, _not_offered(request))
        key = request.key
        if request.writes and key and (key[0] == _QUESTION_MARK or key[0] == _AT):
            reserved = BadKey(f"keys that begin with {chr(key[0])} are reserved")
            return error_reply(service, request, reserved)
        call = request.call
        if call is not NO_CALL and call.deadline <= service.monotonic():
            return error_reply(service, request, Expired("the deadline passed before the request was begun"))
        if command.handle_many is not None and request.lines > 1:
            return command.handle_many(service, request)
        return command.handle(service, request)
    except Exception as error:
        return error_reply(service, request, error)


def error_reply(service: Service, request: Request, error: BaseException) -> bytes:
    """The line for what a handler or a store raised, for each request of a group."""
    return error_line_of(service, request, error) * request.lines


def error_line_of(service: Service, request: Request, error: BaseException) -> bytes:
    """The line for one request. Anything but `SfssError` is a fault of ours, and logged."""
    if isinstance(error, LeftOut):
        return BUSY
    service.counters.errors += 1
    if isinstance(error, SfssError):
        return error_line(error)
    _log.error("%s failed", request.command.name.decode(), exc_info=error, extra=of_call(request.call))
    return INTERNAL


def _not_offered(request: Request) -> SfssError:
    name = request.command.name
    if name == b"sfss":
        return UnknownCommand(name.decode())
    if request.needs == "flushable":
        return BadRequest(FLUSH_NOT_ALLOWED)
    reason = {
        "updater": "reads, decides and writes, which needs consensus over the replicas",
        "replica": "raw records are what nodes keep",
    }[request.needs]
    return Unsupported(f"{name.decode()} {reason}")
