"""Batches as tar archives, for shells: what `tar` makes is stored, and what is asked for can be piped into it.

In an answer, each file's line of the record format stands in the comment of its pax header, which `tar` ignores. One
that can't be given is a hard link to its status (`404 not_found\\`): `tar` finds nothing there to link to, says so with
the path, and fails at the end. The backslash is in no stored path, so none of the archive's own files is linked to.
"""

from __future__ import annotations

import tarfile

from sfss.errors import BadRequest, SfssError, TooLarge
from sfss.memcache.block import Block
from sfss.store import Record
from sfss.web.batches.items import Sent, Totals
from sfss.web.batches.records import failed_line, found_line, told_path
from sfss.web.errors import Failure
from sfss.web.versions import modified_of

CONTENT_TYPE = b"application/x-tar"
HEAD_BYTES_MAX = 64 * 1024
"""Longest pax header or GNU long name."""

_ZEROS = bytes(tarfile.BLOCKSIZE)
_GNU_MAGIC = b"ustar  \0"
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
_FILE, _FOLDER, _PAX, _PAX_GLOBAL, _LONG_NAME, _DROPPED = range(6)


class TarWriter:
    """Answers in a tar archive."""

    def __init__(self) -> None:
        self.content_type = CONTENT_TYPE

    def found(self, path: bytes, plain: bool, record: Record, parts: list[bytes]) -> int:
        modified = modified_of(record) if record.version else 0
        head = _member(path.decode(), found_line(path, record, plain), record.size, modified)
        padding = bytes(-record.size % tarfile.BLOCKSIZE)
        parts += (head, record.value, padding)
        return len(head) + len(record.value) + len(padding)

    def failed(self, path: str, failure: Failure) -> bytes:
        line = failed_line(path, failure, of_write=False)
        return _member(told_path(path), line, link=f"{failure.status} {failure.name}\\")

    def end(self, totals: Totals) -> bytes:
        return _ZEROS + _ZEROS


def _member(path: str, line: bytes, size: int = 0, modified: int = 0, link: str = "") -> bytes:
    info = tarfile.TarInfo(path)
    info.size = size
    info.mtime = modified
    info.mode = 0o644
    if link:
        info.type = tarfile.LNKTYPE
        info.linkname = link
    info.pax_headers = {"comment": line.decode().rstrip()}
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


