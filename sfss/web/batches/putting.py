"""`POST /files:put`: many files in one body, and a line for each of them when it is at its end.

A window of files is on its way to the disks at a time, and the body is read on as these are answered. The lines are
kept until the body has ended, because most clients read nothing before they have sent all.

Small files that arrive together are written in groups (`sfss.groups`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Final

from sfss.errors import BadRequest, Outcome, SfssError, Stopping, TooLarge, Unreachable
from sfss.groups import GROUP_BYTES_MAX, GROUP_KEYS_MAX, GROUP_VALUE_BYTES_MAX, Item
from sfss.promise import Promise
from sfss.store import Call, GroupStore, Store, Written
from sfss.web.answers import Answer, body_answer
from sfss.web.batches.items import Reader, Sent, Totals
from sfss.web.batches.keys import KeyMaker
from sfss.web.batches.outcomes import settled_reply, told_failure
from sfss.web.batches.records import end_line, failed_line, stored_line, told_path
from sfss.web.batches.room import WINDOW_BYTES, WRITES_MAX
from sfss.web.errors import RETRY_AFTER_S, Failure, Refused, failure_of
from sfss.web.memory import BodyMemory
from sfss.web.requests import Request

CONTENT_TYPE = "application/x-ndjson"
_MULTI_STATUS = 207

_NOT_BEGUN: Final = (Stopping, Unreachable)
"""What is said of one file of a group that may go to another proxy: alone, by the rules for single files."""

TURN_FILES: Final = 64
"""Files of one batch that are begun, or refused, in one turn of the loop."""


class _Sending(Item):
    """A file on its way to the disks. `reply`: what became of it, an error, a promise of these, or the outcomes of its
    group, where it has this `place`; None as long as the group isn't sent."""

    __slots__ = ("place", "reply", "sent")

    def __init__(self, sent: Sent, key: bytes, reply: Any) -> None:
        super().__init__(key, sent.value)
        self.sent = sent
        self.reply = reply
        self.place = -1


