"""A backup's folder: whose it is, which runs it has, and how a run begins and ends.

lock                locked while something works on the folder: by one that writes, or by any that read
run-000001.sqlite   the manifest of a complete run (`sfss.backup.manifest`)
next.sqlite         the manifest of a run under way, or of one that was interrupted
segments/           the files' bytes (`sfss.backup.segments`)

A run's manifest is written beside the others and gets its name last, so a crash at any moment leaves every complete
run as it was, and the next run goes on with what the interrupted one had saved. A segment's bytes are on disk before
a manifest that speaks of them is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sfss.backup.manifest import Manifest, Run
from sfss.backup.segments import cut_segment, segment_path, sync_folder
from sfss.errors import SetupError, SfssError

_RUN = re.compile(r"run-(\d{6,})\.sqlite")
_SEGMENT = re.compile(r"(\d{6,})\.tar")
_NEXT = "next.sqlite"


class BackupFolder:
    """A locked folder. `close` gives it back."""

    def __init__(self, path: Path, *, write: bool) -> None:
        """Lock the folder, to read in it or (made where there is none) to write. Raises `SetupError`: there is no
        backup, no permission, no room, something else lies there, or it is in use."""
        self.path = path
        self.segments = path / "segments"
        with refusals(path):
            if write:
                if not path.exists():
                    path.mkdir(parents=True)
                    sync_folder(path.absolute().parent)
                _check_ours(path)
                self.segments.mkdir(exist_ok=True)
            elif not (path / "lock").exists():
                raise SetupError(f"{path} holds no backup")
            how = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
            self._lock = os.open(path / "lock", how | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise SetupError(f"{path} is in use by another backup or restore; wait until that has ended") from None

    def close(self) -> None:
        """Give the folder back; idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def runs(self) -> list[int]:
        """The numbers of all complete runs, rising."""
        found = (_RUN.fullmatch(name.name) for name in self.path.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def open_run(self, number: int | None = None) -> Manifest:
        """The manifest of a complete run, of the last one if none is named. Raises `SetupError`."""
        runs = self.runs()
        if not runs:
            raise SetupError(f"{self.path} has no complete run; run `sfss backup` again, it goes on where it was ended")
        if number is not None and number not in runs:
            raise SetupError(f"{self.path} has no run {number}; it has {', '.join(map(str, runs))}")
        return Manifest(self._run_path(number or runs[-1]))

    def begin(self, cluster: str, began: str) -> Manifest:
        """The manifest to write a run into: of a run that was interrupted, else a copy of the last one's. Raises
        `SetupError` for another cluster's folder, `OSError`."""
        runs = self.runs()
        path = self.path / _NEXT
        if not path.exists():
            new = path.with_name(f"{_NEXT}.new")
            for leftover in (new, new.with_name(f"{new.name}-journal")):
                leftover.unlink(missing_ok=True)
            if runs:
                shutil.copyfile(self._run_path(runs[-1]), new)
            else:
                Manifest.create(new, cluster)
            _sync(new)
            new.replace(path)
            sync_folder(self.path)
        manifest = Manifest(path, write=True)
        try:
            self._check_cluster(manifest.cluster, cluster)
            self._forget_uncounted(manifest)
            manifest.begin(max(runs, default=0) + 1, began)
        except BaseException:
            manifest.close()
            raise
        return manifest

    def end(self, manifest: Manifest, ended: str) -> Run:
        """Make the run under way a complete one. Closes the manifest."""
        run = manifest.end(ended)
        manifest.close()
        _sync(manifest.path)
        manifest.path.replace(self._run_path(run.number))
        sync_folder(self.path)
        return run

    def keep(self, count: int) -> tuple[int, int]:
        """Remove all but the last `count` runs, and the segments that none of these needs. Returns how many runs and
        segments went. Not while a run is under way."""
        runs = self.runs()
        old, kept = runs[:-count], runs[-count:]
        in_use: set[int] = set()
        for number in kept:
            with closing(self.open_run(number)) as manifest:
                in_use |= manifest.segments_in_use()
        for number in old:
            self._run_path(number).unlink()
        sync_folder(self.path)  # before what they need goes
        useless = self._segments_on_disk() - in_use
        for number in useless:
            segment_path(self.segments, number).unlink()
        sync_folder(self.segments)
        return len(old), len(useless)

    def _check_cluster(self, saved: str, cluster: str) -> None:
        if saved != cluster:
            raise SetupError(
                f"{self.path} is a backup of cluster {saved}, these nodes are cluster {cluster}; name another folder"
            )

    def _forget_uncounted(self, manifest: Manifest) -> None:
        """Cut off what a run that was interrupted had appended after its last commit."""
        counted = manifest.segments()
        last = max(counted, default=0)
        for number in self._segments_on_disk():
            if number > last:
                segment_path(self.segments, number).unlink()
        if last and segment_path(self.segments, last).exists():
            cut_segment(self.segments, last, counted[last])

    def _segments_on_disk(self) -> set[int]:
        found = (_SEGMENT.fullmatch(name.name) for name in self.segments.iterdir())
        return {int(match[1]) for match in found if match}

    def _run_path(self, number: int) -> Path:
        return self.path / f"run-{number:06d}.sqlite"


@contextmanager
def refusals(path: Path, kind: type[SfssError] = SetupError) -> Iterator[None]:
    """Turn what the system says about a folder that can't be used into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise kind(f"no permission to work in {path}") from None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise kind(f"no room left in {path}; free some and run it again, it goes on from there") from None
        raise kind(f"can't use {path}: {error.strerror or error}") from None


def _check_ours(path: Path) -> None:
    """Refuse a folder in which something else lies."""
    names = {name.name for name in path.iterdir()}
    if names and "lock" not in names:
        raise SetupError(f"{path} holds files that are no backup ({min(names)}); name a new or an empty folder")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