class TarReader:
    """Reads the files of a tar archive, as GNU tar, bsdtar and Python write them. Folders are passed over."""

    def __init__(self, file_bytes_max: int) -> None:
        self._file_bytes_max = file_bytes_max
        self._buffer = b""
        self._at = 0
        self._block: Block | None = None
        self._size = 0
        self._padding = 0
        self._kind = _FILE
        self._path = ""
        self._refusal: SfssError | None = None
        self._long_name: str | None = None
        self._pax: dict[str, str] = {}
        self._begun = False
        self.ended = False

    @property
    def unfinished(self) -> str:
        return self._path if self._block is not None and self._kind == _FILE else ""

    def feed(self, data: bytes) -> None:
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0

    def next(self) -> Sent | None:
        while True:
            if self._padding:
                skipped = min(self._padding, len(self._buffer) - self._at)
                self._padding -= skipped
                self._at += skipped
                if self._padding:
                    return None
            block = self._block
            if block is None:
                if not self._head():
                    return None
                continue
            self._at = block.fill(self._buffer, self._at)
            if block.missing:
                return None
            self._block = None
            self._padding = -self._size % tarfile.BLOCKSIZE
            sent = self._whole(block.value())
            if sent is not None:
                return sent

    def _head(self) -> bool:
        """Take the next block of 512 bytes as a head. False when it isn't all there, or at the end."""
        at = self._at
        if self.ended:
            if self._buffer.strip(b"\0"):
                raise BadRequest("bytes stand behind the end of the tar; were two of them joined?")
            self._buffer, self._at = b"", 0
            return False
        head = self._buffer[at : at + tarfile.BLOCKSIZE]
        if len(head) < tarfile.BLOCKSIZE:
            return False
        self._at = at + tarfile.BLOCKSIZE
        if head == _ZEROS:
            self._buffer, self._at = self._buffer[self._at :], 0
            self.ended = True
            return True
        try:
            info = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise BadRequest(f"the body is no tar, or is damaged: {error}{_hint(head, self._begun)}") from None
        self._begun = True
        if head.startswith(_GNU_MAGIC, 257):
            # Where others have the begin of a long name, GNU tar keeps times (of --incremental).
            info.name = head[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")
        self._begin(info)
        return True

    def _begin(self, info: tarfile.TarInfo) -> None:
        kind = info.type
        size = info.size
        if kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            self._kind = _PAX
        elif kind == tarfile.XGLTYPE:
            self._kind = _PAX_GLOBAL
        elif kind == tarfile.GNUTYPE_LONGNAME:
            self._kind = _LONG_NAME
        elif kind == tarfile.GNUTYPE_LONGLINK:
            self._kind = _DROPPED
        elif kind == tarfile.GNUTYPE_SPARSE:
            raise BadRequest(f"{_plain(info.name)!r} is sparse; make the tar without --sparse")
        else:
            size = self._begin_file(info)
        if self._kind != _FILE and not 0 <= size <= HEAD_BYTES_MAX:
            raise BadRequest(f"a header of the tar has {size} bytes; the limit is {HEAD_BYTES_MAX}")
        # What became of the file before says nothing of a header: that is about the next one.
        keep = self._refusal is None if self._kind == _FILE else self._kind not in (_DROPPED, _FOLDER)
        self._block = Block(size, keep)
        self._size = size

    def _begin_file(self, info: tarfile.TarInfo) -> int:
        """Take the head of what isn't a header; returns how many bytes follow."""
        pax = self._pax
        name = pax.get("path", self._long_name)
        self._path = _plain(info.name if name is None else name)
        self._refusal = None
        sparse = any(word.startswith("GNU.sparse.") for word in pax)
        try:
            size = int(pax.get("size", info.size))
        except ValueError:
            size = -1
        if size < 0:
            raise BadRequest(f"the size of {self._path!r} is no number of bytes")
        self._long_name, self._pax = None, {}
        if info.isdir():
            self._kind = _FOLDER
            return 0
        self._kind = _FILE
        if sparse:
            self._refusal = BadRequest("it is sparse; make the tar without --sparse")
        elif not info.isreg():
            self._refusal = BadRequest(f"it is {_KINDS.get(info.type, 'of a kind of its own')}; only files are stored")
        elif size > self._file_bytes_max:
            self._refusal = TooLarge(f"the file has {size} bytes; the limit is {self._file_bytes_max}")
        return 0 if info.type in _KINDS else size

    def _whole(self, value: bytes) -> Sent | None:
        """What has come whole: a file, or what is kept for the next one."""
        kind = self._kind
        if kind == _FILE:
            return Sent(self._path, value, self._refusal)
        if kind == _LONG_NAME:
            self._long_name = value.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        elif kind == _PAX:
            self._pax = _pax_records(value)
        elif kind == _PAX_GLOBAL and {"path", "size"} & _pax_records(value).keys():
            raise BadRequest("a global header of the tar gives all files one path or size")
        return None


def _plain(name: str) -> str:
    """A member's name as a path: `tar c .` writes `./a/b`."""
    return name.removeprefix("./")


def _hint(head: bytes, begun: bool) -> str:
    if begun:
        return ""
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "; it is compressed, unpack it first"
    return f"; records have the Content-Type {'application/x-sfss-files'}"


def _pax_records(data: bytes) -> dict[str, str]:
    """The `length name=value` lines of a pax header. Raises `BadRequest`."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at]:
        blank = data.find(b" ", at, at + 8)
        digits = data[at:blank] if blank > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        name, equals, value = data[blank + 1 : end].partition(b"=")
        if not equals or end > len(data) or not value.endswith(b"\n"):
            raise BadRequest("a pax header of the tar is damaged")
        records[name.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        at = end
    return records
