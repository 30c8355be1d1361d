"""What memcache clients get of every kind of server alike: a store in memory, a node and a proxy."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from memcache_tier import HOST
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
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
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