class Putting:
    """One batch of writes, up to `files_max` of them in `bytes_max` bytes of body."""

    def __init__(
        self,
        store: Store,
        keys: KeyMaker,
        memory: BodyMemory,
        reader: Reader,
        request: Request,
        *,
        files_max: int,
        bytes_max: int,
        seconds_max: float,
        timeout_s: float,
        patience_s: float,
    ) -> None:
        """`seconds_max`: how long the body may take. `patience_s`: how long no byte of it may come."""
        self._store = store
        self._keys = keys
        self._memory = memory
        self._reader = reader
        self._request = request
        self._files_max = files_max
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self._until = time.monotonic() + seconds_max
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._waited_s = 0.0
        self._end: SfssError | None = None
        """Why no more is read of the body."""
        self._grouped = store if isinstance(store, GroupStore) else None
        self._on_their_way: deque[_Sending] = deque()
        self._group: list[_Sending] = []
        """The last of them, which aren't sent yet."""
        self._group_bytes = 0
        self._keys_under_way: set[bytes] = set()
        self._bytes_under_way = 0
        self._lines: list[bytes] = []
        self._held_lines = 0
        self._files = 0
        self._failed = 0

    async def answer(self) -> Answer:
        """Take the body to its end, or as far as it can be followed, and tell of every file in it."""
        broken: SfssError | None = None
        try:
            try:
                await self._take_body()
            except SfssError as error:
                broken = error
            await self._settle(0)
            return self._told(broken)
        finally:
            self._memory.release(self._held_lines)
            self._request.received = self._request.body.total_bytes
            counters = self._request.connection.server.counters
            counters.add("batch_files_stored", self._files - self._failed)
            counters.add("batch_files_failed", self._failed)

    async def _take_body(self) -> None:
        reader = self._reader
        count = 0
        while True:
            sent = reader.next()
            if sent is not None:
                sending = self._sending(sent)
                if not self._has_room(sending):
                    await self._make_room(sending)
                self._begin(sending)
                count += 1
                if count % TURN_FILES == 0:
                    await asyncio.sleep(0)  # others get their turn, also where nothing has to be waited for
                continue
            self._take_settled()
            data = await self._more()
            if not data:
                break
            reader.feed(data)
        if reader.unfinished:
            within = told_path(reader.unfinished)
            raise Refused(400, "short_body", f"the body ended within {within}, which was not stored")
        if not reader.ended:
            raise Refused(400, "short_body", "the body ended without its end mark; more files may have been meant")

    async def _more(self) -> bytes:
        """The next bytes of the body, none at its end."""
        request = self._request
        body = request.body
        if self._end is not None:
            raise self._end
        self._end = self._late()
        # Not `read_nowait`: that tells of a broken body before what had come of it by then.
        data = body._read_nowait(-1)
        if not data:
            if self._end is not None:
                raise self._end
            self._send_group()
            began = time.monotonic()
            request.connection.await_more(self._waited_s)
            try:
                async with asyncio.timeout(self._patience_s):
                    data = await body.readany()
            except TimeoutError:
                raise Refused(408, "too_slow", f"no byte of the body came for {self._patience_s:g} s") from None
            finally:
                request.connection.body_taken()
            self._waited_s += time.monotonic() - began
        over = body.total_bytes - self._bytes_max
        if over > 0:
            self._end = TooLarge(f"the body has over {self._bytes_max} bytes; send the other files in another batch")
            data = data[:-over]
            if not data:
                raise self._end
        return bytes(data)

    def _late(self) -> SfssError | None:
        """Why what has come by now is the last that is read."""
        if self._request.connection.server.hurrying:
            return Stopping("the server stops; send the files that aren't told of once more")
        if time.monotonic() >= self._until:
            return Refused(
                408, "too_slow", f"the batch took over {self._seconds_max:g} s; send the other files in another batch"
            )
        return None

    def _sending(self, sent: Sent) -> _Sending:
        """A file of the body, with its key, or why it can't be stored."""
        if self._files + len(self._on_their_way) >= self._files_max:
            raise TooLarge(f"the batch has over {self._files_max} files; send the others in another batch")
        if sent.refusal is not None:
            return _Sending(sent, b"", sent.refusal)
        if self._keys.keeps(sent.plain):
            return _Sending(sent, sent.plain, None)
        try:
            return _Sending(sent, self._keys.key_of(sent.path), None)
        except BadRequest as error:
            return _Sending(sent, b"", error)

    def _has_room(self, sending: _Sending) -> bool:
        """Whether a file may be sent on its way now: there is room, and no other of its key is on its way."""
        return (
            len(self._on_their_way) < WRITES_MAX
            and self._bytes_under_way + len(sending.value) <= WINDOW_BYTES
            and sending.key not in self._keys_under_way
        )

    async def _make_room(self, sending: _Sending) -> None:
        await self._settle(WRITES_MAX - 1, WINDOW_BYTES - len(sending.value))
        if sending.key and sending.key in self._keys_under_way:
            await self._settle(0)  # the later one of two is to stay

    def _begin(self, sending: _Sending) -> None:
        """Send a file on its way."""
        if sending.key:
            self._send(sending)
        self._keys_under_way.add(sending.key)
        self._bytes_under_way += len(sending.value)
        self._on_their_way.append(sending)

    def _send(self, sending: _Sending) -> None:
        """Send a file, or keep it for its group."""
        size = len(sending.value)
        if self._grouped is None or size > GROUP_VALUE_BYTES_MAX:
            self._send_alone(sending)
            return
        if len(self._group) == GROUP_KEYS_MAX or self._group_bytes + size > GROUP_BYTES_MAX:
            self._send_group()
        self._group.append(sending)
        self._group_bytes += size

    def _send_alone(self, sending: _Sending) -> None:
        try:
            sending.reply = self._store.set(sending.key, sending.value, call=self._call())
        except Exception as error:
            sending.reply = error

    def _send_group(self) -> None:
        """Send what is kept for a group."""
        group, self._group, self._group_bytes = self._group, [], 0
        if not group or self._grouped is None:
            return
        reply: Any
        try:
            reply = self._grouped.set_many(group, self._call())
        except Exception as error:
            reply = error
        for place, sending in enumerate(group):
            sending.reply = reply
            sending.place = place

    def _call(self) -> Call:
        return self._request.call(time.monotonic(), self._timeout_s)

    async def _settle(self, files: int, size: int = WINDOW_BYTES) -> None:
        """Wait until no more than `files` with `size` bytes are on their way."""
        while self._on_their_way and (len(self._on_their_way) > files or self._bytes_under_way > size):
            self._send_group()
            await settled_reply(self._on_their_way[0].reply)
            self._take_settled()

    def _take_settled(self) -> None:
        """Note what became of those that are answered, in their order."""
        on_their_way = self._on_their_way
        while on_their_way:
            sending = on_their_way[0]
            reply = sending.reply
            if isinstance(reply, Promise):
                if not reply.done():
                    return
                reply = reply.exception() or reply.result()
            if reply is None:
                return  # its group isn't sent yet
            if isinstance(reply, list):
                self._hand_out(sending.reply, reply)
                continue
            on_their_way.popleft()
            sent = sending.sent
            self._keys_under_way.discard(sending.key)
            self._bytes_under_way -= len(sent.value)
            if isinstance(reply, Written):
                line = stored_line(sent, reply)
                self._files += 1
            else:
                line = self._failure_line(sent.path, reply)
            self._keep(line)

    def _hand_out(self, reply: Any, outcomes: list[Any]) -> None:
        """Note for each file of a group what became of it. Those that were not begun all go once more at the same time:
        one after the other, each could take as long as a request may."""
        for sending in self._on_their_way:
            if sending.reply is reply:
                outcome = outcomes[sending.place]
                if isinstance(outcome, Written):
                    sending.reply = outcome
                elif isinstance(outcome, _NOT_BEGUN) and outcome.outcome is Outcome.NOT_APPLIED:
                    self._send_alone(sending)
                else:
                    sending.reply = outcome

    def _failure_line(self, path: str, error: BaseException) -> bytes:
        self._files += 1
        self._failed += 1
        return failed_line(path, told_failure(self._request, path, error), of_write=True)

    def _keep(self, line: bytes) -> None:
        self._lines.append(line)
        self._held_lines += len(line)
        self._memory.hold_anyway(len(line))

    def _told(self, broken: SfssError | None) -> Answer:
        """All lines, below the status that says most."""
        if broken is None:
            status = _MULTI_STATUS if self._failed else 200
            return self._answer(status, None)
        if self._reader.unfinished:
            self._keep(self._failure_line(self._reader.unfinished, broken))
        if not self._files:
            raise broken
        failure = failure_of(broken)
        answer = self._answer(failure.status, failure)
        answer.close = True
        return answer

    def _answer(self, status: int, failure: Failure | None) -> Answer:
        lines = b"".join([*self._lines, end_line(Totals(self._files, self._failed), failure)])
        headers = {"Retry-After": str(RETRY_AFTER_S)} if failure is not None and failure.retry else {}
        return body_answer(status, CONTENT_TYPE, lines, headers)
