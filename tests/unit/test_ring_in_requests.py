"""Reads and writes while the ring changes: joint owners, and replicas whose ring is another one."""

import asyncio
import functools

import pytest

from proxy.placed_ring import Owners, PlacedRing
from proxy.quorum import Quorum
from sfss.errors import ConnectionLost, Outcome, QuorumUnavailable, StaleRing
from sfss.promise import new_promise
from sfss.ring import Member, NodeRing
from sfss.store import Written
from tests.unit.replica_lab import KEY, Lab, outcome, turns
from tests.unit.virtual_time import in_virtual_time

THREE = Quorum.over(3)


@functools.cache
def ring_of(names):
    return NodeRing([Member(f"{name}:1") for name in names], len(names), partitions=2)


class JointLab(Lab):
    """A lab in which `old` and `new` name the replicas that own `KEY`, in the order in which they are asked, under the
    rings 1 and 3, and together under the joint ring 2."""

    def __init__(self, old="abc", new="bcd", quorums=(THREE, THREE), **options):
        super().__init__(count=len(set(old) | set(new)), n=1, w=1, r=1, **options)
        self.by_name = {peer.name[0]: peer for peer in self.peers}
        self.old = self.placed(1, [old], quorums[:1])
        self.joint = self.placed(2, [old, new], quorums)
        self.new = self.placed(3, [new], quorums[1:])
        self.coordinator.take_over(self.joint)
        self.coordinator.rings = self.followed = Followed()

    def placed(self, number, placements, quorums):
        placed = PlacedRing(
            number, "print", [ring_of(names) for names in placements], quorums, {peer.name: peer for peer in self.peers}
        )
        sides = [
            Owners.under(quorum, number, tuple(self.by_name[name] for name in names))
            for names, quorum in zip(placements, quorums, strict=True)
        ]
        placed.table = [sides[0] if len(sides) == 1 else Owners.of_both(*sides)] * 2
        return placed

    def use(self, placed):
        self.coordinator.take_over(placed)

    def __getitem__(self, name):
        return self.by_name[name].replica

    def at_once(self, names="abcdef"):
        for name in set(names) & set(self.by_name):
            self[name].at_once = True


class Followed:
    """Notes what is asked for; the test says when it comes."""

    def __init__(self):
        self.waiting = []
        self.useless = ""
        self.teaching = {}
        self.told = []

    def after(self, number, peer, request):
        if peer.name[0] in self.useless:
            return False
        self.waiting.append((number, peer.name[0], request))
        return True

    def leave(self, request):
        self.waiting = [waiting for waiting in self.waiting if waiting[2] is not request]

    def heard(self, peer, number):
        self.told.append((peer.name[0], number))

    def teach(self, peer):
        return self.teaching.setdefault(peer.name[0], new_promise())

    async def arrive(self):
        waiting, self.waiting = self.waiting, []
        for _, _, request in waiting:
            request.begin_again()
        await turns()

    async def taught(self, name, error=None):
        promise = self.teaching.pop(name)
        if error is None:
            promise.set_result(None)
        else:
            promise.set_exception(error)
        await turns()


# Joint owners.


@in_virtual_time
async def test_a_write_needs_a_quorum_of_the_old_owners_and_one_of_the_new():
    lab = JointLab("abc", "def")
    reply = lab.coordinator.set(KEY, b"new")

    for name in "abcd":
        await lab[name].call("apply").answer()
    assert not reply.done()
    await lab["e"].call("apply").answer()

    assert reply.result() == Written(lab["e"].held.version, lab["e"].held.checksum, durable=5, copies=6)


@in_virtual_time
async def test_an_owner_that_stays_counts_on_both_sides():
    lab = JointLab("abc", "bcd")
    reply = lab.coordinator.set(KEY, b"new")

    await lab["b"].call("apply").answer()
    await lab["c"].call("apply").answer()

    assert reply.result().durable == 2


@in_virtual_time
async def test_one_node_that_becomes_three_needs_itself_and_two_of_the_three():
    lab = JointLab("a", "abc", (Quorum.over(1), THREE))
    reply = lab.coordinator.set(KEY, b"new")

    await lab["b"].call("apply").answer()
    await lab["c"].call("apply").answer()
    assert not reply.done()
    await lab["a"].call("apply").answer()

    assert reply.result().durable == 3


@in_virtual_time
async def test_refusals_of_an_asked_write_count_on_both_sides_by_themselves():
    lab = JointLab("abc", "def", asks=True)
    reply = lab.coordinator.set(KEY, b"mine")
    for name in "adbe":
        await lab[name].call("inspect").answer()
    for name in "abd":
        lab[name].hold(lab.record(b"newer", seconds_ago=-60))

    for name in "abcd":
        await lab[name].call("apply").answer()
    assert not reply.done()
    await lab["e"].call("apply").answer()

    assert isinstance(reply.result(), Written)


