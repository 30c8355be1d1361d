"""A backup has every acknowledged file, whichever phase a change of the ring is in, or ends and says why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from backup_lab import CLUSTER, WHEN, Lab, LabNode, record_of

from sfss.backup.archive import Archive
from sfss.backup.errors import BackupFailed
from sfss.backup.folder import BackupFolder
from sfss.backup.saving import Saving
from sfss.backup.tree import Trees
from sfss.errors import Unreachable
from sfss.keys import hash_key
from sfss.pace import Pace
from sfss.ring_change.layout import Layout
from sfss.ring_keeper import HeldRing
from sfss.ring_record import Placement, RingMember, RingRecord

PARTITIONS = 16
KEYS = [b"f%d" % number for number in range(12)]


class Changing(Lab):
    """Nodes a to f, of which some own everything under one ring, and others under the next."""

    def __init__(self, before: str, after: str) -> None:
        super().__init__()
        self.nodes = [LabNode(f"{name}:1") for name in "abcdef"]
        for number, node in enumerate(self.nodes):
            node.id = f"{number:032x}"
        self.before, self.after = self._placement(before), self._placement(after)
        self.joint = RingRecord(2, PARTITIONS, (self.before, self.after))
        self.settled = RingRecord(3, PARTITIONS, (self.after,))
        for key in KEYS:
            self.lay(key, record_of(key, b"x"), before)
            self.store.files[key] = record_of(key, b"x")

    def some(self, names: str) -> list[LabNode]:
        return [node for node in self.nodes if node.name[0] in names]

    def lay(self, key: bytes, record: object, nodes: str) -> None:
        for node in self.some(nodes):
            node.records[key] = record  # type: ignore[assignment]

    def take(self, ring: RingRecord) -> None:
        """All learn it; once it is settled the old copies go."""
        if not ring.joint:
            old, new = (self._names(placement) for placement in (self.before, self.after))
            whole = self.some(old)[0].records.copy()
            for node in self.nodes:
                node.records = whole.copy() if node.name[0] in new else {}
        for node in self.nodes:
            node.ring = HeldRing.of(ring)

    async def run(self, folder: BackupFolder, names: str, w: int) -> set[bytes]:
        """A run that the proxies named these nodes to. What it has."""
        with closing(folder.begin(CLUSTER, WHEN)) as manifest:
            trees = Trees(self, self.some(names), w, w, sleep=self.nap)
            archive = Archive(folder, manifest)
            await Saving(archive, self.store, trees, jobs=4, pace=Pace(0), sleep=self.nap).run()
            folder.end(manifest, WHEN)
        with closing(folder.open_run()) as manifest:
            return {row.key for row in manifest.all_files()}

    def at_question(self, number: int, ring: RingRecord) -> None:
        """Take a ring when so many questions were asked."""
        left = number

        def asked() -> None:
            nonlocal left
            left -= 1
            if not left:
                self.take(ring)

        for node in self.nodes:
            node.asked = asked

    def _placement(self, names: str) -> Placement:
        members = tuple(RingMember(node.id, node.name) for node in self.some(names))
        copies = len(members)
        return Placement(members, copies, copies // 2 + 1, copies // 2 + 1, 1)

    def _names(self, placement: Placement) -> str:
        return "".join(member.name[0] for member in placement.members)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[BackupFolder]:
    with closing(BackupFolder(tmp_path / "backup", write=True)) as folder:
        yield folder


@pytest.mark.parametrize("question", [1, 2, 3, 10, 50, 100])
async def test_nodes_that_are_all_replaced_in_the_middle_of_a_run_take_no_file_along(
    folder: BackupFolder, question: int
) -> None:
    lab = Changing("abc", "def")
    lab.at_question(question, lab.settled)

    assert await lab.run(folder, "abc", 2) == set(KEYS)


@pytest.mark.parametrize("question", [1, 5, 50])
async def test_a_run_that_begins_under_a_joint_ring_and_ends_under_the_next_has_every_file(
    folder: BackupFolder, question: int
) -> None:
    lab = Changing("a", "bcd")
    lab.take(lab.joint)
    lab.at_question(question, lab.settled)

    assert await lab.run(folder, "abcd", 1) == set(KEYS)


async def test_under_a_joint_ring_the_old_owners_are_needed(folder: BackupFolder) -> None:
    lab = Changing("a", "bcd")
    lab.take(lab.joint)
    lab.some("a")[0].failing = Unreachable("connection refused")

    with pytest.raises(BackupFailed, match=r"1 of 4 nodes don't tell .* 0 at most may be missing \(a:1: connection re"):
        await lab.run(folder, "abcd", 2)


async def test_nodes_that_have_left_stand_for_no_node_that_stays(folder: BackupFolder) -> None:
    lab = Changing("abc", "a")
    lab.take(lab.settled)
    lab.some("a")[0].failing = Unreachable("connection refused")

    with pytest.raises(BackupFailed, match=r"1 of 1 nodes don't tell"):
        await lab.run(folder, "abc", 2)


async def test_under_a_joint_ring_a_tombstone_is_believed_from_a_quorum_of_both(folder: BackupFolder) -> None:
    """Each of these is on W nodes, but on no write quorum of the old owners or none of the new: a reader may find the
    file."""
    lab = Changing("abc", "cde")
    lab.take(lab.joint)
    for key, holders in zip(KEYS, ("ad", "ab", "de", "cd", "ca"), strict=False):
        lab.lay(key, record_of(key, at=2, tombstone=True), holders)
    deleted = KEYS[10]
    lab.lay(deleted, record_of(deleted, at=2, tombstone=True), "abcd")
    del lab.store.files[deleted]

    assert await lab.run(folder, "abcde", 2) == set(KEYS) - {deleted}
    assert deleted not in lab.store.reads


async def test_a_copy_that_was_left_behind_proves_nothing(folder: BackupFolder) -> None:
    lab = Changing("abc", "bcdef")
    placement = Placement(lab.after.members, 3, 2, 2, 1)
    ring = RingRecord(3, PARTITIONS, (placement,))
    lab.take(lab.settled)
    for node in lab.nodes:
        node.ring = HeldRing.of(ring)
    groups = Layout(ring).groups[0]
    shift = Layout(ring).shift
    key = KEYS[0]
    owners = [owner[0] for owner in groups[hash_key(key) >> shift].owners]
    foreign = next(name for name in "bcdef" if name not in owners)
    lab.lay(key, record_of(key, at=2, tombstone=True), foreign + owners[0])

    assert await lab.run(folder, "bcdef", 2) == set(KEYS)


async def test_a_node_that_knows_only_the_number_of_its_ring_is_not_the_only_one_asked(folder: BackupFolder) -> None:
    lab = Changing("abc", "def")
    lab.take(lab.settled)
    lab.some("a")[0].ring = HeldRing(3, lab.settled.fingerprint)

    assert await lab.run(folder, "abc", 2) == set(KEYS)


async def test_a_ring_that_nobody_tells_ends_the_run_in_one_line(folder: BackupFolder) -> None:
    lab = Changing("abc", "def")
    lab.take(lab.settled)
    for node in lab.nodes:
        node.ring = HeldRing(3, lab.settled.fingerprint)

    with pytest.raises(BackupFailed, match=r"^the ring has changed, and a:1 doesn't tell it .*run it again"):
        await lab.run(folder, "abc", 2)


async def test_a_file_is_dropped_that_new_nodes_alone_had_deleted_and_purged(folder: BackupFolder) -> None:
    lab = Changing("abc", "def")
    assert await lab.run(folder, "abc", 2) == set(KEYS)
    lab.take(lab.settled)
    for node in lab.some("def"):
        del node.records[KEYS[0]]
    del lab.store.files[KEYS[0]]

    assert await lab.run(folder, "def", 2) == set(KEYS[1:])
    lab.store.reads.clear()
    assert await lab.run(folder, "def", 2) == set(KEYS[1:])
    assert not lab.store.reads
