"""What a run has saved so far: its manifest and the segment it appends to, in step.

Bytes are on disk before the manifest counts them: `commit` syncs the segment, then commits the manifest. For one
thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sfss.backup.folder import BackupFolder
from sfss.backup.manifest import Manifest, Row
from sfss.backup.segments import SEGMENT_BYTES, SegmentWriter
from sfss.store import Record

COMMIT_S = 10.0
"""An interrupted run loses what it saved in so many seconds at most, and loads it again."""


class Archive:
    """Writes one run. After an `OSError` nothing more is written: `close` only lets go."""

    def __init__(
        self,
        folder: BackupFolder,
        manifest: Manifest,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.manifest = manifest
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._monotonic = monotonic
        self._writer: SegmentWriter | None = None
        self._next_number = max(manifest.segments(), default=0) + 1
        self._committed_at = monotonic()
        self._broken = False

    def save(self, key: bytes, record: Record) -> None:
        """Add a file, in place of an older version of it."""
        with self._breaking():
            if self._writer is None:
                self._writer = SegmentWriter(self._folder.segments, self._next_number)
                self._next_number += 1
            writer = self._writer
            offset = writer.append(key, record)
            self.manifest.put(
                Row(
                    key,
                    record.version,
                    record.checksum,
                    record.size,
                    record.flags,
                    record.expires,
                    writer.number,
                    offset,
                )
            )
        if writer.end >= self._segment_bytes:
            self.commit()
            self._writer = None
            writer.close()
        elif self._monotonic() >= self._committed_at + COMMIT_S:
            self.commit()

    def commit(self) -> None:
        """Make everything so far durable."""
        with self._breaking():
            counted = {}
            if self._writer is not None:
                self._writer.sync()
                counted[self._writer.number] = self._writer.end
            self.manifest.commit(counted)
            self._committed_at = self._monotonic()

    def close(self) -> None:
        """Commit, unless something failed, and let go of the segment; the manifest stays open."""
        try:
            if not self._broken:
                self.commit()
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """A write that failed leaves it open what is on disk: only what was committed before counts."""
        try:
            yield
        except OSError:
            self._broken = True
            raise
