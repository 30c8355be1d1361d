"""A node's ring: it lasts, its number never falls, and what the node has let go never comes back."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from small_nodes import SMALL, killed, newest_volume, node, take_turns_on_disk

from nodes import appender, command, housekeeping, rings
from nodes.batch import Batch
from nodes.checker import check_directory
from nodes.identity import DataDirectory
from nodes.ring_file import RING, read_ring_file, write_ring_file
from nodes.store import NodeStore
from sfss.errors import BadRequest, OutOfDisk, Recovering, SetupError, StaleRing, WrongCluster
from sfss.hash_tree import read_branches
from sfss.keys import hash_key
from sfss.ring_keeper import Accepted, HeldRing, Nack, Promised, RingKeeper
from sfss.ring_record import RING_NUMBER_MAX, Placement, RingMember, RingRecord
from sfss.store import Call, Identity, Record, Seen, checksum_of, settled

PARTITIONS = 64
OTHER = RingMember("f" * 32, "n2:1")


def partition_of(key: bytes) -> int:
    return hash_key(key) >> 58


def file_of(key: bytes, version: int, value: bytes = b"v" * 1000) -> Record:
    return Record(value, len(value), 0, 0, version, checksum_of(key, value, 0, 0, version, False))


class Change:
    """Rings that take half of all partitions from a node, and give them back."""

    def __init__(self, node_id: str) -> None:
        own = RingMember(node_id, "n1:1")
        alone, shared, without = (Placement(members, 1, 1, 1, 1) for members in ((own,), (own, OTHER), (OTHER,)))
        self.joint = RingRecord(2, PARTITIONS, (alone, shared))
        self.shared = RingRecord(3, PARTITIONS, (shared,))
        self.joint_again = RingRecord(4, PARTITIONS, (shared, alone))
        self.alone = RingRecord(5, PARTITIONS, (alone,))
        self.without = RingRecord(5, PARTITIONS, (without,))
        owned = self.shared.owned_by(node_id)
        self.given = [partition for partition in range(PARTITIONS) if not owned[partition]]
        self.kept = [partition for partition in range(PARTITIONS) if owned[partition]]
        self.going = [key for key in KEYS if not owned[partition_of(key)]]
        self.staying = [key for key in KEYS if owned[partition_of(key)]]


KEYS = [b"key/%d" % number for number in range(200)]


async def bound(store: NodeStore) -> Change:
    await settled(store.bind("c" * 32, 1, "f1"))
    return Change(store.identify().node)


async def fill(store: NodeStore, ring: int, version: int = 100, keys: list[bytes] = KEYS) -> None:
    for start in range(0, len(keys), 20):  # a batch each, so that there are several volumes
        some = keys[start : start + 20]
        await asyncio.gather(*(settled(store.apply(key, file_of(key, version), Call(ring=ring))) for key in some))


async def drop_all(store: NodeStore, change: Change) -> int:
    ring = change.shared.number
    return sum(await asyncio.gather(*(settled(store.drop_partition(ring, part)) for part in change.given)))


def held(store: NodeStore) -> set[bytes]:
    return {key for key in KEYS if store.inspect(key) is not None}


async def counted(store: NodeStore) -> int:
    return sum(branch.records for branch in read_branches(await settled(store.hashes(b""))))


# --- the ring ----------------------------------------------------------------------------------------------------


async def test_a_node_keeps_a_ring_over_restarts(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        assert isinstance(store, RingKeeper)
        assert await settled(store.tell_ring()) == HeldRing(0, "")
        change = await bound(store)
        assert await settled(store.tell_ring()) == HeldRing(1, "f1")
        assert await settled(store.learn_ring(change.joint)) == HeldRing.of(change.joint)
    async with node(tmp_path) as store:
        assert await settled(store.tell_ring()) == HeldRing.of(change.joint)
        told = store.identify()
        assert (told.ring, told.fingerprint) == (2, change.joint.fingerprint)
        assert await settled(store.learn_ring(change.joint)) == HeldRing.of(change.joint)
        assert await settled(store.learn_ring(change.shared)) == HeldRing.of(change.shared)
        assert await settled(store.learn_ring(change.joint)) == HeldRing.of(change.shared)


async def test_what_was_answered_about_a_ring_outlives_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_turns_on_disk(monkeypatch)
    async with node(tmp_path / "1") as store:
        change = await bound(store)
        assert await settled(store.prepare_ring(2, 10)) == Promised()
        promised = killed(tmp_path / "1", tmp_path / "promised")
        assert await settled(store.accept_ring(10, change.joint)) == Accepted()
        accepted = killed(tmp_path / "1", tmp_path / "accepted")
        await settled(store.learn_ring(change.joint))
        learnt = killed(tmp_path / "1", tmp_path / "learnt")

    async with node(promised) as store:
        assert await settled(store.prepare_ring(2, 10)) == Nack(10)
        assert await settled(store.accept_ring(9, change.joint)) == Nack(10)
    async with node(accepted) as store:
        assert await settled(store.prepare_ring(2, 11)) == Promised(10, change.joint)
    async with node(learnt) as store:
        assert await settled(store.prepare_ring(2, 99)) == HeldRing.of(change.joint)
        assert store.identify().ring == 2
        assert await settled(store.prepare_ring(3, 1)) == Promised()


async def test_a_write_under_the_ring_before_is_refused(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        change = await bound(store)
        await settled(store.learn_ring(change.shared))

        with pytest.raises(StaleRing, match="stale ring 3"):
            store.apply(b"late", file_of(b"late", 7), Call(ring=1))


async def test_a_ring_is_told_once_all_that_was_taken_before_is_settled(tmp_path: Path) -> None:
    """Whoever hears the new number lists what is held: a write still on its way would be missed, and acknowledged."""
    async with node(tmp_path) as store:
        change = await bound(store)
        store._writer.hold(True)
        write = store.apply(b"a", file_of(b"a", 7), Call(ring=1))
        learning = asyncio.ensure_future(settled(store.learn_ring(change.joint)))
        while not (tmp_path / RING).exists() or store._ring == 1:
            await asyncio.sleep(0.001)

        told = asyncio.ensure_future(settled(store.tell_ring()))
        await asyncio.sleep(0.02)
        assert not learning.done()
        assert not told.done()
        assert store.identify().ring == 1
        with pytest.raises(StaleRing):
            store.apply(b"b", file_of(b"b", 8), Call(ring=1))

        store._writer.hold(False)
        assert (await settled(write)).accepted
        assert (await learning).number == (await told).number == store.identify().ring == 2


async def test_a_ring_waits_for_deletes_that_go_on_where_files_find_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path) as store:
        change = await bound(store)
        append = appender.Appender._append
        go_on = threading.Event()

        def full(self: appender.Appender, batch: Batch) -> None:
            if not batch.privileged:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            go_on.wait(10)
            append(self, batch)

        monkeypatch.setattr(appender.Appender, "_append", full)
        store._writer.hold(True)
        gone = Record(b"", 0, 0, 0, 8, checksum_of(b"a", b"", 0, 0, 8, True), True)
        delete = store.apply(b"a", gone, Call(ring=1))
        write = store.apply(b"b", file_of(b"b", 7), Call(ring=1))
        learning = asyncio.ensure_future(settled(store.learn_ring(change.joint)))
        while store._ring == 1:
            await asyncio.sleep(0.001)
        store._writer.hold(False)
        with pytest.raises(OutOfDisk):
            await settled(write)
        await asyncio.sleep(0.01)
        assert not learning.done()
        go_on.set()

        await learning
        assert delete.done()
        assert (await settled(delete)).accepted


async def test_a_ring_that_finds_no_room_on_disk_isnt_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with node(tmp_path) as store:
        change = await bound(store)
        with monkeypatch.context() as patch:
            patch.setattr(housekeeping, "write_ring_file", _no_room)
            for asked in (store.prepare_ring(2, 5), store.accept_ring(5, change.joint), store.learn_ring(change.joint)):
                with pytest.raises(OutOfDisk):
                    await settled(asked)

        assert await settled(store.tell_ring()) == HeldRing(1, "f1")
        assert store.apply(b"a", file_of(b"a", 7), Call(ring=1)) is not None
        assert await settled(store.prepare_ring(2, 4)) == Promised()
        assert (await settled(store.learn_ring(change.shared))).number == 3
        with monkeypatch.context() as patch:
            patch.setattr(housekeeping, "write_ring_file", _no_room)
            with pytest.raises(OutOfDisk):
                await settled(store.drop_partition(3, change.given[0]))
        assert await settled(store.drop_partition(3, change.given[0])) == 0


def _no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_node_of_no_cluster_takes_part_in_nothing(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        change = Change(store.identify().node)

        for asked in (store.prepare_ring(1, 1), store.learn_ring(change.joint), store.drop_partition(3, 1)):
            with pytest.raises(WrongCluster):
                await settled(asked)
    assert not (tmp_path / RING).exists()


@pytest.mark.parametrize("harm", ["missing", "older", "damaged", "foreign"])
async def test_a_ring_that_is_lost_refuses_the_start_in_one_line(tmp_path: Path, harm: str) -> None:
    file = tmp_path / RING
    async with node(tmp_path) as store:
        change = await bound(store)
        await settled(store.learn_ring(change.joint))
        older = file.read_bytes()
        await settled(store.learn_ring(change.shared))
    if harm == "missing":
        file.unlink()
    elif harm == "older":
        file.write_bytes(older)
    elif harm == "damaged":
        file.write_bytes(file.read_bytes().replace(b"n2:1", b"n3:1", 1))
    else:
        file.write_bytes((tmp_path / "identity").read_bytes())

    with pytest.raises(SetupError) as refused:
        await NodeStore.open(tmp_path)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_node_in_a_lost_ones_place_has_no_say_until_the_next_ring(tmp_path: Path) -> None:
    member = "cd" * 16
    async with node(tmp_path) as store:
        change = Change(member)
        told = await settled(store.adopt("c" * 32, 2, change.joint.fingerprint, member))
        assert await settled(store.tell_ring()) == HeldRing(2, change.joint.fingerprint)
        assert await settled(store.learn_ring(change.joint)) == HeldRing.of(change.joint)
        with pytest.raises(Recovering):
            await settled(store.prepare_ring(3, 1))
        await settled(store.trust(told.epoch))
    async with node(tmp_path) as store:
        with pytest.raises(Recovering):
            await settled(store.prepare_ring(3, 1))
        await settled(store.learn_ring(change.shared))
        assert await settled(store.prepare_ring(4, 1)) == Promised()
        with pytest.raises(BadRequest, match="owns"):  # known by the id that it took over
            await settled(store.drop_partition(3, change.kept[0]))
        assert await settled(store.drop_partition(3, change.given[0])) == 0


def each_save(directory: Path, copies: Path, patch: pytest.MonkeyPatch) -> list[Path]:
    """What kills would leave: a copy of the directory after each time that one of its small files is replaced."""
    left: list[Path] = []

    def copying(write: Callable[..., None]) -> Callable[..., None]:
        def save(*arguments: Any) -> None:
            write(*arguments)
            ignore = shutil.ignore_patterns("lock.mdb")
            left.append(shutil.copytree(directory, copies / str(len(left)), ignore=ignore))

        return save

    patch.setattr(DataDirectory, "save", copying(DataDirectory.save))
    patch.setattr(housekeeping, "write_ring_file", copying(housekeeping.write_ring_file))
    return left


async def went_back(store: NodeStore) -> Identity:
    told = store.identify()
    return await settled(store.recall(Seen(told.node, told.epoch + 1, "word", 0)))


async def has_a_say(store: NodeStore, number: int) -> bool:
    try:
        return isinstance(await settled(store.prepare_ring(number, 99)), Promised)
    except Recovering:
        return False


async def test_a_kill_while_it_is_trusted_again_lets_it_promise_nothing_that_it_may_have_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path / "node") as store:
        change = await bound(store)
        await settled(store.prepare_ring(2, 10))
        told = await went_back(store)
        with monkeypatch.context() as patch:
            left = each_save(tmp_path / "node", tmp_path / "killed", patch)
            await settled(store.trust(told.epoch))

    assert left
    for directory in left:
        async with node(directory) as store:
            assert not await has_a_say(store, 2)
            await settled(store.learn_ring(change.joint))
            # Suspect, it may have had this ring before, and given its word on the next.
            assert await has_a_say(store, 3) == (store.identify().state == "ok")
            if store.identify().state == "suspect":
                await settled(store.trust(store.identify().epoch))
                assert not await has_a_say(store, 3)
            await settled(store.learn_ring(change.shared))
            assert await has_a_say(store, 4)


async def test_a_kill_while_it_finds_that_it_went_back_leaves_no_node_that_is_well_and_mute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path / "node") as store:
        await bound(store)
        left = each_save(tmp_path / "node", tmp_path / "killed", monkeypatch)
        await went_back(store)
        monkeypatch.undo()

    assert left
    for directory in left:
        async with node(directory) as store:
            assert await has_a_say(store, 2) == (store.identify().state == "ok")


@pytest.mark.parametrize("trusted", [False, True])
async def test_one_that_an_older_version_found_to_have_gone_back_is_mute_until_it_is_trusted(
    tmp_path: Path, trusted: bool
) -> None:
    """That one noted it beside the ring alone, and was killed there."""
    async with node(tmp_path) as store:
        change = await bound(store)
        await settled(store.learn_ring(change.joint))
    data = DataDirectory.open(tmp_path)
    state = replace(data.load(), suspect="" if trusted else "an older copy of it was put back")
    ring = read_ring_file(tmp_path, state)
    write_ring_file(tmp_path, replace(ring, kept=replace(ring.kept, forgot=RING_NUMBER_MAX)).encode(0))
    data.save(state)
    data.close()

    async with node(tmp_path) as store:
        assert not await has_a_say(store, 3)
        await settled(store.learn_ring(change.shared))
        assert await has_a_say(store, 4) == trusted
        await settled(store.trust(store.identify().epoch))
        if not trusted:
            assert not await has_a_say(store, 4)
        await settled(store.learn_ring(change.joint_again))
        assert await has_a_say(store, 5)


async def test_a_directory_that_was_damaged_and_did_not_go_back_keeps_its_word_and_its_say(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        await bound(store)
        await settled(store.prepare_ring(2, 10))
    data = DataDirectory.open(tmp_path)
    data.save(replace(data.load(), suspect="a volume is damaged"))
    data.close()

    async with node(tmp_path) as store:
        for _ in range(2):
            assert await settled(store.prepare_ring(2, 10)) == Nack(10)
            await settled(store.trust(store.identify().epoch))
        assert await has_a_say(store, 2)


async def test_who_is_bound_while_it_is_to_take_a_lost_ones_place_has_its_say(tmp_path: Path) -> None:
    for number in range(6):
        async with node(tmp_path / str(number)) as store:
            adopting = asyncio.ensure_future(settled(store.adopt("c" * 32, 1, "f1", "cd" * 16)))
            for _ in range(number):
                await asyncio.sleep(0)
            told = (await asyncio.gather(adopting, settled(store.bind("c" * 32, 1, "f1"))))[0]

            assert await has_a_say(store, 2) == (told.state == "ok"), f"bound after {number} turns"


async def test_a_directory_that_went_back_has_no_say_until_it_is_declared_to_have_forgotten_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with node(tmp_path) as store:
        await bound(store)
        told = store.identify()
        await settled(store.recall(Seen(told.node, told.epoch + 1, "word", 0)))
        with pytest.raises(Recovering):
            await settled(store.prepare_ring(2, 1))

    command._trust(tmp_path)

    assert "next ring" in capsys.readouterr().out
    async with node(tmp_path) as store:
        assert await settled(store.prepare_ring(2, 1)) == Promised()


# --- letting go --------------------------------------------------------------------------------------------------


async def test_what_a_node_no_longer_owns_goes_and_all_else_stays(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        change = await bound(store)
        await fill(store, 1)
        await settled(store.learn_ring(change.shared))

        assert await drop_all(store, change) == len(change.going)

        assert held(store) == set(change.staying)
        assert await counted(store) == len(change.staying)
        assert store.stats()["curr_items"] == str(len(change.staying))
        assert await drop_all(store, change) == 0
    assert check_directory(tmp_path, print) == 0


async def test_a_node_without_a_record_has_nothing_to_let_go(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        change = await bound(store)
        await settled(store.learn_ring(change.shared))
        assert await drop_all(store, change) == 0
    async with node(tmp_path) as store:
        assert await drop_all(store, change) == 0
        assert (await settled(store.tell_ring())).number == 3


async def test_only_what_the_ring_has_given_away_can_be_dropped(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        change = await bound(store)
        await fill(store, 1)
        await settled(store.learn_ring(change.joint))
        with pytest.raises(BadRequest, match="joint"):
            await settled(store.drop_partition(2, change.given[0]))
        await settled(store.learn_ring(change.shared))

        with pytest.raises(BadRequest, match="owns"):
            await settled(store.drop_partition(3, change.kept[0]))
        with pytest.raises(BadRequest, match="no partition"):
            await settled(store.drop_partition(3, PARTITIONS))
        with pytest.raises(StaleRing, match="stale ring 3"):
            await settled(store.drop_partition(2, change.given[0]))
        with pytest.raises(BadRequest, match="member"):
            await settled(store.leave_ring(3))
        assert held(store) == set(KEYS)


async def test_many_partitions_go_at_the_price_of_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with node(tmp_path) as store:
        change = await bound(store)
        await settled(store.learn_ring(change.shared))
        saves = []
        save = store._housekeeper.save_ring
        monkeypatch.setattr(store._housekeeper, "save_ring", lambda *all_: (saves.append(all_), save(*all_))[1])

        await drop_all(store, change)

    assert len(change.given) > 20
    assert len(saves) <= 2


async def test_the_same_partition_asked_for_twice_goes_once(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        change = await bound(store)
        await fill(store, 1)
        await settled(store.learn_ring(change.shared))
        part = partition_of(change.going[0])

        counts = await asyncio.gather(*(settled(store.drop_partition(3, part)) for _ in range(3)))

        assert len(set(counts)) == 1


async def test_a_partition_asked_for_under_a_ring_that_is_left_meanwhile_stays(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        change = await bound(store)
        await fill(store, 1)
        await settled(store.learn_ring(change.shared))
        await settled(store.drop_partition(3, change.given[0]))  # what it owns is known from now on
        async with store._rings._lock:
            learning = asyncio.ensure_future(settled(store.learn_ring(change.joint_again)))
            await asyncio.sleep(0.01)
            dropping = asyncio.ensure_future(settled(store.drop_partition(3, change.given[1])))
            await asyncio.sleep(0.01)
        await learning

        with pytest.raises(StaleRing, match="stale ring 4"):
            await dropping
        assert {key for key in KEYS if partition_of(key) == change.given[1]} <= held(store)


async def test_more_partitions_than_may_wait_are_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rings, "_DROPS_MAX", 1)
    async with node(tmp_path) as store:
        change = await bound(store)
        await settled(store.learn_ring(change.shared))

        answers = await asyncio.gather(
            *(settled(store.drop_partition(3, part)) for part in change.given), return_exceptions=True
        )

        assert {type(answer).__name__ for answer in answers} == {"int", "Busy"}


async def dropped_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, early: bool) -> tuple[Path, Change]:
    """A directory as a kill leaves it: after a drop was answered, or (`early`) when it was on disk and nothing of it
    had left the index."""
    take_turns_on_disk(monkeypatch)
    async with node(tmp_path / "1") as store:
        change = await bound(store)
        await fill(store, 1)
        await settled(store.learn_ring(change.shared))
        await store._indexer.commit()
        copy = tmp_path / "killed"
        if early:
            remove = store._dropper.remove

            async def removing(*arguments: object) -> object:
                if not copy.exists():
                    killed(tmp_path / "1", copy)
                return await remove(*arguments)

            monkeypatch.setattr(store._dropper, "remove", removing)
        await drop_all(store, change)
        if not early:
            killed(tmp_path / "1", copy)
    return copy, change


@pytest.mark.parametrize("index", ["kept", "lost"])
@pytest.mark.parametrize("early", [False, True])
async def test_dropped_records_stay_away_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: bool, index: str
) -> None:
    directory, change = await dropped_and_killed(tmp_path, monkeypatch, early=early)
    if index == "lost":
        shutil.rmtree(directory / "index")
    said: list[str] = []
    assert check_directory(directory, said.append) == 0
    assert any("were dropped" in line for line in said)
    assert f"{len(change.staying)} files" in said[-1]

    async with node(directory) as store:
        assert store.identify().state == "ok"
        assert held(store) == set(change.staying)
        assert await counted(store) == len(change.staying)
    assert check_directory(directory, print) == 0


async def test_dropped_records_stay_away_behind_a_torn_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, change = await dropped_and_killed(tmp_path, monkeypatch, early=True)
    with newest_volume(directory).open("r+b") as volume:
        volume.seek(-16 * 1024, 2)
        volume.write(b"torn" * 100)
    shutil.rmtree(directory / "index")

    async with node(directory) as store:
        assert held(store) == set(change.staying)


@pytest.mark.parametrize("index", ["kept", "lost"])
async def test_an_owner_again_has_what_was_written_since_and_nothing_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    """What is written since may have lower versions than what lies dead: that was never acknowledged, or its tombstone
    is gone everywhere."""
    directory, change = await dropped_and_killed(tmp_path, monkeypatch, early=True)
    back = change.going[: len(change.going) // 2]
    async with node(directory) as store:
        await settled(store.learn_ring(change.joint_again))
        await settled(store.learn_ring(change.alone))
        await fill(store, 5, version=50, keys=back)
        await store._indexer.commit()
        killed(directory, tmp_path / "again")
        await store._scrubber.scrub()
        assert store.stats()["scrub_faults"] == "0"
    if index == "lost":
        shutil.rmtree(tmp_path / "again" / "index")

    async with node(tmp_path / "again") as store:
        assert held(store) == {*change.staying, *back}
        assert {store.inspect(key).version for key in back} == {50}
    assert check_directory(tmp_path / "again", print) == 0


async def test_no_ring_is_learnt_while_something_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node may own it again in that ring, and what is written under that must not go with it."""
    async with node(tmp_path) as store:
        change = await bound(store)
        await fill(store, 1)
        await settled(store.learn_ring(change.shared))
        go_on = asyncio.Event()
        remove = store._dropper.remove

        async def removing(*arguments: object) -> object:
            await go_on.wait()
            return await remove(*arguments)

        monkeypatch.setattr(store._dropper, "remove", removing)
        dropping = asyncio.ensure_future(drop_all(store, change))
        while not store._rings.file.removing:
            await asyncio.sleep(0.001)
        learning = asyncio.ensure_future(settled(store.learn_ring(change.joint_again)))
        await asyncio.sleep(0.02)
        assert not learning.done()
        with pytest.raises(StaleRing):
            store.apply(change.going[0], file_of(change.going[0], 999), Call(ring=4))

        go_on.set()
        assert (await learning).number == 4
        assert await dropping == len(change.going)
        assert held(store) == set(change.staying)


