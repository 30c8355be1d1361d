"""Replies as the client reads them, whole and in pieces; and every one that is another's is caught."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memcache_peer import Clock, Peer, server_of

from sfss.errors import (
    BadKey,
    BadRequest,
    Busy,
    CorruptRecord,
    Expired,
    Outcome,
    OutOfDisk,
    QuorumUnavailable,
    Recovering,
    RemoteError,
    SfssError,
    StaleRing,
    TooLarge,
    Unreachable,
    Unsupported,
    WrongCluster,
)
from sfss.memcache.answers import COPIED_BYTES_MAX
from sfss.memcache.classic_exchanges import ClassicDelete, ClassicGet, ClassicSet
from sfss.memcache.commands import own_forms
from sfss.memcache.commands.table import COMMANDS, LANES
from sfss.memcache.errors import error_line, error_of
from sfss.memcache.exchanges import MORE, AskIdentity, AskStats, Exchange, Fetch, Put, Remove
from sfss.memcache.replies import OutOfStep, ReplyParser
from sfss.memcache.requests import Request, RequestParser
from sfss.memcache.ring_exchanges import AskRing, ChangeRing, DropPartition, PrepareRing
from sfss.memcache.sighting_exchange import TellSightings
from sfss.memcache.stamped import Apply, Stamped
from sfss.memory import MemoryStore
from sfss.promise import new_promise
from sfss.ring_keeper import Accepted, HeldRing, Nack, Promised
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.store import KEY_BYTES_MAX, Applied, Call, Identity, Record, Seen, Written, checksum_of

KEY = b"folder/file"
VALUE = b"line\r\nEND\r\nVA 3\r\n"
SUM = checksum_of(KEY, VALUE, 5, 60, 77, False)
HEADER = b"VA %d s%d f5 A60 V77 H%016x" % (len(VALUE), len(VALUE), SUM)
SUM_GONE = checksum_of(KEY, b"", 0, 0, 78, True)


class Caller:
    """The promise's part that exchanges look at."""

    def __init__(self, left: bool = False) -> None:
        self.left = left

    def done(self) -> bool:
        return self.left


def ready(exchange: Exchange, opaque: bytes = b"9", left: bool = False) -> Any:
    """An exchange as if sent."""
    exchange.opaque = opaque
    exchange.promise = Caller(left)  # type: ignore[assignment]
    exchange.request(1000)
    return exchange


def taken(exchange: Exchange, data: bytes, piece_bytes: int = 0) -> tuple[Any, int]:
    """What the exchange makes of a reply that arrives in pieces; and how many bytes are left."""
    parser = ReplyParser()
    result: Any = MORE
    for at in range(0, len(data), piece_bytes or len(data)):
        parser.feed(data[at : at + (piece_bytes or len(data))])
        if result is MORE:
            result = exchange.take(parser)
    return result, parser.waiting


READ = lambda: Fetch(KEY, True, True, Call())  # noqa: E731
GET = lambda: Fetch(KEY, True, False, Call())  # noqa: E731
HEAD = lambda: Fetch(KEY, False, False, Call())  # noqa: E731
INSPECT = lambda: Fetch(KEY, False, True, Call())  # noqa: E731
RECORD = Record(VALUE, len(VALUE), 5, 60, 77, SUM)
APPLY = lambda: Apply(Stamped(KEY, RECORD), Call())  # noqa: E731
PUT = lambda: Put(KEY, VALUE, 5, 60, Call())  # noqa: E731
REMOVE = lambda: Remove(KEY, Call())  # noqa: E731
CLASSIC_GET = lambda: ClassicGet(KEY, True)  # noqa: E731
OTHERS = tuple(Placement((RingMember(f"{node:032x}", f"n{node}:1"),), 1, 1, 1, 1) for node in (1, 2))
JOINT = RingRecord(2, 64, OTHERS)
LINE, FINGERPRINT = JOINT.encode(), JOINT.fingerprint.encode()
TELL_RING = lambda: AskRing(b"sfss ring", (b"RING",))  # noqa: E731
PREPARE = lambda: PrepareRing(b"sfss ring prepare 2 5", (b"PROMISE", b"NACK", b"RING"))  # noqa: E731
ACCEPT = lambda: ChangeRing(b"sfss ring accept 2 5", (b"ACCEPTED", b"NACK", b"RING"), LINE)  # noqa: E731
DROP = lambda: DropPartition(3, 40)  # noqa: E731

