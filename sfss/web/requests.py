"""A request as handlers see it, and what they may hand back."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy

from sfss.promise import Promise, Waiter
from sfss.store import Call
from sfss.web.answers import Answer

if TYPE_CHECKING:
    from sfss.web.connection import Connection

FILE_PAGE: Final = "/file"
"""Where files are read and written."""

WRITE_METHODS: Final = frozenset({"PUT", "POST", "DELETE", "PATCH"})


class Request:
    """One request whose head is complete. `path` and `query` are raw, as they stand in the request line.

    One with a `plain_path` is for the file of that path, whole, with a body that is `whole`: all that its head says is
    known, and there is nothing to look for in its query or headers.
    """

    __slots__ = (
        "_file_path",
        "_target",
        "body",
        "connection",
        "headers",
        "held_bytes",
        "id",
        "keep_alive",
        "method",
        "operation",
        "path",
        "plain_path",
        "query",
        "received",
        "sent_ahead",
        "started",
        "version",
        "whole",
    )

    def __init__(
        self,
        connection: Connection,
        method: str,
        target: str,
        version: tuple[int, int],
        headers: CIMultiDictProxy[str],
        body: StreamReader,
        request_id: bytes,
        started: float,
        *,
        keep_alive: bool,
        whole: bytes = b"",
        plain_path: bytes = b"",
    ) -> None:
        self.connection = connection
        self.method = method
        self._target = target
        if plain_path:
            self.path, self.query = FILE_PAGE, ""
        else:
            self.path, _, self.query = target.partition("?")
        self.plain_path = plain_path
        self.whole = whole
        """Its body, where that came with the head and no parser has seen it; else `body` has it."""
        self.version = version
        self.headers = headers
        self.body = body
        self.id = request_id
        self.started = started
        """`time.monotonic()` when the head was complete."""
        self.keep_alive = keep_alive
        self.operation = "other"
        """What it counts as; set by the handler of files."""
        self._file_path = ""
        self.received = 0
        """Bytes of body taken."""
        self.held_bytes = 0
        """What is held of the server's body memory; given back when the answer is sent."""
        self.sent_ahead = 0
        """Bytes of an answer in pieces that are sent: then its head and these can't be taken back."""

    @property
    def target(self) -> str:
        """What stands in the request line."""
        return self._target or f"{self.path}?path={self.file_path}"

    @property
    def file_path(self) -> str:
        """The path of the file that it names, once the handler of files has set it."""
        return self._file_path or self.plain_path.decode()

    @file_path.setter
    def file_path(self, path: str) -> None:
        self._file_path = path

    def call(self, now: float, timeout: float) -> Call:
        """What goes down the tiers with it. `now` is `time.monotonic()`."""
        return Call(now + timeout, 0, self.id)


class Later(Waiter):
    """An answer that waits for a reply of the store: when `reply` is there, `then(its value)` makes it."""

    __slots__ = ("reply", "request")

    def __init__(self, request: Request, reply: Promise[Any]) -> None:
        self.request = request
        self.reply = reply

    def then(self, value: Any) -> Answered:
        """The answer, or what else it waits for."""
        raise NotImplementedError

    def told(self, promise: Promise[Any]) -> None:
        self.request.connection.replied(self)


Answered: TypeAlias = "Answer | Later | Coroutine[Any, Any, Answer]"
"""What a handler returns: an answer at hand (no task is made, no turn of the loop passes), one that waits for a single
reply, or a coroutine for whatever takes more steps."""

Handler: TypeAlias = Callable[[Request], Answered]
