"""A coordinator over real nodes, and all that works beside it: what is made at the start, in which order, and ended.

A cluster is founded once (`proxy.founding`). From then on a coordinator starts and serves with nodes away
(`proxy.meeting`). Each new connection tells the node what is remembered of it and asks who it is. One that belongs
elsewhere is left alone, or refused in one line at start (`proxy.roll`); one that came back empty takes the place of the
one that was there (`proxy.adoption`).

The configuration's nodes are the cluster's only as long as the ring is the first one. Later ones are kept by the nodes
and remembered in the state directory, and then the configuration only says where some of them can be found.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from proxy.adoption import Adoption
from proxy.comparer import Comparer
from proxy.coordinator import Coordinator
from proxy.elsewhere import Elsewhere
from proxy.following import Following, place
from proxy.health import Health
from proxy.hint_store import HintStore
from proxy.hints import Hints
from proxy.meeting import met
from proxy.members import Members, NodeClient
from proxy.options import Options
from proxy.peer import Peer
from proxy.placed_ring import PlacedRing
from proxy.quorum import Quorum
from proxy.refill import Refill
from proxy.replay import Replay
from proxy.roll import FIRST_RING, Roll
from proxy.schedule import Schedule
from proxy.state import StampReserve, StateDirectory
from proxy.witnesses import Witnesses
from sfss.addresses import host_and_port
from sfss.errors import SetupError
from sfss.memcache.access import OPEN, Access
from sfss.memcache.client import MemcacheClient
from sfss.ring import PARTITIONS, Member, NodeRing
from sfss.settings import parse_address
from sfss.stamps import StampClock
from sfss.store import Identity, Seen

_HINTS = "hints"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """A node as configured. `zone` names what may fail together; `weight` is its share beside the others."""

    host: str
    port: int
    zone: str = ""
    weight: int = 1

    @property
    def name(self) -> str:
        return host_and_port(self.host, self.port)

    @property
    def ring_name(self) -> str:
        """The name that placement goes by. The ways to write this machine's own address are one, so that a proxy on
        `localhost` and one on `127.0.0.1` place alike."""
        return host_and_port("localhost" if self.host in _LOOPBACK else self.host, self.port)


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What a coordinator is built from. `state` is its own small directory; without one every write asks before it
    stamps. `founding_s` is how long to wait for all nodes of a cluster that isn't founded yet, or for one that belongs
    to the cluster that is remembered. `access` is what lets it in at the nodes."""

    addresses: tuple[NodeAddress, ...]
    n: int = 3
    w: int = 2
    r: int = 2
    partitions: int = PARTITIONS
    state: Path | None = None
    founding_s: float = 30.0
    access: Access = OPEN
    options: Options = field(default_factory=Options)


Greet = Callable[[Identity], None]
LastSeenOf = Callable[[], Seen | None]
Connect = Callable[[NodeAddress, Greet, LastSeenOf], NodeClient]
"""Makes the client of a node. On each new connection it tells the node what the last function returns, calls the first
with who the node says it is, and drops the connection if that raises."""


def connect_by_memcache(access: Access) -> Connect:
    """Connects as the nodes ask for it."""

    def connect(address: NodeAddress, greet: Greet, last_seen: LastSeenOf) -> NodeClient:
        return MemcacheClient(
            address.host,
            address.port,
            access=access,
            greet=lambda _, identity: greet(identity),
            last_seen=last_seen,
        )

    return connect


class Cluster:
    """A coordinator and what it stands on; made by `open_cluster`."""

    def __init__(
        self,
        coordinator: Coordinator,
        members: Members,
        following: Following,
        elsewhere: Elsewhere,
        directory: StateDirectory | None,
        reserve: StampReserve | None,
        hints: Hints,
        schedule: Schedule,
        roll: Roll,
    ) -> None:
        self.coordinator = coordinator
        self._hints = hints
        self._replay = Replay(coordinator, hints)
        self._replay.start()
        self._comparer = Comparer(coordinator, schedule)
        self._comparer.start()
        coordinator.figures.also(self._comparer.figures)
        self._refill = Refill(coordinator)
        self._refill.start()
        coordinator.figures.also(self._refill.figures)
        self._witnesses = Witnesses(roll, coordinator)
        self._witnesses.start()
        self._adoption = Adoption(roll, coordinator, members.stranger)
        self._adoption.start()
        coordinator.figures.also(self._adoption.figures)
        self._elsewhere = elsewhere
        self._elsewhere.start(coordinator)
        self._roll = roll
        self._members = members
        self._following = following
        self._directory = directory
        self._reserve = reserve

    async def close(self, grace_s: float = 5.0) -> None:
        """End what is under way, at most for `grace_s`, and let go of the nodes and the state directory; idempotent."""
        await self.coordinator.close(grace_s)
        await self._elsewhere.close()
        await self._following.close()
        await self._replay.close()
        await self._comparer.close()
        await self._refill.close()
        await self._witnesses.close()
        await self._adoption.close()
        await self._members.close()
        # Only now: a write that a slow node didn't answer until here leaves a hint, too.
        await self._hints.close()
        if self._reserve is not None:
            await self._reserve.close()
        await self._roll.close()
        if self._directory is not None:
            self._directory.close()


