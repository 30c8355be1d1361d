"""Servers for tests of the memcache wire: ours over a store, and one that does what a test scripts."""

from __future__ import annotations

import asyncio
import contextlib
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


WAYS = ("whole", "byte by byte", "with more behind it")
"""How hostile input is sent."""

_SLOW_BYTES = 300
"""Of what is long, so many go byte by byte at its beginning and its end; what lies between goes whole."""


class RawClient:
    """A connection that sends bytes as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def answer(self, said: bytes, way: str) -> bytes:
        """What is answered to what is said, before the answer to a `mn` that comes after it."""
        await self._say(said, way, b"mn\r\n")
        if way != "with more behind it":
            self._writer.write(b"mn\r\n")
        async with asyncio.timeout(20):
            return (await self._reader.readuntil(b"MN\r\n")).removesuffix(b"MN\r\n")

    async def last_answer(self, said: bytes, way: str) -> bytes:
        """All that is answered until the server closes the connection."""
        received = b""
        # The server need not read all that it refuses.
        with contextlib.suppress(ConnectionError):
            await self._say(said, way, b"get a\r\n")
            async with asyncio.timeout(20):
                while piece := await self._reader.read(4096):
                    received += piece
        return received

    async def _say(self, said: bytes, way: str, behind: bytes) -> None:
        if way == "byte by byte":
            middle = slice(_SLOW_BYTES, max(_SLOW_BYTES, len(said) - _SLOW_BYTES))
            singly = [said[at : at + 1] for at in range(len(said))]
            for piece in (*singly[: middle.start], said[middle], *singly[middle.stop :]):
                self._writer.write(piece)
                await self._writer.drain()
                await asyncio.sleep(0)
        else:
            self._writer.write(said + (behind if way == "with more behind it" else b""))


@asynccontextmanager
async def connected(server: MemcacheServer) -> AsyncIterator[RawClient]:
    """A connection to a server, without a client's manners."""
    reader, writer = await asyncio.open_connection(HOST, server.port)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()
