"""One connection of a client: requests out, and each reply to the request that it belongs to.

Replies come in the order of requests, so the oldest exchange in flight reads its reply first. A caller that has left
keeps its place: its reply is read and dropped, and the others go on. What is doubtful closes the connection: a reply
that doesn't fit the oldest exchange, bytes that nobody asked for, the end of the stream, silence. Then every exchange
in flight is handed back to the lane, which knows who may be sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from sfss.errors import Expired, Outcome, SfssError, Stopping
from sfss.memcache.answers import COPIED_BYTES_MAX
from sfss.memcache.errors import error_of, is_error
from sfss.memcache.exchanges import MORE, Exchange
from sfss.memcache.replies import OutOfStep, ReplyParser
from sfss.memcache.transport import Transport
from sfss.promise import Sender, turn_of

UNSENT_BYTES_MAX: Final = 256 * 1024
"""Bytes that the transport may hold back before more requests wait in the lane, where they are surely unsent."""

TOGETHER_MAX: Final = 8
"""Requests sent together. More of them would leave the server idle while they are made: where all tiers share two
cores, sending all of a turn at once costs a tenth of the GETs."""

DROPPED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes in a row that may be read for callers who have left, while others wait behind them."""


class Owner:
    """What a link tells the lane that it belongs to. A class to inherit from, as `Transport` is."""

    def answered(self, exchange: Exchange) -> None:
        """The exchange is over; its reply was read."""
        raise NotImplementedError

    def has_room(self) -> None:
        """The link can take more."""
        raise NotImplementedError

    def lost(self, link: Link, error: SfssError, orphans: list[Exchange]) -> None:
        """The link is gone; `orphans` were in flight, oldest first."""
        raise NotImplementedError


class _Gathered(Sender):
    """What a link gathers. An object of its own, since a compiled class has one base."""

    __slots__ = ("_link",)

    def __init__(self, link: Link) -> None:
        self._link = link

    def flush(self) -> None:
        self._link.flush()


