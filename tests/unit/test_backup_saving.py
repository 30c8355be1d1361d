"""What a run saves: every acknowledged file, nothing that was deleted, and only what has changed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from backup_lab import CLUSTER, WHEN, Lab, hash_of, record_of

from sfss.backup.archive import Archive
from sfss.backup.errors import BackupFailed
from sfss.backup.folder import BackupFolder
from sfss.backup.manifest import Row
from sfss.backup.patience import FAILURES_IN_A_ROW_MAX
from sfss.backup.saving import Saving
from sfss.backup.tree import Trees, merged
from sfss.backup.view import View
from sfss.errors import CorruptRecord, QuorumUnavailable, Recovering, Unreachable
from sfss.hash_tree import Listed
from sfss.pace import Pace
from sfss.promise import new_promise
from sfss.store import Record


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[BackupFolder]:
    with closing(BackupFolder(tmp_path / "backup", write=True)) as folder:
        yield folder


@pytest.fixture
def lab() -> Lab:
    return Lab()


def rows(folder: BackupFolder) -> dict[bytes, Row]:
    with closing(folder.open_run()) as manifest:
        return {row.key: row for row in manifest.all_files()}


def is_backed_up(lab: Lab, folder: BackupFolder) -> bool:
    """Whether the last run has exactly what the store answers."""
    return {key: row.order() for key, row in rows(folder).items()} == {
        key: record.order() for key, record in lab.store.files.items()
    }


async def test_the_first_run_saves_every_file_and_the_next_one_looks_at_none(lab: Lab, folder: BackupFolder) -> None:
    for number in range(50):
        lab.write(b"f%d" % number, b"x" * number)
    await lab.back_up(folder)
    assert is_backed_up(lab, folder)
    lab.store.reads.clear()
    for node in lab.nodes:
        node.listed.clear()
        node.compared.clear()

    run, progress = await lab.back_up(folder)

    assert (run.number, run.files, progress.saved) == (2, 50, 0)
    assert lab.store.reads == lab.nodes[0].listed == []
    assert lab.nodes[0].compared == [b""]


async def test_only_what_changed_is_read(lab: Lab, folder: BackupFolder) -> None:
    for name in (b"same", b"changed", b"deleted"):
        lab.write(name, b"first")
    await lab.back_up(folder)
    lab.store.reads.clear()
    lab.write(b"changed", b"second", 2)
    lab.write(b"new", b"second", 2)
    lab.delete(b"deleted", 2)

    run, progress = await lab.back_up(folder)

    assert sorted(lab.store.reads) == [b"changed", b"deleted", b"new"]
    assert (run.files, progress.saved, progress.dropped) == (3, 2, 1)
    assert is_backed_up(lab, folder)


async def test_old_deletes_cost_no_reads(lab: Lab, folder: BackupFolder) -> None:
    for number in range(20):
        lab.delete(b"f%d" % number, 1)

    run, _ = await lab.back_up(folder)

    assert (run.files, lab.store.reads) == (0, [])


async def test_a_file_that_one_node_alone_knows_is_saved(lab: Lab, folder: BackupFolder) -> None:
    """One of its two holders is away: the third never heard of it."""
    lab.write(b"file", b"x", nodes="ab")
    lab.nodes[0].failing = Unreachable("connection refused")

    await lab.back_up(folder)

    assert is_backed_up(lab, folder)


async def test_with_too_few_nodes_nothing_is_concluded(lab: Lab, folder: BackupFolder) -> None:
    lab.write(b"file", b"x", nodes="ab")
    await lab.back_up(folder)
    lab.nodes[0].failing = Unreachable("connection refused")
    lab.nodes[1].failing = Recovering("it lost data")

    with pytest.raises(BackupFailed, match=r"2 of 3 nodes don't tell .*a: connection refused; b: it lost data"):
        await lab.back_up(folder)

    assert folder.runs() == [1]
    assert list(rows(folder)) == [b"file"]


async def test_a_node_that_is_back_in_time_is_waited_for(lab: Lab, folder: BackupFolder) -> None:
    lab.write(b"file", b"x")
    lab.nodes[0].failing = lab.nodes[1].failing = Unreachable("connection refused")
    nap = lab.nap

    async def heal(seconds: float) -> None:
        lab.nodes[1].failing = None
        await nap(seconds)

    lab.nap = heal  # type: ignore[method-assign]
    await lab.back_up(folder)

    assert is_backed_up(lab, folder)


async def test_a_deletion_that_was_never_acknowledged_deletes_nothing(lab: Lab, folder: BackupFolder) -> None:
    """One node holds the tombstone; a quorum still answers the file."""
    lab.write(b"file", b"x")
    await lab.back_up(folder)
    lab.lay(b"file", record_of(b"file", at=2, tombstone=True), nodes="c")

    await lab.back_up(folder)

    assert list(rows(folder)) == [b"file"]


async def test_a_file_that_no_node_lists_is_asked_for_before_it_is_dropped(lab: Lab, folder: BackupFolder) -> None:
    lab.write(b"kept", b"x")
    lab.write(b"gone", b"x")
    await lab.back_up(folder)
    for node in lab.nodes:
        node.records.clear()
    del lab.store.files[b"gone"]

    await lab.back_up(folder)

    assert list(rows(folder)) == [b"kept"]


async def test_a_file_that_could_not_be_read_and_was_then_forgotten_by_all_is_dropped(
    lab: Lab, folder: BackupFolder
) -> None:
    """Deleted, and even its tombstone is gone: the nodes' trees say nothing of it any more."""
    lab.write(b"file", b"old")
    await lab.back_up(folder)
    lab.write(b"file", b"new", 2)
    lab.store.errors[b"file"] = [CorruptRecord("all copies")]
    await lab.back_up(folder)
    assert list(rows(folder)) == [b"file"]
    lab.store.files.clear()
    for node in lab.nodes:
        node.records.clear()

    await lab.back_up(folder)

    assert rows(folder) == {}


