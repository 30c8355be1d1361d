"""Error lines and `sfss.errors`: one table, used by the server to write them and by the client to read them.

The lines are those of docs/wire.rst. What a line says about a write's outcome is the truth or `unknown`: an error
that leaves the outcome open has only one line to go out as, whatever its class.
"""

from __future__ import annotations

import re

from sfss.errors import (
    BadKey,
    BadRequest,
    Busy,
    CorruptRecord,
    Expired,
    Outcome,
    OutOfDisk,
    QuorumUnavailable,
    Recovering,
    RemoteError,
    SfssError,
    StaleRing,
    Stopping,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unreachable,
    Unsupported,
    WrongCluster,
)

DETAIL_CHARACTERS_MAX = 400
"""Longest message on an error line; clients with fixed buffers read 2,048 bytes."""

TOO_LARGE = b"SERVER_ERROR object too large for cache\r\n"
BUSY = b"SERVER_ERROR busy\r\n"
STOPPING = b"SERVER_ERROR stopping\r\n"
INTERNAL = b"SERVER_ERROR internal error\r\n"
TOO_MANY_CONNECTIONS = b"SERVER_ERROR too many connections\r\n"
UNKNOWN_COMMAND = b"ERROR\r\n"
UNAUTHENTICATED = b"CLIENT_ERROR unauthenticated\r\n"
AUTHENTICATION_FAILURE = b"CLIENT_ERROR authentication failure\r\n"
BAD_AUTHENTICATION = b"CLIENT_ERROR bad authentication token format\r\n"
FLUSH_NOT_ALLOWED = "flush_all not allowed"


class UnknownCommand(BadRequest):
    """A line that is no command of the protocol, or a form of one that it doesn't have."""


_CONTROL = re.compile("[\x00-\x1f\x7f]+")

# Class, the words after SERVER_ERROR or CLIENT_ERROR, and whether the message follows them. The first row whose class
# fits writes the line; the first whose words begin the line reads it.
_TABLE: tuple[tuple[type[SfssError], str, bool], ...] = (
    (TooLarge, "SERVER_ERROR object too large for cache", False),
    (CorruptRecord, "SERVER_ERROR corrupt", False),
    (Recovering, "SERVER_ERROR recovering", False),
    (OutOfDisk, "SERVER_ERROR out of disk", False),
    (Busy, "SERVER_ERROR busy", False),
    (Busy, "SERVER_ERROR too many connections", False),
    (Stopping, "SERVER_ERROR stopping", False),
    (Expired, "SERVER_ERROR deadline expired", False),
    (Unreachable, "SERVER_ERROR unreachable", True),
    (Unsupported, "SERVER_ERROR not supported here:", True),
    (WrongCluster, "CLIENT_ERROR wrong cluster", True),
    (BadKey, "CLIENT_ERROR bad key:", True),
    (BadRequest, "CLIENT_ERROR", True),
)
_NOT_LET_IN = {
    UNAUTHENTICATED.decode().rstrip(): "it asks for a user and password; give this side the same secret (`secret`)",
    AUTHENTICATION_FAILURE.decode().rstrip(): "it refused our user and password; give both sides the same secret",
    BAD_AUTHENTICATION.decode().rstrip(): "it asks for a user and password; give this side the same secret (`secret`)",
}
"""Only read, never written: what a server of ours says to its client is about that client."""
_QUORUM = "SERVER_ERROR quorum unavailable"
_STALE_RING = re.compile(r"SERVER_ERROR stale ring ([0-9]{1,18})")


def error_line(error: SfssError) -> bytes:
    """The line, with its CRLF, that tells a client of `error`."""
    if isinstance(error, UnknownCommand):
        return UNKNOWN_COMMAND
    if isinstance(error, StaleRing):
        return _line("SERVER_ERROR", str(error))
    if not (isinstance(error, Unavailable) and error.outcome is Outcome.UNKNOWN):
        for kind, words, detailed in _TABLE:
            if isinstance(error, kind):
                return _line(words, str(error) if detailed else "")
    # A quorum that wasn't reached, a connection lost on the way down, or a write that may yet come to be.
    return _line(f"{_QUORUM} {error.outcome.value}", str(error) or type(error).__name__)


def error_of(line: bytes) -> SfssError:
    """The error that a server's line (`ERROR`, `CLIENT_ERROR …` or `SERVER_ERROR …`, without CRLF) stands for."""
    text = line.decode("utf-8", "replace")
    if text == "ERROR":
        return Unsupported("the server doesn't know the command")
    if text.startswith(_QUORUM):
        outcome, _, detail = text[len(_QUORUM) + 1 :].partition(" ")
        applied = Outcome.NOT_APPLIED if outcome == Outcome.NOT_APPLIED.value else Outcome.UNKNOWN
        return QuorumUnavailable(detail, applied)
    if text in _NOT_LET_IN:
        return Unauthenticated(_NOT_LET_IN[text])
    if stale := _STALE_RING.fullmatch(text):
        return StaleRing(int(stale[1]))
    for kind, words, _ in _TABLE:
        if text == words or text.startswith(words + " "):
            return kind(text[len(words) + 1 :] or words.partition(" ")[2])
    return RemoteError(text, Outcome.UNKNOWN)


def is_error(line: bytes) -> bool:
    """Whether a reply line reports an error."""
    return line.startswith((b"SERVER_ERROR", b"CLIENT_ERROR")) or line == b"ERROR"


def client_error(reason: str) -> bytes:
    """The line for a request that breaks the protocol."""
    return _line("CLIENT_ERROR", reason)


def _line(words: str, detail: str) -> bytes:
    # A message may quote what a client sent or another server said: it must not be able to begin a line of its own.
    detail = _CONTROL.sub(" ", detail)[:DETAIL_CHARACTERS_MAX]
    return f"{words} {detail}".rstrip().encode("utf-8", "replace") + b"\r\n"
