"""Placement: balance, zones, weights, how little moves, and what the fingerprint notices."""

import random
from bisect import bisect_left
from functools import cache

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from uhashring import HashRing

from sfss.errors import SetupError
from sfss.keys import hash_key
from sfss.ring import PARTITIONS, POINTS, Member, NodeRing, ServerRing


def members(count: int, zones: int = 0) -> list[Member]:
    return [Member(f"10.0.0.{n}:7900", zone=f"z{n % zones}" if zones else "") for n in range(1, count + 1)]


@cache
def ring_of(count: int, copies: int, zones: int = 0) -> NodeRing:
    """Of that many nodes. Tests share it: to make one takes most of their time."""
    return NodeRing(members(count, zones), copies)


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("count", range(3, 13))
def test_every_node_has_its_share_within_a_tenth(count, copies):
    shares = ring_of(count, copies).shares()

    assert 0.9 < min(shares) <= max(shares) < 1.1


@pytest.mark.parametrize("count", range(3, 13))
def test_first_owners_which_serve_the_bytes_of_reads_are_balanced_too(count):
    ring = ring_of(count, 3)
    first = [0] * count
    for owners in ring.table:
        first[owners[0]] += 1

    fair = ring.partitions / count
    assert 0.9 * fair < min(first) <= max(first) < 1.1 * fair


def test_owners_are_distinct_and_as_many_as_asked():
    ring = ring_of(5, 3)

    assert all(len(set(owners)) == 3 for owners in ring.table)


@pytest.mark.parametrize(("nodes", "zones", "expected"), [(9, 3, 3), (6, 2, 2), (12, 4, 3)])
def test_replicas_lie_in_different_zones_where_there_are(nodes, zones, expected):
    ring = NodeRing(members(nodes, zones), 3)

    for owners in ring.table:
        assert len({ring.members[index].zone for index in owners}) == expected
        assert len(set(owners)) == 3


def test_a_node_of_twice_the_weight_keeps_twice_as_much():
    nodes = [Member(f"n{n}:1", weight=2 if n == 0 else 1) for n in range(6)]

    ring = NodeRing(nodes, 1)

    shares = ring.shares()
    assert 0.9 < min(shares) <= max(shares) < 1.1
    assert sum(1 for owners in ring.table if owners[0] == 0) > 1.8 * ring.partitions / 7


@pytest.mark.parametrize("count", [3, 5, 11])
def test_adding_a_node_moves_about_its_share(count):
    before, after = ring_of(count, 3), ring_of(count + 1, 3)

    moved = 0
    for old, new in zip(before.table, after.table, strict=True):
        kept = {before.members[index].name for index in old}
        moved += sum(1 for index in new if after.members[index].name not in kept)

    ideal = 3 * before.partitions / (count + 1)
    assert moved < 1.12 * ideal


def test_a_key_is_placed_by_the_top_bits_of_its_hash():
    ring = NodeRing(members(4), 2, partitions=256)

    assert ring.partition(b"some/key") == hash_key(b"some/key") >> 56
    assert ring.owners(b"some/key") == ring.table[hash_key(b"some/key") >> 56]


def test_the_order_of_members_changes_nothing():
    nodes = members(7, 3)
    shuffled = nodes.copy()
    random.Random(1).shuffle(shuffled)

    one, other = NodeRing(nodes, 3), NodeRing(shuffled, 3)

    assert one.table == other.table
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("nodes", "copies", "partitions"),
    [
        (members(4), 3, PARTITIONS),
        (members(3), 2, PARTITIONS),
        (members(3), 3, 4096),
        (members(3, 3), 3, PARTITIONS),
        ([*members(2), Member("10.0.0.3:7900", weight=2)], 3, PARTITIONS),
        ([*members(2), Member("10.0.0.3:7901")], 3, PARTITIONS),
    ],
    ids=["nodes", "copies", "partitions", "zones", "weights", "address"],
)
def test_the_fingerprint_tells_rings_apart(nodes, copies, partitions):
    other = NodeRing(nodes, copies, partitions=partitions)

    assert ring_of(3, 3).fingerprint != other.fingerprint


def test_placement_never_changes_between_releases():
    # A change here moves every file of every cluster: it is a ring change, not a refactoring.
    ring = NodeRing(members(5, 3), 3)

    assert ring.fingerprint == "1b7bbb0fe6dff10b1f675f8bce13b448"


