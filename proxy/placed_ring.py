"""A ring as a coordinator uses it: for each partition the peers that own it, and how many of them a request needs.

While a ring changes it is *joint* and has two placements, the old one and the new one. A partition that moves needs its
quorums among the old owners and among the new ones; of all others the owners are what they were. The argument:
docs/decisions/ring-changes.rst.

A placed ring never changes; the next one takes its place as a whole. A request that begins asks once for the owners of
its key, and goes by what it got to its end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from proxy.peer import Peer
from proxy.quorum import Quorum
from sfss.keys import hash_key
from sfss.ring import NodeRing

FOR_STAMP: Final = 0
FOR_HIT: Final = 1
FOR_ABSENCE: Final = 2
"""What a gathering needs answers for, as indexes into `Owners.needed`: to meet every write quorum, to decide on a hit,
to decide that there is none."""


class Owners:
    """Who owns some partitions under the ring of number `ring`, and how many of them a request needs.

    `peers` are in the order in which to ask them. `w` acceptances make a write, `holders` known holders a hit; `copies`
    are kept. Where `joint` is given, all that is needed of the old owners and again of the new ones; the numbers here
    are then the least that can be enough. `strictly` is the same with strict reads (R = 1 isn't).
    """

    __slots__ = ("copies", "holders", "joint", "needed", "peers", "ring", "strictly", "w")

    def __init__(
        self,
        ring: int,
        peers: tuple[Peer, ...],
        w: int,
        needed: tuple[int, ...],
        holders: int,
        joint: tuple[Owners, Owners] | None = None,
        strictly: Owners | None = None,
    ) -> None:
        self.ring = ring
        self.peers = peers
        self.copies = len(peers)
        self.w = w
        self.needed = needed
        self.holders = holders
        self.joint = joint
        self.strictly = strictly or self

    def others_know(self, peer: Peer, away: Collection[Peer]) -> bool:
        """Whether enough of the other owners are left, without those `away`, that one of them has each acknowledged
        write that `peer` may have counted for."""
        if self.joint is not None:
            return all(side.others_know(peer, away) for side in self.joint if peer in side.peers)
        left = [one for one in self.peers if one is not peer and one not in away]
        return len(left) > self.copies - self.w

    @staticmethod
    def under(quorum: Quorum, ring: int, peers: tuple[Peer, ...]) -> Owners:
        """The owners of partitions with one placement."""
        strictly = Owners.under(quorum.strict(), ring, peers) if quorum.relaxed else None
        needed = (quorum.w, quorum.answers, quorum.answers_for_absence)
        return Owners(ring, peers, quorum.w, needed, quorum.holders, None, strictly)

    @staticmethod
    def of_both(old: Owners, new: Owners) -> Owners:
        """The owners of partitions that move. Those that are old and new owners come first: each counts for both."""
        if set(old.peers) == set(new.peers) and (old.w, old.needed) == (new.w, new.needed):
            return old
        peers = [peer for peer in old.peers if peer in new.peers]
        alone = [[peer for peer in one.peers if peer not in peers] for one in (old, new)]
        for place in range(max(map(len, alone))):
            peers += [peer for side in alone for peer in side[place : place + 1]]
        relaxed = old.strictly is not old or new.strictly is not new
        return Owners(
            old.ring,
            tuple(peers),
            max(old.w, new.w),
            tuple(map(max, old.needed, new.needed)),
            max(old.holders, new.holders),
            (old, new),
            Owners.of_both(old.strictly, new.strictly) if relaxed else None,
        )


class PlacedRing:
    """A ring whose members are peers. `rings` are its placements, with a quorum each: one, or the old and the new one.
    `peers` has all members by name. Made in some tens of milliseconds; look-ups are indexes into `table`."""

    def __init__(
        self,
        number: int,
        fingerprint: str,
        rings: Sequence[NodeRing],
        quorums: Sequence[Quorum],
        peers: Mapping[str, Peer],
    ) -> None:
        self.number = number
        self.fingerprint = fingerprint
        """As the nodes tell it."""
        self.rings = tuple(rings)
        self.quorums = tuple(quorums)
        self.peers = tuple(peers[name] for name in dict.fromkeys(one.name for ring in rings for one in ring.members))
        self.weights = {peers[one.name]: one.weight for ring in rings for one in ring.members}
        """The weight of each, in the new placement where it has one there."""
        self.partitions = self.rings[0].partitions
        self.shift = self.rings[0].shift
        """A key's partition is its hash shifted right by this."""
        self.table = self._place(peers)
        """For each partition its owners; equal ones are one object."""
        self.groups = tuple(dict.fromkeys(self.table))
        """The different ones among them."""
        self.shares = self.rings[-1].shares()
        """For each member of the last placement what it owns, relative to its fair part."""
        self.held = dict.fromkeys(self.peers, 0)
        """The partitions that each peer keeps copies of."""
        self.first = dict.fromkeys(self.peers, 0)
        """Those that it is the first owner of."""
        for owners in self.table:
            self.first[owners.peers[0]] += 1
            for peer in owners.peers:
                self.held[peer] += 1

    @staticmethod
    def of(ring: NodeRing, peers: Sequence[Peer], quorum: Quorum) -> PlacedRing:
        """The ring with one placement over peers in the order of its members."""
        members = zip(ring.members, peers, strict=True)
        return PlacedRing(ring.number, ring.fingerprint, [ring], [quorum], {one.name: peer for one, peer in members})

    @property
    def joint(self) -> bool:
        return len(self.rings) > 1

    @property
    def quorum(self) -> Quorum:
        """What is in force: while the ring changes, in the old placement."""
        return self.quorums[0]

    def partition(self, key: bytes) -> int:
        return hash_key(key) >> self.shift

    def owners(self, key: bytes) -> Owners:
        return self.table[hash_key(key) >> self.shift]

    def _place(self, peers: Mapping[str, Peer]) -> list[Owners]:
        tables = [
            _owners(self.number, ring, quorum, peers) for ring, quorum in zip(self.rings, self.quorums, strict=True)
        ]
        if len(tables) == 1:
            return tables[0]
        known: dict[tuple[Owners, Owners], Owners] = {}
        table = []
        for old, new in zip(*tables, strict=True):
            owners = known.get((old, new))
            if owners is None:
                owners = known[old, new] = Owners.of_both(old, new)
            table.append(owners)
        return table


def _owners(number: int, ring: NodeRing, quorum: Quorum, peers: Mapping[str, Peer]) -> list[Owners]:
    known: dict[tuple[int, ...], Owners] = {}
    for indexes in ring.table:
        if indexes not in known:
            known[indexes] = Owners.under(quorum, number, tuple(peers[ring.members[index].name] for index in indexes))
    return [known[indexes] for indexes in ring.table]
