"""The manifest of a run: an SQLite database that says of each file of the cluster where its bytes lie.

    meta      cluster, and the number of this format
    runs      one row for each run of the folder; the last one is this manifest's own
    files     one row for each file: key, version, checksum, size, flags, expires, segment, offset of its bytes
    failed    files that this run could not read, and why; a row in `files` is then of an earlier run
    segments  how many bytes of each segment count
    seen      each node's digest of each leaf of the hash tree, as it was when all of the leaf was saved

`files` is ordered by the hash of the key, as the nodes' trees are. `key` is text, or a blob where it is no UTF-8. A
manifest is not safe for use by two threads at once.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sfss.errors import SetupError
from sfss.hash_tree import LEAF_DIGITS, Branch
from sfss.keys import hash_key

FORMAT = 1

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE runs (
    number INTEGER PRIMARY KEY, began TEXT NOT NULL, ended TEXT, files INTEGER, bytes INTEGER, failed INTEGER
);
CREATE TABLE files (
    hash TEXT NOT NULL, key NOT NULL, version INTEGER NOT NULL, checksum TEXT NOT NULL, size INTEGER NOT NULL,
    flags INTEGER NOT NULL, expires INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
    PRIMARY KEY (hash, key)
) WITHOUT ROWID;
CREATE TABLE failed (key PRIMARY KEY, error TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (number INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TABLE seen (
    leaf TEXT NOT NULL, node TEXT NOT NULL, digest TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (leaf, node)
) WITHOUT ROWID;
"""


class Row(NamedTuple):
    """A saved file."""

    key: bytes
    version: int
    checksum: int
    size: int
    flags: int
    expires: int
    segment: int
    offset: int

    def order(self) -> tuple[int, int]:
        """As `Record.order`."""
        return (self.version, self.checksum)


class Run(NamedTuple):
    """A run as its manifest has it. `ended` is empty while it isn't complete. Times are ISO 8601, UTC."""

    number: int
    began: str
    ended: str
    files: int
    size: int
    failed: int