async def open_cluster(
    config: ClusterConfig,
    *,
    connect: Connect | None = None,
    now: Callable[[], float] = time.time,
) -> Cluster:
    """Connect, found the cluster if need be, and check who answers. Raises `SetupError` with one line for a
    configuration that can't work, nodes that don't belong together, or a cluster that can't be founded."""
    async with AsyncExitStack() as stack:
        directory = StateDirectory(config.state) if config.state is not None else None
        if directory is not None:
            stack.callback(directory.close)
        members = _members(config, connect or connect_by_memcache(config.access))
        stack.push_async_callback(members.close)
        record = directory.ring if directory is not None else None
        ring = _configured(config, members) if record is None else await place(record, members)
        roll = Roll(ring, record, members, directory)
        stack.push_async_callback(roll.close)
        members.last_seen = roll.last_seen_of
        names = [address.ring_name for address in config.addresses]
        elsewhere = Elsewhere(names, members, roll, config.options.node_deadline_s)
        stack.push_async_callback(elsewhere.close)
        answers = await met(roll, members, elsewhere, config.founding_s, config.options.node_deadline_s)
        peers = roll.ring.peers
        following: Following | None = None

        def examine(peer: Peer, identity: Identity) -> None:
            roll.examine(peer, identity)
            if following is not None:
                following.examine(peer, identity)

        health = Health(
            peers,
            probe_s_min=config.options.probe_s_min,
            probe_s_max=config.options.probe_s_max,
            examine=examine,
        )
        for peer, answer in zip(peers, answers, strict=True):
            health.met(peer, answer)
        members.identified = health.identified
        reserve = StampReserve(directory, now) if directory is not None and not config.options.shared else None
        schedule = Schedule(roll.ring.partitions, config.options.compare_interval_s, config.options.compare_retry_s)
        hints = Hints(
            HintStore(config.state / _HINTS if config.state is not None else None),
            roll.ring.partition,
            node_of=roll.node_of,
            mark=schedule.mark,
            durable=config.state is not None,
            options=config.options,
            now=now,
        )
        stack.push_async_callback(hints.close)
        await hints.start()
        coordinator = Coordinator(
            roll.ring,
            options=config.options,
            health=health,
            clock=StampClock(now, floor=reserve.floor if reserve else 0),
            reserve=reserve,
            hints=hints,
            now=now,
        )
        coordinator.rings = following = Following(coordinator, members, roll.record, roll.go_by)
        for peer, answer in zip(peers, answers, strict=True):
            if isinstance(answer, Identity):
                following.heard(peer, answer.ring)
        stack.pop_all()
        return Cluster(coordinator, members, following, elsewhere, directory, reserve, hints, schedule, roll)


def _members(config: ClusterConfig, connect: Connect) -> Members:
    """Nobody yet. A member that the configuration names is reached as that says, any other by its name in the ring."""
    addresses = {address.ring_name: address for address in config.addresses}

    def dial(name: str, greet: Greet, last_seen: LastSeenOf) -> tuple[str, NodeClient]:
        address = addresses.get(name)
        if address is None:
            try:
                found = parse_address(name)
            except ValueError as error:
                raise SetupError(f"the ring has a member that can't be reached: {error}") from None
            address = NodeAddress(found.host, found.port)
        return address.name, connect(address, greet, last_seen)

    return Members(dial)


def _configured(config: ClusterConfig, members: Members) -> PlacedRing:
    """The ring that a cluster is founded with."""
    nodes = [Member(address.ring_name, address.zone, address.weight) for address in config.addresses]
    quorum = Quorum.over(len(nodes), config.n, config.w, config.r)
    ring = NodeRing(nodes, quorum.n, partitions=config.partitions, number=FIRST_RING)
    return PlacedRing.of(ring, [members.take_in(member.name, member.zone) for member in ring.members], quorum)
