"""Replaying hints: whatever order, time or newer write, a node ends up with what the others hold, and no other node."""

import asyncio

import pytest

from proxy.hint_store import Hint
from sfss.errors import Busy, ConnectionLost, CorruptRecord, OutOfDisk, Recovering, Unreachable
from sfss.store import Record
from tests.unit.replica_lab import KEY, HintLab, turns
from tests.unit.virtual_time import in_virtual_time

ROOM = 1 << 30
KEYS = [b"key/%d" % number for number in range(20)]


async def missed(lab, replica, keys=(KEY,)):
    """Write keys while a replica is away; then it is back, and its hints are kept. The replay begins."""
    lab.at_once()
    replica.failing = Unreachable("away")
    for key in keys:
        lab.coordinator.set(key, b"new " + key, flags=7)
    await lab.hints.flush()
    replica.failing = None
    lab.health.answered(lab.peer(replica), lab.now())
    lab.replay.start()


async def replayed(lab, seconds=30.0):
    await asyncio.sleep(seconds)
    await lab.replay.close()


@in_virtual_time
async def test_a_node_that_is_back_gets_what_it_missed_and_the_hints_go():
    lab = HintLab()
    a, b, c = lab.replicas
    await missed(lab, c, KEYS)

    await replayed(lab)

    assert c.store.records == a.store.records == b.store.records
    assert len(c.store.records) == 20
    assert lab.figures()["hints_waiting"] == "0"
    assert lab.figures()["hints_replayed"] == "20"
    assert lab.marked == []


@in_virtual_time
async def test_the_record_keeps_version_flags_and_expiry():
    lab = HintLab()
    a, _, c = lab.replicas
    lab.at_once()
    c.failing = Unreachable("away")
    lab.coordinator.set(KEY, b"new", flags=9, expires=int(lab.now()) + 5)
    await lab.hints.flush()
    c.failing = None
    lab.replay.start()

    await replayed(lab)

    assert c.held == a.held
    assert (c.held.flags, c.held.expires) == (9, a.held.expires)


@in_virtual_time
async def test_a_tombstone_is_replayed_as_one():
    lab = HintLab()
    a, _, c = lab.replicas
    lab.at_once()
    lab.coordinator.set(KEY, b"old")
    c.failing = Unreachable("away")
    lab.coordinator.delete(KEY)
    await lab.hints.flush()
    c.failing = None
    lab.replay.start()

    await replayed(lab)

    assert c.held == a.held
    assert c.held.tombstone


@in_virtual_time
async def test_nothing_is_replayed_while_the_node_is_away():
    lab = HintLab()
    c = lab.replicas[2]
    await missed(lab, c)
    c.failing = Unreachable("away")
    lab.health.failed(lab.peer(c), c.failing)
    c.log.clear()

    await replayed(lab, 600.0)

    assert c.log == []
    assert len(lab.kept()) == 1


@in_virtual_time
async def test_a_suspect_node_is_left_alone_until_it_is_trusted():
    lab = HintLab()
    c = lab.replicas[2]
    lab.health.failed(lab.peer(c), Recovering("forgot"))
    c.identity = c.identity.__class__(c.identity.node, "cluster", 1, "fingerprint", state="suspect")
    await missed(lab, c)
    lab.health.failed(lab.peer(c), Recovering("forgot"))
    c.log.clear()
    await asyncio.sleep(600.0)
    assert c.log == []

    c.identity = c.identity.__class__(c.identity.node, "cluster", 1, "fingerprint")
    await replayed(lab)

    assert c.held == lab.replicas[0].held


@in_virtual_time
async def test_a_hint_held_across_a_newer_write_brings_the_newer_one():
    lab = HintLab()
    a, _, c = lab.replicas
    await missed(lab, c)
    c.failing = Busy("later")
    newer = lab.coordinator.set(KEY, b"newer")
    c.failing = None

    await replayed(lab)

    assert c.held == a.held
    assert c.held.version == newer.version


