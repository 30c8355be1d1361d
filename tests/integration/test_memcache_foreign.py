"""Other people's clients against our server, unmodified; and our client against memcached."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiomcache
import pymemcache
import pytest
from memcache_tier import HOST, client_of, serving
from pymemcache.client.base import Client

from sfss.errors import BadRequest, TooLarge, Unsupported
from sfss.memcache.client import Dialect
from sfss.memcache.server import MemcacheServer
from sfss.store import Record, Written


def tool(name: str) -> str:
    """Where a program is; skips the test when the machine has none."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture
async def server() -> AsyncIterator[MemcacheServer]:
    async with serving(allow_flush=True) as server:
        yield server


async def run(*command: str, **options: Any) -> tuple[int, str]:
    """A program's exit status, and all it says."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, **options
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_memccapable_finds_nothing_to_complain_about(server: MemcacheServer) -> None:
    status, said = await run(tool("memccapable"), "-h", HOST, "-p", str(server.port), "-a")

    assert "All tests passed" in said, said
    assert status == 0


async def test_libmemcached_tools_copy_print_and_remove_a_file(server: MemcacheServer, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_bytes(b"some bytes\n")
    servers = f"--servers={HOST}:{server.port}"

    assert (await run(tool("memccp"), servers, "file.txt", cwd=tmp_path))[0] == 0
    status, said = await run(tool("memccat"), servers, "file.txt")
    assert (status, said.rstrip("\n")) == (0, "some bytes")
    assert (await run(tool("memcrm"), servers, "file.txt"))[0] == 0
    assert (await run(tool("memccat"), servers, "file.txt"))[1] == ""


async def test_pymemcache_is_content(server: MemcacheServer) -> None:
    def use() -> None:
        client = Client((HOST, server.port), default_noreply=False, timeout=10)
        assert client.set("a", b"one", expire=60, flags=7)
        assert client.get("a") == b"one"
        assert client.add("a", b"x") is False
        assert client.replace("a", b"two")
        assert client.append("a", b"!")
        assert client.prepend("a", b"?")
        value, cas = client.gets("a")
        assert value == b"?two!"
        assert client.cas("a", b"three", cas) is True
        assert client.cas("a", b"four", cas) is False
        assert client.set_many({"b": b"1", "c": b"2"}) == []
        assert client.get_many(["a", "b", "c", "d"]) == {"a": b"three", "b": b"1", "c": b"2"}
        assert set(client.gets_many(["b", "c"])) == {"b", "c"}
        assert client.incr("b", 5) == 6
        assert client.decr("b", 10) == 0
        assert client.touch("a", 10)
        assert client.delete("a")
        assert not client.delete("a")
        assert client.delete_many(["b", "c"])
        assert client.version()
        assert client.stats()[b"curr_items"] == 0
        assert client.stats("settings")
        client.set("noreply", b"x", noreply=True)
        assert client.get("noreply") == b"x"
        assert client.flush_all()
        assert client.get("noreply") is None
        with pytest.raises(pymemcache.exceptions.MemcacheServerError, match="too large"):
            client.set("large", b"x" * 3_000_000)
        assert client.get("large") is None
        client.quit()

    await asyncio.to_thread(use)


async def test_aiomcache_is_content(server: MemcacheServer) -> None:
    client = aiomcache.Client(HOST, server.port)

    assert await client.set(b"a", b"one", exptime=60)
    assert await client.get(b"a") == b"one"
    assert (await client.gets(b"a"))[0] == b"one"
    assert await client.multi_get(b"a", b"b") == (b"one", None)
    assert not await client.add(b"a", b"x")
    assert await client.set(b"n", b"1")
    assert await client.incr(b"n", 4) == 5
    assert await client.touch(b"a", 10)
    assert await client.delete(b"a")
    assert b"curr_items" in await client.stats()
    assert await client.version()
    assert await client.flush_all() is None
    await client.close()


NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream store {{ server {host}:{store}; keepalive 4; }}
  server {{
    listen {host}:{port};
    location / {{ set $memcached_key $uri; memcached_pass store; error_page 404 = @none; }}
    location @none {{ return 404 "none"; }}
  }}
}}
"""


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


