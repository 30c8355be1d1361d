"""A web server that stops fails nobody who was there before."""

from __future__ import annotations

import asyncio
import socket

from web_tier import PATIENCE_S, SlowStore, eventually, request, web_tier

from sfss.store import VALUE_BYTES_MAX
from sfss.web import server
from sfss.web.connection import ConnectionLimits

GET = request("GET", "/healthz")


async def test_a_request_that_crosses_the_stop_is_answered_and_the_last_one():
    async with web_tier() as web, await web.connect() as client:
        await client.send(GET)
        assert not (await client.reply()).closes

        stopping = asyncio.create_task(web.server.close(PATIENCE_S))
        await asyncio.sleep(0.01)
        await client.send(GET)

        reply = await client.reply()
        assert (reply.status, reply.closes) == (200, True)
        assert await client.ended()
        await stopping


async def test_a_request_that_comes_in_pieces_during_a_stop_is_answered(monkeypatch):
    monkeypatch.setattr(server, "LAST_CALL_S", PATIENCE_S)
    async with web_tier() as web, await web.connect() as client:
        await client.send(GET[:10])
        stopping = asyncio.create_task(web.server.close(2 * PATIENCE_S))
        await asyncio.sleep(0.01)
        await client.send(GET[10:20])
        await asyncio.sleep(0.01)
        await client.send(GET[20:])

        assert (await client.reply()).status == 200
        await stopping


async def test_whoever_has_connected_is_still_served():
    async with web_tier() as web:
        with socket.create_connection(("127.0.0.1", web.port)) as knocking:  # the loop doesn't come to accept it
            stopping = asyncio.create_task(web.server.close(PATIENCE_S))
            knocking.sendall(GET)

            answer = await asyncio.to_thread(knocking.recv, 65536)

            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nConnection: close\r\n" in answer
        await stopping


async def test_a_server_without_connections_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(server, "LAST_CALL_S", 1e6)
    async with web_tier() as web:
        async with await web.connect() as client:
            await client.send(GET)
            await client.reply()
        await asyncio.wait_for(web.server.close(1e6), PATIENCE_S)


async def test_a_stop_lets_requests_finish_and_closes_idle_connections() -> None:
    store = SlowStore(held=True)
    async with web_tier(store) as web, await web.connect() as idle, await web.connect() as busy:
        await busy.send(request("PUT", "/file?path=x", body=b"1"))
        await eventually(lambda: store.calls)
        closing = asyncio.create_task(web.server.close(10))

        assert await idle.ended()
        store.gate.set()
        reply = await busy.reply()
        await closing

    assert (reply.status, reply.closes) == (200, True)


async def test_a_stop_ends_a_connection_once_its_slow_reader_has_the_answer() -> None:
    async with web_tier(limits=ConnectionLimits(idle_s=300.0)) as web, await web.connect() as client:
        web.store.set(b"x", bytes(VALUE_BYTES_MAX))
        client.writer.transport.pause_reading()
        answers = 0
        while not web.memory.held:  # until the kernel takes no more of them
            answers += 1
            await client.send(request("GET", "/file?path=x"))
            await eventually(lambda count=answers: web.answered("get") == count)
        stopping = asyncio.create_task(web.server.close(grace_s=300.0))
        await asyncio.sleep(0)
        client.writer.transport.resume_reading()

        for _ in range(answers):
            assert len((await client.reply()).body) == VALUE_BYTES_MAX
        assert await client.ended()
        await asyncio.wait_for(stopping, PATIENCE_S)
