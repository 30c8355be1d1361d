"""The command `sfss-proxy` as a process: how it starts, what it refuses, what it logs, and that it stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from sfss import __version__
from sfss.memcache.client import MemcacheClient
from sfss.memcache.server import MemcacheServer
from sfss.memory import MemoryStore
from sfss.store import Call

COMMAND = [sys.executable, "-c", "from proxy.command import main; main()"]
PATIENCE_S = 30


async def run_to_end(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@contextlib.asynccontextmanager
async def three_nodes() -> AsyncIterator[list[int]]:
    servers = [MemcacheServer(MemoryStore(node=f"n{index}", durable=True)) for index in range(3)]
    for server in servers:
        await server.start("127.0.0.1", 0)
    try:
        yield [server.port for server in servers]
    finally:
        for server in servers:
            await server.close(0.1)


class Proxy:
    """A proxy's process; `port` is where it serves, `lines` what it logged so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []
        self.port = 0

    async def until(self, pattern: str) -> re.Match[str]:
        """Read the log up to a line that matches."""
        if self._process.stderr is None:
            raise RuntimeError("no standard error")
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line = (await self._process.stderr.readline()).decode()
                if not line:
                    raise RuntimeError(f"the proxy ended: {self.lines}")
                self.lines.append(line)
                if found := re.search(pattern, line):
                    return found

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self._process.returncode is None:
            self._process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            await self._process.communicate()
            return self._process.returncode or 0


@contextlib.asynccontextmanager
async def proxy(tmp_path: Path, nodes: list[int], more: str = "", *options: str) -> AsyncIterator[Proxy]:
    conf = tmp_path / "proxy.ini"
    servers = ",".join(f"127.0.0.1:{port}" for port in nodes)
    conf.write_text(f"[default]\nservers={servers}\npartitions=64\n[proxy]\nport=0\nstate={tmp_path}/state\n{more}")
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--conf", str(conf), *options, stderr=asyncio.subprocess.PIPE
    )
    running = Proxy(process)
    try:
        found = await running.until(r"serving on 127.0.0.1:(\d+) over")
        running.port = int(found[1])
        yield running
    finally:
        await running.stop()


async def test_version_is_told():
    status, out, _ = await run_to_end("--version")

    assert status == 0
    assert __version__ in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[default]\nservers=a:b\n", "servers in [default]"),
        ("[default]\nservers=localhost:1\n[proxy]\nlisten=0.0.0.0\n", "--insecure"),
        ("[default]\nservers=localhost:1\n[monitor]\nlisten=0.0.0.0\n", "--insecure"),
        ("[default]\nservers=localhost:1\n[proxy]\nstate=/dev/null/x\n", "state directory /dev/null/x"),
        ("[default]\nservers=localhost:1\n[proxy]\nfounding_timeout=0.1\n", "0 of 1 nodes answer"),
        ("[default]\nservers=a,b,c\n[proxy]\nN=3\nW=1\n", "W must be over N/2"),
    ],
)
async def test_what_cannot_be_started_is_refused_in_one_line_with_status_2(tmp_path, text, message):
    conf = tmp_path / "proxy.ini"
    conf.write_text(text)

    status, _, err = await run_to_end("--conf", str(conf), "--log-level", "error")

    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("sfss-proxy: ")


async def test_a_port_in_use_is_refused_in_one_line(tmp_path):
    async with three_nodes() as nodes:
        conf = tmp_path / "proxy.ini"
        servers = ",".join(f"127.0.0.1:{port}" for port in nodes)
        conf.write_text(f"[default]\nservers={servers}\n[proxy]\nport={nodes[0]}\n")

        status, _, err = await run_to_end("--conf", str(conf), "--log-level", "error")

    assert status == 2
    assert f"127.0.0.1:{nodes[0]} is in use" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_and_stops_on_a_signal_with_status_0_and_serves_again(tmp_path, number):
    async with three_nodes() as nodes:
        async with proxy(tmp_path, nodes) as first:
            client = MemcacheClient("127.0.0.1", first.port)
            await client.set(b"some/file", b"there")
            await client.close()
            assert await first.stop(number) == 0

        async with proxy(tmp_path, nodes) as second:
            client = MemcacheClient("127.0.0.1", second.port)
            assert (await client.get(b"some/file")).value == b"there"
            await client.close()


async def test_it_stops_while_it_waits_for_its_nodes(tmp_path):
    conf = tmp_path / "proxy.ini"
    conf.write_text("[default]\nservers=localhost:1\n")
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--conf", str(conf), "--log-level", "debug", stderr=asyncio.subprocess.PIPE
    )
    running = Proxy(process)
    await running.until("waiting for nodes")

    assert await running.stop() == 0


async def test_the_access_log_has_the_request_id(tmp_path):
    async with three_nodes() as nodes, proxy(tmp_path, nodes, "accesslog=yes\n", "--log-json") as running:
        client = MemcacheClient("127.0.0.1", running.port)
        await client.set(b"some/file", b"there", call=Call(request_id=b"r-42"))
        await client.close()

        line = await running.until("some/file")

        assert json.loads(line.string)["request"] == "r-42"


async def test_the_access_log_can_be_a_file(tmp_path):
    more = f"accesslog={tmp_path}/access.log\n"
    async with three_nodes() as nodes, proxy(tmp_path, nodes, more) as running:
        client = MemcacheClient("127.0.0.1", running.port)
        await client.set(b"some/file", b"there", call=Call(request_id=b"r-42"))
        await client.close()
        await running.stop()

    assert "request=r-42" in (tmp_path / "access.log").read_text()


async def test_the_monitor_shows_the_proxy_its_nodes_and_the_ring(tmp_path):
    async with three_nodes() as nodes, proxy(tmp_path, nodes, "[monitor]\nport=0\n", "--log-level", "debug") as running:
        found = re.search(r"monitor on 127.0.0.1:(\d+)", "".join(running.lines)) or await running.until(
            r"monitor on 127.0.0.1:(\d+)"
        )
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{found[1]}/") as answer:
            figures = await answer.json()

        assert set(figures) == {f"127.0.0.1:{running.port}", "storages", "ring", "durability"}
        assert all(stats["state"] == "ok" for stats in figures["storages"].values())
        assert figures["ring"]["N"] == 3
        assert sum(share["partitions"] for share in figures["ring"]["nodes"].values()) == 3 * 64
