"""The limits of a connection hold over TLS too."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from web_tier import PATIENCE_S, RawClient, WebTier, eventually, make_certificate, request, web_tier

from sfss.store import VALUE_BYTES_MAX
from sfss.tls import Tls, server_tls
from sfss.web.connection import ConnectionLimits

QUICK = ConnectionLimits(idle_s=0.5, body_grace_s=0.4, body_rate_min=16 * 1024, reader_stall_s=0.5)


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[Tls, ssl.SSLContext]:
    """The server's and the client's."""
    cert, key = make_certificate(tmp_path)
    return server_tls(str(cert), str(key)), ssl.create_default_context(cafile=str(cert))


async def connect(web: WebTier, trust: ssl.SSLContext, *, buffered: int = 1 << 23) -> RawClient:
    return RawClient(
        *await asyncio.open_connection("127.0.0.1", web.port, ssl=trust, server_hostname="localhost", limit=buffered)
    )


async def test_a_reader_that_takes_nothing_is_cut_off(contexts: tuple[Tls, ssl.SSLContext]) -> None:
    ours, theirs = contexts
    async with web_tier(limits=QUICK, tls=ours) as web:
        web.store.set(b"x", bytes(VALUE_BYTES_MAX))
        async with await connect(web, theirs) as client:
            client.writer.transport.pause_reading()
            await client.send(request("GET", "/file?path=x") * 20)
            await eventually(lambda: web.counters.worker(0).get("aborted") == 1)
        await eventually(lambda: web.memory.held == 0)


async def test_a_reader_that_takes_little_at_a_time_gets_it_all(
    contexts: tuple[Tls, ssl.SSLContext],
) -> None:
    ours, theirs = contexts
    async with web_tier(limits=replace(QUICK, reader_stall_s=2.0), tls=ours) as web:
        web.store.set(b"x", bytes(VALUE_BYTES_MAX))
        async with await connect(web, theirs) as client:
            await client.send(request("GET", "/file?path=x") * 10)
            for _ in range(10):
                await asyncio.sleep(0.4)
                assert len((await client.reply()).body) == VALUE_BYTES_MAX


async def test_a_slow_reader_gets_a_last_answer_whole(contexts: tuple[Tls, ssl.SSLContext]) -> None:
    ours, theirs = contexts
    async with web_tier(tls=ours) as web:
        web.store.set(b"x", bytes(VALUE_BYTES_MAX))
        async with await connect(web, theirs, buffered=1 << 16) as client:
            # Those before fill what the kernel takes, so that most of the last is still to be sent when it is given.
            await client.send(request("GET", "/file?path=x") * 9 + request("GET", "/file?path=x", "Connection: close"))
            for _ in range(10):
                await asyncio.sleep(0.05)
                assert len((await client.reply()).body) == VALUE_BYTES_MAX
            assert await client.ended()


async def test_a_refused_upload_reads_its_answer(contexts: tuple[Tls, ssl.SSLContext]) -> None:
    ours, theirs = contexts
    async with web_tier(tls=ours) as web, await connect(web, theirs) as client:
        await client.send(request("PUT", "/file?path=x", f"Content-Length: {VALUE_BYTES_MAX + 1}") + bytes(100_000))

        reply = await client.reply()
        assert (reply.status, reply.closes) == (413, True)
        assert await client.ended()


async def test_slow_headers_and_slow_bodies_are_ended(contexts: tuple[Tls, ssl.SSLContext]) -> None:
    ours, theirs = contexts
    async with web_tier(limits=QUICK, tls=ours) as web:
        async with await connect(web, theirs) as client:
            await client.send(b"GET /healthz HT")
            assert await client.ended()
        async with await connect(web, theirs) as client:
            await client.send(request("PUT", "/file?path=x", "Content-Length: 100000") + b"1")
            assert (await client.reply()).status == 408
            assert await client.ended()


async def test_a_handshake_that_is_begun_and_left_counts_as_a_connection_until_it_ends(
    contexts: tuple[Tls, ssl.SSLContext],
) -> None:
    ours, theirs = contexts
    async with web_tier(tls=ours, connections_max=3) as web, await connect(web, theirs) as served:
        crowd = [await web.connect() for _ in range(10)]
        await asyncio.gather(*(client.ended() for client in crowd[2:]))
        assert web.server.connection_count == 3
        assert web.counters.worker(0).get("rejected_connections") == 8

        await crowd[0].send(request("GET", "/healthz"))
        crowd[1].reset()
        await eventually(lambda: web.server.connection_count == 1)
        async with await connect(web, theirs) as client:
            for one in (client, served):
                await one.send(request("GET", "/healthz"))
                assert (await one.reply()).status == 200
        for client in crowd:
            client.writer.transport.abort()
        await eventually(lambda: web.server.connection_count == 1)


async def test_a_handshake_that_takes_too_long_is_ended(contexts: tuple[Tls, ssl.SSLContext]) -> None:
    ours, _ = contexts
    async with web_tier(tls=ours, limits=QUICK) as web, await web.connect() as client:
        await client.send(b"\x16\x03")
        assert await client.ended()
        await eventually(lambda: web.server.connection_count == 0)


async def test_a_stop_does_not_wait_for_handshakes(contexts: tuple[Tls, ssl.SSLContext]) -> None:
    ours, theirs = contexts
    async with web_tier(tls=ours) as web, await web.connect() as stuck, await connect(web, theirs) as idle:
        await stuck.send(b"\x16\x03")
        await eventually(lambda: web.server.connection_count == 2)

        await asyncio.wait_for(web.server.close(grace_s=300.0), PATIENCE_S)

        assert await stuck.ended()
        assert await idle.ended()
        with pytest.raises(OSError):
            await web.connect()


async def test_what_is_not_tls_is_closed(contexts: tuple[Tls, ssl.SSLContext]) -> None:
    ours, _ = contexts
    async with web_tier(tls=ours) as web, await web.connect() as client:
        await client.send(request("GET", "/healthz"))
        assert await client.ended()
