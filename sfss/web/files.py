"""The handlers of files: parse, call the store, answer."""

from __future__ import annotations

import mimetypes
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from multidict import istr

from sfss.errors import BadRequest, Busy
from sfss.keys import encode_path
from sfss.promise import Promise
from sfss.store import Record, Store, Written, settled
from sfss.web.answers import STORED_BYTES_HEADERS, Answer
from sfss.web.conditions import (
    READ_CONDITIONS,
    UnsatisfiableRange,
    Validator,
    Verdict,
    http_date,
    judge_read,
    range_applies,
    span_of,
)
from sfss.web.errors import Refused
from sfss.web.explain import Explanations, wants_explanation
from sfss.web.memory import BodyMemory
from sfss.web.origins import Origins
from sfss.web.paths import path_of
from sfss.web.proxies import ProxyRing
from sfss.web.requests import Answered, Later, Request
from sfss.web.uploads import Uploads
from sfss.web.versions import digest_of, etag_of, modified_of

if TYPE_CHECKING:
    from mypy_extensions import i64

_IF_MATCH: Final = istr("If-Match")
_IF_UNMODIFIED_SINCE: Final = istr("If-Unmodified-Since")
_IF_NONE_MATCH: Final = istr("If-None-Match")
_IF_MODIFIED_SINCE: Final = istr("If-Modified-Since")
_IF_RANGE: Final = istr("If-Range")
_RANGE: Final = istr("Range")

_ENCODED_TYPES: Final = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
"""What `mimetypes` tells as an encoding is, for a store that keeps bytes as they are, the type."""


