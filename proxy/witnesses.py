"""Nodes as witnesses of one another: what one coordinator saw of a node, the others hear of as well.

What is remembered of nodes (`proxy.last_seen`) is kept by the nodes, too, and asked for at the start of a coordinator,
before it serves, soon after a node was met in a new start, and once in `ROUND_S`. So one that remembers nothing, or
slept, knows what those before it saw, as long as a node that was told is there. Whatever is heard of a node that isn't
known here is told to that node, which judges itself by it. Only then are all told what is known here: else a start of
an older copy could take the place of the one by which it would be found out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from proxy.asking import ask
from proxy.peer import NodeAccess, Peer
from sfss.errors import SfssError, Unsupported
from sfss.store import Identity, Refillable, Reply, Seen, Witness
from sfss.tasks import end

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator

ROUND_S = 60.0
"""How often all are told, and asked, when there is no news."""

_PAUSE_S = 1.0
"""Between two rounds, however much news there is."""

Ask = Callable[[Peer, Callable[[NodeAccess], Reply[Any]]], Awaitable[Any]]
"""Puts a question to a node, for a limited time. Raises `SfssError`."""

_log = logging.getLogger("sfss.proxy.witnesses")


class Book(Protocol):
    """Where what was seen of nodes is kept."""

    @property
    def news(self) -> asyncio.Event:
        """Set when a node was met in a new start."""

    def sightings(self) -> tuple[Seen, ...]: ...

    def hear(self, told: Iterable[Seen]) -> list[tuple[Peer, Seen]]:
        """Keep what is later than what is known. Returns whatever isn't known, and of which peer it is told."""


async def consult(book: Book, peers: Sequence[Peer], ask: Ask) -> tuple[list[tuple[Peer, Identity]], set[str]]:
    """Hear what nodes know of one another, and have those judge themselves of which something new was heard. Returns
    who these are, and the ids of those that couldn't be told."""
    told = await asyncio.gather(*(_told_by(peer, (), ask) for peer in peers))
    heard = book.hear(seen for each in told for seen in each)
    judged = await asyncio.gather(*(_judged(peer, seen, peers, ask) for peer, seen in heard))
    answers = list(zip(heard, judged, strict=True))
    return (
        [(peer, identity) for (peer, _), identity in answers if identity is not None],
        {seen.node for (_, seen), identity in answers if identity is None},
    )


async def _told_by(peer: Peer, known: Sequence[Seen], ask: Ask) -> Sequence[Seen]:
    try:
        told: Sequence[Seen] = await ask(peer, lambda replica: _witness(replica).witness(known))
    except SfssError as error:
        _log.debug("node %s is no witness: %s", peer.name, error)
        return ()
    return told


async def _judged(peer: Peer, seen: Seen, peers: Sequence[Peer], ask: Ask) -> Identity | None:
    if peer not in peers:
        return None
    try:
        identity: Identity = await ask(peer, lambda replica: _refillable(replica).recall(seen))
    except SfssError as error:
        _log.debug("node %s can't be told what was seen of it: %s", peer.name, error)
        return None
    return identity


def _witness(replica: NodeAccess) -> Witness:
    if not isinstance(replica, Witness):
        raise Unsupported("it keeps nothing in mind")
    return replica


def _refillable(replica: NodeAccess) -> Refillable:
    if not isinstance(replica, Refillable):
        raise Unsupported("it can't be refilled")
    return replica


class Witnesses:
    """Goes round the nodes of one coordinator, from `start` to `close`."""

    def __init__(self, book: Book, coordinator: Coordinator) -> None:
        self._book = book
        self._coordinator = coordinator
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="what was seen of nodes")

    async def close(self) -> None:
        """Stop. Idempotent."""
        await end(self._task)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE_S)
            try:
                async with asyncio.timeout(ROUND_S):
                    await self._book.news.wait()
            except TimeoutError:
                pass
            self._book.news.clear()
            try:
                await self.round()
            except Exception:
                _log.exception("what was seen of nodes could not be told, and will be again")

    async def round(self) -> None:
        """Hear all that seem to be there, and tell them."""
        peers = [peer for peer in self._coordinator.placed.peers if not peer.down]
        judged, untold = await consult(self._book, peers, self._ask)
        for peer, identity in judged:
            self._coordinator.health.met(peer, identity)
        known = [seen for seen in self._book.sightings() if seen.node not in untold]
        await asyncio.gather(*(_told_by(peer, known, self._ask) for peer in peers))

    async def _ask(self, peer: Peer, question: Callable[[NodeAccess], Reply[Any]]) -> Any:
        return await ask(self._coordinator, peer, lambda replica, call: question(replica), suspect_too=True)
