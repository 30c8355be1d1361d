"""mg, ms and md in sfss's own form (`sfss.memcache.own`): what coordinators and web servers send all the time.

The same requests in any other order of flags go through `meta_get`, `meta_set` and `meta_delete`, with the same
answers; these handlers save 5 to 8 µs of taking flags apart and putting them together again.
"""

from __future__ import annotations

from typing import Final

from sfss.memcache import own
from sfss.memcache.answers import Answer, Buffers, Pending, answer, with_block
from sfss.memcache.commands.words import call_of
from sfss.memcache.line import Line
from sfss.memcache.numbers import FLAGS_MAX
from sfss.memcache.requests import Command, Request
from sfss.memcache.service import Service
from sfss.promise import Promise
from sfss.store import NO_CALL, Applied, Call, Record, Written, hex16


def _get(service: Service, request: Request) -> Answer:
    with_value, opaque = request.arguments
    service.counters.cmd_get += 1
    store = service.store
    reply = store.get(request.key, request.call) if with_value else store.head(request.key, request.call)
    if isinstance(reply, Promise):
        return Pending(reply, lambda record: _found(service, record, with_value, False, opaque))
    return _found(service, reply, with_value, False, opaque)


def _read(service: Service, request: Request) -> Answer:
    with_value, opaque = request.arguments
    service.counters.cmd_get += 1
    replica = service.replica
    reply = replica.read(request.key, request.call) if with_value else replica.inspect(request.key, request.call)
    if isinstance(reply, Promise):
        return Pending(reply, lambda record: _found(service, record, with_value, True, opaque))
    return _found(service, reply, with_value, True, opaque)


def _found(service: Service, record: Record | None, with_value: object, raw: bool, opaque: bytes | None) -> Buffers:
    ending = _ending(opaque)
    if record is None:
        service.counters.get_misses += 1
        return b"EN" + ending
    size, flags, expires = record.size, record.flags, record.expires
    version, checksum = record.version, hex16(record.checksum)
    kind = b"" if not raw else b" Yt" if record.tombstone else b" Yv"
    if record.tombstone:
        service.counters.get_misses += 1
    else:
        service.counters.get_hits += 1
        if with_value:
            line = b"VA %d s%d f%d A%d V%d H%b%b%b" % (size, size, flags, expires, version, checksum, kind, ending)
            return with_block(line, record.value)
    return b"HD s%d f%d A%d V%d H%b%b%b" % (size, flags, expires, version, checksum, kind, ending)


def _ending(opaque: bytes | None) -> bytes:
    return b" O%b\r\n" % opaque if opaque else b"\r\n"


def _set(service: Service, request: Request) -> Answer:
    flags, expires, opaque = request.arguments
    service.counters.cmd_set += 1
    reply = service.store.set(request.key, request.value, flags, expires, request.call)
    return answer(reply, lambda written: _written(written, opaque))


def _delete(service: Service, request: Request) -> Answer:
    opaque: bytes | None = request.arguments
    service.counters.cmd_delete += 1

    def finish(written: Written | None) -> bytes:
        if written is not None:
            service.counters.delete_hits += 1
            return _written(written, opaque)
        service.counters.delete_misses += 1
        return b"NF" + _ending(opaque)

    return answer(service.store.delete(request.key, request.call), finish)


def _written(written: Written, opaque: bytes | None) -> bytes:
    checksum, ending = hex16(written.checksum), _ending(opaque)
    return b"HD V%d H%b B%d/%d%b" % (written.version, checksum, written.durable, written.copies, ending)


def _apply(service: Service, request: Request) -> Answer:
    tombstone, flags, expires, version, checksum, opaque = request.arguments
    ending = _ending(opaque)
    value = request.value
    if tombstone:
        service.counters.cmd_delete += 1
    else:
        service.counters.cmd_set += 1
    record = Record(value, len(value), flags, expires, version, checksum, tombstone)

    def finish(applied: Applied) -> bytes:
        code = b"HD" if applied.accepted else b"NS"
        durable = 1 if applied.durable else 0
        return b"%b V%d H%b B%d/1%b" % (code, applied.version, hex16(applied.checksum), durable, ending)

    return answer(service.replica.apply(request.key, record, request.call), finish)


def _no_long_way(command: Command, words: list[bytes]) -> Request:
    raise NotImplementedError("own forms are read by their lanes")


GET: Final = Command(b"mg", _no_long_way, _get)
READ: Final = Command(b"mg", _no_long_way, _read, needs="replica")
SET: Final = Command(b"ms", _no_long_way, _set, size_at=2, writes=True)
SET_STAMPED: Final = Command(b"ms", _no_long_way, _apply, size_at=2, writes=True, needs="replica")
DELETE: Final = Command(b"md", _no_long_way, _delete, writes=True)
DELETE_STAMPED: Final = Command(b"md", _no_long_way, _apply, writes=True, needs="replica")


def mg_lane(line: Line) -> Request | None:
    line.takes(b"mg ")
    key = line.key()
    value = line.has(b" v")
    line.takes(b" s f A V H")
    raw = line.has(b" Y")
    call, opaque = _tail_of(line)
    return Request(READ if raw else GET, key, (value, opaque), -1, False, False, call) if line.ends() else None


def ms_lane(line: Line) -> Request | None:
    line.takes(b"ms ")
    key = line.key()
    line.takes(b" ")
    size = line.number(own.SIZE_DIGITS)
    line.takes(b" F")
    flags = line.number(own.FLAGS_DIGITS)
    line.takes(b" A")
    expires = line.number(own.EXPIRY_DIGITS)
    stamped = not line.has(b" V H B")
    version = checksum = 0
    shared = False
    if stamped:
        version, checksum = _stamp_of(line)
    else:
        shared = line.has(b" Q")
    call, opaque = _tail_of(line)
    if not line.ends() or flags > FLAGS_MAX:
        return None
    if stamped:
        arguments = (False, flags, expires, version, checksum, opaque)
        return Request(SET_STAMPED, key, arguments, size, False, False, call)
    return Request(SET, key, (flags, expires, opaque), size, False, False, call.as_shared() if shared else call)


def md_lane(line: Line) -> Request | None:
    line.takes(b"md ")
    key = line.key()
    if line.has(b" V H B"):
        shared = line.has(b" Q")
        call, opaque = _tail_of(line)
        if not line.ends():
            return None
        return Request(DELETE, key, opaque, -1, False, False, call.as_shared() if shared else call)
    expires = line.number(own.EXPIRY_DIGITS) if line.has(b" A") else 0
    version, checksum = _stamp_of(line)
    call, opaque = _tail_of(line)
    if not line.ends():
        return None
    return Request(DELETE_STAMPED, key, (True, 0, expires, version, checksum, opaque), -1, False, False, call)


def _stamp_of(line: Line) -> tuple[int, int]:
    """Version and checksum of a record that is stamped."""
    line.takes(b" V")
    version = line.number(own.STAMP_DIGITS)
    line.takes(b" H")
    checksum = line.hex16()
    line.takes(b" B")
    return version, checksum


def _tail_of(line: Line) -> tuple[Call, bytes | None]:
    """What the flags G, U and O say."""
    ring = line.number(9) if line.has(b" G") else 0
    milliseconds = line.number(9) if line.has(b" U") else None
    opaque = line.opaque()
    return call_of(ring, milliseconds, opaque) if line.fits else NO_CALL, opaque
