"""What share of the time compaction takes, by how much garbage there is."""

from __future__ import annotations

import pytest

from nodes.pace import garbage_allowed, share_of_time

GIB = 1 << 30
MIB = 1 << 20


@pytest.mark.parametrize(
    ("garbage", "share"), [(-5, 0.05), (0, 0.05), (50, 0.05), (52, 0.05), (60, 0.2), (75, 0.5), (99, 0.98), (100, 1.0)]
)
def test_the_share_is_the_least_up_to_half_of_the_garbage_allowed_and_then_rises_to_all(garbage, share):
    assert share_of_time(garbage, 100, 0.05) == pytest.approx(share)


def test_more_garbage_than_is_allowed_takes_all_of_the_time_and_no_more():
    assert share_of_time(10 * GIB, GIB, 0.05) == 1.0


def test_with_no_room_for_garbage_at_all_there_is_no_pause():
    assert share_of_time(0, 0, 0.05) == 1.0
    assert share_of_time(5, 0, 0.05) == 1.0


def test_a_share_that_is_set_to_all_of_the_time_stays_so():
    assert share_of_time(0, GIB, 1.0) == 1.0


def test_garbage_is_allowed_in_proportion_to_what_lives():
    assert garbage_allowed(100 * GIB, 1000 * GIB, 64 * MIB) == 200 * GIB + 512 * MIB


def test_a_small_store_is_allowed_a_few_volumes_of_garbage():
    assert garbage_allowed(0, GIB, 64 * MIB) == 512 * MIB


def test_no_more_garbage_is_allowed_than_the_disk_has_room():
    assert garbage_allowed(100 * GIB, 3 * GIB, 64 * MIB) == 3 * GIB
