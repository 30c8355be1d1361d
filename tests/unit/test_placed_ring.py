"""Who owns a key under a ring, and how many of them a request needs."""

from __future__ import annotations

from proxy.peer import Peer
from proxy.placed_ring import FOR_ABSENCE, FOR_HIT, FOR_STAMP, Owners, PlacedRing
from proxy.quorum import Quorum
from sfss.memory import MemoryStore
from sfss.ring import Member, NodeRing

A, B, C, D, E, F = (Peer(f"{name}:1", MemoryStore()) for name in "abcdef")
THREE = Quorum.over(3)


def owners(*peers: Peer, quorum: Quorum = THREE) -> Owners:
    return Owners.under(quorum, 1, peers)


def ring(names: str, copies: int, seats: str = "") -> NodeRing:
    members = [Member(f"{name}:1", seat=f"{seat}:1") for name, seat in zip(names, seats or names, strict=True)]
    return NodeRing(members, copies, partitions=64)


def placed(old: NodeRing, new: NodeRing, *quorums: Quorum) -> PlacedRing:
    peers = {one.name: Peer(one.name, MemoryStore()) for one in (*old.members, *new.members)}
    return PlacedRing(2, "print", [old, new], quorums or [THREE, THREE], peers)


def test_owners_need_what_their_quorum_says() -> None:
    found = owners(A, B, C)

    assert (found.peers, found.copies, found.w, found.holders, found.joint) == ((A, B, C), 3, 2, 2, None)
    assert (found.needed[FOR_STAMP], found.needed[FOR_HIT], found.needed[FOR_ABSENCE]) == (2, 2, 2)
    assert found.strictly is found


def test_a_relaxed_read_is_strict_where_a_write_counts_on_it() -> None:
    found = owners(A, B, C, quorum=Quorum.over(3, r=1))

    assert (found.needed[FOR_HIT], found.needed[FOR_ABSENCE], found.holders) == (1, 2, 1)
    assert (found.strictly.needed[FOR_HIT], found.strictly.holders) == (2, 2)
    assert found.strictly.strictly is found.strictly


def test_owners_that_stay_the_same_need_nothing_more() -> None:
    old = owners(A, B, C)

    assert Owners.of_both(old, owners(C, A, B)) is old


def test_of_owners_that_change_those_who_stay_are_asked_first() -> None:
    assert Owners.of_both(owners(A, B, C), owners(D, C, B)).peers == (B, C, A, D)
    assert Owners.of_both(owners(A, B, C), owners(D, E, F)).peers == (A, D, B, E, C, F)
    assert Owners.of_both(owners(A, quorum=Quorum.over(1)), owners(B, A, C)).peers == (A, B, C)


def test_joint_owners_need_at_least_what_each_side_needs() -> None:
    one, three = owners(A, quorum=Quorum.over(1)), owners(A, B, C)

    both = Owners.of_both(one, three)

    assert both.joint == (one, three)
    assert (both.copies, both.w, both.needed, both.holders) == (3, 2, (2, 2, 2), 2)
    assert both.strictly is both


def test_the_same_owners_with_another_quorum_are_joint() -> None:
    assert Owners.of_both(owners(A, B, C), owners(A, B, C, quorum=Quorum.over(3, w=3))).joint is not None


def test_joint_owners_are_strict_where_either_side_must_be() -> None:
    both = Owners.of_both(owners(A, B, C, quorum=Quorum.over(3, r=1)), owners(A, B, D))

    assert both.strictly is not both
    assert both.strictly.joint is not None
    assert [side.needed[FOR_HIT] for side in both.strictly.joint] == [2, 2]


def test_every_partition_of_a_ring_has_the_owners_of_its_placement() -> None:
    one = ring("abcd", 3)

    found = PlacedRing.of(one, [A, B, C, D], THREE)

    assert [owners.peers for owners in found.table] == [
        tuple([A, B, C, D][index] for index in indexes) for indexes in one.table
    ]
    assert not found.joint
    assert found.owners(b"key") is found.table[found.partition(b"key")]
    assert sum(found.held.values()) == 3 * 64
    assert sum(found.first.values()) == 64


def test_a_joint_ring_is_joint_only_where_owners_change() -> None:
    old, new = ring("abcd", 3), ring("abce", 3, seats="abcd")

    found = placed(old, new)

    names = {peer.name for peer in found.peers}
    assert names == {"a:1", "b:1", "c:1", "d:1", "e:1"}
    assert found.joint
    for partition, owners in enumerate(found.table):
        moves = "d:1" in {old.members[index].name for index in old.table[partition]}
        assert (owners.joint is not None) is moves
        assert {peer.name for peer in owners.peers} == {
            ring.members[index].name for ring in (old, new) for index in ring.table[partition]
        }
