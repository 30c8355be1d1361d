"""The cluster as the commands about its ring meet it: its configuration, its nodes, and the ring that they have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from proxy.cluster import ClusterConfig, NodeAddress
from proxy.configuration import load_configuration
from proxy.quorum import Quorum
from proxy.state import remembered, remembered_ring
from sfss.errors import SetupError, SfssError
from sfss.memcache.access import Access
from sfss.memcache.acquaintance import Acquaintance
from sfss.memcache.client import MemcacheClient
from sfss.pace import Pace
from sfss.ring import Member, NodeRing
from sfss.ring_change.mover import Mover
from sfss.ring_change.node import Nodes
from sfss.ring_change.wire_node import WireNode
from sfss.ring_change.wish import Wish
from sfss.ring_plan import Change
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.settings import parse_address
from sfss.store import Call, Identity

_ANSWER_S = 2.0


@dataclass(frozen=True, slots=True)
class Holding:
    """What a node says of itself. `error` is why it doesn't; then all else is empty."""

    node: str = ""
    cluster: str = ""
    ring: int = 0
    fingerprint: str = ""
    files: int = 0
    live_bytes: int = 0
    free_bytes: int = 0
    error: str = ""


class RingCluster:
    """A cluster by the configuration of one of its proxies."""

    def __init__(self, config: ClusterConfig, access: Access, source: str) -> None:
        self.config = config
        self.source = source
        """What messages call the configuration."""
        self._access = access
        self._addresses = {address.ring_name: address for address in config.addresses}
        self._first: RingRecord | None = None

    @classmethod
    def load(cls, conf: Path) -> RingCluster:
        """Raises `SetupError`."""
        loaded = load_configuration(conf)
        return cls(loaded.cluster, loaded.nodes.access(), str(conf))

    @property
    def names(self) -> list[str]:
        """The nodes of the configuration, as the ring names them."""
        return list(self._addresses)

    def quorum(self, nodes: int) -> Quorum:
        """N, W and R of the configuration over so many nodes."""
        return Quorum.over(nodes, self.config.n, self.config.w, self.config.r)

    def quorum_after(self, present: Quorum, nodes: int, asked: tuple[int, int, int] | None) -> Callable[[int], Quorum]:
        """N, W and R of a next ring by its number of nodes, where `nodes` have `present`: those that are asked for,
        else the configuration's if they are what made the present ones, else these."""
        if asked is not None:
            return lambda count: Quorum.over(count, *asked)
        if self.quorum(nodes) == present:
            return self.quorum
        return lambda count: Quorum.over(count, *astuple(present))

    def wish(self, change: Change, ring: RingRecord, asked: tuple[int, int, int] | None = None) -> Wish:
        """That the ring, or the one that it follows on, be changed. `asked` as of `quorum_after`."""
        placement = ring.placements[0]
        after = self.quorum_after(quorum_of(placement), len(placement.members), asked)
        return Wish(change, lambda nodes: astuple(after(nodes)))

    def configured_ring(self) -> tuple[NodeRing, Quorum]:
        """The ring that the cluster was founded with. 0.2 s of CPU."""
        quorum = self.quorum(len(self._addresses))
        members = [Member(address.ring_name, address.zone, address.weight) for address in self.config.addresses]
        return NodeRing(members, quorum.n, partitions=self.config.partitions, number=1), quorum

    @asynccontextmanager
    async def mover(self, say: Callable[[str], None], pace: Pace | None = None) -> AsyncIterator[Mover]:
        """A mover that is connected to the nodes."""
        company: list[Acquaintance] = []
        nodes = Nodes(lambda name: self._connect(name, company))
        try:
            yield Mover(nodes, self.names, self._first_ring, say=say, pace=pace)
        finally:
            await nodes.close()

    async def look(self) -> RingRecord:
        """The latest ring that any node has. Raises `SetupError` where none can be found."""
        async with self.mover(lambda _: None) as mover:
            return await mover.look()

    async def holdings(self, names: Iterable[str]) -> dict[str, Holding]:
        """What nodes tell of themselves, by name."""
        names = list(names)
        answers = await asyncio.gather(*(self._ask(name) for name in names))
        return dict(zip(names, answers, strict=True))

    def _address(self, name: str) -> NodeAddress:
        """A node that the configuration doesn't have lives where its name says."""
        return self._addresses[name] if name in self._addresses else address_of(name)

    def _connect(self, name: str, company: list[Acquaintance]) -> WireNode:
        address = self._address(name)
        return WireNode(address.host, address.port, self._access, company)

    async def _ask(self, name: str) -> Holding:
        address = self._address(name)
        client = MemcacheClient(address.host, address.port, access=self._access)
        try:
            async with asyncio.timeout(_ANSWER_S):
                identity = await client.identify()
                stats = await client.stats("", Call(time.monotonic() + _ANSWER_S))
            return Holding(
                identity.node,
                identity.cluster,
                identity.ring,
                identity.fingerprint,
                int(stats["curr_items"]),
                int(stats["live_bytes"]),
                int(stats["disk_free_bytes"]),
            )
        except TimeoutError:
            return Holding(error=f"no answer in {_ANSWER_S:g} s")
        except (SfssError, KeyError, ValueError) as error:
            return Holding(error=str(error))
        finally:
            await client.close()

    async def _first_ring(self, identities: Mapping[str, Identity]) -> RingRecord:
        """The record of ring 1, which nodes don't have: from the configuration, and who the nodes are."""
        if self._first is None:
            ring, quorum = await asyncio.to_thread(self.configured_ring)
            for name, identity in identities.items():
                self.check_bound(ring, name, identity.fingerprint)
            ids = await asyncio.to_thread(self._remembered_ids)
            ids |= {name: identity.node for name, identity in identities.items()}
            for name in self.names:
                if name not in ids:
                    raise SetupError(
                        f"{name} does not answer, and which node it is isn't known here: run this where a proxy's "
                        "state directory is, with its configuration, or start the node once more"
                    )
            members = tuple(
                RingMember(ids[member.name], member.name, member.zone, member.weight) for member in ring.members
            )
            placement = Placement(members, quorum.n, quorum.w, quorum.r, ring.unit)
            self._first = RingRecord(1, ring.partitions, (placement,))
        return self._first

    def check_bound(self, ring: NodeRing, name: str, fingerprint: str) -> None:
        """Refuse (`SetupError`) a configuration that isn't what the cluster was founded with."""
        if fingerprint and fingerprint != ring.fingerprint:
            raise SetupError(
                f"node {name} was bound to another ring ({fingerprint[:8]}, not {ring.fingerprint[:8]}): nodes, "
                f"zones, weights, N or partitions in {self.source} differ from those of the existing files; put them "
                "back as they were when the cluster was founded"
            )

    def remembered_ring(self) -> RingRecord | None:
        """The last one that the proxy of this configuration has met, if that wasn't the first."""
        return remembered_ring(self.config.state) if self.config.state is not None else None

    def _remembered_ids(self) -> dict[str, str]:
        """Those that the proxy of this configuration has met, by the ring's names."""
        known = remembered(self.config.state).members if self.config.state is not None else {}
        return {address.ring_name: known[address.name] for address in self.config.addresses if address.name in known}


def quorum_of(placement: Placement) -> Quorum:
    return Quorum(placement.n, placement.w, placement.r)


def address_of(text: str) -> NodeAddress:
    """Raises `SetupError`."""
    try:
        address = parse_address(text)
    except ValueError as error:
        raise SetupError(f"a node is named by host:port or its id: {error}") from None
    return NodeAddress(address.host, address.port)