class Link(asyncio.Protocol):
    """A connection in a lane. `in_flight_max` exchanges at most are on their way at once."""

    def __init__(self, owner: Owner, monotonic: Callable[[], float], in_flight_max: int) -> None:
        self._owner = owner
        self._monotonic = monotonic
        self._in_flight_max = in_flight_max
        self._replies = ReplyParser()
        self._loop = asyncio.get_running_loop()
        self._turn = turn_of(self._loop)
        self._transport: Transport | None = None
        self._out: list[bytes] = []
        self._out_large = False
        self._gathered = 0
        """So many of what is pending, the last of them, wait to be sent together."""
        self._sender = _Gathered(self)
        self._paused = False
        self._error: SfssError | None = None
        self._leaving = False
        """Whether the server has said that it is about to end: what it hasn't answered it never begins."""
        self._dropped = 0
        self.pending: list[Exchange] = []
        """In flight, oldest first. A list, since they are few: compiled, a deque takes four times as long."""
        self.heard = False
        self.quiet_since = 0.0
        self.in_service = False
        """Whether the greeting is over and the lane has taken it."""
        self.proven = False
        """Whether it has answered any request of the lane."""
        self.gone: asyncio.Future[None] = self._loop.create_future()

    @property
    def open(self) -> bool:
        """Whether requests can be sent at all."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def receiving(self) -> bool:
        """Whether it is in the middle of a large block, which whatever is sent now would wait for."""
        return self._replies.missing > 0

    @property
    def gathering(self) -> bool:
        """Whether requests of this turn of the loop wait to be sent together."""
        return self._gathered > 0

    @property
    def has_room(self) -> bool:
        """Whether another request may be sent now."""
        return (
            self.in_service
            and not self._paused
            and len(self.pending) < self._in_flight_max
            and self._transport is not None
            and not self._transport.is_closing()
        )

    def send(self, exchange: Exchange, now: float) -> None:
        """Send a request. The caller has seen that there is room."""
        milliseconds = int((exchange.deadline - now) * 1000)
        if milliseconds <= 0:
            exchange.fail(Expired("the deadline passed before the request was sent", exchange.outcome))
            self._owner.answered(exchange)
            return
        if not self.pending:
            self.quiet_since = now
        request = exchange.request(milliseconds)
        self.pending.append(exchange)
        # Requests of one turn of the loop go out together, in few system calls. From here on nothing holds this one
        # back, so it counts as sent: whoever gives up waiting for it meanwhile must not be told that it surely wasn't.
        if not self._gathered:
            self._turn.send_soon(self._sender)
        self._gathered += 1
        exchange.sent = True
        if isinstance(request, bytes):
            self._out.append(request)
            if len(request) > COPIED_BYTES_MAX:  # a group
                self._out_large = True
        else:
            self._out.extend(request)
            if exchange.size > COPIED_BYTES_MAX:
                self._out_large = True
        if self._gathered >= TOGETHER_MAX:
            self.flush()

    def flush(self) -> None:
        """Send what was gathered."""
        if not self._gathered:
            return
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        out = self._out
        self._gathered = 0
        if self._out_large:
            self._out, self._out_large = [], False
            transport.writelines(out)
        elif len(out) == 1:
            transport.write(out.pop())
        else:
            self._out = []
            transport.write(b"".join(out))

    def close(self, error: SfssError) -> None:
        """Give up on the connection: nothing that comes on it can be trusted any more."""
        if self._error is None:
            self._error = error
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(Transport, transport)
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)

    def data_received(self, data: bytes) -> None:
        self._turn.gather()
        try:
            self._take(data)
        finally:
            self._turn.run()

    def _take(self, data: bytes) -> None:
        if self._error is not None:
            return
        self.heard = True
        replies = self._replies
        replies.feed(data)
        if not self._take_replies(len(data)):
            return
        if replies.waiting and not self.pending:
            self._unasked()
            return
        self._owner.has_room()

    def _take_replies(self, size: int) -> bool:
        """Give what came, the last `size` bytes of it just now, to those who asked. False if it can't be for them."""
        replies, pending, owner = self._replies, self.pending, self._owner
        answered = 0
        try:
            while answered < len(pending):
                exchange = pending[answered]
                promise = exchange.promise
                try:
                    result = exchange.take(replies)
                except OutOfStep as doubt:
                    self.close(doubt)
                    return False
                except SfssError as error:
                    result = None
                    if isinstance(error, Stopping):
                        self._leaving = True
                    if exchange.repeated and exchange.writes:
                        # This answers the repetition; the first sending may have been carried out all the same.
                        error.outcome = Outcome.UNKNOWN
                    exchange.fail(error)
                if result is MORE:
                    if promise.done():
                        self._drop(size)
                    if replies.missing:
                        self._receive_in_place()
                    return True
                answered += 1
                if not promise.done():
                    promise.set_result(result)
                    self._dropped = 0
                    self.proven = self.in_service
                owner.answered(exchange)
                if not replies.waiting:
                    return True
            return True
        finally:
            # At once: each by itself takes 250 instructions.
            if answered == len(pending):
                pending.clear()
            else:
                del pending[:answered]

    def _receive_in_place(self) -> None:
        """Have the rest of a large block received where it will stay."""
        transport = self._transport
        if transport is not None and transport.receives_into:
            room = self._replies.room()
            if room is not None:
                transport.receive_into(room, self._received)

    def _received(self, count: int) -> None:
        """So much of a large block came; what ends it comes as all else does."""
        self.heard = True
        self._replies.took(count)
        if self.pending and self.pending[0].promise.done():
            self._drop(count)

    def eof_received(self) -> bool:
        # Nothing more can be answered: who waits shall not wait until what is unsent is taken.
        self.close(OutOfStep("the server closed the connection"))
        return False

    def _drop(self, count: int) -> None:
        self._dropped += count
        if self._dropped > DROPPED_BYTES_MAX and any(not exchange.promise.done() for exchange in self.pending):
            self.close(OutOfStep(f"{self._dropped} bytes were read for callers who have left"))

    def _unasked(self) -> None:
        try:
            line = self._replies.line()
        except OutOfStep as error:
            self.close(error)
            return
        if line is not None and is_error(line):
            # `SERVER_ERROR too many connections` comes unasked, and so does the last word of a server that ends.
            self.close(error_of(line))
        else:
            self.close(OutOfStep("bytes that nobody asked for"))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._owner.has_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        orphans, self.pending = self.pending, []
        unbegun = self._gathered
        if self._leaving:
            unbegun = len(orphans)
        elif orphans and orphans[0].heard_of_end():
            unbegun = max(unbegun, len(orphans) - 1)  # of a group some may have been stored
        for exchange in orphans[max(0, len(orphans) - unbegun) :]:
            exchange.sent = exchange.repeated  # as if never by this connection
        self._gathered = 0
        # TLS that ends without a word of it, as with a server that was killed, is told without a reason.
        error = self._error or OutOfStep(str(exc) if exc else "the connection ended")
        if not self.gone.done():
            self.gone.set_result(None)
        self._owner.lost(self, error, orphans)
