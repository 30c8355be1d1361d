"""The volumes of a data directory: their files, their names, and the descriptors that reads use.

Owns which volumes there are, how long each one's data is, and when a file may be closed or unlinked: never while a
read in a thread uses its descriptor. Appending is the writer's, walking is `nodes.scan`'s. Used from the loop's
thread only, but for the functions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from nodes.format import VOLUME_HEADER_BYTES, NewerFormat, VolumeHeader, pack_volume_header, unpack_volume_header
from sfss.errors import CorruptRecord, SetupError

T = TypeVar("T")

_SUFFIX: Final = ".volume"
_UNFINISHED: Final = ".new"
SPARE: Final = ".spare"
"""A file that was a volume once."""


@dataclass(slots=True)
class Volume:
    """One volume file. `end` is where its data ends, in bytes; the file may be longer by room taken ahead."""

    header: VolumeHeader
    end: int

    @property
    def number(self) -> int:
        return self.header.number

    @property
    def end_position(self) -> int:
        """The node's position at the end of this volume's data."""
        return self.header.position + self.end


class SyncFailed(Exception):
    """What is in the page cache may not be what is on disk."""


def volume_path(directory: Path, number: int) -> Path:
    """Where a volume lies. Ten digits hold all numbers that an index entry can, and sort as text."""
    return directory / f"{number:010d}{_SUFFIX}"


def sync_directory(directory: Path) -> None:
    """Make renames and unlinks in a directory last through a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Make a directory and those above it that are missing, so that a power cut takes none of them back."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for directory in missing:
        sync_directory(directory.parent)


def new_header(number: int, position: int, node: bytes) -> VolumeHeader:
    """A volume to begin, with a salt of its own."""
    return VolumeHeader(number, position, node, int.from_bytes(os.urandom(8), "little"))


def create_volume(directory: Path, header: VolumeHeader, spare: Path | None = None) -> int:
    """Make an empty volume, durably, and return its descriptor, open for reading and writing. `spare` is a file to
    write over; it is gone afterwards, or on failure.

    It gets its name only once its header is on disk, so that a volume without a header is always damage. Raises
    `SyncFailed`.
    """
    path = volume_path(directory, header.number)
    unfinished = spare or path.with_suffix(_UNFINISHED)
    fresh = 0 if spare else os.O_CREAT | os.O_TRUNC
    fd = os.open(unfinished, os.O_RDWR | fresh | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, VOLUME_HEADER_BYTES)
        os.pwrite(fd, pack_volume_header(header), 0)
        _sync_or_fail(os.fsync, fd)
        os.rename(unfinished, path)
        _sync_or_fail(sync_directory, directory)
    except BaseException:
        os.close(fd)
        unfinished.unlink(missing_ok=True)
        raise
    return fd


def _sync_or_fail(sync: Callable[[T], None], what: T) -> None:
    try:
        sync(what)
    except OSError as error:
        raise SyncFailed(str(error)) from error


def find_volumes(directory: Path, node: bytes, clean: bool = True) -> tuple[list[Volume], list[int]]:
    """The volumes of a directory in order, and the numbers of those whose header is lost or not this node's.

    `end` is the file's length; whoever walks the volume corrects it. `clean` removes what a crash left unfinished, and
    spares. Raises `SetupError` for a newer format."""
    volumes: list[Volume] = []
    damaged: list[int] = []
    for path in sorted(directory.iterdir()):
        if path.suffix in (_UNFINISHED, SPARE):
            if clean:
                path.unlink()
        elif path.suffix == _SUFFIX and path.stem.isdigit():
            header = read_header(path)
            if header is None or header.number != int(path.stem) or header.node != node:
                damaged.append(int(path.stem))
            else:
                volumes.append(Volume(header, path.stat().st_size))
    return volumes, damaged


def read_header(path: Path) -> VolumeHeader | None:
    """A volume's header; None when it is damaged. Raises `SetupError` for a newer format."""
    with path.open("rb") as file:
        block = file.read(VOLUME_HEADER_BYTES)
    try:
        return unpack_volume_header(block)
    except NewerFormat as error:
        raise SetupError(
            f"{path} has format {error.args[0]}, which is newer than this program; run the version that wrote it"
        ) from None


class Volumes:
    """The volumes that there are, and their open descriptors.

    At most `open_max` are open for reading; the longest open one that nobody uses is closed for the next.
    """

    def __init__(self, directory: Path, open_max: int) -> None:
        self.directory = directory
        self.by_number: dict[int, Volume] = {}
        self._open_max = open_max
        self._fds: dict[int, int] = {}
        self._users: dict[int, int] = {}
        self._retired: set[int] = set()

    def __iter__(self) -> Iterator[Volume]:
        return iter(self.by_number.values())

    def add(self, volume: Volume) -> None:
        self.by_number[volume.number] = volume

    @property
    def newest(self) -> Volume | None:
        return self.by_number[max(self.by_number)] if self.by_number else None

    @property
    def oldest_number(self) -> int:
        return min(self.by_number, default=0)

    def fd(self, number: int) -> int:
        """The descriptor of a volume for reading. Raises `CorruptRecord` where there is no such file."""
        fd = self._fds.get(number)
        if fd is not None:
            return fd
        if len(self._fds) >= self._open_max:
            self._close_idle()
        try:
            fd = os.open(volume_path(self.directory, number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise CorruptRecord(f"volume {number} is missing") from None
        self._fds[number] = fd
        return fd

    def hold(self, number: int) -> int:
        """The descriptor, kept open until `release` even if the volume is retired meanwhile."""
        fd = self.fd(number)
        self._users[number] = self._users.get(number, 0) + 1
        return fd

    def release(self, number: int) -> None:
        """The end of one `hold`."""
        self._users[number] -= 1
        if not self._users[number]:
            del self._users[number]
            if number in self._retired:
                self._retired.discard(number)
                os.close(self._fds.pop(number))

    @contextmanager
    def held(self, number: int) -> Iterator[int]:
        """`hold` for the time of a block."""
        fd = self.hold(number)
        try:
            yield fd
        finally:
            self.release(number)

    def retire(self, number: int) -> bool:
        """Forget a volume that no entry points into any more, and whose file has lost its name. Its descriptor is
        closed once the last read that uses it has ended. Returns whether none does: its file may be written over."""
        del self.by_number[number]
        if number in self._users:
            self._retired.add(number)
            return False
        if number in self._fds:
            os.close(self._fds.pop(number))
        return True

    def close(self) -> None:
        """Close all descriptors. No read may be under way."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def _close_idle(self) -> None:
        for number, fd in self._fds.items():
            if number not in self._users:
                del self._fds[number]
                os.close(fd)
                return
