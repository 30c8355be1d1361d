"""What a node says about rings: one ring for each number under any interleaving, and numbers that never fall."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.errors import BadRequest, Recovering, StaleRing, WrongCluster
from sfss.ring_keeper import Accepted, HeldRing, KeptRing, Nack, Promised, check_not_owned
from sfss.ring_record import Placement, RingMember, RingRecord


def placement(*numbers: int) -> Placement:
    return Placement(tuple(RingMember(f"{n:032x}", f"n{n}:1") for n in numbers), 1, 1, 1, 1)


OLD, NEW, OTHER = placement(1, 2, 3), placement(2, 3, 4), placement(3, 4, 5)
JOINT, RIVAL = RingRecord(2, 64, (OLD, NEW)), RingRecord(2, 64, (OLD, OTHER))
SETTLED = RingRecord(3, 64, (NEW,))
FOUNDED = KeptRing(HeldRing(1, "f1"))


def test_a_promise_keeps_out_smaller_ballots() -> None:
    kept, answer = FOUNDED.prepare(2, 10)

    assert answer == Promised()
    assert kept.prepare(2, 9)[1] == Nack(10)
    assert kept.accept(9, JOINT)[1] == Nack(10)
    assert kept.accept(10, JOINT)[1] == Accepted()
    assert kept.accept(11, JOINT)[1] == Accepted()


def test_a_ballot_is_promised_once() -> None:
    kept, _ = FOUNDED.prepare(2, 10)

    assert kept.prepare(2, 10) == (kept, Nack(10))


def test_whoever_is_promised_later_hears_what_was_accepted() -> None:
    kept, _ = FOUNDED.accept(10, JOINT)

    kept, answer = kept.prepare(2, 11)

    assert answer == Promised(10, JOINT)
    assert kept.prepare(2, 12)[1] == Promised(10, JOINT)


def test_accepting_again_changes_nothing() -> None:
    kept, _ = FOUNDED.accept(10, JOINT)

    assert kept.accept(10, JOINT) == (kept, Accepted())
    with pytest.raises(BadRequest, match="another ring"):
        kept.accept(10, RIVAL)


def test_what_is_decided_is_told_instead_of_decided_again() -> None:
    kept, answer = FOUNDED.learn(JOINT)

    assert answer == HeldRing(2, JOINT.fingerprint, JOINT)
    for number in (1, 2):
        assert kept.prepare(number, 99) == (kept, answer)
    assert kept.accept(99, RIVAL) == (kept, answer)


def test_a_ring_once_learnt_begins_the_next_number_anew() -> None:
    kept, _ = FOUNDED.prepare(2, 50)
    kept, _ = kept.accept(50, RIVAL)

    kept, _ = kept.learn(JOINT)

    assert kept.prepare(3, 1)[1] == Promised()


def test_numbers_never_fall() -> None:
    kept, _ = FOUNDED.learn(SETTLED)

    assert kept.learn(JOINT) == (kept, HeldRing.of(SETTLED))
    assert kept.learn(SETTLED) == (kept, HeldRing.of(SETTLED))
    with pytest.raises(WrongCluster, match="ring 3"):
        kept.learn(RingRecord(3, 64, (OTHER,)))
    with pytest.raises(WrongCluster, match="64 partitions"):
        kept.learn(RingRecord(5, 128, (OTHER,)))


def test_a_node_that_lacks_the_ring_before_takes_no_part() -> None:
    with pytest.raises(StaleRing) as refused:
        FOUNDED.prepare(3, 5)
    assert refused.value.ring == 1
    with pytest.raises(StaleRing):
        FOUNDED.accept(5, SETTLED)


def test_what_cant_follow_on_the_present_ring_isnt_accepted() -> None:
    joint, _ = FOUNDED.learn(JOINT)

    with pytest.raises(BadRequest, match="can't follow"):
        FOUNDED.accept(5, RingRecord(2, 64, (NEW,)))
    with pytest.raises(BadRequest, match="can't follow"):
        joint.accept(5, RingRecord(3, 64, (OTHER,)))
    assert joint.accept(5, RingRecord(3, 64, (OLD,)))[1] == Accepted()


def test_a_node_that_may_have_forgotten_a_promise_has_no_say_on_what_it_may_have_promised() -> None:
    """Else two who proposed with the lost promise and without it could both find a majority."""
    kept, _ = FOUNDED.prepare(2, 10)

    kept = kept.without_say()
    for act in (lambda: kept.prepare(2, 99), lambda: kept.accept(99, JOINT)):
        with pytest.raises(Recovering):
            act()
    kept, told = kept.learn(JOINT)

    assert told == HeldRing.of(JOINT)
    assert kept.prepare(2, 99)[1] == told
    assert kept.prepare(3, 1)[1] == Promised()


def test_a_node_that_was_told_a_fingerprint_only_is_taught_the_ring_of_that_number() -> None:
    kept = KeptRing(HeldRing(2, JOINT.fingerprint))

    taught, told = kept.learn(JOINT)

    assert told == taught.held == HeldRing.of(JOINT)
    assert kept.learn(RIVAL)[1] == kept.held


def test_a_node_of_no_cluster_takes_no_part() -> None:
    for act in (
        lambda: KeptRing().prepare(1, 1),
        lambda: KeptRing().accept(1, JOINT),
        lambda: KeptRing().learn(JOINT),
        lambda: KeptRing().settled(0),
    ):
        with pytest.raises(WrongCluster):
            act()


def test_only_what_a_settled_ring_gives_away_is_let_go() -> None:
    joint, _ = FOUNDED.learn(JOINT)
    settled, _ = FOUNDED.learn(SETTLED)

    assert settled.settled(3) == SETTLED
    for kept, number in ((FOUNDED, 1), (joint, 2)):
        with pytest.raises(BadRequest):
            kept.settled(number)
    with pytest.raises(StaleRing):
        settled.settled(2)
    settled.check_left(3, f"{1:032x}")
    with pytest.raises(BadRequest, match="member"):
        settled.check_left(3, f"{2:032x}")


def test_a_node_keeps_what_it_owns() -> None:
    ring = RingRecord(3, 64, (Placement(NEW.members, 2, 2, 2, 1),))
    table = ring.placements[0].node_ring(3, 64).table

    for index, member in enumerate(NEW.members):
        owned = ring.owned_by(member.node)
        for partition in range(64):
            if index in table[partition]:
                with pytest.raises(BadRequest, match="owns"):
                    check_not_owned(owned, partition)
            else:
                check_not_owned(owned, partition)
    assert ring.owned_by("f" * 32) == bytes(64)
    with pytest.raises(BadRequest, match="no partition 64"):
        check_not_owned(owned, 64)


# --- any interleaving ---------------------------------------------------------------------------------


LOST = 0.1


@dataclass
class Cluster:
    """Acceptors, and what proposers decided."""

    kept: list[KeptRing]
    decided: set[RingRecord] = field(default_factory=set)

    @property
    def majority(self) -> int:
        return len(self.kept) // 2 + 1


def proposer(cluster: Cluster, ballots: list[int], wanted: RingRecord, random: Random) -> Iterator[None]:
    """Proposes until a ring is decided or its ballots are used up. Each step is one message; some get lost, and some
    answers do. Whoever drives it may stop at any yield."""
    kept = cluster.kept
    for ballot in ballots:
        promises = []
        for index in range(len(kept)):
            yield
            if random.random() < LOST:
                continue
            kept[index], answer = kept[index].prepare(2, ballot)
            if isinstance(answer, HeldRing):
                assert answer.record in cluster.decided
                return
            if isinstance(answer, Promised) and random.random() >= LOST:
                promises.append(answer)
        if len(promises) < cluster.majority:
            continue
        record = max(promises, key=lambda promise: promise.ballot).accepted or wanted
        accepted = 0
        for index in range(len(kept)):
            yield
            if random.random() >= LOST:
                kept[index], vote = kept[index].accept(ballot, record)
                accepted += isinstance(vote, Accepted) and random.random() >= LOST
        if accepted >= cluster.majority:
            cluster.decided.add(record)
            for index in range(len(kept)):
                yield
                if random.random() >= LOST:
                    kept[index], _ = kept[index].learn(record)
            return


@given(
    seed=st.integers(0, 2**32),
    nodes=st.integers(1, 5),
    ballots=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=5), min_size=2, max_size=4),
)
def test_a_number_has_one_ring_whoever_proposes_and_stops_when(seed: int, nodes: int, ballots: list[list[int]]) -> None:
    random = Random(seed)
    cluster = Cluster([FOUNDED] * nodes)
    wishes = [RingRecord(2, 64, (OLD, placement(9, 10 + index))) for index in range(len(ballots))]
    running = [proposer(cluster, sorted(mine), wish, random) for mine, wish in zip(ballots, wishes, strict=True)]

    while running:
        one = random.choice(running)
        if random.random() < 0.02:
            running.remove(one)  # killed
            continue
        try:
            next(one)
        except StopIteration:
            running.remove(one)

    assert len(cluster.decided) <= 1
    for kept in cluster.kept:
        assert kept.held.number == 1 or kept.held.record in cluster.decided
