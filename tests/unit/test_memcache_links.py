"""Connections of a client without a socket: what counts as sent, and what a lost one's requests become."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sfss.errors import ConnectionLost, Outcome, SfssError, StaleRing, Stopping
from sfss.groups import Item
from sfss.memcache.exchanges import AskIdentity, Exchange, Fetch, Put
from sfss.memcache.group_exchanges import PutGroup
from sfss.memcache.lane import Account, Lane
from sfss.memcache.link import TOGETHER_MAX, Link
from sfss.promise import new_promise
from sfss.store import NO_CALL


class Wire:
    """A transport that notes what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.writes: list[int] = []
        """How many requests each write held."""
        self.closing = False

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written += data
        self.writes.append(data.count(b"\r\n"))

    def abort(self) -> None:
        self.closing = True


class Ended(Account):
    """Keeps the exchanges that are over."""

    def __init__(self) -> None:
        super().__init__()
        self.exchanges: list[Exchange] = []

    def over(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)


class Connector:
    """Makes the links of a lane, and keeps the exchanges that are over."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.account = Ended()
        self.over = self.account.exchanges
        self.lane = Lane(self.connect, self.account, lambda: 0.0, 1)

    async def connect(self, lane: Lane) -> Link:
        return self.link()

    def link(self) -> Link:
        link = Link(self.lane, lambda: 0.0, 64)
        link.connection_made(Wire())  # type: ignore[arg-type]
        self.links.append(link)
        return link


def asked(exchange: Exchange) -> Exchange:
    exchange.promise = new_promise()
    exchange.deadline = 5.0
    exchange.opaque = b"1"
    return exchange


def put() -> Exchange:
    return asked(Put(b"a", b"one", 0, 0, NO_CALL))


def wire_of(link: Link) -> Any:
    return link._transport


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_requests_lost_for_one_stale_ring_each_get_an_error_that_has_its_number() -> None:
    connector = Connector()
    writes = [put(), put()]
    for write in writes:
        connector.lane.submit(write, 0.0)
    await turns()

    connector.links[0]._error = StaleRing(5)
    connector.links[0].connection_lost(None)
    await turns()

    errors = [write.promise.exception() for write in writes]
    assert [getattr(error, "ring", None) for error in errors] == [5, 5]
    assert [str(error) for error in errors] == ["stale ring 5"] * 2
    assert errors[0] is not errors[1]


async def test_a_write_given_up_just_before_it_goes_out_is_not_said_to_be_unsent() -> None:
    link = Connector().link()
    write = put()

    link.send(write, 0.0)
    assert wire_of(link).written == b""
    assert write.outcome is Outcome.UNKNOWN
    await turns()
    assert wire_of(link).written.startswith(b"ms a 3 ")


async def test_a_write_whose_connection_is_lost_just_before_it_goes_out_goes_to_the_next_one() -> None:
    connector = Connector()
    write = put()
    connector.lane.submit(write, 0.0)
    await turns()
    first = connector.links[0]
    first.proven = True
    wire_of(first).written = b""
    other = put()
    connector.lane.submit(other, 0.0)
    first.connection_lost(None)
    await turns()

    with pytest.raises(ConnectionLost) as caught:
        await write.promise
    assert caught.value.outcome is Outcome.UNKNOWN
    assert wire_of(connector.links[1]).written.startswith(b"ms a 3 ")
    assert connector.over == [write]
    other.promise.cancel()


async def test_a_repetition_that_is_lost_before_it_goes_out_was_sent_once_all_the_same() -> None:
    connector = Connector()
    link = connector.link()
    repetition = put()
    repetition.sent = repetition.repeated = True
    link.send(repetition, 0.0)
    link.connection_lost(None)

    with pytest.raises(ConnectionLost) as caught:
        await repetition.promise
    assert caught.value.outcome is Outcome.UNKNOWN


async def test_the_greeting_of_a_lost_connection_is_not_asked_on_another_one() -> None:
    connector = Connector()
    link = connector.link()
    greeting = asked(AskIdentity(b"sfss identity\r\n"))
    link.send(greeting, 0.0)
    link.connection_lost(None)

    with pytest.raises(ConnectionLost):
        await greeting.promise
    assert not connector.lane.queue


async def test_a_server_that_hangs_up_before_it_answers_anything_is_not_asked_again_at_once() -> None:
    connector = Connector()
    lane = connector.lane
    read = asked(Fetch(b"a", True, False, NO_CALL))
    lane.submit(read, 0.0)
    await turns()
    connector.links[0].eof_received()
    connector.links[0].connection_lost(None)
    await turns()

    lane.sweep(0.0, 1.0)
    await turns()
    assert len(connector.links) == 1
    assert list(lane.queue) == [read]
    read.promise.cancel()


async def test_a_server_that_hangs_up_after_it_has_answered_is_asked_again_at_once() -> None:
    connector = Connector()
    lane = connector.lane
    for _ in range(2):
        lane.submit(asked(Fetch(b"a", True, False, NO_CALL)), 0.0)
    await turns()
    connector.links[0].data_received(b"EN O1\r\n")
    connector.links[0].connection_lost(None)
    await turns()
    assert len(connector.links) == 2

    connector.links[1].data_received(b"EN O1\r\n")
    assert len(connector.over) == 2


async def test_a_fault_while_a_connection_is_opened_fails_who_waits_and_is_logged(caplog: Any) -> None:
    async def connect(lane: Lane) -> Link:
        raise ZeroDivisionError("oops")

    account = Ended()
    lane = Lane(connect, account, lambda: 0.0, 1)
    write = put()
    lane.submit(write, 0.0)
    await turns()

    with pytest.raises(SfssError, match="oops") as caught:
        await write.promise
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert "ZeroDivisionError" in caplog.text
    assert account.exchanges == [write]


async def test_requests_of_one_turn_go_out_in_few_writes_and_none_waits_for_all_others() -> None:
    link = Connector().link()
    for _ in range(2 * TOGETHER_MAX + 1):
        link.send(asked(Fetch(b"k", True, True, NO_CALL)), 0.0)
    at_once = list(link._transport.writes)

    await asyncio.sleep(0)

    assert at_once == [TOGETHER_MAX, TOGETHER_MAX]
    assert link._transport.writes == [TOGETHER_MAX, TOGETHER_MAX, 1]


async def test_what_was_answered_before_a_fault_is_not_taken_for_lost() -> None:
    class Faulty(Fetch):
        def take(self, replies: Any) -> Any:
            raise ZeroDivisionError("oops")

    connector = Connector()
    link = connector.link()
    first, second = asked(Fetch(b"a", True, False, NO_CALL)), asked(Faulty(b"b", True, False, NO_CALL))
    for exchange in (first, second):
        link.send(exchange, 0.0)

    with pytest.raises(ZeroDivisionError):
        link.data_received(b"EN O%b\r\nEN O%b\r\n" % (first.opaque, second.opaque))

    assert (await first.promise, link.pending, connector.over) == (None, [second], [first])


@pytest.mark.parametrize("repeated", [False, True])
async def test_what_a_group_is_not_told_of_by_a_server_that_stops_was_not_begun(repeated: bool) -> None:
    link = Connector().link()
    group, behind = asked(PutGroup([Item(key, b"one") for key in (b"a", b"b", b"c", b"d")], NO_CALL)), put()
    link.send(group, 0.0)
    link.send(behind, 0.0)
    await turns()
    group.repeated = behind.repeated = repeated

    link.data_received(b"HD V7 H%016x B1/1 O*1\r\nSERVER_ERROR stopping\r\n" % 7)
    link.eof_received()
    link.connection_lost(None)

    stored, *others = group.promise.result()
    errors = [*others, behind.promise.exception()]
    assert (stored.version, stored.checksum) == (7, 7)
    assert {error.outcome for error in errors} == {Outcome.UNKNOWN if repeated else Outcome.NOT_APPLIED}
    assert all(isinstance(error, Stopping) for error in others)
