"""Giving an empty node the place of the one that was at its address.

A node that belongs to no cluster, and is met where one of the cluster's was, lost its data directory. Whoever remembers
which node that was tells the empty one so. It takes over the id, and is suspect from then on until it has been refilled
(`proxy.refill`), so what it doesn't have is never believed. Until enough of the others are there for that it is left
alone. The old directory, should it be put back, is that of a node
that went back (`proxy.last_seen`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from proxy.peer import NodeAccess, Peer
from sfss.errors import SfssError
from sfss.store import Refillable, Seen, settled
from sfss.tasks import end

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator

_LOOK_S = 1.0
"""How often to look whether an empty node was met."""

_ANSWER_S = 5.0
"""How long it has to answer."""

_log = logging.getLogger("sfss.proxy.adoption")


class Vacancy(NamedTuple):
    """A place in the cluster that a node left: the cluster, number and fingerprint of its ring, and the node's id."""

    cluster: str
    ring: int
    fingerprint: str
    node: str


class Places(Protocol):
    """Who knows which node belongs where."""

    def vacancy_at(self, peer: Peer) -> Vacancy | None: ...

    def not_adopted(self, peer: Peer, why: str) -> None: ...

    def last_seen_of(self, peer: Peer) -> Seen | None: ...


class Connection(NodeAccess, Protocol):
    """To a node that isn't one of the cluster's yet."""

    async def close(self) -> None: ...


class Adoption:
    """Looks for empty nodes of one coordinator, from `start` to `close`. `connect` makes a connection that takes
    whoever answers."""

    def __init__(self, places: Places, coordinator: Coordinator, connect: Callable[[Peer], Connection]) -> None:
        self._places = places
        self._coordinator = coordinator
        self._connect = connect
        self._task: asyncio.Task[None] | None = None
        self._adopted = 0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="adoption of empty nodes")

    async def close(self) -> None:
        """Stop. Idempotent."""
        await end(self._task)

    def figures(self) -> dict[str, str]:
        """What `stats` tells of it; a count since the start."""
        return {"adopted_nodes": str(self._adopted)}

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            for peer in self._coordinator.placed.peers:
                vacancy = self._places.vacancy_at(peer)
                if vacancy is None:
                    continue
                try:
                    trouble = self._too_soon(peer) or await self._adopt(peer, vacancy)
                except Exception as error:
                    _log.exception("node %s couldn't be told which place to take, and will be again", peer.name)
                    trouble = repr(error)
                if trouble:
                    self._places.not_adopted(peer, trouble)

    def _too_soon(self, peer: Peer) -> str:
        """Why a node couldn't be refilled now, or nothing. Had it taken the place, and were the old directory only not
        mounted, as perhaps those of others are, that one would be taken for an old copy, and nobody have the files."""
        away = {one for one in self._coordinator.placed.peers if one.down or one.suspect}
        unknown = [
            owners
            for owners in self._coordinator.placed.groups
            if peer in owners.peers and not owners.others_know(peer, away)
        ]
        if not unknown:
            return ""
        missed = sorted({one.name for owners in unknown for one in owners.peers if one in away and one is not peer})
        if not missed:
            return "no other node keeps what it had; put its directory back"
        return f"what it had can't be known without {', '.join(missed)}"

    async def _adopt(self, peer: Peer, vacancy: Vacancy) -> str:
        """Have an empty node take a place. Returns why it can't, or nothing."""
        client = self._connect(peer)
        if not isinstance(client, Refillable):
            return "it can't be refilled"
        try:
            identity = await asyncio.wait_for(settled(client.adopt(*vacancy)), _ANSWER_S)
            seen = self._places.last_seen_of(peer)
            if seen is not None:
                # Now, and not with its next connection: what is compared before counts for nothing after.
                await asyncio.wait_for(settled(client.recall(seen)), _ANSWER_S)
        except TimeoutError:
            return f"no answer in {_ANSWER_S} s"
        except SfssError as error:
            return str(error) or type(error).__name__
        finally:
            await client.close()
        if identity.node != vacancy.node:
            return f"it has become node {identity.node}"
        self._adopted += 1
        _log.warning("node %s was empty; it takes the place of node %s and is refilled", peer.name, vacancy.node)
        return ""
