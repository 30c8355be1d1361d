"""What goes up and down the tiers with every request: a call, a record, and what became of a write.

Plain classes, since they are made several times for every request: compiled, making one costs 30 ns, where a named
tuple takes 250 and each look at a field of it another 20.
"""

from __future__ import annotations

from binascii import hexlify
from typing import TYPE_CHECKING, Any, Final

from xxhash import xxh3_64_intdigest

from sfss.native import mypyc_attr

if TYPE_CHECKING:
    from mypy_extensions import i64

# Names of our own: to look one up in a module takes 130 instructions.
_digest_of: Final = xxh3_64_intdigest
_hexlify: Final = hexlify


@mypyc_attr(free_list_len=1)
class Call:
    """What a request carries down the tiers besides its arguments.

    `deadline` is in seconds of `time.monotonic()`; work not begun by then is dropped and answered `Expired`.
    `ring` is the number of the ring that the caller placed the key by, 0 for none. `request_id` (≤ 24 bytes of
    letters, digits, `-` and `_`) follows one user request through all logs. `shared` says of a write that others may be
    writing the key through another coordinator: one that stamps asks the replicas first.
    """

    __slots__ = ("deadline", "request_id", "ring", "shared")

    def __init__(
        self, deadline: float = float("inf"), ring: int = 0, request_id: bytes = b"", shared: bool = False
    ) -> None:
        self.deadline = deadline
        self.ring = ring
        self.request_id = request_id
        self.shared = shared

    def at_ring(self, ring: int) -> Call:
        """The same, placed by another ring."""
        return Call(self.deadline, ring, self.request_id, self.shared)

    def as_shared(self) -> Call:
        """The same, of a key that others may be writing."""
        return Call(self.deadline, self.ring, self.request_id, True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and (self.deadline, self.ring, self.request_id, self.shared) == (
            other.deadline,
            other.ring,
            other.request_id,
            other.shared,
        )

    def __hash__(self) -> int:
        return hash((self.deadline, self.ring, self.request_id, self.shared))

    def __repr__(self) -> str:
        return f"Call(deadline={self.deadline}, ring={self.ring}, request_id={self.request_id!r}, shared={self.shared})"


NO_CALL: Final = Call()


@mypyc_attr(free_list_len=1)
class Record:
    """One version of one key, as nodes keep it. Never changed once made.

    `value` is empty for tombstones and in answers of `head` and `inspect`; `size` is the value's length all the
    same. `expires` is absolute Unix seconds, 0 for never. `version` orders the writes of a key (`sfss.stamps`).
    `checksum` is `checksum_of` the whole record; (version, checksum) is the total order of a key's records.
    Foreign servers have no versions: there `version` and `checksum` are 0.
    `words`: how a line says all this but the value, so that nobody has to say it anew; empty where it came in none.
    """

    __slots__ = ("checksum", "expires", "flags", "size", "tombstone", "value", "version", "words")

    def __init__(
        self,
        value: bytes,
        size: int,
        flags: int = 0,
        expires: int = 0,
        version: int = 0,
        checksum: int = 0,
        tombstone: bool = False,
    ) -> None:
        self.value = value
        self.size = size
        self.flags = flags
        self.expires = expires
        self.version = version
        self.checksum = checksum
        self.tombstone = tombstone
        self.words = b""

    def live(self, now: float) -> bool:
        """Whether a reader may see it. `now` is Unix seconds of whoever decides (with replicas: the coordinator)."""
        return not self.tombstone and (self.expires == 0 or self.expires > now)

    def order(self) -> tuple[int, int]:
        """What to compare two records of one key by."""
        return (self.version, self.checksum)

    def replaced(self, **changes: Any) -> Record:
        """The same but for some fields."""
        return Record(**(self._fields() | changes))

    def _fields(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "size": self.size,
            "flags": self.flags,
            "expires": self.expires,
            "version": self.version,
            "checksum": self.checksum,
            "tombstone": self.tombstone,
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash((self.version, self.checksum))

    def __repr__(self) -> str:
        return f"Record({', '.join(f'{name}={value!r}' for name, value in self._fields().items())})"


def checksum_of(key: bytes, value: bytes, flags: int, expires: int, version: int, tombstone: bool) -> int:
    """Hash a record to 64 bits; the same on the wire, on disk and on every replica. Format: docs/format.rst.

    xxh3-64 of the value, seeded with xxh3-64 of a head that holds everything else, so that no copy of a large
    value is made (measured: 0.25 µs at 4 KiB, crc32 0.83 µs).
    """
    if flags or expires or tombstone or not _LEAST <= version <= _MOST:
        head = b"%x %x %x %x %d %b" % (version, flags, expires, len(value), tombstone, key)
    else:
        head = _usual_head(version, len(value), key)  # of nearly all records, in half the time
    return _digest_of(value, _digest_of(head))


_LEAST: Final = 1 << 56
_MOST: Final = (1 << 62) - 1
"""Versions of the years 2004 to 4199: what has 15 or 16 hexadecimal digits, and fits into a word of C."""

_PAIRS: Final = [b"%02x" % byte for byte in range(256)]
_FIRST: Final = [b"%x" % byte for byte in range(256)]


def _usual_head(version: i64, size: i64, key: bytes) -> bytes:
    """The head for `checksum_of` of what has neither flags nor expiry and is no tombstone. By tables, since a `%x` in
    it would have the whole line formatted by the interpreter."""
    return b"%b%b%b%b%b%b%b%b 0 0 %b 0 %b" % (
        _FIRST[version >> 56],
        _PAIRS[version >> 48 & 255],
        _PAIRS[version >> 40 & 255],
        _PAIRS[version >> 32 & 255],
        _PAIRS[version >> 24 & 255],
        _PAIRS[version >> 16 & 255],
        _PAIRS[version >> 8 & 255],
        _PAIRS[version & 255],
        _FIRST[size >> 8] + _PAIRS[size & 255] if 256 <= size < 65_536 else b"%x" % size,
        key,
    )


def tag_of(version: i64, words: bytes) -> bytes:
    """Version and checksum of a record in hex, joined by `-`. The version is a usual one (`is_usual`), and `words` are
    those of `Record` or `Written`, which end with the checksum: half the work of putting both numbers into digits."""
    return b"%b%b%b%b%b%b%b%b-%b" % (
        _PAIRS[version >> 56],
        _PAIRS[version >> 48 & 255],
        _PAIRS[version >> 40 & 255],
        _PAIRS[version >> 32 & 255],
        _PAIRS[version >> 24 & 255],
        _PAIRS[version >> 16 & 255],
        _PAIRS[version >> 8 & 255],
        _PAIRS[version & 255],
        words[-16:],
    )


def is_usual(version: int) -> bool:
    """Whether a version is of the years 2004 to 4199."""
    return _LEAST <= version <= _MOST


def hex16(number: int) -> bytes:
    """64 bits as 16 hexadecimal digits. Compiled, a `%016x` in a line of otherwise plain fields makes all of it five
    times as slow."""
    return _hexlify(number.to_bytes(8, "big"))


@mypyc_attr(free_list_len=1)
class Written:
    """What a write achieved. `durable` of `copies` replicas are known to hold it on disk (`copies` 0: the
    server doesn't say). `version` and `checksum` are 0 where the server has no versions. `words`: how the line that
    tells of it says these two; empty where none did."""

    __slots__ = ("checksum", "copies", "durable", "version", "words")

    def __init__(self, version: int = 0, checksum: int = 0, durable: int = 0, copies: int = 0) -> None:
        self.version = version
        self.checksum = checksum
        self.durable = durable
        self.copies = copies
        self.words = b""

    def _fields(self) -> tuple[int, int, int, int]:
        return (self.version, self.checksum, self.durable, self.copies)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Written) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        return f"Written{self._fields()}"


@mypyc_attr(free_list_len=1)
class Applied:
    """A replica's answer to a stamped write.

    `accepted`: the record is the newest it holds, and durable per the node's sync setting (`durable` tells
    whether it really is on disk). Also true for a repeat of the same record. Else `version` and `checksum` are those
    of the newer record that it holds."""

    __slots__ = ("accepted", "checksum", "durable", "version")

    def __init__(self, accepted: bool, version: int, checksum: int, durable: bool) -> None:
        self.accepted = accepted
        self.version = version
        self.checksum = checksum
        self.durable = durable

    def _fields(self) -> tuple[bool, int, int, bool]:
        return (self.accepted, self.version, self.checksum, self.durable)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Applied) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        return f"Applied{self._fields()}"
