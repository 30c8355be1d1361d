"""A connection that isn't let in yet: it shakes hands (TLS), or owes the user and password.

Memcached's ASCII authentication: nothing is understood but `set <any key> <flags> <exptime> <bytes>` with the block
`user password`, which is answered STORED; whatever else comes is refused. Then a `Connection` takes over the transport,
and no request after that costs anything more.

A stranger costs little and not for long: what is kept of it is a line of 2,048 bytes or a block of 510, what it gets
is some refusals, and its time is seconds. When there are too many of them, one goes for each that comes: a crowd can't
keep anybody out who gives the password at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from sfss.errors import BadRequest
from sfss.memcache.commands.table import COMMANDS
from sfss.memcache.errors import (
    AUTHENTICATION_FAILURE,
    BAD_AUTHENTICATION,
    TOO_LARGE,
    UNAUTHENTICATED,
    client_error,
)
from sfss.memcache.numbers import decimal
from sfss.memcache.requests import LINE_BYTES_MAX, Command, Refusal, Request, RequestParser
from sfss.memcache.transport import Transport
from sfss.secret import LINE_BYTES_MAX as SECRET_LINE_BYTES_MAX
from sfss.secret import Secret

if TYPE_CHECKING:
    from sfss.memcache.server import MemcacheServer
    from sfss.memcache.service import Service

BLOCK_BYTES_MAX = 2 * SECRET_LINE_BYTES_MAX
REFUSALS_MAX = 16

STORED = b"STORED\r\n"
_WHY = {
    UNAUTHENTICATED: "it gave no user and password",
    BAD_AUTHENTICATION: "it gave no user and password",
    AUTHENTICATION_FAILURE: "it gave a wrong user or password",
}


def _parse_attempt(command: Command, words: list[bytes]) -> Request:
    """Key, flags and exptime may be anything, and so may what follows the length."""
    size = decimal(words[4], 2**32)
    if size is None:
        raise BadRequest("unauthenticated")
    return Request(command, words[1], None, size)


def _refuse(command: Command, words: list[bytes]) -> Request:
    raise BadRequest("unauthenticated")


def _never(service: Service, request: Request) -> bytes:
    raise AssertionError("a stranger's request is never carried out")


_COMMANDS = {
    # The blocks of other writes are swallowed, so that nobody's bytes are taken for a command.
    name: Command(name, _refuse, _never, size_at=command.size_at)
    for name, command in COMMANDS.items()
} | {b"set": Command(b"set", _parse_attempt, _never, words_min=5, size_at=4)}


class Stranger(asyncio.Protocol):
    """One of them, from `host`. Without a `secret` it only has to shake hands. Made by `MemcacheServer`."""

    def __init__(self, server: MemcacheServer, secret: Secret | None, host: str) -> None:
        self._server = server
        self._secret = secret
        self.host = host
        self._parser = RequestParser(_COMMANDS, {}, value_bytes_max=BLOCK_BYTES_MAX)
        self._transport: Transport | None = None
        self._refusals = 0
        self._ended = False
        self.handshake: asyncio.Task[None] | None = None
        self.bytes_read = 0
        self.bytes_written = 0

    @property
    def connected(self) -> bool:
        """Whether the transport is there, so that `connection_lost` will come, or has come."""
        return self._transport is not None

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
        elif self.handshake is not None:
            self.handshake.cancel()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(Transport, transport)
        if self._secret is None:
            self._let_in(self._transport)

    def data_received(self, data: bytes) -> None:
        self.bytes_read += len(data)
        transport, parser = self._transport, self._parser
        if self._ended or transport is None or self._secret is None:
            return
        parser.feed(data)
        while not self._ended:
            came = parser.next()
            if came is None:
                if parser.waiting > LINE_BYTES_MAX + 1:
                    self._refuse(transport, client_error("line too long"), close=True)
                return
            if isinstance(came, Refusal):
                self._answer_refusal(transport, came)
            elif self._attempt(transport, self._secret, came.value):
                return

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._server.forget_stranger(self)

    # What it said

    def _answer_refusal(self, transport: Transport, refusal: Refusal) -> None:
        if refusal.close and not refusal.line:
            self._ended = True
            transport.abort()  # no memcache client at all
        elif refusal.close:
            self._refuse(transport, refusal.line, close=True)
        elif refusal.line == TOO_LARGE:
            self._refuse(transport, BAD_AUTHENTICATION)
        else:
            self._refuse(transport, UNAUTHENTICATED)

    def _attempt(self, transport: Transport, secret: Secret, block: bytes) -> bool:
        """Try what may be user and password; says whether they were right."""
        words = [word for word in block.split(b" ") if word]
        if len(words) < 2:
            self._refuse(transport, BAD_AUTHENTICATION)
            return False
        self._server.service.counters.auth_cmds += 1
        if not secret.knows(words[0], words[1]):
            self._server.service.counters.auth_errors += 1
            self._refuse(transport, AUTHENTICATION_FAILURE)
            return False
        transport.write(STORED)
        self.bytes_written += len(STORED)
        self._let_in(transport)
        return True

    def _let_in(self, transport: Transport) -> None:
        self._ended = True
        connection = self._server.let_in(self)
        transport.set_protocol(connection)
        connection.connection_made(transport)  # type: ignore[arg-type]
        rest = self._parser.rest()
        if rest:
            connection.data_received(rest)

    def _refuse(self, transport: Transport, line: bytes, close: bool = False) -> None:
        self._refusals += 1
        self._server.refused(self.host, _WHY.get(line, "it speaks something else"))
        self.bytes_written += len(line)
        transport.write(line)
        if close or self._refusals >= REFUSALS_MAX:
            # What it still sends is read and dropped until it closes or its time is over: closing with bytes unread
            # would take the answer back.
            self._ended = True
            transport.write_eof()
