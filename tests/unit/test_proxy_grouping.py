"""Groups of a coordinator: what all asked replicas agree on is answered, the rest is left out; writes are as alone."""

import asyncio
import gc
from random import Random

import pytest

from proxy.peer import Peer
from proxy.writing import Write
from sfss.errors import (
    Busy,
    ConnectionLost,
    CorruptRecord,
    Expired,
    Outcome,
    OutOfDisk,
    QuorumUnavailable,
    Recovering,
    StaleRing,
    Unreachable,
)
from sfss.groups import Item, LeftOut
from sfss.promise import new_promise
from sfss.store import Call, Written, settled
from tests.unit.replica_lab import KEY, HintLab, Lab
from tests.unit.virtual_time import in_virtual_time, run


def keys_of(lab, count):
    """Keys with the same owners in the same order as `KEY`."""
    owners = lab.ring.owners(KEY)
    return [key for key in (b"file/%d" % number for number in range(100)) if lab.ring.owners(key) == owners][:count]


def held(lab, key, *replicas, **fields):
    record = lab.record(b"value of " + key, key=key, **fields)
    for replica in replicas or lab.replicas:
        replica.hold(record, key)
    return record


def left_out(outcome):
    return isinstance(outcome, LeftOut)


@in_virtual_time
async def test_what_as_many_as_needed_agree_on_is_answered():
    lab = Lab()
    one, two, none = keys_of(lab, 3)
    records = [held(lab, one), held(lab, two, flags=3)]
    lab.at_once()

    assert lab.coordinator.get_many([one, none, two]) == [records[0], None, records[1]]
    assert [replica.log for replica in lab.replicas] == [["read"] * 3, ["inspect"] * 3, []]


@pytest.mark.parametrize("first", [0, 1])
@in_virtual_time
async def test_the_order_of_answers_does_not_matter(first):
    lab = Lab()
    (key,) = keys_of(lab, 1)
    record = held(lab, key)
    reply = lab.coordinator.get_many([key])

    await lab.replicas[first].calls[0].answer()
    assert not reply.done()
    await lab.replicas[1 - first].calls[0].answer()

    assert reply.result() == [record]
    assert lab.coordinator.in_flight == 0


@pytest.mark.parametrize("values_first", [True, False])
@in_virtual_time
async def test_versions_that_are_told_in_words_are_compared_in_words(monkeypatch, values_first):
    lab = Lab()
    a, b, c = lab.replicas
    same, newer, missing = keys_of(lab, 3)
    record = held(lab, same)
    held(lab, newer, seconds_ago=60)
    held(lab, newer, b, seconds_ago=30)
    held(lab, missing, a, c)
    asked = []

    def read_many(peer, keys, whole, call):
        reply = new_promise()
        outcomes = [peer.replica.store.records.get(key) for key in keys]
        for one in filter(None, outcomes):
            one.words = b"%d %d" % one.order()
        asked.append((whole, reply, outcomes if whole else [one and one.words for one in outcomes]))
        return reply

    monkeypatch.setattr(Peer, "read_many", read_many)
    reply = lab.coordinator.get_many([newer, same, missing])
    for _, answer, outcomes in sorted(asked, key=lambda one: one[0] != values_first):
        answer.set_result(outcomes)
        await asyncio.sleep(0)

    outcomes = await reply
    assert outcomes[1] == record
    assert [left_out(outcome) for outcome in outcomes] == [True, False, True]


@in_virtual_time
async def test_a_deleted_and_an_expired_file_are_absent():
    lab = Lab()
    deleted, expired = keys_of(lab, 2)
    held(lab, expired, expires=int(lab.now()) - 1)
    tombstone = lab.record(tombstone=True, key=deleted)
    for replica in lab.replicas:
        replica.hold(tombstone, deleted)
    lab.at_once()

    assert lab.coordinator.get_many([deleted, expired]) == [None, None]


