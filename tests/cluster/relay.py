"""A TCP relay that stands between two tiers and misbehaves when told to.

*Up* is from the client (the tier above) to the server, *down* the way back. Switches take effect at once, on
connections that are open too.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

CHUNK_BYTES = 64 * 1024


@dataclass(slots=True)
class Direction:
    """What happens to the bytes of one direction."""

    delay_s: float = 0.0
    """Each chunk is held back for up to this long, at random: what goes on different connections overtakes."""
    drop: bool = False
    """Bytes are read and thrown away: what was sent arrives nowhere, and nobody is told."""
    cut_after_bytes: int | None = None
    """After so many more bytes (of all connections) the connection is closed, both ways."""
    held_back: bytes = b""
    """The next chunk that has this in it, and what follows on its connection, waits until `let_go`."""
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    gone_on: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.flowing.set()
        self.gone_on.set()

    def hold_back(self, what: bytes) -> None:
        self.held_back = what
        self.gone_on.clear()

    def let_go(self) -> None:
        self.held_back = b""
        self.gone_on.set()

    def stall(self) -> None:
        """Hold everything back from now on; the connections stay open."""
        self.flowing.clear()

    def flow(self) -> None:
        self.flowing.set()


class Relay:
    """Listens on a port of its own and passes everything on to `target`."""

    def __init__(self, target: tuple[str, int] | None = None) -> None:
        """`target` may be set later, before the first connection."""
        self.target = target
        self.up = Direction()
        self.down = Direction()
        self.accepted = 0
        """Connections taken so far."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        if self._server is None:
            raise RuntimeError("the relay has not been started")
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)

    def heal(self) -> None:
        """Pass everything on again. What was dropped is gone: open connections are reset, as its loss would."""
        had_dropped = self.up.drop or self.down.drop
        for direction in (self.up, self.down):
            direction.delay_s, direction.drop, direction.cut_after_bytes = 0.0, False, None
            direction.flow()
            direction.let_go()
        if had_dropped:
            self.reset_all()

    def reset_all(self) -> None:
        """Reset every open connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.reset_all()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        try:
            if self.target is None:
                raise ConnectionRefusedError
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            self._end(writer)
            return
        self._writers.add(far_writer)
        for source, sink, direction in ((reader, far_writer, self.up), (far_reader, writer, self.down)):
            task = asyncio.create_task(self._pass_on(source, sink, direction, (writer, far_writer)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        direction: Direction,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        try:
            while chunk := await source.read(CHUNK_BYTES):
                if direction.delay_s:
                    await asyncio.sleep(random.uniform(0, direction.delay_s))
                if direction.held_back and direction.held_back in chunk:
                    direction.held_back = b""
                    await direction.gone_on.wait()
                await direction.flowing.wait()
                if direction.drop:
                    continue
                if direction.cut_after_bytes is not None:
                    chunk, direction.cut_after_bytes = (
                        chunk[: direction.cut_after_bytes],
                        direction.cut_after_bytes - len(chunk),
                    )
                    if direction.cut_after_bytes <= 0:
                        direction.cut_after_bytes = None
                        sink.write(chunk)
                        return
                sink.write(chunk)
                await sink.drain()
        except OSError:
            return
        finally:
            for writer in both:
                self._end(writer)

    def _end(self, writer: asyncio.StreamWriter) -> None:
        """Close after what is already on its way."""
        self._writers.discard(writer)
        writer.close()
