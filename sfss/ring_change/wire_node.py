"""A node over the network, for whoever changes its ring."""

from __future__ import annotations

import asyncio
import time

from sfss.addresses import host_and_port
from sfss.errors import Unreachable, WrongCluster, of_other_cluster
from sfss.memcache.access import OPEN, Access
from sfss.memcache.acquaintance import Acquaintance, introduce
from sfss.ring_keeper import HeldRing, Prepared, Voted
from sfss.ring_record import RingRecord
from sfss.store import Applied, Call, Identity, Record

_ANSWER_S = 5.0
_DROP_S = 10.0
"""What a node drops it notes on disk first, and looks up in its index."""


class WireNode:
    """Implements `sfss.ring_change.node.RingNode`. `company` are all nodes that were connected to for the same purpose:
    when one is first met, it is told what those saw of it."""

    def __init__(self, host: str, port: int, access: Access = OPEN, company: list[Acquaintance] | None = None) -> None:
        self._name = host_and_port(host, port)
        self._met: Identity | None = None
        self._expected: tuple[str, str] | None = None
        self._node = Acquaintance(host, port, self._greet, access)
        self._company = company if company is not None else []
        self._company.append(self._node)
        self._meeting = asyncio.Lock()

    def expect(self, node: str, cluster: str) -> None:
        self._expected = node, cluster

    async def close(self) -> None:
        await self._node.client.close()

    async def identify(self) -> Identity:
        identity = await self._node.identify()
        if not self._node.introduced:
            await introduce(self._company)
            identity = await self._node.identify()
        self._met = identity
        self._check()
        return identity

    async def bind(self, cluster: str, fingerprint: str) -> Identity:
        self._met = bound = await self._node.client.bind(cluster, 1, fingerprint)
        return bound

    async def ring(self) -> HeldRing:
        await self._meet()
        return await self._node.client.tell_ring(self._call())

    async def prepare(self, number: int, ballot: int) -> Prepared:
        await self._meet()
        return await self._node.client.prepare_ring(number, ballot, self._call())

    async def accept(self, ballot: int, record: RingRecord) -> Voted:
        await self._meet()
        return await self._node.client.accept_ring(ballot, record, self._call())

    async def learn(self, record: RingRecord) -> HeldRing:
        await self._meet()
        return await self._node.client.learn_ring(record, self._call())

    async def left(self, number: int) -> None:
        await self._meet()
        await self._node.client.leave_ring(number, self._call(seconds=_DROP_S))

    async def drop(self, number: int, partition: int) -> None:
        await self._meet()
        await self._node.client.drop_partition(number, partition, self._call(seconds=_DROP_S))

    async def hashes(self, prefix: bytes) -> bytes:
        await self._meet()
        return await self._node.client.hashes(prefix, self._call())

    async def read(self, key: bytes, number: int) -> Record | None:
        await self._meet()
        return await self._node.client.read(key, self._call(number))

    async def apply(self, key: bytes, record: Record, number: int) -> Applied:
        await self._meet()
        return await self._node.client.apply(key, record, self._call(number))

    def _call(self, ring: int = 0, seconds: float = _ANSWER_S) -> Call:
        return Call(time.monotonic() + seconds, ring)

    async def _meet(self) -> None:
        """Refuse it as `_check` does, and until it was told what the others saw of it: it may be first asked for
        something long after them, being away before, and have gone back meanwhile."""
        if not self._node.introduced:
            async with self._meeting:
                if not self._node.introduced:
                    await self.identify()
            if not self._node.introduced:
                raise Unreachable(f"{self._name} could not be told what the others saw of it")
        self._check()

    def _greet(self, identity: Identity) -> None:
        self._met = identity
        self._check()

    def _check(self) -> None:
        """Refuse a node that isn't the one that it should be: its directory was emptied, or is another one's."""
        if self._met is None or self._expected is None:
            return
        node, cluster = self._expected
        if self._met.node != node:
            raise WrongCluster(f"at {self._name} there was node {node} and now is {self._met.node}; put it back")
        if self._met.cluster != cluster:
            raise WrongCluster(of_other_cluster(self._name, self._met.cluster, cluster))
