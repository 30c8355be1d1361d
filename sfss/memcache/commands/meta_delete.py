"""md: delete one key, or mark it as stale (I); stamped (V<n>), it is a replica's tombstone-if-newer."""

from __future__ import annotations

from sfss.errors import BadRequest, Unsupported
from sfss.memcache.answers import Answer, answer
from sfss.memcache.commands.meta import Meta, letters, meta_line, nothing_known, read_meta
from sfss.memcache.commands.meta_set import applied_line, expiry_of, written_line
from sfss.memcache.marks import Mark
from sfss.memcache.requests import Command, Request
from sfss.memcache.service import Service
from sfss.store import Change, Record, Written


def _parse(command: Command, words: list[bytes]) -> Request:
    request = read_meta(command, words, 2)
    meta: Meta = request.arguments
    if b"E" in meta.flags:
        raise Unsupported("md with E: versions are made by the server")
    conditional = not meta.flags.keys().isdisjoint((b"C", b"I", b"x"))
    if b"V" in meta.numbers:
        if conditional or b"H" not in meta.numbers:
            raise BadRequest("a stamped md has V and H with their numbers, and no condition")
        request.needs = "replica"
    elif conditional:
        request.needs = "updater"
    return request


def _delete(service: Service, request: Request) -> Answer:
    meta: Meta = request.arguments
    service.counters.cmd_delete += 1
    if request.needs == "replica":
        record = Record(b"", 0, 0, meta.numbers.get(b"A", 0), meta.numbers[b"V"], meta.numbers[b"H"], tombstone=True)
        applied = service.replica.apply(request.key, record, request.call)
        return answer(applied, lambda done: applied_line(meta, done))
    if request.needs == "updater":
        return _update(service, request, meta)
    written = service.store.delete(request.key, request.call)
    return answer(written, lambda done: _deleted(service, request, meta, done))


def _deleted(service: Service, request: Request, meta: Meta, written: Written | None) -> bytes:
    stub = service.marks.drop(request.key)
    if written is None and not stub:
        service.counters.delete_misses += 1
        return meta_line(b"NF", meta, nothing_known)
    service.counters.delete_hits += 1
    return written_line(b"HD", meta, written or Written())


def _update(service: Service, request: Request, meta: Meta) -> Answer:
    key, unique = request.key, meta.numbers.get(b"C")
    stale, emptied = b"I" in meta.flags, b"x" in meta.flags
    expires = expiry_of(meta, service.now()) if b"T" in meta.numbers else None

    def change(seen: Record | None) -> Change:
        if seen is None:
            return Change(b"NF", keep=True)
        if unique is not None and seen.version != unique:
            return Change(b"EX", keep=True)
        if not (stale or emptied):
            return Change(delete=True)
        value, flags = (b"", 0) if emptied else (seen.value, seen.flags)
        return Change(value=value, flags=flags, expires=seen.expires if expires is None else expires)

    def finish(result: tuple[Change, Record | None, Written]) -> bytes:
        done, _, written = result
        if done.keep:
            service.counters.delete_misses += 1
            return meta_line(done.answer if isinstance(done.answer, bytes) else b"NF", meta, nothing_known)
        service.counters.delete_hits += 1
        service.marks.drop(key)
        if stale:
            service.marks.put(key, Mark(written.version, stale=True), service.now())
        return written_line(b"HD", meta, written)

    return answer(service.updater.update(key, change, request.call), finish)


COMMANDS = (Command(b"md", _parse, _delete, words_min=2, writes=True, flags=letters("bCEIkOqTxLPVHABQGU")),)
