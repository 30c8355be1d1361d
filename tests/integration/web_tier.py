"""A web tier in the test's own process, and a client that sends exactly the bytes it is given."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sfss.errors import SfssError
from sfss.memory import MemoryStore
from sfss.promise import Promise, new_promise
from sfss.settings import load_settings
from sfss.store import NO_CALL, Call, Record, Written
from sfss.web.application import Application
from sfss.web.connection import ConnectionLimits
from sfss.web.counters import SharedCounters
from sfss.web.memory import BodyMemory
from sfss.web.server import WebServer
from sfss.web.workers import bind_sockets

PATIENCE_S = 20.0
"""How long a test waits for what must come; far above what anything takes."""


class NoStatus:
    """A status source with nothing below it."""

    async def collect(self) -> dict[str, object]:
        return {"storages": {}}


class SlowStore(MemoryStore):
    """A store whose answers are futures, and come when they are let go; or fail as they are told to."""

    def __init__(self, *, held: bool = False) -> None:
        super().__init__(durable=True)
        self.gate = asyncio.Event()
        if not held:
            self.gate.set()
        self.failure: SfssError | None = None
        self.calls: list[tuple[str, bytes, Call]] = []
        self.replies: list[Promise[Any]] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    def get(self, key: bytes, call: Call = NO_CALL) -> Any:
        return self._later("get", key, call, lambda: MemoryStore.get(self, key, call))

    def head(self, key: bytes, call: Call = NO_CALL) -> Any:
        def answer() -> Record | None:
            record = MemoryStore.get(self, key, call)
            return record and record.replaced(value=b"")

        return self._later("head", key, call, answer)

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Any:
        def answer() -> Written:
            return MemoryStore.set(self, key, value, flags, expires, call)

        return self._later("set", key, call, answer)

    def delete(self, key: bytes, call: Call = NO_CALL) -> Any:
        def answer() -> Written | None:
            if MemoryStore.get(self, key) is None:
                return None
            return self._write(key, b"", 0, 0, tombstone=True)

        return self._later("delete", key, call, answer)

    def _later(self, name: str, key: bytes, call: Call, answer: Any) -> Promise[Any]:
        self.calls.append((name, key, call))
        promise = new_promise()
        self.replies.append(promise)

        async def settle() -> None:
            await self.gate.wait()
            if self.failure is not None:
                if not promise.done():
                    promise.set_exception(self.failure)
                return
            result = answer()
            if not promise.done():
                promise.set_result(result)

        task = asyncio.get_running_loop().create_task(settle())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return promise


@dataclass
class WebTier:
    """A running web tier."""

    store: Any
    server: WebServer
    counters: SharedCounters
    memory: BodyMemory
    tls: ssl.SSLContext | None = None

    @property
    def port(self) -> int:
        return self.server.port

    def answered(self, operation: str) -> int:
        """How many requests of an operation have been answered."""
        return sum(count for (name, _), count in self.counters.requests().answered.items() if name == operation)

    async def connect(self) -> RawClient:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 23)
        return RawClient(reader, writer)

    async def ask(self, request: bytes) -> Reply:
        """One request on a connection of its own."""
        async with await self.connect() as client:
            await client.send(request)
            return await client.reply(head=request.startswith(b"HEAD"))

    async def put(self, path: str, body: bytes, *headers: str) -> Reply:
        return await self.ask(request("PUT", f"/file?path={path}", *headers, body=body))

    async def get(self, path: str, *headers: str) -> Reply:
        return await self.ask(request("GET", f"/file?path={path}", *headers))


@dataclass
class Reply:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


class RawClient:
    """A connection that sends bytes as they are and reads answers one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def reset(self) -> None:
        """End the connection as a client does that has crashed: with a reset."""
        linger_for_nothing = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_nothing)
        self.writer.transport.abort()

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        try:
            await asyncio.wait_for(self.writer.drain(), PATIENCE_S)
        except ConnectionError:
            return  # the server may have answered and closed already; the reply tells

    async def send_byte_by_byte(self, data: bytes) -> None:
        for index in range(len(data)):
            await self.send(data[index : index + 1])
            await asyncio.sleep(0)

    async def reply(self, *, head: bool = False) -> Reply:
        async with asyncio.timeout(PATIENCE_S):
            status_line = await self.reader.readuntil(b"\r\n")
            headers: dict[str, str] = {}
            while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                name, _, value = line.decode("latin-1").partition(":")
                if name.lower() in headers:
                    raise ValueError(f"{name} is there twice")
                headers[name.lower()] = value.strip()
            status = int(status_line.split()[1])
            if headers.get("transfer-encoding") == "chunked" and not head:
                return Reply(status, headers, b"".join([chunk async for chunk in self.chunks()]))
            size = 0 if head or status in (100, 204, 304) else int(headers["content-length"])
            return Reply(status, headers, await self.reader.readexactly(size))

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks of a body, as they come. Raises `IncompleteReadError` for one that is cut off."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)

    async def ended(self) -> bool:
        """Wait for the server to end the connection; False when it sends something instead."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def web_tier(
    store: Any = None,
    *,
    settings: Mapping[str, object] | None = None,
    limits: ConnectionLimits | None = None,
    status: Any = None,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    connections_max: int = 1000,
    body_memory: int = 64 * 1024 * 1024,
    repeated_heads: bool = True,
) -> AsyncIterator[WebTier]:
    """Start a web tier over `store` (by default one in memory), and stop it."""
    store = store if store is not None else MemoryStore(durable=True)
    counters = SharedCounters(1)
    memory = BodyMemory(body_memory)
    application = Application(store, status or NoStatus(), load_settings(None, {}, settings), counters, memory)
    server = WebServer(
        application.handle,
        counters.worker(0),
        memory,
        limits=limits or ConnectionLimits(),
        connections_max=connections_max,
        repeated_heads=repeated_heads,
    )
    await server.start(bind_sockets(host, 0, 1)[0], tls)
    try:
        yield WebTier(store, server, counters, memory, tls)
    finally:
        await server.close(1.0)


def request(method: str, target: str, *headers: str, body: bytes = b"") -> bytes:
    """A request as a plain client sends it."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *headers]
    announced = any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers)
    if (body or method in ("PUT", "POST")) and not announced:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def form(parts: Iterable[tuple[str, bytes]], boundary: str = "xyz") -> bytes:
    """A multipart/form-data body of parts given by their Content-Disposition parameters."""
    chunks = [
        f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + value + b"\r\n"
        for disposition, value in parts
    ]
    return b"".join(chunks) + f"--{boundary}--\r\n".encode()


async def eventually(condition: Any) -> None:
    """Wait until `condition()` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for localhost and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key
