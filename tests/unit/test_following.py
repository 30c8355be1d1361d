"""How a coordinator comes to be at the ring of its nodes, and they at its."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from proxy.coordinator import Coordinator
from proxy.following import Following, place
from proxy.health import Health
from proxy.members import Members
from proxy.options import Options
from sfss.errors import ConnectionLost, Unreachable
from sfss.memory import MemoryStore
from sfss.promise import new_promise
from sfss.ring_keeper import HeldRing, KeptRing
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.store import NO_CALL, Call
from tests.unit.ring_lab import id_of
from tests.unit.virtual_time import in_virtual_time

PARTITIONS = 8

_node_ring = cache(Placement.node_ring)


@pytest.fixture(autouse=True)
def rings_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Placement, "node_ring", lambda *arguments: _node_ring(*arguments))


def ring(number: int, *placements: str, partitions: int = PARTITIONS) -> RingRecord:
    return RingRecord(
        number,
        partitions,
        tuple(
            Placement(tuple(RingMember(id_of(f"{name}:1"), f"{name}:1") for name in names), 3, 2, 2, 1)
            for names in placements
        ),
    )


class Node(MemoryStore):
    """A node, and the connection to it. `failing`: whatever is asked raises this. `paused`: it tells no ring."""

    def __init__(self, name: str) -> None:
        super().__init__(node=id_of(name))
        self.failing: Exception | None = None
        self.paused = False
        self.asked: list[str] = []
        self.closed = False

    def keep(self, record: RingRecord) -> None:
        self._keep(KeptRing(HeldRing.of(record)))

    def tells(self, number: int) -> None:
        """Whatever ring it keeps, it says that it is at this one."""
        self._identity = replace(self._identity, ring=number)

    def _note(self, question: str) -> None:
        self.asked.append(question)
        if self.failing is not None:
            raise self.failing

    def tell_ring(self, call: Call = NO_CALL) -> Any:
        self._note("ring")
        return new_promise() if self.paused else super().tell_ring(call)

    def learn_ring(self, record: RingRecord, call: Call = NO_CALL) -> Any:
        self._note("learn")
        return super().learn_ring(record, call)

    async def close(self) -> None:
        self.closed = True


class Request:
    """Notes under which ring it begins again."""

    def __init__(self, lab: Lab, fault: Exception | None = None) -> None:
        self._lab = lab
        self._fault = fault
        self.rings: list[int] = []

    def begin_again(self) -> None:
        if self._fault is not None:
            raise self._fault
        self.rings.append(self._lab.coordinator.placed.number)


class Lab:
    """A coordinator at `record`, over nodes that are at it, too."""

    def __init__(self, record: RingRecord) -> None:
        self.nodes = {f"{name}:1": Node(f"{name}:1") for name in "abcdef"}
        self.members = Members(lambda name, *_: (name, self.nodes[name]))
        self.record = record
        self.taken_over: list[int] = []

    async def start(self) -> Lab:
        loop = asyncio.get_running_loop()
        placed = await place(self.record, self.members)
        for member in self.record.members:
            self.nodes[member.name].keep(self.record)
        health = Health(
            placed.peers,
            monotonic=loop.time,
            examine=lambda peer, identity: self.following.examine(peer, identity),
        )
        self.coordinator = Coordinator(placed, options=Options(), health=health, monotonic=loop.time)
        self.following = self.coordinator.rings = Following(
            self.coordinator, self.members, self.record, lambda record, placed: self.taken_over.append(record.number)
        )
        return self

    def peer(self, name: str) -> Any:
        return self.members.peers[f"{name}:1"]

    def node(self, name: str) -> Node:
        return self.nodes[f"{name}:1"]

    async def let_happen(self) -> None:
        await asyncio.sleep(0.01)


@in_virtual_time
async def test_a_later_ring_is_learnt_once_however_many_requests_wait_for_it() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    lab.node("b").keep(ring(3, "bcd"))
    requests = [Request(lab) for _ in range(100)]

    for request in requests:
        assert lab.following.after(3, lab.peer("b"), request)
    assert not any(request.rings for request in requests)
    await lab.let_happen()

    assert [request.rings for request in requests] == [[3]] * 100
    assert lab.node("b").asked == ["ring"]
    assert lab.taken_over == [3]


@in_virtual_time
async def test_members_that_stay_are_the_same_peers_and_those_that_left_are_closed_after_a_while() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    before = {name: lab.peer(name) for name in "abcd"}
    lab.node("c").keep(ring(3, "bcd"))

    lab.following.heard(lab.peer("c"), 3)
    await lab.let_happen()

    assert set(lab.coordinator.placed.peers) == {before[name] for name in "bcd"}
    assert not lab.node("a").closed
    await asyncio.sleep(lab.coordinator.options.deadline_s)
    assert [name for name in "abcd" if lab.node(name).closed] == ["a"]


@in_virtual_time
async def test_a_ring_that_can_not_be_learnt_lets_requests_try_once_more() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    lab.node("b").failing = Unreachable("gone")
    request = Request(lab)

    assert lab.following.after(3, lab.peer("b"), request)
    await asyncio.sleep(1.0)

    assert request.rings == [2]
    assert lab.node("b").asked == ["ring"]


@in_virtual_time
async def test_a_paused_node_that_is_ahead_holds_nobody_up_while_another_one_tells_the_ring() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    lab.node("b").paused = True
    lab.node("c").keep(ring(3, "bcd"))
    of_paused, of_other = Request(lab), Request(lab)

    lab.following.after(3, lab.peer("b"), of_paused)
    lab.following.after(3, lab.peer("c"), of_other)
    await lab.let_happen()

    assert of_paused.rings == of_other.rings == [3]


@in_virtual_time
async def test_a_paused_node_that_alone_is_ahead_holds_requests_up_as_long_as_any_question_to_a_node() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    options = lab.coordinator.options
    lab.node("b").paused = True
    request = Request(lab)

    lab.following.after(3, lab.peer("b"), request)
    await asyncio.sleep(options.node_deadline_s + 0.1)

    assert request.rings == [2]
    assert options.node_deadline_s < options.deadline_s / 2


@in_virtual_time
async def test_requests_that_wait_for_one_node_do_not_begin_again_for_what_another_one_fails_at() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    lab.node("b").paused = True
    lab.node("c").failing = Unreachable("gone")
    of_paused, of_other = Request(lab), Request(lab)

    lab.following.after(3, lab.peer("b"), of_paused)
    lab.following.after(3, lab.peer("c"), of_other)
    await asyncio.sleep(0.5)

    assert (of_paused.rings, of_other.rings) == ([], [2])


@in_virtual_time
async def test_a_request_that_has_ended_waits_for_no_ring() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    lab.node("b").paused = True
    ended = Request(lab)

    lab.following.after(3, lab.peer("b"), ended)
    lab.following.leave(ended)
    reference = weakref.ref(ended)
    del ended

    assert reference() is None


@in_virtual_time
async def test_of_two_who_are_ahead_the_one_that_knows_the_ring_is_believed() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    lab.node("b")._keep(KeptRing(HeldRing(4, "lost")))
    lab.node("c").keep(ring(3, "bcd"))
    of_mute, of_other = Request(lab), Request(lab)

    lab.following.after(4, lab.peer("b"), of_mute)
    lab.following.after(3, lab.peer("c"), of_other)
    await asyncio.sleep(1.0)

    assert of_mute.rings[-1] in (2, 3)
    assert of_other.rings == [3]


@pytest.mark.parametrize(
    "kept",
    [HeldRing(4, "lost"), HeldRing.of(ring(4, "bcd", partitions=16)), HeldRing.of(ring(2, "abc", "bcd"))],
    ids=["only the number", "other partitions", "an older ring"],
)
@in_virtual_time
async def test_a_node_that_gives_no_ring_for_its_number_stays_down_until_it_does(kept: HeldRing) -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    lab.node("b")._keep(KeptRing(kept))
    lab.node("b").tells(4)
    peer = lab.peer("b")

    lab.following.heard(peer, 4)
    await lab.let_happen()
    assert peer.down
    assert not lab.following.after(4, peer, Request(lab))
    await asyncio.sleep(600.0)
    asked = len(lab.node("b").asked)

    assert peer.down
    assert "ring" in peer.error
    assert asked < 25
    lab.node("b").keep(ring(4, "bcd"))
    await asyncio.sleep(100.0)
    assert not peer.down
    assert lab.coordinator.placed.number == 4


@in_virtual_time
async def test_a_fault_of_one_request_that_begins_again_is_not_that_of_others() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    lab.node("b").keep(ring(3, "bcd"))
    request = Request(lab)

    lab.following.after(3, lab.peer("b"), Request(lab, ZeroDivisionError()))
    lab.following.after(3, lab.peer("b"), request)
    await lab.let_happen()

    assert request.rings == [3]


@in_virtual_time
async def test_a_ring_with_other_partitions_is_not_taken_over() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    lab.node("b").keep(ring(3, "bcd", partitions=16))

    lab.following.heard(lab.peer("b"), 3)
    await lab.let_happen()

    assert lab.coordinator.placed.number == 2


@in_virtual_time
async def test_who_waits_for_a_ring_that_is_in_use_begins_again_at_once() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    request = Request(lab)

    assert lab.following.after(2, lab.peer("b"), request)
    await lab.let_happen()

    assert request.rings == [2]
    assert lab.node("b").asked == []


@in_virtual_time
async def test_after_a_change_members_that_are_behind_are_taught_and_the_others_left_alone() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    for name in "bc":
        lab.node(name).keep(ring(3, "bcd"))

    lab.following.heard(lab.peer("b"), 3)
    await lab.let_happen()

    assert {name: lab.node(name).asked for name in "bcd"} == {"b": ["ring"], "c": [], "d": ["learn"]}
    assert lab.node("d").identify().ring == 3


@in_virtual_time
async def test_a_node_is_taught_once_for_all_who_wait() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    lab.node("c").keep(ring(1, "abc"))

    waiting = [lab.following.teach(lab.peer("c")) for _ in range(10)]
    await asyncio.gather(*waiting)

    assert lab.node("c").asked == ["learn"]
    assert lab.node("c").identify().ring == 2


@in_virtual_time
async def test_who_waits_for_a_node_that_can_not_be_taught_is_told_why() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    lab.node("c").failing = Unreachable("gone")

    with pytest.raises(Unreachable, match="gone"):
        await lab.following.teach(lab.peer("c"))

    lab.node("c").failing = None
    await lab.following.teach(lab.peer("c"))


@in_virtual_time
async def test_a_node_of_no_cluster_is_not_taught() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()

    lab.following.heard(lab.peer("c"), 0)
    await lab.let_happen()

    assert lab.node("c").asked == []


@in_virtual_time
async def test_why_a_ring_can_not_be_had_is_logged_once_however_often_it_is_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()

    def logged() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.name == "sfss.proxy.ring"]

    async def ask_often(error: Exception) -> None:
        lab.node("b").failing = error
        for _ in range(5):
            lab.following.after(3, lab.peer("b"), Request(lab))
            await asyncio.sleep(0.1)

    await ask_often(Unreachable("gone"))
    assert len(lab.node("b").asked) == 5
    assert logged() == ["the ring can't be learnt from b:1: gone"]
    await asyncio.sleep(1.0)
    await ask_often(Unreachable("refused"))
    assert logged()[1:] == ["the ring can't be learnt from b:1: refused"]

    for number in range(600):
        lab.node("b").failing = Unreachable("refused" if number % 2 else "gone")
        lab.following.after(3, lab.peer("b"), Request(lab))
        await asyncio.sleep(0.1)
    assert len(logged()) < 10, "two reasons by turns, for a minute"

    lab.node("b").failing = None
    lab.node("b").keep(ring(3, "bcd"))
    await asyncio.sleep(1.0)
    lab.following.heard(lab.peer("b"), 3)
    await asyncio.sleep(1.0)
    assert lab.coordinator.placed.number == 3
    assert not lab.following._told


@in_virtual_time
async def test_once_closed_it_begins_nothing_more() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    lab.node("b").paused = True
    lab.following.heard(lab.peer("b"), 3)
    await lab.let_happen()

    closing = asyncio.ensure_future(lab.following.close())
    await asyncio.sleep(0)
    while_closing = lab.following.after(3, lab.peer("b"), Request(lab))
    await closing
    lab.following.heard(lab.peer("c"), 3)
    afterwards = lab.following.after(3, lab.peer("c"), Request(lab))
    lab.following.heard(lab.peer("d"), 1)
    with pytest.raises(ConnectionLost, match="stops"):
        await lab.following.teach(lab.peer("d"))

    assert (while_closing, afterwards) == (False, False)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert lab.node("c").asked == lab.node("d").asked == []


@in_virtual_time
async def test_closing_lets_go_of_all_who_wait() -> None:
    lab = await Lab(ring(2, "abc", "bcd")).start()
    waiting = lab.following.teach(lab.peer("c"))

    await lab.following.close()
    await lab.following.close()

    assert waiting.done()
    await lab.members.close()
    assert all(lab.node(name).closed for name in "abcd")
