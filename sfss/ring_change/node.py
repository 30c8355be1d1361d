"""The nodes of a cluster as whoever changes its ring sees them: asked by name, each left alone for a while after it
failed, and each the node that it should be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

from sfss.errors import Busy, ConnectionLost, Expired, SfssError, StaleRing, Unreachable
from sfss.ring_keeper import HeldRing, Prepared, Voted
from sfss.ring_record import RingRecord
from sfss.store import Applied, Identity, Record

T = TypeVar("T")

_REST_S = 2.0
"""A node that failed is not asked for so long: the others are not to wait for each question that it leaves open."""

_BUSY_S = (0.05, 0.2, 0.5)
"""How long to wait before a busy node is asked once more."""


class RingNode(Protocol):
    """One node. All of it raises `SfssError`, and within a few seconds."""

    async def identify(self) -> Identity: ...

    async def bind(self, cluster: str, fingerprint: str) -> Identity:
        """Make an empty node of no cluster one of this cluster."""

    def expect(self, node: str, cluster: str) -> None:
        """From now on it answers only if it is this one, of this cluster (`WrongCluster`)."""

    async def ring(self) -> HeldRing: ...

    async def prepare(self, number: int, ballot: int) -> Prepared: ...

    async def accept(self, ballot: int, record: RingRecord) -> Voted: ...

    async def learn(self, record: RingRecord) -> HeldRing:
        """Tell it of a ring that was decided. Returns the one that it has then."""

    async def left(self, number: int) -> None:
        """It is in ring `number` no more, and drops all that it has."""

    async def drop(self, number: int, partition: int) -> None:
        """Remove a partition that it doesn't own in ring `number`."""

    async def hashes(self, prefix: bytes) -> bytes:
        """What `get @<prefix>` answers."""

    async def read(self, key: bytes, number: int) -> Record | None: ...

    async def apply(self, key: bytes, record: Record, number: int) -> Applied: ...

    async def close(self) -> None: ...


class Overtaken(Exception):
    """A node has a later ring than the one that is being worked on: somebody else has carried on with it."""


class Nodes:
    """Every node that was ever named, by name; connected to when it is first asked for."""

    def __init__(
        self,
        connect: Callable[[str], RingNode],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._connect = connect
        self._monotonic = monotonic
        self._sleep = sleep
        self._nodes: dict[str, RingNode] = {}
        self._rests: dict[str, tuple[float, SfssError]] = {}

    def __getitem__(self, name: str) -> RingNode:
        if name not in self._nodes:
            self._nodes[name] = self._connect(name)
        return self._nodes[name]

    async def close(self) -> None:
        await asyncio.gather(*(node.close() for node in self._nodes.values()))

    async def ask(self, name: str, question: Callable[[RingNode], Awaitable[T]]) -> T:
        """One question to one node. Raises `SfssError`, at once where the node failed a moment ago."""
        until, error = self._rests.get(name, (0.0, None))
        if error is not None and self._monotonic() < until:
            raise Unreachable(str(error))
        for wait_s in _BUSY_S:
            try:
                return await self._ask_once(name, question)
            except Busy:
                await self._sleep(wait_s)
        return await self._ask_once(name, question)

    async def _ask_once(self, name: str, question: Callable[[RingNode], Awaitable[T]]) -> T:
        try:
            answer = await question(self[name])
        except (Unreachable, ConnectionLost, Expired) as failure:
            self._rests[name] = (self._monotonic() + _REST_S, failure)
            raise
        self._rests.pop(name, None)
        return answer

    async def ask_under(self, ring: RingRecord, name: str, question: Callable[[RingNode], Awaitable[T]]) -> T:
        """A question that a node answers only under this ring: one that is behind is told of it. Raises `SfssError`,
        and `Overtaken` where the node has a later one."""
        try:
            return await self.ask(name, question)
        except StaleRing as stale:
            if stale.ring > ring.number:
                raise Overtaken from None
        await self.ask(name, lambda node: node.learn(ring))
        return await self.ask(name, question)

    async def ask_all(
        self, names: Iterable[str], question: Callable[[RingNode], Awaitable[T]]
    ) -> tuple[dict[str, T], dict[str, SfssError]]:
        """The same question to many, side by side: what they answer, and why others don't."""
        names = list(names)
        replies = await asyncio.gather(*(self.ask(name, question) for name in names), return_exceptions=True)
        answers: dict[str, T] = {}
        errors: dict[str, SfssError] = {}
        for name, reply in zip(names, replies, strict=True):
            if isinstance(reply, SfssError):
                errors[name] = reply
            elif isinstance(reply, BaseException):
                raise reply
            else:
                answers[name] = reply
        return answers, errors
