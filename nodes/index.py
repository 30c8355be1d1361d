"""The index on disk: an LMDB of entries by key hash, and how far it covers the volumes. The only importer of lmdb.

One thread at a time writes (`commit`, fully synced). The loop's thread reads through one long-lived read transaction,
which `refresh` renews after each commit, so that it pins no old pages for longer; other threads read in `snapshot`.
The map is a sparse file's; `grow` enlarges it, which LMDB allows only while nobody reads, hence the lock.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import lmdb
import xxhash

from nodes.entry import ABSENT
from nodes.format import FORMAT
from sfss.errors import CorruptRecord, SetupError

MAP_BYTES_MIN: Final = 1024 * 1024 * 1024
"""Address space, not memory or disk."""

FULL_BYTES: Final = 1024 * 1024
"""A disk with less room than this is full: LMDB writes up to 64 pages at once, more of them where they are large."""

SLICE_ENTRIES: Final = 500
"""Entries handed to LMDB in one call. It holds the interpreter for under 1 ms then."""

READ_S_MAX: Final = 2.0
"""How long a start after a crash reads the index before it trusts that the disk has all of it."""

_READ_BYTES: Final = 1024 * 1024

_REACH_BYTES: Final = 64 * 1024
"""Offsets in a page have 16 bits, and LMDB looks before it checks where one leads."""

_LIVE: Final = struct.Struct("<QI")
_COVERED_KEY: Final = b"covered"
_VOLUME_PREFIX: Final = b"volume/"
_TREE_KEY: Final = b"tree"
_TREE_PREFIX: Final = b"tree/"
_DURABLE_KEY: Final = b"durable"


class IndexDamaged(Exception):
    """The index can't be used and must be rebuilt from the volumes."""


class IndexFull(Exception):
    """The map is too small for a commit: `grow` and try again."""


class IndexDiskFull(Exception):
    """The disk had no room for a commit; nothing of it was done."""


@dataclass(frozen=True, slots=True)
class Covered:
    """How far the index goes: all records before `offset` of volume `volume` and of the volumes before are in it.

    `position` is the same as the node counts; `version_max` the largest version among them, so that a stamp is never
    issued twice even if the identity file is an old one; `files` counts entries that are no tombstones.
    """

    node: str
    volume: int = 0
    offset: int = 0
    position: int = 0
    version_max: int = 0
    files: int = 0
    format: int = FORMAT
    byte_order: str = sys.byteorder