REPLIES: list[tuple[Any, bytes, Any]] = [
    (READ, HEADER + b" Yv O9\r\n" + VALUE + b"\r\n", RECORD),
    (READ, b"HD s0 f0 A0 V78 H%016x Yt O9\r\n" % SUM_GONE, Record(b"", 0, 0, 0, 78, SUM_GONE, True)),
    (READ, b"EN O9\r\n", None),
    (INSPECT, b"HD s14 f5 A60 V77 H%016x Yv O9\r\n" % SUM, Record(b"", 14, 5, 60, 77, SUM)),
    (GET, HEADER + b" O9\r\n" + VALUE + b"\r\n", RECORD),
    (GET, b"VA 0 s0 f0 A0 V0 H0000000000000000 O9\r\n\r\n", Record(b"", 0)),
    (GET, b"EN O9\r\n", None),
    (HEAD, b"HD s3 f0 A0 V7 H00000000000000ff O9\r\n", Record(b"", 3, 0, 0, 7, 255)),
    (APPLY, b"HD V77 H%016x B1/1 O9\r\n" % SUM, Applied(True, 77, SUM, True)),
    (APPLY, b"HD V77 H%016x B0/1 O9\r\n" % SUM, Applied(True, 77, SUM, False)),
    (APPLY, b"NS V79 H00000000000000ff B1/1 O9\r\n", Applied(False, 79, 255, True)),
    (PUT, b"HD V77 H%016x B2/3 O9\r\n" % SUM, Written(77, SUM, 2, 3)),
    (REMOVE, b"HD V77 H%016x B3/3 O9\r\n" % SUM, Written(77, SUM, 3, 3)),
    (REMOVE, b"NF O9\r\n", None),
    (
        lambda: AskStats(""),
        b"STAT a 1\r\nSTAT b two words\r\nSTAT c \r\nEND\r\n",
        {"a": "1", "b": "two words", "c": ""},
    ),
    (
        lambda: AskIdentity(b"sfss identity\r\n"),
        b"IDENTITY n1 c1 3 f-1 4 500 suspect\r\n",
        Identity("n1", "c1", 3, "f-1", 4, 500, "suspect"),
    ),
    (lambda: AskIdentity(b"sfss identity\r\n"), b"IDENTITY n1 - 0 - 1 0 ok\r\n", Identity("n1", epoch=1)),
    (lambda: TellSightings(()), b"WITNESS 0\r\n\r\n", ()),
    (lambda: TellSightings(()), b"WITNESS 13\r\nn1 7 w 5 a:1\n\r\n", (Seen("n1", 7, "w", 5, "a:1"),)),
    (
        lambda: AskIdentity(b"sfss recall n1 1 word 5\r\n"),
        b"IDENTITY n1 - 0 - 1 5 ok word\r\n",
        Identity("n1", epoch=1, position=5, start="word"),
    ),
    (TELL_RING, b"RING 0 - 0\r\n\r\n", HeldRing(0, "")),
    (TELL_RING, b"RING 1 f1 0\r\n\r\n", HeldRing(1, "f1")),
    (TELL_RING, b"RING 2 %b %d\r\n%b\r\n" % (FINGERPRINT, len(LINE), LINE), HeldRing.of(JOINT)),
    (PREPARE, b"PROMISE 0 0\r\n\r\n", Promised()),
    (PREPARE, b"PROMISE 7 %d\r\n%b\r\n" % (len(LINE), LINE), Promised(7, JOINT)),
    (PREPARE, b"NACK 9223372036854775807\r\n", Nack(2**63 - 1)),
    (PREPARE, b"RING 2 %b %d\r\n%b\r\n" % (FINGERPRINT, len(LINE), LINE), HeldRing.of(JOINT)),
    (ACCEPT, b"ACCEPTED\r\n", Accepted()),
    (ACCEPT, b"NACK 9\r\n", Nack(9)),
    (DROP, b"DROPPED 17\r\n", 17),
    (CLASSIC_GET, b"VALUE folder/file 5 17\r\n" + VALUE + b"\r\nEND\r\n", Record(VALUE, 17, 5)),
    (CLASSIC_GET, b"VALUE folder/file 5 17 99\r\n" + VALUE + b"\r\nEND\r\n", Record(VALUE, 17, 5)),
    (CLASSIC_GET, b"END\r\n", None),
    (lambda: ClassicGet(KEY, False), b"VALUE folder/file 5 17\r\n" + VALUE + b"\r\nEND\r\n", Record(b"", 17, 5)),
    (lambda: ClassicSet(KEY, VALUE, 0, 0), b"STORED\r\n", Written()),
    (lambda: ClassicDelete(KEY), b"DELETED\r\n", Written()),
    (lambda: ClassicDelete(KEY), b"NOT_FOUND\r\n", None),
]