async def test_a_write_that_was_never_acknowledged_is_saved_once_it_is_read(lab: Lab, folder: BackupFolder) -> None:
    old = lab.write(b"file", b"old")
    newer = record_of(b"file", b"newer", 2)
    lab.lay(b"file", newer, nodes="c")
    await lab.back_up(folder)
    assert rows(folder)[b"file"].order() == old.order()
    # A reader met it, so it was written to the others.
    lab.write(b"file", b"newer", 2)

    await lab.back_up(folder)

    assert rows(folder)[b"file"].order() == newer.order()


async def test_what_vanishes_or_changes_during_the_run_is_no_failure(lab: Lab, folder: BackupFolder) -> None:
    for name in (b"vanishes", b"changes"):
        lab.write(name, b"x")
    del lab.store.files[b"vanishes"]
    lab.store.files[b"changes"] = record_of(b"changes", b"y", 2)

    run, progress = await lab.back_up(folder)

    assert (run.files, progress.failed) == (1, 0)
    assert is_backed_up(lab, folder)


async def test_what_could_not_be_read_is_named_kept_and_tried_again(lab: Lab, folder: BackupFolder) -> None:
    lab.write(b"file", b"old")
    lab.write(b"other", b"x")
    await lab.back_up(folder)
    lab.write(b"file", b"new", 2)
    lab.write(b"first", b"new", 2)
    for key in (b"file", b"first"):
        lab.store.errors[key] = [CorruptRecord("all copies")]

    run, progress = await lab.back_up(folder)

    assert (run.failed, progress.failed) == (2, 2)
    with closing(folder.open_run()) as manifest:
        assert list(manifest.failures()) == [(b"file", "all copies"), (b"first", "all copies")]
    assert rows(folder)[b"file"].size == 3
    assert b"first" not in rows(folder)

    run, progress = await lab.back_up(folder)

    assert (run.failed, progress.saved) == (0, 2)
    assert is_backed_up(lab, folder)


async def test_a_short_trouble_is_waited_out(lab: Lab, folder: BackupFolder) -> None:
    lab.write(b"file", b"x")
    lab.store.errors[b"file"] = [QuorumUnavailable("1 of 2 answered"), Unreachable("no proxy")]

    run, _ = await lab.back_up(folder)

    assert run.failed == 0
    assert lab.naps == [0.2, 1.0]
    assert is_backed_up(lab, folder)