class FileHandlers:
    """GET, HEAD, PUT, POST and DELETE of files in `store`. Keys are made by `key_encoding`, up to `key_bytes_max`."""

    def __init__(
        self,
        store: Store,
        memory: BodyMemory,
        explanations: Explanations,
        origins: Origins,
        *,
        key_encoding: str,
        key_bytes_max: int,
        file_bytes_max: int,
        request_timeout_s: float,
    ) -> None:
        self._store = store
        self._own = store if isinstance(store, ProxyRing) else None
        """The same, where it is what a web process has: its methods are called as functions of C."""
        self._uploads = Uploads(file_bytes_max, memory)
        self._memory = memory
        self._explanations = explanations
        self._origins = origins
        self._key_encoding = key_encoding
        self._plain_keys = key_encoding == "percent"
        self._key_bytes_max = key_bytes_max
        self._timeout_s = request_timeout_s

    # --- reads ---

    def get(self, request: Request) -> Answered:
        if not request.plain_path and "explain" in request.query and wants_explanation(request.query):
            return self._explanations.explain(request, self._key(request))
        request.operation = "get"
        reply: Any
        key, call = self._key(request), request.call(request.started, self._timeout_s)
        own = self._own
        reply = self._store.get(key, call) if own is None else own.get(key, call)
        if isinstance(reply, Promise):
            return _Found(self, request, reply)
        return self.found(request, reply)

    def head(self, request: Request) -> Answered:
        request.operation = "head"
        reply = self._store.head(self._key(request), request.call(request.started, self._timeout_s))
        if isinstance(reply, Promise):
            return _FoundHead(self, request, reply)
        return self.found_head(request, reply)

    def found_head(self, request: Request, record: Record | None) -> Answered:
        if record is not None and not record.version:
            # A server without versions: the ETag is a digest, and only the bytes tell it.
            reply = self._store.get(self._key(request), request.call(request.started, self._timeout_s))
            if isinstance(reply, Promise):
                return _Found(self, request, reply)
            return self.found(request, reply)
        return self.found(request, record)

    def found(self, request: Request, record: Record | None) -> Answer:
        if record is None:
            raise Refused(404, "not_found", f"there is no file {request.file_path}")
        if request.plain_path:
            return self._whole(request, record)
        headers = request.headers
        if (
            _IF_NONE_MATCH in headers
            or _IF_MODIFIED_SINCE in headers
            or _IF_MATCH in headers
            or _IF_UNMODIFIED_SINCE in headers
        ):
            file = _validator(record)
            verdict = judge_read(
                file,
                headers.get(_IF_MATCH),
                headers.get(_IF_UNMODIFIED_SINCE),
                headers.get(_IF_NONE_MATCH),
                headers.get(_IF_MODIFIED_SINCE),
            )
            if verdict is Verdict.NOT_MODIFIED:
                return Answer(304, _validator_lines(record))
            if verdict is Verdict.FAILED:
                raise Refused(412, "precondition_failed", f'the file is at ETag "{file.etag}"')
        if _RANGE in headers and request.method == "GET":
            part = self._part(request, record)
            if part is not None:
                return part
        return self._whole(request, record)

    def _whole(self, request: Request, record: Record) -> Answer:
        self._check_memory(len(record.value))
        return Answer(200, _file_head(request, record.size, record), record.value)

    def _part(self, request: Request, record: Record) -> Answer | None:
        headers = request.headers
        if not range_applies(headers.get(_IF_RANGE), _validator(record)):
            return None
        try:
            span = span_of(headers[_RANGE], record.size)
        except UnsatisfiableRange:
            raise Refused(
                416,
                "range_not_satisfiable",
                f"the file has {record.size} bytes",
                headers=(("Content-Range", f"bytes */{record.size}"),),
            ) from None
        if span is None:
            return None
        self._check_memory(span.size)
        content = memoryview(record.value)[span.start : span.start + span.size]
        head = _file_head(request, span.size, record)
        head += b"Content-Range: bytes %d-%d/%d\r\n" % (span.start, span.start + span.size - 1, record.size)
        # A view keeps the whole file in memory until a slow reader has its part, which only the part is counted for.
        return Answer(206, head, content if span.size > record.size // 2 else bytes(content))

    def _check_memory(self, size: int) -> None:
        """Refuse (`Busy`) an answer that a slow reader would make too much."""
        if size > _LARGE_BYTES and self._memory.full:
            raise Busy("answers that clients are slow to take fill the memory for bodies")

    # --- writes ---

    def post(self, request: Request) -> Answered:
        request.operation = "post"
        return self._upload(request, 201)

    def put(self, request: Request) -> Answered:
        request.operation = "put"
        return self._upload(request, 200)

    def _upload(self, request: Request, status: int) -> Answered:
        if not request.plain_path:
            self._origins.check(request)
        key = self._key(request)
        self._uploads.check_head(request)
        if not (request.whole or request.body.is_eof()):
            return self._upload_in_steps(request, key, status)
        value = self._uploads.file_of(request, request.whole or request.body.read_nowait())
        reply: Any
        own, call = self._own, request.call(request.started, self._timeout_s)
        reply = self._store.set(key, value, 0, 0, call) if own is None else own.set(key, value, 0, 0, call)
        if isinstance(reply, Promise):
            return _Stored(request, reply, status, value)
        return _stored(reply, status, value)

    async def _upload_in_steps(self, request: Request, key: bytes, status: int) -> Answer:
        value = self._uploads.file_of(request, await self._uploads.receive(request))
        reply = self._store.set(key, value, call=request.call(time.monotonic(), self._timeout_s))
        return _stored(await settled(reply), status, value)

    def delete(self, request: Request) -> Answered:
        request.operation = "delete"
        self._origins.check(request)
        for name in READ_CONDITIONS:
            if name in request.headers:
                raise Refused(501, "unsupported", f"{name} on a delete can't be honoured without a race")
        reply = self._store.delete(self._key(request), request.call(request.started, self._timeout_s))
        if isinstance(reply, Promise):
            return _Deleted(request, reply)
        return _deleted(request, reply)

    def _key(self, request: Request) -> bytes:
        plain_path = request.plain_path
        if plain_path:
            if self._plain_keys and len(plain_path) <= self._key_bytes_max:
                return plain_path
        elif request.query:
            request.file_path = path_of(request.query)
        else:
            raise BadRequest("the query has no path; say ?path=folder/file")
        return encode_path(request.file_path, self._key_encoding, self._key_bytes_max)


class _Found(Later):
    """The answer to a read."""

    __slots__ = ("_files",)

    def __init__(self, files: FileHandlers, request: Request, reply: Promise[Any]) -> None:
        super().__init__(request, reply)
        self._files = files

    def then(self, value: Any) -> Answered:
        return self._files.found(self.request, value)


class _FoundHead(_Found):
    __slots__ = ()

    def then(self, value: Any) -> Answered:
        return self._files.found_head(self.request, value)


class _Stored(Later):
    """The answer to a write, of `status`, once `value` is stored."""

    __slots__ = ("_status", "_value")

    def __init__(self, request: Request, reply: Promise[Any], status: int, value: bytes) -> None:
        super().__init__(request, reply)
        self._status = status
        self._value = value

    def then(self, value: Any) -> Answered:
        return _stored(value, self._status, self._value)


class _Deleted(Later):
    __slots__ = ()

    def then(self, value: Any) -> Answered:
        return _deleted(self.request, value)


def _stored(written: Written, status: int, value: bytes) -> Answer:
    if written.version and written.copies:  # nearly always
        head = b'ETag: "%b"\r\nContent-Length: 0\r\nSfss-Durable: %d/%d\r\n' % (
            etag_of(written),
            written.durable,
            written.copies,
        )
        return Answer(status, head)
    etag = etag_of(written) if written.version else digest_of(value).encode()
    return Answer(status, b'ETag: "%b"\r\nContent-Length: 0\r\n%b' % (etag, _durability(written)))


def _deleted(request: Request, written: Written | None) -> Answer:
    if written is None:
        raise Refused(404, "not_found", f"there is no file {request.file_path}")
    return Answer(204, _durability(written))


_LARGE_BYTES: Final = 64 * 1024


def _validator(record: Record) -> Validator:
    if not record.version:
        return Validator(digest_of(record.value), None)
    return Validator(etag_of(record).decode(), modified_of(record))


def _validator_lines(record: Record) -> bytes:
    """`_validator` as header lines, without the way through text: most reads ask for nothing else."""
    if not record.version:
        return b'ETag: "%b"\r\n' % digest_of(record.value).encode()
    return b'ETag: "%b"\r\nLast-Modified: %b\r\n' % (etag_of(record), http_date(modified_of(record)))


def _file_head(request: Request, size: int, record: Record) -> bytes:
    plain_path = request.plain_path
    begin = _begin_for_plain(plain_path) if plain_path else _begin_for(_extension(request.file_path))
    if not record.version:
        return b"%b%d\r\n%b" % (begin, size, _validator_lines(record))
    return b'%b%d\r\nETag: "%b"\r\nLast-Modified: %b\r\n' % (
        begin,
        size,
        etag_of(record),
        http_date(modified_of(record)),
    )


def _extension(path: str) -> str:
    stem, _, extension = path.rpartition("/")[2].rpartition(".")
    return extension.lower() if stem else ""


_begins: Final[dict[bytes, bytes]] = {}
_BEGINS_MAX: Final = 1024
_SLASH: Final = 0x2F
_DOT: Final = 0x2E


def _begin_for(extension: str) -> bytes:
    """What the head of a file begins with, up to its length."""
    return b"Content-Type: %b\r\n%bContent-Length: " % (content_type_of(extension), STORED_BYTES_HEADERS)


def _begin_for_plain(path: bytes) -> bytes:
    """`_begin_for` the extension of a path of which no segment begins with a dot; a quarter of the price."""
    start: i64 = len(path)
    while start > 0 and path[start - 1] != _DOT:
        if path[start - 1] == _SLASH:
            start = 0
            break
        start -= 1
    extension = path[start:] if start else b""
    known = _begins.get(extension)
    if known is None:
        if len(_begins) >= _BEGINS_MAX:
            _begins.clear()
        known = _begins[extension] = _begin_for(extension.decode().lower())
    return known


@lru_cache(maxsize=1024)
def content_type_of(extension: str) -> bytes:
    """The Content-Type for a file name's extension (without the dot)."""
    guessed, encoding = mimetypes.guess_type(f"file.{extension}")
    if encoding is not None:
        guessed = _ENCODED_TYPES.get(encoding)
    return (guessed or "application/octet-stream").encode()


def _durability(written: Written) -> bytes:
    return b"Sfss-Durable: %d/%d\r\n" % (written.durable, written.copies) if written.copies else b""
