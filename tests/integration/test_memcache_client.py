"""The client on real sockets: whose reply is whose, what is sent again, and what callers are told of a failure."""

from __future__ import annotations

import asyncio
import random
import re
import time
from typing import Any

import pytest
from memcache_tier import HOST, client_of, scripted, serving

from proxy.options import Options
from sfss.errors import (
    BadKey,
    Busy,
    ConnectionLost,
    Expired,
    Outcome,
    SfssError,
    TooLarge,
    Unavailable,
    Unreachable,
    WrongCluster,
)
from sfss.memcache import lane
from sfss.memcache.client import ClientLimits, MemcacheClient
from sfss.memcache.server import MemcacheServer, ServerLimits
from sfss.memory import MemoryStore
from sfss.promise import new_promise
from sfss.ring_keeper import Promised
from sfss.settings import Settings
from sfss.stamps import StampClock
from sfss.store import NO_CALL, VALUE_BYTES_MAX, Call, Identity, Record, Replica, Seen, Written, checksum_of

SOON = ClientLimits(connect_s=2.0, answer_s=5.0, silence_s=0.1, sweep_s=0.01)


def within(seconds: float) -> Call:
    return Call(time.monotonic() + seconds)


def stamped(key: bytes, value: bytes, version: int) -> Record:
    return Record(value, len(value), 0, 0, version, checksum_of(key, value, 0, 0, version, False))


async def opaque_of(reader: asyncio.StreamReader) -> bytes:
    """Read one request line (and its block) and give its opaque."""
    line = await reader.readline()
    if not line:
        raise ConnectionResetError
    if line.startswith(b"ms "):
        await reader.readexactly(int(line.split()[2]) + 2)
    return line.rsplit(b" O", 1)[1].strip()


async def test_a_client_is_a_store_and_a_replica() -> None:
    async with serving() as server, client_of(server.port) as client:
        assert isinstance(client, Replica)
        written = await client.set(b"a", b"one", 7, 2**34, Call(time.monotonic() + 5, 0, b"req-1"))
        assert await client.get(b"a") == Record(b"one", 3, 7, 2**34, written.version, written.checksum)
        assert await client.head(b"a") == Record(b"", 3, 7, 2**34, written.version, written.checksum)
        assert await client.read(b"a") == await client.get(b"a")
        assert await client.inspect(b"a") == await client.head(b"a")
        assert await client.get(b"b") is None
        deleted = await client.delete(b"a")
        assert deleted is not None
        assert await client.delete(b"a") is None
        gone = await client.read(b"a")
        assert gone is not None
        assert gone.tombstone
        record = stamped(b"a", b"two", StampClock().next(deleted.version))
        assert (await client.apply(b"a", record)).accepted
        assert (await client.apply(b"a", record)).accepted
        assert not (await client.apply(b"a", stamped(b"a", b"old", 5))).accepted
        assert (await client.identify()).node == "memory"
        assert (await client.stats())["curr_items"] == "1"


async def test_values_of_every_size_come_back_whole() -> None:
    rng = random.Random(1)
    async with serving() as server, client_of(server.port) as client:
        sizes = [0, 1, 4095, 32768, 32769, 65535, 65536, 65537, 262144, 1_000_000, VALUE_BYTES_MAX]
        values = {b"k%d" % size: rng.randbytes(size) for size in sizes}
        await asyncio.gather(*(client.set(key, value) for key, value in values.items()))

        records = await asyncio.gather(*(client.get(key) for key in values))

        assert [record and record.value for record in records] == list(values.values())


class Hanging(MemoryStore):
    """Its disk takes no large files and lets go of none."""

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Any:
        return new_promise() if record.size > 65536 else super().apply(key, record, call)

    def drop_partition(self, ring: int, partition: int, call: Call = NO_CALL) -> Any:
        return new_promise()


