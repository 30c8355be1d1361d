"""Hints on disk: which node lacks which version of which key. One SQLite file in the proxy's state directory, or in
memory where there is none.

A hint names a record and doesn't hold it: W replicas do. So a million of them take some 150 MB, whatever the files'
size, and of a key that is written again and again one is kept, the newest.

Every method blocks, and is called by one thread at a time. What it wrote is on disk when it returns (WAL with full
sync). Raises OSError where the disk fails; then nothing has changed.
"""

from __future__ import annotations

import logging
import sqlite3
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from sfss.errors import SetupError

T = TypeVar("T")

HINT_BYTES = 120
"""What a hint takes besides its key, with the node's id, and what the tree leaves empty."""

_FORMAT = 1
_ROWS = 250
"""Hints written by one statement. The interpreter's lock is let go of for each statement, and taking it back can take
as long as a turn of a busy event loop."""

# `record` is version and checksum, big-endian, so that comparing bytes compares records. `since` is when the node first
# lacked something of the key (Unix seconds). The totals are kept by triggers, in the same transaction.
_SCHEMA = f"""
CREATE TABLE hint (
    node TEXT NOT NULL, key BLOB NOT NULL, record BLOB NOT NULL, since REAL NOT NULL, PRIMARY KEY (node, key)
) WITHOUT ROWID;
CREATE TABLE waiting (
    node TEXT PRIMARY KEY, number INTEGER NOT NULL, size INTEGER NOT NULL, oldest REAL NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER hint_added AFTER INSERT ON hint BEGIN
    INSERT INTO waiting VALUES (new.node, 1, {HINT_BYTES} + length(new.key), new.since)
        ON CONFLICT (node) DO UPDATE SET
            number = number + 1, size = size + excluded.size, oldest = min(oldest, excluded.oldest);
END;
CREATE TRIGGER hint_removed AFTER DELETE ON hint BEGIN
    UPDATE waiting SET number = number - 1, size = size - {HINT_BYTES} - length(old.key) WHERE node = old.node;
    DELETE FROM waiting WHERE node = old.node AND number = 0;
END;
PRAGMA user_version = {_FORMAT};
"""  # noqa: S608  # numbers of this module

_RECORD = struct.Struct(">QQ")

_log = logging.getLogger("sfss.proxy.hints")


class Hint(NamedTuple):
    """The node of that id lacks this record of the key, or a newer one, since a time in Unix seconds."""

    node: str
    key: bytes
    version: int
    checksum: int
    since: float = 0.0

    def order(self) -> tuple[int, int]:
        return (self.version, self.checksum)


class Waiting(NamedTuple):
    """The hints for one node: how many, their bytes, and the Unix seconds of the oldest."""

    number: int
    size: int
    oldest: float


