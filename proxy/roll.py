"""The roll: which nodes make up the cluster, and whether one that says who it is belongs where it was met.

It starts with what the state directory remembers or the configuration says, is completed by what nodes tell, and has it
all written down again once the cluster is founded. From the second ring on the ring itself says which node is where.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from operator import itemgetter

from proxy.adoption import Vacancy
from proxy.last_seen import LastSeen
from proxy.members import Members
from proxy.peer import Peer
from proxy.placed_ring import PlacedRing
from proxy.rests import forget_replaced
from proxy.state import Notes, StateDirectory
from sfss.errors import SfssError, WrongCluster, of_other_cluster
from sfss.ring_record import RingRecord
from sfss.store import Identity, Seen, settled

FIRST_RING = 1
"""The number of the ring that a cluster is founded with."""

_LOST = "belongs to no cluster and the others do: it was wiped or replaced"


class Roll:
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
        """Who knows the number of its ring and tells no such ring."""
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
            raise WrongCluster(of_other_cluster(f"node {peer.name}", identity.cluster, self.cluster))
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
        fingerprint = self.ring.fingerprint if self.ring.number == FIRST_RING else "-"
        return Vacancy(self.cluster, FIRST_RING, fingerprint, self.node_of(peer))

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
