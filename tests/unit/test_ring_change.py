"""The mover against nodes in memory, on virtual time: every change, a death at every step, two at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import cache

import pytest

from sfss.errors import OutOfDisk, RemoteError, SetupError
from sfss.pace import Pace
from sfss.ring_change.ending import Outcome
from sfss.ring_change.mover import Mover
from sfss.ring_change.node import Overtaken
from sfss.ring_change.trouble import Trouble
from sfss.ring_change.wish import Wish
from sfss.ring_keeper import KeptRing
from sfss.ring_plan import Change, next_ring
from sfss.ring_record import Placement
from sfss.store import Applied, Record
from tests.unit.ring_lab import LabNode, RingLab, quorum, record_of
from tests.unit.virtual_time import in_virtual_time

THREE = ("a:1", "b:1", "c:1")
CHANGES = {
    "add": (THREE, Change(add=("d:1",))),
    "remove": ((*THREE, "d:1"), Change(remove=("b:1",))),
    "replace": (THREE, Change(replace={"b:1": "d:1"})),
    "weigh": ((*THREE, "d:1"), Change(weights={"a:1": 3})),
    "grow": (("a:1",), Change(add=("b:1", "c:1"))),
    "shrink": (THREE, Change(remove=("b:1", "c:1"))),
    "all": (THREE, Change(replace={"a:1": "x:1", "b:1": "y:1", "c:1": "z:1"})),
}


_node_ring = cache(Placement.node_ring)


@pytest.fixture(autouse=True)
def rings_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes 50 ms, which is most of the time of a run, and all runs have the same ones."""
    monkeypatch.setattr(Placement, "node_ring", lambda *arguments: _node_ring(*arguments))


def lab_for(change: Change, before: Iterable[str], seed: int = 0, partitions: int = 64) -> RingLab:
    return RingLab(seed, before, spare=[*change.add, *change.replace.values()], partitions=partitions)


def written(lab: RingLab, count: int = 40, at: int = 1) -> dict[bytes, Record]:
    """Files and tombstones that a quorum of their owners has; some owners have an older version, or none."""
    expected = {}
    for number in range(count):
        key = b"file/%d" % number
        if number % 3:
            lab.write(key, record_of(key, at))
        expected[key] = record_of(key, at + 1, tombstone=number % 5 == 0)
        lab.write(key, expected[key])
    return expected


def names_of(lab: RingLab) -> set[str]:
    return {member.name for member in lab.ring.members}


@pytest.mark.parametrize("kind", CHANGES)
@in_virtual_time
async def test_each_change_ends_with_every_file_on_its_owners_and_nowhere_else(kind: str) -> None:
    before, change = CHANGES[kind]
    lab = lab_for(change, before)
    expected = written(lab)

    outcome = await lab.apply(change)

    assert (outcome, lab.ring.number, lab.ring.joint) == (Outcome.DONE, 3, False)
    lab.check_acknowledged(expected)
    for key, record in expected.items():
        [owners] = lab.owners(lab.ring, lab.partition(key))
        assert lab.holders(key, record) <= set(owners)
    assert {node.kept.held.number for node in lab.nodes.values()} == {3}


@pytest.mark.parametrize("kind", CHANGES)
@in_virtual_time
async def test_no_copy_moves_but_to_new_owners_and_to_each_once(kind: str) -> None:
    before, change = CHANGES[kind]
    lab = lab_for(change, before)
    keys = [b"file/%d" % number for number in range(40)]
    for key in keys:
        lab.write(key, record_of(key, 1), on=min(3, len(before)))
    had = {key: set(lab.owners(lab.ring, lab.partition(key))[0]) for key in keys}

    await lab.apply(change)

    has = {key: set(lab.owners(lab.ring, lab.partition(key))[0]) for key in keys}
    assert lab.applied == sum(len(has[key] - had[key]) for key in keys)
    lab.check_all({key: record_of(key, 1) for key in keys})


