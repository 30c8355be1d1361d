"""A web server that stops fails nobody who was there before."""

from __future__ import annotations

import asyncio
import socket

from web_tier import PATIENCE_S, request, web_tier

from sfss.web import server

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
