"""Requests and their connections: ids, order, pages, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from web_tier import SlowStore, eventually, request, web_tier

from sfss import errors


async def test_a_request_id_is_taken_if_sane_and_goes_down_with_a_deadline() -> None:
    store = SlowStore()
    async with web_tier(store, settings={"request_timeout_seconds": 5}) as web:
        before = time.monotonic()
        kept = await web.get("x", "X-Request-Id: abc-123_Z")
        made = await web.get("x", "X-Request-Id: two words")
        other = await web.get("x")

    assert kept.headers["x-request-id"] == "abc-123_Z"
    assert made.headers["x-request-id"] != other.headers["x-request-id"] != "two words"
    _, _, call = store.calls[0]
    assert call.request_id == b"abc-123_Z"
    assert before + 4 < call.deadline < time.monotonic() + 5


async def test_requests_sent_ahead_are_answered_in_order() -> None:
    async with web_tier(SlowStore()) as web, await web.connect() as client:
        ahead = [request("PUT", f"/file?path=f{number}", body=b"%d" % number * 1000) for number in range(50)]
        ahead += [request("GET", f"/file?path=f{number}") for number in range(50)]
        await client.send(b"".join(ahead))

        for _ in range(50):
            assert (await client.reply()).status == 200
        for number in range(50):
            assert (await client.reply()).body == b"%d" % number * 1000


async def test_http_1_0_is_closed_after_the_answer_unless_kept_alive() -> None:
    async with web_tier() as web:
        async with await web.connect() as client:
            await client.send(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert (await client.reply()).status == 200
            assert await client.ended()
        async with await web.connect() as client:
            for _ in range(2):
                await client.send(b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                assert (await client.reply()).headers["connection"] == "keep-alive"


async def test_a_client_that_stops_sending_still_gets_its_answer() -> None:
    store = SlowStore(held=True)
    async with web_tier(store) as web, await web.connect() as client:
        await client.send(request("PUT", "/file?path=x", body=b"1"))
        client.writer.write_eof()
        await eventually(lambda: store.calls)
        store.gate.set()

        assert (await client.reply()).status == 200
        assert await client.ended()


async def test_a_write_that_has_begun_goes_on_when_its_client_leaves() -> None:
    store = SlowStore(held=True)
    async with web_tier(store) as web:
        async with await web.connect() as client:
            await client.send(request("PUT", "/file?path=x", body=b"1"))
            await eventually(lambda: store.calls)
        await asyncio.sleep(0.05)
        store.gate.set()

        await eventually(lambda: b"x" in store.records)


async def test_a_read_is_dropped_when_its_client_resets_the_connection() -> None:
    store = SlowStore(held=True)
    async with web_tier(store) as web:
        async with await web.connect() as client:
            await client.send(request("GET", "/file?path=x"))
            await eventually(lambda: store.calls)
            # A mere close can't be told from a client that has sent all it will and waits for its answer.
            client.reset()

        await eventually(lambda: store.replies[0].cancelled())


async def test_an_absolute_request_target_is_understood() -> None:
    async with web_tier() as web:
        await web.put("x", b"1")

        assert (await web.ask(request("GET", "http://anywhere:80/file?path=x"))).body == b"1"


@pytest.mark.parametrize(
    ("method", "page", "allow"),
    [
        ("POST", "/file", "GET, HEAD, PUT, DELETE"),
        ("GET", "/files", "POST"),
        ("PATCH", "/file", "GET, HEAD, PUT, DELETE"),
        ("OPTIONS", "/file", "GET, HEAD, PUT, DELETE"),
        ("PUT", "/status", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_and_says_which_are_right(method: str, page: str, allow: str) -> None:
    async with web_tier() as web:
        reply = await web.ask(request(method, f"{page}?path=x"))

    assert (reply.status, reply.headers["allow"]) == (405, allow)


async def test_other_pages_are_404() -> None:
    async with web_tier() as web:
        for target in ("/", "/fil", "/file/", "/file%2F", "//file?path=x", "*x"):
            assert (await web.ask(request("GET", target))).status in (400, 404)


async def test_liveness_readiness_and_status_without_a_cluster() -> None:
    store = SlowStore()
    async with web_tier(store) as web:
        assert (await web.ask(request("GET", "/healthz"))).status == 200
        assert (await web.ask(request("GET", "/readyz"))).status == 200
        figures = json.loads((await web.ask(request("GET", "/status"))).body)
        page = await web.ask(request("GET", "/status", "Accept: text/html,*/*;q=0.8"))

        store.failure = errors.Unreachable("no proxy")
        unready = await web.ask(request("GET", "/readyz"))

    assert figures["webserver"]["status_2xx"] == "2"
    assert page.headers["content-type"].startswith("text/html")
    assert unready.status == 504
