"""What servers use: processor time, resident memory, room on disk; and files taken out of the page cache.

All from /proc and the file system. Needs no root for one's own processes and files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BLOCK_BYTES = 512
"""Of `st_blocks`, whatever the file system's own blocks are."""


def processor_s(pids: Iterable[int]) -> float:
    """Seconds of processor time of processes so far, with those of their children that have ended."""
    return sum(_stat_s(pid) for pid in pids)


def _stat_s(pid: int) -> float:
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def parse_stat(line: str) -> float:
    """Seconds of processor time in a line of /proc/PID/stat: utime, stime, cutime and cstime (proc(5), 14 to 17).

    The name before them stands in brackets and may itself have brackets and spaces.
    """
    fields = line.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS_PER_S


def resident_kib(pids: Iterable[int]) -> int:
    """KiB in memory; a page that several processes share counts once in all (Pss of /proc/PID/smaps_rollup)."""
    return sum(_pss_kib(pid) for pid in pids)


def _pss_kib(pid: int) -> int:
    try:
        return kib_of("Pss", Path(f"/proc/{pid}/smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0


def kib_of(name: str, text: str) -> int:
    """The figure behind `name:` in a file such as /proc/PID/status, in KiB; 0 where it isn't there."""
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:")), 0)


def anonymous_kib(pid: int) -> int:
    """RssAnon of one process in KiB: memory that belongs to nobody's file; 0 when it has ended."""
    try:
        return kib_of("RssAnon", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0


def disk_bytes(directories: Iterable[Path]) -> int:
    """Room that the file system has given to everything in `directories`, in bytes; holes in files take none."""
    used = 0
    for path in _below(directories):
        try:
            used += path.lstat().st_blocks * BLOCK_BYTES
        except FileNotFoundError:
            continue  # ended or renamed while we looked
    return used


def leave_page_cache(directories: Iterable[Path]) -> None:
    """Have the kernel forget the contents of all files in `directories`, so that reading them is reading the disk.

    What is dirty is written first, as only clean pages can be dropped. Not dropped, and no different for any server:
    what is mapped by a process at the moment, and the file system's own inodes and directories.
    """
    os.sync()
    for path in _below(directories):
        if not path.is_file():
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # removed while we looked
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _below(directories: Iterable[Path]) -> Iterable[Path]:
    for directory in directories:
        yield from directory.rglob("*")