@in_virtual_time
async def test_a_stamp_asks_enough_of_both_sides():
    lab = JointLab("abc", "def", asks=True)
    lab["f"].hold(lab.record(b"newer", seconds_ago=-60))
    lab["e"].hold(lab.record(b"newer", seconds_ago=-60))
    highest = lab["f"].held.version

    lab.at_once()
    lab.coordinator.set(KEY, b"mine")

    assert lab["a"].held.version > highest


@in_virtual_time
async def test_a_blind_write_is_stamped_again_only_if_both_sides_hold_something_newer():
    lab = JointLab("abc", "def")
    newer = lab.record(b"newer", seconds_ago=-60)
    for name in "abde":
        lab[name].hold(newer)
    reply = lab.coordinator.set(KEY, b"mine")
    await lab["c"].call("apply").refuse(StaleRing(2))
    await lab["f"].call("apply").refuse(StaleRing(2))

    for name in "abde":
        await lab[name].call("apply").answer()
    for name in "abde":
        await lab[name].call("apply").answer()

    assert reply.result().version > newer.version


@in_virtual_time
async def test_a_read_hears_a_quorum_of_both_sides():
    lab = JointLab("abc", "def")
    for name in "ab":
        lab[name].hold(lab.record(b"old"))
    reply = lab.coordinator.get(KEY)

    assert [name for name in "abcdef" if lab[name].calls] == ["a", "b", "d", "e"]
    await lab["a"].call("read").answer()
    await lab["b"].call("inspect").answer()
    await lab["d"].call("inspect").answer()

    assert not reply.done()
    assert not lab["d"].waiting("apply")


@in_virtual_time
async def test_a_read_is_answered_once_enough_on_both_sides_hold_what_it_returns():
    lab = JointLab("abc", "def")
    for name in "ab":
        lab[name].hold(lab.record(b"value"))
    lab.at_once("abc")
    reply = lab.coordinator.get(KEY)

    await lab["d"].call("inspect").answer()
    await lab["e"].call("inspect").answer()
    assert not reply.done()
    await lab["d"].call("apply").answer()
    assert not reply.done()
    await lab["e"].call("apply").answer()

    assert reply.result().value == b"value"
    assert lab["e"].held == lab["a"].held


@in_virtual_time
async def test_there_is_no_file_only_if_enough_on_both_sides_say_so():
    lab = JointLab("abc", "def")
    lab.at_once()
    for name in "def":
        lab[name].failing = ConnectionLost("cut")

    with pytest.raises(QuorumUnavailable):
        lab.coordinator.get(KEY)

    lab["d"].failing = lab["e"].failing = None
    assert lab.coordinator.get(KEY) is None


@in_virtual_time
async def test_with_reads_of_one_replica_absence_still_needs_enough_on_both_sides():
    relaxed = Quorum.over(3, r=1)
    lab = JointLab("abc", "def", (relaxed, relaxed))
    reply = lab.coordinator.get(KEY)

    await lab["a"].call("read").answer()
    await lab["d"].call("inspect").answer()
    assert not reply.done()
    await lab["b"].call("read").answer()
    assert not reply.done()
    await lab["e"].call("inspect").answer()

    assert reply.result() is None


@in_virtual_time
async def test_writes_ask_first_while_either_side_has_too_few_that_are_well():
    lab = JointLab("abc", "def")
    lab.at_once()
    lab["d"].failing = lab["e"].failing = ConnectionLost("cut")
    with pytest.raises(QuorumUnavailable):
        lab.coordinator.get(KEY)

    with pytest.raises(QuorumUnavailable) as refusal:
        lab.coordinator.set(KEY, b"new")

    assert refusal.value.outcome is Outcome.NOT_APPLIED
    assert lab["a"].held is None


# Replicas at a later ring.


@in_virtual_time
async def test_a_write_is_repeated_under_the_later_ring_with_its_record_and_stamp():
    lab = JointLab("abc", "bcd")
    lab.use(lab.old)
    reply = lab.coordinator.set(KEY, b"new")
    first = lab["a"].call("apply").record
    await lab["a"].call("apply").answer()
    await lab["b"].call("apply").refuse(StaleRing(3))
    assert [(number, name) for number, name, _ in lab.followed.waiting] == [(3, "b")]

    lab.use(lab.new)
    await lab.followed.arrive()

    for name in "bd":
        call = lab[name].call("apply")
        assert (call.record, call.call.ring) == (first, 3)
        await call.answer()
    assert reply.result() == Written(first.version, first.checksum, durable=2, copies=3)


