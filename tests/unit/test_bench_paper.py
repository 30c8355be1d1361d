"""A cluster on paper asks what a real comparison asks, and its arithmetic is right where it can be done by hand."""

from __future__ import annotations

import pytest
from test_comparison import Replicas, TreeStore, file_of

from bench import paper
from bench.paper import Case
from proxy.options import Options
from sfss.errors import SetupError
from sfss.hash_tree import LEAF_DIGITS
from sfss.keys import hash_key
from sfss.ring import Member, NodeRing
from sfss.ring_record import RECORD_BYTES_MAX


@pytest.mark.parametrize("partitions", [1 << 12, 1 << 16, 1 << 17])
async def test_a_comparison_on_paper_asks_what_a_real_one_asks(partitions: int) -> None:
    # A file in each of the smallest places below one region: none is equal only because it is empty.
    keys: dict[int, bytes] = {}
    number = 0
    while len(keys) < 1 << 9:
        key = b"key/%d" % number
        if hash_key(key) >> 56 == 0:
            keys.setdefault(hash_key(key) >> 47, key)
        number += 1
    stores = [TreeStore(name) for name in "abcdef"]
    replicas = Replicas(stores, partitions=partitions)
    for key in keys.values():
        for store in replicas.owners(key):
            store.hold(key, file_of(key))

    done = await replicas.compare(b"00")

    texts = [text for store in stores for text in store.answered]
    branches = [text for text in texts if text.startswith(b"0/ ")]
    counted = paper.asked(replicas.ring, [b"00"])
    assert (done.whole, done.repaired) == (True, 0)
    assert counted.questions == len(branches)
    assert bool(counted.leaves_listed) == (partitions > 16**LEAF_DIGITS) == (len(texts) > len(branches))


def test_a_ring_that_all_own_alike_is_balanced_and_nothing_of_it_is_listed() -> None:
    ring = NodeRing([Member(f"n{n}:1", f"z{n}") for n in range(3)], 3)

    balance = paper.balance(ring)
    comparison = paper.comparison_bytes(ring, 1e6)

    assert (balance["node_most"], balance["node_least"], balance["zone_most"]) == pytest.approx((1.0, 1.0, 1.0))
    assert balance["copies_of_partitions_per_node"] == ring.partitions
    assert comparison["questions"] == 256 * 3
    assert comparison["listed_bytes"] == 0


def test_the_fullest_node_and_zone_are_those_by_weight() -> None:
    members = [Member("a:1", "x", 2), Member("b:1", "y"), Member("c:1", "y")]
    ring = NodeRing(members, 1)

    balance = paper.balance(ring)

    held = [sum(owners == (index,) for owners in ring.table) / ring.partitions for index in range(3)]
    assert balance["node_most"] == pytest.approx(max(held[0] / 0.5, held[1] / 0.25, held[2] / 0.25))
    assert balance["zone_most"] == pytest.approx(max(held[0], held[1] + held[2]) / 0.5)


def test_each_change_moves_what_it_must() -> None:
    rows = {row["change"]: row for row in paper.measure_changes(Case(20, partitions=4096, zones=4, files=1e6))}

    assert set(rows) == {"add one", "remove one", "replace one", "add a tenth", "remove a tenth"}
    assert all(1.0 <= row["beside_least"] < 1.1 for row in rows.values())
    assert rows["replace one"]["moved_part"] == pytest.approx(1 / 20, rel=0.15)
    assert rows["add a tenth"]["moved_part"] == pytest.approx(2 / 22, rel=0.15)
    assert rows["replace one"]["moved_bytes"] == rows["replace one"]["moved_part"] * 3e6 * 4096


def test_a_ring_of_the_largest_size_that_is_told_can_be_written_and_one_more_cannot() -> None:
    most = paper.nodes_max()

    assert paper.record_bytes(most) <= RECORD_BYTES_MAX < paper.record_bytes(most + 1)
    assert 1000 < most < 2000
    paper.joint_ring(most - 5).encode()
    with pytest.raises(SetupError, match="too large"):
        paper.joint_ring(most + 5).encode()


def test_a_repair_takes_as_long_as_its_narrowest_place() -> None:
    assert paper.repair_s(1e12, 1e6, 1e8) == pytest.approx(1e4)
    assert paper.repair_s(1e12, 1e3, 1e8, files_per_s=1000) == pytest.approx(1e6)

    row = paper.repairs(Case(1000, files=1e9, file_bytes=1_000_000), Options())
    assert row["node_bytes"] == pytest.approx(3e12)
    assert row["link_s"]["10"] == pytest.approx(2400)
    assert row["refilled_s"] == pytest.approx(3e12 / (4 * 1024 * 1024))


def test_a_tree_weighs_what_its_docstring_says() -> None:
    assert paper.tree_bytes() == 768 * 1024
