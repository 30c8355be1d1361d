"""A node that forgot gets back all that an acknowledged write may have counted on, and only then counts again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from proxy.peer import Peer
from proxy.placed_ring import PlacedRing
from proxy.refill import Refill, Refilling
from sfss.errors import BadRequest, CorruptRecord, Outcome, OutOfDisk, Recovering, SfssError, Unreachable, WrongCluster
from sfss.store import NO_CALL, Applied, Call, Identity, Record, Seen
from tests.unit.test_comparison import Replicas, TreeStore, file_of
from tests.unit.virtual_time import in_virtual_time


class ForgetfulStore(TreeStore):
    """A node that knows that it forgot: it stores, answers nothing else, and tells what it has if asked for that."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.suspect = True
        self.epoch = 7
        self.meanwhile: Callable[[], None] = lambda: None

    def identify(self) -> Identity:
        return replace(super().identify(), epoch=self.epoch, state="suspect" if self.suspect else "ok")

    def read(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        if self.suspect:
            raise Recovering("forgot something")
        return super().read(key, call)

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Applied:
        applied = super().apply(key, record, call)
        if self.suspect:
            raise Recovering("forgot something", Outcome.UNKNOWN)
        return applied

    def hashes(self, prefix: bytes, call: Call = NO_CALL) -> bytes:
        if self.suspect:
            raise Recovering("forgot something")
        return super().hashes(prefix, call)

    def hashes_held(self, prefix: bytes, call: Call = NO_CALL) -> bytes:
        self.meanwhile()
        return super().hashes(prefix, call)

    def trust(self, epoch: int) -> Identity:
        if epoch != self.epoch:
            raise BadRequest(f"started {self.epoch} times")
        self.suspect = False
        return self.identify()

    def recall(self, seen: Seen) -> Identity:
        return self.identify()

    def adopt(self, cluster: str, ring: int, fingerprint: str, node: str) -> Identity:
        raise WrongCluster("it has files")


class Refilled:
    """Three owners, of which one forgot; `keys` were held by all."""

    def __init__(self, count: int = 40, settle_s: float = 0.0, **options: float) -> None:
        self.forgetful = ForgetfulStore("a")
        self.others = [TreeStore("b"), TreeStore("c")]
        self.keys = [b"key/%d" % number for number in range(count)]
        for key in self.keys:
            for store in (self.forgetful, *self.others):
                store.hold(key, file_of(key))
        self.replicas = Replicas([self.forgetful, *self.others], compare_settle_s=settle_s, **options)
        self.peer, *self.peers = self.replicas.peers
        self.replicas.coordinator.health.failed(self.peer, Recovering("forgot something"))
        self.runner = Refill(self.replicas.coordinator)

    async def refill(self) -> bool:
        assert self.peer.suspect
        try:
            return await self.runner.refill(self.peer)
        finally:
            self.replicas.coordinator.health.close()


async def test_a_node_is_not_trusted_while_another_one_knows_a_later_ring() -> None:
    refilled = Refilled()
    ahead = refilled.others[0].identify()
    refilled.others[0].identify = lambda: replace(ahead, ring=2)  # type: ignore[method-assign]

    assert not await refilled.refill()

    assert refilled.forgetful.suspect


@pytest.mark.parametrize(("cluster", "latest"), [("", 2), ("another", 0)])
async def test_a_node_that_must_not_be_used_for_its_ring_tells_all_the_same_that_there_is_a_later_one(
    cluster: str, latest: int
) -> None:
    refilled = Refilled(count=0)
    ahead = replace(refilled.others[0].identify(), ring=2, cluster=cluster)
    refilled.others[0].identify = lambda: ahead  # type: ignore[method-assign]
    health = refilled.replicas.coordinator.health
    health.failed(refilled.peers[0], WrongCluster("it knows the number of its ring, 2, and not the ring"))
    health.close()

    assert await refilled.runner._latest_ring("", refilled.peer) == latest


@in_virtual_time
async def test_what_was_refilled_under_one_ring_says_nothing_about_the_next() -> None:
    refilled = Refilled(settle_s=1.0)
    placed = refilled.replicas.coordinator.placed
    assert not await refilled.refill()
    await asyncio.sleep(1.0)
    for store in (refilled.forgetful, *refilled.others):
        store._identity = replace(store._identity, ring=2)
    refilled.replicas.coordinator.take_over(
        PlacedRing(2, "next", placed.rings, placed.quorums, {peer.name: peer for peer in placed.peers})
    )

    assert not await refilled.refill()

    assert refilled.forgetful.suspect


async def test_a_node_is_not_refilled_while_its_ring_is_another_one() -> None:
    refilled = Refilled()
    refilled.forgetful._identity = replace(refilled.forgetful._identity, ring=2)

    assert not await refilled.refill()

    assert refilled.forgetful.suspect


async def test_what_was_forgotten_is_brought_back_and_the_node_is_trusted() -> None:
    lab = Refilled()
    del lab.forgetful.records[lab.keys[0]]
    lab.forgetful.hold(lab.keys[1], file_of(lab.keys[1], b"as of before", seconds_ago=7200))
    for other in lab.others:
        other.hold(lab.keys[2], file_of(lab.keys[2], b"", seconds_ago=60, tombstone=True))

    assert await lab.refill()

    assert lab.forgetful.records == lab.others[0].records == lab.others[1].records
    assert not lab.forgetful.suspect
    assert not lab.peer.suspect
    assert lab.runner.figures() == {
        "refill_regions_left": "0",
        "refill_keys": "3",
        "refill_bytes": "2",
        "refilled_nodes": "1",
    }


async def test_what_only_one_of_the_others_has_is_brought_back_however_new_it_is() -> None:
    """It was acknowledged with two copies, of which the node had one; the third owner had missed it."""
    for seconds_ago in (3600.0, 0.0, -300.0):
        for holder in (0, 1):
            lab = Refilled()
            newest = file_of(lab.keys[0], b"acknowledged", seconds_ago=seconds_ago)
            newest = newest if newest.order() > file_of(lab.keys[0]).order() else file_of(lab.keys[0], b"w", 3000)
            lab.others[holder].hold(lab.keys[0], newest)

            assert await lab.refill()

            assert lab.forgetful.records[lab.keys[0]] == newest


async def test_with_one_of_the_others_away_the_node_gets_what_there_is_and_is_not_trusted() -> None:
    for error in (Unreachable("gone"), Recovering("forgot, too")):
        lab = Refilled()
        del lab.forgetful.records[lab.keys[0]]
        lab.others[1].trouble = lambda kind, key, error=error: error  # type: ignore[misc]

        assert not await lab.refill()

        assert lab.forgetful.records[lab.keys[0]] == file_of(lab.keys[0])
        assert lab.forgetful.suspect
        assert lab.peer.suspect
        assert "256 of 256 parts" in lab.peer.error
        assert f"can't be known without {lab.peers[1].name};" in lab.peer.error
        assert "sfss-node trust" in lab.peer.error


async def test_nothing_is_copied_from_the_node_and_nobody_else_is_written_to() -> None:
    lab = Refilled()
    doubtful = file_of(lab.keys[0], b"of doubtful worth", seconds_ago=60)
    lab.forgetful.hold(lab.keys[0], doubtful)
    del lab.others[0].records[lab.keys[1]]

    assert await lab.refill()

    assert lab.others[0].applied == lab.others[1].applied == []
    assert lab.forgetful.records[lab.keys[0]] == doubtful


async def test_a_record_that_nobody_can_read_keeps_the_node_from_being_trusted() -> None:
    lab = Refilled()
    del lab.forgetful.records[lab.keys[0]]

    def rot(kind: str, key: bytes) -> SfssError | None:
        return CorruptRecord("rot") if kind == "read" else None

    lab.others[0].trouble = lab.others[1].trouble = rot

    assert not await lab.refill()
    assert lab.forgetful.suspect

    lab.others[1].trouble = lambda kind, key: None
    lab.replicas.coordinator.health.failed(lab.peer, Recovering("forgot something"))
    assert await lab.refill()
    assert lab.keys[0] in lab.forgetful.records


async def test_what_the_node_did_not_store_keeps_it_from_being_trusted() -> None:
    lab = Refilled()
    del lab.forgetful.records[lab.keys[0]]
    lab.forgetful.trouble = lambda kind, key: OutOfDisk("full") if kind == "apply" else None

    assert not await lab.refill()

    assert lab.forgetful.suspect


@in_virtual_time
async def test_writes_that_the_node_took_before_it_forgot_have_ended_before_anything_is_compared() -> None:
    lab = Refilled(settle_s=10.0)
    late = file_of(lab.keys[0], b"taken by the node and forgotten, and on its way to another", seconds_ago=0)

    assert not await lab.refill()
    await asyncio.sleep(9.0)
    assert not await lab.runner.refill(lab.peer)
    lab.others[0].hold(lab.keys[0], late)
    await asyncio.sleep(1.5)

    assert await lab.runner.refill(lab.peer)
    assert lab.forgetful.records[lab.keys[0]] == late


async def test_a_node_that_forgets_again_meanwhile_is_not_trusted_for_what_was_compared_before() -> None:
    lab = Refilled()
    asked = 0

    def restart() -> None:
        nonlocal asked
        asked += 1
        if asked == 200:
            lab.forgetful.epoch += 1
            lab.forgetful.records.clear()

    lab.forgetful.meanwhile = restart

    with pytest.raises(BadRequest):
        await lab.refill()
    assert lab.forgetful.suspect
    assert lab.forgetful.records != lab.others[0].records

    assert await lab.runner.refill(lab.peer)
    assert lab.forgetful.records == lab.others[0].records


async def test_what_is_written_between_listing_and_reading_is_brought_back_as_it_is_then() -> None:
    lab = Refilled()
    del lab.forgetful.records[lab.keys[0]]
    newer = file_of(lab.keys[0], b"written meanwhile", seconds_ago=1)

    def write_meanwhile(kind: str, key: bytes) -> SfssError | None:
        if kind == "read" and key == lab.keys[0]:
            for other in lab.others:
                other.hold(key, newer)
        return None

    lab.others[0].trouble = lab.others[1].trouble = write_meanwhile

    assert await lab.refill()
    assert lab.forgetful.records[lab.keys[0]] == newer


@in_virtual_time
async def test_the_runner_sees_a_suspect_node_by_itself() -> None:
    lab = Refilled()
    del lab.forgetful.records[lab.keys[0]]
    lab.peer.suspect = False  # it was started again, and nobody has asked it for anything since

    lab.runner.start()
    async with asyncio.timeout(60):
        while lab.forgetful.suspect:
            await asyncio.sleep(0.1)
    await lab.runner.close()
    await lab.runner.close()
    lab.replicas.coordinator.health.close()

    assert lab.keys[0] in lab.forgetful.records


@in_virtual_time
async def test_the_runner_rests_no_longer_than_until_such_writes_have_ended() -> None:
    lab = Refilled(settle_s=10.0)

    lab.runner.start()
    await asyncio.sleep(13.0)
    await lab.runner.close()
    lab.replicas.coordinator.health.close()

    assert not lab.forgetful.suspect


@in_virtual_time
async def test_the_others_are_asked_who_they_are_while_a_refill_takes_long() -> None:
    lab = Refilled(compare_bytes_per_s=1.0)
    other = lab.replicas.peers[1]

    lab.runner.start()
    await asyncio.sleep(60.0)
    lab.others[0]._identity = replace(lab.others[0]._identity, state="suspect")
    await asyncio.sleep(11.0)
    assert lab.forgetful.suspect
    await lab.runner.close()
    lab.replicas.coordinator.health.close()

    assert other.suspect


@in_virtual_time
async def test_nothing_is_kept_of_a_node_that_the_ring_names_no_more() -> None:
    lab = Refilled(count=1)
    lab.others[0].trouble = lambda kind, key: Unreachable("gone")  # type: ignore[misc]
    coordinator = lab.replicas.coordinator
    placed = coordinator.placed
    lab.runner.start()
    await asyncio.sleep(3.0)
    assert int(lab.runner.figures()["refill_regions_left"]) > 0

    successor = Peer("d:1", TreeStore("d"))
    peers = dict(zip([peer.name for peer in placed.peers], [successor, *lab.replicas.peers[1:]], strict=True))
    coordinator.take_over(PlacedRing(2, "next", placed.rings, placed.quorums, peers))
    await asyncio.sleep(3.0)
    await lab.runner.close()
    coordinator.health.close()

    assert lab.runner.figures()["refill_regions_left"] == "0"


async def test_a_refill_content_with_one_other_owner_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Refilling, "is_enough", lambda self, prefix: True)

    with pytest.raises(AssertionError):
        await test_with_one_of_the_others_away_the_node_gets_what_there_is_and_is_not_trusted()


async def test_a_refill_that_leaves_out_what_is_new_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from proxy.comparison import Comparison

    async def usual(self: Refilling, key: bytes, owners: list, by_peer: dict) -> None:  # type: ignore[type-arg]
        self._settle_s = 10.0
        await Comparison._compare_record(self, key, owners, by_peer)

    monkeypatch.setattr(Refilling, "_compare_record", usual)

    with pytest.raises((AssertionError, KeyError)):
        await test_what_only_one_of_the_others_has_is_brought_back_however_new_it_is()