@in_virtual_time
async def test_a_node_that_has_something_newer_keeps_it():
    lab = HintLab()
    c = lab.replicas[2]
    await missed(lab, c)
    newer = lab.record(b"newer", seconds_ago=-5)
    c.hold(newer)
    c.log.clear()

    await replayed(lab)

    assert c.held == newer
    assert "apply" not in c.log
    assert lab.kept() == []


@in_virtual_time
async def test_something_newer_that_arrives_during_the_replay_is_kept_and_the_hint_done():
    lab = HintLab()
    c = lab.replicas[2]
    await missed(lab, c)
    c.at_once = False
    await asyncio.sleep(1.5)
    await c.call("inspect").answer()
    await turns(30)
    newer = lab.record(b"newer", seconds_ago=-5)
    c.hold(newer)
    await c.call("apply").answer()

    await replayed(lab)

    assert c.held == newer
    assert lab.kept() == []


@in_virtual_time
async def test_hints_replayed_backwards_twice_and_late_change_nothing_more():
    lab = HintLab()
    a, _, c = lab.replicas
    node = lab.node(c)
    lab.at_once()
    c.failing = Unreachable("away")
    hints = []
    for value in (b"1", b"2", b"3"):
        written = lab.coordinator.set(KEY, value)
        hints.append(Hint(node, KEY, written.version, written.checksum))
    await lab.hints.flush()
    c.failing = None
    lab.replay.start()

    for hint in [*reversed(hints), *hints, hints[0]]:
        lab.store.remove([hints[-1]])
        lab.store.put([hint], ROOM)
        await lab.hints.start()
        await asyncio.sleep(5)
        assert c.held == a.held
        assert c.held.value == b"3"
    await replayed(lab)

    assert lab.kept() == []


@in_virtual_time
async def test_a_file_deleted_since_does_not_come_back():
    lab = HintLab()
    a, b, c = lab.replicas
    await missed(lab, c)
    [hint] = lab.kept()
    lab.coordinator.delete(KEY)
    lab.store.put([hint], ROOM)
    for replica in (a, b, c):
        replica.store.records.clear()  # the tombstone was purged, long after

    await replayed(lab)

    assert c.held is None
    assert lab.kept() == []
    assert lab.marked == [lab.ring.partition(KEY)]


@in_virtual_time
async def test_a_hint_goes_to_no_other_node_at_the_address():
    lab = HintLab()
    c = lab.replicas[2]
    await missed(lab, c)
    node = lab.node(c)
    lab.nodes[lab.peer(c).name] = "another node"
    c.log.clear()

    await replayed(lab, 50.0)

    assert c.log == []
    assert len(lab.kept(node)) == 1


@in_virtual_time
async def test_a_node_that_was_replaced_during_the_replay_does_not_end_the_hint():
    lab = HintLab()
    c = lab.replicas[2]
    await missed(lab, c)
    node = lab.node(c)
    c.at_once = False
    await asyncio.sleep(1.5)
    await c.call("inspect").answer()
    await turns(30)
    lab.nodes[lab.peer(c).name] = "another node"
    await c.call("apply").answer()

    await replayed(lab)

    assert len(lab.kept(node)) == 1


@in_virtual_time
async def test_a_hint_for_a_node_that_owns_the_key_no_more_is_dropped_and_its_partition_marked():
    lab = HintLab(count=5)
    lab.at_once()
    owners = lab.coordinator.owners(KEY).peers
    stranger = next(peer for peer in lab.peers if peer not in owners)
    lab.hints.add(stranger, KEY, lab.record())
    await lab.hints.flush()
    lab.replay.start()

    await replayed(lab)

    assert stranger.replica.log == []
    assert lab.kept() == []
    assert lab.marked == [lab.ring.partition(KEY)]


