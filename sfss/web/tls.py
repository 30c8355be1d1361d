"""TLS: the certificate, and a door at which every connection counts from the moment it is accepted.

Not `loop.create_server(ssl=…)`: that one says nothing of a connection before its handshake is done, so that handshakes
which are begun and left lying would take open files without limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import TYPE_CHECKING

from sfss.web.connection import Connection

if TYPE_CHECKING:
    from sfss.web.server import WebServer

ACCEPTS_MAX = 64
"""Connections accepted in one turn of the loop."""

ACCEPT_AGAIN_S = 1.0

_log = logging.getLogger("sfss.web")


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 and up with the system's defaults. Raises `OSError` (of which `ssl.SSLError` is one)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


class TlsDoor:
    """Accepts the TLS connections of `server` on one listening socket. Made open; close it."""

    def __init__(self, server: WebServer, listener: socket.socket, context: ssl.SSLContext) -> None:
        self._server = server
        self._listener = listener
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._open()

    def close(self) -> None:
        """Accept nothing more and end the handshakes under way. Those that are done go on."""
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
            connection = Connection(self._server)
            if not self._server.admit(connection):
                accepted.close()  # an answer would cost the handshake that there is no room for
                continue
            accepted.setblocking(False)
            handshake = self._loop.create_task(self._shake_hands(accepted, connection))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket.socket, connection: Connection) -> None:
        try:
            # Whatever the client does wrong, or not at all, is an OSError; it is nothing to tell an operator.
            with contextlib.suppress(OSError):
                await self._loop.connect_accepted_socket(
                    lambda: connection, accepted, ssl=self._context, ssl_handshake_timeout=self._server.limits.idle_s
                )
        finally:
            if not connection.connected:
                self._server.forget(connection)
