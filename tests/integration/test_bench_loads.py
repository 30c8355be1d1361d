"""The loads of bench/ notice bad answers, and its servers leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.loads import Load, build_memload, fill, http_run, memcache
from bench.rivals import memcached, nginx
from bench.servers import Server, Servers, Unavailable

LOAD = Load(bytes=100, connections=4, keys=20, seconds=0.2)
Answer = Callable[[bytes, bytes | None], bytes]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    return build_memload(tmp_path_factory.mktemp("memload"))


class MemcacheStub:
    """Serves get and set; `answer` makes the bytes of each answer from key and value (None for a get)."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.answer: Answer = self.rightly

    def rightly(self, key: bytes, value: bytes | None) -> bytes:
        if value is not None:
            self.values[key] = value
            return b"STORED\r\n"
        if key not in self.values:
            return b"END\r\n"
        return b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key, len(self.values[key]), self.values[key])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while words := (await reader.readline()).split():
            value = (await reader.readexactly(int(words[4]) + 2))[:-2] if words[0] == b"set" else None
            writer.write(self.answer(words[1], value))
        writer.close()


@pytest.fixture
async def stub() -> AsyncIterator[tuple[MemcacheStub, Server]]:
    stub = MemcacheStub()
    listening = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    server: Any = type("Listening", (), {"name": "stub", "port": listening.sockets[0].getsockname()[1]})()
    yield stub, server
    listening.close()


async def run(program: Path, server: Server, operation: str) -> dict[str, Any]:
    return await asyncio.to_thread(memcache, program, server, operation, LOAD)


async def test_fill_stores_every_key_once_and_get_finds_them(program: Path, stub: tuple[MemcacheStub, Server]) -> None:
    filled = await run(program, stub[1], "fill")
    read = await run(program, stub[1], "get")

    assert filled["done"] == 20
    assert sorted(stub[0].values) == [b"bench/%06d" % number for number in range(20)]
    assert all(len(value) == 100 and value.startswith(key) for key, value in stub[0].values.items())
    assert read["done"] > 0
    assert 0 < read["p50_us"] <= read["p99_us"] <= read["max_us"]


async def test_keys_beyond_a_million_are_keys_of_their_own(program: Path, stub: tuple[MemcacheStub, Server]) -> None:
    asked: set[bytes] = set()

    def any_key(key: bytes, _: bytes | None) -> bytes:
        asked.add(key)
        return b"VALUE %b 0 100\r\n%b\r\nEND\r\n" % (key, key.ljust(100, b"v"))

    stub[0].answer = any_key
    await asyncio.to_thread(memcache, program, stub[1], "get", replace(LOAD, keys=10_000_000))

    assert max(int(key.removeprefix(b"bench/")) for key in asked) > 1_000_000


@pytest.mark.parametrize(
    ("operation", "bad", "said"),
    [
        ("get", b"END\r\n", "misses"),
        ("get", b"VALUE bench/000000 0 100\r\n" + b"x" * 100 + b"\r\nEND\r\n", "wrong"),
        ("get", b"VALUE bench/000000 0 5\r\nbench\r\nEND\r\n", "wrong"),
        ("get", b"SERVER_ERROR busy\r\n", "SERVER_ERROR busy"),
        ("set", b"NOT_STORED\r\n", "NOT_STORED"),
        ("set", b"SERVER_ERROR out of disk\r\n", "out of disk"),
        ("set", b"STORED\r\nSTORED\r\n", "wrong"),
    ],
)
async def test_one_bad_answer_makes_a_measurement_void(
    program: Path, stub: tuple[MemcacheStub, Server], operation: str, bad: bytes, said: str
) -> None:
    await run(program, stub[1], "fill")
    answers = iter([bad])
    stub[0].answer = lambda key, value: next(answers, None) or stub[0].rightly(key, value)

    with pytest.raises(Unavailable, match=said):
        await run(program, stub[1], operation)


def test_servers_end_with_their_block_and_their_directory_is_removed() -> None:
    with Servers() as servers:
        started = memcached(servers, megabytes=64)
        scratch = servers.scratch
        assert started.anonymous_kib() > 0

    assert started.process.returncode is not None
    assert not scratch.exists()


def test_a_server_that_does_not_start_is_named_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with Servers() as servers:
        broken = servers.scratch / "memcached"
        broken.write_text("#!/bin/sh\necho no memory today >&2\nexit 1\n")
        broken.chmod(0o755)
        monkeypatch.setattr("bench.rivals.tool", lambda name: str(broken))

        with pytest.raises(Unavailable, match=r"memcached-\d+ did not start: no memory today"):
            memcached(servers)


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)

    with Servers() as servers, pytest.raises(Unavailable, match="memcached is not installed"):
        memcached(servers)


def test_files_put_over_http_are_read_and_what_that_took_is_counted() -> None:
    load = Load(bytes=100, connections=2, keys=5, seconds=1)
    with Servers() as servers:
        side = nginx(servers)
        fill(side, load)
        read = http_run(side, "get", load)
        mixed = http_run(side, "mixed", replace(load, seconds=3))  # it writes: disks stand still for a second at times
        once = http_run(side, "get", replace(load, once=True))

    assert read.done > 0
    assert 0 < read.p50_us <= read.p99_us <= read.max_us
    assert read.server_s > 0
    assert 0 < read.generator_cores < 2
    assert mixed.done > 0
    assert 0 < once.done <= load.keys
    assert once.seconds < read.seconds


def test_one_missing_file_makes_a_measurement_void() -> None:
    load = Load(bytes=100, connections=2, keys=5, seconds=1)
    with Servers() as servers:
        side = nginx(servers)
        fill(side, load)

        with pytest.raises(Unavailable, match="answers were errors"):
            http_run(side, "get", replace(load, keys=6))