class Index:
    """The entries of one node. Every key is an index key (`nodes.entry.index_key`), every value a packed entry."""

    def __init__(self, environment: lmdb.Environment, path: Path, node: str, read_only: bool = False) -> None:
        self._environment = environment
        self._path = path
        self._data = path / "data.mdb"
        self.read_only = read_only
        self._entries = environment.open_db(b"entries", create=not read_only)
        self._meta = environment.open_db(b"meta", create=not read_only)
        self._node = node
        self._map_lock = threading.Lock()
        self.get: Callable[[bytes], bytes | None] = self._refuse
        """Look up one entry; for the loop's thread. A bound method of the transaction itself: a method around it
        would cost a fifth of the look-up. Raises `lmdb_error` kinds, see `errors`."""

    @classmethod
    def open(cls, path: Path, node: str, read_only: bool = False, distrusted: bool = False) -> Index:
        """Open, or make an empty one. `distrusted` reads it first, some two gigabytes for ten million files: all of it
        if `read_only`, else for `READ_S_MAX`. Raises `IndexDamaged` when it can't be trusted or isn't this node's,
        `SetupError` for a newer format."""
        data = path / "data.mdb"
        used = data.stat().st_size if data.exists() else 0
        if distrusted and used:
            check_readable(data, math.inf if read_only else READ_S_MAX)
        if not read_only:
            path.mkdir(mode=0o700, exist_ok=True)
        try:
            environment = lmdb.open(
                str(path),
                map_size=max(MAP_BYTES_MIN, _power_of_two(2 * used)),
                mode=0o600,
                readonly=read_only,
                lock=not read_only,  # the data directory's lock keeps writers away
                readahead=False,  # look-ups are random
                meminit=False,
                max_dbs=2,
            )
        except (lmdb.Error, OSError) as error:
            raise IndexDamaged(str(error)) from None
        try:
            _check_length(environment, data)
            index = cls(environment, path, node, read_only)
            index._check_owner()
            if not read_only:
                index._keep_distance()
            index.live_bytes()
            index.durable()
        except (lmdb.Error, ValueError, struct.error) as damage:
            environment.close()
            raise IndexDamaged(str(damage)) from None
        except BaseException:
            environment.close()
            raise
        return index

    def _check_owner(self) -> None:
        covered = self.covered()
        if covered.format > FORMAT:
            raise SetupError(
                f"{self._path} has format {covered.format}, which is newer than this program; "
                "run the version that wrote it"
            )
        if covered.node != self._node or covered.byte_order != sys.byteorder:
            raise IndexDamaged(f"it belongs to node {covered.node}")

    @staticmethod
    def remove(path: Path) -> None:
        """Delete an index, to be rebuilt."""
        shutil.rmtree(path, ignore_errors=True)

    def covered(self) -> Covered:
        """How far the committed index goes. Raises `IndexDamaged`."""
        with self._reading() as transaction:
            packed = transaction.get(_COVERED_KEY, db=self._meta)
        return Covered(self._node) if packed is None else Covered(**json.loads(_checked(packed)))

    def durable(self) -> int:
        """Up to which position records may be in the index that it doesn't cover, since a commit of several slices came
        to no end; all before it was on disk. 0 where none are. Raises `IndexDamaged`."""
        with self._reading() as transaction:
            return self._durable_in(transaction)

    def _durable_in(self, transaction: lmdb.Transaction[bytes]) -> int:
        packed = transaction.get(_DURABLE_KEY, db=self._meta)
        return 0 if packed is None else int(_checked(packed))

    def live_bytes(self) -> dict[int, int]:
        """Bytes of records in each volume that entries point to, as of the last commit. Raises `IndexDamaged`."""
        live = {}
        with self._reading() as transaction, transaction.cursor(db=self._meta) as cursor:
            if cursor.set_range(_VOLUME_PREFIX):
                for key, packed in cursor:
                    if not key.startswith(_VOLUME_PREFIX):
                        break
                    number = int(key[len(_VOLUME_PREFIX) :])
                    count, check = _LIVE.unpack(packed)
                    if check != _live_check(number, count):
                        raise IndexDamaged(f"its figures of volume {number} failed their checksum")
                    live[number] = count
        return live

    def refresh(self) -> None:
        """Let the loop's reads see the last commit, and its old pages go."""
        self._transaction = self._environment.begin(db=self._entries)
        self.get = self._transaction.get

    def tree_pages(self) -> dict[int, bytes] | None:
        """The pages of the hash tree (`nodes.tree`), as of the last commit; None where it was not kept up to that."""
        pages = {}
        with self._reading() as transaction, transaction.cursor(db=self._meta) as cursor:
            if transaction.get(_TREE_KEY, db=self._meta) != b"%d" % self.covered().position:
                return None
            if cursor.set_range(_TREE_PREFIX):
                for key, packed in cursor:
                    if not key.startswith(_TREE_PREFIX):
                        break
                    pages[int(key[len(_TREE_PREFIX) :], 16)] = packed
        return pages

    def notes(self, prefix: bytes) -> dict[bytes, bytes]:
        """What was noted under names with a prefix, as of the last commit."""
        with self._reading() as transaction:
            return Frozen(transaction, self._meta).notes(prefix)

    def commit(
        self,
        entries: Mapping[bytes, bytes],
        covered: Covered,
        live_bytes: Mapping[int, int],
        forget_all: bool,
        tree: Mapping[int, bytes] | None = None,
        notes: Mapping[bytes, bytes] | None = None,
        durable: int = 0,
    ) -> None:
        """Put entries (`ABSENT` takes one out) and coverage together, durably. `live_bytes` holds the volumes whose
        figure has changed; 0 forgets a volume. `forget_all` empties the index first. `tree` has the pages of the hash
        tree that have changed, those that became empty without bytes; `notes` whatever else is to be known of the
        entries, by name, in the same way. `durable` is 0 but where this is a slice of something larger that isn't the
        last one (`nodes.generation`): then it is the position that the last one will cover.

        Raises `IndexFull`, `IndexDiskFull`; then nothing was done. For one thread at a time, and not the loop's.
        """
        with self._committing() as transaction:
            if forget_all:
                transaction.drop(self._entries, delete=False)
            self._put_all(transaction, entries)
            for number, count in live_bytes.items():
                key = _VOLUME_PREFIX + b"%010d" % number
                if count > 0:
                    transaction.put(key, _LIVE.pack(count, _live_check(number, count)), db=self._meta)
                else:
                    transaction.delete(key, db=self._meta)
            for name, note in (notes or {}).items():
                if note:
                    transaction.put(name, note, db=self._meta)
                else:
                    transaction.delete(name, db=self._meta)
            if tree is not None:
                for number, packed in tree.items():
                    key = _TREE_PREFIX + b"%02x" % number
                    if packed:
                        transaction.put(key, packed, db=self._meta)
                    else:
                        transaction.delete(key, db=self._meta)
                if not durable:
                    transaction.put(_TREE_KEY, b"%d" % covered.position, db=self._meta)
            # A start that replays what slices had may commit it step by step, and be killed as well.
            durable = max(durable, self._durable_in(transaction))
            if durable > covered.position:
                transaction.put(_DURABLE_KEY, _with_check(b"%d" % durable), db=self._meta)
            else:
                transaction.delete(_DURABLE_KEY, db=self._meta)
            transaction.put(_COVERED_KEY, _with_check(json.dumps(asdict(covered)).encode()), db=self._meta)

    @contextmanager
    def _committing(self) -> Iterator[lmdb.Transaction[bytes]]:
        try:
            with self._environment.begin(write=True) as transaction:
                yield transaction
            self._keep_distance()
        except lmdb.MapFullError:
            raise IndexFull from None
        except lmdb.DiskError as full:
            raise IndexDiskFull(str(full)) from None
        except lmdb.Error as error:
            # A write that finds room for a part of it only is an I/O error to LMDB.
            if "No space left" in str(error) or ("Input/output error" in str(error) and self._disk_is_full()):
                raise IndexDiskFull(str(error)) from None
            raise IndexDamaged(str(error)) from None

    def _keep_distance(self) -> None:
        """Keep the file's end, behind which a look is a SIGBUS, out of reach of what a flipped bit makes of an offset.
        It costs no room on disk."""
        wanted = _used_bytes(self._environment) + _REACH_BYTES
        with suppress(OSError):
            if self._data.stat().st_size < wanted:
                os.truncate(self._data, wanted + _REACH_BYTES)

    def _disk_is_full(self) -> bool:
        try:
            free = os.statvfs(self._path)
        except OSError:
            return False
        return free.f_bavail * free.f_frsize < FULL_BYTES

    def _put_all(self, transaction: lmdb.Transaction[bytes], entries: Mapping[bytes, bytes]) -> None:
        # In key order neighbours share pages, and the tree is walked once: a third of the time of random order. Buckets
        # of the first byte keep each sort short, since sorting holds the interpreter.
        buckets: list[list[bytes]] = [[] for _ in range(256)]
        for key in entries:
            buckets[key[0]].append(key)
        with transaction.cursor(db=self._entries) as cursor:
            for bucket in buckets:
                bucket.sort()
                for start in range(0, len(bucket), SLICE_ENTRIES):
                    keys = bucket[start : start + SLICE_ENTRIES]
                    cursor.putmulti([(key, entries[key]) for key in keys if entries[key] != ABSENT])
                    for key in keys:
                        if entries[key] == ABSENT:
                            transaction.delete(key, db=self._entries)

    def lacks_room_for(self, entry_count: int) -> bool:
        """Whether a commit of so many entries might not fit the map. Each may touch a leaf of its own, and copies
        it."""
        info = self._environment.info()
        needed = (info["last_pgno"] + 2 * entry_count + 1000) * self._environment.stat()["psize"]
        return bool(needed > info["map_size"])

    def grow(self) -> None:
        """Double the map. For the loop's thread, while nobody commits."""
        with self._map_lock:
            reading = self.get != self._refuse
            if reading:
                self._transaction.abort()
            self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            if reading:
                self.refresh()

    @contextmanager
    def snapshot(self) -> Iterator[Callable[[bytes], bytes | None]]:
        """Look-ups in the last commit, for any thread. Keep it short: it pins pages, and `grow` waits for it."""
        with self._map_lock, self._environment.begin(db=self._entries) as transaction:
            yield transaction.get

    @contextmanager
    def frozen(self) -> Iterator[Frozen]:
        """All of the last commit, for any thread. Keep it short, as `snapshot`."""
        with self._map_lock, self._environment.begin(db=self._entries) as transaction:
            yield Frozen(transaction, self._meta)

    def lying_from(self, key: bytes, limit: int) -> list[tuple[bytes, bytes, bool]]:
        """Up to `limit` entries of the last commit from a key on, in the order in which they lie: key, entry, and
        whether a search finds it. For any thread."""
        with (
            self._map_lock,
            self._environment.begin(db=self._entries) as transaction,
            transaction.cursor() as cursor,
        ):
            if not cursor.set_range(key):
                return []
            return [(lying, entry, transaction.get(lying) == entry) for lying, entry in islice(cursor, limit)]

    def put_right(self, before: bytes, wrong_key: bytes, wrong: bytes, key: bytes, entry: bytes) -> bool:
        """Put an entry in place of a damaged one, durably, but not over another of its key. The damaged one is sought
        as it lies, close behind the key `before`, since a search may miss it. False when it isn't there any more.

        Raises `IndexFull`, `IndexDiskFull`; then nothing was done. For the thread that commits.
        """
        with (
            self._map_lock,  # it comes between the indexer's commits, so `grow` must wait for it
            self._committing() as transaction,
            transaction.cursor(db=self._entries) as cursor,
        ):
            cursor.set_range(before)
            for found in islice(cursor, 2 * SLICE_ENTRIES):
                if found == (wrong_key, wrong):
                    cursor.delete()
                    transaction.put(key, entry, overwrite=False, db=self._entries)
                    return True
        return False

    def entries(self) -> Iterable[tuple[bytes, bytes]]:
        """All entries in key order; offline only."""
        with self._reading() as transaction, transaction.cursor(db=self._entries) as cursor:
            yield from cursor

    def condemn(self) -> None:
        """Have the next start rebuild the index. This process can't go on with it either."""
        for name in ("data.mdb", "lock.mdb"):
            with suppress(OSError):  # a disk that takes no change refuses that start too
                (self._path / name).unlink()

    def count(self) -> int:
        """Entries, tombstones included."""
        with self._reading() as transaction:
            return int(transaction.stat(self._entries)["entries"])

    def close(self) -> None:
        """Close the files. Nobody may be reading or committing."""
        self.get = self._refuse
        self._environment.close()

    def _reading(self) -> lmdb.Transaction[bytes]:
        return self._environment.begin(db=self._entries)

    @staticmethod
    def _refuse(key: bytes) -> bytes | None:
        raise CorruptRecord("the index is not open")