@pytest.mark.parametrize("piece_bytes", [0, 1, 5])
@pytest.mark.parametrize(("make", "reply", "result"), REPLIES)
def test_a_reply_is_read_in_whatever_pieces_it_arrives(make: Any, reply: bytes, result: Any, piece_bytes: int) -> None:
    assert taken(ready(make()), reply, piece_bytes) == (result, 0)


@pytest.mark.parametrize(("make", "reply", "result"), REPLIES)
def test_what_follows_a_reply_is_left_for_the_next_request(make: Any, reply: bytes, result: Any) -> None:
    assert taken(ready(make()), reply + b"EN O10\r\n") == (result, 8)


@pytest.mark.parametrize(("make", "reply", "result"), REPLIES)
def test_no_beginning_of_a_reply_is_taken_for_all_of_it(make: Any, reply: bytes, result: Any) -> None:
    for end in range(1, len(reply)):
        assert taken(ready(make()), reply[:end])[0] is MORE, reply[:end]


@pytest.mark.parametrize("piece_bytes", [0, 1])
@pytest.mark.parametrize(("make", "reply", "result"), REPLIES)
def test_the_reply_of_a_caller_who_left_is_read_to_its_end(
    make: Any, reply: bytes, result: Any, piece_bytes: int
) -> None:
    taken_, left = taken(ready(make(), left=True), reply, piece_bytes)

    assert taken_ is not MORE
    assert left == 0


