"""The write quorum: every rule of docs/replication.rst as a sentence."""

import asyncio
import gc

import pytest

from proxy.writing import Write
from sfss.errors import (
    BadRequest,
    Busy,
    ConnectionLost,
    Outcome,
    OutOfDisk,
    QuorumUnavailable,
    Recovering,
    Unreachable,
)
from sfss.store import Call, Written
from tests.unit.replica_lab import KEY, Lab, outcome, turns
from tests.unit.virtual_time import in_virtual_time


@in_virtual_time
async def test_a_write_goes_to_all_and_is_acknowledged_by_w():
    lab = Lab()
    a, b, c = lab.replicas
    reply = lab.coordinator.set(KEY, b"new")

    await a.call("apply").answer()
    assert not reply.done()
    await c.call("apply").answer()

    assert reply.result() == Written(c.held.version, c.held.checksum, durable=2, copies=3)
    assert b.waiting("apply") == 1


@in_virtual_time
async def test_every_replica_gets_the_same_record_with_flags_and_absolute_expiry():
    lab = Lab()
    lab.at_once()

    lab.coordinator.set(KEY, b"new", flags=7, expires=1_900_000_000)

    assert len({replica.held for replica in lab.replicas}) == 1
    held = lab.replicas[0].held
    assert (held.value, held.size, held.flags, held.expires) == (b"new", 3, 7, 1_900_000_000)


@in_virtual_time
async def test_replicas_that_have_it_only_in_memory_are_not_counted_as_durable():
    lab = Lab()
    lab.at_once()
    lab.replicas[1].store._durable = 0

    assert lab.coordinator.set(KEY, b"new").durable == 2


@in_virtual_time
async def test_later_writes_have_higher_stamps_whatever_the_clock_does():
    lab = Lab()
    lab.at_once()
    first = lab.coordinator.set(KEY, b"1")
    lab.wall_ahead = -300.0

    second = lab.coordinator.set(KEY, b"2")

    assert second.version > first.version


@in_virtual_time
async def test_stamps_of_a_clock_that_was_far_ahead_do_not_block_writes_once_it_is_set_right():
    lab = Lab()
    lab.at_once()
    lab.clock.next(lab.stamp(seconds_ago=-3600))

    assert lab.coordinator.set(KEY, b"new").durable == 3
    assert lab.replicas[0].held.version <= lab.stamp()


@in_virtual_time
async def test_a_stamp_below_what_all_hold_is_given_up_for_one_above():
    lab = Lab()
    ahead = lab.record(b"theirs", seconds_ago=-30)
    for replica in lab.replicas:
        replica.hold(ahead)
    lab.at_once()

    written = lab.coordinator.set(KEY, b"ours")

    assert written.version > ahead.version
    assert [replica.held.value for replica in lab.replicas] == [b"ours"] * 3


@in_virtual_time
async def test_a_stamp_is_given_up_too_where_the_other_replica_was_surely_never_asked():
    lab = Lab()
    ahead = lab.record(b"theirs", seconds_ago=-30)
    for replica in lab.replicas[1:]:
        replica.hold(ahead)
    lab.at_once()
    lab.replicas[0].failing = Unreachable("refused")

    written = lab.coordinator.set(KEY, b"ours")

    assert written.version > ahead.version
    assert lab.replicas[0].held is None


@in_virtual_time
async def test_after_one_acceptance_a_write_is_never_stamped_again():
    lab = Lab()
    ahead = lab.record(b"theirs", seconds_ago=-30)
    for replica in lab.replicas[1:]:
        replica.hold(ahead)
    lab.at_once()

    with pytest.raises(QuorumUnavailable) as refused:
        lab.coordinator.set(KEY, b"ours")

    assert refused.value.outcome is Outcome.UNKNOWN
    assert [replica.log for replica in lab.replicas] == [["apply"]] * 3


@in_virtual_time
async def test_after_one_silence_a_write_is_never_stamped_again():
    lab = Lab()
    ahead = lab.record(b"theirs", seconds_ago=-30)
    for replica in lab.replicas[1:]:
        replica.hold(ahead)
    lab.at_once(*lab.replicas[1:])

    result = await outcome(lab.coordinator.set(KEY, b"ours"))

    assert isinstance(result, QuorumUnavailable)
    assert result.outcome is Outcome.UNKNOWN
    assert [replica.log for replica in lab.replicas] == [["apply"]] * 3


