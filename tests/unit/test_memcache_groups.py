"""Groups on the wire: lines that belong together are one request to a server, and each of their keys has its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from memcache_peer import FIRST_VERSION as V
from memcache_peer import Clock, Peer, SlowStore, server_of

from sfss.errors import BadKey, Busy, ConnectionLost, CorruptRecord, Outcome, OutOfDisk, SfssError
from sfss.groups import GROUP_BYTES_MAX, GROUP_KEYS_MAX, GROUP_VALUE_BYTES_MAX, Item, LeftOut, each, mapped
from sfss.memcache.client import MemcacheClient
from sfss.memcache.commands.table import COMMANDS, LANES
from sfss.memcache.commands.words import REQUEST_ID_BYTES_MAX
from sfss.memcache.exchanges import MORE, Exchange
from sfss.memcache.group_exchanges import FetchGroup, Group, InspectGroup, PutGroup
from sfss.memcache.opaques import SEQUENCES
from sfss.memcache.replies import OutOfStep, ReplyParser
from sfss.memcache.requests import Request, RequestParser
from sfss.memcache.server import ServerLimits
from sfss.memcache.stamped import ApplyGroup, Stamped
from sfss.memory import MemoryStore
from sfss.promise import new_promise
from sfss.store import NO_CALL, Applied, Call, Record, Written, checksum_of, settled


class Grouped(MemoryStore):
    """A store that notes what it is asked for together."""

    def __init__(self) -> None:
        super().__init__(Clock())
        self.read: list[list[bytes]] = []
        self.written: list[list[bytes]] = []

    def get_many(self, keys: Sequence[bytes], call: Call = NO_CALL) -> Any:
        self.read.append(list(keys))
        return each(lambda key: self.get(key, call), keys)

    def set_many(self, items: Sequence[Item], call: Call = NO_CALL) -> Any:
        self.written.append([item.key for item in items])
        return each(lambda item: self.set(item.key, item.value, item.flags, item.expires, call), items)


class Faulty(MemoryStore):
    """A store in which one key is damaged, and another finds no room."""

    def get(self, key: bytes, call: Call = NO_CALL) -> Any:
        if key == b"damaged":
            raise CorruptRecord("planted")
        return super().get(key, call)

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Any:
        if key == b"no-room":
            raise OutOfDisk("planted")
        return super().set(key, value, flags, expires, call)


def ready(exchange: Exchange, opaque: bytes = b"9.id") -> Any:
    """An exchange as if sent."""
    exchange.opaque = opaque
    exchange.promise = new_promise()
    exchange.request(1000)
    return exchange


def fetches(*keys: bytes) -> Group:
    return FetchGroup(keys, True, False, NO_CALL)


def puts(*keys: bytes) -> PutGroup:
    return PutGroup([Item(key, b"value of " + key) for key in keys], NO_CALL)


def asked(exchange: Exchange) -> bytes:
    ready(exchange)
    request = exchange.request(1000)
    assert isinstance(request, bytes)
    return request


def taken(exchange: Exchange, reply: bytes, piece: int = 0) -> Any:
    replies = ReplyParser()
    result: Any = MORE
    for at in range(0, len(reply), piece or len(reply)):
        replies.feed(reply[at : at + (piece or len(reply))])
        result = exchange.take(replies)
    return result


# --- the server ---


async def test_the_lines_of_a_group_are_one_request_to_the_store() -> None:
    store = Grouped()
    peer = Peer(server_of(store))

    peer.say(asked(puts(b"a", b"b", b"c")) + asked(fetches(b"a", b"c", b"none")))

    assert store.written == [[b"a", b"b", b"c"]]
    assert store.read == [[b"a", b"c", b"none"]]


async def test_each_key_of_a_group_is_answered_as_alone() -> None:
    store = Faulty(Clock())
    store.set(b"a", b"1", 7)
    peer = Peer(server_of(store))
    keys = (b"a", b"damaged", b"none")

    together = peer.say(asked(fetches(*keys)))
    alone = [peer.say(b"mg %b v s f A V H U1000 O*9.id\r\n" % key) for key in keys]
    stored = peer.say(asked(puts(b"b", b"no-room", b"c")))

    assert together == b"".join(alone)
    assert together.count(b"SERVER_ERROR corrupt\r\n") == 1
    assert [line[:2] for line in stored.split(b"\r\n")] == [b"HD", b"SE", b"HD", b""]
    assert (store.records[b"b"].value, store.records[b"c"].value) == (b"value of b", b"value of c")


@pytest.mark.parametrize("piece", [1, 7, 64])
async def test_a_group_that_comes_in_pieces_is_answered_the_same(piece: int) -> None:
    whole, pieces = Peer(server_of(Grouped())), Peer(server_of(Grouped()))
    requests = asked(puts(b"a", b"b")) + asked(fetches(b"a", b"b", b"none"))

    assert pieces.say(requests, piece) == whole.say(requests)
    assert whole.sent.count(b" O*9.id\r\n") == 5


async def test_only_lines_of_one_opaque_and_one_kind_are_a_group() -> None:
    store = Grouped()
    peer = Peer(server_of(store))
    line = b"mg %b%b s f A V H O%b\r\n"

    peer.say(line % (b"a", b" v", b"*1") + line % (b"b", b" v", b"*2") + line % (b"c", b" v", b"*2"))
    peer.say(line % (b"d", b" v", b"*3") + line % (b"e", b"", b"*3"))
    peer.say(line % (b"f", b" v", b"4") + line % (b"g", b" v", b"4"))

    assert store.read == [[b"b", b"c"]]


@pytest.mark.parametrize(
    ("end", "other"),
    [(b" G5 U900", b" G6 U900"), (b" G5 U900", b" U900"), (b" U900", b""), (b" U900", b" U0"), (b"", b" U0")],
)
@pytest.mark.parametrize("form", [b"ms %b 1 F0 A0 V1 H%b B%b O*1\r\nv\r\n", b"mg %b%.0b s f A V H%b O*1\r\n"])
async def test_a_line_of_another_ring_or_deadline_is_not_carried_out_under_the_call_of_its_neighbour(
    form: bytes, end: bytes, other: bytes
) -> None:
    parser = RequestParser(COMMANDS, LANES)
    parser.feed(b"".join(form % (key, b"0" * 16, one) for key, one in ((b"a", end), (b"b", end), (b"c", other))))

    calls = {}
    while (request := parser.next()) is not None:
        assert isinstance(request, Request)
        keys = request.keys or [one.key for one in request.members]
        calls.update(dict.fromkeys(keys, request.call))

    assert calls[b"b"] is calls[b"a"]
    assert calls[b"c"].ring == (int(other[2:3]) if other.startswith(b" G") else 0)
    if other.endswith(b"U0"):
        assert calls[b"c"].deadline < calls[b"a"].deadline


@pytest.mark.parametrize("left", range(1, 8))
@pytest.mark.parametrize("stamp", [b" V1 H0000000000000001", b" V H"])
def test_the_first_line_of_a_group_is_compared_with_the_others_though_its_block_came_later(
    stamp: bytes, left: int
) -> None:
    parser = RequestParser(COMMANDS, LANES)
    first, same, other = (
        b"ms %b 4 F0 A0%b B%b O*1\r\nv Bv\r\n" % (key, stamp, end)
        for key, end in ((b"a", b" U900"), (b"b", b" U900"), (b"c", b" U0"))
    )
    parser.feed(first[:-left])
    assert parser.next() is None
    parser.feed(first[-left:] + same + other)

    request, last = parser.next(), parser.next()

    assert isinstance(request, Request)
    assert [(one.key, one.value) for one in request.more or []] == [(b"b", b"v Bv")]
    assert request.more[0].call is request.call
    assert isinstance(last, Request)
    assert (last.key, last.more) == (b"c", None)
    assert last.call.deadline < request.call.deadline


_KEYS = (b"a", b"b", b"gone", b"none", b"?a", b"@", b"k" * 250, b"k" * 251, b"\x7f", b"a\x00", b"")
_ENDS = (
    b" v s f A V H Y U900 O*1\r\n",
    b" v s f A V H Y U900 O*2\r\n",
    b" s f A V H Y U900 O*1\r\n",
    b" v s f A V H U900 O*1\r\n",
    b" v s f A V H Y U900 O*1\n",
    b" v s f A V H Y O*1 U900\r\n",
    b"  v s f A V H Y U900 O*1\r\n",
    b" v s f A V H Y U900 O*1",
    b" v s f A V H Y G0 U900 O*1\r\n",
)


@pytest.mark.parametrize("seed", range(20))
async def test_lines_that_are_nearly_a_group_are_answered_as_if_each_came_alone(seed: int) -> None:
    random = Random(seed)
    answers = []
    lines = [b"mg " + _often(random, _KEYS) + _often(random, _ENDS) for _ in range(100)]
    for alone in (False, True):
        store = MemoryStore(Clock())
        store.apply(b"a", record_of(b"a", b"1"))
        store.apply(b"b", record_of(b"b", b"22"))
        store.apply(b"gone", record_of(b"gone", b"", True))
        server = server_of(store)
        server.access_log = alone
        answers.append((Peer(server).say(b"".join(lines)), server.service.counters))

    assert answers[0] == answers[1]
    assert answers[0][0].count(b"VA ") > 10


def _often(random: Random, choices: tuple[bytes, ...]) -> bytes:
    """One of them, and the first most of the time."""
    return choices[0] if random.random() < 0.7 else random.choice(choices)


def record_of(key: bytes, value: bytes, tombstone: bool = False) -> Record:
    return Record(value, len(value), 0, 0, V, checksum_of(key, value, 0, 0, V, tombstone), tombstone)


async def test_a_write_that_others_may_write_too_is_in_no_group_with_one_that_only_we_write() -> None:
    store = Grouped()

    Peer(server_of(store)).say(
        b"".join(b"ms %b 1 F0 A0 V H B%b O*1\r\nv\r\n" % one for one in ((b"a", b""), (b"b", b" Q")))
    )

    assert store.written == []


async def test_a_group_has_a_limit() -> None:
    store = Grouped()

    Peer(server_of(store)).say(asked(fetches(*(b"%d" % number for number in range(GROUP_KEYS_MAX + 3)))))

    assert [len(keys) for keys in store.read] == [GROUP_KEYS_MAX, 3]


async def test_records_of_a_node_are_read_and_written_in_groups() -> None:
    peer = Peer(server_of(MemoryStore(Clock())))
    record = Record(b"v", 1, version=V, checksum=checksum_of(b"a", b"v", 0, 0, V, False))
    wrong = Record(b"v", 1, version=V, checksum=1)
    applies = ApplyGroup([Stamped(b"a", record), Stamped(b"b", wrong), Stamped(b"a", record)], NO_CALL)

    applied = taken(ready(applies), peer.say(asked(applies)))
    inspected = FetchGroup([b"a", b"b"], False, True, NO_CALL)
    found = taken(ready(inspected), peer.say(asked(inspected)))

    assert applied[0] == applied[2] == Applied(True, V, record.checksum, False)
    assert isinstance(applied[1], SfssError)
    assert found == [record.replaced(value=b""), None]


async def test_what_is_too_large_for_a_group_is_left_out_of_it() -> None:
    store = MemoryStore(Clock())
    store.set(b"small", b"s" * GROUP_VALUE_BYTES_MAX)
    store.set(b"large", b"l" * (GROUP_VALUE_BYTES_MAX + 1))
    server = server_of(store)
    group = fetches(b"large", b"small")

    found = taken(ready(group), Peer(server).say(asked(group)))

    assert isinstance(found[0], Busy)
    assert found[1].value == b"s" * GROUP_VALUE_BYTES_MAX
    assert server.service.counters.errors == 0


async def test_what_is_too_large_for_a_group_is_left_out_of_it_also_where_the_server_gave_it() -> None:
    size = GROUP_VALUE_BYTES_MAX + 1
    value = bytes(size)
    checksum = checksum_of(b"large", value, 0, 0, 5, False)
    reply = b"VA %d s%d f0 A0 V5 H%016x O*9.id\r\n%b\r\nEN O*9.id\r\n" % (size, size, checksum, value)

    large, none = taken(ready(fetches(b"large", b"none")), reply)

    assert isinstance(large, LeftOut)
    assert none is None


async def test_a_refusal_of_a_whole_group_is_told_for_each_key() -> None:
    server = server_of(limits=ServerLimits(bytes_held_max=10))
    server.bytes_held = 11
    group = fetches(b"a", b"b")

    assert Peer(server).say(asked(group)) == b"SERVER_ERROR busy\r\n" * 2


async def test_a_group_that_is_under_way_holds_back_what_must_come_after_it() -> None:
    store = SlowStore()
    peer = Peer(server_of(store))

    peer.say(asked(puts(b"a", b"b")) + b"get b\r\n")
    assert [name for name, _, _ in store.waiting] == ["set", "set"]

    store.settle_all()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.settle_all()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert peer.sent.endswith(b"VALUE b 0 10\r\nvalue of b\r\nEND\r\n")


# --- the client ---


@pytest.mark.parametrize("piece", [0, 1, 5])
async def test_answers_of_a_group_are_taken_in_their_order(piece: int) -> None:
    checksum = checksum_of(b"a", b"v", 0, 0, 5, False)
    reply = b"EN O*9.id\r\nVA 1 s1 f0 A0 V5 H%016x O*9.id\r\nv\r\nSERVER_ERROR corrupt\r\n" % checksum

    found = taken(ready(fetches(b"none", b"a", b"b")), reply, piece)

    assert found[:2] == [None, Record(b"v", 1, version=5, checksum=checksum)]
    assert isinstance(found[2], CorruptRecord)


@pytest.mark.parametrize("piece", [0, 1, 7])
async def test_a_version_is_told_in_the_words_that_come_with_the_record(piece: int) -> None:
    checksum = checksum_of(b"a", b"v", 0, 0, 5, False)
    words = b"s1 f0 A0 V5 H%016x" % checksum
    others = b"EN O*9.id\r\nHD s0 f0 A0 V6 H%016x Yt O*9.id\r\nSERVER_ERROR corrupt\r\n" % 7

    (record,) = taken(ready(FetchGroup([b"a"], True, True, NO_CALL)), b"VA 1 " + words + b" Yv O*9.id\r\nv\r\n", piece)
    told = taken(
        ready(InspectGroup([b"b", b"c", b"d", b"a"], NO_CALL)), others + b"HD " + words + b" Yv O*9.id\r\n", piece
    )

    assert told[0] is None
    assert told[1] == Record(b"", 0, version=6, checksum=7, tombstone=True)
    assert isinstance(told[2], CorruptRecord)
    assert told[3] == record.words == b" " + words


@pytest.mark.parametrize("piece", [0, 1, 7])
async def test_versions_that_are_all_told_in_words_are_taken_and_nothing_else(piece: int) -> None:
    words = [b" s%d f0 A0 V5 H%016x" % (size, size) for size in (1, 4096, 20)]
    replies, inspected = ReplyParser(), ready(InspectGroup([b"a", b"b", b"c"], NO_CALL))
    lines = b"".join(b"HD%b Yv O*9.id\r\n" % one for one in words)
    result: Any = MORE

    for at in range(0, len(lines), piece or len(lines)):
        replies.feed(lines[at : at + (piece or len(lines))] + (b"" if piece else b"HD of the next\r\n"))
        result = inspected.take(replies)

    assert result == words
    assert replies.line() == (None if piece else b"HD of the next")


@pytest.mark.parametrize(
    "odd",
    [
        b"HD s1 f0 A0 V5 H%016x Yv O*8.id\r\n" % 7,
        b"HD s1 f0 A0 V5 H%016x O*9.id\r\n" % 7,
        b"HD Yv O*9.id\r\n",
        b"VA 1 s1 f0 A0 V5 H%016x Yv O*9.id\r\nv\r\n" % 7,
    ],
)
async def test_a_line_that_is_no_version_is_found_between_those_that_are(odd: bytes) -> None:
    line = b"HD s1 f0 A0 V5 H%016x Yv O*9.id\r\n" % 7

    with pytest.raises(OutOfStep):
        taken(ready(InspectGroup([b"a", b"b", b"c"], NO_CALL)), line + odd + line)


@pytest.mark.parametrize(
    "odd",
    [
        b"VA 2 s3 f0 A0 V5 H%016x O*9.id\r\nvv\r\n" % 0,
        b"VA 1 s1 f0 A0 V5 H%016x Yv O*9.id\r\nv\r\n" % 0,
        b"VA 1 s1 f0 A0 V5 H%016x O*9.id\r\nvvv\r\n" % 0,
        b"HD s1 f0 A0 V5 H%016x O*9.id\r\n" % 0,
    ],
)
async def test_a_line_that_is_no_file_as_asked_for_is_found_between_those_that_are(odd: bytes) -> None:
    line = b"VA 1 s1 f0 A0 V5 H%016x O*9.id\r\nv\r\n" % 0

    with pytest.raises(OutOfStep):
        taken(ready(fetches(b"a", b"b", b"c")), line + odd + line)


@pytest.mark.parametrize("piece", [0, 1, 7])
async def test_of_a_group_that_is_written_each_has_its_outcome(piece: int) -> None:
    lines = b"HD V5 H%016x B2/3 O*9.id\r\nSERVER_ERROR out of disk\r\nHD V6 H%016x B3/3 O*9.id\r\n" % (1, 2)

    first, refused, second = taken(ready(puts(b"a", b"b", b"c")), lines, piece)

    assert (first, second) == (Written(5, 1, 2, 3), Written(6, 2, 3, 3))
    assert first.words == b"5 H%016x" % 1
    assert isinstance(refused, SfssError)
    with pytest.raises(OutOfStep):
        taken(ready(puts(b"a")), b"HD V5 H%016x B2/3 O*8.id\r\n" % 1, piece)


@pytest.mark.parametrize("odd", [b"", b"a b", b"a\r\nflush_all", b"k" * 251])
async def test_a_group_with_what_is_no_key_is_not_sent(odd: bytes) -> None:
    client = MemcacheClient("127.0.0.1", 1)

    for ask in (
        lambda: client.get_many([b"a", odd]),
        lambda: client.read_many([b"a", odd], True),
        lambda: client.read_many([b"a", odd], False),
        lambda: client.set_many([Item(b"a", b""), Item(odd, b"")]),
    ):
        with pytest.raises(BadKey):
            ask()
    assert client.in_flight == 0


async def test_an_answer_of_another_group_is_out_of_step() -> None:
    with pytest.raises(OutOfStep):
        taken(ready(InspectGroup([b"a"], NO_CALL)), b"HD s1 f0 A0 V5 H%016x Yv O*8.id\r\n" % 7)
    with pytest.raises(OutOfStep):
        taken(ready(fetches(b"a", b"b")), b"EN O*9.id\r\nEN O*8.id\r\n")


async def test_what_a_lost_connection_had_answered_stays_answered() -> None:
    group = ready(puts(b"a", b"b"))
    group.sent = True
    taken(group, b"HD V5 H%016x B2/3 O*9.id\r\nHD V6" % 1)

    group.fail(ConnectionLost("planted", group.outcome))

    written, lost = group.promise.result()
    assert written == Written(5, 1, 2, 3)
    assert isinstance(lost, ConnectionLost)
    assert lost.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("piece", [0, 1, 40])
async def test_a_node_that_took_a_group_answers_in_the_words_of_its_lines(piece: int) -> None:
    keys = (b"a", b"b", b"c")
    records = [Record(b"v", 1, version=5, checksum=checksum_of(key, b"v", 0, 0, 5, False)) for key in keys]
    group = ApplyGroup([Stamped(key, record) for key, record in zip(keys, records, strict=True)], NO_CALL)
    lines = [b"HD V5 H%016x B1/1 O*9.id\r\n" % record.checksum for record in records]

    applied = taken(ready(group), b"".join(lines), piece)
    lines[1] = b"NS V6 H%016x B1/1 O*9.id\r\n" % 1
    refused = taken(ready(group), b"".join(lines), piece)

    assert applied == [Applied(True, 5, record.checksum, True) for record in records]
    assert refused == [applied[0], Applied(False, 6, 1, True), applied[2]]


async def test_a_refusal_of_a_repeated_group_leaves_its_writes_unknown() -> None:
    group = ApplyGroup([Stamped(b"a", Record(b"v", 1, version=5, checksum=7))], NO_CALL)
    group.repeated = True

    (refused,) = taken(ready(group), b"NS V6 H%016x B1/1 O*9.id\r\n" % 1)

    assert refused.outcome is Outcome.UNKNOWN


async def test_a_group_that_is_sent_once_more_is_read_anew() -> None:
    group = ready(fetches(b"a", b"b"))
    taken(group, b"EN O*9.id\r\nVA 1 s")

    ready(group, b"10")

    assert taken(group, b"EN O*10\r\nEN O*10\r\n") == [None, None]


def test_the_opaque_of_a_group_fits_with_the_longest_request_id() -> None:
    assert len(b"*%d." % (SEQUENCES - 1)) + REQUEST_ID_BYTES_MAX == 32


# --- many answers as one ---


async def test_answers_that_come_later_keep_their_places() -> None:
    first, last = new_promise(), new_promise()
    reply = each({b"a": first, b"b": 2, b"c": last}.get, [b"a", b"b", b"c"])

    last.set_exception(Busy("planted"))
    first.set_result(1)

    outcomes = await settled(mapped(reply, lambda told: told[::-1]))
    assert isinstance(outcomes[0], Busy)
    assert outcomes[1:] == [2, 1]


async def test_no_more_is_read_for_a_group_than_a_reply_may_hold() -> None:
    large = Record(bytes(GROUP_BYTES_MAX), GROUP_BYTES_MAX)
    read: list[int] = []

    outcomes = each(lambda number: read.append(number) or large, range(5))

    assert len(read) == 2
    assert [isinstance(outcome, LeftOut) for outcome in await settled(outcomes)] == [True] * 5
