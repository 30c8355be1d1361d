"""What happens to the nodes of a simulated cluster: they are cut off, die, and forget. Some of it is chance, some of it
is malice: who dies has what few others have.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.unit.simulated_cluster import Weather
from tests.unit.simulated_network import Machine

if TYPE_CHECKING:
    from tests.unit.simulated_repairs import SimulatedRepairs


@dataclass(frozen=True, slots=True)
class Crashes:
    """How nodes die: at any time, and `after_write` of the times soon after they have stored something. `forget` of
    them come back without the last records that they had stored, or without any, and know it. With `several` that also
    happens while another one is suspect: then no quorum may be left that has what was acknowledged, and nodes may stay
    suspect for ever."""

    every_s: float = 100.0
    after_write: float = 0.01
    forget: float = 0.8
    several: bool = False


class Trouble:
    """From `start` to `end`. `events` tells what happened to whom and when, `forgot` how often a node forgot."""

    def __init__(self, cluster: SimulatedRepairs, rng: random.Random, weather: Weather, crashes: Crashes) -> None:
        self._cluster = cluster
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._weather = weather
        self._crashes = crashes
        self._tasks: list[asyncio.Task[None]] = []
        self._over = False
        self.events: list[tuple[float, str]] = []
        self.forgot = 0

    def start(self) -> None:
        self._begin(self._cut_nodes_off())
        for node in self._cluster.machines:
            node.asked = functools.partial(self._asked, node)
        self._begin(self._kill_now_and_then())

    def end(self) -> None:
        """Whoever is down comes back, and nobody is cut off any more."""
        self._over = True
        for task in self._tasks:
            task.cancel()
        for node in self._cluster.machines:
            node.cut_off_until = 0.0
            self._start_again(node, 0)

    def _begin(self, trouble: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.ensure_future(trouble))

    def _note(self, node: Machine, what: str) -> None:
        self.events.append((self._loop.time(), f"n{self._cluster.machines.index(node)} {what}"))

    # by chance

    async def _cut_nodes_off(self) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self._weather.cut_off_every_s))
            self._cut_off(self._rng.choice(self._cluster.machines), self._rng.expovariate(1 / self._weather.cut_off_s))

    def _cut_off(self, node: Machine, seconds: float) -> None:
        node.cut_off_until = self._loop.time() + seconds
        self._note(node, f"cut off for {seconds:.6f}")

    async def _kill_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self._crashes.every_s))
            self._kill(self._rng.choice(self._cluster.machines))

    def _asked(self, node: Machine, kind: str) -> None:
        """A request has come. Some nodes die of it; one that is about to be trusted may forget once more."""
        rng = self._rng
        if kind == "apply" and rng.random() < self._crashes.after_write:
            self._loop.call_later(rng.expovariate(50.0), self._kill, node)
        elif kind == "trust" and node.suspect and rng.random() < 0.2:
            self._kill(node)
            self._start_again(node, rng.choice([1, 3, 10]) if self._may_forget(node) else 0)

    def _kill(self, node: Machine) -> None:
        rng = self._rng
        if not node.up or self._over:
            return
        forgets = rng.random() < self._crashes.forget and self._may_forget(node)
        node.kill()
        self._note(node, "killed")
        count = rng.choice([1, 3, 10, 10, 1000]) if forgets else 0
        down_s = rng.choice([0.01, 0.1, 0.1, 10.0])
        self._loop.call_later(rng.expovariate(1 / down_s), self._start_again, node, count)

    def _may_forget(self, node: Machine) -> bool:
        """Whether what was acknowledged is surely on enough of the others: none of them has forgotten anything, or will
        have when it is up again."""
        return self._crashes.several or all(
            other.up and not other.suspect for other in self._cluster.machines if other is not node
        )

    def _start_again(self, node: Machine, forget: int) -> None:
        if not node.up:
            node.up = True
            node.store.restart(forget)
            self.forgot += bool(forget)
            self._note(node, f"started, without its last {forget} records" if forget else "started")

    # on purpose

    def cut_one_off(self, seconds: float) -> None:
        """A node is out of reach for so long."""
        self._cut_off(self._rng.choice(self._cluster.machines), seconds)

    async def strike(self, work: Callable[[], Awaitable[None]]) -> None:
        """Let clients work while a node is out of reach; then another one forgets what they did. The third may be out
        of reach while the second is refilled."""
        rng = self._rng
        if rng.random() < 0.8:
            await self._peace()
        absent, victim, other = rng.sample(self._cluster.machines, 3)
        if rng.random() < 0.8:
            self._cut_off(absent, 1e9)
        if rng.random() < 0.3:
            self._loop.call_later(rng.expovariate(5.0), self._kill, victim)
        await work()
        self._kill(victim)
        await asyncio.sleep(rng.expovariate(3.0))
        self._cut_off(absent, 0.0)
        if rng.random() < 0.5:
            self._cut_off(other, rng.uniform(0.0, 30.0))

    async def _peace(self) -> None:
        """Wait until nobody is suspect, or for a while: only then may another one forget."""
        until = self._loop.time() + 90.0
        while self._loop.time() < until and any(node.suspect or not node.up for node in self._cluster.machines):
            await asyncio.sleep(1.0)
