"""A request that is like the one before on its connection is answered as if it were parsed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from web_tier import SlowStore, WebTier, form, request, web_tier

from sfss.web.connection import Connection

PUT = ("PUT", "/file?path=put/x.txt")
REQUESTS = {
    "a get": request("GET", "/file?path=a.txt"),
    "a get with a client's usual headers": request(
        "GET", "/file?path=a.txt", "User-Agent: curl/8", "Accept: */*", "Connection: keep-alive", "Cookie: a=b; c=d"
    ),
    "a get of nothing": request("GET", "/file?path=nothing"),
    "a get of an escaped path": request("GET", "/file?path=%E6%9D%B1%20x"),
    "a get of a path with a bad escape": request("GET", "/file?path=%zz"),
    "a get of two paths": request("GET", "/file?path=a&path=b"),
    "a get of no path": request("GET", "/file?"),
    "a get of a path that climbs": request("GET", "/file?path=a/../b"),
    "a get of a path as it was typed": request("GET", "/file?path=東"),
    "a get with a fragment": request("GET", "/file?path=a.txt#x"),
    "a get of an absolute target": request("GET", "http://localhost/file?path=a.txt"),
    "a get of a hidden path": request("GET", "/file?path=a/.b"),
    "a get of a path with an empty part": request("GET", "/file?path=a//b"),
    "a get of a path that begins with a slash": request("GET", "/file?path=/a"),
    "a get of a path that ends with a slash": request("GET", "/file?path=a/"),
    "a get of a path that is too long": request("GET", "/file?path=" + "a" * 251),
    "a get of a path with a plus": request("GET", "/file?path=a+b"),
    "a get for a page": request("GET", "/file?path=a.txt", "Sec-Fetch-Site: cross-site"),
    "a get that wants to be explained": request("GET", "/file?path=a.txt&explain"),
    "a get of a path to explain": request("GET", "/file?path=explain/a.txt"),
    "a get of part": request("GET", "/file?path=a.txt", "Range: bytes=2-4"),
    "a get of a part that isn't there": request("GET", "/file?path=a.txt", "Range: bytes=999-"),
    "a get of what has not changed": request("GET", "/file?path=a.txt", "If-None-Match: *"),
    "a get with an id": request("GET", "/file?path=a.txt", "X-Request-Id: mine-1"),
    "a get with an empty body": request("GET", "/file?path=a.txt", "Content-Length: 0"),
    "a get with a body": request("GET", "/file?path=a.txt", body=b"why"),
    "a get that ends its connection": request("GET", "/file?path=a.txt", "Connection: close"),
    "a get without a host": b"GET /file?path=a.txt HTTP/1.1\r\n\r\n",
    "a get of HTTP/1.0": b"GET /file?path=a.txt HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    "a get behind an empty line": b"\r\n" + request("GET", "/file?path=a.txt"),
    "two gets at once": request("GET", "/file?path=a.txt") * 2,
    "a get and a half": request("GET", "/file?path=a.txt") + b"GET /file?path=",
    "a head": request("HEAD", "/file?path=a.txt"),
    "a page": request("GET", "/healthz"),
    "no page": request("GET", "/nothing"),
    "a wrong method": request("POST", "/file?path=a.txt", body=b"x"),
    "a put": request(*PUT, body=b"value"),
    "a put of nothing": request(*PUT),
    "a put that expects": request(*PUT, "Expect: 100-continue", body=b"value"),
    "a put of a page": request(*PUT, "Origin: http://localhost", body=b"value"),
    "a put of another page": request(*PUT, "Origin: http://elsewhere.example", body=b"value"),
    "a put with a digest": request(*PUT, "Content-MD5: XrY7u+Ae7tCTyyK7j1rNww==", body=b"hello world"),
    "a put with a wrong digest": request(*PUT, "Content-MD5: XrY7u+Ae7tCTyyK7j1rNww==", body=b"hello there"),
    "a put with a condition": request(*PUT, "If-Match: *", body=b"value"),
    "a put of a form": request(
        *PUT, "Content-Type: multipart/form-data; boundary=xyz", body=form([('name="file"; filename="a"', b"value")])
    ),
    "a put in chunks": request(*PUT, "Transfer-Encoding: chunked") + b"5\r\nvalue\r\n0\r\n\r\n",
    "a put of a part": request(*PUT, "Content-Range: bytes 0-4/10", body=b"value"),
    "a put of more than may be": request(*PUT, body=b"v" * 51_000),
    "a put of a path that is too long": request("PUT", "/file?path=" + "a" * 251, body=b"value"),
    "a put of a path as it was typed": request("PUT", "/file?path=東", body=b"value"),
    "a put of 100 KiB": request(*PUT, body=b"v" * 100_000),
    "a put and a get behind it": request(*PUT, body=b"value") + request("GET", "/file?path=a.txt"),
    "a put whose body looks like a request": request(*PUT, body=request("GET", "/file?path=a.txt")),
    "a delete": request("DELETE", "/file?path=put/x.txt"),
}
REPLIES = {"two gets at once": 2, "a put and a get behind it": 2}
TIMES = 4


@pytest.fixture
async def web() -> AsyncIterator[WebTier]:
    async with web_tier() as tier:
        yield tier


async def answers(tier: WebTier, data: bytes, replies: int) -> list[Any]:
    """What comes back when `data` is sent again and again on one connection, each time after all its replies."""
    async with await tier.connect() as client:
        found = []
        for _ in range(TIMES):
            await client.send(data)
            for _ in range(replies):
                reply = await client.reply(head=data.startswith(b"HEAD"))
                for name in ("date", "x-request-id", "etag", "last-modified"):
                    if name in reply.headers and reply.headers[name] != "mine-1":
                        reply.headers[name] = "…"
                found.append((reply.status, reply.headers, reply.body))
            if reply.closes:
                assert await client.ended()
                break
        return found


@pytest.mark.parametrize("name", REQUESTS)
async def test_it_is_answered_as_if_it_were_parsed(name):
    async with web_tier() as quick, web_tier(repeated_heads=False) as thorough:
        for tier in (quick, thorough):
            await tier.put("a.txt", b"some text")
            await tier.put("%E6%9D%B1%20x", b"more text")

        data, replies = REQUESTS[name], REPLIES.get(name, 1)
        assert await answers(quick, data, replies) == await answers(thorough, data, replies)


@pytest.mark.parametrize("size", [250, 251, 4096, 8160, 8190, 9000, 30_000])
@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("PUT", b"value")])
async def test_a_long_path_is_answered_as_if_it_were_parsed(method, body, size):
    """Behind a short one of the same head: a path beyond what a line may have is no path that is too long."""
    told = []
    for repeated_heads in (True, False):
        async with web_tier(repeated_heads=repeated_heads) as tier, await tier.connect() as client:
            await client.send(request(method, "/file?path=a", body=body))
            await client.reply()
            await client.send(request(method, "/file?path=" + "a" * size, body=body))
            reply = await client.reply()
            told.append((reply.status, reply.body, reply.closes))

    assert told[0] == told[1]


def kept(tier: WebTier) -> dict[bytes, bytes]:
    return {key: record.value for key, record in tier.store.records.items()}


@pytest.mark.parametrize(
    "settings",
    [{"key_encoding": "base64"}, {"max_encoded_path_length": 5}, {"max_content_size": 4}, {"origins": ("*",)}],
)
@pytest.mark.parametrize("name", ["a get", "a put", "a put of nothing", "a put of another page", "a head", "a delete"])
async def test_it_is_answered_as_if_it_were_parsed_whatever_is_set(settings, name):
    async with web_tier(settings=settings) as quick, web_tier(settings=settings, repeated_heads=False) as thorough:
        for tier in (quick, thorough):
            await tier.put("a.txt", b"some")

        assert await answers(quick, REQUESTS[name], 1) == await answers(thorough, REQUESTS[name], 1)
        assert kept(quick) == kept(thorough)


class Broken:
    """In place of a parser, once it must not be asked any more."""

    def feed_data(self, data: bytes) -> Any:
        raise AssertionError(f"asked to parse {data!r}")


def connection_of(tier: WebTier) -> Connection:
    (connection,) = tier.server._connections
    return connection


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (request("GET", "/file?path=a.txt"), request("GET", "/file?path=b/other.bin")),
        (request("HEAD", "/file?path=a.txt", "Accept: */*"), request("HEAD", "/file?path=b", "Accept: */*")),
        (request("PUT", "/file?path=a", body=b"value"), request("PUT", "/file?path=b", body=b"other")),
    ],
)
async def test_it_needs_no_parser(web, first, second):
    async with await web.connect() as client:
        await client.send(first)
        await client.reply(head=first.startswith(b"HEAD"))
        connection_of(web)._parser = Broken()

        for _ in range(3):
            await client.send(second)
            assert (await client.reply(head=first.startswith(b"HEAD"))).status in (200, 404)
    if second.startswith(b"PUT"):
        assert (await web.get("b")).body == b"other"


async def test_a_body_that_comes_in_pieces_is_whole_each_time(web):
    head, body = request("PUT", "/file?path=a", "Content-Length: 6"), b"abcdef"
    async with await web.connect() as client:
        for turn in range(6):
            body = body[1:] + body[:1]
            cut = turn % 3 * 2
            await client.send(head + body[:cut])
            await client.send(body[cut:])
            assert (await client.reply()).status == 200
            assert (await web.get("a")).body == body


async def test_a_head_that_comes_in_pieces_does_not_put_the_next_one_out_of_step(web):
    await web.put("a", b"of a")
    await web.put("b", b"of b")
    get = request("GET", "/file?path=a")
    async with await web.connect() as client:
        for cut in range(1, len(get)):
            await client.send(get[:cut])
            await client.send(get[cut:])
            assert (await client.reply()).body == b"of a"
            await client.send(request("GET", "/file?path=b"))
            assert (await client.reply()).body == b"of b"


async def test_what_is_sent_ahead_is_answered_in_order():
    store = SlowStore(held=True)
    async with web_tier(store) as web:
        for name in "abc":
            store._write(name.encode(), b"of " + name.encode(), 0, 0, tombstone=False)
        async with await web.connect() as client:
            for name in "abcabc":
                await client.send(request("GET", f"/file?path={name}"))
            store.gate.set()
            for name in "abcabc":
                assert (await client.reply()).body == b"of " + name.encode()