async def test_what_a_node_is_told_besides_waits_behind_no_large_file_and_no_file_behind_that() -> None:
    large = stamped(b"large", bytes(100_000), StampClock().next())
    small = stamped(b"small", b"one", StampClock().next())
    async with serving(Hanging()) as server, client_of(server.port, ClientLimits(bulk_links=1)) as client:
        identity = await client.bind("c1", 1, "f1")
        hanging = client.apply(b"large", large)

        assert (await client.purge(0, identity.ring, 5, 0)).fence == 5
        assert await client.prepare_ring(2, 7) == Promised()
        dropped = client.drop_partition(1, 0)
        assert (await client.apply(b"small", small)).accepted
        assert await client.read(b"small") == small
        assert not hanging.done()
        assert not dropped.done()


async def test_a_key_that_would_be_a_request_of_its_own_is_refused() -> None:
    async with serving() as server, client_of(server.port) as client:
        for key in (b"", b"a b", b"a\r\nflush_all", b"k" * 251):
            with pytest.raises(BadKey):
                client.get(key)


async def test_nobody_there_is_unreachable_and_surely_not_applied() -> None:
    async with serving() as server:
        port = server.port
    async with client_of(port) as client:
        with pytest.raises(Unreachable) as caught:
            await client.set(b"a", b"one")
        assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_a_caller_who_leaves_disturbs_nobody_and_opens_no_connection() -> None:
    async def answer_late(reader: Any, writer: Any, number: int) -> None:
        while True:
            opaque = await opaque_of(reader)
            await asyncio.sleep(0.01)
            writer.write(b"VA 3 s3 f0 A0 V0 H0000000000000000 O%b\r\n%03d\r\n" % (opaque, int(opaque) % 1000))

    limits = ClientLimits(links=1)
    async with scripted(answer_late) as port, client_of(port, limits) as client:
        asked = [client.get(b"k%d" % n) for n in range(20)]
        for n in range(0, 20, 2):
            asked[n].cancel()
        for n in range(1, 20, 2):
            record = await asked[n]
            assert record is not None
            assert int(record.value) == n + 1
        assert client.connections == 1


async def test_replies_in_the_wrong_order_reach_nobody() -> None:
    async def swap(reader: Any, writer: Any, number: int) -> None:
        while True:
            first, second = await opaque_of(reader), await opaque_of(reader)
            for opaque in (second, first):
                writer.write(b"VA 1 s1 f0 A0 V0 H0000000000000000 O%b\r\nx\r\n" % opaque)

    async with scripted(swap) as port, client_of(port, ClientLimits(links=1)) as client:
        answers = await asyncio.gather(client.get(b"a"), client.get(b"b"), return_exceptions=True)

        assert [type(answer) for answer in answers] == [ConnectionLost, ConnectionLost]


async def test_one_reply_too_few_is_noticed_at_the_next_one() -> None:
    async def lose_one(reader: Any, writer: Any, number: int) -> None:
        if number == 1:
            await opaque_of(reader)  # whose reply is lost
        while True:
            opaque = await opaque_of(reader)
            writer.write(b"EN O%b\r\n" % opaque)

    async with scripted(lose_one) as port, client_of(port, ClientLimits(links=1)) as client:
        # Both are reads: they are asked again on another connection, and answered there.
        assert await asyncio.gather(client.get(b"a"), client.get(b"b")) == [None, None]


async def test_bytes_that_nobody_asked_for_close_the_connection() -> None:
    async def talk_too_much(reader: Any, writer: Any, number: int) -> None:
        while True:
            writer.write(b"EN O%b\r\nEN O99\r\n" % await opaque_of(reader))

    async with scripted(talk_too_much) as port, client_of(port, ClientLimits(links=1)) as client:
        assert await client.get(b"a") is None
        await asyncio.sleep(0.05)
        assert client.connections == 0
        assert await client.get(b"a") is None


async def test_reads_and_stamped_writes_go_once_to_another_connection() -> None:
    hung_up_on = set()

    async def first_ones_hang_up(reader: Any, writer: Any, _number: int) -> None:
        line = await reader.readline()
        command = line[:2]
        if command not in hung_up_on:
            hung_up_on.add(command)
            return
        opaque = line.rsplit(b" O", 1)[1].strip()
        if command == b"mg":
            writer.write(b"EN O%b\r\n" % opaque)
        else:
            writer.write(b"HD V5 H%016x B1/1 O%b\r\n" % (record.checksum, opaque))
        await reader.read()

    record = stamped(b"a", b"one", 5)
    async with scripted(first_ones_hang_up) as port, client_of(port, ClientLimits(links=1)) as client:
        read, applied = await asyncio.gather(client.get(b"a"), client.apply(b"a", record))

        assert read is None
        assert applied.accepted


