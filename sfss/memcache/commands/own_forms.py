"""mg, ms and md in sfss's own form (`sfss.memcache.own`): what coordinators and web servers send all the time.

The same requests in any other order of flags go through `meta_get`, `meta_set` and `meta_delete`, with the same
answers; these handlers save 5 to 8 µs of taking flags apart and putting them together again.
"""

from __future__ import annotations

from typing import Any, Final

from sfss.groups import Item, each
from sfss.memcache import own
from sfss.memcache.answers import Answer, Buffers, Pending, answer, with_block
from sfss.memcache.commands.dispatch import error_line_of
from sfss.memcache.commands.words import call_of
from sfss.memcache.line import Line
from sfss.memcache.numbers import FLAGS_MAX
from sfss.memcache.requests import Command, Request
from sfss.memcache.service import Service
from sfss.promise import Promise
from sfss.store import NO_CALL, Applied, Call, Record, Written, hex16

_A: Final = 0x41
_B: Final = 0x42
_F: Final = 0x46
_H: Final = 0x48
_V: Final = 0x56
_ZERO: Final = 0x30
_STAR: Final = 0x2A
"""The first byte of a group's opaque."""


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
    line = _found_line(service, record, with_value, raw, _ending(opaque))
    return with_block(line, record.value) if record is not None and line[0] == _V else line


def _found_line(service: Service, record: Record | None, with_value: object, raw: bool, ending: bytes) -> bytes:
    """The answer, without the block that one with VA announces."""
    if record is None:
        service.counters.get_misses += 1
        return b"EN" + ending
    words = record.words or own.words_of(record)
    kind = b"" if not raw else b" Yt" if record.tombstone else b" Yv"
    if record.tombstone:
        service.counters.get_misses += 1
    else:
        service.counters.get_hits += 1
        if with_value:
            return b"VA %d%b%b%b" % (record.size, words, kind, ending)
    return b"HD%b%b%b" % (words, kind, ending)


def _ending(opaque: bytes | None) -> bytes:
    return b" O%b\r\n" % opaque if opaque else b"\r\n"


def _set(service: Service, request: Request) -> Answer:
    flags, expires, opaque = request.arguments
    service.counters.cmd_set += 1
    reply = service.store.set(request.key, request.value, flags, expires, request.call)
    return answer(reply, lambda written: _written(written, _ending(opaque)))


def _delete(service: Service, request: Request) -> Answer:
    opaque: bytes | None = request.arguments
    service.counters.cmd_delete += 1

    def finish(written: Written | None) -> bytes:
        if written is not None:
            service.counters.delete_hits += 1
            return _written(written, _ending(opaque))
        service.counters.delete_misses += 1
        return b"NF" + _ending(opaque)

    return answer(service.store.delete(request.key, request.call), finish)


def _written(written: Written, ending: bytes) -> bytes:
    # Its words are those that the nodes were sent: 1,000 instructions less than to say them anew.
    words = written.words or b"%d H%b" % (written.version, hex16(written.checksum))
    return b"HD V%b B%d/%d%b" % (words, written.durable, written.copies, ending)


def _apply(service: Service, request: Request) -> Answer:
    record = _record_of(request)
    if record.tombstone:
        service.counters.cmd_delete += 1
    else:
        service.counters.cmd_set += 1
    stamp, ending = request.stamp, _ending(request.arguments)
    reply = service.replica.apply(request.key, record, request.call)
    return answer(reply, lambda applied: _applied(applied, stamp, ending))


def _record_of(request: Request) -> Record:
    record = request.record
    assert record is not None
    record.value = request.value
    return record


def _applied(applied: Applied, stamp: bytes, ending: bytes) -> bytes:
    if stamp and applied.accepted and applied.durable:
        return b"HD%b1/1%b" % (stamp, ending)  # in the words of its line: a fifth of the price
    code = b"HD" if applied.accepted else b"NS"
    durable = 1 if applied.durable else 0
    return b"%b V%d H%b B%d/1%b" % (code, applied.version, hex16(applied.checksum), durable, ending)


# Groups: as many answers as there are requests, each in its form, in one piece.


