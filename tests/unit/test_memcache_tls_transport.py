"""What TLS is handed, how much of it, and when; without TLS."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sfss.memcache.tls_transport import SLICE_BYTES, TlsProtocol, TlsTransport


class Beneath:
    """The loop's transport: takes `room` bytes, is full then, and says so, as TLS of the loop does."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.written = b""
        self.ended = ""
        self.events: Any = None

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return max(-self.room, 0)

    def is_closing(self) -> bool:
        return bool(self.ended)

    def write(self, data: bytes) -> None:
        self.written += data
        self.room -= len(data)
        if self.room <= 0:
            self.events.pause_writing()

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def give_room(self, room: int) -> None:
        self.room = room
        self.events.resume_writing()


class Seen(asyncio.Protocol):
    """Notes what it is told."""

    transport: TlsTransport

    def __init__(self) -> None:
        self.told: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def eof_received(self) -> bool:
        self.told.append("end")
        return True

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


@pytest.fixture
def seen() -> Seen:
    return Seen()


def connection(seen: Seen, room: int) -> Beneath:
    beneath = Beneath(room)
    beneath.events = TlsProtocol(seen)
    beneath.events.connection_made(beneath)
    seen.transport.set_write_buffer_limits(high=4 * SLICE_BYTES)
    return beneath


def test_what_there_is_room_for_goes_at_once_in_its_order(seen: Seen) -> None:
    beneath = connection(seen, 10 * SLICE_BYTES)
    large = bytes(range(256)) * 1000

    seen.transport.write(b"one")
    seen.transport.writelines([b"two", b"", large, b"\r\n"])

    assert beneath.written == b"onetwo" + large + b"\r\n"
    assert seen.transport.get_write_buffer_size() == 0
    assert seen.told == []


def test_of_a_large_write_no_more_than_a_slice_is_out_of_sight_and_the_rest_counts(seen: Seen) -> None:
    beneath = connection(seen, 1)

    seen.transport.write(bytes(2 * 1024 * 1024))

    assert len(beneath.written) == SLICE_BYTES
    assert seen.transport.get_write_buffer_size() == 2 * 1024 * 1024 - 1
    assert seen.told == ["pause"]


def test_the_rest_follows_as_there_is_room_and_writing_is_resumed_when_little_is_left(seen: Seen) -> None:
    beneath = connection(seen, 1)
    value = bytes(range(256)) * (6 * SLICE_BYTES // 256)
    seen.transport.write(value)

    beneath.give_room(2 * SLICE_BYTES)
    assert beneath.written == value[: 3 * SLICE_BYTES]
    assert seen.told == ["pause"]
    beneath.give_room(2 * SLICE_BYTES)
    assert seen.told == ["pause", "resume"]
    beneath.give_room(2 * SLICE_BYTES)
    assert beneath.written == value
    assert seen.transport.get_write_buffer_size() == 0


@pytest.mark.parametrize("how", ["close", "write_eof"])
def test_a_close_waits_for_what_is_unsent_and_takes_nothing_more(seen: Seen, how: str) -> None:
    beneath = connection(seen, 1)
    seen.transport.write(bytes(3 * SLICE_BYTES))

    getattr(seen.transport, how)()
    seen.transport.write(b"late")
    seen.transport.writelines([b"late"])

    assert seen.transport.is_closing()
    assert not beneath.ended
    beneath.give_room(10 * SLICE_BYTES)
    assert beneath.ended == "closed"
    assert beneath.written == bytes(3 * SLICE_BYTES)


def test_an_abort_drops_what_is_unsent(seen: Seen) -> None:
    beneath = connection(seen, 1)
    seen.transport.write(bytes(3 * SLICE_BYTES))

    seen.transport.abort()

    assert beneath.ended == "aborted"
    assert seen.transport.get_write_buffer_size() == beneath.get_write_buffer_size()
    assert len(beneath.written) == SLICE_BYTES


def test_the_end_of_the_stream_is_told_and_never_kept_open(seen: Seen) -> None:
    beneath = connection(seen, 1)

    assert beneath.events.eof_received() is False
    assert seen.told == ["end"]
