"""What a ring asks for, partition by partition: barriers, tasks, and places of the hash tree."""

from __future__ import annotations

import pytest

from sfss.hash_tree import hash_range
from sfss.ring_change.layout import Group, Layout, Tasks, even_out, fill
from sfss.ring_change.leftovers import places_of
from sfss.ring_record import Placement, RingMember, RingRecord
from tests.unit.ring_lab import id_of, quorum

ABC = Group(("a", "b", "c"), 2, 2)
ABD = Group(("a", "b", "d"), 2, 2)


@pytest.mark.parametrize(
    ("owners", "w", "r", "barrier"),
    [(3, 2, 2, 2), (3, 3, 1, 3), (3, 2, 1, 2), (3, 3, 2, 2), (5, 3, 3, 3), (5, 4, 2, 4), (1, 1, 1, 1), (2, 2, 2, 1)],
)
def test_behind_the_barrier_the_ring_before_has_neither_a_write_nor_a_read_quorum(
    owners: int, w: int, r: int, barrier: int
) -> None:
    group = Group(tuple(map(str, range(owners))), w, r)

    assert group.barrier == barrier
    assert owners - barrier < w
    # A read quorum of one isn't any: a hit may be old, and absence takes N - W + 1.
    assert owners - barrier < (r if r > 1 else owners - w + 1)


def test_only_partitions_whose_owners_change_are_filled() -> None:
    task = fill(ABC, ABD)

    assert fill(ABC, Group(("c", "a", "b"), 2, 2)) is None
    assert task is not None
    assert (task.sources, task.heard_min, task.targets, task.holders_min) == (ABC.owners, 2, ABD.owners, 2)
    assert fill(ABC, Group(ABC.owners, 3, 1)) is not None  # a write that two have needs three from now on


def test_owners_are_evened_out_with_all_of_them_but_for_those_that_are_about_to_leave() -> None:
    everybody = even_out(ABC, frozenset())
    others = even_out(ABC, frozenset({"c"}))
    too_few = even_out(ABC, frozenset({"b", "c"}))

    assert (everybody.heard_min, everybody.holders_min) == (3, 3)
    assert (others.sources, others.heard_min, others.holders_min) == (("a", "b"), 2, 2)
    assert too_few.heard_min > len(too_few.sources)


@pytest.mark.parametrize("partitions", [2, 8, 16, 64, 4096, 1 << 16, 1 << 18])
def test_the_places_of_a_partition_cover_it_and_no_more_than_a_leaf_besides(partitions: int) -> None:
    shift = 64 - (partitions.bit_length() - 1)
    for partition in {0, 1, partitions // 2, partitions - 1}:
        places = places_of(partition, shift)

        low, high = hash_range(places[0])[0], hash_range(places[-1])[1]
        if partitions <= 1 << 16:
            assert (low, high) == (partition << shift, (partition + 1) << shift)
        else:
            assert low <= partition << shift < (partition + 1) << shift <= high
        assert [hash_range(place)[0] for place in places[1:]] == [hash_range(place)[1] for place in places[:-1]]


def test_a_layout_tells_owners_by_name_and_what_a_node_doesnt_own() -> None:
    members = tuple(RingMember(id_of(name), name) for name in ("a:1", "b:1", "c:1", "d:1"))
    old, new = Placement(members[:3], *quorum(3), 1), Placement(members, *quorum(4), 1)
    layout = Layout(RingRecord(2, 64, (old, new)))

    tasks = layout.tasks(fill)
    foreign = layout.foreign("d:1")

    assert {frozenset(group.owners) for group in layout.old_groups()} == {frozenset({"a:1", "b:1", "c:1"})}
    assert [bool(byte) for byte in foreign] == ["d:1" not in group.owners for group in layout.groups[1]]
    assert tasks.count == foreign.count(0)
    assert not any(layout.foreign("a:1"))


def test_tasks_are_counted_by_the_part_of_a_partition_that_a_place_is() -> None:
    tasks = Tasks([fill(ABC, ABD), None, fill(ABC, ABD), None], 62)

    assert tasks.count == 2
    assert tasks.count_below(b"") == 2
    assert tasks.count_below(b"0") == 0.25
    assert tasks.count_below(b"4") == 0
    assert tasks.below(b"0") == tasks.below(b"") == {fill(ABC, ABD)}
    assert tasks.below(b"f") == set()