@pytest.mark.parametrize(
    ("nodes", "copies", "partitions", "message"),
    [
        ([], 1, 16, "no nodes"),
        ([Member("a:1"), Member("a:1")], 1, 16, "a:1 is named twice"),
        ([Member("a:1", weight=0)], 1, 16, "weight 0 of node a:1"),
        ([Member("a:1")], 2, 16, "2 copies can't be kept on 1 nodes"),
        ([Member("a:1")], 1, 100, "partitions 100 is not a power of two"),
    ],
)
def test_what_makes_no_ring_is_refused_in_words(nodes, copies, partitions, message):
    with pytest.raises(SetupError, match=message):
        NodeRing(nodes, copies, partitions=partitions)


def test_equal_rings_share_their_owner_tuples():
    ring = ring_of(12, 3)

    assert len({id(owners) for owners in ring.table}) <= 12 * 11 * 10


def owners_by_the_whole_continuum(ring: NodeRing) -> list[tuple[int, ...]]:
    """The plain definition: all points of uhashring in order, and from each partition's start on round the circle."""
    index_of = {member.seat or member.name: index for index, member in enumerate(ring.members)}
    points = HashRing(
        nodes={one.seat or one.name: {"vnodes": one.weight * POINTS // ring.unit} for one in ring.members},
        hash_fn=lambda text: xxhash.xxh3_64_intdigest(text.encode()),
    ).get_points()
    zones = [member.zone for member in ring.members]
    table = []
    for partition in range(ring.partitions):
        start = bisect_left(points, (partition << ring.shift, ""))
        chosen: list[int] = []
        for apart in (True, False):
            for _, name in points[start:] + points[:start]:
                index = index_of[name]
                used = {zones[other] for other in chosen}
                if len(chosen) == ring.copies or (apart and used == set(zones)):
                    break
                if index not in chosen and not (apart and zones[index] in used):
                    chosen.append(index)
        table.append(tuple(chosen))
    return table


@settings(max_examples=40, deadline=None)
@given(
    zones=st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=9),
    copies=st.integers(1, 4),
    weights=st.lists(st.integers(1, 3), min_size=9, max_size=9),
    bits=st.integers(1, 9),
    unit=st.sampled_from([None, 40, 500, 2048]),
)
def test_owners_are_those_of_the_whole_continuum(zones, copies, weights, bits, unit):
    # A large unit leaves nodes with a point or two, so that partitions are empty and owners lie far off.
    nodes = [Member(f"n{n}:1", zone, weights[n], f"seat-{n}" if n % 3 == 0 else "") for n, zone in enumerate(zones)]

    ring = NodeRing(nodes, min(copies, len(nodes)), partitions=1 << bits, unit=unit)

    assert ring.table == owners_by_the_whole_continuum(ring)


def test_servers_are_all_tried_the_key_s_own_first():
    ring = ServerRing(["a:1", "b:1", "c:1"])

    orders = {ring.order(b"%d" % n) for n in range(3000)}

    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert {order[0] for order in orders} == {0, 1, 2}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_order_of_servers_is_that_of_the_slot_of_the_keys_hash(count):
    ring = ServerRing([f"{name}:1" for name in range(count)])

    for n in range(2_000):
        key = b"key/%d" % n
        assert ring.order(key) == ring._table[hash_key(key) >> 52]


def test_servers_share_the_keys_evenly():
    ring = ServerRing(["a:1", "b:1", "c:1"])

    first = [0, 0, 0]
    for n in range(30_000):
        first[ring.order(b"key/%d" % n)[0]] += 1

    assert min(first) > 8_000


def test_a_server_s_place_in_the_list_does_not_matter_for_who_serves_a_key():
    names, turned = ["a:1", "b:1", "c:1"], ["c:1", "a:1", "b:1"]
    one, other = ServerRing(names), ServerRing(turned)

    for n in range(200):
        key = b"key/%d" % n
        assert names[one.order(key)[0]] == turned[other.order(key)[0]]


def test_a_server_named_twice_is_refused():
    with pytest.raises(SetupError, match="named twice"):
        ServerRing(["a:1", "a:1"])