@in_virtual_time
async def test_a_death_at_any_step_loses_nothing_and_the_next_mover_carries_on() -> None:
    lab = lab_for(CHANGES["replace"][1], THREE)
    written(lab, 6)
    await lab.apply(CHANGES["replace"][1])
    calls = lab.calls
    assert calls > 100

    for crash_at in range(1, calls + 20, 9):
        before, change = CHANGES["replace"]
        lab = lab_for(change, before, seed=crash_at)
        expected = written(lab, 6)

        await lab.apply_until_done(change, crash_at)

        lab.check_acknowledged(expected)
        assert lab.ring.number == 3, crash_at
        assert names_of(lab) == {"a:1", "c:1", "d:1"}
        assert not lab.nodes["b:1"].records


@pytest.mark.parametrize("seed", range(20))
@in_virtual_time
async def test_of_two_movers_with_different_wishes_one_wins_and_the_other_carries_on_with_it(seed: int) -> None:
    lab = RingLab(seed, THREE, spare=["d:1", "e:1"])
    expected = written(lab)

    outcomes = await asyncio.gather(lab.apply(Change(add=("d:1",))), lab.apply(Change(replace={"c:1": "e:1"})))

    if Outcome.OTHER in outcomes:
        assert sorted(outcomes, key=lambda one: one.name) == [Outcome.DONE, Outcome.OTHER]
        assert names_of(lab) == ({*THREE, "d:1"} if outcomes[0] is Outcome.DONE else {"a:1", "b:1", "e:1"})
        assert lab.ring.number == 3
        assert any("carrying on with the change that is under way" in line for line in lab.said)
    else:  # one had not begun when the other was through
        assert outcomes == [Outcome.DONE, Outcome.DONE]
        assert (names_of(lab), lab.ring.number) == ({"a:1", "b:1", "d:1", "e:1"}, 5)
    lab.check_acknowledged(expected)


@pytest.mark.parametrize("seed", range(10))
@in_virtual_time
async def test_a_change_that_is_given_up_leaves_the_ring_as_it_was(seed: int) -> None:
    lab = lab_for(CHANGES["add"][1], THREE, seed=seed)
    expected = written(lab)
    lab.nodes["d:1"].up = True

    async def give_up() -> Outcome:
        while not lab.ring.joint:
            await asyncio.sleep(0.01)
        return await lab.mover().abort()

    applied, aborted = await asyncio.gather(lab.apply(CHANGES["add"][1]), give_up())

    assert (applied, aborted) in {(Outcome.GIVEN_UP, Outcome.DONE), (Outcome.DONE, Outcome.OTHER)}
    assert names_of(lab) == {*THREE} if aborted is Outcome.DONE else {*THREE, "d:1"}
    assert aborted is Outcome.OTHER or not lab.nodes["d:1"].records
    lab.check_acknowledged(expected)


# Somebody else in between: `mover` is held up at one place, and others go on meanwhile.


def hold_up(mover: Mover, stage: str) -> tuple[asyncio.Event, asyncio.Event]:
    """Have a stage of a mover wait in front of its first run. Events: it has come there, and it may go on."""
    come, go = asyncio.Event(), asyncio.Event()
    carry_out = getattr(mover, stage)

    async def held_up(*arguments: object) -> object:
        if not come.is_set():
            come.set()
            await go.wait()
        return await carry_out(*arguments)

    setattr(mover, stage, held_up)
    return come, go


async def begin(lab: RingLab) -> None:
    """Have a change decided by a mover that dies then."""
    mover = lab.mover()
    come, _ = hold_up(mover, "_move")
    beginning = asyncio.ensure_future(mover.apply(Wish(Change(add=("d:1",)), quorum)))
    await come.wait()
    beginning.cancel()


async def give_up(lab: RingLab) -> Outcome:
    return await lab.mover().abort()


async def finish(lab: RingLab) -> Outcome:
    return await lab.apply(None)


async def finish_and_change_more(lab: RingLab) -> Outcome:
    await lab.apply(None)
    return await lab.apply(Change(add=("e:1",)))


async def give_up_and_begin_another(lab: RingLab) -> Outcome:
    await give_up(lab)
    another = asyncio.ensure_future(lab.apply(Change(add=("e:1",))))
    while not lab.ring.joint:
        await asyncio.sleep(0.001)
    another.cancel()
    await asyncio.wait([another])
    return Outcome.DONE


