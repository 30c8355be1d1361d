"""One HTTP connection: bytes to requests, one at a time and in order, and answers to bytes.

The head is parsed by aiohttp's parser (but for one that is like the one before: `sfss.web.repeated_head`); what
aiohttp's own connection leaves open or unbounded is closed and bounded here.
A request whose answer needs no more than one reply of the store is served by callbacks alone, without a task.

A connection is always in one `Phase`. The server's sweep asks every connection, about once a second, whether it has
stayed too long (`check`): no timer is made per request.

Rules that keep requests apart: the next request is parsed only when the one before is answered; after anything that
can't be parsed, or a body that wasn't taken whole, nothing more is parsed and the connection ends. It ends
by half-closing and reading on for a moment, since closing at once would make the kernel reset the connection
and take the answer away from the client that is still sending.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import istr

from sfss.errors import SfssError, Stopping
from sfss.log import of_call
from sfss.promise import Promise
from sfss.store import Call
from sfss.web.answers import STATUS_LINES, Answer, failure_answer
from sfss.web.errors import CROWDED, Failure, Refused, failure_of
from sfss.web.outbox import JOINED_BYTES_MAX, Outbox, Transport
from sfss.web.repeated_head import RepeatedHead, body_bytes_due, repeated_head
from sfss.web.requests import WRITE_METHODS, Answered, Later, Request
from sfss.web.unparsable import refusal_of

if TYPE_CHECKING:
    from sfss.web.server import WebServer

REQUEST_LINE_BYTES_MAX: Final = 8190
HEADER_BYTES_MAX: Final = 8190
HEADERS_MAX: Final = 100
READ_BYTES: Final = 64 * 1024
"""A body that nobody has asked for yet is read up to twice this, then the client waits."""

BACKLOG_BYTES_MAX: Final = 64 * 1024
"""What a client may send ahead while its request is being answered."""

TURN_REQUESTS_MAX: Final = 32
"""Requests sent ahead that are answered in one turn of the loop; then others get theirs."""

LINGER_S: Final = 2.0

# Names of our own: to look one up in a module costs as much as a call.
_monotonic: Final = time.monotonic
_NO_BODY: Final = EMPTY_PAYLOAD

_log = logging.getLogger("sfss.web")
_access = logging.getLogger("sfss.access")
_NOT_ASCII: Final = re.compile(rb"[\x80-\xff]")
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_HTTP_1_1: Final = (1, 1)
_OK: Final = STATUS_LINES[200]
_X_REQUEST_ID: Final = istr("X-Request-Id")


class Phase(Enum):
    """What a connection waits for."""

    HEAD = "the head of a request"
    BODY = "the rest of a body"
    WORK = "a handler"
    TURN = "its next turn, with requests at hand"
    FLUSH = "the client to take its answer"
    LINGER = "the client to have read the last answer"
    CLOSED = "nothing"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How long a client may take. Seconds, but for the rate (bytes a second)."""

    idle_s: float = 14.0
    body_grace_s: float = 10.0
    body_rate_min: int = 16 * 1024
    reader_stall_s: float = 30.0


