"""The peers of a coordinator and the connections to them: made when the ring names a member, and closed some time after
it names it no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial
from typing import Protocol

from proxy.peer import NodeAccess, Peer
from sfss.store import Identity, Seen


class NodeClient(NodeAccess, Protocol):
    """A connection to a node."""

    async def close(self) -> None: ...


class Members:
    """`dial` makes the client of the member of that name, and tells its address as configured. The client tells the
    node what the last function returns, and calls the first with who the node says it is, on each new connection."""

    def __init__(
        self, dial: Callable[[str, Callable[[Identity], None], Callable[[], Seen | None]], tuple[str, NodeClient]]
    ) -> None:
        self._dial = dial
        self._clients: dict[str, NodeClient] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._gone: list[NodeClient] = []
        self.peers: dict[str, Peer] = {}
        """By their names in the ring."""
        self.identified: Callable[[Peer, Identity], None] | None = None
        """Called with who a peer says it is, once somebody wants to know; raises for one that must not be used."""
        self.last_seen: Callable[[Peer], Seen | None] | None = None
        """What is remembered of a peer, once somebody remembers it."""

    def take_in(self, name: str, zone: str) -> Peer:
        """The peer of that name, a new one where it isn't known."""
        peer = self.peers.get(name)
        if peer is None:
            address, client = self._dial(name, partial(self._greeted, name), partial(self._recalled, name))
            self._clients[name] = client
            peer = self.peers[name] = Peer(address, client)
        peer.zone = zone
        return peer

    def stranger(self, peer: Peer) -> NodeClient:
        """A connection of its own to whoever answers at a peer's address; the caller closes it."""
        return self.outsider(next(name for name, one in self.peers.items() if one is peer))[1]

    def outsider(self, name: str) -> tuple[Peer, NodeClient]:
        """Somebody who is no member, and the connection, which takes whoever answers; the caller closes it."""
        address, client = self._dial(name, lambda identity: None, lambda: None)
        return Peer(address, client), client

    def keep(self, names: Collection[str], after_s: float) -> None:
        """Let go of all others: their connections are closed when what is under way has had so long to end."""
        for name in [name for name in self.peers if name not in names]:
            del self.peers[name]
            client = self._clients.pop(name)
            self._gone.append(client)
            task = asyncio.get_running_loop().create_task(self._close_after(client, after_s), name=f"{name} leaves")
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Close all connections; idempotent."""
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*(client.close() for client in (*self._clients.values(), *self._gone)))

    async def _close_after(self, client: NodeClient, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await client.close()
        self._gone.remove(client)

    def _greeted(self, name: str, identity: Identity) -> None:
        peer = self.peers.get(name)
        if peer is not None and self.identified is not None:
            self.identified(peer, identity)

    def _recalled(self, name: str) -> Seen | None:
        peer = self.peers.get(name)
        return self.last_seen(peer) if peer is not None and self.last_seen is not None else None
