"""A stamped write that goes to several nodes is put into words once, and in others where something differs."""

import pytest

from sfss.memcache.exchanges import MORE
from sfss.memcache.opaques import SEQUENCES
from sfss.memcache.replies import OutOfStep, ReplyParser
from sfss.memcache.stamped import Apply, Stamped
from sfss.store import Applied, Call, Record

RECORD = Record(b"value", 5, 1, 60, 1 << 40, 7)
ROUND = Call(ring=3, request_id=b"id")


def to_node(stamped: Stamped, call: Call) -> Apply:
    apply = Apply(stamped, call)
    apply.opaque = stamped.opaque_in(call)
    return apply


def test_nodes_of_one_round_are_sent_the_same_bytes() -> None:
    stamped = Stamped(b"key", RECORD)
    first, second = to_node(stamped, ROUND), to_node(stamped, ROUND)

    assert first.opaque == second.opaque
    assert first.request(900) is second.request(900)
    assert first.request(900) == b"ms key 5 F1 A60 V%d H%016x B G3 U900 O%b\r\nvalue\r\n" % (1 << 40, 7, first.opaque)


def test_a_node_that_has_less_time_left_is_told_so() -> None:
    stamped = Stamped(b"key", RECORD)
    first, second = to_node(stamped, ROUND), to_node(stamped, ROUND)

    assert [b" U%d " % left in first.request(left) for left in (900, 899, 900)] == [True] * 3
    assert b" U899 " in second.request(899)


def test_who_is_sent_it_once_more_is_sent_the_same() -> None:
    stamped = Stamped(b"key", RECORD)
    first = to_node(stamped, ROUND)
    request = first.request(900)
    stamped.sent()

    assert to_node(stamped, ROUND).request(900) == request
    assert taken(first, b"HD V%d H%016x B1/1 O%b\r\n" % (1 << 40, 7, first.opaque)) == stamped.applied


def test_each_round_has_an_opaque_and_a_ring_of_its_own() -> None:
    stamped = Stamped(b"key", RECORD)
    before = to_node(stamped, ROUND)
    asked_before = before.request(900)
    after = to_node(stamped, Call(ring=4, request_id=b"id"))

    assert after.opaque != before.opaque
    assert b" G4 U900 O" + after.opaque in after.request(900)
    assert before.request(900) == asked_before


def test_no_two_writes_have_one_opaque() -> None:
    first, second = Stamped(b"key", RECORD), Stamped(b"key", RECORD)

    assert first.opaque_in(ROUND) != second.opaque_in(ROUND)


@pytest.mark.parametrize("known", [True, False])
def test_an_answer_to_another_round_is_out_of_step(known: bool) -> None:
    stamped = Stamped(b"key", RECORD)
    before = to_node(stamped, ROUND)
    if not known:
        stamped.opaque_in(Call())
    after = to_node(stamped, Call(ring=4))
    answer = b"HD V%d H%016x B1/1 O" % (1 << 40, 7)

    assert taken(before, answer + before.opaque + b"\r\n") == Applied(True, 1 << 40, 7, True)
    assert taken(after, answer + after.opaque + b"\r\n") == Applied(True, 1 << 40, 7, True)
    with pytest.raises(OutOfStep):
        taken(after, answer + before.opaque + b"\r\n")
    assert taken(after, answer + after.opaque) is MORE


def taken(apply: Apply, answer: bytes) -> object:
    replies = ReplyParser()
    replies.feed(answer)
    return apply.take(replies)


def test_the_opaque_is_no_longer_than_one_may_be() -> None:
    assert len(b"s%d." % (SEQUENCES - 1)) + 24 == 32