@pytest.mark.parametrize(
    ("others", "wished", "outcome", "members"),
    [
        (finish, True, Outcome.DONE, {*THREE, "d:1"}),
        (finish, False, Outcome.DONE, {*THREE, "d:1"}),
        (give_up, True, Outcome.GIVEN_UP, {*THREE}),
        (give_up, False, Outcome.GIVEN_UP, {*THREE}),
        (give_up_and_begin_another, True, Outcome.GIVEN_UP, {*THREE, "e:1"}),
        (finish_and_change_more, True, Outcome.OVERTAKEN, {*THREE, "d:1", "e:1"}),
    ],
)
@in_virtual_time
async def test_apply_tells_what_became_of_its_change_where_others_went_on_with_it(
    others: Callable[[RingLab], Awaitable[Outcome]], wished: bool, outcome: Outcome, members: set[str]
) -> None:
    lab = RingLab(1, THREE, spare=["d:1", "e:1"])
    expected = written(lab)
    await begin(lab)
    mover = lab.mover()
    come, go = hold_up(mover, "_move")
    moving = asyncio.ensure_future(mover.apply(Wish(Change(add=("d:1",)), quorum) if wished else None))
    await come.wait()

    await others(lab)
    go.set()

    assert await moving is outcome
    assert names_of(lab) == members
    lab.check_acknowledged(expected)


@in_virtual_time
async def test_a_change_that_was_given_up_as_soon_as_it_was_decided_is_not_begun_again() -> None:
    lab = RingLab(1, THREE, spare=["d:1"])
    mover = lab.mover()
    moving = asyncio.ensure_future(mover.apply(Wish(Change(add=("d:1",)), quorum)))
    while not lab.ring.joint:
        await asyncio.sleep(0.0001)
    come, go = hold_up(mover, "look")

    await come.wait()
    await give_up(lab)
    go.set()

    assert await moving is Outcome.GIVEN_UP
    assert names_of(lab) == {*THREE}


@in_virtual_time
async def test_a_wish_is_told_apart_from_another_change_that_was_given_up_meanwhile() -> None:
    lab = RingLab(1, THREE, spare=["d:1"])
    await begin(lab)
    other = lab.mover()
    come, go = hold_up(other, "_move")
    moving = asyncio.ensure_future(other.apply(Wish(Change(remove=("c:1",)), quorum)))
    await come.wait()

    await give_up(lab)
    go.set()

    assert await moving is Outcome.OVERTAKEN
    assert names_of(lab) == {*THREE}


@pytest.mark.parametrize(("added", "outcome"), [("d:1", Outcome.DONE), ("e:1", Outcome.OTHER)])
@in_virtual_time
async def test_a_wish_that_others_were_sooner_than_is_not_told_as_done_for_what_they_wished(
    added: str, outcome: Outcome
) -> None:
    lab = RingLab(1, THREE, spare=["d:1", "e:1"])
    mover = lab.mover()
    carry_out = mover._decide

    async def overtaken(*_: object) -> None:
        """By a ring that only a node has which is away when it is looked at next."""
        setattr(mover, "_decide", carry_out)  # noqa: B010
        await begin(lab)
        raise Overtaken

    setattr(mover, "_decide", overtaken)  # noqa: B010

    assert await mover.apply(Wish(Change(add=(added,)), quorum)) is outcome
    assert names_of(lab) == {*THREE, "d:1"}


@pytest.mark.parametrize(
    ("others", "outcome"),
    [
        (give_up, Outcome.DONE),
        (give_up_and_begin_another, Outcome.DONE),
        (finish, Outcome.OTHER),
        (finish_and_change_more, Outcome.OVERTAKEN),
    ],
)
@in_virtual_time
async def test_abort_gives_up_one_change_and_tells_what_became_of_it(
    others: Callable[[RingLab], Awaitable[Outcome]], outcome: Outcome
) -> None:
    lab = RingLab(1, THREE, spare=["d:1", "e:1"])
    await begin(lab)
    mover = lab.mover()
    come, go = hold_up(mover, "_decide")
    aborting = asyncio.ensure_future(mover.abort())
    await come.wait()

    await others(lab)
    number = lab.ring.number
    go.set()

    assert await aborting is outcome
    assert lab.ring.number == number


