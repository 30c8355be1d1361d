"""Rings between a client and a server, on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from memcache_tier import HOST, serving

from sfss.errors import BadRequest, StaleRing, Unsupported
from sfss.keys import hash_key
from sfss.memcache.client import Dialect, MemcacheClient
from sfss.memory import MemoryStore
from sfss.ring_keeper import Accepted, HeldRing, Nack, Promised, RingKeeper
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.store import Call

NODE, OTHER = (RingMember(f"{number:032x}", f"n{number}:1") for number in (1, 2))
JOINT = RingRecord(2, 64, (Placement((NODE,), 1, 1, 1, 1), Placement((OTHER,), 1, 1, 1, 1)))
SETTLED = RingRecord(3, 64, JOINT.placements[1:])
KEY = b"a/key"


@pytest.fixture
async def client() -> AsyncIterator[MemcacheClient]:
    async with serving(MemoryStore(node=NODE.node)) as server:
        client = MemcacheClient(HOST, server.port)
        await client.bind("c1", 1, "f1")
        yield client
        await client.close()


async def test_a_client_is_a_keeper_of_its_servers_ring(client: MemcacheClient) -> None:
    assert isinstance(client, RingKeeper)
    assert await client.tell_ring() == HeldRing(1, "f1")


async def test_a_ring_is_decided_and_learnt_over_the_wire(client: MemcacheClient) -> None:
    assert await client.prepare_ring(2, 7) == Promised()
    assert await client.prepare_ring(2, 7) == Nack(7)
    assert await client.accept_ring(6, JOINT) == Nack(7)
    assert await client.accept_ring(7, JOINT) == Accepted()
    assert await client.prepare_ring(2, 8) == Promised(7, JOINT)
    assert await client.learn_ring(JOINT) == HeldRing.of(JOINT)
    assert await client.tell_ring() == HeldRing.of(JOINT)
    assert await client.prepare_ring(2, 9) == HeldRing.of(JOINT)
    assert await client.accept_ring(9, JOINT) == HeldRing.of(JOINT)
    told = await client.identify()
    assert (told.ring, told.fingerprint) == (2, JOINT.fingerprint)


async def test_a_caller_with_another_ring_hears_the_number_of_the_nodes(client: MemcacheClient) -> None:
    await client.learn_ring(JOINT)

    with pytest.raises(StaleRing) as refused:
        await client.read(KEY, Call(ring=1))
    assert refused.value.ring == 2
    with pytest.raises(StaleRing):
        await client.prepare_ring(4, 1)


async def test_what_a_node_no_longer_owns_goes(client: MemcacheClient) -> None:
    await client.set(KEY, b"value")
    await client.learn_ring(SETTLED)

    assert await client.drop_partition(3, hash_key(KEY) >> 58) == 1
    assert await client.get(KEY) is None
    with pytest.raises(BadRequest, match="no partition"):
        await client.drop_partition(3, 64)
    await client.set(KEY, b"value")
    assert (await client.leave_ring(3)).ring == 3
    assert await client.get(KEY) is None


async def test_a_ring_of_hundreds_of_nodes_comes_through(client: MemcacheClient) -> None:
    members = tuple(RingMember(f"{number:032x}", f"n{number}:1") for number in range(1, 501))
    large = RingRecord(2, 64, (Placement(members, 3, 2, 2, 1), Placement(members[1:], 3, 2, 2, 1)))

    assert (await client.learn_ring(large)).record == large
    assert (await client.tell_ring()).record == large


async def test_foreign_servers_keep_no_ring() -> None:
    foreign = MemcacheClient(HOST, 1, dialect=Dialect.CLASSIC)

    with pytest.raises(Unsupported):
        foreign.tell_ring()
