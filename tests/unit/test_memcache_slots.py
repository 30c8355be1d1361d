"""Order and limits of one connection to a server: late answers, requests that must wait, memory that is bounded."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from memcache_peer import FIRST_VERSION as V
from memcache_peer import Clock, Peer, SlowStore, server_of

from sfss.errors import (
    CorruptRecord,
    Expired,
    Outcome,
    OutOfDisk,
    QuorumUnavailable,
    Recovering,
    SfssError,
    Unreachable,
)
from sfss.memcache.server import ServerLimits
from sfss.memcache.service import WIRE_VERSION
from sfss.memory import MemoryStore
from sfss.promise import Promise, new_promise
from sfss.store import NO_CALL, Call, Record, Written, checksum_of

VERSION = b"VERSION " + WIRE_VERSION.encode() + b"\r\n"


async def turn() -> None:
    """Let callbacks of settled futures run."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_answers_keep_the_order_of_requests_whichever_comes_first() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    peer.say(b"get a\r\nget b\r\nversion\r\n")

    store.waiting[1][2]()
    await turn()
    assert peer.sent == b""

    store.waiting[0][2]()
    await turn()
    assert peer.sent == b"END\r\nEND\r\n" + VERSION


async def test_a_noreply_request_keeps_its_place_and_says_nothing() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    peer.say(b"set a 0 0 1 noreply\r\nx\r\nversion\r\n")

    assert peer.sent == b""
    store.settle_all()
    await turn()

    assert peer.sent == VERSION


async def test_a_get_waits_for_an_earlier_write_of_its_key_and_sees_it() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    peer.say(b"set a 0 0 3 noreply\r\none\r\nget a\r\nget b\r\n")

    assert [name for name, _, _ in store.waiting] == ["set"]
    store.settle_all()
    await turn()
    store.settle_all()
    await turn()

    assert peer.sent == b"VALUE a 0 3\r\none\r\nEND\r\nEND\r\n"


async def test_a_write_waits_for_an_earlier_read_of_its_key() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    peer.say(b"get a\r\ndelete a\r\n")

    assert [name for name, _, _ in store.waiting] == ["get"]
    store.settle_all()
    await turn()

    assert [name for name, _, _ in store.waiting] == ["delete"]


async def test_requests_for_other_keys_run_side_by_side() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))

    peer.say(b"set a 0 0 1\r\nx\r\nset b 0 0 1\r\nx\r\nget c\r\nget c\r\n")

    assert [key for _, key, _ in store.waiting] == [b"a", b"b", b"c", b"c"]


async def test_stamped_writes_of_one_key_run_side_by_side() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    line = b"ms a 1 F0 A0 V%d H%016x B O%d\r\nx\r\n"

    peer.say(b"".join(line % (V + n, checksum_of(b"a", b"x", 0, 0, V + n, False), n) for n in range(3)))

    assert len(store.waiting) == 3
    store.settle_all()
    await turn()
    assert peer.sent.count(b"HD V") == 3


async def test_a_get_of_many_keys_waits_for_unfinished_writes() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    peer.say(b"set a 0 0 1 noreply\r\nx\r\nget b a\r\n")

    assert [name for name, _, _ in store.waiting] == ["set"]
    store.settle_all()
    await turn()

    assert [key for _, key, _ in store.waiting] == [b"b", b"a"]


async def test_many_keys_are_looked_up_a_few_at_a_time() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    peer.say(b"get " + b" ".join(b"k%d" % n for n in range(100)) + b"\r\nversion\r\n")

    looked_up = 0
    while store.waiting:
        assert len(store.waiting) <= 4
        looked_up += len(store.waiting)
        store.settle_all()
        await turn()

    assert looked_up == 100
    assert peer.sent == b"END\r\n" + VERSION