@in_virtual_time
async def test_abort_gives_up_what_was_accepted_of_a_dead_mover_and_nobody_has_yet() -> None:
    for crash_at in range(1, 200):
        lab = lab_for(CHANGES["add"][1], THREE, seed=3)
        lab.calls, lab.crash_at = 0, crash_at
        lab.victim = asyncio.ensure_future(lab.apply(CHANGES["add"][1]))
        await asyncio.wait([lab.victim])
        assert lab.ring.number == 1, "never accepted by all and learnt by nobody"
        if sum(node.kept.accepted is not None for node in lab.nodes.values()) == 3:
            break

    assert await lab.mover().abort() is Outcome.DONE

    assert await lab.apply(None) is Outcome.NOTHING
    assert names_of(lab) == {*THREE}


@in_virtual_time
async def test_a_dead_node_is_replaced() -> None:
    _, change = CHANGES["replace"]
    lab = lab_for(change, THREE)
    expected = written(lab)
    for key, record in expected.items():
        lab.nodes["a:1"].put(key, record)  # acknowledged writes need two owners, and one of them is dead
    lab.nodes["b:1"].up = False

    outcome = await lab.apply(change)

    assert outcome is Outcome.DONE
    assert names_of(lab) == {"a:1", "c:1", "d:1"}
    lab.check_acknowledged(expected)


@in_virtual_time
async def test_a_change_whose_new_node_dies_waits_says_so_and_can_be_given_up() -> None:
    lab = lab_for(CHANGES["grow"][1], ("a:1",))
    expected = written(lab)
    moving = asyncio.ensure_future(lab.apply(CHANGES["grow"][1]))
    while not lab.ring.joint:
        await asyncio.sleep(0.001)
    lab.nodes["b:1"].up = lab.nodes["c:1"].up = False

    await asyncio.sleep(60)

    assert not moving.done()
    assert "waiting: b:1: Connection refused; c:1: Connection refused" in lab.said
    moving.cancel()
    assert await lab.mover().abort() in (Outcome.DONE, Outcome.COPIES_LEFT)
    assert names_of(lab) == {"a:1"}
    lab.check_acknowledged(expected)


@in_virtual_time
async def test_no_change_begins_while_a_node_that_stays_is_suspect_and_one_that_goes_is_not_waited_for() -> None:
    lab = lab_for(CHANGES["replace"][1], THREE)
    expected = written(lab)
    lab.nodes["a:1"].suspect = lab.nodes["b:1"].suspect = True
    for key, record in expected.items():
        lab.nodes["c:1"].put(key, record)
    moving = asyncio.ensure_future(lab.apply(CHANGES["replace"][1]))

    await asyncio.sleep(60)
    assert not lab.ring.joint
    assert lab.said == ["waiting: a:1: recovering; the change begins when it is trusted again"]
    lab.nodes["a:1"].suspect = False

    assert await moving is Outcome.DONE
    lab.check_acknowledged(expected)


@in_virtual_time
async def test_what_a_suspect_owner_says_counts_for_nothing() -> None:
    lab = lab_for(CHANGES["replace"][1], THREE)
    expected = written(lab)
    moving = asyncio.ensure_future(lab.apply(CHANGES["replace"][1]))
    while not lab.ring.joint:
        await asyncio.sleep(0.001)
    lab.nodes["a:1"].suspect = True

    await asyncio.sleep(60)
    lab.nodes["c:1"].up = False
    await asyncio.sleep(1)
    lab.nodes["a:1"].suspect = False
    lab.nodes["c:1"].up = True

    assert await moving is Outcome.DONE
    lab.check_acknowledged(expected)


