"""A read of one key at several nodes: an answer that is compared with an earlier one says what reading it would."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.errors import BadKey, SfssError
from sfss.memcache.exchanges import MORE, Fetch
from sfss.memcache.lookup import Consult, Lookup
from sfss.memcache.replies import OutOfStep, ReplyParser
from sfss.store import Call, Record, checksum_of

KEY = b"key"
ROUND = Call(ring=3, request_id=b"id")


class Caller:
    """The promise's part that exchanges look at."""

    def done(self) -> bool:
        return False


def sent(exchange: Any, opaque: bytes) -> Any:
    exchange.opaque = opaque
    exchange.promise = Caller()
    exchange.request(900)
    return exchange


def taken(exchange: Any, answer: bytes, piece_bytes: int) -> tuple[Any, int]:
    """What comes of an answer that arrives in pieces, or of which fault; and how many bytes are left."""
    replies = ReplyParser()
    result: Any = MORE
    for at in range(0, len(answer), piece_bytes):
        replies.feed(answer[at : at + piece_bytes])
        if result is MORE:
            try:
                result = exchange.take(replies)
            except SfssError as error:
                result = (type(error), str(error))
                break
    return result, replies.waiting


def told(record: Record, whole: bool, opaque: bytes) -> bytes:
    words = b"s%d f%d A%d V%d H%016x" % (record.size, record.flags, record.expires, record.version, record.checksum)
    if record.tombstone:
        return b"HD %b Yt O%b\r\n" % (words, opaque)
    if whole:
        return b"VA %d %b Yv O%b\r\n%b\r\n" % (record.size, words, opaque, record.value)
    return b"HD %b Yv O%b\r\n" % (words, opaque)


@st.composite
def records(draw: Any) -> Record:
    tombstone = draw(st.booleans())
    value = b"" if tombstone else draw(st.sampled_from([b"", b"value", b"other", b"v" * 200]))
    expires, version = draw(st.sampled_from([0, 60])), draw(st.sampled_from([77, 78]))
    checksum = checksum_of(KEY, value, 0, expires, version, tombstone)
    return Record(value, len(value), 0, expires, version, draw(st.sampled_from([checksum] * 4 + [9])), tombstone)


@given(
    held=st.lists(st.tuples(records(), st.booleans()), min_size=1, max_size=4),
    same=st.booleans(),
    answers=st.sampled_from(["as asked", "as the other is asked", "to another"]),
    piece_bytes=st.sampled_from([1, 7, 1000]),
)
def test_nodes_that_are_asked_together_are_heard_as_each_alone(
    held: list[tuple[Record, bool]], same: bool, answers: str, piece_bytes: int
) -> None:
    lookup = Lookup(KEY)

    for record, whole in held:
        record = held[0][0] if same else record
        opaque = lookup.opaque_in(ROUND)
        answer = told(record, whole != (answers == "as the other is asked"), b"x" * (answers == "to another") + opaque)
        together, left = taken(sent(Consult(lookup, whole, ROUND), opaque), answer, piece_bytes)
        alone, left_alone = taken(sent(Fetch(KEY, whole, True, ROUND), opaque), answer, piece_bytes)

        if isinstance(together, Record) and not whole and together.value:
            together = together.replaced(value=b"")  # of what is at hand already, the value is no harm
        assert together == alone
        assert left == left_alone or isinstance(alone, tuple)
        if isinstance(alone, tuple) and issubclass(alone[0], OutOfStep):
            return  # the connection is closed


@pytest.mark.parametrize("whole", [False, True])
def test_all_are_asked_in_the_words_of_a_read_by_itself(whole: bool) -> None:
    lookup = Lookup(KEY)

    for call, milliseconds in ((ROUND, 900), (ROUND, 900), (ROUND, 899), (Call(), 900), (ROUND, 900)):
        opaque = lookup.opaque_in(call)
        alone, together = Fetch(KEY, whole, True, call), Consult(lookup, whole, call)
        alone.opaque = together.opaque = opaque
        assert together.request(milliseconds) == alone.request(milliseconds)


def test_each_round_has_an_opaque_of_its_own() -> None:
    lookup, later = Lookup(KEY), Call(ring=4)
    before = Consult(lookup, True, ROUND)
    before.opaque = lookup.opaque_in(ROUND)

    assert lookup.opaque_in(later) != before.opaque
    assert Lookup(KEY).opaque_in(ROUND) != before.opaque
    assert before.request(900) == b"mg key v s f A V H Y G3 U900 O%b\r\n" % before.opaque


def test_what_is_no_key_is_not_asked_for() -> None:
    with pytest.raises(BadKey):
        Lookup(b"a key\r\n")