@in_virtual_time
async def test_where_replicas_differ_the_key_is_left_out_and_the_others_are_not():
    lab = Lab()
    a, b, c = lab.replicas
    same, newer, missing, damaged = keys_of(lab, 4)
    record = held(lab, same)
    held(lab, newer, seconds_ago=60)
    held(lab, newer, b, seconds_ago=30)
    held(lab, missing, a, c)
    held(lab, damaged)
    lab.at_once()
    read = a.read
    a.read = lambda key, call: CorruptRecord("planted") if key == damaged else read(key, call)

    outcomes = lab.coordinator.get_many([newer, same, missing, damaged])

    assert outcomes[1] == record
    assert [left_out(outcome) for outcome in outcomes] == [True, False, True, True]


@pytest.mark.parametrize("error", [Busy("planted"), StaleRing(7), CorruptRecord("planted")])
@in_virtual_time
async def test_a_replica_that_refuses_leaves_its_keys_out(error):
    lab = Lab()
    (key,) = keys_of(lab, 1)
    held(lab, key)
    lab.at_once()
    lab.replicas[1].failing = error

    assert left_out(lab.coordinator.get_many([key])[0])


@in_virtual_time
async def test_what_is_slow_is_left_out_as_far_as_reads_may_be_hedged():
    lab = Lab(hedge_budget=0.0)
    (key,) = keys_of(lab, 1)
    held(lab, key)
    lab.coordinator._hedges_saved = 1.0
    loop = asyncio.get_running_loop()

    began = loop.time()
    first = await settled(lab.coordinator.get_many([key]))
    hedged_s = loop.time() - began
    began = loop.time()
    second = await settled(lab.coordinator.get_many([key]))

    assert left_out(first[0])
    assert left_out(second[0])
    assert hedged_s < lab.coordinator.options.node_deadline_s / 2
    assert loop.time() - began >= lab.coordinator.options.node_deadline_s
    assert all(lab.peer(replica).silences for replica in lab.replicas[:2])


@in_virtual_time
async def test_what_was_answered_stays_when_a_replica_fails_later():
    lab = Lab()
    lab.coordinator._hedges_saved = 1.0
    (key,) = keys_of(lab, 1)
    held(lab, key)

    reply = lab.coordinator.get_many([key])
    questions = list(next(iter(lab.coordinator._in_flight))._asked)
    outcomes = await settled(reply)
    (slow,) = outcomes
    for question in questions:
        question.set_exception(ConnectionLost("planted"))
    await asyncio.sleep(0.1)

    assert left_out(slow)
    assert outcomes[0] is slow


@in_virtual_time
async def test_a_group_that_is_left_out_for_slowness_costs_a_hedge_for_each_key_that_is_then_read_alone():
    lab = Lab(hedge_budget=0.05)
    keys = keys_of(lab, 8)
    lab.coordinator._hedges_saved = 1.0
    loop = asyncio.get_running_loop()
    took_s = []

    for _ in range(2):
        began = loop.time()
        await settled(lab.coordinator.get_many(keys))
        took_s.append(loop.time() - began)
        for key in keys:
            lab.coordinator.get(key)

    assert took_s[0] < lab.coordinator.options.node_deadline_s / 2
    assert took_s[1] >= lab.coordinator.options.node_deadline_s
    assert lab.coordinator.counters.hedges == 8


@pytest.mark.parametrize("by_its_client", [False, True])
@in_virtual_time
async def test_a_group_that_a_replica_says_nothing_to_counts_as_so_many_silences(by_its_client):
    lab = Lab(hedge_budget=0.0)
    keys = keys_of(lab, 8)
    lab.at_once(lab.replicas[1])
    lab.coordinator._hedges_saved = 0.0

    reply = lab.coordinator.get_many(keys)
    if by_its_client:
        await asyncio.sleep(lab.coordinator.options.node_deadline_s)
        question = next(iter(next(iter(lab.coordinator._in_flight))._asked))
        question.set_exception(Expired("planted"))
    await settled(reply)

    assert lab.peer(lab.replicas[0]).down
    assert not lab.peer(lab.replicas[1]).silences


