"""Numbered rings as records: one way to write each, everything checked when read, and the ring that comes of it."""

import json

import pytest

from sfss.errors import BadRequest, SetupError
from sfss.ring import Member, NodeRing
from sfss.ring_record import RECORD_BYTES_MAX, Placement, RingMember, RingRecord

PARTITIONS = 64


def member(number: int, **more: object) -> RingMember:
    return RingMember(f"{number:032x}", f"10.0.0.{number}:7900", **more)


def placement(*numbers: int, **more: int) -> Placement:
    counts = {"n": 3, "w": 2, "r": 2, "unit": 1} | more
    return Placement(tuple(member(number) for number in numbers), **counts)


def settled(number: int, *numbers: int) -> RingRecord:
    return RingRecord(number, PARTITIONS, (placement(*numbers),))


def joint(number: int, old: Placement, new: Placement) -> RingRecord:
    return RingRecord(number, PARTITIONS, (old, new))


def told(record: RingRecord) -> dict[str, object]:
    return json.loads(record.encode())


def written(told: object) -> bytes:
    return json.dumps(told, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "record", [settled(1, 1, 2, 3), joint(2, placement(1, 2, 3), placement(2, 3, 4)), settled(3, 2, 3, 4)]
)
def test_a_record_comes_back_as_it_was_written(record):
    line = record.encode()

    assert RingRecord.decode(line) == record
    assert b"\n" not in line


def test_zones_weights_and_seats_come_back():
    nodes = (member(1, zone="a", weight=3), member(2, zone="b ü", seat="10.0.0.9:7900"), member(3, zone="c"))
    record = RingRecord(7, PARTITIONS, (Placement(nodes, 3, 2, 2, 1),))

    assert RingRecord.decode(record.encode()).placements[0].members == nodes


def test_the_order_in_which_members_are_given_makes_no_difference():
    assert settled(1, 3, 1, 2) == settled(1, 1, 2, 3)
    assert settled(1, 3, 1, 2).fingerprint == settled(1, 1, 2, 3).fingerprint


def test_the_fingerprint_tells_any_difference():
    records = [
        settled(1, 1, 2, 3),
        settled(3, 1, 2, 3),
        settled(1, 1, 2, 4),
        joint(2, placement(1, 2, 3), placement(1, 2, 4)),
        joint(2, placement(1, 2, 4), placement(1, 2, 3)),
        RingRecord(1, PARTITIONS, (placement(1, 2, 3, r=1),)),
        RingRecord(1, 2 * PARTITIONS, (placement(1, 2, 3),)),
        RingRecord(1, PARTITIONS, (Placement((member(1), member(2), member(3, zone="z")), 3, 2, 2, 1),)),
    ]

    assert len({record.fingerprint for record in records}) == len(records)
    assert all(len(record.fingerprint) == 32 for record in records)


def test_members_are_indexed_as_in_the_ring_that_comes_of_them():
    record = settled(5, 10, 9, 2, 1)

    ring = record.placements[0].node_ring(record.number, record.partitions)

    assert [m.name for m in ring.members] == [m.name for m in record.placements[0].members]
    assert (ring.number, ring.partitions, ring.copies) == (5, PARTITIONS, 3)


def test_ring_one_made_of_a_configuration_has_the_fingerprint_of_its_ring():
    configured = [Member("a:1", "x", 2), Member("b:1", "y", 4), Member("c:1", "z", 2)]
    ring = NodeRing(configured, 2, partitions=PARTITIONS)
    nodes = [RingMember(f"{i:032x}", m.name, m.zone, m.weight, m.seat) for i, m in enumerate(ring.members)]

    made = Placement(tuple(nodes), ring.copies, 2, 1, ring.unit)

    assert made.node_ring(1, PARTITIONS).fingerprint == ring.fingerprint


def test_a_node_of_both_placements_is_a_member_once_as_the_new_one_has_it():
    old = Placement((member(1), member(2)), 2, 2, 2, 1)
    new = Placement((member(1, weight=2), member(3)), 2, 2, 2, 1)

    assert joint(2, old, new).members == (member(1, weight=2), member(2), member(3))


