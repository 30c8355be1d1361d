"""The cluster's secret: users and passwords in a file, as memcached's option -Y reads them.

A line each, `user:password`. A client gives the first; a server takes every one, so that one can be replaced while all
runs (docs/operations.rst). No blanks and no control characters in either, since the wire has blanks between them; any
other byte will do. The limits are memcached's own, so that a file does for both.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from pathlib import Path

from sfss.errors import SetupError

LINES_MAX = 8
LINE_BYTES_MAX = 255

_LINE = re.compile(rb"([^\x00-\x20\x7f:]+):([^\x00-\x20\x7f]+)\r?").fullmatch
_FILE_BYTES_MAX = LINES_MAX * (LINE_BYTES_MAX + 1)


class Secret:
    """What a file says. `words` is what a client gives: user, blank, password."""

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self.words = b" ".join(pairs[0])
        self._digests = [_digest(*pair) for pair in pairs]

    def __repr__(self) -> str:
        return f"<Secret of {len(self._digests)} lines>"

    def knows(self, user: bytes, password: bytes) -> bool:
        """Whether they are right. How long that takes says nothing of how nearly they are: digests of one length are
        compared, each to its end, and all of them."""
        given = _digest(user, password)
        return sum(hmac.compare_digest(given, digest) for digest in self._digests) > 0


def read_secret(path: Path) -> Secret:
    """Read a file. Raises `SetupError` with one line for one that can't be used, or that others could read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            mode = os.fstat(fd).st_mode
            content = file.read(_FILE_BYTES_MAX + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise SetupError(f"the secret in {path} can't be read: {error.strerror or error}") from None
    if not stat.S_ISREG(mode):
        raise SetupError(f"the secret in {path} can't be read: it is no file")
    if mode & 0o077:
        raise SetupError(f"the secret in {path} can be read or written by others; chmod 600 {path}")
    if len(content) > _FILE_BYTES_MAX:
        raise SetupError(f"{path} has over {_FILE_BYTES_MAX} bytes; a secret has {LINES_MAX} lines at most")
    return _parsed(content, path)


def _parsed(content: bytes, path: Path) -> Secret:
    # What is wrong is named by its place alone: the text of a line has no business on a terminal or in a log.
    lines = content.removesuffix(b"\n").split(b"\n")
    pairs = []
    for number, line in enumerate(lines, 1):
        match = _LINE(line) if len(line) <= LINE_BYTES_MAX else None
        if match is None:
            raise SetupError(
                f"line {number} of {path} is not user:password, without blanks and of {LINE_BYTES_MAX} bytes at most"
            )
        pairs.append((match[1], match[2]))
    if len(pairs) > LINES_MAX:
        raise SetupError(f"{path} has {len(pairs)} lines; a secret has {LINES_MAX} at most")
    return Secret(pairs)


def _digest(user: bytes, password: bytes) -> bytes:
    return hashlib.sha256(b"%b %b" % (user, password)).digest()
