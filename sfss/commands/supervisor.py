"""Starting, watching and stopping a set of processes on this machine.

Parts are started tier by tier, the next tier once all of the one before answer, and stopped in the reverse order, so
that no part ever talks to one that is already gone. A part that ends by itself is started again after a jittered,
growing delay; the delay shrinks back once the part has lived for a while. The kernel ends the parts when the
supervisor itself is killed (`sfss.process.end_with_parent`).

What a part prints goes through a pipe into its own log. A part that ends before it ever answered, in `start`, is a
mistake of set-up, and becomes `SetupError` with the part's last words.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sfss.commands.part_log import PartLog
from sfss.errors import SetupError
from sfss.process import end_with_parent

_PROBE_EVERY_S = 0.05
_STILL_STARTING_EVERY_S = 10.0
_RESTART_S_MIN = 0.5
_RESTART_S_MAX = 30.0
_STEADY_S = 30.0
"""A part that lived this long is trusted again: its next restart is a quick one."""

_CHUNK_BYTES = 65_536
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Part:
    """One process: how it is started, how one sees that it answers, and how long it may take to stop."""

    name: str
    command: Sequence[str]
    answers: Callable[[], Awaitable[bool]]
    stop_s_max: float


class Supervisor:
    """Runs `tiers`, the lowest first. `say` takes one line for people; `logs` is the folder for the parts' logs."""

    def __init__(
        self,
        tiers: Sequence[Sequence[Part]],
        logs: Path,
        say: Callable[[str], None],
        jitter: random.Random | None = None,
    ) -> None:
        jitter = jitter or random.Random()
        self._tiers = [
            [_Watched(part, PartLog(logs / f"{part.name}.log"), say, jitter) for part in tier] for tier in tiers
        ]

    async def start(self) -> None:
        """Start all parts and wait until they answer; from then on they are kept running.

        Raises `SetupError` when one ends before. May be cancelled at any time; `close` is due in either case."""
        for tier in self._tiers:
            try:
                async with asyncio.TaskGroup() as group:
                    for watched in tier:
                        watched.spawn()
                        group.create_task(watched.first_answer())
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
            for watched in tier:
                watched.keep()

    async def close(self) -> None:
        """Stop tier by tier, the highest first; bounded by the sum of each tier's longest `stop_s_max`."""
        for tier in reversed(self._tiers):
            await asyncio.gather(*(watched.close() for watched in tier))


def restart_delay_s(failures: int, jitter: random.Random) -> float:
    """Seconds to wait before the start that follows `failures` (from 1) quick ends in a row."""
    doublings = min(failures - 1, 16)  # a part may fail for days, and there is no float for 2 to the 1024th
    return min(_RESTART_S_MIN * 2.0**doublings, _RESTART_S_MAX) * jitter.uniform(0.5, 1.5)


def how_it_ended(status: int) -> str:
    """An exit status as `subprocess` gives it, in words."""
    if status >= 0:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(-status).name}"


