"""Where a key lives: what an operator is told of each replica, whatever state it is in."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from proxy.coordinator import Coordinator
from proxy.explanation import EXPLANATIONS_MAX
from proxy.options import Options
from proxy.peer import Peer
from proxy.placed_ring import PlacedRing
from proxy.quorum import Quorum
from sfss.errors import BadKey, BadRequest, Busy, CorruptRecord, Recovering, Unreachable
from sfss.explanation import explain_topic, key_of_topic, structured
from sfss.keys import hash_key
from sfss.memory import MemoryStore
from sfss.promise import new_promise
from sfss.ring import Member, NodeRing
from sfss.store import NO_CALL, Call, Record, checksum_of, settled

KEY = b"a/b"


class Node(MemoryStore):
    """A replica that fails as it is told to; `silent` never answers."""

    def __init__(self, name: str) -> None:
        super().__init__(durable=True, node=name)
        self.failure: Exception | None = None
        self.silent = False

    def read(self, key: bytes, call: Call = NO_CALL) -> Any:
        if self.silent:
            return new_promise()
        if self.failure is not None:
            raise self.failure
        return super().read(key, call)

    def stats(self, topic: str = "", call: Call = NO_CALL) -> Any:
        return {"sync": "always"}


def record(version: int, value: bytes = b"x", *, tombstone: bool = False, expires: int = 0) -> Record:
    value = b"" if tombstone else value
    return Record(
        value, len(value), 0, expires, version, checksum_of(KEY, value, 0, expires, version, tombstone), tombstone
    )


class Lab:
    """Three nodes that all own the key, in the order of the ring."""

    def __init__(self) -> None:
        ring = NodeRing([Member(f"n{number}:1") for number in range(3)], 3, partitions=256, number=0)
        stores = [Node(f"id-{member.name}") for member in ring.members]
        peers = [Peer(member.name, store) for member, store in zip(ring.members, stores, strict=True)]
        options = replace(Options(), node_deadline_s=0.05, stats_deadline_s=0.05)
        self.coordinator = Coordinator(PlacedRing.of(ring, peers, Quorum.over(3)), options=options)
        self.nodes = [stores[index] for index in ring.owners(KEY)]
        self.names = [ring.members[index].name for index in ring.owners(KEY)]

    async def explain(self) -> dict[str, Any]:
        return structured(await settled(self.coordinator.stats(explain_topic(KEY))))


@pytest.fixture
def lab() -> Lab:
    return Lab()


async def test_a_file_that_all_replicas_hold_is_told_with_its_place(lab: Lab) -> None:
    for node in lab.nodes:
        node.apply(KEY, record(7, b"four"))

    told = await lab.explain()

    assert told["hash"] == f"{hash_key(KEY):016x}"
    assert told["partition"] == lab.coordinator.placed.partition(KEY)
    assert (told["ring"], told["quorum"], told["kind"], told["copies"]) == (0, "3/2/2", "file", 3)
    assert told["answers"] == lab.names[0]
    assert [replica["address"] for replica in told["replicas"]] == lab.names
    assert [replica["place"] for replica in told["replicas"]] == [0, 1, 2]
    first = told["replicas"][0]
    assert (first["node"], first["health"], first["verdict"]) == (f"id-{lab.names[0]}", "ok", "whole")
    assert (first["kind"], first["size"], first["version"], first["state"]) == ("file", 4, "7", "newest")
    assert first["etag"] == told["newest"] == f"{7:016x}-{record(7, b'four').checksum:016x}"
    assert first["durable"] == "yes"


async def test_a_stale_and_a_missing_replica_stand_beside_the_newest(lab: Lab) -> None:
    lab.nodes[0].apply(KEY, record(7))
    lab.nodes[2].apply(KEY, record(9))

    told = await lab.explain()

    assert [replica["state"] for replica in told["replicas"]] == ["stale", "missing", "newest"]
    assert (told["copies"], told["answers"]) == (1, lab.names[2])


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (CorruptRecord("the record at 5 in volume 1 failed its checksum"), "corrupt"),
        (Recovering("wiped"), "recovering"),
        (Unreachable("connection refused"), "unreachable"),
        (RuntimeError("a bug"), "failed"),
    ],
)
async def test_a_replica_in_trouble_is_shown_as_such_and_hides_nothing_of_the_others(
    lab: Lab, error: Exception, verdict: str
) -> None:
    for node in lab.nodes:
        node.apply(KEY, record(7))
    lab.nodes[1].failure = error

    told = await lab.explain()

    assert [replica["verdict"] for replica in told["replicas"]] == ["whole", verdict, "whole"]
    assert told["replicas"][1]["error"] == str(error)
    assert "etag" not in told["replicas"][1]
    assert told["copies"] == 2


async def test_a_silent_replica_costs_its_own_deadline_and_no_more(lab: Lab) -> None:
    for node in lab.nodes:
        node.apply(KEY, record(7))
    lab.nodes[0].silent = True

    told = await asyncio.wait_for(lab.explain(), 20)

    assert told["replicas"][0]["verdict"] == "unreachable"
    assert told["replicas"][0]["error"] == "no answer in 0.05 s"
    assert told["answers"] == lab.names[1]


async def test_tombstones_and_expired_files_are_told_apart_from_none(lab: Lab) -> None:
    lab.nodes[0].apply(KEY, record(9, tombstone=True))
    lab.nodes[1].apply(KEY, record(8, expires=1))

    told = await lab.explain()

    assert told["kind"] == "tombstone"
    assert [replica["kind"] for replica in told["replicas"]] == ["tombstone", "expired", "none"]


async def test_a_key_nobody_heard_of_is_none_and_one_whose_holders_may_be_silent_is_unknown(lab: Lab) -> None:
    absent = await lab.explain()
    lab.nodes[0].failure = Unreachable("gone")
    doubtful = await lab.explain()

    assert (absent["kind"], absent["copies"], absent["answers"], absent["newest"]) == ("none", 0, "-", "-")
    assert doubtful["kind"] == "unknown"


async def test_more_explanations_than_the_limit_are_refused_at_once(lab: Lab) -> None:
    for node in lab.nodes:
        node.silent = True
    under_way = [asyncio.ensure_future(lab.explain()) for _ in range(EXPLANATIONS_MAX)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    with pytest.raises(Busy):
        await lab.explain()

    await asyncio.gather(*under_way)
    for node in lab.nodes:
        node.silent = False
    assert (await lab.explain())["kind"] == "none"


@pytest.mark.parametrize("key", [b"a/b", b"a%20b", "ä/ö".encode(), b"100%", bytes(range(0x80, 0xFF)), b"\xff" * 250])
def test_a_topic_carries_any_key_in_printable_ascii(key: bytes) -> None:
    topic = explain_topic(key)

    assert topic.isascii()
    assert topic.isprintable()
    assert key_of_topic(topic) == key


def test_other_topics_are_none_and_bad_keys_are_refused() -> None:
    assert key_of_topic("storages") is None
    assert key_of_topic("explained") is None
    for topic, error in (("explain 100%", BadRequest), ("explain a%20b", BadKey), ("explain a b", BadKey)):
        with pytest.raises(error):
            key_of_topic(topic)