@pytest.mark.parametrize("kind", CHANGES)
@in_virtual_time
async def test_files_without_a_whole_copy_hold_a_change_up_and_nothing_else(kind: str) -> None:
    """They were an error before; behind the change they would be not found."""
    before, change = CHANGES[kind]
    lab = lab_for(change, before)
    expected = written(lab)
    files = [key for key, record in expected.items() if not record.tombstone]
    owned_anew = [key for key in files if moves(lab, change, key)]
    lost = owned_anew[:3]
    for key in lost:
        for node in lab.nodes.values():
            if key in node.records:
                node.damaged.add(key)
    moving = asyncio.ensure_future(lab.apply(change))

    await asyncio.sleep(30)

    assert lab.ring.joint
    said = lab.said[-1]
    assert all(f"{key.decode()} can't be read (damaged on " in said for key in lost)
    for key in set(owned_anew) - set(lost):
        after = lab.owners(lab.ring, lab.partition(key))[1]
        assert len(lab.holders(key, expected[key]) & set(after)) >= lab.ring.placements[1].w, key
    for key in lost:
        expected[key] = record_of(key, 9)
        lab.write(key, expected[key])
    assert await moving is Outcome.DONE
    lab.check_acknowledged(expected)


def moves(lab: RingLab, change: Change, key: bytes) -> bool:
    """Whether a key's owners change."""
    before = lab.first.placements[0].node_ring(1, lab.first.partitions)
    after = next_ring(before, change, lambda nodes: quorum(nodes)[0])
    partition = lab.partition(key)
    names = [{ring.members[index].name for index in ring.table[partition]} for ring in (before, after)]
    return names[0] != names[1]


@pytest.mark.parametrize("whole_on", ["owner", "leaving"])
@in_virtual_time
async def test_a_damaged_copy_is_written_anew_from_a_whole_one(whole_on: str) -> None:
    _, change = CHANGES["replace"]
    lab = lab_for(change, THREE)
    key = b"file/1"
    record = record_of(key, 1)
    lab.write(key, record, on=3)
    for name in {"a:1", "b:1", "c:1"} - {"a:1" if whole_on == "owner" else "b:1"}:
        lab.nodes[name].damaged.add(key)

    assert await lab.apply(change) is Outcome.DONE

    whole = [name for name in lab.holders(key, record) if key not in lab.nodes[name].damaged]
    assert sorted(whole) == ["a:1", "c:1", "d:1"]


@pytest.mark.parametrize("partitions", [2, 64, 4096, 1 << 17])
@in_virtual_time
async def test_partitions_may_be_larger_or_smaller_than_places_of_the_tree(partitions: int) -> None:
    lab = lab_for(CHANGES["add"][1], THREE, partitions=partitions)
    lab.listed_max = 2
    expected = written(lab, 20)

    await lab.apply(CHANGES["add"][1])

    lab.check_acknowledged(expected)
    assert sum(len(node.records) for node in lab.nodes.values()) <= 3 * len(expected)


@in_virtual_time
async def test_one_change_follows_on_another() -> None:
    lab = RingLab(1, THREE, spare=["d:1", "e:1"])
    expected = written(lab)

    await lab.apply(Change(add=("d:1",)))
    await lab.apply(Change(replace={"a:1": "e:1"}))
    await lab.apply(Change(remove=("b:1",)))
    await lab.apply(Change(add=("a:1",)))  # it left, and comes back

    assert lab.ring.number == 9
    assert names_of(lab) == {"a:1", "c:1", "d:1", "e:1"}
    lab.check_acknowledged(expected)


@in_virtual_time
async def test_a_node_that_knows_no_more_than_the_number_of_its_ring_misleads_nobody() -> None:
    """An empty node that was given the place of one that lost its directory."""
    lab = RingLab(1, THREE, spare=["d:1"])
    expected = written(lab)
    await lab.apply(Change(weights={"a:1": 2}))
    lab.nodes["a:1"].kept = KeptRing(replace(lab.nodes["a:1"].kept.held, record=None))

    assert await lab.apply(Change(add=("d:1",))) is Outcome.DONE

    assert names_of(lab) == {*THREE, "d:1"}
    lab.check_acknowledged(expected)


