"""`POST /files:get`: many files in one answer, in the order they were asked for.

A window of files is on its way at a time; what has come is sent in pieces, and the next are asked for when the client
has taken those. So neither a slow client nor a slow cluster has more than a window of files in memory.

Small files are asked for in groups (`sfss.groups`), and what a group leaves out alone, as far as there is room.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from sfss.errors import BadRequest, SfssError, Stopping
from sfss.groups import GROUP_KEYS_MAX
from sfss.promise import Promise, new_promise
from sfss.store import Call, GroupStore, Record, Store
from sfss.web.answers import FOREIGN_BYTES_HEADERS, Answer
from sfss.web.batches.items import JOINED_BYTES_MAX, Totals, Writer
from sfss.web.batches.keys import KeyMaker
from sfss.web.batches.outcomes import settled_reply, told_failure
from sfss.web.batches.room import READS_MAX, ReadWindow
from sfss.web.errors import Refused
from sfss.web.pieces import PiecewiseAnswer
from sfss.web.requests import Request


def lines_of(body: bytes) -> list[bytes]:
    """The paths of a list, one a line. A carriage return before the line feed isn't part of a path."""
    lines = body.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix(b"\r") for line in lines] if b"\r" in body else lines


class _Asked:
    """A file of the list, by its line. `reply`: its record, None, a promise of these or of its group's outcomes, or an
    error. `key`: empty where it can't be asked for; the line itself where that is plain. `waits`: it was left out, and
    isn't asked for alone yet."""

    __slots__ = ("alone", "key", "line", "reply", "waits")

    def __init__(self, line: bytes, key: bytes, reply: Any) -> None:
        self.line = line
        self.key = key
        self.reply = reply
        self.waits = False
        self.alone = False


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
        self._on_their_way: deque[_Asked] = deque()
        self._grouped = store if isinstance(store, GroupStore) else None
        self._groups: deque[tuple[Promise[list[Any]], list[_Asked]]] = deque()
        """Asked and not handed out, in their order."""
        self._left_out: deque[_Asked] = deque()
        """To be asked for alone, in their order."""
        self._alone = 0
        """How many of those on their way were asked for alone."""

    async def answer(self, paths: list[bytes]) -> Answer:
        """Send all files but the last piece, which is returned."""
        head = b"Content-Type: %b\r\nCache-Control: no-store\r\n%b" % (self._writer.content_type, FOREIGN_BYTES_HEADERS)
        answer = PiecewiseAnswer(self._request, 200, head)
        on_their_way = self._on_their_way
        to_ask = iter(paths)
        try:
            while True:
                self._hand_out_groups()
                self._ask_more(to_ask)
                if not on_their_way:
                    break
                parts: list[bytes] = []
                size = self._come(parts)
                if parts:
                    await self._send(answer, parts, size)
                    await asyncio.sleep(0)  # others get their turn, also where nothing has to be waited for
                else:
                    await settled_reply(on_their_way[0].reply)
        finally:
            for asked in on_their_way:
                if isinstance(asked.reply, Promise):
                    asked.reply.cancel()
            counters = self._request.connection.server.counters
            counters.add("batch_files_given", self._files - self._failed)
            counters.add("batch_files_failed", self._failed)
        return answer.last(self._writer.end(Totals(self._files, self._failed)))

    async def _send(self, answer: PiecewiseAnswer, parts: list[bytes], size: int) -> None:
        patience_s = self._patience_s + size / self._rate_min if self._rate_min else None
        try:
            async with asyncio.timeout(patience_s):
                await answer.send(parts, size)
        except TimeoutError:
            self._request.connection.server.counters.add("aborted")
            raise Refused(408, "too_slow", f"the client took {size} bytes in over {patience_s:.0f} s") from None

    def _ask_more(self, to_ask: Iterator[bytes]) -> None:
        window, on_their_way, left_out = self._window, self._on_their_way, self._left_out
        while left_out and (self._alone < window.files or left_out[0] is on_their_way[0]):
            self._ask_left_out(left_out.popleft())
        if left_out:
            return
        if self._grouped is not None and window.small:
            while not on_their_way or len(on_their_way) + GROUP_KEYS_MAX <= READS_MAX:
                if not self._ask_group(self._grouped, list(islice(to_ask, GROUP_KEYS_MAX))):
                    return
            return
        for line in islice(to_ask, max(0, window.files - len(on_their_way))):
            asked = self._listed(line, self._end())
            on_their_way.append(asked)
            if asked.key:
                self._ask_alone(asked)

    def _listed(self, line: bytes, end: SfssError | None) -> _Asked:
        """A path of the list, and why it won't be asked for, if so: `end` stands for all from here on."""
        if end is not None:
            return _Asked(line, b"", end)
        if self._keys.is_key(line):
            return _Asked(line, line, None)
        try:
            return _Asked(line, self._keys.key_of(line.decode()), None)
        except UnicodeDecodeError:
            return _Asked(line, b"", BadRequest("path is not UTF-8"))
        except BadRequest as error:
            return _Asked(line, b"", error)

    def _ask_group(self, store: GroupStore, lines: list[bytes]) -> bool:
        """Ask for some files together; false where there are none left."""
        end = self._end()
        listed = [self._listed(line, end) for line in lines]
        self._on_their_way.extend(listed)
        group = [asked for asked in listed if asked.key]
        if group:
            try:
                reply = store.get_many([asked.key for asked in group], self._call())
            except Exception as error:
                for asked in group:
                    asked.reply = error
                return True
            if not isinstance(reply, Promise):
                # Also one that is answered at once waits for its turn: what is left out must be in the order of the
                # list, or the oldest file waits for ever behind later ones.
                at_once, reply = reply, new_promise()
                reply.set_result(at_once)
            for asked in group:
                asked.reply = reply
            self._groups.append((reply, group))
        return bool(lines)

    def _hand_out_groups(self) -> None:
        groups = self._groups
        while groups and groups[0][0].done():
            reply, group = groups.popleft()
            if reply.exception() is None:  # else it is that of each
                self._hand_out(group, reply.result())

    def _hand_out(self, group: list[_Asked], outcomes: list[Any]) -> None:
        for asked, outcome in zip(group, outcomes, strict=True):
            asked.reply = outcome
            if not isinstance(outcome, Record) and isinstance(outcome, SfssError):  # the first costs a tenth
                asked.waits = True
                self._left_out.append(asked)

    def _ask_left_out(self, asked: _Asked) -> None:
        asked.waits = False
        asked.reply = self._end()
        if asked.reply is None:
            self._ask_alone(asked)

    def _ask_alone(self, asked: _Asked) -> None:
        asked.alone = True
        self._alone += 1
        try:
            asked.reply = self._store.get(asked.key, self._call())
        except Exception as error:
            asked.reply = error

    def _call(self) -> Call:
        return self._request.call(time.monotonic(), self._timeout_s)

    def _end(self) -> SfssError | None:
        """Why no more files are asked for."""
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
        return None

    def _come(self, parts: list[bytes]) -> int:
        """Append what of the oldest files has come to `parts`; how many bytes that is."""
        on_their_way = self._on_their_way
        hits = misses = 0
        size = 0
        while on_their_way and size < JOINED_BYTES_MAX:
            asked = on_their_way[0]
            reply = asked.reply
            if asked.waits:
                break
            if isinstance(reply, Promise):
                if not reply.done():
                    break
                reply = reply.exception() or reply.result()
                if isinstance(reply, list):
                    break  # the group is to be handed out
            on_their_way.popleft()
            self._alone -= asked.alone
            self._files += 1
            if isinstance(reply, Record):
                self._window.took(reply.size)
                self._sent_bytes += reply.size
                size += self._writer.found(asked.line, asked.key is asked.line, reply, parts)
                hits += 1
                continue
            path = asked.line.decode("utf-8", "replace")
            if reply is None:
                misses += 1
                reply = Refused(404, "not_found", f"there is no file {path}")
            self._failed += 1
            line = self._writer.failed(path, told_failure(self._request, path, reply))
            size += len(line)
            parts.append(line)
        counters = self._request.connection.server.counters
        if hits:
            counters.add("get_hits", hits)
        if misses:
            counters.add("get_misses", misses)
        return size
