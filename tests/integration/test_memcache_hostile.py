"""Peers that are slow, many, deaf or rude, on real sockets; test_memcache_conversations.py has what they say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from typing import Any

import pytest
from memcache_tier import HOST, client_of, serving

from sfss.memcache.server import MemcacheServer, ServerLimits
from sfss.memcache.service import WIRE_VERSION
from sfss.memory import MemoryStore
from sfss.promise import new_promise
from sfss.store import NO_CALL, VALUE_BYTES_MAX, Call

VERSION = b"VERSION " + WIRE_VERSION.encode() + b"\r\n"


async def answered(port: int, said: bytes) -> bytes:
    """All that a server says to `said`, until it closes."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(said)
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


@pytest.mark.parametrize("begun", [b"ge", b"get a", b"set a 0 0 10\r\n", b"set a 0 0 10\r\nxxx", b"ms a 3\r\nabc\r"])
async def test_a_command_that_doesnt_go_on_is_closed(begun: bytes) -> None:
    async with serving(limits=ServerLimits(inside_command_s=0.2)) as server:
        assert await answered(server.port, b"version\r\n" + begun) == VERSION


async def test_a_fault_while_connections_are_looked_over_doesnt_end_the_looking(caplog: Any) -> None:
    async with serving(limits=ServerLimits(inside_command_s=0.2)) as server:
        server._connections[None] = None  # type: ignore[index, assignment]
        while "could not be looked over" not in caplog.text:
            await asyncio.sleep(0.01)
        del server._connections[None]  # type: ignore[arg-type]

        assert await answered(server.port, b"version\r\nge") == VERSION


async def test_a_block_over_the_limit_that_doesnt_go_on_is_closed_too() -> None:
    async with serving(limits=ServerLimits(inside_command_s=0.2)) as server:
        said = await answered(server.port, b"set a 0 0 60000000\r\nxxx")

        assert said == b"SERVER_ERROR object too large for cache\r\n"


async def test_a_command_that_goes_on_slowly_is_served() -> None:
    async with serving(limits=ServerLimits(inside_command_s=0.5)) as server:
        reader, writer = await asyncio.open_connection(HOST, server.port)
        for piece in (b"set", b" a 0", b" 0 5\r\n", b"va", b"lu", b"e", b"\r", b"\n"):
            writer.write(piece)
            await asyncio.sleep(0.15)

        assert await reader.readline() == b"STORED\r\n"
        writer.close()


async def test_an_idle_connection_stays_while_there_is_room_and_goes_when_there_is_little() -> None:
    limits = ServerLimits(connections_max=10, idle_s=0.2)
    async with serving(limits=limits) as server:
        reader, writer = await asyncio.open_connection(HOST, server.port)
        await asyncio.sleep(0.6)
        writer.write(b"version\r\n")
        assert await reader.readline() == VERSION

        others = [await asyncio.open_connection(HOST, server.port) for _ in range(8)]
        assert await asyncio.wait_for(reader.read(), 20) == b""
        for _, other in [*others, (reader, writer)]:
            other.close()


async def test_one_connection_too_many_is_told_so_and_closed() -> None:
    async with serving(limits=ServerLimits(connections_max=1)) as server:
        reader, writer = await asyncio.open_connection(HOST, server.port)
        writer.write(b"version\r\n")
        assert await reader.readline() == VERSION

        assert await answered(server.port, b"version\r\n") == b"SERVER_ERROR too many connections\r\n"
        writer.write(b"version\r\n")
        assert await reader.readline() == VERSION
        writer.close()


async def test_the_reason_for_closing_reaches_a_peer_that_goes_on_sending() -> None:
    async with serving() as server:
        for _ in range(20):
            said = await answered(server.port, b"set a 0 0 3\r\nabcde\r\n" + b"get a\r\n" * 10_000)
            assert said == b"CLIENT_ERROR bad data chunk\r\n"