async def test_nginx_serves_files_out_of_it(server: MemcacheServer, tmp_path: Path) -> None:
    port = free_port()
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(NGINX.format(folder=tmp_path, host=HOST, store=server.port, port=port))
    large = os.urandom(1_500_000)
    async with client_of(server.port) as client:
        await client.set(b"/pictures/one.bin", large)
    nginx = await asyncio.create_subprocess_exec(
        tool("nginx"), "-p", str(tmp_path), "-c", str(configuration), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            status, _ = await http_get(port, "/absent")
            if status:
                break
            await asyncio.sleep(0.1)

        assert await http_get(port, "/absent") == (404, b"none")
        for _ in range(3):
            assert await http_get(port, "/pictures/one.bin") == (200, large)
    finally:
        nginx.send_signal(signal.SIGTERM)
        await nginx.wait()


async def http_get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a GET; status 0 while nobody listens."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return 0, b""
    writer.write(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.fixture
def memcached() -> Iterator[int]:
    port = free_port()
    command = [tool("memcached"), "-l", HOST, "-p", str(port), "-t", "1", "-m", "64", "-U", "0"]
    if os.geteuid() == 0:
        command += ["-u", "root"]
    process = subprocess.Popen(command, stdout=sys.stderr, stderr=subprocess.DEVNULL)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                break
        time.sleep(0.05)
    yield port
    process.terminate()
    process.wait()


async def test_our_client_stores_in_memcached(memcached: int) -> None:
    async with client_of(memcached, dialect=Dialect.CLASSIC) as client:
        assert await client.connect() is None
        assert await client.set(b"a", b"one", 7) == Written()
        assert await client.get(b"a") == Record(b"one", 3, 7)
        assert await client.head(b"a") == Record(b"", 3, 7)
        assert await client.get(b"b") is None
        assert await client.delete(b"a") == Written()
        assert await client.delete(b"a") is None
        await client.set(b"gone", b"x", 0, int(time.time()) - 10)
        assert await client.get(b"gone") is None
        await client.set(b"there", b"x", 0, int(time.time()) + 100)
        assert await client.get(b"there") is not None
        values = {b"k%d" % n: os.urandom(n * 3000) for n in range(100)}
        await asyncio.gather(*(client.set(key, value) for key, value in values.items()))
        records = await asyncio.gather(*(client.get(key) for key in values))
        assert [record and record.value for record in records] == list(values.values())
        with pytest.raises(TooLarge):
            await client.set(b"large", b"x" * 1_500_000)
        assert (await client.stats())["version"]
        for of_a_node in (client.read, client.inspect):
            with pytest.raises(Unsupported):
                of_a_node(b"a")


async def test_sfss_flags_on_memcached_are_refused_and_not_misread(memcached: int) -> None:
    async with client_of(memcached) as client:
        with pytest.raises((BadRequest, Unsupported)):
            await client.set(b"a", b"one")
        with pytest.raises(Unsupported):
            await client.connect()


def conversation(port: int, script: list[bytes]) -> list[bytes]:
    """What a server answers to each request of a script, told apart by `mn`."""
    answers = []
    with socket.create_connection((HOST, port), timeout=10) as sock, sock.makefile("rb") as replies:
        for said in script:
            sock.sendall(said + b"mn\r\n")
            lines = []
            while (line := replies.readline()) not in (b"MN\r\n", b""):
                lines.append(line)
            answers.append(b"".join(lines))
    return answers


SCRIPT = """
flush_all|set k 7 0 3~abc|get k|get k x|mg k|mg k v|mg k s v f t k O123 q h l|mg k s v h l t|mg k k|mg miss|mg miss v q
mg miss k O1|mg k q k|mg k q v|mg k z|mg k v v|mg k Tabc|mg k T30 t|mg k t|mg ??? b|mg|mg k  v|mg viv N30 t v
mg viv N30 t v|mg viv s v|mg viv R60 t|mg k R60 t v|mg k R60 t v|mg k R10 t v|ms a 2~hi|ms a 2 k O9 F5 T60~hi|mg a f t
ms a 2 q~hi|ms a 2 MA~!!|ms a 2 MP~??|mg a v|ms a 2 ME~zz|ms a 2 ME q~zz|ms nn 2 MR~zz|ms nn 2 MA~zz|mg a v f t s
ms a 2 C1~zz|ms gone 2 C1~zz|ms a 2 Cx~zz|ms a 2 z~zz|ms a 2 k k~zz|ms YQ== 2 b k~zz|md a I T30|mg a v t s|mg a v t s
ms a 2 ~yy|mg a v t|md a q|md a q|md a|md a k O3|md a C1|set a 0 0 1~x|md a C1 k O5|md a|ma n|ma n q|ma n N0 J13 v
ma n v t k O3|ma n D5 v|ma n MD D100 v|ma n M- v|ma n M+ v|ma n q|ma n q v|ma n T99 t v|ma n C1|ma n J5|set x 0 0 1~x
add k 0 0 1~1|ma x|me miss|get|gets|touch k|touch zz 0|gat 0 zz|incr k|incr k x|incr zz 1|incr x 1|delete
delete zz 0|delete a b c|add k 0 0 1~2|replace k 0 0 1~3|replace zz 0 0 1~3|append k 0 0 1~4|prepend k 0 0 1~5
get k|incr k 1
decr k 600|decr k 1|cas k 0 0 1 1~x|cas zz 0 0 1 5~x|stats reset|stats sizes|stats detail on|flush_all x|flush_all 0
verbosity|verbosity 1|set k 0 -1 1~x|get k|get a b c| get a||stats nonsense noreply
"""


SECONDS_LEFT = re.compile(rb" t([0-9]+)")


def test_our_server_says_what_memcached_says(memcached: int) -> None:
    """Line by line, but for versions, which have other numbers here."""
    script = [
        step.replace("~", "\r\n").encode() + b"\r\n" for line in SCRIPT.strip().split("\n") for step in line.split("|")
    ]

    async def ours() -> list[bytes]:
        async with serving(allow_flush=True) as server:
            return await asyncio.to_thread(conversation, server.port, script)

    theirs = conversation(memcached, script)

    for said, expected, answered in zip(script, theirs, asyncio.run(ours()), strict=True):
        assert SECONDS_LEFT.sub(b" t", answered) == SECONDS_LEFT.sub(b" t", expected), said
        for left, their_left in zip(SECONDS_LEFT.findall(answered), SECONDS_LEFT.findall(expected), strict=True):
            # A second may end between two lines, here or there.
            assert abs(int(left) - int(their_left)) <= 1, said