@in_virtual_time
async def test_what_was_accepted_under_a_ring_that_was_left_is_not_counted_again():
    lab = JointLab("abc", "bcd")
    lab.use(lab.old)
    reply = lab.coordinator.set(KEY, b"new")
    late = lab["c"].call("apply")
    await lab["b"].call("apply").refuse(StaleRing(3))
    lab.use(lab.new)
    await lab.followed.arrive()

    await late.answer()
    await lab["b"].call("apply").answer()

    assert not reply.done()


@in_virtual_time
@pytest.mark.parametrize("accepted", [False, True])
async def test_a_write_whose_later_ring_never_comes_tells_what_may_have_become_of_it(accepted):
    lab = JointLab("abc", "bcd", deadline_s=1.0)
    lab.use(lab.old)
    reply = lab.coordinator.set(KEY, b"new")
    if accepted:
        await lab["a"].call("apply").answer()
    else:
        await lab["a"].call("apply").refuse(StaleRing(1))
        await lab["c"].call("apply").refuse(StaleRing(1))
    await lab["b"].call("apply").refuse(StaleRing(2))

    error = await outcome(reply)

    assert (type(error), error.outcome) == (
        QuorumUnavailable,
        Outcome.UNKNOWN if accepted else Outcome.NOT_APPLIED,
    )
    assert not lab.followed.waiting


@in_virtual_time
async def test_a_replica_whose_later_ring_can_not_be_had_is_one_that_failed():
    lab = JointLab("abc", "bcd")
    lab.use(lab.old)
    lab.followed.useless = "a"

    written = lab.coordinator.set(KEY, b"new")
    await lab["a"].call("apply").refuse(StaleRing(3))
    await lab["b"].call("apply").answer()
    await lab["c"].call("apply").answer()
    found = lab.coordinator.get(KEY)
    await lab["a"].call("read").refuse(StaleRing(3))
    await lab["b"].call("inspect").answer()
    await lab["c"].call("read").answer()

    assert written.result().durable == 2
    assert found.result().value == b"new"
    assert not lab.followed.waiting


@in_virtual_time
async def test_a_write_that_may_be_stored_under_an_earlier_ring_is_never_stamped_again():
    lab = JointLab("abc", "bcd")
    lab.use(lab.old)
    reply = lab.coordinator.set(KEY, b"mine")
    await lab["a"].call("apply").answer()
    await lab["b"].call("apply").refuse(StaleRing(3))
    for name in "bcd":
        lab[name].hold(lab.record(b"newer", seconds_ago=-60))
    lab.use(lab.new)
    await lab.followed.arrive()

    for name in "bd":
        await lab[name].call("apply").answer()
    call = lab["c"].calls[-1]
    await call.answer()

    error = await outcome(reply)
    assert (type(error), error.outcome) == (QuorumUnavailable, Outcome.UNKNOWN)


@in_virtual_time
async def test_a_read_is_asked_anew_under_the_later_ring():
    lab = JointLab("abc", "bcd")
    lab.use(lab.old)
    lab["a"].hold(lab.record(b"old", seconds_ago=60))
    for name in "bd":
        lab[name].hold(lab.record(b"new", seconds_ago=30))
    reply = lab.coordinator.get(KEY)
    late = lab["a"].call("read")
    await lab["b"].call("inspect").refuse(StaleRing(3))

    lab.use(lab.new)
    await lab.followed.arrive()
    await late.answer()
    lab.at_once("d")
    for name, kind in (("b", "read"), ("c", "inspect")):
        await lab[name].call(kind).answer()
    await lab["c"].call("apply").answer()

    assert reply.result().value == b"new"
    assert lab.coordinator.in_flight == 0


@in_virtual_time
async def test_a_read_whose_later_ring_never_comes_ends_with_its_deadline():
    lab = JointLab("abc", "bcd", deadline_s=1.0)
    lab.use(lab.old)
    reply = lab.coordinator.get(KEY)
    await lab["b"].call("inspect").refuse(StaleRing(3))

    error = await outcome(reply)

    assert isinstance(error, QuorumUnavailable)
    assert "stale ring 3" in str(error)
    assert lab.coordinator.counters.quorum_failures == 1
    assert lab.coordinator.in_flight == 0
    assert not lab.followed.waiting


@in_virtual_time
async def test_a_read_that_begins_again_many_times_has_its_whole_deadline():
    lab = JointLab("abc", "bcd", deadline_s=3.0, sweep_s=0.1)
    lab.use(lab.old)
    loop = asyncio.get_running_loop()
    began = loop.time()
    reply = lab.coordinator.get(KEY)

    rounds = 0
    while loop.time() - began < 2.5:
        await lab["b"].calls[-1].refuse(StaleRing(3))
        await asyncio.sleep(0.1)
        await lab.followed.arrive()
        rounds += 1
        assert not reply.done()

    assert isinstance(await outcome(reply), QuorumUnavailable)
    assert rounds > 10
    assert 2.8 <= loop.time() - began <= 3.01


