"""The socket transport, on a pair of connected sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sfss.memcache.socket_transport import READ_BYTES, SocketTransport


class Notes(asyncio.Protocol):
    """A protocol that notes what it is told."""

    def __init__(self, keep_open: bool = False) -> None:
        self.told: list[str] = []
        self.received = b""
        self.keep_open = keep_open
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.lost.set_result(exc)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    theirs.close()
    ours.close()


async def received(sock: socket.socket, count: int) -> bytes:
    """Read `count` bytes, or to the end."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count:
        piece = await loop.sock_recv(sock, 65536)
        if not piece:
            break
        data += piece
    return data


async def test_more_than_the_socket_takes_is_sent_as_the_peer_reads(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    protocol = Notes()
    transport = SocketTransport(asyncio.get_running_loop(), ours, protocol)
    pieces = [os.urandom(300_000) for _ in range(10)]

    transport.write(pieces[0])
    transport.writelines(pieces[1:9])
    transport.write(pieces[9])
    assert protocol.told == ["made", "pause"]
    assert transport.get_write_buffer_size() > 2_000_000

    assert await received(theirs, 3_000_000) == b"".join(pieces)
    await asyncio.sleep(0)
    assert protocol.told == ["made", "pause", "resume"]
    assert transport.get_write_buffer_size() == 0
    transport.abort()
    await protocol.lost


async def test_closing_sends_what_is_unsent_first(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    protocol = Notes()
    transport = SocketTransport(asyncio.get_running_loop(), ours, protocol)
    data = os.urandom(2_000_000)

    transport.write(data)
    transport.close()
    transport.write(b"too late")

    assert await received(theirs, 3_000_000) == data
    assert await protocol.lost is None
    assert protocol.told.count("lost") == 1


async def test_ending_sends_what_is_unsent_and_goes_on_reading(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    protocol = Notes()
    transport = SocketTransport(asyncio.get_running_loop(), ours, protocol)
    data = os.urandom(2_000_000)

    transport.write(data)
    transport.write_eof()
    assert await received(theirs, 3_000_000) == data
    await asyncio.get_running_loop().sock_sendall(theirs, b"answer")
    theirs.shutdown(socket.SHUT_WR)

    assert await protocol.lost is None
    assert protocol.received == b"answer"


async def test_what_is_sent_while_reading_is_paused_waits(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    protocol = Notes()
    transport = SocketTransport(asyncio.get_running_loop(), ours, protocol)

    transport.pause_reading()
    theirs.send(b"data")
    await asyncio.sleep(0.02)
    assert protocol.received == b""

    transport.resume_reading()
    await asyncio.sleep(0.02)
    assert protocol.received == b"data"
    transport.abort()
    await protocol.lost


async def test_a_large_stream_arrives_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    protocol = Notes()
    SocketTransport(asyncio.get_running_loop(), ours, protocol)
    data = os.urandom(READ_BYTES * 40 + 17)

    await asyncio.get_running_loop().sock_sendall(theirs, data)
    theirs.close()

    await protocol.lost
    assert protocol.received == data
    assert protocol.told == ["made", "eof", "lost"]


async def test_what_is_received_in_place_lies_there_and_what_follows_goes_to_the_protocol(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    protocol = Notes(keep_open=True)
    transport = SocketTransport(asyncio.get_running_loop(), ours, protocol)
    data = os.urandom(READ_BYTES * 20 + 17)
    kept = bytearray(READ_BYTES * 17)
    counts: list[int] = []

    transport.receive_into(memoryview(kept), counts.append)
    await asyncio.get_running_loop().sock_sendall(theirs, data)
    theirs.close()

    while "eof" not in protocol.told:
        await asyncio.sleep(0)
    assert bytes(kept) + protocol.received == data
    assert sum(counts) == len(kept)
    kept.clear()  # raises while any view of it is left
    transport.abort()
    await protocol.lost


async def test_a_stream_that_ends_while_it_is_received_in_place_has_ended(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    protocol = Notes()
    transport = SocketTransport(asyncio.get_running_loop(), ours, protocol)
    kept = bytearray(100)

    transport.receive_into(memoryview(kept), lambda count: None)
    theirs.send(b"abc")
    theirs.close()

    await protocol.lost
    assert bytes(kept[:3]) == b"abc"
    assert (protocol.received, protocol.told) == (b"", ["made", "eof", "lost"])


async def test_a_fault_of_whoever_receives_in_place_closes_the_connection(
    pair: tuple[socket.socket, socket.socket], caplog: Any
) -> None:
    ours, theirs = pair
    protocol = Notes()
    transport = SocketTransport(asyncio.get_running_loop(), ours, protocol)

    def fail(count: int) -> None:
        raise ZeroDivisionError("oops")

    transport.receive_into(memoryview(bytearray(3)), fail)
    theirs.send(b"abcdef")

    await protocol.lost
    assert (protocol.received, protocol.told) == (b"", ["made", "lost"])
    assert "oops" in caplog.text


async def test_a_reset_is_told_once_and_later_writes_go_nowhere(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    protocol = Notes()
    transport = SocketTransport(asyncio.get_running_loop(), ours, protocol)

    theirs.close()
    transport.write(b"x")
    transport.write(b"y")
    transport.writelines([b"z"])

    assert isinstance(await protocol.lost, OSError)
    assert protocol.told == ["made", "lost"]
    assert transport.is_closing()


class Faulty(Notes):
    """Fails in the call of that name."""

    def __init__(self, where: str) -> None:
        super().__init__(keep_open=True)
        self.where = where

    def fail(self, where: str) -> None:
        if where == self.where:
            raise ZeroDivisionError("oops")

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.fail("connection_made")

    def data_received(self, data: bytes) -> None:
        self.fail("data_received")

    def eof_received(self) -> bool:
        self.fail("eof_received")
        return True

    def pause_writing(self) -> None:
        self.fail("pause_writing")

    def resume_writing(self) -> None:
        self.fail("resume_writing")


@pytest.mark.parametrize(
    "where", ["connection_made", "data_received", "eof_received", "pause_writing", "resume_writing"]
)
async def test_a_fault_of_the_protocol_closes_its_connection_and_is_logged(
    pair: tuple[socket.socket, socket.socket], caplog: Any, where: str
) -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = pair
    fd = ours.fileno()
    protocol = Faulty(where)
    transport = SocketTransport(loop, ours, protocol)

    theirs.send(b"data")
    transport.write(b"x" * 1_000_000)
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError):
            await received(theirs, 1_000_000)
        if where == "eof_received":
            theirs.shutdown(socket.SHUT_WR)

        assert await protocol.lost is None
    assert caplog.text.count("a connection is closed because of a fault") == 1
    assert "ZeroDivisionError: oops" in caplog.text
    assert protocol.told.count("lost") == 1
    # Nothing of it is left in the loop, even where its number is soon another socket's.
    transport.resume_reading()
    transport.write(b"y")
    assert not loop.remove_reader(fd)
    assert not loop.remove_writer(fd)