async def test_what_is_lost_twice_fails() -> None:
    async def hang_up(reader: Any, writer: Any, number: int) -> None:
        await reader.readline()

    async with scripted(hang_up) as port, client_of(port) as client:
        with pytest.raises(ConnectionLost):
            await client.get(b"a")
        with pytest.raises(ConnectionLost) as caught:
            await client.apply(b"a", stamped(b"a", b"one", 5))
        assert caught.value.outcome is Outcome.UNKNOWN


async def test_an_unstamped_write_in_flight_is_unknown_and_sent_only_once() -> None:
    requests = []

    async def hang_up(reader: Any, writer: Any, number: int) -> None:
        requests.append(await opaque_of(reader))

    async with scripted(hang_up) as port, client_of(port) as client:
        for write in (client.set(b"a", b"one"), client.delete(b"a")):
            with pytest.raises(ConnectionLost) as caught:
                await write
            assert caught.value.outcome is Outcome.UNKNOWN
        assert len(requests) <= 2


async def test_a_write_that_waits_for_room_is_surely_unsent_and_goes_to_the_next_connection() -> None:
    values = []

    async def take_one(reader: Any, writer: Any, number: int) -> None:
        line = await reader.readline()
        values.append((number, await reader.readexactly(4)))
        if number == 1:
            return
        writer.write(b"HD V7 H0000000000000000 B1/1 O%b\r\n" % line.rsplit(b" O", 1)[1].strip())
        await reader.read()

    limits = ClientLimits(links=1, link_in_flight_max=1)
    async with scripted(take_one) as port, client_of(port, limits) as client:
        first, second = client.set(b"a", b"11"), client.set(b"b", b"22")

        with pytest.raises(ConnectionLost) as caught:
            await first
        assert caught.value.outcome is Outcome.UNKNOWN
        assert await second == Written(7, 0, 1, 1)
    assert values == [(1, b"11\r\n"), (2, b"22\r\n")]


async def test_a_passed_deadline_says_what_may_have_happened() -> None:
    async def say_nothing(reader: Any, writer: Any, number: int) -> None:
        await reader.read()

    limits = ClientLimits(links=1, link_in_flight_max=1, sweep_s=0.01, silence_s=5.0)
    async with scripted(say_nothing) as port, client_of(port, limits) as client:
        sent, unsent = client.set(b"a", b"one", call=within(0.2)), client.set(b"b", b"two", call=within(0.2))
        with pytest.raises(Expired) as caught:
            await sent
        assert caught.value.outcome is Outcome.UNKNOWN
        with pytest.raises(Expired) as caught:
            await unsent
        assert caught.value.outcome is Outcome.NOT_APPLIED
        with pytest.raises(Expired) as caught:
            await client.set(b"c", b"three", call=within(-1))
        assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_a_silent_server_is_left_and_asked_again_on_a_new_connection() -> None:
    async def first_is_silent(reader: Any, writer: Any, number: int) -> None:
        if number == 1:
            await reader.read()
        while True:
            writer.write(b"EN O%b\r\n" % await opaque_of(reader))

    limits = ClientLimits(links=1, silence_s=0.1, sweep_s=0.01)
    async with scripted(first_is_silent) as port, client_of(port, limits) as client:
        with pytest.raises(Expired):
            await client.get(b"a", within(0.1))

        assert await client.get(b"b", within(5)) is None


async def test_a_node_that_doesnt_say_who_it_is_is_not_waited_for_as_long_as_for_a_file() -> None:
    async def say_nothing(reader: Any, writer: Any, number: int) -> None:
        await reader.read()

    async with scripted(say_nothing) as port, client_of(port, ClientLimits(connect_s=0.2, answer_s=600)) as client:
        with pytest.raises(Expired):
            await asyncio.wait_for(client.identify(), 60)


