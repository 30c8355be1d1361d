"""Bad, broken and malicious input over HTTP: every row of the table of required answers, on raw sockets."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from web_tier import RawClient, SlowStore, WebTier, eventually, form, request, web_tier

from sfss.store import VALUE_BYTES_MAX
from sfss.web.connection import ConnectionLimits
from sfss.web.multipart import PARTS_MAX

QUICK = ConnectionLimits(idle_s=0.4, body_grace_s=0.4, body_rate_min=16 * 1024, reader_stall_s=0.4)
PUT = "PUT /file?path=x HTTP/1.1"
WAYS = ("whole", "byte by byte", "with more behind it")
"""How each of what follows is sent."""


@pytest.fixture
async def web() -> AsyncIterator[WebTier]:
    async with web_tier() as tier:
        yield tier


def head(*lines: str) -> bytes:
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


NESTED = (
    b"--xyz\r\nContent-Disposition: form-data; name=file\r\nContent-Type: multipart/mixed; boundary=q\r\n\r\n"
    b"--q--\r\n--xyz--"
)

MALFORMED = {
    "two lengths": (head(PUT, "Host: a", "Content-Length: 1", "Content-Length: 1") + b"1", 400),
    "two different lengths": (head(PUT, "Host: a", "Content-Length: 1", "Content-Length: 2") + b"12", 400),
    "a list of lengths": (head(PUT, "Host: a", "Content-Length: 1, 1") + b"1", 400),
    "a negative length": (head(PUT, "Host: a", "Content-Length: -1"), 400),
    "a signed length": (head(PUT, "Host: a", "Content-Length: +1") + b"1", 400),
    "a length that is no number": (head(PUT, "Host: a", "Content-Length: x"), 400),
    "a length over 64 bits": (head(PUT, "Host: a", "Content-Length: 99999999999999999999"), 400),
    "a length and chunks": (
        head(PUT, "Host: a", "Content-Length: 6", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n",
        400,
    ),
    "chunks and a length": (
        head(PUT, "Host: a", "Transfer-Encoding: chunked", "Content-Length: 6") + b"1\r\nx\r\n0\r\n\r\n",
        400,
    ),
    "a body of HTTP/1.0 without its length": (head("PUT /file?path=x HTTP/1.0", "Host: a") + b"the file", 411),
    "a kept connection of HTTP/1.0 and a body without its length": (
        head("POST /files?path=x HTTP/1.0", "Connection: keep-alive") + b"the file",
        411,
    ),
    "neither a length nor chunks": (head(PUT, "Host: a"), 411),
    "chunks in HTTP/1.0": (
        head("PUT /file?path=x HTTP/1.0", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n",
        400,
    ),
    "chunks that ask for nothing, in HTTP/1.0": (
        head("GET /healthz HTTP/1.0", "Connection: keep-alive", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        400,
    ),
    "an unknown transfer coding": (head(PUT, "Host: a", "Transfer-Encoding: x") + b"1", 400),
    "a coding beneath the chunks": (
        head(PUT, "Host: a", "Transfer-Encoding: gzip, chunked") + b"1\r\nx\r\n0\r\n\r\n",
        501,
    ),
    "a coding beneath the chunks, in a header of its own": (
        head(PUT, "Host: a", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n",
        400,
    ),
    "chunked not last": (head(PUT, "Host: a", "Transfer-Encoding: chunked, gzip") + b"0\r\n\r\n", 400),
    "a bad chunk size": (head(PUT, "Host: a", "Transfer-Encoding: chunked") + b"zz\r\nx\r\n0\r\n\r\n", 400),
    "a chunk without its end": (head(PUT, "Host: a", "Transfer-Encoding: chunked") + b"1\r\nxy\r\n0\r\n\r\n", 400),
    "a chunk size over 64 bits": (head(PUT, "Host: a", "Transfer-Encoding: chunked") + b"f" * 20 + b"\r\n", 400),
    "a folded header": (head(PUT, "Host: a", "X: a", " b"), 400),
    "a folded first header": (head(PUT, " Host: a"), 400),
    "a blank before the colon": (head(PUT, "Host : a"), 400),
    "a header without a colon": (head(PUT, "Host: a", "nonsense"), 400),
    "a header name with a blank": (head(PUT, "Host: a", "a b: c"), 400),
    "a NUL in a header": (head(PUT, "Host: a", "X: a\0b"), 400),
    "a bare CR": (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    "bare LFs": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "no host": (head(PUT), 400),
    "two hosts": (head(PUT, "Host: a", "Host: a"), 400),
    "a request line over 8190": (head("GET /file?path=" + "a" * 8190 + " HTTP/1.1", "Host: a"), 400),
    "a header over 8190": (head(PUT, "Host: a", "X: " + "a" * 8200), 400),
    "too many headers": (head(PUT, "Host: a", *[f"X-{number}: a" for number in range(200)]), 400),
    "a blank in the target": (head("GET /file?path=a b HTTP/1.1", "Host: a"), 400),
    "a control character in the target": (head("GET /file?path=a\x01b HTTP/1.1", "Host: a"), 400),
    "no version": (b"GET /\r\n\r\n", 505),
    "version 0.9": (head("GET / HTTP/0.9", "Host: a"), 505),
    "version 2.0": (head("GET / HTTP/2.0", "Host: a"), 505),
    "version 3.0": (head("GET / HTTP/3.0", "Host: a"), 505),
    "an HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TRACE": (head("TRACE /file?path=x HTTP/1.1", "Host: a"), 405),
    "TRACE elsewhere": (head("TRACE / HTTP/1.1", "Host: a"), 405),
    "CONNECT": (head("CONNECT a:80 HTTP/1.1", "Host: a"), 405),
    "an unknown method": (head("BREW /file?path=x HTTP/1.1", "Host: a"), 501),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 501),
    "memcache": (b"get x\r\n\r\n", 501),
    "nonsense": (b"\x00\x01\x02\x03 \r\n\r\n", 501),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_not_http_is_refused_and_the_connection_ends(web: WebTier, name: str, way: str) -> None:
    data, status = MALFORMED[name]
    async with await web.connect() as client:
        if way == "byte by byte":
            await client.send_byte_by_byte(data)
        else:
            await client.send(data + (request("PUT", "/file?path=smuggled", body=b"1") if way != "whole" else b""))

        reply = await client.reply()
        assert (reply.status, reply.closes) == (status, True)
        assert set(json.loads(reply.body)) == {"error", "message"}
        assert await client.ended()

    assert web.store.records == {}


async def test_requests_before_a_malformed_one_are_answered(web: WebTier) -> None:
    async with await web.connect() as client:
        await client.send(request("PUT", "/file?path=x", body=b"1") * 3 + b"nonsense\r\n\r\n")

        assert [(await client.reply()).status for _ in range(4)] == [200, 200, 200, 501]
        assert await client.ended()


async def test_nothing_is_smuggled_behind_a_body(web: WebTier) -> None:
    hidden = request("PUT", "/file?path=hidden", body=b"1")
    async with await web.connect() as client:
        await client.send(request("PUT", "/file?path=x", body=hidden) + request("GET", "/healthz"))

        assert [(await client.reply()).status for _ in range(2)] == [200, 200]

    assert set(web.store.records) == {b"x"}


HIDDEN = request("PUT", "/file?path=smuggled", body=b"1")
"""The body of what is refused: the next request, to a server that has lost its place."""

FORM = "Content-Type: multipart/form-data; boundary=xyz"
OTHER_SHA256 = "Content-Digest: sha-256=:" + base64.b64encode(bytes(32)).decode() + ":"
OTHER_MD5 = "Content-MD5: " + base64.b64encode(bytes(16)).decode()
TOO_MUCH = VALUE_BYTES_MAX + 1

DOUBTFUL_QUERIES = {
    "no path": "",
    "an empty path": "?path=",
    "two paths": "?path=x&path=x",
    "invalid UTF-8": "?path=%FF",
    "a lone surrogate": "?path=%ED%A0%80",
    "a control character": "?path=a%01b",
    "a NUL": "?path=a%00b",
    "a control character of Unicode": "?path=a%C2%85b",
    "two dots": "?path=a/../b",
    "two slashes": "?path=a//b",
    "a backslash": "?path=a%5Cb",
    "a slash first": "?path=/a",
    "an encoded slash first": "?path=%2Fa",
    "a key over the limit": "?path=" + "a" * 251,
}


def form_of(body: bytes) -> bytes:
    return request("PUT", "/file?path=x", FORM, body=body)


# What is HTTP and yet refused: the status, and whether the connection ends with it. None: it may, since what is refused
# for its head need not have its body read.
REFUSED = {
    **{
        f"{name}, {method}": (request(method, "/file" + query, body=body), 400, ends)
        for name, query in DOUBTFUL_QUERIES.items()
        for method, body, ends in (("GET", b"", False), ("PUT", HIDDEN, None))
    },
    "a method that no page has": (
        request("PATCH", "/file?path=x", body=HIDDEN),
        405,
        None,
    ),
    "an announced body over the limit": (request("PUT", "/file?path=x", f"Content-Length: {TOO_MUCH}"), 413, True),
    "one that waits for 100 Continue": (
        request("PUT", "/file?path=x", "Expect: 100-continue", f"Content-Length: {TOO_MUCH}"),
        413,
        True,
    ),
    "one of 20 digits": (request("PUT", "/file?path=x", "Content-Length: 9000000000000000000"), 413, True),
    "a body over the limit, in chunks": (
        request("PUT", "/file?path=x", "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n" % (TOO_MUCH, bytes(TOO_MUCH)),
        413,
        True,
    ),
    "bytes that aren't those of their digest": (request("PUT", "/file?path=x", OTHER_SHA256, body=HIDDEN), 422, False),
    "bytes that aren't those of their MD5": (request("PUT", "/file?path=x", OTHER_MD5, body=HIDDEN), 422, False),
    "a condition on a write": (request("PUT", "/file?path=x", "If-Match: *", body=HIDDEN), 501, None),
    "too many parts": (
        form_of(form([(f'name="{number}"', b"") for number in range(PARTS_MAX)] + [('name="file"', b"1")])),
        400,
        False,
    ),
    "far too many parts": (form_of(form([(f'name="{number}"', b"") for number in range(20_000)])), 400, False),
    "a part with a long header": (
        form_of(b"--xyz\r\nContent-Disposition: form-data; name=file\r\nX: " + b"a" * 60_000 + b"\r\n\r\n1\r\n--xyz--"),
        400,
        False,
    ),
    "a form within a form": (form_of(NESTED), 400, False),
    "a form without a file": (form_of(form([('name="comment"', HIDDEN)])), 400, False),
    "a form with too large a comment": (
        form_of(form([('name="comment"', bytes(VALUE_BYTES_MAX + 60_000)), ('name="file"', b"1" * 10_000)])),
        413,
        None,
    ),
    "a form with too large a file": (form_of(form([('name="file"; filename="a"', bytes(TOO_MUCH))])), 413, None),
    "a form that is none": (form_of(HIDDEN), 400, False),
}


async def send_slowly(client: RawClient, data: bytes) -> None:
    """Byte by byte, but for the middle of what is long."""
    middle = slice(1000, max(1000, len(data) - 1000))
    await client.send_byte_by_byte(data[: middle.start])
    await client.send(data[middle])
    await client.send_byte_by_byte(data[middle.stop :])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", REFUSED)
async def test_a_request_that_is_refused_stores_nothing_and_the_next_one_is_answered_or_the_connection_ends(
    web: WebTier, name: str, way: str
) -> None:
    data, status, ends = REFUSED[name]
    following = request("GET", "/healthz")
    async with await web.connect() as client:
        if way == "byte by byte":
            await send_slowly(client, data)
        else:
            await client.send(data + (following if way == "with more behind it" else b""))

        reply = await client.reply()
        assert reply.status == status
        assert ends is None or reply.closes == ends
        assert set(json.loads(reply.body)) == {"error", "message"}
        if reply.closes:
            assert await client.ended()
        else:
            if way != "with more behind it":
                await client.send(following)
            assert (await client.reply()).status == 200

    assert web.store.records == {}
    assert web.memory.held == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_compressed_upload_is_stored_as_it_was_sent_and_no_browser_runs_it(web: WebTier, way: str) -> None:
    packed = gzip.compress(b"<script>")
    put = request("PUT", "/file?path=x.html", "Content-Encoding: gzip", body=packed)
    get = request("GET", "/file?path=x.html")
    part = request("GET", "/file?path=x.html", "Range: bytes=1-")
    async with await web.connect() as client:
        for data, status, body in ((put, 200, None), (get, 200, packed), (part, 206, packed[1:])):
            if way == "byte by byte":
                await client.send_byte_by_byte(data)
            else:
                await client.send(data + (request("GET", "/healthz") if way == "with more behind it" else b""))

            reply = await client.reply()
            assert reply.status == status
            if body is not None:
                assert reply.body == body
                assert reply.headers["x-content-type-options"] == "nosniff"
                assert reply.headers["content-security-policy"] == "sandbox; default-src 'none'"
            if way == "with more behind it":
                assert (await client.reply()).status == 200


async def test_an_endless_body_is_413_as_soon_as_it_passes_the_limit(web: WebTier) -> None:
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    async with await web.connect() as client:
        await client.send(request("PUT", "/file?path=x", "Transfer-Encoding: chunked"))
        sent = 0
        answer = asyncio.create_task(client.reply())
        while not answer.done() and sent < 500:
            await client.send(chunk)
            await asyncio.sleep(0)
            sent += 1

        reply = await answer
        assert (reply.status, reply.closes) == (413, True)
        assert web.memory.held == 0

    assert web.store.records == {}


@pytest.mark.parametrize("send", [RawClient.send, send_slowly], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("kind", ["length", "chunked", "form"])
@pytest.mark.parametrize("how", ["half-closed", "reset", "closed"])
async def test_a_short_body_stores_nothing_and_leaves_no_traceback(
    web: WebTier,
    kind: str,
    how: str,
    send: Callable[[RawClient, bytes], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    start = {
        "length": request("PUT", "/file?path=x", "Content-Length: 100000") + bytes(50_000),
        "chunked": request("PUT", "/file?path=x", "Transfer-Encoding: chunked") + b"186a0\r\n" + bytes(50_000),
        "form": request(
            "PUT", "/file?path=x", "Content-Type: multipart/form-data; boundary=xyz", "Content-Length: 100000"
        )
        + form([('name="file"; filename="a"', bytes(50_000))]),
    }[kind]
    async with await web.connect() as client:
        await send(client, start)
        if how == "half-closed":
            client.writer.write_eof()
            reply = await client.reply()
            assert (reply.status, json.loads(reply.body)["error"]) == (400, "short_body")
        elif how == "reset":
            client.reset()
        else:
            client.writer.close()
        await eventually(lambda: not web.server.tasks and web.memory.held == 0)

    assert web.store.records == {}
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING] == []


async def test_a_body_that_breaks_halfway_is_400(web: WebTier) -> None:
    async with await web.connect() as client:
        await client.send(request("PUT", "/file?path=x", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n")
        await eventually(lambda: web.server.tasks)
        await client.send(b"zz\r\n")

        reply = await client.reply()
        assert (reply.status, reply.closes) == (400, True)
        assert await client.ended()

    assert web.store.records == {}


@pytest.mark.parametrize("start", [b"", b"GET /file?pa", head(PUT, "Host: a")[:-2]])
async def test_slow_headers_and_idle_connections_are_closed(start: bytes) -> None:
    async with web_tier(limits=QUICK) as web, await web.connect() as client:
        await client.send(start)
        assert await client.ended()


async def test_headers_that_trickle_are_closed_all_the_same() -> None:
    async with web_tier(limits=QUICK) as web, await web.connect() as client:

        async def trickle() -> None:
            await client.send(b"GET /healthz HTTP/1.1\r\nX: ")
            while True:
                await client.send(b"a")
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        assert await client.ended()
        trickling.cancel()


async def test_a_connection_in_use_is_not_idle() -> None:
    async with web_tier(limits=QUICK) as web, await web.connect() as client:
        until = time.monotonic() + 3 * QUICK.idle_s
        while time.monotonic() < until:
            await client.send(request("GET", "/healthz"))
            assert (await client.reply()).status == 200
            await asyncio.sleep(QUICK.idle_s / 4)


async def test_a_slow_answer_of_the_store_is_not_idleness() -> None:
    store = SlowStore(held=True)
    async with web_tier(store, limits=QUICK) as web, await web.connect() as client:
        await client.send(request("GET", "/file?path=x"))
        await asyncio.sleep(3 * QUICK.idle_s)
        store.gate.set()

        assert (await client.reply()).status == 404


@pytest.mark.parametrize("announcement", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
async def test_a_slow_body_is_408(announcement: str) -> None:
    async with web_tier(limits=QUICK) as web, await web.connect() as client:
        await client.send(request("PUT", "/file?path=x", announcement))
        answer = asyncio.create_task(client.reply())
        while not answer.done():
            await client.send(b"1\r\na\r\n")
            await asyncio.sleep(0.05)

        reply = await answer
        assert (reply.status, reply.closes, reply.headers["sfss-outcome"]) == (408, True, "not-applied")
        assert await client.ended()
        assert web.store.records == {}
        assert web.memory.held == 0


async def test_a_body_that_comes_steadily_is_not_slow() -> None:
    async with web_tier(limits=QUICK) as web, await web.connect() as client:
        await client.send(request("PUT", "/file?path=x", "Content-Length: 1000000"))
        for _ in range(20):
            await client.send(bytes(50_000))
            await asyncio.sleep(2 * QUICK.body_grace_s / 20)

        assert (await client.reply()).status == 200


async def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    async with web_tier(limits=QUICK) as web:
        await web.put("x", bytes(VALUE_BYTES_MAX))
        async with await web.connect() as client:
            client.writer.transport.pause_reading()
            await client.send(request("GET", "/file?path=x") * 20)
            await eventually(lambda: web.counters.worker(0).get("aborted") == 1)
        await eventually(lambda: web.memory.held == 0)


async def test_a_reader_that_takes_little_at_a_time_gets_it_all() -> None:
    # Longer than the limit in all, and each pause well within it on a busy machine too.
    async with web_tier(limits=replace(QUICK, reader_stall_s=2.0)) as web:
        await web.put("x", bytes(VALUE_BYTES_MAX))
        async with await web.connect() as client:
            await client.send(request("GET", "/file?path=x") * 4)
            for _ in range(4):
                await asyncio.sleep(0.6)
                assert len((await client.reply()).body) == VALUE_BYTES_MAX


async def test_requests_sent_ahead_leave_others_their_turn(web: WebTier) -> None:
    async with await web.connect() as greedy, await web.connect() as modest:
        await modest.send(request("GET", "/healthz"))
        await modest.reply()
        ahead = 2000

        await greedy.send(request("GET", "/healthz") * ahead)
        await modest.send(request("GET", "/healthz"))
        await modest.reply()
        assert web.answered("other") < ahead

        greedy.writer.write_eof()
        assert [(await greedy.reply()).status for _ in range(ahead)] == [200] * ahead
        assert await greedy.ended()


async def test_a_client_that_sends_ahead_without_end_is_held_back() -> None:
    store = SlowStore(held=True)
    async with web_tier(store) as web, await web.connect() as client:
        flood = request("GET", "/file?path=x") * 1000
        for _ in range(400):
            client.writer.write(flood)
        await eventually(lambda: store.calls)
        await asyncio.sleep(0.2)

        unsent = client.writer.transport.get_write_buffer_size()
        assert unsent > 400 * len(flood) / 4
        assert len(store.calls) == 1


async def test_connections_beyond_the_limit_are_refused_and_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async with web_tier(connections_max=2) as web:
        async with await web.connect() as first, await web.connect() as second:
            for client in (first, second):
                await client.send(request("GET", "/healthz"))
                assert (await client.reply()).status == 200
            async with await web.connect() as third:
                reply = await third.reply()
                assert (reply.status, reply.closes, reply.headers["retry-after"]) == (503, True, "1")
                assert await third.ended()
            assert "a client beyond 2: 503 busy: too many connections" in caplog.text
            await first.send(request("GET", "/healthz"))
            assert (await first.reply()).status == 200
        await eventually(lambda: web.server.connection_count == 0)
        assert (await web.ask(request("GET", "/healthz"))).status == 200


async def test_an_upgrade_is_not_done_and_nothing_behind_it_is_read(web: WebTier) -> None:
    upgrade = request("GET", "/healthz", "Connection: Upgrade", "Upgrade: websocket")
    async with await web.connect() as client:
        await client.send(upgrade + request("PUT", "/file?path=smuggled", body=b"1"))

        assert (await client.reply()).closes
        assert await client.ended()

    assert web.store.records == {}


@pytest.mark.parametrize("said", ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"])
@pytest.mark.parametrize(
    ("method", "target", "kind"),
    [
        ("POST", "/files?path=x", "multipart/form-data; boundary=xyz"),
        ("POST", "/files?path=x", "text/plain"),
        ("PUT", "/file?path=x", "image/png"),
        ("DELETE", "/file?path=kept", "text/plain"),
    ],
)
async def test_another_sites_page_writes_nothing(web: WebTier, method: str, target: str, kind: str, said: str) -> None:
    body = form([('name="file"; filename="a"', b"planted")])
    await web.ask(request("PUT", "/file?path=kept", body=b"kept"))

    reply = await web.ask(request(method, target, f"Content-Type: {kind}", said, body=body))

    assert (reply.status, json.loads(reply.body)["error"], reply.headers["sfss-outcome"]) == (
        403,
        "foreign_page",
        "not-applied",
    )
    assert [record.value for record in web.store.records.values()] == [b"kept"]


async def test_a_page_of_this_servers_own_address_writes(web: WebTier) -> None:
    own = request("POST", "/files?path=x", "Origin: http://localhost", "Sec-Fetch-Site: same-origin", body=b"1")

    assert (await web.ask(own)).status == 201
