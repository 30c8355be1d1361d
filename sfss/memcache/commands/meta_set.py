"""ms: store one key, in any of its modes; stamped (V<n>), it is a replica's set-if-newer."""

from __future__ import annotations

from collections.abc import Callable

from sfss.errors import BadRequest, Unsupported
from sfss.memcache.answers import Answer, answer
from sfss.memcache.commands.meta import Meta, letters, meta_line, mode_of, nothing_known, read_meta
from sfss.memcache.commands.storage import add_change, extend_change, replace_change
from sfss.memcache.commands.words import BAD_FORMAT, number_of
from sfss.memcache.marks import Mark
from sfss.memcache.numbers import absolute_expiry
from sfss.memcache.requests import Command, Request
from sfss.memcache.service import Service
from sfss.store import Applied, Change, Record, Written

_MODES = {
    letter: mode
    for mode, letters in {"add": b"Ee", "append": b"Aa", "prepend": b"Pp", "replace": b"Rr", "set": b"Ss"}.items()
    for letter in (letters[:1], letters[1:])
}
_SIZE_MAX = 2**62


def _parse(command: Command, words: list[bytes]) -> Request:
    size = number_of(words[2], _SIZE_MAX, f"{BAD_FORMAT}: no length of the data block")
    request = read_meta(command, words, 3)
    request.size = size
    meta: Meta = request.arguments
    mode = mode_of(meta, _MODES, "set")
    if b"E" in meta.flags:
        raise Unsupported("ms with E: versions are made by the server")
    conditional = mode != "set" or b"C" in meta.flags or b"I" in meta.flags
    if b"V" in meta.numbers:
        if conditional or b"H" not in meta.numbers:
            raise BadRequest("a stamped ms has V and H with their numbers, and no condition")
        request.needs = "replica"
    elif conditional:
        request.needs = "updater"
    return request


def expiry_of(meta: Meta, now: float) -> int:
    """The absolute expiry that the flags A (absolute) or T (as memcached has it) ask for; 0 for none."""
    if b"A" in meta.numbers:
        return meta.numbers[b"A"]
    return absolute_expiry(meta.numbers.get(b"T", 0), now)


def written_line(code: bytes, meta: Meta, written: Written, size: int | None = None) -> bytes:
    """The reply of a write that was carried out."""

    def fact(letter: bytes) -> bytes | None:
        match letter:
            case b"c" | b"V":
                return b"%d" % written.version
            case b"H":
                return b"%016x" % written.checksum
            case b"B":
                return b"%d/%d" % (written.durable, written.copies)
            case b"s" if size is not None:
                return b"%d" % size
        return None

    if meta.quiet and code == b"HD":
        return b""
    return meta_line(code, meta, fact)


def applied_line(meta: Meta, applied: Applied) -> bytes:
    """The reply of a stamped write: HD with what was accepted, NS with the newer one that is held."""
    code = b"HD" if applied.accepted else b"NS"
    return written_line(code, meta, Written(applied.version, applied.checksum, int(applied.durable), 1))


def _set(service: Service, request: Request) -> Answer:
    meta: Meta = request.arguments
    service.counters.cmd_set += 1
    value = request.value
    flags = meta.numbers.get(b"F", 0)
    expires = expiry_of(meta, service.now())
    if request.needs == "replica":
        record = Record(value, len(value), flags, expires, meta.numbers[b"V"], meta.numbers[b"H"])
        reply = service.replica.apply(request.key, record, request.call)
        return answer(reply, lambda applied: applied_line(meta, applied))
    if request.needs == "updater":
        return _update(service, request, meta, flags, expires)
    written = service.store.set(request.key, value, flags, expires, request.call)
    return answer(written, lambda done: written_line(b"HD", meta, done, len(value)))


def _update(service: Service, request: Request, meta: Meta, flags: int, expires: int) -> Answer:
    mode = mode_of(meta, _MODES, "set")
    key, unique = request.key, meta.numbers.get(b"C")
    invalidates = b"I" in meta.flags

    def change(seen: Record | None) -> Change:
        if unique is not None:
            held = seen.version if seen is not None else _stub_version(service, key)
            if held == 0:
                return Change(b"NF", keep=True)
            # With I an older version may be written, and the result is then marked as stale.
            if held != unique and not (invalidates and unique < held):
                return Change(b"EX", keep=True)
        return _changed(mode, seen, request.value, flags, expires, _vivified(service, meta))

    def finish(result: tuple[Change, Record | None, Written]) -> bytes:
        done, seen, written = result
        if done.keep:
            code = done.answer if isinstance(done.answer, bytes) else b"NS"
            return meta_line(code, meta, nothing_known)
        service.marks.drop(key)
        if invalidates and unique is not None and seen is not None and unique < seen.version:
            service.marks.put(key, Mark(written.version, stale=True), service.now())
        return written_line(b"HD", meta, written, len(done.value))

    return answer(service.updater.update(key, change, request.call), finish)


def _stub_version(service: Service, key: bytes) -> int:
    stub = service.marks.stub(key, service.now())
    return stub.version if stub is not None else 0


def _vivified(service: Service, meta: Meta) -> int | None:
    """The expiry of what append and prepend create on a miss, where N asks for it."""
    return absolute_expiry(meta.numbers[b"N"], service.now()) if b"N" in meta.numbers else None


def _changed(mode: str, seen: Record | None, value: bytes, flags: int, expires: int, vivified: int | None) -> Change:
    decide: Callable[[Record | None], Change]
    if mode in ("append", "prepend"):
        if seen is None and vivified is not None:
            return Change(value=value, flags=flags, expires=vivified)
        decide = extend_change(value, before=mode == "prepend")
    elif mode == "add":
        decide = add_change(value, flags, expires)
    elif mode == "replace":
        decide = replace_change(value, flags, expires)
    else:
        return Change(value=value, flags=flags, expires=expires)
    return decide(seen)


COMMANDS = (Command(b"ms", _parse, _set, words_min=3, size_at=2, writes=True, flags=letters("bcCEFIkOqsTMNLPVHABQGU")),)