async def test_a_key_that_cant_be_read_ends_the_reply_with_its_error_and_never_with_end() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    MemoryStore.set(store, b"a", b"one")
    peer.say(b"get a b c d e f\r\nversion\r\n")

    store.waiting[0][2]()
    store.waiting[1][2](CorruptRecord("b"))
    store.waiting[2][2]()
    await turn()

    assert peer.sent == b"VALUE a 0 3\r\none\r\nSERVER_ERROR corrupt\r\n" + VERSION


async def test_parts_that_were_at_hand_behind_a_failed_one_are_dropped_with_it() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    MemoryStore.set(store, b"b", b"two")
    slow, fast = store.get, MemoryStore(Clock())
    fast.set(b"b", b"two")
    store.get = lambda key, call=NO_CALL: slow(key) if key == b"a" else fast.get(key)  # type: ignore[method-assign]
    peer.say(b"get a b b\r\nversion\r\n")

    store.waiting[0][2](CorruptRecord("a"))
    await turn()

    assert peer.sent == b"SERVER_ERROR corrupt\r\n" + VERSION
    assert peer.connection._slot_bytes == 0


async def test_a_part_that_fails_before_its_turn_ends_the_reply_when_its_turn_comes() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    MemoryStore.set(store, b"a", b"one")
    MemoryStore.set(store, b"c", b"two")
    peer.say(b"get a b c d e f\r\nversion\r\n")

    store.waiting[2][2]()
    store.waiting[1][2](CorruptRecord("b"))
    await turn()
    assert peer.sent == b""
    assert len(store.waiting) == 4
    store.waiting[0][2]()
    await turn()

    assert peer.sent == b"VALUE a 0 3\r\none\r\nSERVER_ERROR corrupt\r\n" + VERSION
    assert peer.connection._slot_bytes == 0


async def test_errors_of_parts_that_were_cut_off_are_not_reported_as_forgotten(caplog: Any) -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    peer.say(b"get a b c\r\n")
    store.waiting[0][2](CorruptRecord("a"))
    await turn()
    for _, _, settle in store.waiting[1:]:
        settle(CorruptRecord("b"))
    store.waiting.clear()
    await turn()
    gc.collect()

    assert peer.sent == b"SERVER_ERROR corrupt\r\n"
    assert "never retrieved" not in caplog.text


async def test_a_failed_part_ends_its_own_reply_only() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    MemoryStore.set(store, b"c", b"two")
    peer.say(b"get a b\r\nget c d\r\n")

    store.waiting.pop(0)[2](CorruptRecord("a"))
    while store.waiting:
        store.settle_all()
        await turn()

    assert peer.sent == b"SERVER_ERROR corrupt\r\nVALUE c 0 3\r\ntwo\r\nEND\r\n"