async def test_the_server_is_told_how_much_time_is_left() -> None:
    lines = []

    async def note(reader: Any, writer: Any, number: int) -> None:
        while True:
            lines.append(await reader.readline())
            writer.write(b"EN O%b\r\n" % lines[-1].rsplit(b" O", 1)[1].strip())

    async with scripted(note) as port, client_of(port) as client:
        await client.get(b"a", Call(time.monotonic() + 0.5, 12, b"req-9"))

    match = re.fullmatch(rb"mg a v s f A V H G12 U([0-9]+) O1\.req-9\r\n", lines[0])
    assert match
    assert 0 < int(match[1]) <= 500


async def test_more_requests_or_bytes_than_allowed_are_refused_at_once() -> None:
    async def say_nothing(reader: Any, writer: Any, number: int) -> None:
        await reader.read()

    limits = ClientLimits(in_flight_max=3, bytes_max=1000)
    async with scripted(say_nothing) as port, client_of(port, limits) as client:
        waiting = [client.get(b"a"), client.set(b"b", b"x" * 900)]
        with pytest.raises(Busy):
            client.set(b"c", b"x" * 200)
        waiting.append(client.get(b"d"))
        with pytest.raises(Busy):
            client.get(b"e")
        assert client.bytes_waiting == 900
        await client.close()
        failures = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(failure, ConnectionLost) for failure in failures)
        assert client.bytes_waiting == 0


async def test_a_client_takes_on_whatever_its_callers_admit() -> None:
    limits = ClientLimits()

    assert limits.bytes_max >= Options().in_flight_bytes_max
    assert limits.bytes_max >= Settings().body_memory_max
    assert limits.in_flight_max >= Options().in_flight_max


async def test_a_burst_of_large_writes_is_carried_out_and_none_is_refused() -> None:
    value = b"x" * VALUE_BYTES_MAX
    async with serving() as server, client_of(server.port) as client:
        written = await asyncio.gather(*(client.set(b"k%d" % (n % 4), value) for n in range(60)))

        assert len({each.version for each in written}) == 60
        assert client.bytes_waiting == 0


async def test_a_large_write_holds_up_no_small_one() -> None:
    async def dont_read_large(reader: Any, writer: Any, number: int) -> None:
        line = await reader.readline()
        if int(line.split()[2]) > 1000:
            await asyncio.sleep(60)
        await reader.readexactly(int(line.split()[2]) + 2)
        writer.write(b"HD V7 H0000000000000000 B1/1 O%b\r\n" % line.rsplit(b" O", 1)[1].strip())
        await reader.read()

    async with scripted(dont_read_large) as port, client_of(port) as client:
        large = client.set(b"large", b"x" * VALUE_BYTES_MAX)
        assert await client.set(b"small", b"x") == Written(7, 0, 1, 1)
        large.cancel()


async def test_a_server_that_isnt_the_right_one_is_refused_by_greet() -> None:
    store = MemoryStore()
    store.bind("c1", 1, "f")

    def greet(client: MemcacheClient, identity: Identity) -> None:
        if identity.cluster != "c2":
            raise WrongCluster(f"{identity.cluster} is not c2")

    async with serving(store) as server, client_of(server.port, greet=greet) as client:
        with pytest.raises(WrongCluster, match="c1 is not c2"):
            await client.set(b"a", b"one")
        assert store.records == {}
        assert client.connections == 0


async def test_the_right_server_is_greeted_on_every_connection() -> None:
    greeted = []
    async with (
        serving() as server,
        client_of(server.port, greet=lambda client, identity: greeted.append(identity.node)) as client,
    ):
        await client.set(b"a", b"one")
        await client.get(b"a")

        assert greeted == ["memory", "memory"]
        assert client.in_flight == 0
        assert client._account.held == 0


