"""What the protocols of this package ask of their transport: a socket of our own, or TLS.

A class to inherit from and no `typing.Protocol`: compiled code calls its methods as C functions, and these calls are on
the way of every request. All are made on the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any


class Transport:
    """A connected stream. `connection_lost` of its protocol is called exactly once, from the loop."""

    receives_into = False
    """Whether `receive_into` may be called."""

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        """Tell another protocol what happens from now on. Its `connection_made` is the caller's to call."""
        raise NotImplementedError

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The address of the peer, under the name `peername`."""
        raise NotImplementedError

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        raise NotImplementedError

    def set_write_buffer_limits(self, high: int) -> None:
        """Have the protocol pause writing above `high` bytes unsent, and resume below a quarter of it."""
        raise NotImplementedError

    def get_write_buffer_size(self) -> int:
        """Bytes written and not yet taken."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Leave what comes in the socket."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Read again."""
        raise NotImplementedError

    def receive_into(self, room: memoryview, took: Callable[[int], None]) -> None:
        """Put what comes next into `room` until that is full. Each time `took` is told how many bytes came; then no
        view of what is full is left here."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Send bytes, now as far as they are taken and the rest as they are."""
        raise NotImplementedError

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """The same for several buffers."""
        raise NotImplementedError

    def write_eof(self) -> None:
        """Tell the peer that nothing more comes, once all is sent."""
        raise NotImplementedError

    def close(self) -> None:
        """Send what is unsent, then close."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once."""
        raise NotImplementedError
