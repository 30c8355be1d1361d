"""The own format of batches: a line of JSON for each file, then its bytes.

    {"path": "a/b.jpg", "status": 200, "etag": "…", "modified": 1790000000, "size": 3}\n
    abc\n
    {"path": "a/c.jpg", "status": 404, "error": "not_found", "message": "…"}\n
    {"end": true, "files": 2, "failed": 1}\n

A line with a `size` is followed by so many bytes and a line feed. The last line has `end`; without it, the body was cut
short. Readers ignore names that they don't know.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from sfss.errors import BadRequest, SfssError, TooLarge
from sfss.keys import is_plain
from sfss.memcache.block import Block
from sfss.memcache.line import Line
from sfss.store import KEY_BYTES_MAX, Record, Written
from sfss.web.batches.items import Sent, Totals
from sfss.web.errors import RETRY_AFTER_S, Failure
from sfss.web.versions import digest_of, etag_of, modified_of

if TYPE_CHECKING:
    from mypy_extensions import i64

CONTENT_TYPE = b"application/x-sfss-files"
LINE_BYTES_MAX = 4096
"""Longest line: a path of 250 bytes takes 1,500 with every letter escaped."""

_PRINTABLE_LINE: Final = re.compile(rb'\{"path": ?"([ !#-\[\]-~]{1,2000})", ?"size": ?(0|[1-9][0-9]{0,8})\}\n')
"""Nearly every line whose path isn't plain, as libraries of JSON write it: read so, it is a fifth of the price."""

_SIZE_DIGITS: Final = 9
_ZERO: Final = 0x30
_QUOTE: Final = 0x22
_LINE_FEED: Final = 0x0A

PATH_CHARS_MAX = 300
"""No file has a longer path: a key has 250 bytes."""


def told_path(path: str) -> str:
    """A path as it is told of where it may be anything: what no file can have is cut, so that a line stays a line."""
    return path if len(path) <= PATH_CHARS_MAX else path[:PATH_CHARS_MAX] + "…"


def quoted(path: str) -> bytes:
    """A path as JSON. Checked ones have neither backslashes nor control characters; those of refusals may."""
    if path.isascii():
        raw = path.encode()
        if is_plain(raw):
            return b'"%b"' % raw
    if '"' not in path and "\\" not in path and path.isprintable():
        return b'"%b"' % path.encode()
    return json.dumps(path, ensure_ascii=False).encode("utf-8", "replace")


def _version(record: Record) -> bytes:
    if not record.version:
        return b'"etag": "%b"' % digest_of(record.value).encode()
    return b'"etag": "%b", "modified": %d' % (etag_of(record), modified_of(record))


def found_line(path: bytes, record: Record, plain: bool = False) -> bytes:
    """What is told of a file beside its bytes. `plain`: its path is known to be (`sfss.keys.is_plain`)."""
    if record.version and (plain or is_plain(path)):  # nearly always: said in one go, a third of the price
        return b'{"path": "%b", "status": 200, "etag": "%b", "modified": %d, "size": %d}\n' % (
            path,
            etag_of(record),
            modified_of(record),
            record.size,
        )
    return b'{"path": %b, "status": 200, %b, "size": %d}\n' % (quoted(path.decode()), _version(record), record.size)


def stored_line(sent: Sent, written: Written) -> bytes:
    """That a file is stored."""
    if sent.plain and written.version and written.copies:  # nearly always
        return b'{"path": "%b", "status": 200, "etag": "%b", "durable": "%d/%d"}\n' % (
            sent.plain,
            etag_of(written),
            written.durable,
            written.copies,
        )
    etag = etag_of(written) if written.version else digest_of(sent.value).encode()
    durable = b', "durable": "%d/%d"' % (written.durable, written.copies) if written.copies else b""
    return b'{"path": %b, "status": 200, "etag": "%b"%b}\n' % (quoted(sent.path), etag, durable)


def failed_line(path: str, failure: Failure, *, of_write: bool) -> bytes:
    """Why a file was not given, or not stored; of a write also what may have become of it."""
    told: dict[str, object] = {"status": failure.status, "error": failure.name, "message": failure.message}
    if failure.retry:
        told["retry_after"] = RETRY_AFTER_S
    if of_write:
        told["outcome"] = failure.outcome.value
    rest = json.dumps(told, ensure_ascii=False).encode("utf-8", "replace")
    return b'{"path": %b, %b\n' % (quoted(told_path(path)), rest[1:])