NOT_ITS_OWN: list[tuple[Any, bytes]] = [
    (READ, HEADER + b" Yv O8\r\n"),
    (READ, HEADER + b" Yv\r\n"),
    (READ, HEADER + b" Yv O9.x\r\n"),
    (READ, b"EN O8\r\n"),
    (READ, b"EN\r\n"),
    (READ, b"HD V77 H%016x B1/1 O9\r\n" % SUM),
    (READ, b"HD s0 f0 A0 V78 H%016x O9\r\n" % SUM_GONE),
    (READ, b"HD s5 f0 A0 V78 H%016x Yv O9\r\n" % SUM_GONE),
    (READ, b"NF O9\r\n"),
    (READ, b"STORED\r\n"),
    (READ, b"VALUE folder/file 0 3\r\n"),
    (READ, b"VA 3 s4 f5 A60 V77 H00000000000000ff Yv O9\r\nabc\r\n"),
    (READ, b"VA 3 s3 f5 A60 V77 H00000000000000ff Yv O9\r\nabcd\r\n"),
    (READ, b"VA 99999999 s99999999 f5 A60 V77 H00000000000000ff Yv O9\r\n"),
    (READ, b"x" * 2100),
    (READ, b"\r\n"),
    (GET, HEADER + b" Yv O9\r\n" + VALUE + b"\r\n"),
    (HEAD, HEADER + b" O9\r\n" + VALUE + b"\r\n"),
    (APPLY, b"HD V77 H%016x B1/1 O8\r\n" % SUM),
    (APPLY, b"HD V77 H%016x B1/1\r\n" % SUM),
    (APPLY, b"NF O9\r\n"),
    (APPLY, HEADER + b" Yv O9\r\n"),
    (PUT, b"NS V77 H%016x B1/1 O9\r\n" % SUM),
    (PUT, b"EN O9\r\n"),
    (REMOVE, b"NF O8\r\n"),
    (REMOVE, b"NF\r\n"),
    (CLASSIC_GET, b"VALUE other 5 3\r\nabc\r\nEND\r\n"),
    (CLASSIC_GET, b"VALUE folder/file 5 3\r\nabc\r\nVALUE folder/file 5 3\r\n"),
    (CLASSIC_GET, b"STORED\r\n"),
    (lambda: ClassicSet(KEY, VALUE, 0, 0), b"END\r\n"),
    (lambda: ClassicSet(KEY, VALUE, 0, 0), b"NOT_STORED\r\n"),
    (lambda: ClassicDelete(KEY), b"STORED\r\n"),
    (lambda: AskStats(""), b"STAT a 1\r\nSTORED\r\n"),
    (lambda: AskIdentity(b"sfss identity\r\n"), b"IDENTITY n1 c1 x - 1 0 ok\r\n"),
    (lambda: TellSightings(()), b"WITNESS x\r\n"),
    (lambda: TellSightings(()), b"WITNESS 9999999999\r\n"),
    (lambda: TellSightings(()), b"WITNESS 500000\r\n"),
    (lambda: AskIdentity(b"sfss identity\r\n"), b"IDENTITY n1\r\n"),
    (TELL_RING, b"PROMISE 0 0\r\n\r\n"),
    (TELL_RING, b"RING 2 %b 0\r\n" % FINGERPRINT + b"x"),
    (TELL_RING, b"RING 3 %b %d\r\n%b\r\n" % (FINGERPRINT, len(LINE), LINE)),
    (TELL_RING, b"RING 2 f1 %d\r\n%b\r\n" % (len(LINE), LINE)),
    (TELL_RING, b"RING 2 f1 300000\r\n"),
    (TELL_RING, b"RING x f1 0\r\n\r\n"),
    (PREPARE, b"ACCEPTED\r\n"),
    (PREPARE, b"NACK\r\n"),
    (PREPARE, b"PROMISE 0\r\n"),
    (ACCEPT, b"PROMISE 0 0\r\n\r\n"),
    (ACCEPT, b"ACCEPTED 1\r\n"),
    (DROP, b"DROPPED\r\n"),
    (DROP, b"DROPPED x\r\n"),
]


@pytest.mark.parametrize("piece_bytes", [0, 1])
@pytest.mark.parametrize(("make", "reply"), NOT_ITS_OWN)
def test_a_reply_that_isnt_its_own_is_out_of_step(make: Any, reply: bytes, piece_bytes: int) -> None:
    with pytest.raises(OutOfStep):
        taken(ready(make()), reply, piece_bytes)


def test_another_keys_record_with_the_right_opaque_is_caught_by_its_checksum() -> None:
    checksum = checksum_of(b"another/key", VALUE, 5, 60, 77, False)
    reply = b"VA %d s%d f5 A60 V77 H%016x Yv O9\r\n%b\r\n" % (len(VALUE), len(VALUE), checksum, VALUE)

    with pytest.raises(CorruptRecord):
        taken(ready(READ()), reply)


ERRORS: list[tuple[SfssError, Outcome]] = [
    (TooLarge("object too large for cache"), Outcome.NOT_APPLIED),
    (CorruptRecord("corrupt"), Outcome.NOT_APPLIED),
    (Recovering("recovering"), Outcome.NOT_APPLIED),
    (OutOfDisk("out of disk"), Outcome.NOT_APPLIED),
    (Busy("busy"), Outcome.NOT_APPLIED),
    (Expired("deadline expired"), Outcome.NOT_APPLIED),
    (QuorumUnavailable("1 of 2", Outcome.UNKNOWN), Outcome.UNKNOWN),
    (QuorumUnavailable("1 of 2", Outcome.NOT_APPLIED), Outcome.NOT_APPLIED),
    (Unreachable("no node"), Outcome.NOT_APPLIED),
    (Unsupported("incr needs consensus"), Outcome.NOT_APPLIED),
    (StaleRing(4), Outcome.NOT_APPLIED),
    (WrongCluster("c1 is not c2"), Outcome.NOT_APPLIED),
    (BadKey("empty key"), Outcome.NOT_APPLIED),
    (BadRequest("bad data chunk"), Outcome.NOT_APPLIED),
]