async def test_a_server_is_told_on_every_connection_what_was_seen_of_it_before_anything_else() -> None:
    lines = []

    async def note(reader: Any, writer: Any, number: int) -> None:
        lines.append(await reader.readline())
        writer.write(b"IDENTITY n - 0 - 8 1 suspect word\r\n")
        lines.append(await reader.readline())
        writer.close()

    greeted = []
    seen = iter([Seen("n", 7, "other", 1 << 40), None])
    async with (
        scripted(note) as port,
        client_of(
            port,
            ClientLimits(links=1),
            greet=lambda client, identity: greeted.append(identity),
            last_seen=lambda: next(seen),
        ) as client,
    ):
        for _ in range(2):
            with pytest.raises(SfssError):
                await client.stats(call=within(5))

    assert lines == [b"sfss recall n 7 other 1099511627776\r\n", b"stats\r\n", b"sfss identity\r\n", b"stats\r\n"]
    assert {identity.start for identity in greeted} == {"word"}


async def test_a_server_that_is_out_of_step_after_the_greeting_is_left_for_a_new_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "RETRY_S", 0.0)

    async def talk_too_much_first(reader: Any, writer: Any, number: int) -> None:
        await reader.readline()
        writer.write(b"IDENTITY n - 0 - 1 1 ok\r\n" + (b"EN O99\r\n" if number == 1 else b""))
        while True:
            writer.write(b"EN O%b\r\n" % await opaque_of(reader))

    async with (
        scripted(talk_too_much_first) as port,
        client_of(port, ClientLimits(links=1), greet=lambda client, identity: None) as client,
    ):
        with pytest.raises(ConnectionLost) as caught:
            await client.set(b"a", b"one")
        assert caught.value.outcome is Outcome.NOT_APPLIED

        assert await client.get(b"a", within(5)) is None


@pytest.mark.parametrize("opaque", [b"1.\rx", b"1.\x1b[31m", b"1.\xff", b"0." + b"7" * 30])
async def test_an_opaque_that_only_looks_like_ours_stays_with_the_server_that_it_was_sent_to(opaque: bytes) -> None:
    async with serving() as node, client_of(node.port, ClientLimits(links=1)) as client, serving(client) as proxy:
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        writer.write(b"mg a v O%b\r\nmg b v O%b\r\nmn\r\n" % (opaque, opaque))

        async with asyncio.timeout(20):
            assert await reader.readuntil(b"MN\r\n") == b"EN O%b\r\nEN O%b\r\nMN\r\n" % (opaque, opaque)
        assert node.service.counters.total_connections == 1
        writer.close()


async def test_a_full_server_is_busy() -> None:
    async with serving(limits=ServerLimits(connections_max=1)) as server, client_of(server.port) as one:
        await one.get(b"a")
        async with client_of(server.port) as two:
            with pytest.raises(Unavailable):
                await two.get(b"a")


async def test_an_error_line_fails_its_request_and_the_connection_goes_on() -> None:
    async with serving() as server, client_of(server.port, ClientLimits(links=1)) as client:
        answers = await asyncio.gather(
            client.set(b"a", b"one"),
            client.apply(b"b", stamped(b"b", b"x", 5).replaced(checksum=1)),
            client.set(b"c", b"x" * 60_000),
            return_exceptions=True,
        )

        assert [type(answer).__name__ for answer in answers] == ["Written", "BadRequest", "Written"]
        with pytest.raises(TooLarge):
            await client.set(b"d", b"x" * (VALUE_BYTES_MAX + 70_000))
        assert server.service.counters.total_connections <= 2


async def test_a_caller_who_leaves_in_the_middle_of_a_large_value_leaves_the_connection_in_step() -> None:
    halves = asyncio.Event(), asyncio.Event()
    value = random.Random(2).randbytes(1_000_000)
    record = stamped(b"large", value, 5)

    async def answer_in_halves(reader: Any, writer: Any, number: int) -> None:
        for half, left in ((500_000, halves[0]), (100, halves[1])):
            head = b"VA %d s%d f0 A0 V5 H%016x O%b\r\n"
            writer.write(head % (len(value), len(value), record.checksum, await opaque_of(reader)) + value[:half])
            await writer.drain()
            await left.wait()
            writer.write(value[half:] + b"\r\n")

    async with scripted(answer_in_halves) as port, client_of(port, ClientLimits(links=1)) as client:
        left, stayed = client.get(b"large", within(20)), client.get(b"large", within(20))
        await asyncio.sleep(0.05)
        left.cancel()
        for half in halves:
            half.set()

        assert await stayed == record


