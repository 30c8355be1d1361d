"""A small file that is only ever replaced whole, and says itself whether it is: who a node is, and what its ring is.

Three lines: what it is, its format and the machine's byte order; the content; the checksum of both. A new one is
written beside the old one, fsynced, renamed, and the directory fsynced.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import xxhash

from nodes.format import FORMAT
from nodes.volume import sync_directory
from sfss.errors import SetupError

UNFINISHED = ".new"


def read_small_file(path: Path, magic: str) -> bytes:
    """The content. Raises `SetupError` for a damaged file or a newer format."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SetupError(f"{path} can't be read: {error.strerror or error}") from None
    head, _, rest = text.partition(b"\n")
    body, _, check = rest.partition(b"\n")
    words = head.decode("ascii", "replace").split()
    if len(words) != 3 or words[0] != magic or not words[1].isdigit():
        raise SetupError(f"{path} is damaged: it does not begin with {magic!r}; restore it or wipe the directory")
    if int(words[1]) > FORMAT:
        raise SetupError(
            f"{path} has format {words[1]}, which is newer than this program; run the version that wrote it"
        )
    if words[2] != sys.byteorder:
        raise SetupError(f"{path} was written on a machine of {words[2]} byte order; this one's is {sys.byteorder}")
    if check.strip() != _check_of(head, body):
        raise SetupError(f"{path} is damaged: its checksum is wrong; restore it or wipe the directory")
    return body


def replace_small_file(path: Path, magic: str, body: bytes) -> None:
    """Put another content in its place, durably. Raises `OSError`."""
    head = f"{magic} {FORMAT} {sys.byteorder}".encode()
    unfinished = path.with_name(path.name + UNFINISHED)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(head + b"\n" + body + b"\n" + _check_of(head, body) + b"\n")
        while left:
            left = left[os.write(fd, left) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(unfinished, path)
    sync_directory(path.parent)


def _check_of(head: bytes, body: bytes) -> bytes:
    return b"%016x" % xxhash.xxh3_64_intdigest(head + b"\n" + body)
