"""A local cluster that gets more nodes, or fewer: it goes on trying, and leaves out only nodes that the ring lacks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodes.dropped import Dropped
from nodes.identity import DataDirectory, NodeState
from nodes.ring_file import RingFile, write_ring_file
from sfss.commands import growth
from sfss.commands.data_folder import DataFolder, Founding
from sfss.commands.growth import grow, grow_in_time, without_absent
from sfss.commands.local_ring import check_left_out
from sfss.errors import SetupError
from sfss.ring_change.ending import Outcome
from sfss.ring_keeper import HeldRing, KeptRing
from sfss.ring_plan import Change
from sfss.ring_record import Placement, RingMember, RingRecord

ONE = Founding(nodes=1, node_port=7000)
GROWING = ONE.with_nodes(3)
IDS = [f"{number}" * 32 for number in range(5)]


class Tries:
    """Implements what one try is: fails for some reasons, then ends."""

    def __init__(self, *ends: Exception | bool) -> None:
        self._ends = list(ends)
        self.said: list[str] = []
        self.slept: list[float] = []

    async def once(self, founding: Founding, _conf: Path, _say: Callable[[str], None]) -> Founding:
        end = self._ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return founding.grown() if end else founding.given_up()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def run(self, folder: DataFolder) -> None:
        await grow_in_time(folder, GROWING, self.said.append, self.once, self.sleep)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    folder = DataFolder(tmp_path / "data")
    folder.found(GROWING)
    yield folder
    folder.close()


async def test_what_is_in_the_way_is_tried_again_ever_less_often_and_told_once(folder: DataFolder) -> None:
    away, full = SetupError("b:1 does not answer"), SetupError("no room left")
    tries = Tries(away, away, full, away, full, away, away, away, away, True)

    await tries.run(folder)

    assert len(tries.slept) == 9
    assert tries.slept[-1] > 10 * tries.slept[0]
    assert max(tries.slept) < 60
    assert [line for line in tries.said if "can't be added yet" in line] == [
        "localhost:7001, localhost:7002 can't be added yet, and it is tried again and again: b:1 does not answer",
        "localhost:7001, localhost:7002 can't be added yet, and it is tried again and again: no room left",
    ]
    assert tries.said[-1] == "localhost:7001, localhost:7002 are in the ring"
    assert folder.founded() == GROWING.grown()


async def test_a_fault_of_our_own_ends_neither_the_cluster_nor_the_trying(folder: DataFolder) -> None:
    tries = Tries(RuntimeError("what"), True)

    await tries.run(folder)

    assert "RuntimeError: what" in tries.said[1]
    assert folder.founded() == GROWING.grown()


async def test_how_to_give_it_up_is_said_at_once_and_a_change_that_was_is_not_begun_again(folder: DataFolder) -> None:
    tries = Tries(False)

    await tries.run(folder)

    assert f"`sfss ring abort --conf {folder.path}/conf/proxy-0.ini` gives it up" in tries.said[0]
    assert "stop this, and start with --nodes 1" in tries.said[0]
    assert "the next start is without them, or adds them with --nodes 3" in tries.said[-1]
    assert folder.founding(None, None, ONE).nodes == 1


class OthersChange:
    """Implements what `grow` needs of a cluster whose ring somebody else changes, and gives that up."""

    def __init__(self, ring: RingRecord) -> None:
        self._ring = ring

    @asynccontextmanager
    async def mover(self, _say: Callable[[str], None]) -> AsyncIterator[OthersChange]:
        yield self

    async def look(self) -> RingRecord:
        return self._ring

    async def apply(self, _wish: object) -> Outcome:
        return Outcome.GIVEN_UP

    def wish(self, change: Change, _ring: RingRecord) -> Change:
        return change


async def growing_beside(monkeypatch: pytest.MonkeyPatch, ring: RingRecord, founding: Founding) -> Founding:
    monkeypatch.setattr(growth.RingCluster, "load", lambda _conf: OthersChange(ring))
    return await grow(founding, Path("proxy-0.ini"), lambda _: None)


async def test_nodes_that_are_in_the_ring_stay_when_a_later_change_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await growing_beside(monkeypatch, record(4, 3, 2), GROWING) == GROWING.grown()


async def test_only_nodes_that_are_not_in_the_ring_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    more = GROWING.with_nodes(5)

    left = await growing_beside(monkeypatch, record(4, 3, 5), more)

    assert (left.nodes, left.joining) == (3, range(1, 3))
    assert without_absent(more, {"localhost:7004"}) == more
    assert (await growing_beside(monkeypatch, record(2, 1, 5), more)).nodes == 1


# Nodes that are left out


def record(number: int, *placements: int) -> RingRecord:
    """A ring whose placements have the first so many nodes."""
    return RingRecord(
        number,
        64,
        tuple(
            Placement(
                tuple(RingMember(IDS[node], f"localhost:{7000 + node}") for node in range(count)),
                min(3, count), min(2, count), min(2, count), 1,
            )
            for count in placements
        ),
    )  # fmt: skip


def stopped_node(folder: Path, number: int, ring: int = 0, kept: KeptRing | None = None) -> None:
    path = folder / f"node-{number}"
    directory = DataDirectory.open(path)
    held = HeldRing(ring, "f" * 32) if kept is None else kept.held
    cluster = "c" * 32 if held.number else ""
    taught = held.record is not None
    directory.save(NodeState(IDS[number], cluster, held.number, held.fingerprint, taught=taught))
    if kept is not None:
        write_ring_file(path, RingFile(kept, Dropped()).encode(0))
    directory.close()


def test_nodes_that_were_started_and_never_voted_for_may_be_left_out(tmp_path: Path) -> None:
    stopped_node(tmp_path, 0, ring=1)
    stopped_node(tmp_path, 1, ring=1)
    stopped_node(tmp_path, 2)

    assert check_left_out(tmp_path, GROWING, GROWING.with_nodes(1)) == GROWING.with_nodes(1)


def test_nodes_that_left_the_ring_may_be_left_out(tmp_path: Path) -> None:
    for number in range(3):
        stopped_node(tmp_path, number, kept=KeptRing(HeldRing.of(record(5, 2))))
    before = GROWING.grown()

    assert check_left_out(tmp_path, before, before.with_nodes(2)).nodes == 2
    with pytest.raises(SetupError, match=r"localhost:7001 would be missing, .*--nodes 3, .*--remove localhost:7001"):
        check_left_out(tmp_path, before, before.with_nodes(1))


@pytest.mark.parametrize(
    "kept",
    [
        KeptRing(HeldRing.of(record(2, 1, 3))),
        KeptRing(HeldRing(1, "f" * 32), promised=9, ballot=9, accepted=record(2, 1, 3)),
    ],
)
def test_nodes_that_a_change_under_way_may_bring_in_are_not_left_out(tmp_path: Path, kept: KeptRing) -> None:
    stopped_node(tmp_path, 0, kept=kept)
    stopped_node(tmp_path, 1, ring=1)

    with pytest.raises(SetupError, match=r"change of the ring with localhost:7001, .* is under way; .*sfss ring abort"):
        check_left_out(tmp_path, GROWING, GROWING.with_nodes(1))


def test_founders_stay_and_a_founding_that_came_to_nothing_is_made_anew(tmp_path: Path) -> None:
    three = Founding(nodes=3, node_port=7000)
    stopped_node(tmp_path, 0)
    assert check_left_out(tmp_path, three, three.with_nodes(1)) == ONE

    stopped_node(tmp_path, 1, ring=1)
    with pytest.raises(SetupError, match="localhost:7001, localhost:7002 would be missing"):
        check_left_out(tmp_path, three, three.with_nodes(1))


def test_nothing_is_left_out_while_a_node_runs_or_is_damaged(tmp_path: Path) -> None:
    stopped_node(tmp_path, 0, ring=1)
    running = DataDirectory.open(tmp_path / "node-0")
    with pytest.raises(SetupError, match="in use by another process"):
        check_left_out(tmp_path, GROWING, GROWING.with_nodes(1))
    running.close()
    (tmp_path / "node-0" / "identity").write_bytes(b"rot")

    with pytest.raises(SetupError, match="is damaged"):
        check_left_out(tmp_path, GROWING, GROWING.with_nodes(1))