@in_virtual_time
async def test_an_overtaken_write_takes_the_outcome_of_the_later_one():
    lab = Lab()
    a, b, c = lab.replicas
    earlier = lab.coordinator.set(KEY, b"1")
    later = lab.coordinator.set(KEY, b"2")
    # a takes them in order; at b and c the second arrives first
    await a.calls[0].answer()
    for replica in (b, c):
        replica.calls[1].execute()
        await replica.calls[0].answer()
    assert not earlier.done()

    await b.calls[0].answer()
    await c.calls[0].answer()

    assert later.result().durable == 2
    assert earlier.result().version < later.result().version
    assert earlier.result().durable == 2


@in_virtual_time
async def test_however_many_writes_one_overtakes_all_take_its_outcome():
    lab = Lab()
    a, b, c = lab.replicas
    earlier = [lab.coordinator.set(KEY, b"%d" % number) for number in range(1500)]
    latest = lab.coordinator.set(KEY, b"latest")
    for replica in (b, c):
        replica.calls[-1].execute()
    for replica in (a, b, c):
        for call in replica.calls[:-1]:
            call.promise.set_result(call.execute())
    await turns()
    assert not any(reply.done() for reply in earlier)

    for replica in (a, b, c):
        await replica.calls[-1].answer()
    await turns(2000)

    assert latest.result().durable == 2
    assert all(reply.result().durable == 2 for reply in earlier)


@in_virtual_time
async def test_however_many_writes_were_unknown_in_between_the_outcome_is_taken_from_behind_them():
    lab = Lab()
    a, b, c = lab.replicas
    first = lab.coordinator.set(KEY, b"first")
    between = [lab.coordinator.set(KEY, b"%d" % number) for number in range(1500)]
    latest = lab.coordinator.set(KEY, b"latest")
    for replica in (a, b, c):
        replica.calls[-1].execute()
        for call in replica.calls[1:-1]:
            call.promise.set_exception(ConnectionLost("cut", Outcome.UNKNOWN))
        replica.calls[-1].promise.set_result(replica.calls[-1].execute())
    await turns(2000)
    assert latest.done()
    assert not first.done()

    await a.calls[0].refuse(ConnectionLost("cut", Outcome.UNKNOWN))
    await b.calls[0].answer()
    await c.calls[0].answer()

    assert first.result().durable == 2
    assert all(reply.result().durable == 2 for reply in between)


@in_virtual_time
async def test_an_overtaken_write_is_unknown_if_the_later_one_is():
    lab = Lab()
    a, b, c = lab.replicas
    earlier = lab.coordinator.set(KEY, b"1")
    later = lab.coordinator.set(KEY, b"2")
    await a.calls[0].answer()
    for replica in (b, c):
        replica.calls[1].execute()
        await replica.calls[0].answer()

    for replica in (a, b, c):
        await replica.calls[0].refuse(ConnectionLost("cut", Outcome.UNKNOWN))

    assert (await outcome(later)).outcome is Outcome.UNKNOWN
    assert (await outcome(earlier)).outcome is Outcome.UNKNOWN


@in_virtual_time
async def test_a_later_write_that_only_counted_refusals_does_not_vouch_for_an_earlier_one():
    # The later one asked before it was stamped and was itself overtaken by a stranger's, so it proves nothing
    # about what was acknowledged before the earlier one began.
    lab = Lab()
    a, b, c = lab.replicas
    stranger = lab.record(b"stranger", seconds_ago=-30)
    earlier = lab.coordinator.set(KEY, b"1")
    lab.coordinator.share(KEY)
    later = lab.coordinator.set(KEY, b"2")
    await a.call("inspect").answer()
    await b.call("inspect").answer()
    await a.call("apply").answer()
    for replica in (b, c):
        replica.hold(stranger)
        await replica.calls[0].answer()

    for replica in (a, b, c):
        await replica.call("apply").answer()

    assert later.result().version < stranger.version
    assert (await outcome(earlier)).outcome is Outcome.UNKNOWN


@in_virtual_time
async def test_a_coordinator_that_shares_its_keys_asks_first_and_stamps_above_the_highest():
    lab = Lab(shared=True)
    ahead = lab.record(b"theirs", seconds_ago=-30)
    lab.replicas[1].hold(ahead)
    lab.at_once()

    written = lab.coordinator.set(KEY, b"ours")

    assert written.version == ahead.version + 1
    assert lab.replicas[1].log == ["inspect", "apply"]


@in_virtual_time
async def test_a_write_of_a_key_that_may_have_another_writer_asks_first_too():
    lab = Lab()
    ahead = lab.record(b"theirs", seconds_ago=-30)
    lab.replicas[1].hold(ahead)
    lab.at_once()

    written = lab.coordinator.set(KEY, b"ours", call=Call(shared=True))

    assert written.version == ahead.version + 1
    assert lab.replicas[1].log == ["inspect", "apply"]


