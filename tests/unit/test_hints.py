"""Which writes leave a hint, and what becomes of hints that can't be kept."""

import asyncio
import logging

import pytest

from proxy.hint_store import Hint, HintStore
from sfss.errors import Busy, ConnectionLost, Outcome, OutOfDisk, QuorumUnavailable, Recovering, Unreachable
from sfss.store import Written
from tests.unit.replica_lab import KEY, HintLab, outcome, turns
from tests.unit.virtual_time import in_virtual_time


def hinted(lab, replica):
    """The hints for a replica, those on their way to the disk included."""
    node = lab.hints.node_of(lab.peer(replica))
    return [hint for hint in lab.hints._collecting.hints.values() if hint.node == node]


@in_virtual_time
async def test_a_write_that_all_replicas_take_leaves_none():
    lab = HintLab()
    lab.at_once()

    lab.coordinator.set(KEY, b"new")

    assert lab.hints.waiting() == {}


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("gone"),
        Busy("later"),
        OutOfDisk("full"),
        Recovering("forgot"),
        ConnectionLost("cut", Outcome.UNKNOWN),
    ],
    ids=lambda error: type(error).__name__,
)
@in_virtual_time
async def test_a_replica_that_refuses_an_acknowledged_write_gets_a_hint(error):
    lab = HintLab()
    a, b, c = lab.replicas
    lab.at_once(a, c)
    b.failing = error

    written = lab.coordinator.set(KEY, b"new")

    [hint] = hinted(lab, b)
    assert (hint.key, hint.version, hint.checksum) == (KEY, written.version, written.checksum)
    assert not hinted(lab, a) + hinted(lab, c)


@in_virtual_time
async def test_a_replica_that_is_skipped_because_it_is_down_gets_a_hint():
    lab = HintLab()
    a, b, c = lab.replicas
    lab.at_once(a, b)
    lab.health.failed(lab.peer(c), Unreachable("gone"))

    lab.coordinator.set(KEY, b"new")

    assert len(hinted(lab, c)) == 1
    assert c.log == []


@in_virtual_time
async def test_a_replica_that_fails_after_the_answer_gets_a_hint_then():
    lab = HintLab()
    a, b, c = lab.replicas
    lab.at_once(a, b)
    lab.coordinator.set(KEY, b"new")
    assert not hinted(lab, c)

    await c.call("apply").refuse(ConnectionLost("cut", Outcome.UNKNOWN))

    assert len(hinted(lab, c)) == 1


@in_virtual_time
async def test_a_replica_that_is_late_and_well_gets_none():
    lab = HintLab()
    a, b, c = lab.replicas
    lab.at_once(a, b)
    lab.coordinator.set(KEY, b"new")

    await c.call("apply").answer()

    assert lab.hints.waiting() == {}


@in_virtual_time
async def test_a_delete_leaves_a_hint_for_its_tombstone():
    lab = HintLab()
    a, _, c = lab.replicas
    lab.at_once()
    lab.coordinator.set(KEY, b"old")
    c.failing = Unreachable("gone")

    deleted = lab.coordinator.delete(KEY)

    [hint] = hinted(lab, c)
    assert hint.version == deleted.version == a.held.version
    assert a.held.tombstone


@in_virtual_time
async def test_a_hint_never_counts_toward_the_quorum():
    lab = HintLab()
    a, b, c = lab.replicas
    lab.at_once(a)
    reply = lab.coordinator.set(KEY, b"new")
    for replica in (b, c):
        await replica.call("apply").refuse(ConnectionLost("cut", Outcome.UNKNOWN))

    error = await outcome(reply)

    assert isinstance(error, QuorumUnavailable)
    assert error.outcome is Outcome.UNKNOWN


@in_virtual_time
async def test_a_write_that_fell_short_leaves_none():
    """What wasn't acknowledged needn't be everywhere; and what was said not to be applied must never come to be."""
    lab = HintLab()
    a, b, c = lab.replicas
    lab.at_once(a)
    reply = lab.coordinator.set(KEY, b"new")
    await b.call("apply").refuse(Busy("later"))
    await c.call("apply").refuse(Busy("later"))

    assert isinstance(await outcome(reply), QuorumUnavailable)
    assert lab.hints.waiting() == {}


@in_virtual_time
async def test_a_stamp_that_was_given_up_leaves_none():
    lab = HintLab()
    a, b, c = lab.replicas
    lab.at_once(a, b)
    for replica in (a, b):
        replica.hold(lab.record(b"newer", seconds_ago=-30))
    c.failing = Unreachable("gone")

    written = lab.coordinator.set(KEY, b"new")

    assert lab.coordinator.counters.restamped == 1
    assert [hint.version for hint in hinted(lab, c)] == [written.version]


@in_virtual_time
async def test_hints_are_on_disk_soon_after_many_with_one_sync():
    lab = HintLab()
    lab.at_once(*lab.replicas[:2])
    lab.replicas[2].failing = Unreachable("gone")
    puts = []
    put = lab.store.put
    lab.store.put = lambda hints, bytes_max: puts.append(len(hints)) or put(hints, bytes_max)

    for number in range(100):
        lab.coordinator.set(b"key/%d" % number, b"new")
    await asyncio.sleep(0.2)

    assert puts == [100]
    assert lab.figures()["hints_waiting"] == "100"


@in_virtual_time
async def test_writes_of_one_key_are_one_hint():
    lab = HintLab()
    lab.at_once(*lab.replicas[:2])
    lab.replicas[2].failing = Unreachable("gone")

    for _ in range(50):
        written = lab.coordinator.set(KEY, b"new")
        await asyncio.sleep(0.04)
    await lab.hints.flush()

    [hint] = lab.kept()
    assert hint.version == written.version
    assert lab.figures()["hints_waiting"] == "1"


