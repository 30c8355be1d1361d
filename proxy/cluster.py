"""A coordinator over real nodes: who they are, that they belong together, and the connections to them.

A cluster is founded once, when all its nodes are up: the first node (in the ring's order) is asked to make up the
cluster's id, which it does for exactly one coordinator, and the others are bound to that id. From then on a
coordinator starts and serves with nodes away. Each new connection tells the node what is remembered of it and asks who
it is. One that belongs elsewhere is left alone, or refused in one line at start; one that came back empty takes the
place of the one that was there (`proxy.adoption`).

The configuration's nodes are the cluster's only as long as the ring is the first one. Later ones are kept by the nodes
and remembered in the state directory, and then the configuration only says where some of them can be found.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

from proxy.adoption import Adoption, Vacancy
from proxy.asking import who_is
from proxy.comparer import Comparer
from proxy.coordinator import Coordinator
from proxy.elsewhere import Elsewhere
from proxy.following import Following, keeper, place
from proxy.health import Health
from proxy.hint_store import HintStore
from proxy.hints import Hints
from proxy.last_seen import LastSeen
from proxy.members import Members
from proxy.options import Options
from proxy.peer import NodeAccess, Peer
from proxy.placed_ring import PlacedRing
from proxy.quorum import Quorum
from proxy.refill import Refill
from proxy.replay import Replay
from proxy.rests import forget_replaced
from proxy.schedule import Schedule
from proxy.state import Notes, StampReserve, StateDirectory
from proxy.witnesses import Witnesses, consult
from sfss.addresses import host_and_port
from sfss.errors import SetupError, SfssError, Unavailable, Unreachable, WrongCluster
from sfss.memcache.access import OPEN, Access
from sfss.memcache.client import MemcacheClient
from sfss.ring import PARTITIONS, Member, NodeRing
from sfss.ring_record import RingRecord
from sfss.settings import parse_address
from sfss.stamps import StampClock
from sfss.store import Identity, Reply, Seen, settled

_RING_NUMBER = 1
_HINTS = "hints"
_RETRY_S = 0.2
_LOST = "belongs to no cluster and the others do: it was wiped or replaced"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_log = logging.getLogger("sfss.proxy.cluster")


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
    stamps. `founding_s` is how long to wait for all nodes of a cluster that isn't founded yet. `access` is what lets it
    in at the nodes."""

    addresses: tuple[NodeAddress, ...]
    n: int = 3
    w: int = 2
    r: int = 2
    partitions: int = PARTITIONS
    state: Path | None = None
    founding_s: float = 30.0
    access: Access = OPEN
    options: Options = field(default_factory=Options)


class NodeClient(NodeAccess, Protocol):
    """A connection to a node."""

    async def close(self) -> None: ...


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
        roll: _Roll,
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
        roll = _Roll(ring, record, members, directory)
        stack.push_async_callback(roll.close)
        members.last_seen = roll.last_seen_of
        names = [address.ring_name for address in config.addresses]
        elsewhere = Elsewhere(names, members, roll, config.options.node_deadline_s)
        stack.push_async_callback(elsewhere.close)
        answers = await _met(config, roll, members, elsewhere)
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