@pytest.mark.parametrize("by_its_client", [False, True])
@in_virtual_time
async def test_a_silence_is_counted_once_whoever_sees_it_first(by_its_client):
    lab = Lab(hedge_budget=0.0)
    keys = keys_of(lab, 2)
    lab.coordinator._hedges_saved = 0.0
    reply = lab.coordinator.get_many(keys)
    group = next(iter(lab.coordinator._in_flight))
    questions = list(group._asked)

    await asyncio.sleep(lab.coordinator.options.node_deadline_s + (0.0 if by_its_client else 0.1))
    for question in questions:
        question.set_exception(Expired("planted"))
    await settled(reply)
    await asyncio.sleep(0.1)

    assert [lab.peer(replica).silences for replica in lab.replicas] == [2, 2, 0]


@pytest.mark.parametrize("left_s", [0.001, 0.1])
@in_virtual_time
async def test_that_a_group_is_in_a_hurry_says_nothing_about_the_nodes(left_s):
    lab = Lab(hedge_budget=0.0)
    keys = keys_of(lab, 8)
    lab.coordinator._hedges_saved = 0.0
    loop = asyncio.get_running_loop()

    outcomes = await settled(lab.coordinator.get_many(keys, Call(loop.time() + left_s)))

    assert all(map(left_out, outcomes))
    assert lab.health.well
    assert [lab.peer(replica).silences for replica in lab.replicas] == [0, 0, 0]


@in_virtual_time
async def test_a_replica_that_only_tells_of_errors_gave_no_good_answer():
    lab = Lab()
    keys = keys_of(lab, 2)
    silent, well = (lab.peer(replica) for replica in lab.replicas[:2])
    silent.silences = well.silences = 2
    reply = lab.coordinator.get_many(keys)
    questions = list(next(iter(lab.coordinator._in_flight))._asked)

    questions[0].set_result([Expired("planted")] * 2)
    questions[1].set_result([None] * 2)
    await settled(reply)

    assert (silent.silences, well.silences) == (2, 0)


@in_virtual_time
async def test_a_replica_that_is_down_is_not_asked():
    lab = Lab()
    (key,) = keys_of(lab, 1)
    record = held(lab, key)
    lab.at_once()
    lab.peer(lab.replicas[0]).down = True
    lab.health.well = False

    assert lab.coordinator.get_many([key]) == [record]
    assert lab.replicas[0].log == []


@in_virtual_time
async def test_a_group_counts_for_admission():
    lab = Lab(in_flight_max=1)
    keys = keys_of(lab, 2)
    reply = lab.coordinator.get_many(keys)

    with pytest.raises(Busy):
        lab.coordinator.get_many(keys)
    for replica in lab.replicas[:2]:
        while replica.calls:
            await replica.calls[0].answer()

    assert reply.done()
    assert lab.coordinator.get_many(keys) is not None


@in_virtual_time
async def test_each_write_of_a_group_has_its_own_stamp_and_outcome():
    lab = Lab()
    one, full = keys_of(lab, 2)
    lab.at_once()
    for replica in lab.replicas:
        apply = replica.apply
        replica.apply = lambda key, record, call, apply=apply: (
            OutOfDisk("planted") if key == full else apply(key, record, call)
        )

    written, refused = await settled(lab.coordinator.set_many([Item(one, b"1", 5), Item(full, b"2")]))

    assert written.durable >= 2
    assert written.words == b"%d H%016x" % (written.version, written.checksum)
    assert isinstance(refused, OutOfDisk)
    assert lab.coordinator.bytes_in_flight == 0
    for replica in lab.replicas:
        assert (replica.store.records[one].value, replica.store.records[one].flags) == (b"1", 5)
        assert full not in replica.store.records


@in_virtual_time
async def test_of_a_group_that_is_written_nothing_waits_for_the_garbage_collector():
    lab = Lab()
    lab.at_once()
    gc.collect()
    gc.disable()
    try:
        await settled(lab.coordinator.set_many([Item(key, b"value") for key in keys_of(lab, 4)]))
        await asyncio.sleep(1)

        left = [each for each in gc.get_objects() if type(each) is Write and each._coordinator is lab.coordinator]
        assert not left
    finally:
        gc.enable()


