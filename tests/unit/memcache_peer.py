"""A memcache server's connection without a socket: what a peer sends in, what it gets out.

`Peer` stands in for the transport, so a test says what arrives in which pieces and sees every byte that is sent.
`SlowStore` answers with futures that the test settles.
"""

from __future__ import annotations

from typing import Any

from sfss.memcache.connection import Connection
from sfss.memcache.server import MemcacheServer, ServerLimits
from sfss.memory import MemoryStore
from sfss.promise import new_promise
from sfss.store import NO_CALL, Call

NOW = 1_000_000_000.0
FIRST_VERSION = int(NOW * 1000) << 16


class Clock:
    """Unix seconds that stand still until told."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Peer:
    """One connection to `server`, seen from outside."""

    def __init__(self, server: MemcacheServer) -> None:
        self.sent = b""
        self.closed = False
        self.ended = False
        self.reading = True
        self.deaf = False
        self.unsent = 0
        self.connection = Connection(server)
        self.connection.connection_made(self)  # type: ignore[arg-type]

    def say(self, data: bytes, piece_bytes: int = 0) -> bytes:
        """Let `data` arrive, in pieces of `piece_bytes` (0: whole); returns what is sent in answer to it."""
        before = len(self.sent)
        for at in range(0, len(data), piece_bytes or len(data)):
            if self.closed or self.ended:
                break
            self.connection.data_received(data[at : at + (piece_bytes or len(data))])
        return self.sent[before:]

    # The transport

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:
        self.sent += data
        if self.deaf:
            self.unsent += len(data)
            if self.unsent == len(data):
                self.connection.pause_writing()

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            self.connection.connection_lost(None)


class SlowStore(MemoryStore):
    """A `MemoryStore` whose answers come when the test says so: `waiting` holds (name, key, settle) in order."""

    def __init__(self, now: Any = NOW) -> None:
        super().__init__(Clock())
        self.waiting: list[tuple[str, bytes, Any]] = []

    def _later(self, name: str, key: bytes, carry_out: Any) -> Any:
        promise = new_promise()

        def settle(error: BaseException | None = None) -> None:
            if error is not None:
                promise.set_exception(error)
            else:
                promise.set_result(carry_out())

        self.waiting.append((name, key, settle))
        return promise

    def settle_all(self) -> None:
        """Answer what was asked, in the order of asking."""
        waiting, self.waiting = self.waiting, []
        for _, _, settle in waiting:
            settle()

    def get(self, key: bytes, call: Call = NO_CALL) -> Any:
        return self._later("get", key, lambda: MemoryStore.get(self, key, call))

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Any:
        return self._later("set", key, lambda: MemoryStore.set(self, key, value, flags, expires, call))

    def delete(self, key: bytes, call: Call = NO_CALL) -> Any:
        return self._later("delete", key, lambda: MemoryStore.delete(self, key, call))

    def apply(self, key: bytes, record: Any, call: Call = NO_CALL) -> Any:
        return self._later("apply", key, lambda: MemoryStore.apply(self, key, record, call))


def server_of(store: Any = None, clock: Clock | None = None, **options: Any) -> MemcacheServer:
    """A server that doesn't listen, over a `MemoryStore` whose clock stands at `NOW` unless another store is given."""
    clock = clock or Clock()
    limits = options.pop("limits", ServerLimits())
    return MemcacheServer(store or MemoryStore(clock), limits=limits, now=clock, **options)