class Frozen:
    """One commit of the index, as `Index.frozen` hands it out."""

    def __init__(self, transaction: lmdb.Transaction[bytes], meta: lmdb._Database) -> None:
        self._transaction = transaction
        self._meta = meta

    def tree_page(self, number: int) -> bytes:
        """A page of the hash tree; nothing where it is empty."""
        return self._transaction.get(_TREE_PREFIX + b"%02x" % number, db=self._meta) or b""

    def notes(self, prefix: bytes) -> dict[bytes, bytes]:
        """What was noted under names with a prefix."""
        found: dict[bytes, bytes] = {}
        with self._transaction.cursor(db=self._meta) as cursor:
            if cursor.set_range(prefix):
                for name, note in cursor:
                    if not name.startswith(prefix):
                        break
                    found[name] = note
        return found

    def between(self, low: bytes, high: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` entries from key `low` on and before `high`, in key order."""
        found: list[tuple[bytes, bytes]] = []
        with self._transaction.cursor() as cursor:
            if cursor.set_range(low):
                for key, entry in islice(cursor, limit):
                    if high is not None and key >= high:
                        break
                    found.append((key, entry))
        return found


errors = lmdb.Error
"""What `Index.get` raises when a page of the index is damaged."""


def check_readable(data: Path, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
    """Read a file, but begin nothing new after so many seconds. Raises `IndexDamaged` where it can't be read."""
    # Where the disk has lost a page, a look-up in the map ends the process by SIGBUS; the next start then finds its
    # note and rebuilds the index (`nodes.crash_note`). To read ahead of that spares a crash, and isn't worth a start
    # that takes longer the more files there are.
    end = monotonic() + seconds
    try:
        with data.open("rb", buffering=0) as file:
            offset = 0
            while piece := os.pread(file.fileno(), _READ_BYTES, offset):
                offset += len(piece)
                if monotonic() >= end:
                    break
    except OSError as error:
        raise IndexDamaged(f"{data} can't be read: {error.strerror}") from None


def _check_length(environment: lmdb.Environment, data: Path) -> None:
    # LMDB would map what is missing, and the process would die by SIGBUS when it looks there.
    needed = _used_bytes(environment)
    if data.stat().st_size < needed:
        raise IndexDamaged(f"{data} is shorter than the {needed} bytes that it says it has")


def _used_bytes(environment: lmdb.Environment) -> int:
    return int((environment.info()["last_pgno"] + 1) * environment.stat()["psize"])


def _power_of_two(size: int) -> int:
    return 1 << max(size - 1, 1).bit_length()


def _with_check(body: bytes) -> bytes:
    return b"%016x %b" % (xxhash.xxh3_64_intdigest(body), body)


def _checked(packed: bytes) -> bytes:
    _, _, body = packed.partition(b" ")
    if packed != _with_check(body):
        raise IndexDamaged("its coverage failed its checksum")
    return body


def _live_check(number: int, count: int) -> int:
    return xxhash.xxh3_64_intdigest(b"%d %d" % (number, count)) & 0xFFFFFFFF
