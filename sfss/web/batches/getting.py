"""`POST /files:get`: many files in one answer, in the order they were asked for.

A window of files is on its way at a time; what has come is sent in pieces, and the next are asked for when the client
has taken those. So neither a slow client nor a slow cluster has more than a window of files in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from sfss.errors import BadRequest, SfssError, Stopping
from sfss.promise import Promise
from sfss.store import Record, Store
from sfss.web.answers import FOREIGN_BYTES_HEADERS, Answer
from sfss.web.batches.items import JOINED_BYTES_MAX, Totals, Writer
from sfss.web.batches.keys import KeyMaker
from sfss.web.batches.outcomes import settled_reply, told_failure
from sfss.web.batches.room import ReadWindow
from sfss.web.errors import Refused
from sfss.web.pieces import PiecewiseAnswer
from sfss.web.requests import Request


def lines_of(body: bytes) -> list[bytes]:
    """The paths of a list, one a line. A carriage return before the line feed isn't part of a path."""
    lines = body.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix(b"\r") for line in lines]


class Getting:
    """One batch of reads. `bytes_max`, `seconds_max`: when so many bytes of files are sent, or so much time is over, no
    more are asked for. A client that has had `patience_s` to take a piece is held to `rate_min` bytes a second."""

    def __init__(
        self,
        store: Store,
        keys: KeyMaker,
        window: ReadWindow,
        writer: Writer,
        request: Request,
        *,
        bytes_max: int,
        seconds_max: float,
        timeout_s: float,
        patience_s: float,
        rate_min: int,
    ) -> None:
        self._store = store
        self._keys = keys
        self._window = window
        self._writer = writer
        self._request = request
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self._until = time.monotonic() + seconds_max
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._rate_min = rate_min
        self._sent_bytes = 0
        self._files = 0
        self._failed = 0
        self._on_their_way: deque[tuple[str, Any]] = deque()

    async def answer(self, paths: list[bytes]) -> Answer:
        """Send all files but the last piece, which is returned."""
        head = b"Content-Type: %b\r\nCache-Control: no-store\r\n%b" % (self._writer.content_type, FOREIGN_BYTES_HEADERS)
        answer = PiecewiseAnswer(self._request, 200, head)
        on_their_way = self._on_their_way
        to_ask = iter(paths)
        try:
            while True:
                self._ask_more(to_ask)
                if not on_their_way:
                    break
                pieces = self._come()
                if pieces:
                    await self._send(answer, pieces)
                    await asyncio.sleep(0)  # others get their turn, also where nothing has to be waited for
                else:
                    await settled_reply(on_their_way[0][1])
        finally:
            for _, reply in on_their_way:
                if isinstance(reply, Promise):
                    reply.cancel()
            counters = self._request.connection.server.counters
            counters.add("batch_files_given", self._files - self._failed)
            counters.add("batch_files_failed", self._failed)
        return answer.last([self._writer.end(Totals(self._files, self._failed))])

    async def _send(self, answer: PiecewiseAnswer, pieces: list[bytes]) -> None:
        size = sum(map(len, pieces))
        patience_s = self._patience_s + size / self._rate_min if self._rate_min else None
        try:
            async with asyncio.timeout(patience_s):
                await answer.send(pieces)
        except TimeoutError:
            self._request.connection.server.counters.add("aborted")
            raise Refused(408, "too_slow", f"the client took {size} bytes in over {patience_s:.0f} s") from None

    def _ask_more(self, to_ask: Iterator[bytes]) -> None:
        room = self._window.files - len(self._on_their_way)
        while room > 0:
            line = next(to_ask, None)
            if line is None:
                return
            self._on_their_way.append(self._ask(line))
            room -= 1

    def _ask(self, line: bytes) -> tuple[str, Any]:
        """A path, and its record, a promise of it, or why there won't be one."""
        path = line.decode("utf-8", "replace")
        refusal = self._refusal(path, line)
        if refusal is not None:
            return path, refusal
        try:
            key = self._keys.key_of(path)
            return path, self._store.get(key, self._request.call(time.monotonic(), self._timeout_s))
        except Exception as error:
            return path, error

    def _refusal(self, path: str, line: bytes) -> SfssError | None:
        """Why a file isn't asked for at all."""
        if self._request.connection.server.hurrying:
            return Stopping("the server stops; ask for this file once more")
        if self._sent_bytes >= self._bytes_max:
            return Refused(
                413, "batch_full", f"{self._sent_bytes} bytes are in this answer; ask for this file in another batch"
            )
        if time.monotonic() >= self._until:
            return Refused(
                413, "batch_full", f"this answer took over {self._seconds_max:g} s; ask for this file in another batch"
            )
        if path.encode() != line:
            return BadRequest("path is not UTF-8")
        return None

    def _come(self) -> list[bytes]:
        """What of the oldest files has come, in parts."""
        on_their_way = self._on_their_way
        parts: list[bytes] = []
        size = 0
        while on_their_way and size < JOINED_BYTES_MAX:
            path, reply = on_their_way[0]
            if isinstance(reply, Promise):
                if not reply.done():
                    break
                reply = reply.exception() or reply.result()
            on_their_way.popleft()
            self._files += 1
            if isinstance(reply, Record):
                self._window.took(reply.size)
                self._sent_bytes += reply.size
                size += reply.size
                parts += self._writer.found(path, reply)
                self._count("get_hits")
                continue
            if reply is None:
                self._count("get_misses")
                reply = Refused(404, "not_found", f"there is no file {path}")
            self._failed += 1
            line = self._writer.failed(path, told_failure(self._request, path, reply))
            size += len(line)
            parts.append(line)
        return parts

    def _count(self, name: str) -> None:
        self._request.connection.server.counters.add(name)
