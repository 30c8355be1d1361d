"""What is on its way to disk: writes, and the batches that they are laid out in.

Offsets, positions and headers are decided when a batch is made, on the loop, so the thread that appends it does system
calls only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from nodes.entry import pack_entry
from nodes.format import (
    BATCH_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    Kind,
    VolumeHeader,
    pack_batch_header,
    pack_fields,
    pack_record_header,
)
from nodes.volume import Volume
from sfss.errors import SfssError
from sfss.groups import Join
from sfss.promise import Promise

BATCH_RECORDS_MAX: Final = 500
"""With two buffers a record, just under the 1,024 that one pwritev takes (Linux, IOV_MAX)."""

_FILE: Final = int(Kind.FILE)

_JOIN_BYTES_MAX: Final = 512
"""Values up to here are copied behind their header: a copy is cheaper than another buffer for the kernel to walk."""


class Write:
    """One record on its way to disk, and who waits for it.

    `moves` is the entry that a compaction's copy replaces; None for a client's write. `entry` is set when the write is
    laid out in a volume. `replaces` is what was the key's newest durable entry when the write was taken, if somebody
    looked, and is that still as long as `Overlay.shifts` is `replaces_at`. It is settled once it is durable or, with
    `error` set, never will be. Plain attributes throughout: one is made for every write, and the batch's layout reads
    them all.
    """

    __slots__ = (
        "answer",
        "checksum",
        "entry",
        "error",
        "expires",
        "flags",
        "group",
        "index_key",
        "key",
        "kind",
        "moves",
        "place",
        "promise",
        "replaces",
        "replaces_at",
        "settled",
        "size",
        "value",
        "version",
        "waiters",
    )

    def __init__(
        self,
        index_key: bytes,
        kind: int,
        key: bytes,
        value: bytes,
        flags: int,
        expires: int,
        version: int,
        checksum: int,
        moves: bytes | None = None,
    ) -> None:
        self.index_key = index_key
        self.kind = kind
        self.key = key
        self.value = value
        self.flags = flags
        self.expires = expires
        self.version = version
        self.checksum = checksum
        self.moves = moves
        self.size = RECORD_HEADER_BYTES + len(key) + len(value)
        self.entry = b""
        self.replaces: bytes | None = None
        self.replaces_at = -1
        self.settled = False
        self.error: SfssError | None = None
        self.promise: Promise[Any] | None = None
        self.answer: object = None
        self.group: Join | None = None
        self.place = 0
        self.waiters: list[tuple[Promise[Any], object]] | None = None

    @property
    def privileged(self) -> bool:
        """Whether it may use the reserve: it is what makes room, now or later."""
        return self.kind != _FILE or self.moves is not None

    def wait(self, promise: Promise[Any], answer: object) -> None:
        """Have `promise` get `answer` once the record is durable, or the error."""
        if self.promise is None:
            self.promise = promise
            self.answer = answer
        elif self.waiters is None:
            self.waiters = [(promise, answer)]
        else:
            self.waiters.append((promise, answer))

    def wait_in(self, group: Join, place: int) -> None:
        """Have a group know once the record is durable, or the error. One group at most."""
        self.group = group
        self.place = place
        group.expect()

    def settle(self, error: SfssError | None) -> None:
        """Tell all that wait."""
        self.settled = True
        self.error = error
        self.value = b""
        if self.group is not None:
            if error is None:
                self.group.came()
            else:
                self.group.failed(self.place, error)
        if self.promise is not None:
            _tell(self.promise, self.answer, error)
        if self.waiters is not None:
            for promise, answer in self.waiters:
                _tell(promise, answer, error)


def _tell(promise: Promise[Any], answer: object, error: SfssError | None) -> None:
    if not promise.done():
        if error is None:
            promise.set_result(answer)
        else:
            promise.set_exception(error)


class Batch:
    """What the thread does in one go. `begins` is the header of the volume to begin first, if any; `size` the bytes of
    the records; `failures` how many batches had failed when it was laid out: after one more, its place is wrong."""

    __slots__ = ("begins", "buffers", "end", "failures", "offset", "privileged", "size", "sync", "volume", "writes")

    def __init__(
        self,
        volume: Volume,
        begins: VolumeHeader | None,
        offset: int,
        writes: list[Write],
        size: int,
        durable: int,
        sync: bool,
        failures: int,
    ) -> None:
        self.volume = volume
        self.begins = begins
        self.writes = writes
        self.size = size
        self.offset = offset
        self.end = offset + BATCH_HEADER_BYTES + size
        self.sync = sync
        self.failures = failures
        privileged = True
        salt = volume.header.salt
        base = volume.header.position
        number = volume.header.number
        buffers = [pack_batch_header(salt, base + offset, size, durable)]
        offset += BATCH_HEADER_BYTES
        for write in writes:
            kind = write.kind
            value = write.value
            value_bytes = len(value)
            fields = pack_fields(value_bytes, write.flags, write.expires, write.version, write.checksum)
            head = pack_record_header(salt, base + offset, kind, write.key, fields)
            if value_bytes <= _JOIN_BYTES_MAX:
                buffers.append(head + value)
            else:
                buffers.append(head)
                buffers.append(value)
            write.entry = pack_entry(write.index_key, number, offset, fields, kind)
            offset += write.size
            if kind == _FILE and write.moves is None:
                privileged = False
        self.buffers = buffers
        self.privileged = privileged


class SyncJob:
    """A wish to have everything appended so far on disk."""

    __slots__ = ("then",)

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then