@in_virtual_time
async def test_after_asking_a_refusal_counts_because_the_write_came_just_before_the_newer_one():
    lab = Lab(shared=True)
    a, b, _ = lab.replicas
    reply = lab.coordinator.set(KEY, b"ours")
    await a.call("inspect").answer()
    await b.call("inspect").answer()
    b.hold(lab.record(b"meanwhile", seconds_ago=-30))

    await a.call("apply").answer()
    await b.call("apply").answer()

    assert reply.result().durable == 2
    assert b.held.value == b"meanwhile"


@in_virtual_time
async def test_without_a_place_to_remember_stamps_every_write_asks_first():
    lab = Lab(asks=True)
    lab.at_once()

    lab.coordinator.set(KEY, b"new")

    assert lab.replicas[0].log == ["inspect", "apply"]


@in_virtual_time
async def test_a_stamp_that_a_later_life_might_issue_again_is_not_used_unasked():
    class Exhausted:
        sure_below = 0

        def covers(self, stamp):
            return False

    lab = Lab(reserve=Exhausted())
    lab.at_once()

    lab.coordinator.set(KEY, b"new")

    assert lab.replicas[0].log == ["inspect", "apply"]


@in_virtual_time
async def test_a_key_that_somebody_else_writes_is_asked_about_first_for_a_while():
    lab = Lab(shared_key_s=60.0)
    for replica in lab.replicas:
        replica.hold(lab.record(b"theirs", seconds_ago=-30))
    lab.at_once()
    lab.coordinator.set(KEY, b"1")
    for replica in lab.replicas:
        replica.log.clear()

    lab.coordinator.set(KEY, b"2")
    assert lab.replicas[0].log == ["inspect", "apply"]
    await asyncio.sleep(61)
    lab.coordinator.set(KEY, b"3")

    assert lab.replicas[0].log == ["inspect", "apply", "apply"]


@in_virtual_time
async def test_an_own_overtaking_write_does_not_make_a_key_one_that_others_write():
    lab = Lab()
    a, b, c = lab.replicas
    lab.coordinator.set(KEY, b"1")
    lab.coordinator.set(KEY, b"2")
    for replica in (a, b, c):
        replica.calls[1].execute()
        await replica.calls[0].answer()
        await replica.calls[0].answer()

    assert lab.coordinator.shared_keys == 0


@pytest.mark.parametrize("error", [Busy("full"), OutOfDisk("full"), Unreachable("refused")])
@in_virtual_time
async def test_where_all_refuse_alike_the_caller_is_told_what_they_said_and_nothing_was_applied(error):
    lab = Lab()
    for replica in lab.replicas:
        replica.failing = error

    with pytest.raises(type(error)) as refused:
        lab.coordinator.set(KEY, b"new")

    assert refused.value.outcome is Outcome.NOT_APPLIED


@in_virtual_time
async def test_not_applied_is_said_only_if_every_replica_surely_left_it_alone():
    lab = Lab()
    for replica, error in zip(lab.replicas, (Busy("full"), OutOfDisk("full"), BadRequest("ahead")), strict=True):
        replica.failing = error

    with pytest.raises(QuorumUnavailable) as refused:
        lab.coordinator.set(KEY, b"new")

    assert refused.value.outcome is Outcome.NOT_APPLIED


@pytest.mark.parametrize("error", [ConnectionLost("cut", Outcome.UNKNOWN), Unreachable("cut", Outcome.UNKNOWN)])
@in_virtual_time
async def test_one_replica_that_may_have_taken_it_makes_the_outcome_unknown(error):
    lab = Lab()
    for replica in lab.replicas[1:]:
        replica.failing = Busy("full")
    reply = lab.coordinator.set(KEY, b"new")

    await lab.replicas[0].call("apply").refuse(error)

    assert (await outcome(reply)).outcome is Outcome.UNKNOWN


@in_virtual_time
async def test_one_replica_that_took_it_makes_the_outcome_unknown():
    lab = Lab()
    lab.at_once()
    for replica in lab.replicas[1:]:
        replica.failing = OutOfDisk("full")

    with pytest.raises(QuorumUnavailable) as refused:
        lab.coordinator.set(KEY, b"new")

    assert refused.value.outcome is Outcome.UNKNOWN
    assert "2 of 3 replicas needed, 1 took it" in str(refused.value)