async def test_an_old_answer_of_a_relaxed_proxy_is_not_taken_for_the_file(lab: Lab, folder: BackupFolder) -> None:
    """With R=1 a hit may be old. Two nodes hold something newer, so that was acknowledged."""
    old = lab.write(b"file", b"old")
    lab.write(b"file", b"newer", 2)
    lab.store.files[b"file"] = old

    run, _ = await lab.back_up(folder)

    assert run.failed == 1
    assert rows(folder) == {}


@pytest.mark.parametrize(("w", "away"), [(2, "b"), (3, "")])
@pytest.mark.parametrize("stale", [b"old", None])
async def test_where_reads_hear_one_node_what_less_than_a_quorum_lists_is_not_passed_over(
    lab: Lab, folder: BackupFolder, w: int, away: str, stale: bytes | None
) -> None:
    """Whoever is away may have it, too; and with W=N the node that was read may have lost what all had."""
    lab.w, lab.r = w, 1
    if stale is not None:
        lab.write(b"file", stale)
    await lab.back_up(folder)
    old = lab.store.files.get(b"file")
    new = lab.write(b"file", b"newer", 2, nodes="ab")
    if old is None:
        del lab.store.files[b"file"]
    else:
        lab.store.files[b"file"] = old
    for name in away:
        lab.node_at(name).failing = Unreachable("connection refused")

    run, progress = await lab.back_up(folder)

    assert (run.failed, progress.dropped) == (1, 0)
    lab.store.files[b"file"] = new
    assert (await lab.back_up(folder))[0].failed == 0
    assert is_backed_up(lab, folder)


async def test_when_nothing_can_be_read_the_run_ends(lab: Lab, folder: BackupFolder) -> None:
    for number in range(FAILURES_IN_A_ROW_MAX + 20):
        lab.write(b"f%d" % number)
        lab.store.errors[b"f%d" % number] = [Unreachable("no proxy")] * 4

    with pytest.raises(BackupFailed, match=r"the last 50 files could not be read \(no proxy\)"):
        await lab.back_up(folder)

    assert folder.runs() == []
    lab.store.errors.clear()
    await lab.back_up(folder)
    assert is_backed_up(lab, folder)


async def test_many_rotten_files_do_not_end_the_run(lab: Lab, folder: BackupFolder) -> None:
    for number in range(FAILURES_IN_A_ROW_MAX + 20):
        lab.write(b"f%d" % number)
        lab.store.errors[b"f%d" % number] = [CorruptRecord("all copies")]
    lab.write(b"whole")

    run, _ = await lab.back_up(folder)

    assert (run.files, run.failed) == (1, FAILURES_IN_A_ROW_MAX + 20)
    assert lab.naps == []


async def test_more_records_than_one_listing_holds(folder: BackupFolder) -> None:
    lab = Lab(listed_max=2)
    same_leaf = next(keys for keys in _by_leaf(b"key%d" % number for number in range(200_000)) if len(keys) >= 6)
    for key in same_leaf:
        lab.write(key, b"x")

    await lab.back_up(folder)

    assert is_backed_up(lab, folder)
    assert {len(place) for place in lab.nodes[0].listed} >= {4, 5}


