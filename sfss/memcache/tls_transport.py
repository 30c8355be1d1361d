"""TLS between the tiers: the event loop's own transport, behind the interface of ours.

`TlsProtocol` is what the loop is given; once the handshake is done it shows `protocol` a `TlsTransport`, and from then
on passes on whatever happens. What differs from a plain socket: one direction alone can't be closed, so `write_eof`
closes both once all is sent, and the peer's end of stream ends the connection.

The loop's TLS encrypts all that it is given and hands it on to the transport beneath, where nobody can see what waits.
So it is given slices, and what it hasn't been given yet stays here, where it counts as unsent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from sfss.memcache.transport import Transport

SLICE_BYTES: Final = 64 * 1024


class TlsTransport(Transport):
    """A connection over `beneath`, the loop's transport; made by a `TlsProtocol`."""

    def __init__(self, beneath: Any, events: TlsProtocol) -> None:
        self._beneath = beneath
        self._events = events
        self._rest: deque[bytes | memoryview] = deque()
        self._rest_bytes = 0
        self._high = SLICE_BYTES
        self._full = False
        """Whether what is beneath takes no more for now."""
        self._paused = False
        self._closing = False
        beneath.set_write_buffer_limits(high=1)  # 0 would be "always full" to uvloop

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self._events.protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._beneath.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._closing or bool(self._beneath.is_closing())

    def set_write_buffer_limits(self, high: int) -> None:
        self._high = high

    def get_write_buffer_size(self) -> int:
        return self._rest_bytes + int(self._beneath.get_write_buffer_size())

    def pause_reading(self) -> None:
        if not self.is_closing():
            self._beneath.pause_reading()

    def resume_reading(self) -> None:
        if not self.is_closing():
            self._beneath.resume_reading()

    def write(self, data: bytes) -> None:
        if not self.is_closing():
            self._keep(data)
            self._hand_on()
            self._pause_if_full()

    def writelines(self, pieces: Iterable[bytes]) -> None:
        if not self.is_closing():
            for piece in pieces:
                self._keep(piece)
            self._hand_on()
            self._pause_if_full()

    def write_eof(self) -> None:
        self.close()

    def close(self) -> None:
        self._closing = True
        if not self._rest:
            self._beneath.close()

    def abort(self) -> None:
        self._closing = True
        self._rest.clear()
        self._rest_bytes = 0
        self._beneath.abort()

    # What is told from beneath

    def beneath_is_full(self) -> None:
        """Hand nothing on until there is room."""
        self._full = True

    def beneath_has_room(self) -> None:
        """Go on handing on."""
        self._full = False
        self._hand_on()
        if self._paused and self.get_write_buffer_size() <= self._high // 4:
            self._paused = False
            self._events.protocol.resume_writing()

    def _keep(self, data: bytes) -> None:
        if data:
            self._rest.append(data)
            self._rest_bytes += len(data)

    def _hand_on(self) -> None:
        rest = self._rest
        while rest and not self._full:
            piece = rest.popleft()
            if len(piece) > SLICE_BYTES:
                whole = memoryview(piece)
                piece = whole[:SLICE_BYTES]
                rest.appendleft(whole[SLICE_BYTES:])
            self._rest_bytes -= len(piece)
            self._beneath.write(piece)
        if self._closing and not rest:
            self._beneath.close()

    def _pause_if_full(self) -> None:
        if not self._paused and self.get_write_buffer_size() > self._high:
            self._paused = True
            self._events.protocol.pause_writing()


class TlsProtocol(asyncio.Protocol):
    """Stands between the loop's transport and `protocol`, which can be changed."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol
        self._transport: TlsTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = TlsTransport(transport, self)
        self.protocol.connection_made(self._transport)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        self.protocol.data_received(data)

    def eof_received(self) -> bool:
        self.protocol.eof_received()
        return False

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.beneath_is_full()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.beneath_has_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self.protocol.connection_lost(exc)