@in_virtual_time
async def test_of_two_writes_of_one_key_in_a_group_the_later_one_stays():
    lab = Lab()
    lab.at_once()
    (key,) = keys_of(lab, 1)

    first, second = await settled(lab.coordinator.set_many([Item(key, b"1"), Item(key, b"2")]))

    assert second.version > first.version
    assert {replica.store.records[key].value for replica in lab.replicas} == {b"2"}


@in_virtual_time
async def test_a_node_that_missed_a_write_of_a_group_is_noted_for_it():
    lab = HintLab()
    one, two = keys_of(lab, 2)
    lab.at_once(*lab.replicas[:2])
    reply = lab.coordinator.set_many([Item(one, b"1"), Item(two, b"2")])

    for _ in range(2):
        await lab.replicas[2].calls[0].refuse(Busy("planted"))
    await lab.hints.flush()

    assert [type(outcome).__name__ for outcome in await settled(reply)] == ["Written", "Written"]
    assert sorted(hint.key for hint in lab.kept(lab.node(lab.replicas[2]))) == sorted([one, two])


@in_virtual_time
async def test_without_a_quorum_each_write_of_a_group_says_so():
    lab = Lab()
    keys = keys_of(lab, 2)
    lab.at_once(lab.replicas[0])

    outcomes = await settled(lab.coordinator.set_many([Item(key, b"x") for key in keys]))

    assert [type(outcome) for outcome in outcomes] == [QuorumUnavailable] * 2


REFUSALS = (
    Busy("planted"),
    OutOfDisk("planted"),
    Recovering("planted"),
    Expired("planted"),
    ConnectionLost("planted", Outcome.UNKNOWN),
)


async def what_comes_of(seed, together):
    """Of eight writes, each of which a replica may refuse or hold a newer one of: outcomes, hints, and what is known of
    the peers then."""
    random = Random(seed)
    lab = HintLab()
    keys = keys_of(lab, 8)
    ahead = random.choice(lab.replicas)
    for place, replica in enumerate(lab.replicas):
        delay_s = 0.01 * ((place + seed) % 3)
        refusals = {key: random.choice(REFUSALS) for key in keys if random.random() < 0.25}
        for key in keys:
            if replica is ahead and random.random() < 0.2:
                replica.hold(lab.record(b"newer", seconds_ago=-50, key=key), key)

        def answer(promise, key, record, replica=replica, refusals=refusals):
            refusal = refusals.get(key)
            if refusal is None:
                promise.set_result(replica.store.apply(key, record))
            else:
                promise.set_exception(type(refusal)(str(refusal), refusal.outcome))

        def apply(key, record, call, answer=answer, delay_s=delay_s):
            promise = new_promise()
            asyncio.get_running_loop().call_later(delay_s + 1e-5 * keys.index(key), answer, promise, key, record)
            return promise

        replica.apply = apply
    if random.random() < 0.3:
        lab.health.failed(random.choice(lab.peers), Unreachable("planted"))
    if together:
        outcomes = await settled(lab.coordinator.set_many([Item(key, b"v") for key in keys]))
    else:
        outcomes = await asyncio.gather(
            *(settled(lab.coordinator.set(key, b"v")) for key in keys), return_exceptions=True
        )
    await asyncio.sleep(1)
    await lab.hints.flush()
    told = [one.durable if isinstance(one, Written) else (type(one), one.outcome) for one in outcomes]
    peers = [(peer.down, peer.suspect, peer.error, peer.apply_latency._total) for peer in lab.peers]
    assert (lab.coordinator.bytes_in_flight, lab.coordinator.in_flight) == (0, 0)
    return told, sorted((hint.node, hint.key) for hint in lab.kept()), peers


@pytest.mark.parametrize("seed", range(30))
def test_what_comes_of_a_group_of_writes_is_what_comes_of_each_alone(seed):
    assert run(what_comes_of(seed, True)) == run(what_comes_of(seed, False))
