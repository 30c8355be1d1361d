"""A memcache server for any `Store`.

`start`, then it serves; `close` stops accepting, answers what is in hand and leaves. It owns the limits (each a
setting, each with an immediate refusal), the totals of all connections, and one sweep that closes connections which
keep it waiting.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice

from sfss.addresses import reason_of
from sfss.log import of_call
from sfss.loop_watch import LoopWatch
from sfss.memcache.answers import Buffers, length
from sfss.memcache.connection import Connection
from sfss.memcache.errors import TOO_MANY_CONNECTIONS
from sfss.memcache.requests import Request
from sfss.memcache.service import WIRE_VERSION, Service
from sfss.memcache.socket_transport import SocketTransport
from sfss.memcache.stranger import Stranger
from sfss.memcache.tls_transport import TlsProtocol
from sfss.secret import Secret
from sfss.store import WIRE_VALUE_BYTES_MAX, Store
from sfss.tls import Tls

_log = logging.getLogger("sfss.memcache")
_access_log = logging.getLogger("sfss.access")

BACKLOG = 1024
REFUSED_MAX = 64
"""Refused connections that are told why, at a time; more are closed without a word."""
ACCEPTS_MAX = 64
"""Connections accepted in one turn of the loop."""
FILES_KEPT = 128
"""Open files that connections leave to everything else: volumes, index, state, connections to other servers."""
_HANDSHAKE = b"\x16"
"""The type of TLS' first record (RFC 8446, 5.1)."""
TOLD_S = 600.0
TOLD_MAX = 100
"""Who isn't let in, and why, is told once in so long, and so many at most: nobody fills the log."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one server takes on. `_s` are seconds.

    `bytes_held_max` counts blocks on their way in, values of unfinished writes and replies that wait, over all
    connections. One connection begins no more requests while those that it has begun hold `waiting_bytes_max`, or will,
    going by what earlier answers brought; where they bring more, `connection_bytes_max` is its share.

    `inside_command_s` is how long a peer may keep us waiting in the middle of a command, `reading_s` how long it may
    take nothing at all while replies wait. A connection idle for `idle_s` is closed only when nine tenths of
    `connections_max` are in use.

    A server that stops goes on for `leaving_s`, and says so to whoever asks for anything.

    Where a password is asked for, or TLS is spoken, `strangers_max` connections may be about it at a time, on top of
    `connections_max`, and each of them for `stranger_s`.
    """

    connections_max: int = 1024
    in_flight_max: int = 128
    bytes_held_max: int = 256 * 1024 * 1024
    connection_bytes_max: int = 32 * 1024 * 1024
    waiting_bytes_max: int = 8 * 1024 * 1024
    unsent_bytes_max: int = 256 * 1024
    value_bytes_max: int = WIRE_VALUE_BYTES_MAX
    inside_command_s: float = 10.0
    reading_s: float = 30.0
    idle_s: float = 60.0
    linger_s: float = 1.0
    leaving_s: float = 0.3
    strangers_max: int = 256
    stranger_s: float = 5.0