@in_virtual_time
async def test_a_node_that_left_while_nobody_removed_its_copies_comes_back_without_them() -> None:
    lab = RingLab(1, THREE, spare=["d:1"])
    written(lab)
    await lab.apply(Change(replace={"a:1": "d:1"}))
    stale = record_of(b"file/1", 1)
    lab.nodes["a:1"].put(b"file/1", stale)

    outcome = await lab.mover(["b:1", "c:1", "d:1"]).apply(Wish(Change(add=("a:1",)), quorum))

    assert outcome is Outcome.DONE
    assert names_of(lab) == {*THREE, "d:1"}
    assert not lab.holders(b"file/1", stale)


@in_virtual_time
async def test_a_node_that_is_added_right_after_it_was_removed_is_waited_for_until_its_files_are_gone() -> None:
    lab = RingLab(1, (*THREE, "d:1"))
    expected = written(lab)
    lab.nodes["d:1"].removal_s = 100
    await lab.apply(Change(remove=("d:1",)))

    outcome = await lab.apply(Change(add=("d:1",)))

    assert outcome is Outcome.DONE
    assert names_of(lab) == {*THREE, "d:1"}
    [waiting] = [line for line in lab.said if "d:1" in line]
    assert waiting == "waiting: d:1: it is removing what it had when it left the ring"
    lab.check_acknowledged(expected)


@in_virtual_time
async def test_a_node_whose_files_do_not_go_is_refused_with_what_to_do() -> None:
    lab = RingLab(1, (*THREE, "d:1"))
    written(lab)
    lab.nodes["d:1"].removal_s = 1e9
    await lab.apply(Change(remove=("d:1",)))

    with pytest.raises(SetupError, match=r"^d:1 still has \d+ files .*; stop it, empty its data directory"):
        await lab.apply(Change(add=("d:1",)))

    assert not lab.ring.joint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change(add=("a:1",)), "a:1 is in the ring already"),
        (Change(add=("x:1",)), "x:1 does not answer (Connection refused); start it first"),
        (Change(add=("twin:1",)), "a:1 and twin:1 are one and the same node"),
        (Change(add=("full:1",)), "full:1 holds 1 files already; give it an empty data directory"),
        (Change(add=("other:1",)), "other:1 belongs to cluster dddd"),
        (Change(remove=("a:1", "b:1", "c:1")), "no node would be left"),
    ],
)
@in_virtual_time
async def test_what_cannot_be_done_is_refused_before_anything_is_changed(change: Change, message: str) -> None:
    lab = RingLab(1, THREE, spare=["twin:1", "full:1", "other:1"])
    lab.nodes["twin:1"].id = lab.nodes["a:1"].id
    lab.nodes["full:1"].put(b"key", record_of(b"key", 1))
    lab.nodes["other:1"].cluster = "d" * 32

    with pytest.raises(SetupError) as refusal:
        await lab.apply(change)

    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert lab.ring.number == 1


def refusing(node: LabNode, may: Callable[[int], bool]) -> None:
    """Have a node drop only some partitions."""
    drop = node.drop

    def drop_some(number: int, partition: int) -> None:
        if not may(partition):
            raise RemoteError("not now")
        drop(number, partition)

    node.drop = drop_some  # type: ignore[method-assign]


@in_virtual_time
async def test_a_partition_that_is_not_dropped_keeps_no_other_one() -> None:
    lab = lab_for(CHANGES["add"][1], THREE)
    expected = written(lab, 60)
    stuck: set[int] = set()

    def all_but_the_first(partition: int) -> bool:
        if not stuck:
            stuck.add(partition)
        return partition not in stuck

    for node in lab.nodes.values():
        refusing(node, all_but_the_first)
    began = asyncio.get_running_loop().time()

    outcome = await lab.apply(CHANGES["add"][1])

    assert outcome is Outcome.COPIES_LEFT
    assert asyncio.get_running_loop().time() - began < 60
    foreign = {
        lab.partition(key)
        for key in expected
        for name, node in lab.nodes.items()
        if key in node.records and not lab.owns(lab.ring, name, lab.partition(key))
    }
    assert foreign == stuck
    assert lab.said[-1].endswith(": not now")