@in_virtual_time
async def test_a_corrupt_copy_is_no_source_and_the_next_owner_is():
    lab = HintLab()
    a, b, c = lab.replicas
    await missed(lab, c)
    read, a.read = a.read, lambda *_: (_ for _ in ()).throw(CorruptRecord("rot"))

    await replayed(lab)

    a.read = read
    assert c.held == b.held


@in_virtual_time
async def test_a_corrupt_copy_at_the_node_is_written_anew():
    lab = HintLab()
    a, _, c = lab.replicas
    await missed(lab, c)

    def corrupt(*_):
        raise CorruptRecord("rot")

    c.inspect = corrupt

    await replayed(lab)

    assert c.held == a.held


@pytest.mark.parametrize("error", [Unreachable("away"), CorruptRecord("rot")], ids=["away", "corrupt"])
@in_virtual_time
async def test_a_hint_waits_while_an_owner_that_may_have_the_record_does_not_say(error):
    lab = HintLab()
    a, b, c = lab.replicas
    await missed(lab, c)
    lost = a.held
    a.failing = error
    b.store.records.clear()
    await asyncio.sleep(300)
    assert len(lab.kept()) == 1

    a.failing = None
    await replayed(lab, 130.0)

    assert c.held == lost
    assert lab.marked == []


@in_virtual_time
async def test_an_owner_that_missed_the_write_too_is_no_source():
    lab = HintLab()
    a, b, c = lab.replicas
    await missed(lab, c)
    newest = b.held
    a.store.records.clear()
    a.hold(lab.record(b"older"))

    await replayed(lab)

    assert c.held == newest


@in_virtual_time
async def test_a_full_node_gets_its_tombstones_and_the_rest_once_there_is_room():
    lab = HintLab()
    a, _, c = lab.replicas
    lab.at_once()
    for key in KEYS:
        lab.coordinator.set(key, b"old")
    c.failing = Unreachable("away")
    for key in KEYS[:10]:
        lab.coordinator.set(key, b"new")
    for key in KEYS[10:]:
        lab.coordinator.delete(key)
    await lab.hints.flush()
    c.failing = None
    apply = c.apply

    def full(key: bytes, record: Record, call):
        if not record.tombstone:
            raise OutOfDisk("full")
        return apply(key, record, call)

    c.apply = full
    lab.replay.start()
    await asyncio.sleep(60)
    assert sum(record.tombstone for record in c.store.records.values()) == 10
    assert len(lab.kept()) == 10

    c.apply = apply
    await replayed(lab, 130.0)

    assert c.store.records == a.store.records


@in_virtual_time
async def test_a_node_that_is_busy_is_left_alone_for_a_while():
    lab = HintLab()
    c = lab.replicas[2]
    await missed(lab, c, KEYS)
    c.log.clear()
    c.failing = Busy("too much")

    await asyncio.sleep(600)

    assert 0 < c.log.count("inspect") < 100
    c.failing = None
    await replayed(lab, 130.0)
    assert len(c.store.records) == 20


@in_virtual_time
async def test_a_node_that_falls_silent_again_ends_the_pass_and_loses_nothing():
    lab = HintLab()
    a, _, c = lab.replicas
    await missed(lab, c, KEYS)
    c.at_once = False
    await asyncio.sleep(30)
    assert lab.peer(c).failures >= 3
    assert len(lab.kept()) == 20

    c.at_once = True
    c.calls.clear()
    lab.health.answered(lab.peer(c), lab.now())
    await replayed(lab, 130.0)

    assert c.store.records == a.store.records


@in_virtual_time
async def test_hints_that_are_not_on_disk_yet_are_replayed_soon_after_they_are():
    lab = HintLab(hint_flush_s=10.0)
    a, _, c = lab.replicas
    lab.at_once()
    c.failing = Busy("later")
    lab.coordinator.set(KEY, b"new")
    c.failing = None
    lab.replay.start()

    await replayed(lab, 12.5)

    assert c.held == a.held


