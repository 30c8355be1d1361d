"""The web tier on a memcache server that isn't ours: memcached 1.6."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from memcache_tier import scripted
from web_tier import eventually, request, web_tier

from sfss.settings import Address
from sfss.store import VALUE_BYTES_MAX
from sfss.web.foreign import Abilities, speaks_our_flags, try_out
from sfss.web.proxies import ProxyRing
from sfss.web.retry_budget import RetryBudget
from sfss.web.status import ProxiesStatus

MEMCACHED = shutil.which("memcached")
pytestmark = pytest.mark.skipif(MEMCACHED is None, reason="memcached is not installed")


@asynccontextmanager
async def memcached(*options: str) -> AsyncIterator[Address]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        str(MEMCACHED), "-l", "127.0.0.1", "-p", str(port), "-u", "nobody", "-U", "0", *options
    )
    address = Address("127.0.0.1", port)
    try:
        await _listening(address)
        yield address
    finally:
        process.kill()
        await process.wait()


async def _listening(address: Address) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection(*address)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def test_a_foreign_server_is_known_by_its_not_knowing_our_flags() -> None:
    async with memcached() as server:
        assert await speaks_our_flags(server, 5.0) is False


async def test_a_foreign_server_in_trouble_is_known_by_its_version() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        while line := await reader.readline():
            writer.write(b"VERSION 1.6.18\r\n" if line == b"version\r\n" else b"SERVER_ERROR out of memory\r\n")

    async with scripted(refuse) as port:
        assert await speaks_our_flags(Address("127.0.0.1", port), 5.0) is False


async def test_what_a_server_can_do_is_tried_out_and_nothing_is_left_behind() -> None:
    async with memcached("-I", "4m") as able:
        abilities = await try_out(able)

        assert abilities == Abilities(overwrite=True, large_values=True, cas=True, ttl=True)
        assert str(abilities) == "foreign memcache server"
        reader, writer = await asyncio.open_connection(*able)
        writer.write(b"stats items\r\n")
        lines = await reader.readuntil(b"END\r\n")
        writer.close()
        assert b":number " not in lines


async def test_what_a_server_cannot_do_is_said_in_words() -> None:
    async with memcached("-C", "-I", "1m") as poor:
        abilities = await try_out(poor)

    assert (abilities.overwrite, abilities.large_values, abilities.cas, abilities.ttl) == (True, False, False, True)
    assert str(abilities) == f"foreign memcache server; can't keep {VALUE_BYTES_MAX} bytes, compare and swap"


async def test_of_a_foreign_server_nothing_is_claimed_that_only_ours_know() -> None:
    async with memcached() as server:
        ring = ProxyRing((server,), retry_max=3, retry_after_s=0.2, timeout_s=5.0, budget=RetryBudget(0.1))
        await ring.start()
        try:
            limits = {"ready_fails_on": "nodes_dead>0, hints_waiting>0"}
            status = ProxiesStatus((server,), 2.0, ring.notes)
            async with web_tier(ring, status=status, settings=limits) as web:
                await web.put("a", b"bytes")
                explained = await web.ask(request("GET", "/file?path=a&explain"))
                metrics = await web.ask(request("GET", "/metrics"))
                ready = await web.ask(request("GET", "/readyz"))
                told = json.loads((await web.ask(request("GET", "/status"))).body)
        finally:
            await ring.close()

    assert explained.status == 501
    assert json.loads(explained.body)["error"] == "unsupported"
    assert b'sfss_cluster_state{state="unknown"} 1.0' in metrics.body
    assert ready.status == 200
    assert told["webserver"]["durability"] == {"state": "unknown", "reasons": ["nobody here tells of nodes"]}


async def test_files_are_kept_in_memcached_with_a_digest_for_their_etag(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    large = hashlib.shake_128(b"seed").digest(VALUE_BYTES_MAX)
    async with memcached("-I", "4m") as server:
        ring = ProxyRing((server,), retry_max=3, retry_after_s=0.2, timeout_s=5.0, budget=RetryBudget(0.1))
        await ring.start()
        try:
            async with web_tier(ring, status=ProxiesStatus((server,), 2.0, ring.notes)) as web:
                put = await web.put("文/a b.txt".replace(" ", "+"), b"bytes")
                got = await web.get("文/a b.txt".replace(" ", "+"))
                head = await web.ask(request("HEAD", "/file?path=文/a+b.txt"))
                assert (put.status, got.status, got.body) == (200, 200, b"bytes")
                assert put.headers["etag"] == got.headers["etag"] == head.headers["etag"]
                assert "sfss-durable" not in put.headers

                assert (await web.put("large", large)).status == 200
                assert (await web.get("large")).body == large
                assert (await web.put("large", b"small")).status == 200
                assert (await web.get("large")).body == b"small"
                assert (await web.ask(request("DELETE", "/file?path=large"))).status == 204
                assert (await web.ask(request("DELETE", "/file?path=large"))).status == 404
                assert (await web.get("large")).status == 404

                await eventually(lambda: ring.notes)
                figures = json.loads((await web.ask(request("GET", "/status"))).body)
        finally:
            await ring.close()

    assert figures[str(server)]["note"] == "foreign memcache server"
    assert figures[str(server)]["state"] == "ok"
    assert figures[str(server)]["version"].startswith("1.")
    assert figures["storages"] == {}
    assert "foreign memcache server" in caplog.text
