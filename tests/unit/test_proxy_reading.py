"""The read quorum: every rule of docs/replication.rst as a sentence."""

import asyncio

import pytest

from sfss.errors import (
    Busy,
    CorruptRecord,
    Expired,
    OutOfDisk,
    QuorumUnavailable,
    Recovering,
    RemoteError,
    Unreachable,
)
from sfss.store import Call
from tests.unit.replica_lab import KEY, Lab, outcome, turns
from tests.unit.virtual_time import in_virtual_time


@in_virtual_time
async def test_the_value_comes_from_one_replica_and_the_version_from_another_and_the_third_is_left_alone():
    lab = Lab()
    record = lab.record(b"there")
    for replica in lab.replicas:
        replica.hold(record)
    lab.at_once()

    assert lab.coordinator.get(KEY) == record
    assert [replica.log for replica in lab.replicas] == [["read"], ["inspect"], []]


@pytest.mark.parametrize("first", [0, 1])
@in_virtual_time
async def test_the_order_in_which_replicas_answer_does_not_matter(first):
    lab = Lab()
    record = lab.record(b"there")
    for replica in lab.replicas:
        replica.hold(record)
    reply = lab.coordinator.get(KEY)

    await lab.replicas[first].calls[0].answer()
    assert not reply.done()
    await lab.replicas[1 - first].calls[0].answer()

    assert reply.result() == record


@in_virtual_time
async def test_head_tells_size_and_version_without_moving_the_value():
    lab = Lab()
    record = lab.record(b"there", flags=3)
    for replica in lab.replicas:
        replica.hold(record)
    lab.at_once()

    assert lab.coordinator.head(KEY) == record.replaced(value=b"")
    assert [replica.log for replica in lab.replicas] == [["inspect"], ["inspect"], []]


@in_virtual_time
async def test_whoever_is_asked_in_place_of_one_whose_time_is_over_has_time():
    lab = Lab(hedge_budget=0.0)
    lab.coordinator._hedges_saved = 0.0
    a, b, c = lab.replicas
    record = lab.record(b"there")
    for replica in lab.replicas:
        replica.hold(record)
    lab.at_once(b)
    loop = asyncio.get_running_loop()
    reply = lab.coordinator.get(KEY)
    asked = a.call("read")

    await asyncio.sleep(asked.call.deadline - loop.time())
    if a.calls:
        await asked.refuse(Expired("no answer within the deadline"))

    assert c.call("read").call.deadline > loop.time()
    await c.call("read").answer()
    assert await reply == record


@pytest.mark.parametrize("kind", ["get", "head"])
@in_virtual_time
async def test_the_newer_version_is_returned_only_once_w_replicas_hold_it(kind):
    lab = Lab()
    a, b, c = lab.replicas
    old, new = lab.record(b"old", seconds_ago=60), lab.record(b"new", seconds_ago=30)
    a.hold(old)
    b.hold(new)
    c.hold(old)
    reply = getattr(lab.coordinator, kind)(KEY)

    await a.calls[0].answer()
    await b.call("inspect").answer()
    await b.call("read").answer()
    assert not reply.done()
    await a.call("apply").answer()

    assert reply.result().order() == new.order()
    assert a.held == new


@in_virtual_time
async def test_a_newer_version_on_the_value_s_own_replica_is_written_back_to_the_stale_one():
    lab = Lab()
    a, b, c = lab.replicas
    old, new = lab.record(b"old", seconds_ago=60), lab.record(b"new", seconds_ago=30)
    a.hold(new)
    b.hold(old)
    c.hold(old)
    reply = lab.coordinator.get(KEY)

    await a.call("read").answer()
    await b.call("inspect").answer()
    assert not reply.done()
    await b.call("apply").answer()

    assert reply.result() == new
    assert b.held == new


@in_virtual_time
async def test_a_write_back_brings_the_whole_record():
    lab = Lab()
    a, b, _ = lab.replicas
    new = lab.record(b"new", flags=9, expires=1_900_000_000)
    a.hold(new)
    lab.at_once()

    lab.coordinator.get(KEY)

    assert b.held == new