class Connection(asyncio.Protocol):
    """Serves one client. Owned by a `WebServer`, whose handlers it calls."""

    def __init__(self, server: WebServer, *, tls: bool = False) -> None:
        self._server = server
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._transport: Transport | None = None
        # At most one message in flight: the parser stops behind each, so what follows a bad request is never read.
        # Any: the messages of aiohttp's parser in C are not of the classes that its types name.
        self._parser: Any = HttpRequestParser(
            cast(Any, self),
            self._loop,
            READ_BYTES,
            max_line_size=REQUEST_LINE_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=HEADERS_MAX,
            auto_decompress=False,
            max_msg_queue_size=1,
        )
        self.phase = Phase.HEAD
        self._since = time.monotonic()
        self._request: Request | None = None
        self._reply: Promise[Any] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._taking: asyncio.Future[None] | None = None
        self._backlog = bytearray()
        self._in_request_line = True
        self._parsed = False
        self._due = 0
        self._known: RepeatedHead | None = None
        self._pumping = False
        self._reading_paused = False
        self._client_done = False
        self._unread = False
        self._outbox = Outbox(server.memory, tls=tls)
        self.peer = ""
        self.tls = tls

    # --- start ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(Transport, transport)
        self._outbox.open(self._transport)
        # Writing is "paused" as long as anything is unsent (`Outbox`); uvloop's TLS takes 0 for "always paused".
        cast(Any, transport).set_write_buffer_limits(high=1 if self.tls else 0)
        if self._server.access_log:
            self.peer = str(transport.get_extra_info("peername", ("-",))[0])
        if not (self.tls or self._server.admit(self)):  # with TLS it was admitted before its handshake
            self._refuse(CROWDED)
            self._close()

    @property
    def server(self) -> WebServer:
        return self._server

    @property
    def client_host(self) -> str:
        """The address at the other end; empty when the connection is gone."""
        address = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(address[0]) if address else ""

    # --- bytes in ---

    def data_received(self, data: bytes) -> None:
        phase = self.phase
        if phase is Phase.HEAD:
            self._pump(data)
        elif self._request is not None and not self._request.body.is_eof():
            self._feed(data)
        elif phase is not Phase.LINGER:
            self._backlog += data
            if len(self._backlog) > BACKLOG_BYTES_MAX:
                self.pause_reading()

    def _pump(self, data: bytes) -> None:
        """Parse and serve requests until one has to wait for something."""
        self._pumping = True
        answered = 0
        while self._feed(data) and self.phase is Phase.HEAD:
            answered += 1
            if answered == TURN_REQUESTS_MAX:
                self.phase = Phase.TURN
                self._loop.call_soon(self._take_turn)
                break
            self._consumed()
            data = self._take_backlog()
        self._pumping = False
        if self.phase is Phase.HEAD and (self._client_done or not self._server.idle_welcome):
            self._close()

    def _take_turn(self) -> None:
        if self.phase is Phase.TURN:
            self._next(time.monotonic())

    def _feed(self, data: bytes) -> bool:
        """Take bytes in. True when a request was begun."""
        if self._due == 0 and self.phase is Phase.HEAD:
            if not data:
                return False
            known = self._known
            if known is not None:
                plain_path = known.plain_path_in(data)
                if plain_path:
                    self._begin_known(known, "", plain_path, data)
                    return True
                target = known.target_in(data)
                if target:
                    self._begin_known(known, target, b"", data)
                    return True
        return self._parse(data)

    def _parse(self, data: bytes) -> bool:
        """Give bytes to the parser. True when a request was begun."""
        is_first = self._due == 0
        if self.phase is not Phase.HEAD:
            self._due = max(-1, self._due - len(data))
        elif self._in_request_line:
            data = self._escape_request_line(data)
        try:
            messages, _, _ = self._parser.feed_data(data)
        except HttpProcessingError as error:
            self._unparsable(error)
            return False
        for message, body in messages:  # one at most
            self._in_request_line = True
            self._parsed = True
            self._due = body_bytes_due(data, message) if is_first else -1
            self._known = repeated_head(data, message) if self._due == 0 and self._server.repeated_heads else None
            self._begin(
                Request(
                    self,
                    message.method,
                    message.path,
                    message.version,
                    message.headers,
                    body,
                    self._server.request_id(message.headers.get(_X_REQUEST_ID)),
                    _monotonic(),
                    keep_alive=not (message.should_close or message.upgrade),
                )
            )
            return True
        if self.phase is Phase.HEAD:
            self._due = -1  # a head in pieces
        return False

    def _consumed(self) -> None:
        """The request in hand is answered."""
        if self._parsed:
            self._parsed = False
            self._parser.message_consumed()

    def _escape_request_line(self, data: bytes) -> bytes:
        """Percent-encode what isn't ASCII in a request line. Clients such as curl send a URL's UTF-8 as it was typed;
        the parser takes ASCII only."""
        end = data.find(b"\n")
        if end >= 0:
            self._in_request_line = False
        line = data if end < 0 else data[:end]
        if line.isascii():
            return data  # what follows it may be a body of any size, and isn't copied
        return _NOT_ASCII.sub(lambda byte: b"%%%02X" % byte.group()[0], line) + data[len(line) :]

    def _take_backlog(self) -> bytes:
        if not (self._backlog or self._reading_paused):
            return b""
        data = bytes(self._backlog)
        self._backlog.clear()
        self.resume_reading()
        return data

    def eof_received(self) -> bool:
        """The client has sent all it will. True keeps our direction open for the answer."""
        self._client_done = True
        if self.phase in (Phase.HEAD, Phase.LINGER, Phase.CLOSED) or self.tls:
            return False
        if self._request is not None and not self._request.body.is_eof():
            self._request.body.set_exception(
                Refused(400, "short_body", "the body ended before its announced length; nothing was stored", close=True)
            )
        return True

    # --- requests ---

    def _begin_known(self, known: RepeatedHead, target: str, plain_path: bytes, data: bytes) -> None:
        self._begin(
            Request(
                self,
                known.method,
                target,
                _HTTP_1_1,
                known.headers,
                _NO_BODY,
                self._server.request_id(known.given_id),
                _monotonic(),
                keep_alive=True,
                whole=data[len(data) - known.body_bytes :] if known.body_bytes else b"",
                plain_path=plain_path,
            )
        )

    def _begin(self, request: Request) -> None:
        self._request = request
        self.phase = Phase.WORK
        try:
            answered = self._server.handle(request)
        except Exception as error:
            self._fail(request, error)
        else:
            self._proceed(request, answered)

    def _proceed(self, request: Request, answered: Answered) -> None:
        if isinstance(answered, Answer):
            self._send(request, answered)
        elif isinstance(answered, Later):
            self._reply = answered.reply
            answered.reply.tell(answered)
        else:
            self._task = self._loop.create_task(answered)
            self._server.tasks.add(self._task)
            self._task.add_done_callback(partial(self._finished, request))

    def replied(self, later: Later) -> None:
        """For `Later`: its reply is there."""
        request, reply = later.request, later.reply
        self._reply = None
        if reply.cancelled():
            return
        try:
            answered = later.then(reply.result())
        except Exception as error:
            self._fail(request, error)
        else:
            self._proceed(request, answered)

    def _finished(self, request: Request, task: asyncio.Task[Answer]) -> None:
        self._task = None
        self._server.task_done(task)
        if task.cancelled():
            self._abort()
            return
        error = task.exception()
        if error is None:
            self._send(request, task.result())
        else:
            self._fail(request, error)

    def _fail(self, request: Request, error: BaseException) -> None:
        failure = failure_of(error)
        if not isinstance(error, SfssError):
            _log.error("%s %s failed", request.method, request.path, exc_info=error, extra=_of(request))
        elif failure.status >= 500 and not isinstance(error, Refused):  # those are about what the client has sent
            self._server.failures.note(failure, f"{request.method} {request.target}", request.id)
        if request.sent_ahead:
            self._abort()  # an answer that is half sent can't become another one; cut off, it tells
            request.keep_alive = False  # nor could a client be told what came of a request behind it
        self._send(request, failure_answer(failure, of_write=request.method in WRITE_METHODS))

    def _unparsable(self, error: HttpProcessingError) -> None:
        """Answer bytes that are no HTTP, and end the connection."""
        refused = refusal_of(error)
        request = self._request
        if request is not None and not request.body.is_eof():
            # A chunk that can't be parsed belongs to the request in hand, whose handler tells the client.
            request.keep_alive = False
            request.body.set_exception(refused)
        else:
            self._refuse(failure_of(refused))

    def _refuse(self, failure: Failure) -> None:
        """Answer where no request could be made out."""
        answer = failure_answer(failure, of_write=False)
        head = self._head(_monotonic(), answer, self._server.request_id(None), b"Connection: close\r\n", b"")
        self._outbox.write(head, answer.body)
        self._server.answered("other", answer.status, 0.0, 0, len(answer.body))
        self._linger(unread=True)

    # --- bodies; used by sfss.web.uploads ---

    def await_body(self) -> None:
        """Say that the handler waits for its body, and from now on the client is held to a rate."""
        request = self._request
        if request is None or self._transport is None:
            return
        if "Expect" in request.headers and request.version >= (1, 1) and request.body.total_bytes == 0:
            self._transport.write(_CONTINUE)
        self.phase = Phase.BODY
        self._since = time.monotonic()

    def await_more(self, waited_s: float) -> None:
        """The same for a body that is taken piece by piece, and was waited for `waited_s` so far: what counts for the
        rate is the time of all waits."""
        self.await_body()
        self._since -= waited_s

    def body_taken(self) -> None:
        """Say that the handler has what it waited for of its body and goes on to work."""
        if self.phase is Phase.BODY:
            self.phase = Phase.WORK
            self._since = time.monotonic()

    # --- bytes out ---

    def _send(self, request: Request, answer: Answer) -> None:
        now = _monotonic()
        self._server.memory.release(request.held_bytes)
        if self._transport is not None and self.phase is not Phase.CLOSED:
            body_complete = not self._parsed or (request.body.is_eof() and request.body.exception() is None)
            keep = request.keep_alive and body_complete and not (answer.close or self._server.stopping)
            if not keep:
                connection = b"Connection: close\r\n"
            elif request.version == _HTTP_1_1 or request.version > _HTTP_1_1:  # `==` is compiled, `>` makes tuples
                connection = b""
            else:
                connection = b"Connection: keep-alive\r\n"
            body = b"" if request.method == "HEAD" else answer.body
            if request.sent_ahead:
                self._outbox.write(b"", body)
            elif isinstance(body, bytes) and len(body) <= JOINED_BYTES_MAX:
                self._outbox.write(self._head(now, answer, request.id, connection, body), b"")
            else:
                self._outbox.write(self._head(now, answer, request.id, connection, b""), body)
            self._request = None
            if not keep:
                self._linger(unread=not body_complete)
            elif self._outbox.unsent_bytes:
                self.phase = Phase.FLUSH
                self._since = now
            else:
                self._next(now)
        elapsed = now - request.started
        sent = request.sent_ahead + len(answer.body)
        self._server.answered(request.operation, answer.status, elapsed, request.received, sent)
        if self._server.access_log:
            _access.info(
                '%s "%s %s" %d %d in %d out %.1f ms',
                self.peer or "-",
                request.method,
                request.target,
                answer.status,
                request.received,
                sent,
                elapsed * 1000,
                extra=_of(request),
            )

    def _head(self, now: float, answer: Answer, request_id: bytes, connection: bytes, body: bytes) -> bytes:
        """The head of an answer, and `body` behind it."""
        status = answer.status
        return b"%b%b%b%b\r\n%b\r\n%b" % (
            _OK if status == 200 else STATUS_LINES[status],
            answer.head,
            self._server.common_headers(now),
            request_id,
            connection,
            body,
        )

    def _next(self, now: float) -> None:
        """Turn to the next request; what came of it meanwhile is at hand."""
        self.phase = Phase.HEAD
        self._since = now
        if not self._pumping:
            self._consumed()
            self._pump(self._take_backlog())

    # --- answers in pieces; used by sfss.web.pieces ---

    def send_ahead(self, request: Request, head: bytes, piece: bytes) -> None:
        """Send a part of an answer whose last part the handler returns; `taken` is to be awaited behind each."""
        request.sent_ahead += len(piece)
        self._outbox.write(head, piece)

    def answer_head(self, request: Request, answer: Answer) -> bytes:
        """The head of an answer that is sent in pieces."""
        ends = answer.close or self._server.stopping or not request.keep_alive or not request.body.is_eof()
        request.keep_alive = not ends
        return self._head(_monotonic(), answer, request.id, b"Connection: close\r\n" if ends else b"", b"")

    async def taken(self) -> bool:
        """Wait until the client has taken all that was sent. False when it has left."""
        if self._transport is not None and self._outbox.unsent_bytes:
            self._since = time.monotonic()
            self._taking = self._loop.create_future()
            await self._taking
        return self._transport is not None and not self._transport.is_closing()

    def _wake_sender(self) -> None:
        taking = self._taking
        self._taking = None
        if taking is not None and not taking.done():
            taking.set_result(None)

    def pause_writing(self) -> None:
        self._outbox.paused()

    def resume_writing(self) -> None:
        self._outbox.resumed()
        if self._outbox.unsent_bytes:
            return
        if self.phase is Phase.FLUSH:
            self._next(time.monotonic())
        elif self.phase is Phase.LINGER:
            self._since = time.monotonic()
            self._half_close()
        elif self._taking is not None:
            self._wake_sender()

    # --- flow control of bodies; called by aiohttp's StreamReader ---

    @property
    def connected(self) -> bool:
        return self._transport is not None

    def pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    # --- time and the end ---

    def check(self, now: float) -> None:
        """End what has taken too long. `now` is `time.monotonic()`."""
        waited = now - self._since
        if self._outbox.unsent_bytes:
            self._check_reader(now)
        elif self.phase is Phase.HEAD:
            if waited >= self._limits.idle_s:
                self._close()
        elif self.phase is Phase.BODY:
            self._check_body(waited)
        elif self.phase is Phase.LINGER and waited >= LINGER_S:
            self._close()

    def _check_reader(self, now: float) -> None:
        if self._outbox.moves():
            self._since = now
        elif now - self._since >= self._limits.reader_stall_s:
            self._server.counters.add("aborted")
            self._abort()

    def _check_body(self, waited: float) -> None:
        request = self._request
        if request is None:
            return
        if self._server.hurrying:
            request.body.set_exception(Stopping("the server stops, and can't wait for the rest of the body"))
            return
        if waited < self._limits.body_grace_s:
            return
        rate = request.body.total_bytes / waited
        if rate < self._limits.body_rate_min:
            request.body.set_exception(
                Refused(
                    408,
                    "too_slow",
                    f"the body came at {rate:.0f} bytes/s; at least {self._limits.body_rate_min} are needed",
                    close=True,
                )
            )

    def close_if_idle(self) -> None:
        """Part of a stop: end a connection that serves nothing. Others end after their answer."""
        if self.phase is Phase.HEAD:
            self._close()

    def abort(self) -> None:
        """End the connection now, whatever it does."""
        self._abort()

    def _linger(self, *, unread: bool) -> None:
        """End the connection once the client has the answer. `unread`: it may still be sending."""
        self.phase = Phase.LINGER
        self._since = time.monotonic()
        self._unread = unread
        self._backlog.clear()
        self.resume_reading()
        if self._outbox.all_given:
            self._half_close()

    def _half_close(self) -> None:
        """All is handed over to the transport, so nothing more will be sent. TLS can't close one direction alone."""
        transport = self._transport
        if transport is None or self._client_done or (self.tls and not self._unread):
            self._close()
        elif not (self.tls or transport.is_closing()):
            transport.write_eof()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.phase = Phase.CLOSED
        self._outbox.close()
        self._wake_sender()
        self._server.forget(self)
        request = self._request
        if request is None:
            return
        if not request.body.is_eof():
            request.body.set_exception(Refused(400, "short_body", "the client left; nothing was stored", close=True))
        if self._reply is not None and request.method not in WRITE_METHODS:
            self._reply.cancel()  # nobody wants it any more; a write goes on


def _of(request: Request) -> dict[str, str]:
    return of_call(Call(request_id=request.id))