def _get_many(service: Service, request: Request) -> Answer:
    keys, call = _keys_of(request), request.call
    service.counters.cmd_get += len(keys)
    with_value, _ = request.arguments
    store, grouped = service.store, service.grouped
    if not with_value:
        reply = each(lambda key: store.head(key, call), keys)
    elif grouped is None:
        reply = each(lambda key: store.get(key, call), keys)
    else:
        reply = grouped.get_many(keys, call)
    return answer(reply, lambda outcomes: _found_many(service, request, outcomes, False))


def _read_many(service: Service, request: Request) -> Answer:
    keys, call = _keys_of(request), request.call
    service.counters.cmd_get += len(keys)
    with_value, _ = request.arguments
    replica, grouped = service.replica, service.grouped_replica
    if grouped is not None:
        reply = grouped.read_group(keys, bool(with_value), call)
    elif with_value:
        reply = each(lambda key: replica.read(key, call), keys)
    else:
        reply = each(lambda key: replica.inspect(key, call), keys)
    return answer(reply, lambda outcomes: _found_many(service, request, outcomes, True))


def _keys_of(request: Request) -> list[bytes]:
    return [request.key] if request.keys is None else request.keys


def _found_many(service: Service, request: Request, outcomes: list[Any], raw: bool) -> bytes:
    if len(outcomes) != request.lines:
        raise RuntimeError(f"{len(outcomes)} outcomes for {request.lines} keys")
    with_value, opaque = request.arguments
    ending = _ending(opaque)
    of_file = b" Yv" + ending if raw else ending
    hits = 0
    pieces: list[bytes] = []
    for outcome in outcomes:
        if isinstance(outcome, Record) and not outcome.tombstone:
            # What is said of it is there already: joined with all else, 800 instructions less than in a line.
            hits += 1
            pieces.append(b"VA %d" % outcome.size if with_value else b"HD")
            pieces.append(outcome.words or own.words_of(outcome))
            pieces.append(of_file)
            if with_value:
                pieces.append(outcome.value)
                pieces.append(b"\r\n")
        elif isinstance(outcome, BaseException):
            pieces.append(error_line_of(service, request, outcome))
        else:
            pieces.append(_found_line(service, outcome, with_value, raw, ending))
    service.counters.get_hits += hits
    return b"".join(pieces)


def _set_many(service: Service, first: Request) -> Answer:
    requests = first.members
    service.counters.cmd_set += len(requests)
    store, grouped = service.store, service.grouped
    items: list[Item] = []
    for request in requests:
        flags, expires, _ = request.arguments
        items.append(Item(request.key, request.value, flags, expires))
    call = first.call
    if grouped is None:
        reply = each(lambda item: store.set(item.key, item.value, item.flags, item.expires, call), items)
    else:
        reply = grouped.set_many(items, call)
    return answer(reply, lambda outcomes: _written_many(service, requests, outcomes))


def _written_many(service: Service, requests: list[Request], outcomes: list[Any]) -> bytes:
    ending = _ending(requests[0].group)
    pieces: list[bytes] = []
    for request, outcome in zip(requests, outcomes, strict=True):
        if isinstance(outcome, Written):
            pieces.append(_written(outcome, ending))
        else:
            pieces.append(error_line_of(service, request, outcome))
    return b"".join(pieces)


def _apply_many(service: Service, first: Request) -> Answer:
    requests = first.members
    service.counters.cmd_set += len(requests)
    replica = service.replica
    grouped = service.grouped_replica
    if grouped is not None:
        keys = [request.key for request in requests]
        reply = grouped.apply_group(keys, [_record_of(request) for request in requests], first.call)
    else:
        reply = each(lambda request: replica.apply(request.key, _record_of(request), request.call), requests)
    return answer(reply, lambda outcomes: _applied_many(service, requests, outcomes))


def _applied_many(service: Service, requests: list[Request], outcomes: list[Any]) -> bytes:
    ending = _ending(requests[0].group)
    pieces: list[bytes] = []
    for request, outcome in zip(requests, outcomes, strict=True):
        if isinstance(outcome, Applied):
            pieces.append(_applied(outcome, request.stamp, ending))
        else:
            pieces.append(error_line_of(service, request, outcome))
    return b"".join(pieces)


