"""A memcache server that stops tells its clients so, and none is left in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest
from certificates import Authority
from memcache_tier import client_of, serving
from web_tier import SlowStore

from sfss.errors import Outcome, SfssError, Stopping
from sfss.memcache.access import OPEN, Access
from sfss.memcache.server import MemcacheServer, ServerLimits
from sfss.memory import MemoryStore
from sfss.settings import Address
from sfss.store import settled
from sfss.tls import client_tls, server_tls
from sfss.web.proxies import ProxyRing
from sfss.web.retry_budget import RetryBudget

LEAVING = ServerLimits(leaving_s=5.0)


@asynccontextmanager
async def stopping(server: MemcacheServer) -> AsyncIterator[None]:
    """The time in which a server is about to end."""
    close = asyncio.create_task(server.close())
    await asyncio.sleep(0)
    yield
    await asyncio.wait_for(close, 60)


@pytest.mark.parametrize("kind", ["get", "head", "set", "delete"])
async def test_what_comes_during_a_stop_is_surely_not_begun(kind):
    async with serving(limits=LEAVING) as server, client_of(server.port) as client:
        await client.set(b"k", b"before")
        await client.get(b"k")  # reads have connections of their own
        async with stopping(server):
            with pytest.raises(Stopping) as refused:
                await (client.set(b"k", b"after") if kind == "set" else getattr(client, kind)(b"k"))
            await client.close()

        assert refused.value.outcome is Outcome.NOT_APPLIED
        assert (await settled(server.service.store.get(b"k"))).value == b"before"


async def test_what_was_begun_before_is_answered():
    store = SlowStore(held=True)
    async with serving(store, limits=LEAVING) as server, client_of(server.port) as client:
        begun = client.set(b"k", b"v")
        while not store.calls:
            await asyncio.sleep(0.001)
        async with stopping(server):
            other = client.set(b"other", b"v")
            store.gate.set()
            assert (await begun).version
            with pytest.raises(Stopping):
                await other
            await client.close()


async def test_a_server_without_clients_stops_at_once():
    async with serving(limits=ServerLimits(leaving_s=1e6)) as server:
        await asyncio.wait_for(server.close(1e6), 60)


@pytest.mark.parametrize("kind", ["get", "set", "delete"])
async def test_the_web_tier_turns_to_another_proxy(kind):
    store = MemoryStore(durable=True)
    async with serving(store, limits=LEAVING) as one, serving(store, limits=LEAVING) as two:
        addresses = tuple(Address("127.0.0.1", server.port) for server in (one, two))
        ring = ProxyRing(addresses, retry_max=2, retry_after_s=60.0, timeout_s=30.0, budget=RetryBudget(0.1))
        await ring.start()
        keys = [b"key-%d" % number for number in range(20)]  # some belong to the one, some to the other
        for key in keys:
            await ring.set(key, b"before")
        await asyncio.gather(*(ring.get(key) for key in keys))

        async with stopping(one):
            for key in keys:
                await (ring.set(key, b"after") if kind == "set" else getattr(ring, kind)(key))
            assert ring.up_count == 1
            await ring.close()


@pytest.mark.parametrize("encrypted", [False, True])
async def test_what_crosses_the_end_of_a_server_is_surely_not_begun(encrypted, tmp_path):
    tls, access = None, OPEN
    if encrypted:
        authority = Authority(tmp_path / "authority")
        pair = authority.sign("node")
        tls, access = server_tls(pair.certificate, pair.key), Access(tls=client_tls(authority.certificate))
    for _ in range(20):
        async with serving(limits=ServerLimits(leaving_s=0.0), tls=tls) as server:
            async with client_of(server.port, access=access) as client:
                writing = [asyncio.create_task(write_until_refused(client, b"%d" % number)) for number in range(4)]
                while not client.connections:
                    await asyncio.sleep(0.001)
                await asyncio.wait_for(server.close(), 60)
                refused = await asyncio.gather(*writing)

            assert {error.outcome for _, error in refused} == {Outcome.NOT_APPLIED}, refused
            assert [await settled(server.service.store.get(key)) for key, _ in refused] == [None] * 4


async def write_until_refused(client, prefix):
    """Write one file after the other; the first that isn't taken, and why."""
    numbers = count()
    while True:
        key = b"%b-%d" % (prefix, next(numbers))
        try:
            await client.set(key, b"v")
        except SfssError as error:
            return key, error


@pytest.mark.parametrize("asked", [b"get k", b"mg k v", b"mg k v O9.id"])
async def test_a_foreign_client_is_told_nothing_that_it_did_not_ask_for(asked):
    assert await said_after(asked) == b""


async def test_a_client_of_ours_is_told_whatever_it_asked_for_last():
    assert await said_after(b"mg k v s f A V H U900 O9.id", b"version") == b"SERVER_ERROR stopping\r\n"


async def said_after(*lines):
    """What a server that stops still says to whoever asked for something in these lines."""
    async with serving(limits=ServerLimits(leaving_s=0.0)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for line in lines:
            writer.write(line + b"\r\n")
            assert await reader.readline()
        await asyncio.wait_for(server.close(), 60)
        last = await reader.read()
        writer.close()
        return last