@in_virtual_time
async def test_the_pace_is_kept():
    lab = HintLab(hint_rate=10.0)
    c = lab.replicas[2]
    await missed(lab, c, [b"key/%d" % number for number in range(200)])

    await replayed(lab, 11.0)

    assert 80 <= len(c.store.records) <= 108


@in_virtual_time
async def test_large_files_are_paced_by_their_bytes():
    lab = HintLab(hint_byte_rate=1000.0)
    c = lab.replicas[2]
    lab.at_once()
    c.failing = Unreachable("away")
    for number in range(100):
        lab.coordinator.set(b"key/%d" % number, bytes(500))
    await lab.hints.flush()
    c.failing = None
    lab.replay.start()

    await replayed(lab, 11.0)

    assert 16 <= len(c.store.records) <= 28


@in_virtual_time
async def test_few_files_are_on_their_way_at_a_time():
    lab = HintLab()
    c = lab.replicas[2]
    await missed(lab, c, KEYS)
    c.at_once = False

    await asyncio.sleep(1.5)

    assert len(c.calls) == 4
    await lab.replay.close()


@in_virtual_time
async def test_hints_for_two_nodes_are_replayed_side_by_side():
    lab = HintLab(count=5)
    lab.at_once()
    for peer in lab.peers:
        peer.replica.at_once = True
    first, second = map(set, lab.ring.table)
    away = [lab.peers[(first - second).pop()], lab.peers[(second - first).pop()]]
    keys = [b"key/%d" % number for number in range(60)]
    for peer in away:
        peer.replica.failing = Unreachable("away")
    for key in keys:
        lab.coordinator.set(key, b"new")
    for peer in away:
        peer.replica.failing = None
    lab.replay.start()

    await replayed(lab)

    for key in keys:
        assert len({peer.replica.store.records.get(key) for peer in lab.coordinator.owners(key).peers}) == 1
    assert all(peer.replica.store.records for peer in away)


@in_virtual_time
async def test_old_hints_are_looked_for_by_themselves():
    lab = HintLab(hint_age_s=600.0)
    c = lab.replicas[2]
    await missed(lab, c)
    c.failing = Unreachable("away")
    lab.health.failed(lab.peer(c), c.failing)

    await replayed(lab, 700.0)

    assert lab.kept() == []
    assert lab.marked == [lab.ring.partition(KEY)]


@in_virtual_time
async def test_hints_that_can_not_be_removed_are_replayed_again_and_removed_then():
    lab = HintLab()
    a, _, c = lab.replicas
    await missed(lab, c)
    remove = lab.store.remove

    def fail(_hints):
        raise OSError("No space left on device")

    lab.store.remove = fail
    await asyncio.sleep(10)
    assert c.held == a.held
    assert len(lab.kept()) == 1

    lab.store.remove = remove
    await replayed(lab, 130.0)

    assert lab.kept() == []
    assert lab.marked == []


@in_virtual_time
async def test_closing_in_the_middle_of_a_replay_keeps_the_hints():
    lab = HintLab()
    c = lab.replicas[2]
    await missed(lab, c, KEYS)
    c.at_once = False
    await asyncio.sleep(1.5)

    await lab.replay.close()
    await lab.replay.close()

    assert len(lab.kept()) == 20


@in_virtual_time
async def test_a_connection_cut_between_writing_and_hearing_ends_nothing_early():
    lab = HintLab()
    a, _, c = lab.replicas
    await missed(lab, c)
    c.at_once = False
    await asyncio.sleep(1.5)
    await c.call("inspect").answer()
    await turns(30)
    cut = c.call("apply")
    cut.execute()
    await cut.refuse(ConnectionLost("cut"))
    assert len(lab.kept()) == 1

    c.at_once = True
    lab.health.answered(lab.peer(c), lab.now())
    await replayed(lab)

    assert c.held == a.held
    assert lab.kept() == []