@in_virtual_time
async def test_a_write_that_is_not_answered_ends_at_its_deadline_as_unknown():
    lab = Lab(deadline_s=3.0)
    began = asyncio.get_running_loop().time()

    result = await outcome(lab.coordinator.set(KEY, b"new"))

    assert result.outcome is Outcome.UNKNOWN
    assert 2.9 < asyncio.get_running_loop().time() - began <= 3.0


class Unspeakable(OutOfDisk):
    """An error that can't be told: a fault of our own, met when a request is ended."""

    def __str__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", ["apply", "read", "inspect"])
@in_virtual_time
async def test_a_request_that_a_fault_keeps_from_ending_is_answered_as_unknown(kind, caplog):
    lab = Lab(deadline_s=3.0, asks=kind == "inspect")
    began = asyncio.get_running_loop().time()
    reply = lab.coordinator.get(KEY) if kind == "read" else lab.coordinator.set(KEY, b"new")
    await lab.replicas[0].call(kind).refuse(Unspeakable())

    async with asyncio.timeout(10.0):
        result = await outcome(reply)

    assert result.outcome is Outcome.UNKNOWN
    assert "the proxy's log has more" in str(result)
    assert asyncio.get_running_loop().time() - began <= 3.0
    assert "ZeroDivisionError" in caplog.text
    assert (lab.coordinator.in_flight, lab.coordinator.bytes_in_flight) == (0, 0)


@in_virtual_time
async def test_an_earlier_deadline_that_comes_with_the_request_wins_and_is_passed_on():
    lab = Lab()
    loop = asyncio.get_running_loop()
    began = loop.time()

    result = await outcome(lab.coordinator.set(KEY, b"new", call=Call(began + 0.5)))

    assert result.outcome is Outcome.UNKNOWN
    assert loop.time() - began < 0.6
    assert lab.replicas[0].call("apply").call.deadline == began + 0.5


@in_virtual_time
async def test_a_write_that_could_not_even_ask_has_surely_left_no_trace():
    lab = Lab(asks=True)

    result = await outcome(lab.coordinator.set(KEY, b"new"))

    assert isinstance(result, QuorumUnavailable)
    assert result.outcome is Outcome.NOT_APPLIED
    assert all("apply" not in replica.log for replica in lab.replicas)


@in_virtual_time
async def test_a_suspect_node_gets_writes_but_does_not_count_for_the_quorum():
    lab = Lab()
    lab.at_once()
    lab.health.failed(lab.peer(lab.replicas[0]), Recovering("lost data"))
    lab.replicas[1].failing = OutOfDisk("full")

    with pytest.raises(QuorumUnavailable) as refused:
        lab.coordinator.set(KEY, b"new")

    assert refused.value.outcome is Outcome.UNKNOWN
    assert lab.replicas[0].held.value == b"new"


@in_virtual_time
async def test_a_node_that_serves_reads_again_counts_for_the_quorum_before_any_probe_of_it():
    lab = Lab()
    a, b, c = lab.replicas
    a.failing = Unreachable("refused")
    lab.health.failed(lab.peer(a), a.failing)
    lab.health.failed(lab.peer(b), Recovering("lost data"))
    await asyncio.sleep(0.01)

    reply = lab.coordinator.set(KEY, b"new")
    for kind in ("inspect", "apply"):
        await b.call(kind).answer()
        await c.call(kind).answer()

    assert reply.result().durable == 2
    assert b.log == ["inspect", "apply"]


@in_virtual_time
async def test_a_down_node_is_tried_where_the_others_are_up_but_one_of_them_is_suspect():
    lab = Lab()
    a, b, c = lab.replicas
    reply = lab.coordinator.set(KEY, b"new", call=Call(shared=True))
    lab.health.failed(lab.peer(b), Recovering("lost data"))
    lab.health.failed(lab.peer(c), Unreachable("refused"))
    await a.call("inspect").answer()
    await b.call("inspect").answer()

    for replica in (a, b, c):
        await replica.call("apply").answer()

    assert reply.result().durable == 2


@in_virtual_time
async def test_a_write_goes_on_when_its_caller_leaves():
    lab = Lab(asks=True)
    reply = lab.coordinator.set(KEY, b"new")
    reply.cancel()
    await turns()

    for kind in ("inspect", "apply"):
        for replica in lab.replicas[:2]:
            await replica.call(kind).answer()

    assert lab.replicas[0].held.value == b"new"


