"""Restore: a run's files are written through proxies, so nodes and copies may be as many as they like there.

What comes back are bytes, flags and expiry; versions are made anew. Files that have expired stay out. Every file is
checked against its checksum before it is written.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sfss.backup.errors import BackupFailed
from sfss.backup.manifest import Manifest, Row
from sfss.backup.patience import Patience
from sfss.backup.segments import segment_path
from sfss.backup.verifying import Say, read_whole, text_of
from sfss.errors import CorruptRecord, OutOfDisk, SfssError
from sfss.pace import Pace, side_by_side
from sfss.store import Call, Reply, Store, settled

T = TypeVar("T")

_ROWS = 256


@dataclass(slots=True)
class Restored:
    """What a restore has done so far."""

    part: float = 0.0
    written: int = 0
    bytes_written: int = 0
    there: int = 0
    """Files that were left alone, because the target has one of that name."""
    expired: int = 0
    failed: int = 0


class Restoring:
    """One restore. `only_absent`: look before each file is written, and leave what is there as it is. `verify`: read
    each file back, and compare. `say` is told of each file that could not be restored."""

    def __init__(
        self,
        manifest: Manifest,
        segments: Path,
        store: Store,
        *,
        jobs: int,
        pace: Pace,
        say: Say,
        only_absent: bool = False,
        verify: bool = False,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.progress = Restored()
        self._manifest = manifest
        self._segments = segments
        self._store = store
        self._jobs = jobs
        self._pace = pace
        self._say = say
        self._only_absent = only_absent
        self._verify = verify
        self._now = now
        self._patience = Patience("written", "go on with --into-existing", sleep)
        self._thread = ThreadPoolExecutor(1, "sfss-archive")
        self._open = (0, -1)
        """The segment that is open, and its descriptor."""

    async def run(self) -> None:
        """Write all files. Raises `BackupFailed` when it can't go on."""
        try:
            await side_by_side(self._jobs, self._rows(), self._restore)
            self.progress.part = 1.0
        finally:
            self._thread.shutdown()
            if self._open[1] >= 0:
                os.close(self._open[1])

    async def _rows(self) -> AsyncGenerator[Row, None]:
        run = self._manifest.run()
        total = run.files if run is not None else 0
        rows = await self._threaded(self._manifest.all_files)
        number = 0
        while some := await self._threaded(_some, rows):
            for row in some:
                self.progress.part = number / max(total, 1)
                number += 1
                yield row

    async def _restore(self, row: Row) -> None:
        progress = self.progress
        if row.expires and row.expires <= self._now():
            progress.expired += 1
            return
        try:
            if self._only_absent and await self._patiently(lambda call: self._store.head(row.key, call)) is not None:
                progress.there += 1
                return
            value = await self._threaded(self._read, row)
            await self._patiently(lambda call: self._store.set(row.key, value, row.flags, row.expires, call))
            if self._verify:
                await self._compare(row, value)
        except OutOfDisk as error:
            raise BackupFailed(
                f"the nodes have no room ({error}); make some, then go on with --into-existing"
            ) from None
        except SfssError as error:
            progress.failed += 1
            self._say(f"{text_of(row.key)}: {str(error) or type(error).__name__}")
            self._patience.failed(error)
            return
        self._patience.succeeded()
        progress.written += 1
        progress.bytes_written += row.size
        await self._pace.spend(row.size)

    async def _compare(self, row: Row, value: bytes) -> None:
        record = await self._patiently(lambda call: self._store.get(row.key, call))
        if record is None:
            if not (row.expires and row.expires <= self._now()):
                raise CorruptRecord("it was written, and isn't there")
        elif (record.value, record.flags) != (value, row.flags) or (
            record.version and record.expires != row.expires  # foreign servers don't tell the expiry
        ):
            raise CorruptRecord("what is read is not what was written")

    async def _patiently(self, ask: Callable[[Call], Reply[T]]) -> T:
        return await self._patience.ask(lambda call: settled(ask(call)))

    def _read(self, row: Row) -> bytes:
        number, fd = self._open
        if number != row.segment:
            if fd >= 0:
                os.close(fd)
                self._open = (0, -1)
            try:
                fd = os.open(segment_path(self._segments, row.segment), os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise CorruptRecord(f"its segment {row.segment} can't be read: {error.strerror}") from None
            self._open = (row.segment, fd)
        return read_whole(fd, row)

    async def _threaded(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def _some(rows: Iterator[Row]) -> list[Row]:
    return list(islice(rows, _ROWS))