@pytest.mark.parametrize(("error", "outcome"), ERRORS)
def test_an_error_survives_the_wire_with_its_class_its_words_and_its_outcome(
    error: SfssError, outcome: Outcome
) -> None:
    line = error_line(error)

    assert line.endswith(b"\r\n")
    again = error_of(line[:-2])

    assert (type(again), str(again), again.outcome) == (type(error), str(error), outcome)


def test_an_outcome_that_is_open_is_never_lost_on_the_wire() -> None:
    for kind in (Busy, Expired, Recovering, Unreachable, RemoteError):
        assert error_of(error_line(kind("why", Outcome.UNKNOWN))[:-2]).outcome is Outcome.UNKNOWN


def test_a_line_that_is_none_of_ours_is_a_remote_error_of_unknown_outcome() -> None:
    error = error_of(b"SERVER_ERROR out of memory storing object")

    assert isinstance(error, RemoteError)
    assert error.outcome is Outcome.UNKNOWN


def test_a_message_cant_begin_a_line_of_its_own() -> None:
    line = error_line(BadRequest("a\r\nSTORED\r\n" + "x" * 1000))

    assert line.count(b"\r\n") == 1
    assert len(line) < 500


keys = st.binary(min_size=1, max_size=KEY_BYTES_MAX).map(lambda raw: re.sub(rb"[\x00-\x20\x7f?@]", b"x", raw))
opaques = st.from_regex(rb"[0-9]{1,7}(\.[A-Za-z0-9_-]{1,24})?", fullmatch=True)


@given(
    key=keys,
    value=st.binary(max_size=300),
    flags=st.integers(0, 2**32 - 1),
    expires=st.integers(0, 2**35),
    version=st.integers(1, 2**60),
    tombstone=st.booleans(),
    opaque=opaques,
    piece_bytes=st.integers(1, 60),
)
def test_any_record_comes_through_a_server_as_it_is(
    key: bytes,
    value: bytes,
    flags: int,
    expires: int,
    version: int,
    tombstone: bool,
    opaque: bytes,
    piece_bytes: int,
) -> None:
    if tombstone:
        value, flags = b"", 0
    record = Record(
        value,
        len(value),
        flags,
        expires,
        version,
        checksum_of(key, value, flags, expires, version, tombstone),
        tombstone,
    )
    peer = Peer(server_of(MemoryStore(Clock(2.0**40))))
    apply, read = ready(Apply(Stamped(key, record), Call()), opaque), ready(Fetch(key, True, True, Call()), opaque)

    applied, _ = taken(apply, peer.say(joined(apply.request(900)), piece_bytes), piece_bytes)
    held, left = taken(read, peer.say(joined(read.request(900)), piece_bytes), piece_bytes)

    assert applied == Applied(True, version, record.checksum, False)
    assert (held, left) == (record, 0)


@pytest.mark.parametrize("size", [0, 3, COPIED_BYTES_MAX + 1])
def test_servers_that_get_the_same_record_are_told_it_in_the_same_words(size: int) -> None:
    value = b"v" * size
    told = b"F5 A60 V77 H%016x B" % SUM
    stamped = Stamped(KEY, Record(value, size, 5, 60, 77, SUM))
    gone = Stamped(KEY, Record(b"", 0, 0, 60, 78, 9, True))

    for opaque, ring in ((b"1", 0), (b"2.id", 7), (b"3", 8)):
        asked = b" G%d" % ring if ring else b""
        first, second = (ready(Apply(one, Call(ring=ring)), opaque).request(900) for one in (stamped, gone))

        assert joined(first) == b"ms %b %d %b%b U900 O%b\r\n%b\r\n" % (KEY, size, told, asked, opaque, value)
        assert joined(second) == b"md %b A60 V78 H%016x B%b U900 O%b\r\n" % (KEY, 9, asked, opaque)