def end_line(totals: Totals, failure: Failure | None = None) -> bytes:
    """The last line. `failure`: why the batch was not gone through to its end."""
    told: dict[str, object] = {"end": True, "files": totals.files, "failed": totals.failed}
    if failure is not None:
        told |= {"error": failure.name, "message": failure.message}
    return json.dumps(told, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


class RecordWriter:
    """Answers in records."""

    def __init__(self) -> None:
        self.content_type = CONTENT_TYPE

    def found(self, path: bytes, plain: bool, record: Record, parts: list[bytes]) -> int:
        line = found_line(path, record, plain)
        parts.append(line)
        parts.append(record.value)
        parts.append(b"\n")
        return len(line) + len(record.value) + 1

    def failed(self, path: str, failure: Failure) -> bytes:
        return failed_line(path, failure, of_write=False)

    def end(self, totals: Totals) -> bytes:
        return end_line(totals)


class RecordReader:
    """Reads files out of records."""

    def __init__(self, file_bytes_max: int) -> None:
        self._file_bytes_max = file_bytes_max
        self._buffer = b""
        self._at = 0
        self._block: Block | None = None
        self._line = Line()
        self._path = ""
        self._plain = b""
        self._refusal: SfssError | None = None
        self._count = 0
        self.ended = False

    @property
    def unfinished(self) -> str:
        return self._path or self._plain.decode() if self._block is not None else ""

    def feed(self, data: bytes) -> None:
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0

    def next(self) -> Sent | None:
        block = self._block
        if block is None:
            size = self._head()
            if size is None:
                return None
            if size < 0:
                return self._sent(b"")
            keep = self._refusal is None
            end = self._at + size
            if keep and end < len(self._buffer) and self._buffer[end] == _LINE_FEED:  # nearly always it is all there
                value = self._buffer[self._at : end]
                self._at = end + 1
                return self._sent(value)
            self._block = block = Block(size, keep)
        self._at = block.fill(self._buffer, self._at)
        if block.missing or self._at == len(self._buffer):
            return None
        self._line_feed()
        self._block = None
        return self._sent(block.value())

    def _sent(self, value: bytes) -> Sent:
        self._count += 1
        return Sent(self._path, value, self._refusal, self._plain)

    def _line_feed(self) -> None:
        if self._buffer[self._at] != _LINE_FEED:
            path = self._path or self._plain.decode()
            raise BadRequest(f"no line feed stands behind the bytes of {path!r}; is its size right?")
        self._at += 1

    def _head(self) -> int | None:
        """Take a line, and say how many bytes follow; -1: none, not even a line feed. None: it isn't all there, or was
        the last."""
        buffer, at = self._buffer, self._at
        if self.ended:
            if at < len(buffer):
                raise BadRequest('bytes stand behind the line with "end"')
            return None
        self._refusal = None
        self._path, self._plain = "", b""
        size_told = self._plain_head()
        self._line.begin(b"", 0)  # it would keep these bytes as long as the file is under way
        if size_told >= 0:
            return self._checked(size_told)
        printable = _PRINTABLE_LINE.match(buffer, at)
        if printable is not None:
            self._path = printable[1].decode()
            self._at = printable.end()
            return self._checked(int(printable[2]))
        end = buffer.find(b"\n", at, at + LINE_BYTES_MAX)
        if end < 0:
            if len(buffer) - at >= LINE_BYTES_MAX:
                raise BadRequest(f"a line has over {LINE_BYTES_MAX} bytes; each file begins with a line of JSON")
            return None
        self._at = end + 1
        told = _object(buffer[at:end])
        if "end" in told:
            self._end(told)
            return None
        path = told.get("path")
        if isinstance(path, str):
            self._path = path
        else:
            self._path = ""
            self._refusal = BadRequest('the line has no "path"')
        size = told.get("size")
        if size is None:
            self._refusal = BadRequest('the line has no "size", so it is no file')
            return -1
        if type(size) is not int or size < 0:
            raise BadRequest(f'the "size" of {self._path!r} is no number of bytes')
        return self._checked(size)

    def _plain_head(self) -> int:
        """Take a line with a plain path as libraries of JSON write it, which nearly all are; -1: it is another. In one
        pass, at a third of the price of a pattern."""
        buffer, line = self._buffer, self._line
        line.begin(buffer, self._at)
        if not (line.has(b'{"path": "') or line.has(b'{"path":"')):
            return -1
        first: i64 = line.at
        end = first
        stop: i64 = min(len(buffer), first + KEY_BYTES_MAX)
        while end < stop and buffer[end] != _QUOTE:  # a sixth of the price of `find`
            end += 1
        line.at = end
        if not (line.has(b'", "size": ') or line.has(b'","size":')):
            return -1
        begin = line.at
        size = line.number(_SIZE_DIGITS)
        leading_zero = line.at > begin + 1 and buffer[begin] == _ZERO
        line.takes(b"}\n")
        path = buffer[first:end]
        if not line.fits or leading_zero or not is_plain(path):
            return -1
        self._plain = path
        self._at = line.at
        return size

    def _checked(self, size: int) -> int:
        if size > self._file_bytes_max:
            self._refusal = TooLarge(f"the file has {size} bytes; the limit is {self._file_bytes_max}")
        return size

    def _end(self, told: dict[str, Any]) -> None:
        self.ended = True
        files = told.get("files", self._count)
        if files != self._count:
            raise BadRequest(f"the last line tells of {files} files; {self._count} came")
        if self._at < len(self._buffer):
            raise BadRequest('bytes stand behind the line with "end"')


def _object(line: bytes) -> dict[str, Any]:
    try:
        # Bytes that are no UTF-8 stay visible as surrogates, so that they spoil one path and not the body.
        told = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise BadRequest("a line is no JSON object; the form is in docs/batches.rst, and a tar needs its Content-Type")
    return told