async def test_too_many_bytes_for_callers_who_left_close_the_connection_for_the_sake_of_others() -> None:
    size = 1_000_000

    async def answer_large(reader: Any, writer: Any, number: int) -> None:
        while True:
            opaque = await opaque_of(reader)
            if number > 1:
                writer.write(b"EN O%b\r\n" % opaque)
                continue
            writer.write(b"VA %d s%d f0 A0 V0 H0000000000000000 O%b\r\n" % (size, size, opaque))
            for _ in range(10):
                writer.write(b"x" * (size // 10))
                await writer.drain()
                await asyncio.sleep(0.001)
            writer.write(b"\r\n")

    async with scripted(answer_large) as port, client_of(port, ClientLimits(links=1)) as client:
        asked = [client.get(b"large") for _ in range(40)]
        await asyncio.sleep(0.05)
        for promise in asked:
            promise.cancel()

        assert await client.get(b"wanted", within(10)) is None


class SlowStore(MemoryStore):
    """Answers after a random while, out of order."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    def _late(self, reply: Any) -> Any:
        loop = asyncio.get_running_loop()
        promise = new_promise()
        loop.call_later(self._rng.random() * 0.02, promise.set_result, reply)
        return promise

    def get(self, key: bytes, call: Call = NO_CALL) -> Any:
        return self._late(MemoryStore.get(self, key, call))

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Any:
        return self._late(MemoryStore.set(self, key, value, flags, expires, call))


async def test_a_storm_of_cancellations_crosses_no_replies(rng: random.Random) -> None:
    """200 clients hang up at random points over a pool of 2 connections; those who stay get their own answers."""
    limits = ClientLimits(links=1, in_flight_max=4096)
    answered = left = 0

    async with serving(SlowStore(rng)) as server, client_of(server.port, limits) as client:

        async def one(number: int) -> None:
            nonlocal answered, left
            for turn in range(10):
                key = b"k%d" % number
                value = b"%d " % (number * 1000 + turn) * rng.randrange(1, 3000)
                patience = rng.choice((None, None, rng.random() * 0.02))
                try:
                    async with asyncio.timeout(patience):
                        await client.set(key, value)
                        record = await client.get(key)
                except TimeoutError:
                    left += 1
                    # What was abandoned may still be stored; a client in doubt writes anew.
                    await client.set(key, b"%d " % (number * 1000 + turn))
                    record = await client.get(key)
                    assert record is not None
                    assert int(record.value.split()[0]) // 1000 == number
                else:
                    assert record is not None
                    assert record.value == value
                    answered += 1

        await asyncio.gather(*(one(number) for number in range(200)))

        assert server.service.counters.total_connections <= 3
        assert answered > 500
        assert left > 100
        assert client._account.held == 0


async def test_closing_a_client_ends_everything_in_flight_and_is_idempotent() -> None:
    async def say_nothing(reader: Any, writer: Any, number: int) -> None:
        await reader.read()

    async with scripted(say_nothing) as port:
        client = MemcacheClient(HOST, port, limits=SOON)
        asked = client.set(b"a", b"one")
        await asyncio.sleep(0.05)
        await client.close()
        await client.close()

        with pytest.raises(ConnectionLost) as caught:
            await asked
        assert caught.value.outcome is Outcome.UNKNOWN
        with pytest.raises(ConnectionLost):
            client.get(b"a")


async def test_a_server_found_back_by_one_lane_is_back_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server:
        port = server.port
    client = MemcacheClient(HOST, port)
    try:
        # Nobody listens there now, and the lane of writes will remember that for long.
        monkeypatch.setattr(lane, "RETRY_S", 0.0)
        with pytest.raises(Unreachable):
            await client.get(b"a")
        monkeypatch.setattr(lane, "RETRY_S", 60.0)
        with pytest.raises(Unreachable):
            await client.set(b"a", b"1")
        back = MemcacheServer(MemoryStore())
        await back.start(HOST, port)

        try:
            assert await client.get(b"a") is None
            await client.set(b"a", b"2")
        finally:
            await back.close()
    finally:
        await client.close()
