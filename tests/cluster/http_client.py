"""A small HTTP/1.1 client that never does anything twice.

Common clients send an idempotent request again when a kept connection turns out closed. A repeated PUT is a second
write that no history shows, so the tests speak HTTP themselves: one connection, one request at a time, no retry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote


class NotSent(Exception):
    """No byte of the request left: the connection could not be made."""


class NoAnswer(Exception):
    """The request may have been served, and no whole answer came."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    unsent: bool = False
    """Whether it came before the body was sent."""


class HttpClient:
    """One kept connection to one server. Not for concurrent use."""

    def __init__(self, host: str, port: int) -> None:
        self.address = (host, port)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        seconds: float = 15.0,
        *,
        ask_first: bool = False,
    ) -> Answer:
        """Ask once. With `ask_first` the body is sent only once the server says that it may come. Raises `NotSent` or
        `NoAnswer`; the next request makes a new connection then."""
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await self._connection()
                expect = {"Expect": "100-continue"} if ask_first else {}
                head = self._head(method, target, len(body), {**(headers or {}), **expect})
                if ask_first:
                    writer.write(head)
                    answer = await self._read_answer(reader, method)
                    if answer.status != 100:
                        return replace(answer, unsent=True)
                writer.write(body if ask_first else head + body)
                await writer.drain()
                return await self._read_answer(reader, method)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            self.close()
            raise NoAnswer(f"{type(error).__name__} {error}") from error
        except BaseException:
            self.close()
            raise

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None or self._writer.is_closing() or self._reader.at_eof():
            self.close()
            try:
                self._reader, self._writer = await asyncio.open_connection(*self.address, limit=1 << 20)
            except OSError as error:
                raise NotSent(str(error)) from error
        return self._reader, self._writer

    def _head(self, method: str, target: str, length: int, headers: Mapping[str, str]) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.address[0]}:{self.address[1]}"]
        if method in ("PUT", "POST"):
            lines.append(f"Content-Length: {length}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    async def _read_answer(self, reader: asyncio.StreamReader, method: str) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ", 2)[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = b""
        if method != "HEAD" and status not in (100, 204, 304):
            body = await self._read_body(reader, headers)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, body)

    @staticmethod
    async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await reader.readexactly(int(headers.get("content-length", "0")))
        parts = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return b"".join(parts)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


def file_target(key: str, action: str = "file") -> str:
    """The request target of a path."""
    return f"/{action}?path={quote(key)}"