class RefusingStore(MemoryStore):
    """Raises what it is given."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(Clock())
        self._error = error

    def get(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        raise self._error

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Written:
        raise self._error


async def test_every_kind_of_failure_has_its_line_and_none_is_a_miss() -> None:
    lines: list[tuple[SfssError, bytes]] = [
        (CorruptRecord("x"), b"SERVER_ERROR corrupt\r\n"),
        (Recovering("x"), b"SERVER_ERROR recovering\r\n"),
        (OutOfDisk("x"), b"SERVER_ERROR out of disk\r\n"),
        (Expired("x"), b"SERVER_ERROR deadline expired\r\n"),
        (Unreachable("3 nodes"), b"SERVER_ERROR unreachable 3 nodes\r\n"),
        (QuorumUnavailable("1 of 2"), b"SERVER_ERROR quorum unavailable not-applied 1 of 2\r\n"),
        (QuorumUnavailable("1 of 2", Outcome.UNKNOWN), b"SERVER_ERROR quorum unavailable unknown 1 of 2\r\n"),
        (Expired("late", Outcome.UNKNOWN), b"SERVER_ERROR quorum unavailable unknown late\r\n"),
    ]
    for error, line in lines:
        peer = Peer(server_of(RefusingStore(error)))
        assert peer.say(b"get a\r\n") == line
        assert peer.say(b"set a 0 0 1\r\nx\r\n") == line
        assert peer.say(b"mg a v\r\n") == line
        assert peer.say(b"mg a v s f A V H O1\r\n") == line
        assert peer.say(b"get a b c\r\n") == line
        assert peer.say(b"version\r\n") == VERSION


async def test_every_error_line_is_counted() -> None:
    server = server_of(OnlyStore(), limits=ServerLimits(bytes_held_max=100))
    peer = Peer(server)
    server.service.monotonic = lambda: float("inf")
    said = peer.say(
        b"sfss identity\r\nflush_all\r\nincr a 1\r\nmd ?a\r\n"
        b"mg a v s f A V H U1 O1\r\nbogus\r\nget @a\r\nset a 0 0 x\r\n"
    )
    server.bytes_held = 101
    said += peer.say(b"get a\r\n")

    assert said.count(b"\r\n") == said.count(b"ERROR") == server.service.counters.errors == 9


async def test_an_error_that_says_what_no_line_can_hold_is_a_line_all_the_same() -> None:
    peer = Peer(server_of(RefusingStore(Unreachable("/tmp/\udcff\r\nEND"))))

    assert peer.say(b"get a\r\n") == b"SERVER_ERROR unreachable /tmp/? END\r\n"


async def test_a_fault_of_ours_is_logged_and_said_to_be_ours(caplog: Any) -> None:
    peer = Peer(server_of(RefusingStore(ZeroDivisionError("oops"))))

    assert peer.say(b"get a\r\nversion\r\n") == b"SERVER_ERROR internal error\r\n" + VERSION
    assert "oops" in caplog.text


async def test_a_store_future_that_was_cancelled_is_an_error_and_no_miss(caplog: Any) -> None:
    promise: Promise[None] = new_promise()

    class Cancelled(MemoryStore):
        def get(self, key: bytes, call: Call = NO_CALL) -> Any:
            return promise

    peer = Peer(server_of(Cancelled()))
    peer.say(b"get a\r\n")
    promise.cancel()
    await turn()

    assert peer.sent == b"SERVER_ERROR internal error\r\n"


class OnlyStore:
    """What a coordinator offers: no more than the Store contract."""

    def __init__(self) -> None:
        inner = MemoryStore(Clock())
        self.get, self.head, self.set, self.delete, self.stats = (
            inner.get,
            inner.head,
            inner.set,
            inner.delete,
            inner.stats,
        )


async def test_a_store_without_updates_refuses_what_reads_decides_and_writes() -> None:
    peer = Peer(server_of(OnlyStore()))
    peer.say(b"set a 0 0 1\r\n1\r\n")

    for said in (
        b"add a 0 0 1\r\nx\r\n",
        b"replace a 0 0 1\r\nx\r\n",
        b"append a 0 0 1\r\nx\r\n",
        b"prepend a 0 0 1\r\nx\r\n",
        b"cas a 0 0 1 5\r\nx\r\n",
        b"incr a 1\r\n",
        b"decr a 1\r\n",
        b"touch a 1\r\n",
        b"gat 1 a\r\n",
        b"gats 1 a\r\n",
        b"mg a T1\r\n",
        b"mg a N1\r\n",
        b"mg a R1\r\n",
        b"ms a 1 C1\r\nx\r\n",
        b"ms a 1 ME\r\nx\r\n",
        b"ms a 1 I\r\nx\r\n",
        b"md a C1\r\n",
        b"md a I\r\n",
        b"ma a\r\n",
    ):
        name = said.split()[0]
        assert peer.say(said).startswith(b"SERVER_ERROR not supported here: " + name), said
    assert peer.say(b"get a\r\n") == b"VALUE a 0 1\r\n1\r\nEND\r\n"
    assert peer.say(b"ms a 1 MS\r\n2\r\nmg a v\r\nmd a\r\n") == b"HD\r\nVA 1\r\n2\r\nHD\r\n"


async def test_a_store_that_is_no_replica_keeps_raw_records_to_itself() -> None:
    peer = Peer(server_of(OnlyStore()))

    assert peer.say(b"sfss identity\r\n") == b"ERROR\r\n"
    assert peer.say(b"mg a v s f A V H Y O1\r\n").startswith(b"SERVER_ERROR not supported here: mg ")
    assert peer.say(b"ms a 1 F0 A0 V1 H0000000000000000 B O1\r\nx\r\n").startswith(b"SERVER_ERROR not supported here")
    assert peer.say(b"md a A0 V1 H0000000000000000 B O1\r\n").startswith(b"SERVER_ERROR not supported here")


async def test_no_more_requests_are_read_than_may_be_in_flight() -> None:
    store = SlowStore()
    peer = Peer(server_of(store, limits=ServerLimits(in_flight_max=4)))
    peer.say(b"".join(b"get k%d\r\n" % n for n in range(10)))

    assert len(store.waiting) == 4
    assert not peer.reading
    while store.waiting:
        store.settle_all()
        await turn()

    assert peer.sent == b"END\r\n" * 10
    assert peer.reading


@pytest.mark.parametrize("line", [b"version\r\n" * 5000, b"get " + b"a " * 5000 + b"\r\n"])
async def test_a_connection_with_very_much_to_ask_gives_way_to_others(line: bytes) -> None:
    store = MemoryStore(Clock())
    looked_up = 0
    get = store.get

    def counting(key: bytes, call: Call = NO_CALL) -> Record | None:
        nonlocal looked_up
        looked_up += 1
        return get(key)

    store.get = counting  # type: ignore[method-assign]
    server = server_of(store)
    peer, other = Peer(server), Peer(server)
    peer.say(line)

    assert looked_up + peer.sent.count(VERSION) <= 512
    assert not peer.reading
    assert other.say(b"version\r\n") == VERSION
    for _ in range(20):
        await asyncio.sleep(0)
    assert looked_up + peer.sent.count(VERSION) == 5000
    assert peer.reading
    assert peer.say(b"version\r\n") == VERSION


async def test_a_connection_that_ends_while_it_gives_way_to_others_does_no_more() -> None:
    peer = Peer(server_of())
    peer.say(b"version\r\n" * 5000)
    sent = peer.sent
    peer.abort()
    await turn()

    assert peer.sent == sent


async def test_replies_that_wait_for_an_earlier_one_are_bounded() -> None:
    store = SlowStore()
    fast = MemoryStore(Clock())
    fast.set(b"big", b"x" * 1000)
    server = server_of(store, limits=ServerLimits(waiting_bytes_max=5000))
    peer = Peer(server)
    peer.say(b"get slow\r\n")
    store.get = fast.get  # type: ignore[method-assign]

    peer.say(b"get big\r\n" * 100)

    assert not peer.reading
    assert 5000 <= server.bytes_held <= 7000
    store.settle_all()
    await turn()
    assert peer.sent.count(b"VALUE big") == 100
    assert server.bytes_held == 0


async def test_a_peer_that_doesnt_read_is_not_served_further() -> None:
    server = server_of()
    peer = Peer(server)
    peer.unsent = 300_000
    peer.connection.pause_writing()

    assert peer.say(b"get a\r\n") == b""
    assert not peer.reading
    assert server.bytes_held == 300_000
    peer.connection.resume_writing()

    assert peer.sent == b"END\r\n"
    assert peer.reading
    assert server.bytes_held == 0


async def test_answers_that_come_after_the_peer_stopped_reading_are_on_the_account_too() -> None:
    store = SlowStore()
    MemoryStore.set(store, b"large", b"x" * 100_000)
    server = server_of(store)
    peer = Peer(server)
    peer.deaf = True
    peer.say(b"get large\r\n" * 20)
    store.settle_all()
    await turn()

    assert server.bytes_held == peer.unsent > 2_000_000
    peer.unsent = 500_000
    assert peer.connection.count_unsent() == server.bytes_held == 500_000
    peer.abort()
    assert server.bytes_held == 0


async def test_answers_that_wait_for_a_slow_earlier_one_are_on_the_account() -> None:
    store = SlowStore()
    MemoryStore.set(store, b"large", b"x" * 100_000)
    server = server_of(store)
    peer = Peer(server)
    peer.say(b"get slow\r\n" + b"get large\r\n" * 20)
    slow = store.waiting.pop(0)
    store.settle_all()
    await turn()

    assert peer.sent == b""
    assert 2_000_000 < server.bytes_held < 2_001_000
    slow[2]()
    await turn()
    assert peer.sent.count(b"VALUE large") == 20
    assert server.bytes_held == 0


async def test_a_write_done_before_its_turn_keeps_its_value_no_longer() -> None:
    store = SlowStore()
    server = server_of(store)
    peer = Peer(server)
    peer.say(b"get slow\r\nset a 0 0 5000\r\n" + b"x" * 5000 + b"\r\n")
    assert server.bytes_held == 5000

    store.waiting[1][2]()
    await turn()

    assert server.bytes_held == len(b"STORED\r\n")
    assert peer.connection._slots[1].request is None


async def test_no_more_is_begun_than_there_is_room_for_if_answers_are_as_large_as_before() -> None:
    store = SlowStore()
    MemoryStore.set(store, b"large", b"x" * 100_000)
    MemoryStore.set(store, b"small", b"x" * 100)
    peer = Peer(server_of(store, limits=ServerLimits(waiting_bytes_max=1_000_000)))

    async def begun(line: bytes) -> int:
        """How many such requests, once their size is known, are under way at the same time."""
        for _ in range(100):
            peer.say(line)
            store.settle_all()
            await turn()
            peer.sent = b""
        peer.say(line * 200)
        count = len(store.waiting)
        while store.waiting:
            store.settle_all()
            await turn()
            peer.sent = b""
        return count

    assert await begun(b"get small\r\n") == 128
    assert 8 <= await begun(b"get large\r\n") <= 12
    assert await begun(b"get small\r\n") == 128


async def test_values_being_written_count_toward_what_one_connection_may_have_begun() -> None:
    store = SlowStore()
    server = server_of(store, limits=ServerLimits(waiting_bytes_max=5000))
    peer = Peer(server)
    peer.say(b"".join(b"set k%d 0 0 1000\r\n%b\r\n" % (n, b"x" * 1000) for n in range(20)))

    assert len(store.waiting) == 6
    while store.waiting:
        store.settle_all()
        await turn()
    assert peer.sent == b"STORED\r\n" * 20
    assert server.bytes_held == 0


async def test_a_value_beyond_a_connections_share_is_refused_and_what_fits_is_sent() -> None:
    store = SlowStore()
    MemoryStore.set(store, b"large", b"x" * 100_000)
    server = server_of(store, limits=ServerLimits(connection_bytes_max=500_000))
    peer = Peer(server)
    peer.say(b"get slow\r\n" + b"get large\r\n" * 20 + b"get small\r\n")
    slow = store.waiting.pop(0)
    store.settle_all()
    await turn()

    assert server.bytes_held < 610_000
    slow[2]()
    await turn()
    assert peer.sent.count(b"VALUE large") == 5
    assert peer.sent.endswith(b"SERVER_ERROR busy\r\n" * 15 + b"END\r\n")
    assert server.service.counters.rejected_busy == 15


async def test_peers_that_read_nothing_leave_room_for_those_who_do() -> None:
    store = SlowStore()
    MemoryStore.set(store, b"large", b"x" * 100_000)
    server = server_of(store, limits=ServerLimits(bytes_held_max=10_000_000))
    for _ in range(4):
        deaf = Peer(server)
        deaf.deaf = True
        deaf.say(b"get large\r\n" * 100)
    store.settle_all()
    await turn()

    peer = Peer(server)
    peer.say(b"get large\r\nset a 0 0 3\r\none\r\n")
    store.settle_all()
    await turn()
    assert peer.sent.startswith(b"VALUE large 0 100000\r\n")
    assert peer.sent.endswith(b"END\r\nSTORED\r\n")


class LateUpdates(SlowStore):
    """Its updates are late too; what they change is in `files`."""

    def __init__(self) -> None:
        super().__init__()
        self.files = MemoryStore(Clock())

    def update(self, key: bytes, change: Any, call: Call = NO_CALL) -> Any:
        return self._later("update", key, lambda: self.files.update(key, change, call))


async def test_a_refused_value_of_a_request_that_wrote_is_not_said_to_be_unwritten() -> None:
    store = LateUpdates()
    server = server_of(store, limits=ServerLimits(connection_bytes_max=1))
    peer = Peer(server)
    for key in (b"a", b"b"):
        store.files.set(key, b"x" * 5000)
    peer.say(b"get slow\r\nmg a T60 v\r\nmg b T60 v\r\n")
    slow = store.waiting.pop(0)
    store.settle_all()
    await turn()
    slow[2]()
    await turn()

    assert peer.sent.startswith(b"END\r\nVA 5000")
    assert b"SERVER_ERROR quorum unavailable unknown no room" in peer.sent


async def test_answers_that_come_after_the_connection_was_lost_are_not_kept() -> None:
    store = SlowStore()
    MemoryStore.set(store, b"large", b"x" * 100_000)
    server = server_of(store)
    peer = Peer(server)
    peer.say(b"get slow\r\n" + b"get large\r\n" * 3)
    slow = store.waiting.pop(0)
    store.waiting.pop(0)[2]()
    await turn()
    peer.abort()
    store.settle_all()
    await turn()

    assert [(slot.pending is None, slot.reply) for slot in peer.connection._slots] == [(False, b"")] + [(True, b"")] * 3
    assert server.bytes_held == 0
    slow[2]()
    await turn()
    assert peer.sent == b""
    assert server.bytes_held == 0


async def test_a_fault_in_an_answers_way_out_closes_that_connection_and_is_logged(caplog: Any) -> None:
    store = SlowStore()
    server = server_of(store)
    peer, other = Peer(server), Peer(server)
    peer.say(b"get a\r\n")
    other.say(b"get a\r\n")
    peer.write = None  # type: ignore[assignment, method-assign]
    store.settle_all()
    await turn()

    assert peer.closed
    assert "a connection is closed because of a fault" in caplog.text
    assert other.sent == b"END\r\n"


async def test_over_the_memory_limit_requests_are_refused_at_once_and_served_again_after() -> None:
    store = SlowStore()
    server = server_of(store, limits=ServerLimits(bytes_held_max=1000))
    first, second = Peer(server), Peer(server)

    first.say(b"set a 0 0 900\r\n" + b"x" * 900 + b"\r\n")
    assert second.say(b"set b 0 0 200\r\n" + b"x" * 100) == b""
    assert second.say(b"x" * 10) == b"SERVER_ERROR busy\r\n"
    assert server.bytes_held == 900
    assert second.say(b"x" * 90 + b"\r\nversion\r\n") == VERSION
    assert second.say(b"set b 0 0 200 noreply\r\n" + b"x" * 101) == b""
    assert second.say(b"x" * 99 + b"\r\nversion\r\n") == VERSION
    store.settle_all()
    await turn()
    assert first.sent == b"STORED\r\n"
    assert server.bytes_held == 0

    second.say(b"set b 0 0 200\r\nx")
    second.say(b"x" * 199 + b"\r\n")
    store.settle_all()
    await turn()
    assert second.sent.endswith(b"STORED\r\n")
    assert server.bytes_held == 0


async def test_peers_that_announce_much_and_send_little_shut_nobody_out() -> None:
    server = server_of(limits=ServerLimits(bytes_held_max=1_000_000))
    for _ in range(100):
        Peer(server).say(b"set a 0 0 1000000\r\nx")
    peer = Peer(server)

    assert server.bytes_held == 100
    assert peer.say(b"set b 0 0 500000\r\n" + b"x" * 500_000 + b"\r\n", piece_bytes=60_000) == b"STORED\r\n"
    assert server.bytes_held == 100


async def test_a_block_that_ends_wrongly_is_off_the_account_at_once() -> None:
    server = server_of()
    peer = Peer(server)
    peer.say(b"set a 0 0 3\r\non")

    assert peer.say(b"exx") == b"CLIENT_ERROR bad data chunk\r\n"
    assert server.bytes_held == 0


async def test_a_server_that_is_short_of_memory_still_says_how_it_is() -> None:
    server = server_of()
    peer = Peer(server)
    server.bytes_held = server.limits.bytes_held_max + 1
    busy = b"SERVER_ERROR busy\r\n"

    assert peer.say(b"get a\r\nget a b\r\nset a 0 0 1\r\nx\r\nmg a v s f A V H O1\r\nflush_all\r\n") == busy * 5
    assert peer.say(b"stats\r\n").endswith(b"END\r\n")
    assert peer.say(b"sfss identity\r\n").startswith(b"IDENTITY ")
    assert peer.say(b"verbosity 1\r\nmn\r\nversion\r\n") == b"OK\r\nMN\r\n" + VERSION
    peer.say(b"quit\r\n")
    assert peer.ended


async def test_what_a_lost_connection_held_is_released_and_its_writes_go_on() -> None:
    store = SlowStore()
    server = server_of(store)
    peer = Peer(server)
    peer.say(b"set a 0 0 3\r\none\r\nset b 0 0 300\r\nx")
    assert server.bytes_held == 3 + 1

    peer.abort()
    assert server.bytes_held == 0
    store.settle_all()
    await turn()

    assert peer.sent == b""
    assert MemoryStore.get(store, b"a") is not None
    assert MemoryStore.get(store, b"b") is None


async def test_a_half_closed_peer_gets_the_answers_it_is_owed() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    peer.say(b"get a\r\n")

    assert peer.connection.eof_received()
    store.settle_all()
    await turn()

    assert peer.sent == b"END\r\n"
    assert peer.closed


async def test_quit_is_obeyed_after_what_was_asked_before() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))
    peer.say(b"get a\r\nquit\r\nversion\r\n")

    assert not peer.ended
    store.settle_all()
    await turn()

    assert peer.sent == b"END\r\n"
    assert peer.ended


async def test_a_request_whose_deadline_passed_while_it_waited_is_not_executed() -> None:
    store = SlowStore()
    server = server_of(store)
    now = [100.0]
    server.service.monotonic = lambda: now[0]
    peer = Peer(server)
    # Ordered, so the second waits for the first; the deadline is counted on the real monotonic clock.
    peer.say(b"set a 0 0 1\r\nx\r\n")
    peer.say(b"ms a 1\r\ny\r\n")
    held = peer.connection._held
    assert held is not None
    held.call = Call(deadline=101.0)
    now[0] = 102.0
    store.settle_all()
    await turn()

    assert peer.sent == b"STORED\r\nSERVER_ERROR deadline expired\r\n"
    assert store.waiting == []


async def test_one_line_per_request_in_the_access_log_with_the_request_id(caplog: Any) -> None:
    caplog.set_level("INFO", "sfss.access")
    peer = Peer(server_of(access_log=True))

    peer.say(b"ms a 3 F0 A0 V H B U900 O1.req-7\r\none\r\nget a b\r\n")

    assert [record.getMessage().split(" ")[:2] for record in caplog.records] == [["ms", "a"], ["get", "-"]]
    assert caplog.records[0].request_id == "req-7"


async def test_a_reply_of_many_parts_that_failed_is_in_the_access_log_too(caplog: Any) -> None:
    caplog.set_level("INFO", "sfss.access")
    store = SlowStore()
    peer = Peer(server_of(store, access_log=True))
    peer.say(b"get a b c d e f\r\n")
    store.waiting[1][2](CorruptRecord("b"))
    store.waiting[0][2]()
    await turn()

    assert peer.sent == b"SERVER_ERROR corrupt\r\n"
    assert len(caplog.records) == 1
    assert "SERVER_ERROR" in caplog.text