@in_virtual_time
async def test_the_third_replica_s_word_is_as_good_as_a_write_back():
    lab = Lab()
    a, b, c = lab.replicas
    new = lab.record(b"new")
    a.hold(new)
    c.hold(new)
    reply = lab.coordinator.get(KEY)
    await a.call("read").answer()
    await b.call("inspect").answer()

    await c.call("inspect").answer()

    assert reply.result() == new


@in_virtual_time
async def test_a_newer_version_that_cannot_be_had_is_an_error_and_never_the_older_one():
    lab = Lab()
    a, b, c = lab.replicas
    old, new = lab.record(b"old", seconds_ago=60), lab.record(b"new", seconds_ago=30)
    a.hold(old)
    b.hold(new)
    c.hold(old)
    reply = lab.coordinator.get(KEY)
    await a.call("read").answer()
    await b.call("inspect").answer()

    await b.call("read").refuse(CorruptRecord("rotten"))
    for replica in lab.replicas:
        while replica.calls:
            await replica.calls[0].answer()

    assert isinstance(await outcome(reply), QuorumUnavailable)


@in_virtual_time
async def test_a_version_that_w_replicas_cannot_be_brought_to_hold_is_an_error():
    lab = Lab()
    a, b, c = lab.replicas
    a.hold(lab.record(b"new"))
    reply = lab.coordinator.get(KEY)
    await a.call("read").answer()
    await b.call("inspect").answer()

    await b.call("apply").refuse(OutOfDisk("full"))
    await c.call("inspect").answer()
    await c.call("apply").refuse(OutOfDisk("full"))

    result = await outcome(reply)
    assert isinstance(result, QuorumUnavailable)


@in_virtual_time
async def test_a_newer_tombstone_is_the_answer_and_is_written_back():
    lab = Lab()
    a, b, c = lab.replicas
    live, deleted = lab.record(b"live", seconds_ago=60), lab.record(seconds_ago=30, tombstone=True)
    for replica in (a, c):
        replica.hold(live)
    b.hold(deleted)
    lab.at_once()

    assert lab.coordinator.get(KEY) is None
    assert a.held == deleted
    assert "read" not in b.log


@in_virtual_time
async def test_what_others_hold_newer_is_not_returned_as_held():
    # `refused` was stamped by a slow clock after `acknowledged` had been acknowledged, so only one replica took it, and
    # its writer was told that it is unknown. A reader that began earlier must not return it: readers that begin later
    # return `acknowledged`, which is older.
    lab = Lab()
    a, b, c = lab.replicas
    before = lab.record(b"before", seconds_ago=60)
    refused = lab.record(b"refused", seconds_ago=50)
    acknowledged = lab.record(b"acknowledged", seconds_ago=40)
    for replica in lab.replicas:
        replica.hold(before)
    reply = lab.coordinator.get(KEY)
    await b.call("inspect").answer()
    for replica in (b, c):
        replica.hold(acknowledged)
    a.hold(refused)

    for _ in range(20):
        for replica in lab.replicas:
            if replica.calls:
                await replica.calls[0].answer()

    assert reply.result() == acknowledged


@in_virtual_time
async def test_a_miss_is_none_only_when_r_replicas_know_of_nothing():
    lab = Lab()
    reply = lab.coordinator.get(KEY)
    await lab.replicas[0].call("read").answer()
    assert not reply.done()

    await lab.replicas[1].call("inspect").answer()

    assert reply.result() is None


@pytest.mark.parametrize(
    "error",
    [RemoteError("SERVER_ERROR what"), Expired("late"), Recovering("lost"), CorruptRecord("rotten"), Busy("full")],
)
@in_virtual_time
async def test_an_error_is_no_miss_another_replica_is_asked(error):
    lab = Lab()
    a, b, c = lab.replicas
    record = lab.record(b"there")
    b.hold(record)
    c.hold(record)
    reply = lab.coordinator.get(KEY)

    await a.call("read").refuse(error)
    await b.call("inspect").answer()
    await c.call("read").answer()

    assert reply.result() == record


