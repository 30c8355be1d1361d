"""What memcache clients get of every kind of server alike: a store in memory, a node and a proxy."""

from __future__ import annotations

import asyncio
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path

import aiomcache
import pymemcache
import pytest
from memcache_tier import HOST, WAYS, connected
from store_servers import KINDS, serving_kind

from sfss import __version__
from sfss.memcache.server import MemcacheServer
from sfss.store import checksum_of


@pytest.fixture(params=KINDS)
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MemcacheServer]:
    async with serving_kind(request.param, tmp_path) as server:
        yield server


def tool(name: str) -> str:
    """Where a program is; skips the test when the machine has none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


async def run(name: str, server: MemcacheServer, *arguments: str, cwd: Path | None = None) -> tuple[int, str]:
    """Exit status of a tool of libmemcached that is sent to a server, and all it says."""
    process = await asyncio.create_subprocess_exec(
        tool(name),
        f"--servers={HOST}:{server.port}",
        *arguments,
        cwd=cwd,
        stdout=PIPE,
        stderr=STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, said.decode()


async def test_memcping_and_memcstat_take_it_for_a_memcached(server: MemcacheServer) -> None:
    assert await run("memcping", server) == (0, "")
    status, said = await run("memcstat", server)

    assert status == 0, said
    assert "curr_items: 0" in said
    assert f"version: 1.6.0-sfss-{__version__}" in said


async def test_memccp_memccat_memctouch_and_memcrm_handle_a_file(server: MemcacheServer, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_bytes(b"some bytes\n")

    assert await run("memccp", server, "file.txt", cwd=tmp_path) == (0, "")
    status, said = await run("memccat", server, "file.txt")
    assert (status, said.rstrip("\n")) == (0, "some bytes")
    status, said = await run("memctouch", server, "--expire=60", "file.txt")
    if "updater" in server.service.offers:
        assert (status, said) == (0, "")
    else:
        assert (status, "not supported" in said.lower() or "server error" in said.lower()) == (1, True), said
    assert await run("memcrm", server, "file.txt") == (0, "")
    assert (await run("memccat", server, "file.txt"))[1] == ""


async def answers(server: MemcacheServer, said: bytes) -> bytes:
    """All that a server says to `said` and to a `mn` behind it, without what `mn` is answered."""
    reader, writer = await asyncio.open_connection(HOST, server.port)
    writer.write(said + b"mn\r\n")
    answer = await asyncio.wait_for(reader.readuntil(b"MN\r\n"), 20)
    writer.close()
    return answer.removesuffix(b"MN\r\n")


# Hostile input that is answered at once: what is said, and how the answer begins.
STAYS = [
    (b"bogus\r\n", b"ERROR\r\n"),
    (b"\r\n", b"ERROR\r\n"),
    (b"shutdown\r\n", b"ERROR\r\n"),
    (b"debug\r\n", b"ERROR\r\n"),
    (b"debugtime p\r\n", b"ERROR\r\n"),
    (b"flush_all\r\n", b"CLIENT_ERROR flush_all not allowed\r\n"),
    (b"get " + b"k" * 251 + b"\r\n", b"CLIENT_ERROR "),
    (b"get a\x01b\r\n", b"CLIENT_ERROR "),
    (b"get a\x7fb\r\n", b"CLIENT_ERROR "),
    (b"get a\tb\r\n", b"CLIENT_ERROR "),
    (b"mg " + b"k" * 251 + b" v s f A V H O1\r\n", b"CLIENT_ERROR "),
    (b"md a\x01b V H B O1\r\n", b"CLIENT_ERROR "),
    (b"ms " + b"k" * 251 + b" 6 F0 A0 V H B O1\r\nget a\n\r\n", b"CLIENT_ERROR "),
    (b"ms a\x7fb 6 F0 A0 V H B O1\r\nget a\n\r\n", b"CLIENT_ERROR "),
    (b"set " + b"k" * 251 + b" 0 0 6\r\nget a\n\r\n", b"CLIENT_ERROR "),
    (b"set a x 0 6\r\nget a\n\r\n", b"CLIENT_ERROR "),
    (b"set a -1 0 6\r\nget a\n\r\n", b"CLIENT_ERROR "),
    (b"set a 0 x 6\r\nget a\n\r\n", b"CLIENT_ERROR "),
    (b"set a 0 0 -1\r\n", b"CLIENT_ERROR "),
    (b"set a 0 0 x\r\n", b"CLIENT_ERROR "),
    (b"ms a x\r\n", b"CLIENT_ERROR "),
    (b"set ?a 0 0 6\r\nget a\n\r\n", b"CLIENT_ERROR bad key: "),
    (b"set a 0 0 4000000\r\n" + b"x" * 4_000_000 + b"\r\n", b"SERVER_ERROR object too large for cache\r\n"),
]
CLOSES = [
    (b"set a 0 0 3\r\nabcde\r\n", b"CLIENT_ERROR bad data chunk\r\n"),
    (b"set a 0 0 %d\r\n" % (65 * 1024 * 1024), b"SERVER_ERROR object too large for cache\r\n"),
    (b"delete " + b"k" * 2048 + b"\r\n", b"CLIENT_ERROR line too long\r\n"),
    (b"get " + b"k " * 32_768 + b"\r\n", b"CLIENT_ERROR line too long\r\n"),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    (b"\x80\x0b" + bytes(22), b""),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), b""),
]


@pytest.mark.parametrize("way", WAYS)
async def test_hostile_input_gets_one_line_and_the_connection_stays_in_step(server: MemcacheServer, way: str) -> None:
    async with connected(server) as client:
        for said, begins in STAYS:
            answer = await client.answer(said, way)

            assert answer.startswith(begins), (said[:100], answer)
            assert answer.count(b"\r\n") == 1, (said[:100], answer)
        assert await client.answer(b"get a\r\n", way) == b"END\r\n"


async def test_the_hash_tree_is_told_by_who_keeps_one_and_refused_by_the_others(server: MemcacheServer) -> None:
    told = await answers(server, b"get @0\r\n")

    if "comparable" in server.service.offers:
        assert told.startswith(b"VALUE @0 0 ")
    else:
        assert told.startswith(b"SERVER_ERROR not supported here: get @ ")


@pytest.mark.parametrize("way", WAYS)
async def test_input_that_nothing_can_follow_closes_the_connection(server: MemcacheServer, way: str) -> None:
    for said, answer in CLOSES:
        async with connected(server) as client:
            assert await client.last_answer(said, way) == answer, said[:100]
    assert await answers(server, b"get a\r\n") == b"END\r\n"


async def test_pymemcache_stores_and_reads(server: MemcacheServer) -> None:
    def use() -> None:
        client = pymemcache.Client((HOST, server.port), default_noreply=False, timeout=10)
        assert client.set("a", b"one", flags=7)
        assert client.get("a") == b"one"
        assert client.set_many({"b": b"1", "c": b"2"}) == []
        assert client.get_many(["a", "b", "c", "d"]) == {"a": b"one", "b": b"1", "c": b"2"}
        assert client.gets("a")[0] == b"one"
        assert client.set("a", b"two", noreply=True)
        assert client.get("a") == b"two"
        assert client.delete("a")
        assert not client.delete("a")
        assert client.version().startswith(b"1.6.0-sfss-")
        assert client.stats()[b"version"].startswith(b"1.6.0-sfss-")
        with pytest.raises(pymemcache.exceptions.MemcacheClientError, match="flush_all not allowed"):
            client.flush_all()
        with pytest.raises(pymemcache.exceptions.MemcacheServerError, match="too large"):
            client.set("large", b"x" * 3_000_000)
        if "updater" in server.service.offers:
            assert client.add("a", b"three")
        else:
            with pytest.raises(pymemcache.exceptions.MemcacheServerError, match="not supported here"):
                client.add("a", b"three")
        client.quit()

    await asyncio.to_thread(use)


async def test_aiomcache_stores_and_reads(server: MemcacheServer) -> None:
    client = aiomcache.Client(HOST, server.port)

    assert await client.set(b"a", b"one")
    assert await client.multi_get(b"a", b"b") == (b"one", None)
    assert (await client.gets(b"a"))[0] == b"one"
    assert await client.delete(b"a")
    assert not await client.delete(b"a")
    assert (await client.version()).startswith(b"1.6.0-sfss-")
    assert b"curr_items" in await client.stats()
    await client.close()


PROXY_PASSES = frozenset(
    ("version", "quit", "verbosity", "set", "set noreply", "get", "gets", "mget", "delete", "delete noreply", "stat")
)
"""What memccapable tries, but for add, replace, cas, incr, decr, append, prepend and flush_all."""


async def test_memccapable_passes_a_proxy_in_all_that_needs_no_consensus(tmp_path: Path) -> None:
    program = tool("memccapable")
    async with serving_kind("proxy", tmp_path) as server:
        process = await asyncio.create_subprocess_exec(
            program, "-h", HOST, "-p", str(server.port), "-a", stdout=PIPE, stderr=DEVNULL
        )
        said, _ = await asyncio.wait_for(process.communicate(), 120)

    passed = set(re.findall(r"ascii ([a-z]+(?: noreply)?) +\[pass\]", said.decode()))
    assert passed >= PROXY_PASSES


async def test_flush_all_is_not_allowed_unless_a_setting_says_so(server: MemcacheServer) -> None:
    said = b"set a 0 0 1\r\nx\r\nflush_all\r\nflush_all 0\r\nflush_all noreply\r\nget a\r\n"

    refused = b"CLIENT_ERROR flush_all not allowed\r\n"
    assert await answers(server, said) == b"STORED\r\n" + 2 * refused + b"VALUE a 0 1\r\nx\r\nEND\r\n"


async def test_a_key_after_a_question_mark_shows_the_metadata_of_that_key(server: MemcacheServer) -> None:
    shown = await answers(server, b"set a 7 0 3 noreply\r\none\r\nget ?a\r\n")

    line, text, end, rest = shown.split(b"\r\n")
    assert line == b"VALUE ?a 0 %d" % len(text)
    found = re.fullmatch(rb"version=([0-9]+) checksum=([0-9a-f]{16}) kind=value flags=7 size=3 expires=0", text)
    assert found, text
    version, checksum = int(found[1]), int(found[2], 16)
    assert checksum_of(b"a", b"one", 7, 0, version, False) == checksum
    assert (end, rest) == (b"END", b"")
    assert await answers(server, b"get ?b\r\n") == b"END\r\n"