def _set_like(line: Line, first: Request) -> Request | None:
    return _set_of(line, first)


def _no_long_way(command: Command, words: list[bytes]) -> Request:
    raise NotImplementedError("own forms are read by their lanes")


GET: Final = Command(b"mg", _no_long_way, _get, handle_many=_get_many)
READ: Final = Command(b"mg", _no_long_way, _read, needs="replica", handle_many=_read_many)
SET: Final = Command(b"ms", _no_long_way, _set, size_at=2, writes=True, handle_many=_set_many, like=_set_like)
SET_STAMPED: Final = Command(
    b"ms",
    _no_long_way,
    _apply,
    size_at=2,
    writes=True,
    needs="replica",
    handle_many=_apply_many,
    like=_set_like,
)
DELETE: Final = Command(b"md", _no_long_way, _delete, writes=True)
DELETE_STAMPED: Final = Command(b"md", _no_long_way, _apply, writes=True, needs="replica")


def mg_lane(line: Line) -> Request | None:
    line.takes(b"mg ")
    key = line.key()
    value = line.has(b" v")
    line.takes(b" s f A V H")
    raw = line.has(b" Y")
    call, opaque = _tail_of(line)
    if not line.ends():
        return None
    return _marked(Request(READ if raw else GET, key, (value, opaque), -1, False, False, call), opaque)


def ms_lane(line: Line) -> Request | None:
    return _set_of(line, None)


def _set_of(line: Line, first: Request | None) -> Request | None:
    """The request of a line; of one that ends as that of `first`, up to there."""
    line.takes(b"ms ")
    key = line.key()
    line.takes(b" ")
    size = line.number(own.SIZE_DIGITS)
    line.takes_flag(_F)
    flags = line.number(own.FLAGS_DIGITS)
    line.takes_flag(_A)
    expires = line.number(own.EXPIRY_DIGITS)
    begin = line.at
    stamped = not line.has(b" V H B")
    version = checksum = 0
    shared = False
    stamp = b""
    if stamped:
        version, checksum = _stamp_of(line)
        stamp = line.since(begin) if line.fits else b""
    if first is not None:
        if not line.fits or flags > FLAGS_MAX or stamped != (first.command is SET_STAMPED):
            return None
        call, opaque = first.call, first.group
    else:
        shared = not stamped and line.has(b" Q")
        call, opaque = _tail_of(line)
        if not line.ends() or flags > FLAGS_MAX:
            return None
    if stamped:
        request = _marked(Request(SET_STAMPED, key, opaque, size, False, False, call), opaque)
        request.record = Record(b"", size, flags, expires, version, checksum, False)
        if stamp[2] != _ZERO:  # else it isn't as we say it
            request.stamp = stamp
        return request
    call = call.as_shared() if shared else call
    return _marked(Request(SET, key, (flags, expires, opaque), size, False, False, call), opaque)


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
    request = Request(DELETE_STAMPED, key, opaque, -1, False, False, call)
    request.record = Record(b"", 0, 0, expires, version, checksum, True)
    return request


def _marked(request: Request, opaque: bytes | None) -> Request:
    """The request, as one of a group if its opaque says so."""
    if opaque is not None and opaque[0] == _STAR:
        request.group = opaque
    return request


def _stamp_of(line: Line) -> tuple[int, int]:
    """Version and checksum of a record that is stamped."""
    line.takes_flag(_V)
    version = line.number(own.STAMP_DIGITS)
    line.takes_flag(_H)
    checksum = line.hex16()
    line.takes_flag(_B)
    return version, checksum


def _tail_of(line: Line) -> tuple[Call, bytes | None]:
    """What the flags G, U and O say."""
    ring = line.number(9) if line.has(b" G") else 0
    milliseconds = line.number(9) if line.has(b" U") else None
    opaque = line.opaque()
    return call_of(ring, milliseconds, opaque) if line.fits else NO_CALL, opaque
