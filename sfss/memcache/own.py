"""sfss's own form of mg, ms and md: the lines that our client sends and our servers read on every request.

They are ordinary meta commands with the flags of docs/wire.rst in one fixed order, so that each side can take the
other's line apart in one pass. Any other order means the same and takes the long way (`commands.meta_get` and its
neighbours); servers answer both alike.

    mg <key>[ v] s f A V H[ Y][ G<ring>][ U<milliseconds>][ O<opaque>]
    ms <key> <size> F<flags> A<expiry> V<version> H<checksum> B[ G…][ U…][ O…]      a record that is stamped
    ms <key> <size> F<flags> A<expiry> V H B[ Q][ G…][ U…][ O…]                     a file; Q: others may write it, too
    md <key>[ A<expiry>] V<version> H<checksum> B[ G…][ U…][ O…]
    md <key> V H B[ Q][ G…][ U…][ O…]

    VA <size> s<size> f<flags> A<expiry> V<version> H<checksum>[ Yv][ O…]           the record, and its value
    HD s<size> f<flags> A<expiry> V<version> H<checksum>[ Yv| Yt][ O…]              without
    EN[ O…]                                                                        there is none
    HD V<version> H<checksum> B<durable>/<copies>[ O…]                              written (NS: a newer one is held)

The answers are read here, for the client; the requests in `commands.own_forms`, where they become the server's. What
reads a line gives None where it is of another form, or isn't all there.
"""

from __future__ import annotations

from typing import Final

from sfss.memcache.line import Line
from sfss.native import mypyc_attr
from sfss.record import Record, Written, hex16

SIZE_DIGITS: Final = 8
FLAGS_DIGITS: Final = 10
EXPIRY_DIGITS: Final = 12
VERSION_DIGITS: Final = 20
STAMP_DIGITS: Final = 19
"""Of a version that a write brings."""

_SIZE: Final = 0x73  # s
_FLAGS: Final = 0x66  # f
_EXPIRY: Final = 0x41  # A
_VERSION: Final = 0x56  # V
_CHECKSUM: Final = 0x48  # H
_COPIES: Final = 0x42  # B
_RAW: Final = 0x59  # Y


@mypyc_attr(free_list_len=1)
class Found:
    """The answer to mg where there is a record. `block`: the length of the block that follows, -1 where none does.
    `raw`: it says what kind of record it is, which is asked for by Y. `words`: as in `Record`."""

    __slots__ = ("block", "checksum", "expires", "flags", "opaque", "raw", "size", "tombstone", "version", "words")

    def __init__(
        self,
        block: int,
        size: int,
        flags: int,
        expires: int,
        version: int,
        checksum: int,
        raw: bool,
        tombstone: bool,
        opaque: bytes | None,
        words: bytes,
    ) -> None:
        self.block = block
        self.size = size
        self.flags = flags
        self.expires = expires
        self.version = version
        self.checksum = checksum
        self.raw = raw
        self.tombstone = tombstone
        self.opaque = opaque
        self.words = words


def words_of(record: Record) -> bytes:
    """`Record.words` of any record."""
    checksum = hex16(record.checksum)
    return b" s%d f%d A%d V%d H%b" % (record.size, record.flags, record.expires, record.version, checksum)


def found_in(line: Line) -> Found | None:
    block = -1
    if line.has(b"VA "):
        block = line.number(SIZE_DIGITS)
    elif not line.has(b"HD"):
        return None
    size, flags, expires, version, checksum, words = _words_in(line)
    raw = line.flag(_RAW)
    tombstone = raw and line.has(b"t")
    if raw and not tombstone:
        line.takes(b"v")
    opaque = line.opaque()
    if not line.ends():
        return None
    return Found(block, size, flags, expires, version, checksum, raw, tombstone, opaque, words)


def record_in(line: Line, end: bytes) -> Record | None:
    """The record of a line that announces its value and ends so, as all of a group do; the value is still to come."""
    if not line.has(b"VA "):
        return None
    block = line.number(SIZE_DIGITS)
    size, flags, expires, version, checksum, words = _words_in(line)
    if not line.ends_with(end) or block != size:
        return None
    record = Record(b"", size, flags, expires, version, checksum)
    record.words = words
    return record


def _words_in(line: Line) -> tuple[int, int, int, int, int, bytes]:
    """Size, flags, expiry, version and checksum of a record, and the words that say so."""
    begin = line.at
    line.takes_flag(_SIZE)
    size = line.number(SIZE_DIGITS)
    flags = expires = 0
    if not line.has(b" f0 A0 V"):  # nearly all; 300 instructions less
        line.takes_flag(_FLAGS)
        flags = line.number(FLAGS_DIGITS)
        line.takes_flag(_EXPIRY)
        expires = line.number(EXPIRY_DIGITS)
        line.takes_flag(_VERSION)
    version = line.number(VERSION_DIGITS)
    line.takes_flag(_CHECKSUM)
    checksum = line.hex16()
    return size, flags, expires, version, checksum, line.since(begin)


@mypyc_attr(free_list_len=1)
class Missed:
    """The answer to mg where there is none."""

    __slots__ = ("opaque",)

    def __init__(self, opaque: bytes | None) -> None:
        self.opaque = opaque


def missed_in(line: Line) -> Missed | None:
    if not line.has(b"EN"):
        return None
    opaque = line.opaque()
    return Missed(opaque) if line.ends() else None


@mypyc_attr(free_list_len=1)
class Stored:
    """The answer to ms and md. `newest`: what was sent is the newest now. `words`: as in `Written`."""

    __slots__ = ("checksum", "copies", "durable", "newest", "opaque", "version", "words")

    def __init__(
        self, newest: bool, version: int, checksum: int, durable: int, copies: int, opaque: bytes | None, words: bytes
    ) -> None:
        self.newest = newest
        self.version = version
        self.checksum = checksum
        self.durable = durable
        self.copies = copies
        self.opaque = opaque
        self.words = words


def stored_in(line: Line) -> Stored | None:
    newest = line.has(b"HD ")
    if not (newest or line.has(b"NS ")):
        return None
    version, checksum, durable, copies, words = _outcome_in(line)
    opaque = line.opaque()
    if not line.ends():
        return None
    return Stored(newest, version, checksum, durable, copies, opaque, words)


def written_in(line: Line, end: bytes) -> Written | None:
    """What a line tells of a write that is the newest now, if it ends so, as all of a group do."""
    if not line.has(b"HD "):
        return None
    version, checksum, durable, copies, words = _outcome_in(line)
    if not line.ends_with(end):
        return None
    written = Written(version, checksum, durable, copies)
    written.words = words
    return written


def _outcome_in(line: Line) -> tuple[int, int, int, int, bytes]:
    """Version, checksum, how many copies are durable of how many, and the words that say the first two."""
    line.takes(b"V")
    begin = line.at
    version = line.number(VERSION_DIGITS)
    line.takes_flag(_CHECKSUM)
    checksum = line.hex16()
    words = line.since(begin)
    line.takes_flag(_COPIES)
    durable = line.number(3)
    line.takes(b"/")
    return version, checksum, durable, line.number(3), words