@in_virtual_time
async def test_one_answer_of_three_is_no_quorum_and_the_error_says_the_numbers():
    lab = Lab()
    lab.at_once()
    for replica in lab.replicas[1:]:
        replica.failing = RemoteError("SERVER_ERROR what")

    with pytest.raises(QuorumUnavailable, match="2 of 3 replicas needed, 1 answered"):
        lab.coordinator.get(KEY)


@in_virtual_time
async def test_when_no_node_can_be_reached_the_error_says_that():
    lab = Lab()
    for replica in lab.replicas:
        replica.failing = Unreachable("refused")

    with pytest.raises(Unreachable):
        lab.coordinator.get(KEY)


@in_virtual_time
async def test_a_corrupt_record_is_read_elsewhere_and_repaired():
    lab = Lab()
    a, b, c = lab.replicas
    record = lab.record(b"there")
    b.hold(record)
    lab.at_once(b, c)
    reply = lab.coordinator.get(KEY)

    await a.call("read").refuse(CorruptRecord("rotten"))
    await a.call("apply").answer()

    assert (await reply) == record
    assert a.held == record


@in_virtual_time
async def test_a_record_that_proves_corrupt_when_fetched_no_longer_counts_as_held():
    lab = Lab()
    a, b, c = lab.replicas
    old, new = lab.record(b"old", seconds_ago=60), lab.record(b"new", seconds_ago=30)
    a.hold(old)
    b.hold(new)
    c.hold(new)
    reply = lab.coordinator.get(KEY)
    await a.call("read").answer()
    await b.call("inspect").answer()

    await b.call("read").refuse(CorruptRecord("rotten"))
    while c.calls:
        await c.calls[0].answer()
    assert not reply.done()
    await a.call("apply").answer()

    assert reply.result() == new


@in_virtual_time
async def test_expiry_is_judged_by_the_coordinator_s_clock_for_all_replicas():
    lab = Lab()
    record = lab.record(b"short-lived", expires=int(lab.now()) + 10)
    for replica in lab.replicas:
        replica.hold(record)
    lab.at_once()
    assert lab.coordinator.get(KEY) == record

    await asyncio.sleep(11)

    assert lab.coordinator.get(KEY) is None
    assert lab.coordinator.delete(KEY) is None


@in_virtual_time
async def test_an_expired_record_hides_older_ones_and_is_written_back_as_it_is():
    lab = Lab()
    a, b, c = lab.replicas
    old = lab.record(b"old", seconds_ago=60)
    expired = lab.record(b"new", seconds_ago=30, expires=int(lab.now()) - 5)
    a.hold(old)
    b.hold(expired)
    c.hold(old)
    lab.at_once()

    assert lab.coordinator.get(KEY) is None
    assert a.held == expired


@in_virtual_time
async def test_with_r_1_a_hit_needs_one_replica():
    lab = Lab(r=1)
    record = lab.record(b"there")
    lab.replicas[0].hold(record)
    lab.at_once()

    assert lab.coordinator.get(KEY) == record
    assert [replica.log for replica in lab.replicas] == [["read"], [], []]


@pytest.mark.parametrize("first_holds", ["nothing", "a tombstone", "an expired record"])
@in_virtual_time
async def test_with_r_1_a_miss_still_asks_enough_to_meet_every_write(first_holds):
    lab = Lab(r=1)
    a, b, _ = lab.replicas
    if first_holds == "a tombstone":
        a.hold(lab.record(tombstone=True, seconds_ago=60))
    elif first_holds == "an expired record":
        a.hold(lab.record(b"gone", seconds_ago=60, expires=int(lab.now()) - 1))
    record = lab.record(b"there", seconds_ago=30)
    b.hold(record)
    lab.at_once()

    assert lab.coordinator.get(KEY) == record