def test_a_joint_ring_begins_with_the_placement_before_and_ends_in_one_of_its_two():
    old, new = placement(1, 2, 3), placement(2, 3, 4)
    before, between = RingRecord(1, PARTITIONS, (old,)), joint(2, old, new)

    assert between.may_follow(before)
    assert RingRecord(3, PARTITIONS, (new,)).may_follow(between)
    assert RingRecord(3, PARTITIONS, (old,)).may_follow(between)  # given up
    assert not joint(2, new, old).may_follow(before)
    assert not joint(3, old, new).may_follow(before)
    assert not joint(3, old, new).may_follow(between)
    assert not settled(2, 1, 2, 3).may_follow(before)
    assert not settled(3, 5, 6, 7).may_follow(between)
    assert not RingRecord(2, 2 * PARTITIONS, (old, new)).may_follow(before)


@pytest.mark.parametrize(
    "make",
    [
        lambda: settled(0, 1, 2, 3),
        lambda: settled(2**32 + 1, 1, 2, 3),
        lambda: RingRecord(1, PARTITIONS, ()),
        lambda: RingRecord(1, PARTITIONS, (placement(1, 2, 3),) * 3),
        lambda: RingRecord(1, 100, (placement(1, 2, 3),)),
        lambda: settled(1, 1, 2),
        lambda: settled(1, 1, 2, 2),
        lambda: RingRecord(1, PARTITIONS, (placement(1, 2, 3, w=4),)),
        lambda: RingRecord(1, PARTITIONS, (placement(1, 2, 3, r=0),)),
        lambda: RingRecord(1, PARTITIONS, (placement(1, 2, 3, unit=0),)),
        lambda: RingRecord(1, PARTITIONS, (Placement((RingMember("1", "a:1"),), 1, 1, 1, 1),)),
        lambda: RingRecord(1, PARTITIONS, (Placement((RingMember("f" * 32, "a b:1"),), 1, 1, 1, 1),)),
        lambda: RingRecord(1, PARTITIONS, (Placement((RingMember("f" * 32, "a"),), 1, 1, 1, 1),)),
        lambda: RingRecord(1, PARTITIONS, (Placement((member(1, zone="a\nb"),), 1, 1, 1, 1),)),
        lambda: RingRecord(1, PARTITIONS, (Placement((member(1, weight=17),), 1, 1, 1, 1),)),
    ],
)
def test_a_record_that_is_unsound_cant_be_made(make):
    with pytest.raises(SetupError):
        make()


def test_one_node_has_one_address_and_one_address_one_node():
    old = Placement((member(1),), 1, 1, 1, 1)
    moved = Placement((RingMember(member(1).node, "10.0.0.9:7900"),), 1, 1, 1, 1)
    other = Placement((RingMember(member(9).node, member(1).name),), 1, 1, 1, 1)

    for new in (moved, other):
        with pytest.raises(SetupError, match=r"10\.0\.0\.1:7900"):
            joint(2, old, new)
    with pytest.raises(SetupError, match="named"):
        RingRecord(1, PARTITIONS, (Placement((member(1), RingMember(member(1).node, "b:1")), 2, 2, 2, 1),))


def spoiled(change):
    content = told(joint(2, placement(1, 2, 3), placement(2, 3, 4)))
    change(content)
    return written(content)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b'{"number":1e400}',
        b"[" * 100_000,
        settled(1, 1, 2, 3).encode() + b"\n",
        json.dumps(told(settled(1, 1, 2, 3))).encode(),
        spoiled(lambda told: told.update(more=1)),
        spoiled(lambda told: told.update(number=True)),
        spoiled(lambda told: told.update(number="2")),
        spoiled(lambda told: told.update(partitions=64.0)),
        spoiled(lambda told: told.update(placements={})),
        spoiled(lambda told: told["placements"].clear()),
        spoiled(lambda told: told["placements"][0]["members"].reverse()),
        spoiled(lambda told: told["placements"][0]["members"][0].update(zone=None)),
        spoiled(lambda told: told["placements"][0]["members"][0].pop("seat")),
        spoiled(lambda told: told["placements"][0].update(n=4)),
        b" " * (RECORD_BYTES_MAX + 1),
    ],
)
def test_what_is_no_record_is_refused_in_one_line(line):
    with pytest.raises(BadRequest) as refused:
        RingRecord.decode(line)

    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_ring_of_too_many_nodes_is_refused_when_it_is_written():
    with pytest.raises(SetupError, match="too large"):
        settled(1, *range(1, 4000)).encode()