async def _met(
    config: ClusterConfig, roll: _Roll, members: Members, elsewhere: Elsewhere
) -> list[Identity | SfssError]:
    """Who the members of the ring are, or why they can't be used; that ring may turn out to be a later one than `roll`
    began with. Raises `SetupError`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + config.founding_s
    ahead = await elsewhere.ahead() if roll.record is not None else {}
    while True:
        if not ahead:
            founding = _Founding(roll, roll.ring.peers, config)
            answers = await founding.run()
            ahead = founding.ahead
        if not ahead:
            await _consult_witnesses(config, roll, answers)
            roll.mute.clear()
            return answers
        teller = next(iter(ahead))
        del ahead[teller]
        try:
            async with asyncio.timeout(config.options.node_deadline_s):
                held = await settled(keeper(teller.replica).tell_ring())
            if held.record is None:
                roll.mute.add(teller)
                continue
            roll.go_by(held.record, await place(held.record, members))
            members.keep([member.name for member in held.record.members], 0.0)
            ahead = {}
        except (SfssError, TimeoutError) as error:
            if not ahead and loop.time() >= until:
                reason = str(error) or type(error).__name__
                raise SetupError(f"the ring has changed, and node {teller.name} doesn't tell it: {reason}") from None
            if not ahead:
                await asyncio.sleep(_RETRY_S)


async def _consult_witnesses(config: ClusterConfig, roll: _Roll, answers: list[Identity | SfssError]) -> None:
    """Hear from the nodes what others saw of them, before they are counted on; updates `answers`."""

    async def ask(peer: Peer, question: Callable[[NodeAccess], Reply[Any]]) -> Any:
        try:
            return await asyncio.wait_for(settled(question(peer.replica)), config.options.node_deadline_s)
        except TimeoutError:
            raise Unreachable(f"no answer in {config.options.node_deadline_s} s") from None

    peers = roll.ring.peers
    met = [peer for peer, answer in zip(peers, answers, strict=True) if isinstance(answer, Identity)]
    judged, _ = await consult(roll, met, ask)
    for peer, identity in judged:
        try:
            roll.examine(peer, identity)
            answers[peers.index(peer)] = identity
        except WrongCluster as error:
            answers[peers.index(peer)] = error


def _configured(config: ClusterConfig, members: Members) -> PlacedRing:
    """The ring that a cluster is founded with."""
    nodes = [Member(address.ring_name, address.zone, address.weight) for address in config.addresses]
    quorum = Quorum.over(len(nodes), config.n, config.w, config.r)
    ring = NodeRing(nodes, quorum.n, partitions=config.partitions, number=_RING_NUMBER)
    return PlacedRing.of(ring, [members.take_in(member.name, member.zone) for member in ring.members], quorum)


class _Roll:
    """Who belongs to the cluster: its id, the node id last met at each address, and what was last seen of each."""

    def __init__(
        self, ring: PlacedRing, record: RingRecord | None, members: Members, directory: StateDirectory | None
    ) -> None:
        self.ring = ring
        self.record = record
        """Of the ring, None while that is the one of the configuration."""
        self._peers = members.peers
        self._notes = Notes(directory)
        self.mute: set[Peer] = set()
        """Who knows the number of its ring and not the ring."""
        self._complete = False
        self._last_seen = LastSeen(self._notes)
        self._lost: dict[Peer, str] = {}
        """Empty nodes that are to take the place of one of the cluster's, and what to say of it."""
        known = self._notes.state
        self.cluster = known.cluster
        self._members = self._nodes_of(record) if record is not None else dict(known.members)

    def examine(self, peer: Peer, identity: Identity) -> None:
        """Check a node that belongs to some cluster, or should; takes note of it. Raises `WrongCluster`."""
        if not identity.cluster:
            raise self.lost(peer, identity)
        self._lost.pop(peer, None)
        if identity.cluster != self.cluster:
            raise WrongCluster(f"node {peer.name} belongs to cluster {identity.cluster}, not to {self.cluster}")
        ring = self.ring
        if identity.ring > ring.number:
            return  # who belongs where is in that ring; it is examined once more under that one
        if identity.ring == ring.number and identity.fingerprint != ring.fingerprint:
            raise WrongCluster(
                f"node {peer.name} was bound to another ring ({identity.fingerprint[:8]}, not "
                f"{ring.fingerprint[:8]}): nodes, zones, weights, N or partitions differ from those of the existing "
                "files; put them back as they were when the cluster was founded"
            )
        known = self._members.get(peer.name)
        if known is not None and known != identity.node:
            raise WrongCluster(f"at {peer.name} there was node {known} and now is {identity.node}; put it back")
        for name, node in self._members.items():
            if node == identity.node and name != peer.name:
                raise WrongCluster(f"{name} and {peer.name} are one and the same node ({node}); name each node once")
        if known is None:
            self._members[peer.name] = identity.node
            if self._complete:
                self._remember()
        self._last_seen.note(identity, self._name_of(peer))

    def ahead(self, answers: Iterable[tuple[Peer, Identity | SfssError]]) -> dict[Peer, int]:
        """Those of the cluster's nodes that are at a later ring, and at which; the latest first."""
        rings = {
            peer: answer.ring
            for peer, answer in answers
            if isinstance(answer, Identity)
            and answer.cluster == self.cluster
            and answer.ring > self.ring.number
            and peer not in self.mute
        }
        return dict(sorted(rings.items(), key=itemgetter(1), reverse=True))

    def lost(self, peer: Peer, identity: Identity) -> WrongCluster:
        """Take note of an unbound node, which is to take the place of the one that was there. What to say of it."""
        was = self.node_of(peer)
        if was and not identity.position:
            told = self._lost.setdefault(peer, f"it takes the place of node {was}")
        else:
            self._lost.pop(peer, None)
            told = "it has had files of no cluster; give it an empty data directory"
            if not was:
                told = "nobody here knows which node it was (docs/operations.rst)"
        return WrongCluster(f"node {peer.name} {_LOST}; {told}")

    def vacancy_at(self, peer: Peer) -> Vacancy | None:
        """The place that the empty node at a peer's address is to take; None where no empty node was met."""
        if not self._complete or peer not in self._lost:
            return None
        # What it is bound to is the first ring, as with every node; a later one it is taught.
        fingerprint = self.ring.fingerprint if self.ring.number == _RING_NUMBER else "-"
        return Vacancy(self.cluster, _RING_NUMBER, fingerprint, self.node_of(peer))

    def not_adopted(self, peer: Peer, why: str) -> None:
        """An empty node can't take the place that it is to take."""
        if peer in self._lost:
            self._lost[peer] = f"it can't take the place of node {self.node_of(peer)} yet: {why}"

    @property
    def news(self) -> asyncio.Event:
        """Set when a node was met in a new start."""
        return self._last_seen.news

    def sightings(self) -> tuple[Seen, ...]:
        """What is remembered of all nodes."""
        return self._last_seen.all()

    def hear(self, told: Iterable[Seen]) -> list[tuple[Peer, Seen]]:
        """Keep what was seen of nodes and is later than what is known, and which node is where while that isn't known.
        Returns whatever isn't known, and of which peer it is told."""
        heard = []
        for seen in self._last_seen.hear(told):
            peer = self._peers.get(seen.name)
            if peer is None:
                continue
            if self.record is None and not self.node_of(peer) and seen.node not in self._members.values():
                self._members[peer.name] = seen.node
                self._remember()
            if self.node_of(peer) == seen.node:
                heard.append((peer, seen))
        return heard

    def _name_of(self, peer: Peer) -> str:
        return next((name for name, one in self._peers.items() if one is peer), "")

    def last_seen_of(self, peer: Peer) -> Seen | None:
        """What is remembered of the node that belongs at a peer's address."""
        return self._last_seen.of(self.node_of(peer))

    def node_of(self, peer: Peer) -> str:
        """The id of the node that belongs at a peer's address; empty while it was never met."""
        return self._members.get(peer.name, "")

    async def bind(self, peer: Peer) -> Identity:
        """Make an unbound node part of the cluster; the first one makes up the cluster's id. Raises `WrongCluster`."""
        ring = self.ring
        try:
            identity = await settled(peer.replica.bind(self.cluster or "new", ring.number, ring.fingerprint))
        except WrongCluster as error:
            raise WrongCluster(f"node {peer.name} can't join a cluster: {error}") from None
        self.cluster = self.cluster or identity.cluster
        self.examine(peer, identity)
        return identity

    def refuse_shared_machines(self) -> None:
        """Only before a cluster is founded: one that has files keeps its placement. Raises `WrongCluster`."""
        ring = self.ring.rings[0]
        if not any(member.zone for member in ring.members) and ring.sharing_machines():
            raise WrongCluster(
                "some nodes share a machine, so that a file may have all copies on one; say which machine each node is "
                "on, in the order of servers, as in zones = a,a,b,b,c"
            )

    def go_by(self, record: RingRecord, ring: PlacedRing) -> None:
        """A later ring is in use: it says which node is where."""
        self.record, self.ring = record, ring
        self._members = self._nodes_of(record)
        forget_replaced(self._lost, ring.peers)
        if self._complete:
            self._remember()

    def _nodes_of(self, record: RingRecord) -> dict[str, str]:
        return {self._peers[member.name].name: member.node for member in record.members}

    def complete(self) -> None:
        """The cluster is founded. Remembered only now: a founding that was cut short is taken up again."""
        self._complete = True
        self._remember()

    def _remember(self) -> None:
        self._notes.write(self.record, cluster=self.cluster, members=dict(self._members))

    async def close(self) -> None:
        """Write down what is known, and let go of the state directory."""
        self._last_seen.save()
        await self._notes.close()