class HintStore:
    def __init__(self, path: Path | None) -> None:
        """Open the file, or make it; None keeps hints in memory. One that is damaged is replaced by an empty one:
        comparing the replicas finds what it named. Raises `SetupError` for what stands in the way."""
        self._path = path
        self._database: sqlite3.Connection | None = None
        try:
            try:
                self._open()
            except sqlite3.OperationalError as error:
                raise OSError(str(error)) from None
            except sqlite3.DatabaseError as error:
                self._replace(error)
        except OSError as error:
            self.close()
            raise SetupError(f"hints can't be kept in {path}: {error}; make room there, or remove the file") from None

    def close(self) -> None:
        """Idempotent."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def put(self, hints: Sequence[Hint], bytes_max: int) -> int:
        """Keep hints, the newest of each node and key. Returns how many of them were kept: from there on they would
        be more than `bytes_max` with what is kept already."""

        def put(database: sqlite3.Connection) -> int:
            for first in range(0, len(hints), _ROWS):
                if self._bytes(database) >= bytes_max:
                    return first
                rows = hints[first : first + _ROWS]
                values = [
                    value
                    for hint in rows
                    for value in (hint.node, hint.key, _RECORD.pack(hint.version, hint.checksum), hint.since)
                ]
                database.execute(
                    f"INSERT INTO hint VALUES {','.join(['(?, ?, ?, ?)'] * len(rows))} "  # noqa: S608  # no values
                    "ON CONFLICT (node, key) DO UPDATE SET record = max(record, excluded.record)",
                    values,
                )
            return len(hints)

        return self._transact(put)

    def after(self, node: str, key: bytes, count: int) -> list[Hint]:
        """Up to so many hints for a node, in the order of keys, from the first above `key` on."""

        def select(database: sqlite3.Connection) -> list[Hint]:
            rows = database.execute(
                "SELECT key, record, since FROM hint WHERE node = ? AND key > ? ORDER BY key LIMIT ?",
                (node, key, count),
            )
            return [_hint(node, *row) for row in rows]

        return self._transact(select)

    def remove(self, hints: Iterable[Hint]) -> None:
        """Forget hints, unless a newer one of the same node and key has taken the place."""
        rows = [(hint.node, hint.key, _RECORD.pack(hint.version, hint.checksum)) for hint in hints]
        self._transact(
            lambda database: database.executemany("DELETE FROM hint WHERE node = ? AND key = ? AND record <= ?", rows)
        )

    def take_older(self, than: float, count: int) -> list[bytes]:
        """Remove up to so many hints older than a time in Unix seconds; returns their keys."""

        def take(database: sqlite3.Connection) -> list[bytes]:
            [oldest] = database.execute("SELECT min(oldest) FROM waiting").fetchone()
            if oldest is None or oldest >= than:
                return []
            rows = database.execute("SELECT node, key FROM hint WHERE since < ? LIMIT ?", (than, count)).fetchall()
            _delete(database, rows)
            if len(rows) < count:
                # Nobody else looks for it when the oldest goes: that would be a search through all for each.
                database.execute(
                    "UPDATE waiting SET oldest = (SELECT min(since) FROM hint WHERE hint.node = waiting.node)"
                )
            return [key for _, key in rows]

        return self._transact(take)

    def take_of(self, node: str, count: int) -> list[bytes]:
        """Remove up to so many hints for a node; returns their keys."""

        def take(database: sqlite3.Connection) -> list[bytes]:
            rows = database.execute("SELECT node, key FROM hint WHERE node = ? LIMIT ?", (node, count)).fetchall()
            _delete(database, rows)
            return [key for _, key in rows]

        return self._transact(take)

    def waiting(self) -> dict[str, Waiting]:
        """The hints for each node by its id. `oldest` may be that of one that is gone, never later than it should."""

        def select(database: sqlite3.Connection) -> dict[str, Waiting]:
            rows = database.execute("SELECT node, number, size, oldest FROM waiting")
            return {node: Waiting(number, size, oldest) for node, number, size, oldest in rows}

        return self._transact(select)

    def _bytes(self, database: sqlite3.Connection) -> int:
        [size] = database.execute("SELECT coalesce(sum(size), 0) FROM waiting").fetchone()
        return int(size)

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._database is None:
            raise OSError("the hints are closed")
        try:
            self._database.execute("BEGIN")
            try:
                result = work(self._database)
                self._database.execute("COMMIT")
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            raise OSError(str(error)) from error
        except sqlite3.DatabaseError as error:
            self._replace(error)
            raise OSError(f"damaged: {error}") from error
        return result

    def _open(self) -> None:
        # Autocommit, so that transactions begin where they are begun. The caller sees to it that threads take turns.
        self._database = sqlite3.connect(self._path or ":memory:", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        [version] = self._database.execute("PRAGMA user_version").fetchone()
        if version > _FORMAT:
            self.close()
            raise SetupError(f"{self._path} has format {version}, newer than this program; run the one that wrote it")
        if version == 0:
            self._database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")

    def _replace(self, error: sqlite3.DatabaseError) -> None:
        """Begin anew in place of a file that can't be read. Raises OSError."""
        _log.error("%s is damaged and begun anew; comparing replicas finds what its hints named: %s", self._path, error)
        self.close()
        if self._path is not None:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        try:
            self._open()
        except sqlite3.Error as failure:
            self.close()
            raise OSError(str(failure)) from failure


def _hint(node: str, key: bytes, record: bytes, since: float) -> Hint:
    version, checksum = _RECORD.unpack(record)
    return Hint(node, key, version, checksum, since)


def _delete(database: sqlite3.Connection, rows: Iterable[tuple[str, bytes]]) -> None:
    database.executemany("DELETE FROM hint WHERE node = ? AND key = ?", rows)
