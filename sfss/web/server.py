"""The server of one process: its connections, their limits, and its start and end."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from sfss import __version__
from sfss.tls import Tls
from sfss.web.conditions import http_date
from sfss.web.connection import Connection, ConnectionLimits
from sfss.web.counters import WorkerCounters
from sfss.web.door import Door
from sfss.web.errors import CROWDED
from sfss.web.failure_log import FailureLog
from sfss.web.memory import BodyMemory
from sfss.web.requests import Handler

if TYPE_CHECKING:
    from mypy_extensions import i64

SWEEP_S_MAX: Final = 1.0

_SANE_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,24}", re.ASCII)
_THREE_DIGITS: Final = [b"%03d" % number for number in range(1000)]
_SERVER_HEADER: Final = f"Server: sfss/{__version__}\r\n".encode()

TELL_S: Final = 0.1
"""So late other processes may see what was counted here."""

LAST_CALL_S: Final = 0.5
"""How long a server that stops still answers, once, on connections on which nothing goes on."""

_log = logging.getLogger("sfss.web")


class WebServer:
    """Accepts connections and calls `handle` for each request. Start, wait, close."""

    def __init__(
        self,
        handle: Handler,
        counters: WorkerCounters,
        memory: BodyMemory,
        *,
        limits: ConnectionLimits,
        connections_max: int,
        access_log: bool = False,
        repeated_heads: bool = True,
    ) -> None:
        self.handle = handle
        self.counters = counters
        self.memory = memory
        self.limits = limits
        self.access_log = access_log
        self.repeated_heads = repeated_heads
        """Whether a request like the one before is taken without the parser."""
        self.failures = FailureLog()
        self.stopping = False
        """Whether every answer from now on ends its connection."""
        self.hurrying = False
        """Whether requests that take long are to come to an end: half of the time that a stop may take is over."""
        self.idle_welcome = True
        """Whether a connection may wait for its next request."""
        self.tasks: set[asyncio.Task[Any]] = set()
        """Requests in hand that take more than one step; kept here so that they aren't forgotten half-way."""
        self._connections: set[Connection] = set()
        self._connections_max = connections_max
        self._quiet = asyncio.Event()
        """Set in a stop, when nothing is in hand any more."""
        self._doors: list[Door] = []
        self._port = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None
        self._sweep_s = min(SWEEP_S_MAX, limits.idle_s / 4, limits.body_grace_s / 4, limits.reader_stall_s / 4)
        self._ids = os.urandom(4).hex().encode()
        self._ids_given = 0
        self._ids_stem = b""
        self._headers = b""
        self._headers_until = float("-inf")

    # --- start ---

    async def start(self, sockets: Sequence[socket.socket], tls: Tls | None = None) -> None:
        """Serve on bound sockets."""
        self.counters.start()
        self._port = sockets[0].getsockname()[1]
        self._doors = [Door(self, one, tls) for one in sockets]
        self._check_connections()

    @property
    def port(self) -> int:
        """The port of the first socket."""
        return self._port

    @property
    def connection_count(self) -> int:
        """Connections that are open, those whose TLS handshake is under way among them."""
        return len(self._connections)

    # --- serve; called by connections ---

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in. False when there are too many."""
        full = len(self._connections) >= self._connections_max
        if full or self.stopping:
            self.counters.add("rejected_connections")
            if full:
                self.failures.note(CROWDED, f"a client beyond {self._connections_max}", b"")
            return False
        self._connections.add(connection)
        self.counters.add("total_connections")
        return True

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._tell_quiet()

    def task_done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        self._tell_quiet()

    def _tell_quiet(self) -> None:
        if self.stopping and not self._connections and not self.tasks:
            self._quiet.set()

    def request_id(self, given: str | None) -> bytes:
        """The id that follows a request through the logs: the client's own, if it is a sane one."""
        if given is not None and _SANE_REQUEST_ID.fullmatch(given):
            return given.encode()
        last_digits: i64 = self._ids_given % 1000
        if last_digits == 0:
            self._ids_stem = b"%b-%d" % (self._ids, self._ids_given // 1000)
        self._ids_given += 1
        return self._ids_stem + _THREE_DIGITS[last_digits]  # half the price of the whole number

    def common_headers(self, now: float) -> bytes:
        """Header lines of every answer, made anew as each second begins, up to the request's id. `now` is
        `time.monotonic()`."""
        if now >= self._headers_until:
            seconds = time.time()
            self._headers_until = now + 1.0 - seconds % 1.0
            self._headers = b"Date: %b\r\n%bX-Request-Id: " % (http_date(int(seconds)), _SERVER_HEADER)
        return self._headers

    def answered(self, operation: str, status: int, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """Count a request. Within `TELL_S` every process sees it."""
        self.counters.answered(operation, status, seconds, bytes_in, bytes_out)
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TELL_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        self.counters.publish()

    def _check_connections(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections):
            connection.check(now)
        self.failures.tell(now)
        self.counters.set("curr_connections", len(self._connections))
        self.counters.set("body_bytes", max(0, self.memory.held))
        self.counters.measure_process(now)
        self._sweep = asyncio.get_running_loop().call_later(self._sweep_s, self._check_connections)

    # --- close ---

    async def close(self, grace_s: float) -> None:
        """Stop accepting, let requests in hand finish for up to `grace_s` seconds, end the rest. Idempotent."""
        if self.stopping:
            return
        for door in self._doors:
            door.close()
        self.stopping = True
        # A client may just now be sending its next request where nothing seems to go on.
        last_call_s = min(LAST_CALL_S, grace_s)
        await self._wait_for_quiet(last_call_s)
        self.idle_welcome = False
        for connection in list(self._connections):
            connection.close_if_idle()
        rest_s = grace_s - last_call_s
        quiet = await self._wait_for_quiet(rest_s / 2)
        self.hurrying = True
        if not (quiet or await self._wait_for_quiet(rest_s / 2)):
            _log.warning("requests were still in hand %.0f s after the stop", grace_s)
        for connection in list(self._connections):
            connection.abort()
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=1.0)
        if self._sweep is not None:
            self._sweep.cancel()
        if self._telling is not None:
            self._telling.cancel()
        self._tell()

    async def _wait_for_quiet(self, seconds: float) -> bool:
        """Wait until nothing is open or in hand; False when it took too long."""
        if not (self._connections or self.tasks):
            return True
        try:
            await asyncio.wait_for(self._quiet.wait(), seconds)
        except TimeoutError:
            return False
        return True