class _Founding:
    """Finds the cluster that the nodes belong to, or makes them one."""

    def __init__(self, roll: _Roll, peers: Sequence[Peer], config: ClusterConfig) -> None:
        self._roll = roll
        self._remembered = bool(roll.cluster)
        self._peers = peers
        self._config = config
        self.ahead: dict[Peer, int] = {}
        """Who is at a later ring, the latest first: then that one is to be gone by, and nothing was settled."""

    async def run(self) -> list[Identity | SfssError]:
        """Return once the cluster is founded and whoever answers was checked: who each node is, or why it can't be
        used. Raises `SetupError`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._config.founding_s
        trouble = ""
        while True:
            # Files are looked for before memberships: files exist only once all nodes are bound (and none is bound that
            # had some before), so a node that is seen unbound after files were seen has lost its own.
            holds_files = any(
                isinstance(answer, Identity) and answer.cluster and answer.position for answer in await self._ask_all()
            )
            answers = await self._ask_all()
            try:
                if await self._settle(answers, holds_files):
                    if not self.ahead:
                        self._roll.complete()
                    return answers
            except WrongCluster as error:
                raise SetupError(str(error)) from None
            except SfssError as error:
                away, reasons = 0, str(error)
            else:
                errors = self._errors(answers)
                away, reasons = len(errors), "; ".join(errors)
            if loop.time() >= until:
                count = len(self._peers)
                raise SetupError(
                    f"{count - away} of {count} nodes answer, and a new cluster is founded with all of them ({reasons})"
                )
            if reasons != trouble:
                trouble = reasons
                _log.info("waiting for nodes: %s", reasons)
            await asyncio.sleep(_RETRY_S)

    async def _settle(self, answers: list[Identity | SfssError], holds_files: bool) -> bool:
        """Bring what was heard to a founded cluster, or say that it takes another try. Nodes that can't be used become
        errors in `answers`."""
        roll = self._roll
        met = [(index, answer) for index, answer in enumerate(answers) if isinstance(answer, Identity)]
        self._refuse_twins(met)
        bound = [(index, identity) for index, identity in met if identity.cluster]
        unbound = [index for index, identity in met if not identity.cluster]
        if bound:
            roll.cluster = roll.cluster or bound[0][1].cluster
            self.ahead = roll.ahead(zip(self._peers, answers, strict=True))
            if self.ahead:
                return True
        founded = self._remembered or holds_files or roll.record is not None
        if not founded and len(met) < len(self._peers):
            return False
        for index, identity in bound:
            roll.examine(self._peers[index], identity)
        if founded and unbound and not bound:
            raise WrongCluster(
                f"cluster {roll.cluster} is remembered, but {self._peers[unbound[0]].name} belongs to none: the nodes "
                "were wiped or replaced; use another state directory for a new cluster"
            )
        if founded:
            for index, identity in met:
                if not identity.cluster:
                    answers[index] = roll.lost(self._peers[index], identity)
            return True
        if not bound:
            roll.refuse_shared_machines()
        self._refuse_used([(index, identity) for index, identity in met if not identity.cluster])
        for index, _ in met:
            # The bound ones too: another coordinator's binding may still be on its way to the disk, and is waited for.
            answers[index] = await roll.bind(self._peers[index])
        return True

    def _refuse_used(self, unbound: Sequence[tuple[int, Identity]]) -> None:
        """A node that has had files, be they deleted since, would be taken for one of a cluster that has been in use,
        and those beside it that aren't bound yet for wiped ones."""
        for index, identity in unbound:
            if identity.position:
                raise WrongCluster(
                    f"node {self._peers[index].name} has had files of no cluster; give it an empty data directory"
                )

    def _refuse_twins(self, met: Sequence[tuple[int, Identity]]) -> None:
        names: dict[str, str] = {}
        for index, identity in met:
            peer = self._peers[index]
            if identity.node in names:
                raise WrongCluster(
                    f"{names[identity.node]} and {peer.name} are one and the same node ({identity.node}); "
                    "name each node once"
                )
            names[identity.node] = peer.name

    async def _ask_all(self) -> list[Identity | SfssError]:
        return await asyncio.gather(*(who_is(peer, self._config.options.node_deadline_s) for peer in self._peers))

    def _errors(self, answers: Sequence[Identity | SfssError]) -> list[str]:
        # Errors of what a node is name it already.
        return [
            f"{peer.name}: {answer}" if isinstance(answer, Unavailable) else str(answer)
            for peer, answer in zip(self._peers, answers, strict=True)
            if not isinstance(answer, Identity)
        ]