class _Watched:
    """A part over all its lives."""

    def __init__(self, part: Part, log: PartLog, say: Callable[[str], None], jitter: random.Random) -> None:
        self._part = part
        self._log = log
        self._say = say
        self._jitter = jitter
        self._life: _Life | None = None
        self._keeper: asyncio.Task[None] | None = None

    def spawn(self) -> None:
        """Begin a life. Raises `SetupError` when the system can't: no memory, no process ids, no such command."""
        self._log.forget_last_words()
        try:
            self._life = _Life(self._part.command, self._log.write)
        except OSError as error:
            self._life = None
            raise SetupError(f"{self._part.name} can't be started: {error.strerror or error}") from error

    async def first_answer(self) -> None:
        if not await self._answers():
            raise SetupError(self._blame())

    def keep(self) -> None:
        """From now on start the part again whenever it ends."""
        self._keeper = asyncio.create_task(self._keep_running())

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        if self._life is not None and not await self._life.end(self._part.stop_s_max):
            self._say(f"{self._part.name} did not stop within {self._part.stop_s_max:g} s and was killed")
        self._log.close()

    async def _keep_running(self) -> None:
        failures = 0
        while True:
            life = self._life
            if life is not None:
                await life.ended()
                failures = 1 if life.age_s() >= _STEADY_S else failures + 1
            delay_s = restart_delay_s(failures, self._jitter)
            self._say(f"{self._blame()}; starting it again in {delay_s:.1f} s")
            await asyncio.sleep(delay_s)
            try:
                self.spawn()
            except SetupError as error:
                self._say(str(error))
                failures += 1
                continue
            if await self._answers():
                self._say(f"{self._part.name} is back")

    async def _answers(self) -> bool:
        """Wait for the part's first answer. False when it ended before."""
        life = self._life
        patience = time.monotonic() + _STILL_STARTING_EVERY_S
        while life is not None and life.status is None:
            if await self._part.answers():
                return True
            await life.ended(_PROBE_EVERY_S)
            if time.monotonic() > patience:
                patience += _STILL_STARTING_EVERY_S
                self._say(f"{self._part.name} is still starting; its log: {self._log.path}")
        return False

    def _blame(self) -> str:
        if self._life is None or self._life.status is None:
            return f"{self._part.name} does not run"
        last_words = self._log.last_words()
        return (
            f"{self._part.name} {how_it_ended(self._life.status)}"
            f"{': ' + last_words if last_words else ''} (log: {self._log.path})"
        )


def _begin(parent: int) -> None:
    """What a child does before it becomes its own program."""
    for number in _STOP_SIGNALS:
        # Ignored for a moment, so that the kernel forgets a Ctrl-C that came before the child had left the terminal.
        signal.signal(number, signal.SIG_IGN)
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    end_with_parent(parent)


class _Life:
    """One process from its start to its end, in a session of its own: Ctrl-C in a terminal reaches the supervisor only,
    which then stops the parts in the right order."""

    def __init__(self, command: Sequence[str], take: Callable[[bytes], None]) -> None:
        """Raises `OSError` when it can't be started."""
        self.status: int | None = None
        """As `subprocess` gives it; None while it runs."""
        self._loop = asyncio.get_running_loop()
        self._take = take
        self._born = time.monotonic()
        self._over = self._loop.create_future()
        self._pipe, its_end = os.pipe()
        os.set_blocking(self._pipe, False)
        # A signal that reached the child before it runs its own program would be noted in the loop's wake-up socket,
        # which it shares with us until then, and be taken for a second one here.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        try:
            # Popen and a pidfd rather than asyncio's subprocesses: nothing is awaited between the fork and the moment
            # the process is known here, so no cancellation can lose one.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=its_end,
                stderr=its_end,
                start_new_session=True,
                preexec_fn=partial(_begin, os.getpid()),
            )
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(its_end)
        self._handle = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pipe, self._read)
        self._loop.add_reader(self._handle, self._has_ended)

    def age_s(self) -> float:
        return time.monotonic() - self._born

    async def ended(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; False when it did not come in time."""
        await asyncio.wait({self._over}, timeout=timeout_s)
        return self.status is not None

    async def end(self, grace_s: float) -> bool:
        """Ask the process to stop and wait; kill it after `grace_s`. Returns whether it stopped by itself."""
        if self.status is not None:
            return True
        self._process.terminate()
        if await self.ended(grace_s):
            return True
        self._kill_session()
        await self.ended()
        return False

    def _has_ended(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        # Workers that it left behind would hold its port, and its pipe.
        self._kill_session()
        self.status = self._process.wait()
        if self._pipe >= 0:
            # Its last words; a pipe holds one chunk by default.
            self._read()
        if self._pipe >= 0:
            self._hang_up()
        self._over.set_result(None)

    def _kill_session(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _read(self) -> None:
        """Take some of what the process printed."""
        try:
            chunk = os.read(self._pipe, _CHUNK_BYTES)
        except BlockingIOError:
            return
        if chunk:
            self._take(chunk)
        else:
            self._hang_up()

    def _hang_up(self) -> None:
        self._loop.remove_reader(self._pipe)
        os.close(self._pipe)
        self._pipe = -1
