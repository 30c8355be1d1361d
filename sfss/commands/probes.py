"""Whether a server of this machine answers yet: one short question on a connection of its own."""

from __future__ import annotations

import asyncio

from sfss.memcache.access import OPEN, Access

_ANSWER_S_MAX = 2.0


async def answers_memcache(host: str, port: int, access: Access) -> bool:
    """Whether a memcache server lets us in, or with nothing to let us in by, answers `version`."""
    if access.words:
        return await _answer(host, port, access.request, access) == b"STORED\r\n"
    return (await _answer(host, port, b"version\r\n", access)).startswith(b"VERSION ")


async def answers_http(host: str, port: int, path: str) -> bool:
    """Whether a web server answers `GET path` with 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    return (await _answer(host, port, request.encode())).startswith(b"HTTP/1.1 200")


async def _answer(host: str, port: int, question: bytes, access: Access = OPEN) -> bytes:
    """The first line of the answer; empty when there is none in time."""
    try:
        async with asyncio.timeout(_ANSWER_S_MAX):
            reader, writer = await asyncio.open_connection(host, port, **access.stream_options(host))
            try:
                writer.write(question)
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError):
        return b""
