"""A stamped write that is sent again after its connection was lost: only an acceptance says what became of it."""

import pytest

from sfss.errors import Busy, ConnectionLost, Outcome, SfssError
from sfss.memcache.exchanges import MORE
from sfss.memcache.link import Link, Owner
from sfss.memcache.replies import ReplyParser
from sfss.memcache.stamped import Apply, Stamped
from sfss.promise import new_promise
from sfss.store import NO_CALL, Applied, Record

RECORD = Record(b"value", 5, version=1 << 40, checksum=7)
ACCEPTED = b"HD V%d H%016x B1/1 O1\r\n" % (1 << 40, 7)
REFUSED = b"NS V%d H%016x B1/1 O1\r\n" % (1 << 41, 8)


def repeated_apply():
    exchange = Apply(Stamped(b"key", RECORD), NO_CALL)
    exchange.opaque = b"1"
    exchange.sent = exchange.repeated = True
    return exchange


def take(exchange, reply):
    replies = ReplyParser()
    replies.feed(reply)
    return exchange.take(replies)


def test_a_refusal_of_a_first_sending_says_that_it_never_was_stored():
    exchange = repeated_apply()
    exchange.repeated = False

    assert take(exchange, REFUSED) == Applied(False, 1 << 41, 8, True)


def test_a_refusal_of_a_repetition_leaves_it_unknown():
    with pytest.raises(ConnectionLost) as lost:
        take(repeated_apply(), REFUSED)

    assert lost.value.outcome is Outcome.UNKNOWN


def test_an_acceptance_of_a_repetition_is_an_acceptance():
    assert take(repeated_apply(), ACCEPTED) == Applied(True, 1 << 40, 7, True)
    assert take(repeated_apply(), ACCEPTED[:-1]) is MORE


class Idle(Owner):
    """A lane that nobody asks anything of."""

    def answered(self, exchange):
        pass

    def has_room(self):
        pass

    def lost(self, link, error, orphans):
        raise AssertionError(error)


@pytest.mark.parametrize(("repeated", "outcome"), [(False, Outcome.NOT_APPLIED), (True, Outcome.UNKNOWN)])
async def test_a_repetition_refused_as_busy_leaves_it_unknown(repeated, outcome):
    link = Link(Idle(), lambda: 0.0, 64)
    exchange = repeated_apply()
    exchange.repeated = repeated
    exchange.promise = new_promise()
    link.pending.append(exchange)

    link.data_received(b"SERVER_ERROR busy\r\n")

    with pytest.raises(Busy) as refused:
        await exchange.promise
    assert isinstance(refused.value, SfssError)
    assert refused.value.outcome is outcome