@in_virtual_time
async def test_a_node_that_is_down_is_skipped_and_the_answer_says_so():
    lab = Lab()
    lab.at_once()
    lab.health.failed(lab.peer(lab.replicas[0]), Unreachable("refused"))

    written = lab.coordinator.set(KEY, b"new")

    assert (written.durable, written.copies) == (2, 3)
    assert lab.replicas[0].log == []


@in_virtual_time
async def test_nodes_that_are_down_are_asked_all_the_same_where_no_quorum_is_possible_without_them():
    lab = Lab()
    lab.at_once()
    for replica in lab.replicas[:2]:
        lab.health.failed(lab.peer(replica), Unreachable("refused"))

    written = lab.coordinator.set(KEY, b"new")

    assert written.durable == 3
    assert lab.health.well is False or lab.replicas[0].held is not None


@in_virtual_time
async def test_with_too_few_nodes_up_a_write_asks_first_and_so_fails_without_a_trace():
    lab = Lab()
    lab.at_once()
    for replica in lab.replicas[:2]:
        replica.failing = Unreachable("refused")
        lab.health.failed(lab.peer(replica), replica.failing)

    with pytest.raises(QuorumUnavailable) as refused:
        lab.coordinator.set(KEY, b"new")

    assert refused.value.outcome is Outcome.NOT_APPLIED
    assert lab.replicas[2].held is None


@in_virtual_time
async def test_more_writes_than_the_limit_are_refused_at_once_as_not_applied():
    lab = Lab(in_flight_max=2)
    lab.coordinator.set(KEY, b"1")
    lab.coordinator.set(KEY, b"2")

    with pytest.raises(Busy) as refused:
        lab.coordinator.set(KEY, b"3")

    assert refused.value.outcome is Outcome.NOT_APPLIED


@in_virtual_time
async def test_more_bytes_than_the_limit_are_refused_and_room_is_given_back():
    lab = Lab(in_flight_bytes_max=10)
    reply = lab.coordinator.set(KEY, b"12345678")
    with pytest.raises(Busy):
        lab.coordinator.set(KEY, b"123")

    for replica in lab.replicas[:2]:
        await replica.call("apply").answer()

    assert reply.done()
    lab.coordinator.set(KEY, b"123")


@in_virtual_time
async def test_delete_of_nothing_is_none_and_writes_nothing():
    lab = Lab()
    lab.at_once()

    assert lab.coordinator.delete(KEY) is None
    assert all("apply" not in replica.log for replica in lab.replicas)


@in_virtual_time
async def test_delete_reads_versions_only_and_then_writes_a_tombstone_above():
    lab = Lab()
    ahead = lab.record(b"there", seconds_ago=-30)
    for replica in lab.replicas:
        replica.hold(ahead)
    lab.at_once()

    written = lab.coordinator.delete(KEY)

    assert written.version > ahead.version
    assert all(replica.held.tombstone for replica in lab.replicas)
    assert all("read" not in replica.log for replica in lab.replicas)


@in_virtual_time
async def test_delete_after_delete_is_none():
    lab = Lab()
    lab.at_once()
    lab.coordinator.set(KEY, b"x")
    lab.coordinator.delete(KEY)

    assert lab.coordinator.delete(KEY) is None


@in_virtual_time
async def test_two_nodes_need_both_and_one_node_is_enough_for_itself():
    two = Lab(count=2)
    two.at_once(two.replicas[0])
    reply = two.coordinator.set(KEY, b"x")
    assert not reply.done()
    await two.replicas[1].call("apply").answer()
    one = Lab(count=1)
    one.at_once()

    assert reply.result().copies == 2
    assert one.coordinator.set(KEY, b"x") == Written(one.replicas[0].held.version, one.replicas[0].held.checksum, 1, 1)


@in_virtual_time
async def test_close_waits_for_writes_under_way():
    lab = Lab()
    reply = lab.coordinator.set(KEY, b"x")
    closing = asyncio.ensure_future(lab.coordinator.close(5.0))
    await turns()
    assert not closing.done()

    for replica in lab.replicas[:2]:
        await replica.call("apply").answer()
    await closing

    assert reply.done()


@in_virtual_time
async def test_a_write_that_waits_for_a_slow_node_does_not_keep_the_later_ones_in_memory():
    lab = Lab()
    slow = lab.replicas[2]
    for number in range(3):
        lab.coordinator.set(KEY, b"%d" % number)
    for replica in lab.replicas[:2]:
        while replica.calls:
            await replica.calls[0].answer()

    del slow.calls[1:]
    gc.collect()

    writes = [thing for thing in gc.get_objects() if type(thing) is Write and thing._coordinator is lab.coordinator]
    assert len(writes) == 1
