"""What a node does now and then: save who it is, move the stamps' floor ahead, sync by the clock, refill the
reserve.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nodes.identity import DataDirectory, NodeState
from nodes.options import NodeOptions, Sync
from nodes.reserve import FULL, Reserve
from nodes.ring_file import RING, RingFile, write_ring_file
from nodes.writer import Writer
from sfss.errors import OutOfDisk, SfssError, Unavailable
from sfss.stamps import COUNT_BITS, StampClock
from sfss.store import Seen

FLOOR_AHEAD_S = 30
"""How far ahead of the clock the floor is saved: a start after a crash issues its first stamps above it."""

_FLOOR_MARGIN = (FLOOR_AHEAD_S * 500) << COUNT_BITS
"""The floor is moved when stamps come as close to it as half of `FLOOR_AHEAD_S`."""

_PERIOD_S = 1.0
_PERIOD_S_MAX = 60.0
"""Between rounds that fail one after the other."""

_SMALL_BYTES = 64 * 1024
"""Room that replacing a file of a few blocks needs on any file system, with slack."""

_log = logging.getLogger("sfss.node")


def floor_ahead(now: float, last: int) -> int:
    """A floor to save. `last` is the largest stamp issued or floored so far; where the clock is behind it, a second's
    worth of stamps above it will do."""
    return max(int((now + FLOOR_AHEAD_S) * 1000) << COUNT_BITS, last + (1000 << COUNT_BITS))


def save_for_sure(directory: DataDirectory, state: NodeState, reserve: Reserve) -> None:
    """Put who the node is on disk, if need be with room from the reserve."""
    _with_room(partial(directory.save, state), _SMALL_BYTES, reserve)


def _save_ring(directory: Path, file: RingFile, oldest: int, reserve: Reserve) -> None:
    body = file.encode(oldest)
    _with_room(partial(write_ring_file, directory, body), _SMALL_BYTES + len(body), reserve)


def _with_room(save: Callable[[], None], size: int, reserve: Reserve) -> None:
    try:
        save()
    except OSError as error:
        if error.errno not in FULL or not reserve.release(size):
            raise
        save()


class Housekeeper:
    """The only one that writes the identity file, and the ring's, while the node runs. For the loop's thread.
    `on_state` is called with each new state."""

    def __init__(
        self,
        directory: DataDirectory,
        state: NodeState,
        clock: StampClock,
        writer: Writer,
        reserve: Reserve,
        options: NodeOptions,
        now: Callable[[], float],
        on_state: Callable[[NodeState], None],
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._writer = writer
        self._reserve = reserve
        self._options = options
        self._now = now
        self._on_state = on_state
        self._thread = ThreadPoolExecutor(1, "sfss-housekeeper")
        self._saving = asyncio.Lock()
        self._raising: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.state = state
        """Who the node is. `stamp_floor` in it is on disk; a binding may still be on its way there."""

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._keep_house()))
        if self._options.sync is Sync.INTERVAL:
            self._tasks.append(loop.create_task(self._sync_by_the_clock()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        waiting = [*self._tasks, *([self._raising] if self._raising else [])]
        if waiting:
            await asyncio.wait(waiting)
        self._thread.shutdown()

    def bind(self, cluster: str, ring: int, fingerprint: str) -> None:
        """Take a cluster as the node's, from now on; `save` puts it on disk."""
        self._change(cluster=cluster, ring=ring, fingerprint=fingerprint)

    async def save_ring(self, file: RingFile, oldest: int) -> None:
        """Put what the node keeps of its ring on disk; `oldest` is the position of its oldest volume. Raises
        `OutOfDisk` or `Unavailable`."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, _save_ring, self._directory.path, file, oldest, self._reserve)
        except OSError as error:
            raise _refusal(error, RING) from None

    async def take_ring(self, number: int, fingerprint: str) -> None:
        """Be in a ring that was learnt; the file that says so is on disk."""
        self._change(ring=number, fingerprint=fingerprint, taught=True)
        try:
            await self.save()
        except OSError as error:
            # The other file counts; this one only tells when that is lost.
            _log.error("the identity file can't be written and will be later: %s", error)

    def keep_in_mind(self, others: tuple[Seen, ...]) -> None:
        """What was seen of other nodes, from now on; it is on disk with the next save."""
        self._change(others=others)

    async def become(self, decide: Callable[[NodeState], dict[str, Any]]) -> None:
        """Change what `decide` says, given who the node is when nothing else is being changed; it counts once that is
        on disk. Raises what `decide` raises, `OutOfDisk` or `Unavailable`."""
        try:
            await self.save(decide=decide)
        except OSError as error:
            raise _refusal(error) from None

    def _change(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        self._on_state(self.state)

    async def save(self, floor: int = 0, decide: Callable[[NodeState], dict[str, Any]] = lambda _: {}) -> None:
        """Put who the node is on disk; with a new stamp floor and other changes, these count from then on."""
        loop = asyncio.get_running_loop()
        async with self._saving:
            floor = max(floor, self.state.stamp_floor)
            changes = decide(self.state)
            wanted = replace(self.state, stamp_floor=floor, position=self._writer.synced_position, **changes)
            await loop.run_in_executor(self._thread, save_for_sure, self._directory, wanted, self._reserve)
            self._change(stamp_floor=floor, **changes)

    async def raise_floor(self) -> None:
        """Move the floor ahead of all stamps. Raises `OutOfDisk` or `Unavailable` when it can't be saved."""
        if self._raising is None or self._raising.done():
            saving = self.save(floor_ahead(self._now(), self._clock.last))
            self._raising = asyncio.get_running_loop().create_task(saving)
        try:
            await asyncio.shield(self._raising)
        except OSError as error:
            raise _refusal(error) from None

    async def _keep_house(self) -> None:
        pause_s = _PERIOD_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._do_a_round()
                pause_s = _PERIOD_S
            except Exception as error:
                # Nothing rests on a round: a write that needs a new floor moves it by itself, or is refused.
                _log.error("housekeeping failed and will be tried again: %r", error)
                pause_s = min(2 * pause_s, _PERIOD_S_MAX)

    async def _do_a_round(self) -> None:
        if self._clock.last > self.state.stamp_floor - _FLOOR_MARGIN:
            with suppress(SfssError):  # logged; the next round tries again
                await self.raise_floor()
        if self._reserve.short:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._reserve.fill)

    async def _sync_by_the_clock(self) -> None:
        while True:
            await asyncio.sleep(self._options.sync_interval_s)
            await self._writer.sync()


def _refusal(error: OSError, name: str = "identity") -> SfssError:
    """What to answer to what needed a file to be replaced."""
    _log.error("the %s file can't be written: %s", name, error)
    if error.errno in FULL:
        return OutOfDisk("out of disk")
    return Unavailable(f"the {name} file can't be written: {error.strerror}")
