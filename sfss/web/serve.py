"""One worker's life: open the store, serve, stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TypeAlias

from sfss.addresses import host_and_port
from sfss.process import unless_stopped
from sfss.settings import Settings
from sfss.store import Store
from sfss.tls import Tls
from sfss.web.application import Application
from sfss.web.batches.room import WINDOW_BYTES
from sfss.web.connection import ConnectionLimits
from sfss.web.counters import SharedCounters, WorkerCounters
from sfss.web.door import ACCEPTS_MAX
from sfss.web.memory import BodyMemory
from sfss.web.server import WebServer
from sfss.web.status import StatusSource

OpenBackend: TypeAlias = "Callable[[WorkerCounters], AbstractAsyncContextManager[tuple[Store, StatusSource]]]"
"""Opens what the web tier stands on: its files, and the figures of the tiers below. What it counts itself goes to the
worker's counters."""

FILES_RESERVED = 32 + ACCEPTS_MAX
FILES_PER_SERVER = 12
"""Open files kept back from clients: for the process itself, for those of one turn of the loop who are told that there
are too many, and for each server below (its connections, and those that /status opens). Without them a crowd of
clients would cut the web tier off from its proxies, and wait for a word instead of being refused at once."""

_log = logging.getLogger("sfss.web")


async def serve(
    settings: Settings,
    index: int,
    sockets: Sequence[socket.socket],
    tls: Tls | None,
    counters: SharedCounters,
    open_backend: OpenBackend,
    serving: Callable[[], None],
    stop: asyncio.Event,
) -> None:
    """Serve on bound sockets until `stop` is set, then finish what is in hand. `serving` is called in between, once."""
    async with AsyncExitStack() as stack:
        # It may wait for nodes.
        opened = await unless_stopped(stack.enter_async_context(open_backend(counters.worker(index))), stop)
        if opened is None:
            return
        store, status = opened
        check_batches(settings)
        memory = BodyMemory(settings.body_memory_max)
        application = Application(store, status, settings, counters, memory)
        server = WebServer(
            application.handle,
            counters.worker(index),
            memory,
            limits=ConnectionLimits(
                idle_s=settings.idle_timeout_seconds,
                body_grace_s=settings.body_grace_seconds,
                body_rate_min=settings.body_rate_min,
                reader_stall_s=settings.reader_stall_seconds,
            ),
            connections_max=connections_max(settings),
            access_log=settings.access_log,
            repeated_heads=settings.repeated_heads,
        )
        await server.start(sockets, tls)
        serving()
        _log.info("serving on %s", host_and_port(settings.host, server.port))
        # What exists now stays; the collector needn't walk it each time.
        gc.collect()
        gc.freeze()
        await stop.wait()
        await server.close(settings.stop_timeout_seconds)


def check_batches(settings: Settings) -> None:
    """Say so where batches have no room."""
    needed = WINDOW_BYTES + max(settings.max_content_size, settings.batch_list_bytes_max)
    if settings.body_memory_max < needed:
        _log.warning(
            "/files:get and /files:put are refused where they need more than BODY_MEMORY_MAX, which is %d: %d is "
            "enough",
            settings.body_memory_max,
            needed,
        )


def connections_max(settings: Settings) -> int:
    """As many connections as are configured, and as the limit on open files has room for."""
    servers = settings.storages if settings.direct else settings.storage_proxies
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = open_files - FILES_RESERVED - FILES_PER_SERVER * len(servers)
    if room >= settings.connections_max:
        return settings.connections_max
    _log.warning("%d connections at most: %d files may be open (ulimit -n)", max(room, 1), open_files)
    return max(room, 1)
