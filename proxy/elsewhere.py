"""Looking for a later ring elsewhere: at the nodes that the configuration names and the ring in use doesn't.

While a coordinator is stopped, paused or cut off, all members of its ring may be replaced. Then none of them is left to
tell the next one; the configuration may name some that are members by now. So these are asked at start, and for as long
as the ring in use has too few nodes to serve with, ever less often: they may be started later, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from proxy.asking import who_is
from proxy.members import Members, NodeClient
from proxy.peer import Peer
from sfss.errors import SfssError
from sfss.store import Identity
from sfss.tasks import end

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator

_REST_S_MAX = 10.0
"""How seldom at last they are asked."""

_log = logging.getLogger("sfss.proxy.cluster")


class Book(Protocol):
    """Who knows which cluster and ring are ours."""

    def ahead(self, answers: Iterable[tuple[Peer, Identity | SfssError]]) -> dict[Peer, int]:
        """Those of the cluster's nodes that are at a later ring, and at which; the latest first."""


class Elsewhere:
    """The nodes of these names (in the ring), as far as they aren't members; looked at from `start` to `close`."""

    def __init__(self, names: Sequence[str], members: Members, book: Book, within_s: float) -> None:
        self._names = names
        self._members = members
        self._book = book
        self._within_s = within_s
        self._clients: dict[str, NodeClient] = {}
        self._others: dict[str, Peer] = {}
        """Everybody who was ever asked: always the same peer, so that what others keep of it is found again."""
        self._task: asyncio.Task[None] | None = None

    def start(self, coordinator: Coordinator) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(coordinator), name="looking for a later ring")

    async def close(self) -> None:
        """Stop. Idempotent."""
        await end(self._task)
        await self._let_go(list(self._clients))

    async def ahead(self) -> dict[Peer, int]:
        """Ask all of them, for a limited time. Who is at a later ring than ours, and at which; the latest first."""
        await self._let_go([name for name in self._clients if name in self._members.peers])
        for name in self._names:
            if name not in self._members.peers and name not in self._clients:
                peer, client = self._members.outsider(name)
                self._clients[name] = client
                self._others.setdefault(name, peer).replica = client
        peers = [self._others[name] for name in self._clients]
        answers = await asyncio.gather(*(who_is(peer, self._within_s) for peer in peers))
        return self._book.ahead(zip(peers, answers, strict=True))

    async def _run(self, coordinator: Coordinator) -> None:
        rest_s = first_s = coordinator.options.probe_s_max
        while True:
            await asyncio.sleep(rest_s)
            try:
                if _surely_serves(coordinator):
                    rest_s = first_s
                    await self._let_go(list(self._clients))
                    continue
                rest_s = min(2 * rest_s, max(first_s, _REST_S_MAX))
                for peer, number in (await self.ahead()).items():
                    if coordinator.rings is not None:
                        coordinator.rings.heard(peer, number)
            except Exception:
                _log.exception("looking for a later ring failed, and is tried again")

    async def _let_go(self, names: Sequence[str]) -> None:
        for name in names:
            await self._clients.pop(name).close()


def _surely_serves(coordinator: Coordinator) -> bool:
    """Whether so few nodes are away that every key has a write quorum."""
    placed = coordinator.placed
    away = sum(peer.down or peer.suspect for peer in placed.peers)
    return away <= min(quorum.n - quorum.w for quorum in placed.quorums)
