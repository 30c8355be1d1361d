"""Where connections come in. Every one counts from the moment it is accepted.

Not `loop.create_server`: with TLS that one says nothing of a connection before its handshake is done, so that
handshakes which are begun and left lying would take open files without limit; and without TLS its transport costs more
than our own (`sfss.memcache.socket_transport`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import TYPE_CHECKING

from sfss.memcache.socket_transport import SocketTransport
from sfss.tls import Tls
from sfss.web.connection import Connection

if TYPE_CHECKING:
    from sfss.web.server import WebServer

BACKLOG = 1024
ACCEPTS_MAX = 64
"""Connections accepted in one turn of the loop."""

ACCEPT_AGAIN_S = 1.0

_log = logging.getLogger("sfss.web")


class Door:
    """Accepts the connections of `server` on one bound socket; with `tls` they speak TLS. Made open; close it."""

    def __init__(self, server: WebServer, listener: socket.socket, tls: Tls | None) -> None:
        self._server = server
        self._listener = listener
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._open()

    def close(self) -> None:
        """Take in those who have connected, accept nothing more and end the handshakes under way. Those that are done
        go on."""
        self._accept()
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
        self._listener.close()
        for handshake in self._handshakes:
            handshake.cancel()

    def _open(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No file descriptor or no memory left: those who wait stay in the backlog until there is.
                _log.error("can't accept connections for %g s: %s", ACCEPT_AGAIN_S, error)
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(ACCEPT_AGAIN_S, self._open)
                return
            accepted.setblocking(False)
            if self._tls is None:
                SocketTransport(self._loop, accepted, Connection(self._server))
                continue
            connection = Connection(self._server, tls=True)
            if not self._server.admit(connection):
                accepted.close()  # an answer would cost the handshake that there is no room for
                continue
            handshake = self._loop.create_task(self._shake_hands(accepted, connection, self._tls()))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket.socket, connection: Connection, context: ssl.SSLContext) -> None:
        try:
            # Whatever the client does wrong, or not at all, is an OSError; it is nothing to tell an operator.
            with contextlib.suppress(OSError):
                await self._loop.connect_accepted_socket(
                    lambda: connection, accepted, ssl=context, ssl_handshake_timeout=self._server.limits.idle_s
                )
        finally:
            if not connection.connected:
                self._server.forget(connection)