@in_virtual_time
async def test_old_copies_are_waited_for_as_long_as_any_of_them_goes() -> None:
    lab = lab_for(CHANGES["add"][1], THREE)
    written(lab, 8)
    loop = asyncio.get_running_loop()
    began = last = loop.time()

    def now_and_then(_: int) -> bool:
        nonlocal last
        due = loop.time() > last + 25.0
        last = loop.time() if due else last
        return due

    for node in lab.nodes.values():
        refusing(node, now_and_then)
    mover = lab.mover()

    assert await mover.apply(Wish(CHANGES["add"][1], quorum)) is Outcome.DONE

    removed = sum(len(node.dropped) for node in lab.nodes.values())
    assert mover.progress() == f"removing old copies: {removed} partitions"
    assert loop.time() - began > 50, "longer than it goes on in vain"


@in_virtual_time
async def test_an_owner_that_forgets_what_it_is_given_does_not_keep_apply_going_for_ever() -> None:
    lab = lab_for(CHANGES["add"][1], THREE)
    assert await lab.apply(CHANGES["add"][1]) is Outcome.DONE
    key, tombstone = b"file", record_of(b"file", 1, tombstone=True)
    [owners] = lab.owners(lab.ring, lab.partition(key))
    has_it, forgets, is_full = (lab.nodes[owner] for owner in owners)
    [no_owner] = lab.nodes.keys() - set(owners)
    for node in (has_it, lab.nodes[no_owner]):
        node.put(key, tombstone)

    def refuse(key: bytes, record: Record) -> Applied:
        raise OutOfDisk("no room")

    forgets.put = lambda key, record: Applied(True, record.version, record.checksum, True)  # type: ignore[method-assign]
    is_full.put = refuse  # type: ignore[method-assign]

    async with asyncio.timeout(120):
        assert await lab.apply(None) is Outcome.COPIES_LEFT


@in_virtual_time
async def test_at_any_pace_it_is_soon_noticed_that_a_change_was_given_up() -> None:
    lab = lab_for(CHANGES["grow"][1], ("a:1",))
    expected = written(lab)
    loop = asyncio.get_running_loop()
    moving = asyncio.ensure_future(lab.mover(pace=Pace(0.01, loop.time)).apply(Wish(CHANGES["grow"][1], quorum)))
    while not lab.ring.joint:
        await asyncio.sleep(0.001)
    await asyncio.sleep(60)
    assert not moving.done()

    assert await lab.mover().abort() is Outcome.DONE

    async with asyncio.timeout(20):
        assert await moving is Outcome.GIVEN_UP
    lab.check_acknowledged(expected)


@in_virtual_time
async def test_two_things_that_are_in_the_way_by_turns_are_said_now_and_then() -> None:
    lab = RingLab(1, THREE)
    mover = lab.mover()

    for number in range(300):
        await mover._wait_for(Trouble({"a:1": "gone" if number % 2 else "late"}))
    by_turns = len(lab.said)
    for _ in range(60):
        await mover._wait_for(Trouble({"a:1": "gone"}))

    assert set(lab.said) == {"waiting: a:1: gone", "waiting: a:1: late"}
    assert 4 <= by_turns <= 24, "ten minutes"
    assert len(lab.said) - by_turns <= 1
    assert lab.said[-1] == "waiting: a:1: gone"


@in_virtual_time
async def test_without_a_wish_and_a_change_under_way_nothing_is_done() -> None:
    lab = RingLab(1, THREE)

    assert await lab.apply(None) is Outcome.NOTHING
    assert await lab.mover().abort() is Outcome.NOTHING
    assert lab.ring.number == 1


@in_virtual_time
async def test_what_was_accepted_of_a_dead_mover_is_taken_up_without_a_wish() -> None:
    """It dies between the acceptance of its ring and the moment at which the first node has it."""
    finished = 0
    for crash_at in range(1, 200):
        lab = lab_for(CHANGES["add"][1], THREE, seed=3)
        lab.calls, lab.crash_at = 0, crash_at
        lab.victim = asyncio.ensure_future(lab.apply(CHANGES["add"][1]))
        await asyncio.wait([lab.victim])
        accepted = sum(node.kept.accepted is not None for node in lab.nodes.values())
        if lab.ring.number > 1:
            break
        if accepted:
            assert await lab.apply(None) is Outcome.DONE
            assert names_of(lab) == {*THREE, "d:1"}
            finished += 1
    assert finished