async def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on all addresses of `host`; port 0 picks one that is free. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port == 0 and len(listeners) > 1:
                address = (address[0], listeners[0].getsockname()[1], *address[2:])
            listener.bind(address)
            listener.listen(BACKLOG)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def within_open_files(limits: ServerLimits, files_max: int) -> ServerLimits:
    """The same limits, with no more connections than a process that may open so many files has room for."""
    room = max(16, (files_max - FILES_KEPT) // 2)
    if room >= limits.connections_max:
        return limits
    _log.warning("%d connections at most: %d files may be open (ulimit -n)", room, files_max)
    return replace(limits, connections_max=room, strangers_max=min(room, limits.strangers_max))


class _Watched:
    """What the sweep last saw of a connection, and since when it has not changed."""

    __slots__ = ("heard", "idle_since", "inside_since", "lingering_since", "taken", "unread_since")

    def __init__(self, now: float) -> None:
        self.heard = self.taken = -1
        self.idle_since = self.inside_since = self.unread_since = self.lingering_since = now


async def _begins_tls(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bool:
    """Wait for a connection's first byte, and leave it there: whether a handshake of TLS begins with it. Raises
    `OSError` when the connection ends first."""
    readable = asyncio.Event()
    loop.add_reader(sock.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock.fileno())
    first = sock.recv(1, socket.MSG_PEEK)
    if not first:
        raise ConnectionResetError("it left without a word")
    return first == _HANDSHAKE


class MemcacheServer:
    """Serves `store` on one address. `access_log`: one line per request, at level info.

    With a `secret`, whoever connects must give a user and password that it knows; with `tls`, speak TLS, or with
    `plain_too` may. A first byte tells: no request begins with that of a handshake.
    """

    def __init__(
        self,
        store: Store,
        *,
        limits: ServerLimits | None = None,
        allow_flush: bool = False,
        access_log: bool = False,
        secret: Secret | None = None,
        tls: Tls | None = None,
        plain_too: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.limits = limits or ServerLimits()
        self.access_log = access_log
        self.service = Service(store, allow_flush=allow_flush, now=now, settings=self._settings, figures=self._figures)
        self.bytes_held = 0
        self._secret = secret
        self._tls = tls
        self._plain_too = plain_too
        self._connections: dict[Connection, _Watched] = {}
        self._strangers: dict[Stranger, float] = {}
        """Since when (monotonic seconds)."""
        self._told: dict[tuple[str, str], float] = {}
        self._rng = random.Random()
        self._listeners: list[socket.socket] = []
        self._sweeper: asyncio.Task[None] | None = None
        self._watch = LoopWatch()
        self._empty = asyncio.Event()
        self._empty.set()
        self.closing = False
        self._began = now()

    async def start(self, host: str, port: int) -> None:
        """Listen on an address; port 0 picks a free one. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        self.limits = within_open_files(self.limits, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._listeners = await listen(host, port)
        for listener in self._listeners:
            loop.add_reader(listener.fileno(), self._accept, listener)
        self._sweeper = loop.create_task(self._sweep_for_ever(), name="memcache sweep")
        self._watch.start()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if not self._listeners:
            raise RuntimeError("the server isn't listening")
        port: int = self._listeners[0].getsockname()[1]
        return port

    async def close(self, grace_s: float = 10.0) -> None:
        """Stop accepting, answer what is in hand, flush, close; cut off what isn't through after `grace_s` seconds.

        What comes meanwhile is answered `SERVER_ERROR stopping`. A connection that were closed at once might have a
        write on its way, and nobody could tell what has become of it.
        """
        self.closing = True
        self._watch.close()
        self._stop_listening()
        for stranger in list(self._strangers):
            stranger.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(self.limits.leaving_s, grace_s)):
                await self._empty.wait()
        for connection in list(self._connections):
            connection.finish()
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
            await self._empty.wait()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _stop_listening(self) -> None:
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners = []

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTS_MAX):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No file descriptor or no memory left: those who wait stay in the backlog until there is.
                _log.error("can't accept connections for a second: %s", error)
                loop.remove_reader(listener.fileno())
                loop.call_later(1.0, self._accept_again, listener)
                return
            sock.setblocking(False)
            if self._secret is None and self._tls is None:
                SocketTransport(loop, sock, Connection(self))
            else:
                self._meet(loop, sock, address[0])

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def _meet(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, host: str) -> None:
        """Take in a connection that has to prove itself first.

        When there are too many, any one of them goes. Were it the newest, a few that say nothing could keep everybody
        out; were it the oldest, the one that is nearest to being let in would go each time, and under a rush of clients
        with TLS none would get that far.
        """
        if len(self._strangers) >= self.limits.strangers_max:
            self.service.counters.rejected_connections += 1
            unlucky = next(islice(self._strangers, self._rng.randrange(len(self._strangers)), None))
            self.forget_stranger(unlucky)
            unlucky.abort()
        stranger = Stranger(self, self._secret, host)
        self._strangers[stranger] = time.monotonic()
        self._empty.clear()
        if self._tls is None:
            SocketTransport(loop, sock, stranger)
        else:
            stranger.handshake = loop.create_task(self._shake_hands(loop, sock, stranger, self._tls()))
            stranger.handshake.add_done_callback(partial(self._hands_shaken, sock, stranger))

    async def _shake_hands(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, stranger: Stranger, tls: ssl.SSLContext
    ) -> None:
        limit_s = self.limits.stranger_s
        try:
            if self._plain_too and not await _begins_tls(loop, sock):
                SocketTransport(loop, sock, stranger)
                return
            await loop.connect_accepted_socket(
                lambda: TlsProtocol(stranger),
                sock,
                ssl=tls,
                ssl_handshake_timeout=limit_s,
                ssl_shutdown_timeout=limit_s,
            )
        except ssl.SSLError as error:
            self.refused(stranger.host, reason_of(error))
        except OSError:
            return  # it left, or took too long

    def _hands_shaken(self, sock: socket.socket, stranger: Stranger, handshake: asyncio.Task[None]) -> None:
        if not stranger.connected:
            sock.close()
            self.forget_stranger(stranger)
        if not handshake.cancelled() and handshake.exception() is not None:
            _log.error("a handshake ended by a fault", exc_info=handshake.exception())

    # What connections ask of it

    def let_in(self, stranger: Stranger) -> Connection:
        """A stranger has proved itself: the connection to go on with."""
        self.forget_stranger(stranger)
        return Connection(self)

    def refused(self, host: str, why: str) -> None:
        """Say in the log that somebody from `host` can't get in."""
        now = time.monotonic()
        if len(self._told) >= TOLD_MAX:
            self._told = {told: at for told, at in self._told.items() if now - at < TOLD_S}
        if len(self._told) < TOLD_MAX and now - self._told.get((host, why), -TOLD_S) >= TOLD_S:
            self._told[host, why] = now
            _log.warning("a connection from %s was refused: %s", host, why)

    def forget_stranger(self, stranger: Stranger) -> None:
        """Count a stranger that was let in, or is gone."""
        if self._strangers.pop(stranger, None) is not None:
            self.service.counters.bytes_read += stranger.bytes_read
            self.service.counters.bytes_written += stranger.bytes_written
        self._note_empty()

    def _note_empty(self) -> None:
        if not (self._connections or self._strangers):
            self._empty.set()

    def admit(self, connection: Connection) -> bytes:
        """Register a new connection; the line to refuse it with, or nothing."""
        number = len(self._connections)
        refused = self.closing or number >= self.limits.connections_max
        self._connections[connection] = _Watched(time.monotonic())
        self._empty.clear()
        if refused:
            self.service.counters.rejected_connections += 1
            if number >= self.limits.connections_max + REFUSED_MAX:
                connection.abort()
            return TOO_MANY_CONNECTIONS
        self.service.counters.total_connections += 1
        return b""

    def forget(self, connection: Connection) -> None:
        """Count a connection that is gone."""
        if self._connections.pop(connection, None) is not None:
            self.service.counters.bytes_read += connection.bytes_read
            self.service.counters.bytes_written += connection.bytes_written
        self._note_empty()

    def reserve(self, size: int) -> bool:
        """Ask for room for a piece of a block that has arrived."""
        if self.bytes_held + size > self.limits.bytes_held_max:
            self.service.counters.rejected_busy += 1
            return False
        self.bytes_held += size
        return True

    def log_access(self, request: Request, reply: Buffers, begun: float) -> None:
        """Write the line of one finished request."""
        first = (reply if isinstance(reply, bytes) else reply[0])[:40]
        outcome = first.partition(b"\r\n")[0] if first else b"-"
        _access_log.info(
            "%s %s %d in %s %d out %.1f ms",
            request.command.name.decode(),
            request.key.decode("utf-8", "backslashreplace") or "-",
            len(request.value),
            outcome.decode("utf-8", "backslashreplace").partition(" ")[0],
            length(reply),
            (time.monotonic() - begun) * 1000,
            extra=of_call(request.call),
        )

    # Figures

    def _settings(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self.limits).items()} | {
            "item_size_max": str(self.limits.value_bytes_max),
            "maxconns": str(self.limits.connections_max),
            "flush_enabled": "yes" if self.service.allow_flush else "no",
            "auth_enabled_ascii": "yes" if self._secret is not None else "no",
            "ssl_enabled": "no" if self._tls is None else "optional" if self._plain_too else "yes",
        }

    def _figures(self) -> dict[str, str]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        counters = self.service.counters
        live = self._connections
        figures = asdict(counters)
        figures["bytes_read"] += sum(connection.bytes_read for connection in live)
        figures["bytes_written"] += sum(connection.bytes_written for connection in live)
        now = self.service.now()
        return {
            "pid": str(os.getpid()),
            "uptime": str(int(now - self._began)),
            "time": str(int(now)),
            "version": WIRE_VERSION,
            "pointer_size": "64",
            "rusage_user": f"{usage.ru_utime:.6f}",
            "rusage_system": f"{usage.ru_stime:.6f}",
            "rusage_maxrss": str(usage.ru_maxrss),
            "threads": str(threading.active_count()),
            "max_connections": str(self.limits.connections_max),
            "curr_connections": str(len(live) + len(self._strangers)),
            "bytes_held": str(self.bytes_held),
            "in_flight": str(sum(connection.in_flight for connection in live)),
            **self._watch.figures(),
        } | {name: str(value) for name, value in figures.items()}

    # The sweep

    async def _sweep_for_ever(self) -> None:
        limits = self.limits
        tick = min(limits.inside_command_s, limits.reading_s, limits.idle_s, limits.linger_s, limits.stranger_s) / 4
        while True:
            await asyncio.sleep(tick)
            try:
                self._sweep(time.monotonic())
            except Exception:
                # It is everybody's: without it nobody's silence would end any more.
                _log.exception("the memcache connections could not be looked over")

    def _sweep(self, now: float) -> None:
        limits = self.limits
        for stranger, since in list(self._strangers.items()):
            if now - since > limits.stranger_s:
                stranger.abort()
        crowded = len(self._connections) >= limits.connections_max * 9 // 10
        for connection, seen in list(self._connections.items()):
            unsent = connection.count_unsent()
            heard, seen.heard = connection.bytes_read != seen.heard, connection.bytes_read
            taken = connection.bytes_written - unsent
            took, seen.taken = taken != seen.taken, taken
            if heard or not connection.inside_command:
                seen.inside_since = now
            if took or not unsent:
                seen.unread_since = now
            if heard or took or connection.busy:
                seen.idle_since = now
            if not connection.lingering:
                seen.lingering_since = now
            if (
                now - seen.inside_since > limits.inside_command_s
                or now - seen.unread_since > limits.reading_s
                or now - seen.lingering_since > limits.linger_s
                or (crowded and now - seen.idle_since > limits.idle_s)
            ):
                connection.abort()
