"""What a handler answers with: bytes at hand, bytes to come, or a series of such answers.

Handlers never see a socket; the connection sends answers in the order of their requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from sfss.promise import Promise
from sfss.store import Reply

T = TypeVar("T")

COPIED_BYTES_MAX: Final = 32 * 1024
"""Up to this size a value is copied into one buffer with its line and CRLF: cheaper than a gathering write."""

Buffers: TypeAlias = bytes | tuple[bytes, ...]
"""A reply's bytes, in one piece or in several."""


class Pending:
    """A reply to come: `finish` makes it of the promise's result."""

    __slots__ = ("finish", "promise")

    def __init__(self, promise: Promise[Any], finish: Callable[[Any], Buffers]) -> None:
        self.promise = promise
        self.finish = finish


class Stream(NamedTuple):
    """A reply in parts, each begun only while there is room for what it will bring."""

    parts: Iterator[Buffers | Pending]


class Close(NamedTuple):
    """Send what is due, then close."""


CLOSE: Final = Close()

Answer: TypeAlias = Buffers | Pending | Stream | Close


def answer(reply: Reply[T], finish: Callable[[T], Buffers]) -> Buffers | Pending:
    """Make a store's reply an answer."""
    if isinstance(reply, Promise):
        return Pending(reply, finish)
    return finish(reply)


def with_block(line: bytes, value: bytes, after: bytes = b"\r\n") -> Buffers:
    """A line (with its CRLF), the block it announces, and what follows."""
    if len(value) > COPIED_BYTES_MAX:
        return (line, value, after)
    return b"%b%b%b" % (line, value, after)


def length(buffers: Buffers) -> int:
    """Bytes in a reply."""
    return len(buffers) if isinstance(buffers, bytes) else sum(len(piece) for piece in buffers)
