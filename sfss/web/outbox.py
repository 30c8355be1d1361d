"""What one connection has still to send, and what that keeps in memory.

Writing is "paused" as long as anything is unsent: an answer is done when the kernel has all of it, so what a slow
reader pins is known to the byte and always watched.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from sfss.memcache import transport as ours
from sfss.web.memory import BodyMemory

JOINED_BYTES_MAX: Final = 64 * 1024
"""Head and body are sent as one piece up to here; above, a copy costs more than a second buffer."""


class Transport(Protocol):
    """What a connection asks of its transport: our own, or uvloop's for TLS."""

    def get_extra_info(self, name: str, default: Any = None) -> Any: ...

    def write(self, data: Any, /) -> None: ...

    def writelines(self, pieces: Any, /) -> None: ...

    def write_eof(self) -> None: ...

    def get_write_buffer_size(self) -> int: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class Outbox:
    """From `open` to `close`; before and after, nothing is sent."""

    __slots__ = ("_held_bytes", "_memory", "_own", "_rest", "_tls", "_transport", "unsent_bytes")

    def __init__(self, memory: BodyMemory, *, tls: bool) -> None:
        self._memory = memory
        self._tls = tls
        self._transport: Transport | None = None
        self._own: ours.Transport | None = None
        """The same, where it is one of ours: its methods are called as functions of C."""
        self._rest = memoryview(b"")
        self._held_bytes = 0
        self.unsent_bytes = 0
        """As of the last look; 0 only when all is sent."""

    def open(self, transport: Transport) -> None:
        self._transport = transport
        self._own = transport if isinstance(transport, ours.Transport) else None

    def close(self) -> None:
        """The connection is gone, and with it what was unsent."""
        self._transport = self._own = None
        self._memory.release(self._held_bytes)
        self.unsent_bytes = self._held_bytes = 0

    @property
    def all_given(self) -> bool:
        """Whether the transport has all of it, sent or not."""
        return not self._rest

    def write(self, head: bytes, body: bytes | memoryview) -> None:
        own, transport = self._own, self._transport
        if own is not None and not body:  # what nearly every answer is
            own.write(head)
            return
        if transport is None or transport.is_closing():
            return
        if not body:
            transport.write(head)
        elif len(body) <= JOINED_BYTES_MAX:
            transport.write(b"".join((head, body)))
        elif self._tls:
            transport.write(head)
            self._rest = memoryview(body)
            self._write_rest()
        else:
            transport.writelines((head, body))

    def _write_rest(self) -> None:
        """Send a large body in slices. TLS passes all that it is given to the transport beneath, where nobody could see
        how much of it is still unsent."""
        while self._rest and not self.unsent_bytes and self._transport is not None:
            piece, self._rest = self._rest[:JOINED_BYTES_MAX], self._rest[JOINED_BYTES_MAX:]
            self._transport.write(piece)

    def paused(self) -> None:
        """The transport says that some of an answer is unsent."""
        if self._transport is not None:
            self.unsent_bytes = self._held_bytes = self._transport.get_write_buffer_size() + len(self._rest)
            self._memory.hold_anyway(self._held_bytes)

    def resumed(self) -> None:
        """The transport says that all it was given is sent: give it more, if there is."""
        self._memory.release(self._held_bytes)
        self.unsent_bytes = self._held_bytes = 0
        self._write_rest()

    def moves(self) -> bool:
        """Whether the client has taken anything since the last look."""
        if self._transport is None:
            return True
        unsent = self._transport.get_write_buffer_size() + len(self._rest)
        moved = unsent != self.unsent_bytes
        self.unsent_bytes = max(unsent, 1)  # until `resumed` says so, it isn't over
        return moved