def _by_leaf(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    leaves: dict[bytes, list[bytes]] = {}
    for key in keys:
        leaf = leaves.setdefault(hash_of(key)[:4], [])
        leaf.append(key)
        yield leaf


async def test_a_run_that_is_stopped_keeps_what_it_has(lab: Lab, folder: BackupFolder) -> None:
    for number in range(40):
        lab.write(b"f%d" % number, b"x")
    get = lab.store.get
    reached = asyncio.Event()

    def stuck(key: bytes, *rest: object) -> object:
        if len(lab.store.reads) < 20:
            return get(key)
        reached.set()
        return new_promise()

    lab.store.get = stuck  # type: ignore[assignment, method-assign]
    running = asyncio.create_task(lab.back_up(folder, jobs=4))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert folder.runs() == []
    lab.store.get = get  # type: ignore[method-assign]
    lab.store.reads.clear()

    run, progress = await lab.back_up(folder)

    assert (run.number, run.files) == (1, 40)
    # Of those that were read, each job may have been stopped just before it saved one.
    assert 20 <= progress.saved == len(lab.store.reads) < 20 + 4
    assert is_backed_up(lab, folder)


async def test_a_full_disk_ends_the_run_at_once(
    lab: Lab, folder: BackupFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.write(b"file", b"x")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Archive, "save", full)
        with pytest.raises(OSError, match="No space left"):
            await lab.back_up(folder)

    await lab.back_up(folder)
    assert is_backed_up(lab, folder)


@pytest.mark.parametrize("tombstone", [False, True])
async def test_what_a_reader_meets_is_seen_although_the_node_that_got_it_then_is_away(
    lab: Lab, folder: BackupFolder, tombstone: bool
) -> None:
    """At first one node alone had it, and it was not acknowledged; the others and that one are as they were."""
    lab.write(b"file", b"old")
    unacknowledged = record_of(b"file", b"" if tombstone else b"new", 2, tombstone=tombstone)
    lab.lay(b"file", unacknowledged, nodes="a")
    await lab.back_up(folder)
    lab.lay(b"file", unacknowledged, nodes="b")
    if tombstone:
        del lab.store.files[b"file"]
    else:
        lab.store.files[b"file"] = unacknowledged
    lab.nodes[1].failing = Unreachable("away")

    await lab.back_up(folder)

    assert is_backed_up(lab, folder)


async def test_any_history_with_a_node_away_now_and_then_is_backed_up(folder: BackupFolder, rng: random.Random) -> None:
    """Every acknowledged write is on two of three nodes, whichever; every run misses at most one node."""
    lab = Lab()
    keys = [b"k%d" % number for number in range(12)]
    unacknowledged: dict[bytes, Record] = {}
    at = 0
    for _ in range(20):
        for _ in range(rng.randrange(5)):
            at += 1
            key = rng.choice(keys)
            nodes = "".join(rng.sample("abc", rng.choice([2, 3])))
            if rng.random() < 0.3:
                lab.delete(key, at, nodes=nodes)
            else:
                lab.write(key, b"%d" % at, at, nodes=nodes)
        for key, record in unacknowledged.items():  # a reader may meet it, and then it is on two
            held = [node.records[key].order() for node in lab.nodes if key in node.records]
            if max(held) == record.order() and rng.random() < 0.5:
                lab.lay(key, record, "".join(rng.sample("abc", 2)))
                if record.tombstone:
                    lab.store.files.pop(key, None)
                else:
                    lab.store.files[key] = record
        if rng.random() < 0.5:  # an unacknowledged write or delete, on one node
            at += 1
            key = rng.choice(keys)
            unacknowledged[key] = record_of(key, at=at, tombstone=rng.random() < 0.5)
            lab.lay(key, unacknowledged[key], rng.choice("abc"))
        for node in lab.nodes:
            node.failing = None
        if rng.random() < 0.5:
            rng.choice(lab.nodes).failing = Unreachable("away")

        run, _ = await lab.back_up(folder, jobs=rng.randrange(1, 9))

        assert run.failed == 0
        assert is_backed_up(lab, folder)


async def test_the_newest_of_all_listings_counts_with_its_holders() -> None:
    old, new, odd = Listed(b"k", 1, 5, False, 0), Listed(b"k", 2, 5, False, 0), Listed(b"k", 2, 6, True, 0)
    view = View(None, 2, 2)

    assert merged({"a": [old], "b": [new], "c": [new]}, view)[b"k"] == (new, True, False)
    assert merged({"a": [new], "b": [old], "c": [odd]}, view)[b"k"] == (odd, False, False)
    assert merged({"a": [], "b": []}, view) == {}


async def test_a_server_without_versions_is_not_backed_up(lab: Lab, folder: BackupFolder) -> None:
    lab.write(b"file", b"x")
    lab.store.files[b"file"] = lab.store.files[b"file"].replaced(version=0)

    run, _ = await lab.back_up(folder)

    assert run.failed == 1


async def test_the_rate_is_kept(lab: Lab, folder: BackupFolder) -> None:
    now, slept = 0.0, 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now, slept
        now += seconds
        slept += seconds

    for number in range(10):
        lab.write(b"f%d" % number, b"x" * 1000)
    with closing(folder.begin(CLUSTER, WHEN)) as manifest:
        pace = Pace(1000, monotonic=lambda: now, sleep=sleep)
        await Saving(Archive(folder, manifest), lab.store, Trees(lab, lab.nodes, 2, 2), jobs=1, pace=pace).run()

    assert 9 < slept <= 10