def joined(request: Any) -> bytes:
    return request if isinstance(request, bytes) else b"".join(request)


@given(
    key=keys,
    opaque=opaques,
    ring=st.integers(0, 10**6),
    raw=st.booleans(),
    value=st.booleans(),
    seed=st.randoms(use_true_random=False),
)
def test_the_short_way_and_the_long_way_answer_alike(
    key: bytes, opaque: bytes, ring: int, raw: bool, value: bool, seed: Any
) -> None:
    server = server_of()
    peer = Peer(server)
    store: Any = server.service.store
    store.set(key, b"value", 3, 2**34)
    flags = [b"v"] * value + [b"s", b"f", b"A", b"V", b"H"] + [b"Y"] * raw
    short = b"mg %b %b U900 O%b\r\n" % (key, b" ".join(flags), opaque)
    assert parsed_by(LANES, short).command in (own_forms.GET, own_forms.READ)
    shuffled = seed.sample(flags, len(flags))
    long = b"mg %b O%b %b\r\n" % (key, opaque, b" ".join(shuffled))

    one, two = peer.say(short), peer.say(long)

    assert sorted(one.partition(b"\r\n")[0].split()) == sorted(two.partition(b"\r\n")[0].split())
    assert one.partition(b"\r\n")[2] == two.partition(b"\r\n")[2]


def parsed_by(lanes: Any, line: bytes) -> Any:
    parser = RequestParser(COMMANDS, lanes)
    parser.feed(line)
    return parser.next()


@given(
    line=st.one_of(
        st.builds(lambda key: b"get %b\r\n" % key, keys),
        st.builds(
            lambda key, flags, exptime, value, end: (
                b"set %b %b %b %d%b\r\n%b\r\n" % (key, flags, exptime, len(value), end, value)
            ),
            keys,
            st.from_regex(rb"-?[0-9]{1,11}", fullmatch=True),
            st.from_regex(rb"-?[0-9]{1,11}", fullmatch=True),
            st.binary(max_size=20),
            st.sampled_from([b"", b" noreply"]),
        ),
    )
)
def test_a_line_taken_the_short_way_is_the_same_request(line: bytes) -> None:
    short, long = parsed_by(LANES, line), parsed_by({}, line)

    assert type(short) is type(long)
    if isinstance(short, Request):
        assert (short.command.name, short.key, short.value, short.noreply) == (
            long.command.name,
            long.key,
            long.value,
            long.noreply,
        )
        if short.command.name == b"set":
            assert short.arguments == long.arguments
    else:
        assert short == long


@given(st.binary(max_size=400), st.integers(1, 40))
def test_no_bytes_make_a_server_raise_or_hang(data: bytes, piece_bytes: int) -> None:
    peer = Peer(server_of())

    peer.say(data, piece_bytes)

    assert peer.ended or peer.closed or peer.reading


words = st.sampled_from(
    b"get gets set cas mg ms md ma me mn gat incr stats sfss a b 0 1 3 -1 noreply v q k O1 T1 N1 MA C1 I V H V5 H00 Y "
    b"U0 bind identity 99999999999999999999 \xff".split()
)


@given(st.lists(words, min_size=1, max_size=8), st.integers(1, 9))
def test_no_line_of_known_words_is_a_fault_of_ours(line: list[bytes], piece_bytes: int) -> None:
    peer = Peer(server_of())

    answer = peer.say(b" ".join(line) + b"\r\nabc\r\n", piece_bytes)

    assert b"internal error" not in answer


async def test_a_caller_who_dropped_the_future_causes_no_complaint(caplog: Any) -> None:
    exchange = ClassicDelete(KEY)
    exchange.promise = new_promise()
    exchange.fail(Busy("full"))

    del exchange.promise
    await asyncio.sleep(0)

    assert caplog.text == ""
