"""One client's connection to a server: bytes to requests, answers to bytes, in order and within limits.

Slots are what keeps the order: a request whose answer is not at hand, or comes behind one that isn't, takes a slot,
and slots are sent from the front. An answer that comes before its turn waits there as the bytes that it makes. Where
nothing waits and the answer is at hand there is no slot, no promise and no task.

A connection stops reading while any of its limits is reached: requests begun and unanswered; bytes that these hold
(values being written, replies that wait for an earlier one, and what those to come will bring if they are like the
ones before them); bytes that the peer doesn't take. Where that guess was wrong, or the peer stops taking anything, what
was begun still comes: it is kept up to the connection's share of the server's memory, and a value beyond that is
refused. So a peer costs a bounded amount of memory whatever it does, and leaves room for the others.

Requests of one connection run side by side, except that an ordered one waits (`_held`) while an earlier, unfinished
one names the same key and either of them writes: `set` and then `get` must find what was set, even with noreply.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from sfss.errors import Busy, Outcome
from sfss.memcache.answers import Answer, Buffers, Close, Pending, Stream, length
from sfss.memcache.commands.dispatch import carry_out, error_reply
from sfss.memcache.commands.table import COMMANDS, LANES
from sfss.memcache.errors import BUSY, STOPPING
from sfss.memcache.requests import LINE_BYTES_MAX, Refusal, Request, RequestParser
from sfss.memcache.transport import Transport
from sfss.promise import Promise, Waiter
from sfss.store import NO_CALL

if TYPE_CHECKING:
    from sfss.memcache.server import MemcacheServer

_log = logging.getLogger("sfss.memcache")

STREAM_WINDOW: Final = 4
"""Parts of a streamed reply under way at once: 4 values of 2 MiB are the 8 MiB that may wait."""

TURN_REQUESTS_MAX: Final = 512
"""Requests, or parts of a streamed reply, that one connection begins before all others have their turn: a few
milliseconds. A pipelining client can have sent tens of thousands at once."""

FLUSH_BYTES: Final = 256 * 1024
"""Replies at hand are handed to the transport in heaps of about this size."""

GATHERED_BYTES: Final = 12 * 1024
"""Several that are larger than this on average, such as groups of files, are written without being joined: of 80 KB in
four pieces a write takes 11 µs, and joining and writing them 15."""


Parts: TypeAlias = Iterator[Buffers | Pending]


class Slot(Waiter):
    """A request that was begun and isn't answered yet (`pending`), or a reply that waits for an earlier one.
    `held_bytes` are on the connection's and the server's account until it is sent. `stream`: the reply that it is a
    part of; `failed`: its error line ends that one."""

    __slots__ = ("begun", "connection", "failed", "held_bytes", "pending", "reply", "request", "stream")

    def __init__(self, connection: Connection, request: Request | None, begun: float, stream: Parts | None) -> None:
        self.connection = connection
        self.request = request
        self.begun = begun
        self.stream = stream
        self.pending: Pending | None = None
        self.reply: Buffers = b""
        self.failed = False
        self.held_bytes = 0

    def told(self, promise: Promise[Any]) -> None:
        """What it waited for is there."""
        self.connection.came(self)


class Connection(asyncio.Protocol):
    """Serves one client. Made by `MemcacheServer`, which owns the limits and the totals."""

    def __init__(self, server: MemcacheServer) -> None:
        self._server = server
        self._service = server.service
        self._limits = server.limits
        # The access log has a line for each request.
        self._parser = RequestParser(
            COMMANDS, LANES, server.reserve, server.limits.value_bytes_max, not server.access_log
        )
        self._transport: Transport | None = None
        self._slots: deque[Slot] = deque()
        self._held: Request | None = None
        self._stream: Parts | None = None
        self._stream_request: Request | None = None
        self._stream_begun = 0.0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._out_large = False
        self._slot_bytes = 0
        self._reply_bytes = 0
        """What a reply that had to be waited for brought lately, on average."""
        self._unsent_bytes = 0
        self._writing_paused = False
        self._reading_paused = False
        self._gave_way = False
        self._at_end = False
        self._ending = False
        self._ended = False
        self._is_ours = False
        """Whether the peer is a client of ours, which tells how long it waits."""
        self.bytes_read = 0
        self.bytes_written = 0

    # What the server asks of it

    @property
    def busy(self) -> bool:
        """Whether a request is under way: not whole yet, not answered yet, or its reply not sent yet."""
        return bool(self._slots or self._held or self._stream or self._writing_paused or self._parser.inside)

    @property
    def in_flight(self) -> int:
        """Requests begun and not answered."""
        return len(self._slots)

    @property
    def inside_command(self) -> bool:
        """Whether the peer owes the rest of a command that it has begun (and is free to send it)."""
        return self._parser.inside and not self._reading_paused and not self._ending

    def count_unsent(self) -> int:
        """Bytes of replies that the peer hasn't taken yet; brings the server's account up to date."""
        if self._transport is not None:
            unsent = self._transport.get_write_buffer_size()
            self._server.bytes_held += unsent - self._unsent_bytes
            self._unsent_bytes = unsent
        return self._unsent_bytes

    @property
    def lingering(self) -> bool:
        """Whether all is said and taken (when last counted), and only the peer's end of stream is awaited."""
        return self._ended and not self._unsent_bytes

    def finish(self) -> None:
        """Begin no more requests; close once those in hand are answered."""
        self._ending = True
        self._advance()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(Transport, transport)
        self._transport.set_write_buffer_limits(high=self._limits.unsent_bytes_max)
        refusal = self._server.admit(self)
        if refusal:
            self._ending = True
            self._put(refusal)
            self._flush()
            self._end()

    def data_received(self, data: bytes) -> None:
        self.bytes_read += len(data)
        if self._ending:
            return
        self._parser.feed(data)
        if not self._reading_paused:
            self._advance()

    def eof_received(self) -> bool:
        # Half-closed: what was asked before is still answered.
        self._at_end = True
        if not self._reading_paused:
            self._advance()
        return not self._ended

    def pause_writing(self) -> None:
        self._writing_paused = True
        self.count_unsent()

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._server.bytes_held -= self._unsent_bytes
        self._unsent_bytes = 0
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ending = self._ended = True
        self._transport = None
        server = self._server
        server.bytes_held -= self._unsent_bytes + self._parser.reserved + sum(slot.held_bytes for slot in self._slots)
        self._unsent_bytes = self._parser.reserved = 0
        # Writes that have begun go on in the store; their outcomes are looked at when they come, and go nowhere.
        for slot in self._slots:
            slot.reply = b""
            slot.held_bytes = 0
        self._slot_bytes = 0
        self._held = self._stream = None
        server.forget(self)

    # Requests in

    def _advance(self) -> None:
        """Carry out what has arrived as far as the limits allow, and send what can be sent."""
        full = self._take_requests()
        if self._out:
            self._flush()
        if full or self._reading_paused or self._ending or self._at_end:
            self._pause_or_end(full)

    def _pause_or_end(self, full: bool) -> None:
        if self._transport is None or self._ended:
            return
        if self._at_end and not full:
            self._ending = True
        if self._ending and not (self._slots or self._held or self._stream):
            self._end()
        elif full and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
        elif self._reading_paused and not full:
            self._reading_paused = False
            self._transport.resume_reading()

    def _take_requests(self) -> bool:
        """Take requests until there are no more (False) or a limit is reached (True)."""
        slots, limits, parser = self._slots, self._limits, self._parser
        begun = 0
        while begun < TURN_REQUESTS_MAX:
            begun += 1
            if slots and (
                len(slots) >= limits.in_flight_max
                or self._slot_bytes + len(slots) * self._reply_bytes > limits.waiting_bytes_max
            ):
                return True
            if self._out_bytes > FLUSH_BYTES:
                self._flush()
            if self._writing_paused:
                return True
            if self._stream is not None:
                if not self._next_part(self._stream):
                    return True
                continue
            request = self._held
            if request is None:
                came = None if self._ending else parser.next()
                if came is None:
                    return False
                if isinstance(came, Refusal):
                    self._refuse(came)
                    continue
                request = came
            if slots and request.ordered and self._conflicts(request):
                self._held = request
                return True
            self._held = None
            if request.group is not None:
                begun += request.lines - 1
            self._begin(request)
        if not self._gave_way:
            self._gave_way = True
            asyncio.get_running_loop().call_soon(self._go_on)
        return True

    def _go_on(self) -> None:
        """Take the next turn."""
        self._gave_way = False
        try:
            self._advance()
        except Exception:
            self._end_after_fault()

    def _end_after_fault(self) -> None:
        # A fault of ours. What is true of this connection is anyone's guess, so it ends here.
        _log.exception("a connection is closed because of a fault")
        self.abort()

    def _conflicts(self, request: Request) -> bool:
        key, writes = request.key, request.writes
        for slot in self._slots:
            earlier = slot.request
            if earlier is None or slot.pending is None or slot.pending.promise.done():
                continue
            if not (writes or earlier.writes):
                continue
            if key == earlier.key or not key or not earlier.key or earlier.lines > 1:
                return True
        return False

    def _refuse(self, refusal: Refusal) -> None:
        self._server.bytes_held -= self._parser.reserved
        self._parser.reserved = 0
        if refusal.close:
            self._ending = True
        if refusal.line:
            self._service.counters.errors += 1
            self._reply(None, refusal.line, 0.0)
        elif refusal.close and not self._slots:
            # Not a memcache client at all: it gets nothing, not even a polite goodbye.
            self.abort()

    def _begin(self, request: Request) -> None:
        server = self._server
        begun = self._service.monotonic() if server.access_log else 0.0
        reserved, self._parser.reserved = self._parser.reserved, 0
        if server.bytes_held > server.limits.bytes_held_max and not request.command.light:
            self._service.counters.rejected_busy += 1
            self._service.counters.errors += 1
            answer: Answer = BUSY * request.lines
        elif server.closing and not request.noreply:
            # Whoever asks learns for sure that nothing was begun, and goes elsewhere.
            answer = STOPPING * request.lines
        else:
            answer = carry_out(self._service, request)
        if not self._is_ours and request.call.deadline != NO_CALL.deadline:
            self._is_ours = True
        if isinstance(answer, bytes) and not (self._slots or reserved or request.noreply or begun):
            # Nearly all requests: the answer is at hand and nothing waits before it.
            self._out.append(answer)
            self._out_bytes += len(answer)
            return
        if type(answer) is Pending:
            held = request.held_bytes
            server.bytes_held += held - reserved
            self._wait(request, answer, begun, held)
            return
        server.bytes_held -= reserved
        if type(answer) is Stream:
            self._stream, self._stream_request, self._stream_begun = answer.parts, request, begun
        elif type(answer) is Close:
            self._ending = True
        else:
            self._reply(request, b"" if request.noreply else answer, begun)  # type: ignore[arg-type]

    def _next_part(self, stream: Parts) -> bool:
        """Begin the next part of a streamed reply; False while enough of them are under way."""
        if len(self._slots) >= STREAM_WINDOW:
            return False
        request = self._stream_request
        if request is None:
            return False
        try:
            part = next(stream, None)
        except Exception as error:
            part = error_reply(self._service, request, error)
            self._end_stream(part)
        if part is None:
            self._end_stream(b"")
        elif type(part) is Pending:
            self._wait(request, part, 0.0, 0, stream)
        else:
            self._reply(None, part, 0.0, stream)  # type: ignore[arg-type]
        return True

    def _end_stream(self, last: Buffers) -> None:
        """Begin no more parts of the streamed reply."""
        request, self._stream, self._stream_request = self._stream_request, None, None
        if request is not None and self._server.access_log:
            self._server.log_access(request, last, self._stream_begun)

    # Replies out

    def _wait(self, request: Request, pending: Pending, begun: float, held: int, stream: Parts | None = None) -> None:
        slot = Slot(self, request, begun, stream)
        slot.pending = pending
        slot.held_bytes = held
        self._slot_bytes += held
        self._slots.append(slot)
        pending.promise.tell(slot)

    def _reply(self, request: Request | None, reply: Buffers, begun: float, stream: Parts | None = None) -> None:
        if request is not None and self._server.access_log:
            self._server.log_access(request, reply, begun)
        if not self._slots:
            self._put(reply)
            return
        slot = Slot(self, None, begun, stream)
        self._slots.append(slot)
        self._hold(slot, reply)

    def _hold(self, slot: Slot, reply: Buffers) -> None:
        """Keep a reply until its turn comes."""
        slot.reply = reply
        more = length(reply) - slot.held_bytes
        slot.held_bytes += more
        self._slot_bytes += more
        self._server.bytes_held += more

    def came(self, slot: Slot) -> None:
        """For `Slot`: its answer is there. Send what can be sent now; then go on with what waited for it."""
        pending = slot.pending
        if pending is None:
            return  # taken already, or cut off
        try:
            if slot is self._slots[0]:
                self._drain()
            else:
                self._hold(slot, self._reply_of(slot, pending))
            if (
                self._held
                or self._stream
                or self._reading_paused
                or self._ending
                or self._at_end
                or self._parser.waiting
            ):
                self._advance()
            elif self._out:
                self._flush()
        except Exception:
            self._end_after_fault()

    def _drain(self) -> None:
        """Send the replies at the front that have come."""
        slots = self._slots
        while slots:
            slot = slots[0]
            pending = slot.pending
            if pending is None:
                reply = slot.reply
            elif pending.promise.done():
                reply = self._reply_of(slot, pending)
            else:
                return
            slots.popleft()
            self._slot_bytes -= slot.held_bytes
            self._server.bytes_held -= slot.held_bytes
            if reply:
                self._put(reply)
            if slot.failed and slot.stream is not None:
                self._cut(slot.stream)
            if self._out_bytes > FLUSH_BYTES:
                self._flush()

    def _reply_of(self, slot: Slot, pending: Pending) -> Buffers:
        """The reply that an answer makes; nothing where nobody wants it."""
        request = slot.request
        slot.pending = slot.request = None
        if request is None:
            return b""
        try:
            reply = pending.finish(pending.promise.result())
            size = length(reply)
            if size > LINE_BYTES_MAX and (self._slot_bytes or self._writing_paused):
                self._check_share(request)
        except (Exception, asyncio.CancelledError) as error:
            reply = error_reply(self._service, request, error)
            size = len(reply)
            slot.failed = True
            if slot.stream is not None and slot.stream is self._stream:
                self._end_stream(reply)
        self._reply_bytes += (size - self._reply_bytes) >> 3
        if self._server.access_log and slot.stream is None:
            self._server.log_access(request, reply, slot.begun)
        return b"" if self._transport is None or request.noreply else reply

    def _check_share(self, request: Request) -> None:
        """Raise `Busy` if this connection holds its share already, or more than is left for all others."""
        held = self._slot_bytes + self.count_unsent()
        server = self._server
        if held > min(server.limits.connection_bytes_max, server.limits.bytes_held_max - server.bytes_held):
            self._service.counters.rejected_busy += 1
            outcome = Outcome.UNKNOWN if request.writes else Outcome.NOT_APPLIED
            raise Busy(f"no room for an answer behind {held} bytes that wait on this connection", outcome)

    def _cut(self, stream: Parts) -> None:
        """A part failed and its error line ends the whole reply: forget the parts behind it."""
        while self._slots and self._slots[0].stream is stream:
            slot = self._slots.popleft()
            slot.pending = None
            self._slot_bytes -= slot.held_bytes
            self._server.bytes_held -= slot.held_bytes

    def _put(self, reply: Buffers) -> None:
        if type(reply) is bytes:
            self._out.append(reply)
            self._out_bytes += len(reply)
        else:
            self._out.extend(reply)  # type: ignore[arg-type]
            self._out_bytes += length(reply)
            self._out_large = True

    def _flush(self) -> None:
        out, count = self._out, self._out_bytes
        if self._transport is None or not count:
            out.clear()
            self._out_bytes = 0
            return
        self._out = []
        self._out_bytes = 0
        self.bytes_written += count
        if len(out) == 1:
            self._transport.write(out[0])
        elif self._out_large or count > GATHERED_BYTES * len(out):
            self._out_large = False
            self._transport.writelines(out)
        else:
            self._transport.write(b"".join(out))
        if self._writing_paused:
            # Replies to what was begun before the peer stopped reading still come, and are still held.
            self.count_unsent()

    def _end(self) -> None:
        """Say goodbye: no more replies. The socket is read to the peer's end of stream, for a second at most (the
        server's sweep), because closing with bytes unread would reset the connection and take the last reply back.

        A peer of ours is told that the server stops, asked or not: whatever of it is on its way now was never begun."""
        self._ended = True
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._at_end or (self._server.closing and not self._is_ours):
            transport.close()
            return
        if self._server.closing:
            self._put(STOPPING)
            self._flush()
        if self._reading_paused:
            self._reading_paused = False
            transport.resume_reading()
        transport.write_eof()