@in_virtual_time
async def test_a_stamp_that_was_asked_for_under_an_earlier_ring_is_one():
    lab = JointLab("abc", "bcd", asks=True)
    lab.use(lab.old)
    reply = lab.coordinator.set(KEY, b"new")
    for name in "ab":
        await lab[name].call("inspect").answer()
    await lab["b"].call("apply").refuse(StaleRing(3))
    for name in "bc":
        lab[name].hold(lab.record(b"newer", seconds_ago=-60))
    lab.use(lab.new)
    await lab.followed.arrive()

    await lab["b"].call("apply").answer()
    await lab["c"].calls[-1].answer()

    assert isinstance(reply.result(), Written)


@in_virtual_time
async def test_asking_before_a_stamp_begins_anew_under_the_later_ring():
    lab = JointLab("abc", "bcd", asks=True)
    lab.use(lab.old)
    reply = lab.coordinator.set(KEY, b"new")
    await lab["b"].call("inspect").refuse(StaleRing(3))

    lab.use(lab.new)
    lab.at_once()
    await lab.followed.arrive()

    assert reply.result().durable == 3
    assert lab["d"].held is not None


@in_virtual_time
async def test_a_later_ring_is_heard_of_when_the_request_is_answered_already():
    lab = JointLab("abc", "bcd")
    lab.use(lab.old)
    written = lab.coordinator.set(KEY, b"new")
    for name in "ab":
        await lab[name].call("apply").answer()
    await lab["c"].call("apply").refuse(StaleRing(3))
    read = lab.coordinator.get(KEY)
    await asyncio.sleep(0.1)
    await lab["a"].call("read").answer()
    await lab["b"].call("inspect").answer()
    await lab["c"].call("read").refuse(StaleRing(3))

    assert written.done()
    assert read.done()
    assert lab.followed.told == [("c", 3), ("c", 3)]


@in_virtual_time
async def test_a_replica_that_answers_both_rounds_counts_once_where_no_later_ring_is_to_be_had():
    lab = JointLab("abc", "bcd")
    lab.use(lab.old)
    reply = lab.coordinator.set(KEY, b"new")
    first = lab["b"].call("apply")
    await lab["a"].call("apply").refuse(StaleRing(3))
    await lab.followed.arrive()
    second = lab["b"].calls[-1]
    assert second is not first

    await first.answer()
    await second.answer()
    assert not reply.done()
    await lab["c"].calls[-1].answer()

    assert reply.result().durable == 2


# Replicas that are behind.


@in_virtual_time
async def test_a_replica_that_is_behind_is_taught_and_given_the_write_again():
    lab = JointLab("abc", "bcd")
    lab.use(lab.new)
    reply = lab.coordinator.set(KEY, b"new")
    await lab["b"].call("apply").answer()
    await lab["d"].call("apply").refuse(StaleRing(2))
    assert not lab["d"].calls

    await lab.followed.taught("d")
    await lab["d"].call("apply").answer()

    assert reply.result().durable == 2


@in_virtual_time
async def test_a_replica_that_can_not_be_taught_surely_did_not_take_the_write():
    lab = JointLab("abc", "bcd")
    lab.use(lab.new)
    reply = lab.coordinator.set(KEY, b"new")
    for name in "bcd":
        await lab[name].call("apply").refuse(StaleRing(2))

    for name in "bcd":
        await lab.followed.taught(name, ConnectionLost("cut", Outcome.UNKNOWN))

    error = await outcome(reply)
    assert (type(error), error.outcome) == (QuorumUnavailable, Outcome.NOT_APPLIED)


@in_virtual_time
async def test_a_replica_that_is_behind_is_taught_and_asked_again():
    lab = JointLab("abc", "bcd")
    lab.use(lab.new)
    for name in "bcd":
        lab[name].hold(lab.record(b"value"))
    reply = lab.coordinator.get(KEY)
    for name, kind in (("b", "read"), ("c", "inspect")):
        await lab[name].call(kind).refuse(StaleRing(2))
    assert not lab["d"].calls

    for name, kind in (("b", "read"), ("c", "inspect")):
        await lab.followed.taught(name)
        await lab[name].call(kind).answer()

    assert reply.result().value == b"value"


@in_virtual_time
async def test_a_replica_that_is_behind_when_written_back_to_gets_the_record_once_it_is_taught():
    lab = JointLab("abc", "bcd")
    lab.use(lab.new)
    lab["b"].hold(lab.record(b"value"))
    reply = lab.coordinator.get(KEY)
    await lab["b"].call("read").answer()
    await lab["c"].call("inspect").answer()
    await lab["c"].call("apply").refuse(StaleRing(2))

    await lab.followed.taught("c")
    await lab["c"].call("inspect").answer()
    await lab["c"].call("apply").answer()

    assert reply.result().value == b"value"
