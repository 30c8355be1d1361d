"""A node over the network, as a backup asks it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from sfss.addresses import host_and_port
from sfss.backup.tree import Node
from sfss.errors import SetupError, WrongCluster, of_other_cluster
from sfss.memcache.access import OPEN, Access
from sfss.memcache.acquaintance import Acquaintance, introduce
from sfss.ring_keeper import HeldRing
from sfss.settings import parse_address
from sfss.store import Call, Identity

ANSWER_S = 5.0
"""How long a node may take for a part of its tree."""


class WireNode:
    """Implements `sfss.backup.tree.Node`. On each new connection it must be who it was, of the cluster that is backed
    up."""

    def __init__(self, host: str, port: int, access: Access = OPEN, cluster: str = "") -> None:
        self.name = host_and_port(host, port)
        self.cluster = cluster
        self.acquaintance = Acquaintance(host, port, self._check, access)

    @property
    def id(self) -> str:
        return self.acquaintance.node if self.acquaintance.introduced else ""

    async def meet(self) -> None:
        """Find out who it is. Raises `SfssError`."""
        await self.acquaintance.identify()

    async def close(self) -> None:
        await self.acquaintance.client.close()

    async def hashes(self, prefix: bytes) -> tuple[bytes, int]:
        listed = await self.acquaintance.client.hashes(prefix, _soon())
        return listed, (await self.acquaintance.identify()).ring

    async def tell_ring(self) -> HeldRing:
        return await self.acquaintance.client.tell_ring(_soon())

    def _check(self, identity: Identity) -> None:
        if not identity.cluster:
            raise WrongCluster(f"{self.name} belongs to no cluster; start a proxy, which founds it")
        if identity.cluster != (self.cluster or identity.cluster):
            raise WrongCluster(of_other_cluster(self.name, identity.cluster, self.cluster))
        known = self.acquaintance.node
        if known and identity.node != known:
            raise WrongCluster(f"at {self.name} there was node {known} and now is {identity.node}; put it back")
        self.cluster = identity.cluster


class WireNodes:
    """Implements `sfss.backup.tree.Cluster`."""

    def __init__(self, access: Access = OPEN) -> None:
        self._access = access
        self._nodes: dict[str, WireNode] = {}
        self._cluster = ""

    def node_at(self, name: str) -> WireNode:
        if name not in self._nodes:
            host, port = parse_address(name)
            self._nodes[name] = WireNode(host, port, self._access, self._cluster)
        return self._nodes[name]

    async def introduce(self, nodes: Sequence[Node]) -> None:
        known = [node for node in self._nodes.values() if node in nodes]
        await asyncio.gather(*(node.meet() for node in known if not node.id), return_exceptions=True)
        await introduce(node.acquaintance for node in known)

    async def meet(self, nodes: Sequence[WireNode]) -> str:
        """Ask nodes who they are; returns the cluster that they belong to. Those that don't answer are met later.
        Raises `SetupError` when nobody answers, or when they belong to two clusters."""
        answers = await asyncio.gather(*(node.meet() for node in nodes), return_exceptions=True)
        clusters = {node.cluster: node.name for node in nodes if node.cluster}
        if not clusters:
            reasons = "; ".join(f"{node.name}: {answer}" for node, answer in zip(nodes, answers, strict=True))
            raise SetupError(
                f"no node can be reached by the name that the proxies have for it ({reasons}); run this on a machine "
                "that reaches them"
            )
        if len(clusters) > 1:
            found = ", ".join(f"{name} to {cluster}" for cluster, name in clusters.items())
            raise SetupError(f"these nodes belong to several clusters: {found}; name the proxies of one")
        self._cluster = next(iter(clusters))
        for node in nodes:
            node.cluster = self._cluster
        await self.introduce(nodes)
        return self._cluster

    async def close(self) -> None:
        await asyncio.gather(*(node.close() for node in self._nodes.values()))


def _soon() -> Call:
    return Call(time.monotonic() + ANSWER_S)
