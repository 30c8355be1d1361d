"""mg and me: read one key, with everything that may be asked about it.

N (vivify), R (recache) and stale items are told apart by marks that the server keeps (`sfss.memcache.marks`); T is an
atomic update. All three need a store that updates atomically, because they promise that exactly one client wins.
"""

from __future__ import annotations

import math

from sfss.errors import BadRequest, Unsupported
from sfss.memcache.answers import Answer, Buffers, answer, with_block
from sfss.memcache.commands.meta import Meta, letters, meta_line, nothing_known, read_meta
from sfss.memcache.commands.retrieval import with_expiry
from sfss.memcache.commands.words import BAD_FORMAT, key_of
from sfss.memcache.marks import Mark
from sfss.memcache.numbers import absolute_expiry, remaining_s
from sfss.memcache.requests import Command, Request
from sfss.memcache.service import Service
from sfss.stamps import stamp_time
from sfss.store import Change, Record, Written

MISS = b"EN\r\n"


def _parse(command: Command, words: list[bytes]) -> Request:
    request = read_meta(command, words, 2)
    meta: Meta = request.arguments
    if b"E" in meta.flags:
        raise Unsupported("mg with E: versions are made by the server")
    if b"Y" in meta.flags:
        request.needs = "replica"
    if not meta.numbers.keys().isdisjoint((b"N", b"R", b"T")):
        if b"Y" in meta.flags:
            raise BadRequest("Y reads raw records, N R T change what is live")
        request.needs = "updater"
        request.writes = True
    return request


def _get(service: Service, request: Request) -> Answer:
    meta: Meta = request.arguments
    key, call = request.key, request.call
    with_value = b"v" in meta.flags
    service.counters.cmd_get += 1
    if b"T" in meta.numbers:
        service.counters.cmd_touch += 1
        expires = absolute_expiry(meta.numbers[b"T"], service.now())

        def finish_touch(result: tuple[Change, Record | None, Written]) -> Buffers:
            _, seen, written = result
            if seen is not None:
                seen = seen.replaced(expires=expires, version=written.version, checksum=written.checksum)
            return _reply(service, key, meta, seen)

        return answer(service.updater.update(key, with_expiry(expires), call), finish_touch)
    if b"Y" in meta.flags:
        replica = service.replica
        raw = replica.read(key, call) if with_value else replica.inspect(key, call)
        return answer(raw, lambda record: _raw_reply(service, meta, record))
    reply = service.store.get(key, call) if with_value else service.store.head(key, call)
    return answer(reply, lambda record: _reply(service, key, meta, record))


def _raw_reply(service: Service, meta: Meta, record: Record | None) -> Buffers:
    if record is None:
        service.counters.get_misses += 1
        return b"" if meta.quiet else meta_line(b"EN", meta, nothing_known)
    service.counters.get_hits += not record.tombstone
    service.counters.get_misses += record.tombstone
    return _found(service, meta, record, b"", service.now(), None)


def _reply(service: Service, key: bytes, meta: Meta, record: Record | None) -> Buffers:
    now = service.now()
    mark: Mark | None
    won = b""
    if record is None:
        mark = service.marks.stub(key, now)
        if mark is None and b"N" in meta.numbers:
            expires = absolute_expiry(meta.numbers[b"N"], now)
            mark = Mark(service.stub_stamps.next(), stub=True, stub_expires=expires)
            service.marks.put(key, mark, now)
            won = b" W"
        if mark is None:
            service.counters.get_misses += 1
            return b"" if meta.quiet else meta_line(b"EN", meta, nothing_known)
        record = Record(b"", 0, 0, mark.stub_expires, mark.version)
    else:
        mark = service.marks.of(key, record.version)
        if mark is None and b"R" in meta.numbers and record.expires and record.expires - now < meta.numbers[b"R"]:
            mark = Mark(record.version)
            service.marks.put(key, mark, now)
            won = b" W"
    service.counters.get_hits += 1
    marked = b""
    if mark is not None:
        # As memcached words it: Z that another has won already, X that the item is stale, W that this one has won.
        if mark.stale and not mark.won:
            won = b" W"
        marked = (b" Z" if mark.won else b"") + (b" X" if mark.stale else b"") + won
        mark.won = True
    last = service.accesses.last(key)
    if b"u" not in meta.flags:
        service.accesses.note(key, now)
    return _found(service, meta, record, marked, now, last)


def _found(service: Service, meta: Meta, record: Record, marked: bytes, now: float, last: float | None) -> Buffers:
    def fact(letter: bytes) -> bytes | None:
        match letter:
            case b"c" | b"V":
                return b"%d" % record.version
            case b"s":
                return b"%d" % record.size
            case b"f":
                return b"%d" % record.flags
            case b"t":
                return b"%d" % remaining_s(record.expires, now)
            case b"A":
                return b"%d" % record.expires
            case b"H":
                return b"%016x" % record.checksum
            case b"Y":
                return b"t" if record.tombstone else b"v"
            case b"h":
                return b"0" if last is None else b"1"
            case b"l":
                return b"%d" % max(0, now - (stamp_time(record.version) if last is None else last))
        return None

    if b"v" not in meta.flags or record.tombstone:
        return meta_line(b"HD", meta, fact, marked)
    return with_block(meta_line(b"VA %d" % record.size, meta, fact, marked), record.value)


def _parse_debug(command: Command, words: list[bytes]) -> Request:
    if len(words) == 3 and words[2] != b"b":
        raise BadRequest(BAD_FORMAT)
    if len(words) == 3:
        return read_meta(command, words, 2)
    return Request(command, key_of(words[1]), Meta(words[1], {}, {}))


def _debug(service: Service, request: Request) -> Answer:
    meta: Meta = request.arguments

    def finish(record: Record | None) -> Buffers:
        if record is None:
            return MISS
        now = service.now()
        last = service.accesses.last(request.key)
        since = now - (stamp_time(record.version) if last is None else last)
        return b"ME %b exp=%d la=%d cas=%d fetch=%b cls=0 size=%d flags=%d checksum=%016x\r\n" % (
            meta.key_as_sent,
            remaining_s(record.expires, now),
            math.floor(max(0.0, since)),
            record.version,
            b"no" if last is None else b"yes",
            record.size,
            record.flags,
            record.checksum,
        )

    return answer(service.store.head(request.key), finish)


COMMANDS = (
    Command(b"mg", _parse, _get, words_min=2, flags=letters("bcfhklOqstuvNRTELPVHAYGU")),
    Command(b"me", _parse_debug, _debug, words_min=2, words_max=3, flags=letters("b")),
)
