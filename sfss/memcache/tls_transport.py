"""TLS between the tiers: the event loop's own transport, behind the interface of ours.

`TlsProtocol` is what the loop is given; once the handshake is done it shows `protocol` a `TlsTransport`, and from then
on passes on whatever happens. What differs from a plain socket: one direction alone can't be closed, so `write_eof`
closes both once all is sent, and the peer's end of stream ends the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from sfss.memcache.transport import Transport


class TlsTransport(Transport):
    """A connection over `beneath`, the loop's transport; made by a `TlsProtocol`."""

    def __init__(self, beneath: Any, events: TlsProtocol) -> None:
        self._beneath = beneath
        self._events = events

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self._events.protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._beneath.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return bool(self._beneath.is_closing())

    def set_write_buffer_limits(self, high: int) -> None:
        self._beneath.set_write_buffer_limits(high=high)

    def get_write_buffer_size(self) -> int:
        return int(self._beneath.get_write_buffer_size())

    def pause_reading(self) -> None:
        if not self._beneath.is_closing():
            self._beneath.pause_reading()

    def resume_reading(self) -> None:
        if not self._beneath.is_closing():
            self._beneath.resume_reading()

    def write(self, data: bytes) -> None:
        if not self._beneath.is_closing():
            self._beneath.write(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        if not self._beneath.is_closing():
            self._beneath.writelines(pieces)

    def write_eof(self) -> None:
        self._beneath.close()

    def close(self) -> None:
        self._beneath.close()

    def abort(self) -> None:
        self._beneath.abort()


class TlsProtocol(asyncio.Protocol):
    """Stands between the loop's transport and `protocol`, which can be changed."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.protocol.connection_made(TlsTransport(transport, self))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        self.protocol.data_received(data)

    def eof_received(self) -> bool:
        self.protocol.eof_received()
        return False

    def pause_writing(self) -> None:
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        self.protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.protocol.connection_lost(exc)
