"""Servers for tests of the memcache wire: ours over a store, and one that does what a test scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from sfss.memcache.client import ClientLimits, MemcacheClient
from sfss.memcache.server import MemcacheServer
from sfss.memory import MemoryStore

HOST = "127.0.0.1"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]
"""What a scripted server does with a connection; the number counts connections from 0."""


@asynccontextmanager
async def serving(store: Any = None, **options: Any) -> AsyncIterator[MemcacheServer]:
    """A server over `store` (a `MemoryStore` by default) on a free port."""
    server = MemcacheServer(store if store is not None else MemoryStore(), **options)
    await server.start(HOST, 0)
    try:
        yield server
    finally:
        await server.close(grace_s=1.0)


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[int]:
    """A server that runs `script` on every connection; gives its port."""
    connections: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer, len(connections))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(handle(reader, writer))
        connections.add(task)

    server = await asyncio.start_server(accept, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


@asynccontextmanager
async def client_of(port: int, limits: ClientLimits | None = None, **options: Any) -> AsyncIterator[MemcacheClient]:
    """A client of a port, closed after."""
    client = MemcacheClient(HOST, port, limits=limits, **options)
    try:
        yield client
    finally:
        await client.close()