async def test_http_gets_no_word() -> None:
    async with serving() as server:
        with contextlib.suppress(ConnectionResetError):
            assert await answered(server.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""


class CountingStore(MemoryStore):
    """Counts look-ups."""

    gets = 0

    def get(self, key: bytes, call: Call = NO_CALL) -> Any:
        self.gets += 1
        return MemoryStore.get(self, key, call)


def unread(port: int, receive_bytes: int = 4096) -> socket.socket:
    """A connection that takes in little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.connect((HOST, port))
    return sock


async def test_a_long_line_of_keys_of_large_files_waits_for_its_reader_in_little_memory() -> None:
    store = CountingStore()
    store.set(b"large", b"x" * VALUE_BYTES_MAX)
    async with serving(store) as server:
        sock = unread(server.port)
        sock.sendall(b"get " + b"large " * 1000 + b"\r\n")
        async with asyncio.timeout(20):
            while not store.gets:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)

        assert store.gets <= 8
        assert server.bytes_held <= 8 * 1024 * 1024
        assert (await served(server)) == VERSION
        sock.close()


async def served(server: MemcacheServer) -> bytes:
    """What a new connection gets for `version`."""
    reader, writer = await asyncio.open_connection(HOST, server.port)
    writer.write(b"version\r\n")
    try:
        return await asyncio.wait_for(reader.readline(), 20)
    finally:
        writer.close()


async def test_pipelined_gets_of_a_peer_that_doesnt_read_stop_being_served() -> None:
    store = CountingStore()
    store.set(b"large", b"x" * VALUE_BYTES_MAX)
    async with serving(store) as server:
        sock = unread(server.port)
        sock.sendall(b"get large\r\n" * 1000)
        await asyncio.sleep(0.3)

        assert 1 <= store.gets <= 4
        sock.close()


async def test_a_peer_that_reads_nothing_for_long_is_closed() -> None:
    store = MemoryStore()
    store.set(b"large", b"x" * VALUE_BYTES_MAX)
    async with serving(store, limits=ServerLimits(reading_s=0.2)) as server:
        sock = unread(server.port)
        sock.sendall(b"get large large large large\r\n")
        for _ in range(200):
            await asyncio.sleep(0.05)
            if server.bytes_held == 0 and not server._connections:
                break

        assert not server._connections
        assert server.bytes_held == 0
        sock.close()


async def test_a_peer_that_leaves_a_short_reply_unread_for_long_is_closed_too() -> None:
    store = MemoryStore()
    store.set(b"some", b"x" * 200_000)
    async with serving(store, limits=ServerLimits(reading_s=0.2, unsent_bytes_max=VALUE_BYTES_MAX)) as server:
        sock = unread(server.port)
        for _ in range(20):
            sock.sendall(b"get some\r\n")
        for _ in range(400):
            await asyncio.sleep(0.05)
            if server.service.counters.total_connections and not server._connections:
                break

        assert not server._connections
        sock.close()


@pytest.mark.parametrize("last", [b"quit\r\n", b""])
async def test_a_peer_that_says_goodbye_and_then_reads_slowly_gets_all_it_asked_for(last: bytes) -> None:
    store = MemoryStore()
    store.set(b"large", b"x" * VALUE_BYTES_MAX)
    async with serving(store, limits=ServerLimits(linger_s=0.05, unsent_bytes_max=2**26)) as server:
        sock = unread(server.port)
        sock.setblocking(False)
        sock.sendall(b"get large\r\n" * 4 + last)
        if not last:
            sock.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.5)
        received = 0
        while piece := await asyncio.get_running_loop().sock_recv(sock, 65536):
            received += len(piece)

        assert received == 4 * (VALUE_BYTES_MAX + len(b"VALUE large 0 2097152\r\n\r\nEND\r\n"))
        sock.close()


async def test_everything_a_slow_reader_asked_for_arrives_whole() -> None:
    store = MemoryStore()
    value = bytes(range(256)) * 4000
    store.set(b"large", value)
    async with serving(store) as server:
        reader, writer = await asyncio.open_connection(HOST, server.port, limit=2**16)
        writer.write(b"get large large large\r\nversion\r\n")
        received = b""
        while not received.endswith(VERSION):
            received += await reader.read(50_000)
            await asyncio.sleep(0.001)
        block = b"VALUE large 0 %d\r\n%b\r\n" % (len(value), value)

        assert received == block * 3 + b"END\r\n" + VERSION
        writer.close()


async def test_without_file_descriptors_it_serves_whom_it_has_and_recovers(caplog: Any) -> None:
    async with serving() as server, client_of(server.port) as client:
        await client.get(b"a")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = len(os.listdir("/proc/self/fd"))
        waiting = [socket.socket() for _ in range(5)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 5, hard))
        try:
            for sock in waiting:
                sock.connect((HOST, server.port))
            await asyncio.sleep(0.1)
            assert await client.get(b"a") is None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "can't accept" in caplog.text

        assert await served(server) == VERSION
        for sock in waiting:
            sock.close()


async def test_closing_answers_what_is_in_hand_and_takes_nothing_new() -> None:
    loop = asyncio.get_running_loop()

    class Late(MemoryStore):
        def get(self, key: bytes, call: Call = NO_CALL) -> Any:
            promise = new_promise()
            loop.call_later(0.2, promise.set_result, None)
            return promise

    async with serving(Late()) as server:
        port = server.port
        reader, writer = await asyncio.open_connection(HOST, server.port)
        idle_reader, idle_writer = await asyncio.open_connection(HOST, server.port)
        writer.write(b"get a\r\n")
        await asyncio.sleep(0.05)
        closing = asyncio.ensure_future(server.close(grace_s=5))
        await asyncio.sleep(0.01)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, port)

        assert await reader.read() == b"END\r\n"
        assert await idle_reader.read() == b""
        await closing
        writer.close()
        idle_writer.close()


async def test_closing_is_bounded_whatever_the_store_does() -> None:
    class Never(MemoryStore):
        def get(self, key: bytes, call: Call = NO_CALL) -> Any:
            return new_promise()

    async with serving(Never()) as server:
        reader, writer = await asyncio.open_connection(HOST, server.port)
        writer.write(b"get a\r\n")
        await asyncio.sleep(0.05)

        await asyncio.wait_for(server.close(grace_s=0.1), 10)

        assert await reader.read() == b""
        writer.close()
