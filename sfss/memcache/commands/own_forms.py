"""mg, ms and md in sfss's own form (`sfss.memcache.own`): what coordinators and web servers send all the time.

The same requests in any other order of flags go through `meta_get`, `meta_set` and `meta_delete`, with the same
answers; these handlers save 5 to 8 µs of taking flags apart and putting them together again.
"""

from __future__ import annotations

import re
from typing import Final

from sfss.memcache import own
from sfss.memcache.answers import Answer, Buffers, Pending, answer, with_block
from sfss.memcache.commands.words import call_of
from sfss.memcache.numbers import FLAGS_MAX
from sfss.memcache.requests import Command, Lane, Request
from sfss.memcache.service import Service
from sfss.promise import Promise
from sfss.store import Applied, Call, Record, Written


def _call_of(ring: bytes | None, milliseconds: bytes | None, opaque: bytes | None) -> Call:
    return call_of(int(ring) if ring else 0, None if milliseconds is None else int(milliseconds), opaque)


def _get(service: Service, request: Request) -> Answer:
    with_value, _, opaque = request.arguments
    service.counters.cmd_get += 1
    store = service.store
    reply = store.get(request.key, request.call) if with_value else store.head(request.key, request.call)
    if isinstance(reply, Promise):
        return Pending(reply, lambda record: _found(service, record, with_value, False, opaque))
    return _found(service, reply, with_value, False, opaque)


def _read(service: Service, request: Request) -> Answer:
    with_value, _, opaque = request.arguments
    service.counters.cmd_get += 1
    replica = service.replica
    reply = replica.read(request.key, request.call) if with_value else replica.inspect(request.key, request.call)
    if isinstance(reply, Promise):
        return Pending(reply, lambda record: _found(service, record, with_value, True, opaque))
    return _found(service, reply, with_value, True, opaque)


def _found(service: Service, record: Record | None, with_value: object, raw: bool, opaque: bytes | None) -> Buffers:
    ending = b" O%b\r\n" % opaque if opaque else b"\r\n"
    if record is None:
        service.counters.get_misses += 1
        return b"EN" + ending
    size, flags, expires = record.size, record.flags, record.expires
    version, checksum = record.version, record.checksum
    kind = b"" if not raw else b" Yt" if record.tombstone else b" Yv"
    if record.tombstone:
        service.counters.get_misses += 1
    else:
        service.counters.get_hits += 1
        if with_value:
            line = b"VA %d s%d f%d A%d V%d H%016x%b%b" % (size, size, flags, expires, version, checksum, kind, ending)
            return with_block(line, record.value)
    return b"HD s%d f%d A%d V%d H%016x%b%b" % (size, flags, expires, version, checksum, kind, ending)


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
        return b"NF O%b\r\n" % opaque if opaque else b"NF\r\n"

    return answer(service.store.delete(request.key, request.call), finish)


def _written(written: Written, opaque: bytes | None) -> bytes:
    told = b"HD V%d H%016x B%d/%d" % (written.version, written.checksum, written.durable, written.copies)
    return told + (b" O%b\r\n" % opaque if opaque else b"\r\n")


def _apply(service: Service, request: Request) -> Answer:
    tombstone, flags, expires, version, checksum, opaque = request.arguments
    value = request.value
    if tombstone:
        service.counters.cmd_delete += 1
    else:
        service.counters.cmd_set += 1
    record = Record(value, len(value), flags, expires, version, checksum, tombstone)

    def finish(applied: Applied) -> bytes:
        code = b"HD" if applied.accepted else b"NS"
        told = b"%b V%d H%016x B%d/1" % (code, applied.version, applied.checksum, applied.durable)
        return told + (b" O%b\r\n" % opaque if opaque else b"\r\n")

    return answer(service.replica.apply(request.key, record, request.call), finish)


def _no_long_way(command: Command, words: list[bytes]) -> Request:
    raise NotImplementedError("own forms are read by their lanes")


GET: Final = Command(b"mg", _no_long_way, _get)
READ: Final = Command(b"mg", _no_long_way, _read, needs="replica")
SET: Final = Command(b"ms", _no_long_way, _set, size_at=2, writes=True)
SET_STAMPED: Final = Command(b"ms", _no_long_way, _apply, size_at=2, writes=True, needs="replica")
DELETE: Final = Command(b"md", _no_long_way, _delete, writes=True)
DELETE_STAMPED: Final = Command(b"md", _no_long_way, _apply, writes=True, needs="replica")


def _make_mg(match: re.Match[bytes]) -> Request:
    key, value, raw, ring, milliseconds, opaque = match.groups()
    call = _call_of(ring, milliseconds, opaque)
    return Request(READ if raw else GET, key, (value, raw, opaque), -1, False, False, call)


def _make_ms(match: re.Match[bytes]) -> Request | None:
    key, size, flags_, expires, version, checksum, shared, ring, milliseconds, opaque = match.groups()
    flags = int(flags_)
    if flags > FLAGS_MAX or bool(version) is not bool(checksum):
        return None
    call = _call_of(ring, milliseconds, opaque)
    if version:
        stamped = (False, flags, int(expires), int(version), int(checksum, 16), opaque)
        return Request(SET_STAMPED, key, stamped, int(size), False, False, call)
    if shared:
        call = call.as_shared()
    return Request(SET, key, (flags, int(expires), opaque), int(size), False, False, call)


def _make_md(match: re.Match[bytes]) -> Request | None:
    key, expires, version, checksum, shared, ring, milliseconds, opaque = match.groups()
    call = _call_of(ring, milliseconds, opaque)
    if version and checksum:
        stamped = (True, 0, int(expires or 0), int(version), int(checksum, 16), opaque)
        return Request(DELETE_STAMPED, key, stamped, -1, False, False, call)
    if version or checksum or expires:
        return None
    if shared:
        call = call.as_shared()
    return Request(DELETE, key, opaque, -1, False, False, call)


MG_LANE: Final[Lane] = Lane(own.MG.match, _make_mg)
MS_LANE: Final[Lane] = Lane(own.MS.match, _make_ms)
MD_LANE: Final[Lane] = Lane(own.MD.match, _make_md)