@in_virtual_time
async def test_with_r_1_writes_that_ask_still_ask_a_real_quorum():
    lab = Lab(r=1, asks=True)
    lab.replicas[1].hold(lab.record(b"theirs", seconds_ago=-30))
    lab.at_once()

    written = lab.coordinator.set(KEY, b"ours")

    assert written.version > lab.stamp()
    assert lab.replicas[0].held.value == b"ours"


@in_virtual_time
async def test_a_slow_replica_is_overtaken_by_asking_another():
    lab = Lab()
    a, b, c = lab.replicas
    record = lab.record(b"there")
    for replica in lab.replicas:
        replica.hold(record)
    lab.at_once(b, c)
    loop = asyncio.get_running_loop()
    began = loop.time()

    assert await lab.coordinator.get(KEY) == record

    assert loop.time() - began < 0.1
    assert c.log == ["read"]
    assert lab.coordinator.counters.hedges == 1
    assert a.waiting("read") == 1


@in_virtual_time
async def test_overtaking_asks_at_most_one_read_in_twenty_more():
    lab = Lab()
    a, b, c = lab.replicas
    record = lab.record(b"there")
    for replica in lab.replicas:
        replica.hold(record)
    lab.at_once(b, c)

    for _ in range(400):
        reply = lab.coordinator.get(KEY)
        await asyncio.sleep(0.2)
        await a.call("read").answer()
        assert reply.result() == record

    saved_at_first = 10
    assert saved_at_first <= lab.coordinator.counters.hedges <= saved_at_first + 400 // 20


@in_virtual_time
async def test_a_silent_replica_is_given_up_after_a_node_s_deadline_even_without_budget():
    lab = Lab(hedge_budget=0.0)
    lab.coordinator._hedges_saved = 0.0
    _, b, c = lab.replicas
    record = lab.record(b"there")
    for replica in lab.replicas:
        replica.hold(record)
    lab.at_once(b, c)
    loop = asyncio.get_running_loop()
    began = loop.time()

    assert await lab.coordinator.get(KEY) == record

    assert 1.0 <= loop.time() - began < 1.1


@in_virtual_time
async def test_a_newer_value_whose_holder_falls_silent_is_fetched_from_another():
    lab = Lab(hedge_budget=0.0)
    lab.coordinator._hedges_saved = 0.0
    a, b, c = lab.replicas
    newer = lab.record(b"new", seconds_ago=1)
    a.hold(lab.record(b"old"))
    b.hold(newer)
    c.hold(newer)
    reply = lab.coordinator.get(KEY)
    await b.call("inspect").answer()
    await a.call("read").answer()
    assert b.waiting("read") == 1

    await asyncio.sleep(1.1)
    await c.call("read").answer()

    assert reply.result() == newer


@in_virtual_time
async def test_when_all_are_silent_the_read_ends_at_its_deadline():
    lab = Lab(deadline_s=3.0)
    loop = asyncio.get_running_loop()
    began = loop.time()

    assert isinstance(await outcome(lab.coordinator.get(KEY)), QuorumUnavailable)
    assert loop.time() - began <= 3.0


@in_virtual_time
async def test_without_a_quorum_that_is_well_all_owners_are_asked_at_once():
    lab = Lab(hedge_budget=0.0)
    lab.coordinator._hedges_saved = 0.0
    loop = asyncio.get_running_loop()
    for replica in lab.replicas[1:]:
        lab.health.failed(lab.peer(replica), Unreachable("cut off"))
    lab.replicas[0].at_once = True
    began = loop.time()

    assert isinstance(await outcome(lab.coordinator.get(KEY)), QuorumUnavailable)
    # One silence of a node, not one after the other.
    assert loop.time() - began < 1.5 * lab.coordinator.options.node_deadline_s


@in_virtual_time
async def test_a_replica_is_asked_with_a_node_s_deadline_the_ring_s_number_and_the_request_id():
    lab = Lab()
    began = asyncio.get_running_loop().time()

    lab.coordinator.get(KEY, Call(request_id=b"r1"))

    assert lab.replicas[0].call("read").call == Call(began + 1.0, 1, b"r1")


