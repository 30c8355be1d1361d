"""Memory of bodies and answers is bounded, and given back."""

from __future__ import annotations

import json
import sys

from web_tier import eventually, request, web_tier

from sfss.store import VALUE_BYTES_MAX


def error_of(body: bytes) -> str:
    name: str = json.loads(body)["error"]
    return name


async def test_memory_of_bodies_is_given_back_whatever_becomes_of_them() -> None:
    async with web_tier() as web:
        await web.put("x", b"1" * 100_000)
        await web.put("x", b"1" * 100_000, "Content-MD5: AAAA")
        await web.put("a//b", b"1" * 100_000)
        async with await web.connect() as client:
            await client.send(request("PUT", "/file?path=y", "Content-Length: 100000") + b"short")
        await eventually(lambda: web.memory.held == 0)


async def test_a_slow_reader_of_a_small_part_keeps_no_more_than_that_part_in_memory() -> None:
    async with web_tier() as web, await web.connect() as client:
        await web.put("x", bytes(VALUE_BYTES_MAX))
        value = web.store.records[b"x"].value
        client.writer.transport.pause_reading()
        referred_to = sys.getrefcount(value)

        await client.send(request("GET", "/file?path=x", "Range: bytes=0-999999") * 20)
        await eventually(lambda: web.memory.held > 0)

        assert sys.getrefcount(value) == referred_to


async def test_answers_that_fill_the_memory_refuse_large_files_and_parts_but_no_head() -> None:
    async with web_tier() as web:
        await web.put("x", bytes(VALUE_BYTES_MAX))
        web.memory.hold_anyway(64 * 1024 * 1024)

        statuses = [
            (await web.get("x")).status,
            (await web.get("x", "Range: bytes=0-999999")).status,
            (await web.get("x", "Range: bytes=0-9")).status,
            (await web.ask(request("HEAD", "/file?path=x"))).status,
        ]

    assert statuses == [503, 503, 206, 200]


async def test_bodies_beyond_the_memory_for_them_are_refused_at_once() -> None:
    async with web_tier(body_memory=VALUE_BYTES_MAX) as web, await web.connect() as first:
        await first.send(request("PUT", "/file?path=x", "Content-Length: 2000000") + b"part")
        await eventually(lambda: web.memory.held)

        refused = await web.put("y", b"1" * 200_000)
        assert (refused.status, error_of(refused.body), refused.headers["retry-after"]) == (503, "busy", "1")

        await first.send(b"1" * (2_000_000 - 4))
        assert (await first.reply()).status == 200
        assert (await web.put("y", b"1" * 200_000)).status == 200