class Manifest:
    """An open manifest. `close` it. Every method may raise `OSError` for a full or failing disk."""

    def __init__(self, path: Path, *, write: bool = False) -> None:
        """Open a manifest that is there. Raises `SetupError` where it is none, damaged, or of a newer sfss."""
        self.path = path
        if not path.is_file():
            raise SetupError(f"{path} is missing")
        name = f"{path.absolute().as_uri()}?mode={'rw' if write else 'ro'}"
        with as_os_errors():
            self._database = sqlite3.connect(name, uri=True, check_same_thread=False)
        try:
            self._database.execute("PRAGMA synchronous = FULL")
            meta = dict(self._database.execute("SELECT name, value FROM meta"))
            self.cluster = str(meta["cluster"])
            newer = int(meta["format"]) > FORMAT
        except (sqlite3.Error, KeyError, ValueError, TypeError) as error:
            self._database.close()
            raise SetupError(
                f"{path} can't be used as a manifest: {error}; put it back from a copy, or go on with another folder"
            ) from None
        if newer:
            self._database.close()
            raise SetupError(f"{path} was written by a newer sfss; use that one")

    @staticmethod
    def create(path: Path, cluster: str) -> None:
        """Make an empty manifest. Raises `OSError`."""
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(path)
        try:
            with as_os_errors(), database:
                database.executescript(_SCHEMA)
                database.executemany("INSERT INTO meta VALUES (?, ?)", [("format", FORMAT), ("cluster", cluster)])
        finally:
            database.close()

    def close(self) -> None:
        """What wasn't committed is forgotten."""
        self._database.close()

    # the run

    def run(self) -> Run | None:
        """The run that this manifest is of; None in an empty one."""
        row = next(self._ask("SELECT * FROM runs ORDER BY number DESC LIMIT 1"), None)
        return None if row is None else Run(row[0], row[1], row[2] or "", row[3] or 0, row[4] or 0, row[5] or 0)

    def begin(self, number: int, began: str) -> None:
        """Make it the manifest of a run that begins now, or again."""
        with as_os_errors(), self._database:
            self._database.execute(
                "INSERT INTO runs (number, began) VALUES (?, ?) ON CONFLICT DO UPDATE SET began = excluded.began",
                (number, began),
            )
            self._database.execute("DELETE FROM failed")

    def end(self, ended: str) -> Run:
        """Note that the run is complete."""
        with as_os_errors(), self._database:
            files, size = self.totals()
            self._database.execute(
                "UPDATE runs SET ended = ?, files = ?, bytes = ?, failed = (SELECT count(*) FROM failed)"
                " WHERE number = (SELECT max(number) FROM runs)",
                (ended, files, size),
            )
        run = self.run()
        if run is None:
            raise SetupError(f"{self.path} has no run")
        return run

    def commit(self, segments: Mapping[int, int]) -> None:
        """Make all changes durable, with how many bytes of some segments count."""
        with as_os_errors(), self._database:
            self._database.executemany("INSERT OR REPLACE INTO segments VALUES (?, ?)", segments.items())

    # files

    def totals(self) -> tuple[int, int]:
        """Files, and their bytes."""
        files, size = next(self._ask("SELECT count(*), total(size) FROM files"))
        return files, int(size)

    def with_hash(self, prefix: str) -> dict[bytes, Row]:
        """The files whose key's hash begins so (hex digits), by key."""
        rows = self._rows("WHERE hash >= ? AND hash < ?", (prefix, prefix + "g"))
        return {row.key: row for row in rows}

    def all_files(self) -> Iterator[Row]:
        """In the order in which they lie in the segments."""
        return self._rows("ORDER BY segment, offset", ())

    def in_segment(self, number: int) -> dict[int, Row]:
        """The files of one segment, by where their bytes begin."""
        return {row.offset: row for row in self._rows("WHERE segment = ?", (number,))}

    def _rows(self, where: str, values: tuple[object, ...]) -> Iterator[Row]:
        columns = "key, version, checksum, size, flags, expires, segment, offset"
        found = self._ask(f"SELECT {columns} FROM files {where}", values)  # noqa: S608  constants
        for key, version, checksum, *rest in found:
            yield Row(key.encode() if isinstance(key, str) else key, version, int(checksum, 16), *rest)

    def put(self, row: Row) -> None:
        """Add or replace a file; durable after `commit`."""
        with as_os_errors():
            self._database.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    _hash(row.key),
                    _stored(row.key),
                    row.version,
                    f"{row.checksum:016x}",
                    row.size,
                    row.flags,
                    row.expires,
                    row.segment,
                    row.offset,
                ),
            )

    def drop(self, key: bytes) -> None:
        """The cluster no longer has the file."""
        with as_os_errors():
            self._database.execute("DELETE FROM files WHERE hash = ? AND key = ?", (_hash(key), _stored(key)))

    def fail(self, key: bytes, error: str) -> None:
        """Note a file that this run could not read."""
        with as_os_errors():
            self._database.execute("INSERT OR REPLACE INTO failed VALUES (?, ?)", (_stored(key), error))

    def failures(self) -> Iterator[tuple[bytes, str]]:
        for key, error in self._ask("SELECT key, error FROM failed ORDER BY key"):
            yield (key.encode() if isinstance(key, str) else key), error

    # leaves

    def seen(self, prefix: str = "") -> Iterator[tuple[str, str, Branch]]:
        """Of each leaf below a place that was saved whole: the leaf, a node's id, and that node's digest then."""
        rows = self._ask("SELECT * FROM seen WHERE leaf >= ? AND leaf < ?", (prefix, prefix + "g"))
        for leaf, node, digest, count in rows:
            yield leaf, node, Branch(int(digest, 16), count)

    def unseen(self, prefix: str = "") -> set[str]:
        """Leaves below a place that have files and no digests: not all could be saved, or no node lists them."""
        rows = self._ask(
            "SELECT DISTINCT substr(hash, 1, ?) FROM files WHERE hash >= ? AND hash < ?"
            " EXCEPT SELECT leaf FROM seen WHERE leaf >= ? AND leaf < ?",
            (LEAF_DIGITS, prefix, prefix + "g", prefix, prefix + "g"),
        )
        return {leaf for (leaf,) in rows}

    def see(self, leaf: str, digests: Mapping[str, Branch]) -> None:
        """Replace a leaf's digests; without any, the next run looks through it again if it has files. A node that has
        nothing there needs no row."""
        with as_os_errors():
            self._database.execute("DELETE FROM seen WHERE leaf = ?", (leaf,))
            rows = [(leaf, node, f"{digest:016x}", count) for node, (digest, count) in digests.items() if count]
            self._database.executemany("INSERT INTO seen VALUES (?, ?, ?, ?)", rows)

    # segments

    def segments(self) -> dict[int, int]:
        """Bytes that count of each segment that ever was, by number."""
        return dict(self._ask("SELECT number, bytes FROM segments ORDER BY number"))

    def segments_in_use(self) -> set[int]:
        """Those in which a file of this manifest lies."""
        return {number for (number,) in self._ask("SELECT DISTINCT segment FROM files")}

    def _ask(self, statement: str, values: tuple[object, ...] = ()) -> Iterator[Any]:
        with as_os_errors():
            yield from self._database.execute(statement, values)

    def damage(self) -> str:
        """What SQLite finds wrong with the database; empty when all is well."""
        try:
            lines: Iterable[tuple[str]] = self._database.execute("PRAGMA integrity_check(1)")
            found = "; ".join(line for (line,) in lines)
        except sqlite3.Error as error:
            return str(error)
        return "" if found == "ok" else found


@contextmanager
def as_os_errors() -> Iterator[None]:
    """Turn what SQLite says of the disk into an `OSError`, as for every other file."""
    try:
        yield
    except sqlite3.Error as error:
        number = errno.ENOSPC if error.sqlite_errorcode == sqlite3.SQLITE_FULL else errno.EIO
        raise OSError(number, f"{os.strerror(number)} ({error})") from None


def _hash(key: bytes) -> str:
    return f"{hash_key(key):016x}"


def _stored(key: bytes) -> str | bytes:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key