@in_virtual_time
async def test_a_read_waits_for_its_own_coordinator_s_write_instead_of_writing_back():
    lab = Lab()
    a, b, c = lab.replicas
    old = lab.record(b"old")
    for replica in lab.replicas:
        replica.hold(old)
    written = lab.coordinator.set(KEY, b"new")
    a.call("apply").execute()
    reply = lab.coordinator.get(KEY)
    await a.call("read").answer()
    await b.call("inspect").answer()
    assert not reply.done()

    await a.call("apply").answer()
    await c.call("apply").answer()

    assert written.done()
    assert reply.result().value == b"new"
    assert b.log.count("apply") == 1


@in_virtual_time
async def test_a_read_that_waited_for_a_write_which_failed_writes_back_itself():
    lab = Lab()
    a, b, c = lab.replicas
    written = lab.coordinator.set(KEY, b"new")
    a.call("apply").execute()
    reply = lab.coordinator.get(KEY)
    await a.call("read").answer()
    await b.call("inspect").answer()

    for replica in (a, b, c):
        await replica.call("apply").refuse(OutOfDisk("full"))
    await b.call("apply").answer()

    assert isinstance(await outcome(written), OutOfDisk)
    assert reply.result().value == b"new"


@in_virtual_time
async def test_what_is_read_later_is_never_older():
    lab = Lab()
    a, b, c = lab.replicas
    old, new = lab.record(b"old", seconds_ago=60), lab.record(b"new", seconds_ago=30)
    a.hold(old)
    b.hold(new)
    c.hold(old)
    lab.at_once()
    assert lab.coordinator.get(KEY).value == b"new"

    lab.replicas[1].failing = Unreachable("gone")

    assert lab.coordinator.get(KEY).value == b"new"


@in_virtual_time
async def test_nodes_that_are_down_are_asked_last():
    lab = Lab()
    record = lab.record(b"there")
    for replica in lab.replicas:
        replica.hold(record)
    lab.at_once()
    lab.health.failed(lab.peer(lab.replicas[0]), Unreachable("refused"))

    assert lab.coordinator.get(KEY) == record
    assert lab.replicas[0].log == []


@in_virtual_time
async def test_more_reads_than_the_limit_are_refused_at_once():
    lab = Lab(in_flight_max=1)
    lab.coordinator.get(KEY)

    with pytest.raises(Busy):
        lab.coordinator.get(KEY)


@in_virtual_time
async def test_a_caller_that_leaves_disturbs_nobody():
    lab = Lab()
    record = lab.record(b"there")
    for replica in lab.replicas:
        replica.hold(record)
    reply = lab.coordinator.get(KEY)
    reply.cancel()
    await turns()

    await lab.replicas[0].call("read").answer()
    await lab.replicas[1].call("inspect").answer()

    assert lab.coordinator.in_flight == 0


@in_virtual_time
async def test_stamps_seen_in_reads_push_the_clock_on():
    lab = Lab()
    ahead = lab.record(b"theirs", seconds_ago=-30)
    for replica in lab.replicas:
        replica.hold(ahead)
    lab.at_once()
    lab.coordinator.get(KEY)

    assert lab.coordinator.set(KEY, b"ours").version > ahead.version
    assert lab.coordinator.counters.restamped == 0


@in_virtual_time
async def test_callers_in_a_hurry_do_not_make_a_node_look_silent():
    lab = Lab()
    loop = asyncio.get_running_loop()

    for _ in range(10):
        await outcome(lab.coordinator.get(KEY, Call(loop.time() + 0.05)))

    assert lab.health.well


@in_virtual_time
async def test_the_answer_to_a_question_that_was_given_up_counts_when_it_comes():
    lab = Lab(hedge_budget=0.0)
    lab.coordinator._hedges_saved = 0.0
    a, b, c = lab.replicas
    record = lab.record(b"there")
    for replica in (a, b):
        replica.hold(record)
    lab.at_once(b)
    reply = lab.coordinator.get(KEY)
    await asyncio.sleep(1.5)
    assert c.waiting("read") == 1

    await a.call("read").answer()

    assert reply.result() == record