@in_virtual_time
async def test_the_oldest_is_as_old_as_the_first_that_waits():
    lab = HintLab()
    lab.at_once(*lab.replicas[:2])
    lab.replicas[2].failing = Unreachable("gone")
    lab.coordinator.set(KEY, b"1")
    for _ in range(10):
        await asyncio.sleep(60)
        lab.coordinator.set(KEY, b"2")

    figures = lab.figures()

    assert int(figures["hints_oldest_s"]) in (600, 601)
    assert int(figures[f"{lab.peer(lab.replicas[2]).name}/hints_oldest_s"]) in (600, 601)
    assert figures[f"{lab.peer(lab.replicas[0]).name}/hints_waiting"] == "0"


@in_virtual_time
async def test_a_disk_that_fails_costs_the_hints_and_no_client_hears_of_it(caplog):
    lab = HintLab()
    lab.at_once(*lab.replicas[:2])
    lab.replicas[2].failing = Unreachable("gone")

    def fail(*_):
        raise OSError("No space left on device")

    def said():
        return sum(record.name == "sfss.proxy.hints" for record in caplog.records)

    put, lab.store.put = lab.store.put, fail
    with caplog.at_level(logging.WARNING, "sfss.proxy.hints"):
        for number in range(10):
            assert isinstance(lab.coordinator.set(b"key/%d" % number, b"new"), Written)
            await asyncio.sleep(1)

        assert lab.marked == [lab.ring.partition(b"key/%d" % number) for number in range(10)]
        assert lab.figures()["hints_dropped"] == "10"
        assert said() == 1
        await asyncio.sleep(60)
        lab.coordinator.set(KEY, b"new")
        await asyncio.sleep(1)
        assert said() == 2

    lab.store.put = put
    lab.coordinator.set(KEY, b"newer")
    await asyncio.sleep(1)
    assert lab.figures()["hints_waiting"] == "1"


@in_virtual_time
async def test_hints_beyond_the_room_are_dropped_and_their_partitions_marked():
    lab = HintLab(hint_bytes_max=30_000)
    node = lab.peer(lab.replicas[2])
    keys = [b"key/%d" % number for number in range(1000)]

    for key in keys:
        lab.hints.add(node, key, lab.record())
    await lab.hints.flush()

    figures = lab.figures()
    assert int(figures["hints_waiting"]) + int(figures["hints_dropped"]) == 1000
    kept = {hint.key for hint in lab.kept()}
    assert 0 < len(kept) < 1000
    assert lab.marked == [lab.ring.partition(key) for key in keys if key not in kept]


@in_virtual_time
async def test_a_disk_that_hangs_costs_bounded_memory(monkeypatch):
    monkeypatch.setattr("proxy.hints._COLLECTED_MAX", 100)
    lab = HintLab()
    node = lab.peer(lab.replicas[2])

    for number in range(250):
        lab.hints.add(node, b"%d" % number, lab.record())

    assert len(lab.hints._collecting.hints) == 100
    assert len(lab.marked) == 150


@in_virtual_time
async def test_a_node_that_was_never_met_gets_no_hint_and_the_partition_is_marked():
    lab = HintLab()
    peer = lab.peer(lab.replicas[2])
    lab.nodes.pop(peer.name)

    lab.hints.add(peer, KEY, lab.record())
    await lab.hints.flush()

    assert lab.kept() == []
    assert lab.marked == [lab.ring.partition(KEY)]


@in_virtual_time
async def test_hints_that_get_too_old_are_dropped_and_their_partitions_marked():
    lab = HintLab(hint_age_s=3600.0)
    node = lab.peer(lab.replicas[2])
    lab.hints.add(node, b"old", lab.record())
    await asyncio.sleep(3000)
    lab.hints.add(node, b"young", lab.record())
    await asyncio.sleep(700)

    await lab.hints.tidy(None)

    assert [hint.key for hint in lab.kept()] == [b"young"]
    assert lab.marked == [lab.ring.partition(b"old")]


@in_virtual_time
async def test_hints_for_a_node_that_left_the_cluster_are_dropped_once_all_are_known():
    lab = HintLab()
    lab.store.put([Hint("stranger", b"key", 1, 1, lab.now())], 1 << 30)
    await lab.hints.start()

    await lab.hints.tidy(None)
    assert len(lab.kept("stranger")) == 1
    await lab.hints.tidy(list(lab.nodes.values()))

    assert lab.kept("stranger") == []
    assert lab.marked == [lab.ring.partition(b"key")]


async def test_closing_writes_what_is_collected(tmp_path):
    lab = HintLab(HintStore(tmp_path / "hints"))
    peer = lab.peers[0]
    lab.hints.add(peer, b"key", lab.record())

    await lab.hints.close()
    await lab.hints.close()
    lab.hints.add(peer, b"late", lab.record())

    again = HintStore(tmp_path / "hints")
    assert [hint.key for hint in again.after(lab.nodes[peer.name], b"", 10)] == [b"key"]
    again.close()


@in_virtual_time
async def test_hints_of_an_earlier_life_are_counted_from_the_start():
    lab = HintLab()
    lab.store.put([Hint(lab.nodes[lab.peers[0].name], b"key", 1, 1, lab.now() - 90)], 1 << 30)

    await lab.hints.start()
    await turns()

    assert lab.figures()["hints_waiting"] == "1"
    assert int(lab.figures()["hints_oldest_s"]) in (90, 91)
