"""simple_client.py against the real web tier, over a store in memory."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sfss.memory import MemoryStore
from sfss.settings import Settings
from sfss.web.application import Application
from sfss.web.connection import ConnectionLimits
from sfss.web.counters import SharedCounters
from sfss.web.memory import BodyMemory
from sfss.web.server import WebServer

CLIENT = Path(__file__).parents[2] / "simple_client.py"


class NoStatus:
    async def collect(self) -> dict[str, object]:
        return {"storages": {}}


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore(durable=True)


@pytest.fixture
async def port(store: MemoryStore) -> AsyncIterator[int]:
    counters, memory = SharedCounters(1), BodyMemory(256 << 20)
    application = Application(store, NoStatus(), Settings(), counters, memory)
    server = WebServer(application.handle, counters.worker(0), memory, limits=ConnectionLimits(), connections_max=1000)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    await server.start([listening])
    yield server.port
    await server.close(5.0)


async def run(*arguments: object) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CLIENT),
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_file_goes_in_as_a_form_and_comes_back_the_same(port: int, store: MemoryStore, tmp_path: Path) -> None:
    local = tmp_path / "照片.jpg"
    local.write_bytes(bytes(range(256)) * 8192)  # 2 MiB, the largest there may be
    where = ("--port", port, "--path", "ordner/照片 1.jpg")

    posted = await run(*where, "--filepath", local)
    got = await run("get", *where, "--filepath", tmp_path / "back.jpg")

    assert posted[0] == 0
    assert posted[1].startswith("201 Created  ETag: ")
    assert got[0] == 0
    assert (tmp_path / "back.jpg").read_bytes() == local.read_bytes()
    assert [record.size for record in store.records.values()] == [2 * 1024 * 1024]


async def test_a_refusal_says_what_the_server_said(port: int, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(3 * 1024 * 1024))

    too_large = await run("put", "--port", port, "--path", "a", "--filepath", large)
    bad_path = await run("put", "--port", port, "--path", "a//b", "--filepath", CLIENT)
    missing = await run("rm", "--port", port, "--path", "nowhere")

    assert (too_large[0], bad_path[0], missing[0]) == (1, 1, 4)
    assert too_large[2].startswith("413 ")
    assert "too_large" in too_large[2]
    assert bad_path[2].startswith("400 ")
    assert missing[2].startswith("404 ")


async def test_bench_of_all_sizes_has_no_error_and_leaves_nothing(port: int, store: MemoryStore) -> None:
    status, out, _ = await run(
        *("bench", "--port", port, "--json", "--requests", 1000, "--concurrency", 16, "--keys", 60, "--reads", 0.5),
        *("--sizes", "0b,100b,4k:3,64k,300k,1m:2,2m", "--timeout", 10),
    )

    figures: dict[str, Any] = json.loads(out)
    assert (status, figures["errors"]) == (0, {})
    assert figures["total"]["count"] == 1000
    assert figures["files_left"] == 0
    assert [record for record in store.records.values() if not record.tombstone] == []