async def test_a_write_on_its_way_goes_too(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        change = await bound(store)
        key = change.going[0]
        store._writer.hold(True)
        write = store.apply(key, file_of(key, 7))
        learning = asyncio.ensure_future(settled(store.learn_ring(change.shared)))
        await asyncio.sleep(0.02)
        store._writer.hold(False)
        await learning
        await settled(write)
        store._writer.hold(True)
        again = store.apply(key, file_of(key, 8))
        dropping = asyncio.ensure_future(settled(store.drop_partition(3, partition_of(key))))
        await asyncio.sleep(0.02)
        assert not dropping.done()
        store._writer.hold(False)

        assert (await settled(again)).accepted
        assert await dropping == 1
        assert store.inspect(key) is None


async def test_a_copy_that_compaction_makes_isnt_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would lie above the position that the drop is known by, and come back with a new index."""
    async with node(tmp_path, compact_dead_ratio=0.1) as store:
        change = await bound(store)
        await fill(store, 1)
        await fill(store, 1, version=101, keys=KEYS[::2])  # so that every volume has garbage
        await settled(store.learn_ring(change.shared))
        save = store._housekeeper.save_ring

        async def compacting(*arguments: object) -> None:
            await store._compactor.compact()
            await save(*arguments)

        monkeypatch.setattr(store._housekeeper, "save_ring", compacting)
        await drop_all(store, change)
        assert store.stats()["compacted_bytes"] != "0"
    shutil.rmtree(tmp_path / "index")

    async with node(tmp_path) as store:
        assert held(store) == set(change.staying)


async def test_a_drop_that_a_stop_interrupts_is_finished_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path) as store:
        change = await bound(store)
        await fill(store, 1)
        await settled(store.learn_ring(change.shared))
        dropping = asyncio.ensure_future(drop_all(store, change))
        while not store._rings.file.removing:
            await asyncio.sleep(0)
        await store.close()
        with pytest.raises(Exception, match="stopping"):
            await dropping

    async with node(tmp_path) as store:
        assert held(store) == set(change.staying)


async def test_a_node_that_has_left_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_turns_on_disk(monkeypatch)
    async with node(tmp_path / "1") as store:
        change = await bound(store)
        await fill(store, 1)
        await settled(store.learn_ring(change.without))

        told = await settled(store.leave_ring(5))
        killed(tmp_path / "1", tmp_path / "2")
        assert (told.ring, told.fingerprint) == (5, change.without.fingerprint)
        assert await settled(store.leave_ring(5)) == store.identify()
    shutil.rmtree(tmp_path / "2" / "index")

    for directory in ("1", "2"):
        async with node(tmp_path / directory) as store:
            assert held(store) == set()
            assert await counted(store) == 0
            assert store.stats()["curr_items"] == "0"
        assert check_directory(tmp_path / directory, print) == 0


async def test_what_found_no_room_to_go_goes_when_the_node_is_told_once_more_that_it_has_left(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        change = await bound(store)
        await fill(store, 1)
        await settled(store.learn_ring(change.without))
        remove = store._rings._dropper.remove

        async def without_room(*_: object) -> dict[int, int]:
            raise OutOfDisk("out of disk")

        store._rings._dropper.remove = without_room  # type: ignore[method-assign]
        await settled(store.leave_ring(5))
        await asyncio.sleep(0.01)
        store._rings._dropper.remove = remove  # type: ignore[method-assign]
        assert await counted(store)

        await settled(store.leave_ring(5))
        async with asyncio.timeout(10):
            while await counted(store):
                await asyncio.sleep(0.01)


async def test_room_of_what_is_dropped_comes_back_and_so_does_the_note_of_it(tmp_path: Path) -> None:
    async with node(tmp_path, compact_dead_ratio=0.1) as store:
        change = await bound(store)
        await fill(store, 1)
        await settled(store.learn_ring(change.shared))
        await drop_all(store, change)
        volumes = store.stats()["volumes"]
        noted = (tmp_path / RING).stat().st_size
        await settled(store.apply(change.staying[0], file_of(change.staying[0], 101, b"x" * 16_000), Call(ring=3)))
        while await store._compactor.compact():
            pass

        assert int(store.stats()["volumes"]) < int(volumes)
        await settled(store.prepare_ring(4, 1))
        assert (tmp_path / RING).stat().st_size < noted


@pytest.mark.parametrize("seed", range(6))
async def test_any_course_of_rings_drops_and_crashes_keeps_exactly_what_is_owned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    take_turns_on_disk(monkeypatch)
    random = Random(seed)
    directory = tmp_path / "0"
    number, version, lives = 1, 1, 0
    model: dict[bytes, int] = {}
    store = await NodeStore.open(directory, SMALL)
    change = await bound(store)
    alone, shared = change.alone.placements[0], change.shared.placements[0]
    owns_all = True
    try:
        for _ in range(25):
            match random.randrange(5):
                case 0 | 1:
                    version += 1
                    mine = KEYS if owns_all else change.staying
                    keys = random.sample(mine, 20)
                    await fill(store, number, version, keys)
                    model.update(dict.fromkeys(keys, version))
                case 2:
                    before, after = (alone, shared) if owns_all else (shared, alone)
                    await settled(store.learn_ring(RingRecord(number + 1, PARTITIONS, (before, after))))
                    number += 2
                    await settled(store.learn_ring(RingRecord(number, PARTITIONS, (after,))))
                    owns_all = not owns_all
                    if not owns_all:
                        drops = [settled(store.drop_partition(number, part)) for part in change.given]
                        await asyncio.gather(*drops)
                        model = {key: held for key, held in model.items() if key in change.staying}
                    version = random.randrange(version, version + 3)
                case 3:
                    lives += 1
                    copy = killed(directory, tmp_path / str(lives))
                    await store.close()
                    directory = copy
                    if random.random() < 0.5:
                        shutil.rmtree(directory / "index")
                    store = await NodeStore.open(directory, SMALL)
                case 4:
                    await store._compactor.compact()
            assert {key: store.inspect(key).version for key in held(store)} == model
            assert store.stats()["curr_items"] == str(len(model))
    finally:
        await store.close()
    assert check_directory(directory, print) == 0
