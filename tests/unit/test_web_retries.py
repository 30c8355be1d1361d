"""Which requests of the web tier are tried again, where, how often of all, and for how long; on virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from virtual_time import in_virtual_time

from sfss.errors import Busy, Expired, Outcome, QuorumUnavailable, SfssError, Unreachable
from sfss.promise import Promise, new_promise
from sfss.settings import Address
from sfss.store import NO_CALL, Call, Record, settled
from sfss.web.counters import SharedCounters
from sfss.web.proxies import ANSWER_SHARE, ProxyRing
from sfss.web.retry_budget import RetryBudget

TIMEOUT_S = 4.0
ADDRESSES = tuple(Address("192.0.2.1", port) for port in (8900, 8901))
FOUND = Record(b"value", 5)
NO_QUORUM = QuorumUnavailable("1 of 2 replicas")


class Proxy:
    """A client of a proxy that answers after `takes_s` with `failure` or a file; it keeps to deadlines like ours."""

    connections = 1

    def __init__(self, failure: SfssError | None = None, takes_s: float = 0.0) -> None:
        self.failure = failure
        self.takes_s = takes_s
        self.asked: list[Call] = []

    def get(self, key: bytes, call: Call = NO_CALL) -> Promise[Record]:
        return self._answer(call, Outcome.NOT_APPLIED)

    def set(self, key: bytes, value: bytes, flags: int, expires: int, call: Call) -> Promise[Any]:
        return self._answer(call, Outcome.UNKNOWN)

    def _answer(self, call: Call, outcome: Outcome) -> Promise[Any]:
        self.asked.append(call)
        loop = asyncio.get_running_loop()
        reply = new_promise()
        left_s = call.deadline - loop.time()
        if self.takes_s > left_s:
            loop.call_later(left_s, reply.set_exception, Expired("no answer within the deadline", outcome))
        elif self.failure is not None:
            loop.call_later(self.takes_s, reply.set_exception, self.failure)
        else:
            loop.call_later(self.takes_s, reply.set_result, FOUND)
        return reply


def ring_of(*proxies: Proxy, budget: RetryBudget | None = None) -> ProxyRing:
    """A ring in which all proxies are known and up."""
    ring = ProxyRing(
        ADDRESSES[: len(proxies)],
        retry_max=3,
        retry_after_s=2.0,
        timeout_s=TIMEOUT_S,
        budget=budget or RetryBudget(0.1),
        monotonic=asyncio.get_running_loop().time,
    )
    for link, proxy in zip(ring._links, proxies, strict=True):
        link.client = proxy  # type: ignore[assignment]
        link.up = True
    return ring


async def fails(reply: Any) -> SfssError:
    with pytest.raises(SfssError) as failure:
        await settled(reply)
    return failure.value


def in_a_day() -> Call:
    return Call(asyncio.get_running_loop().time() + 86400.0)


# --- how many ---


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
@in_virtual_time
async def test_proxies_that_are_all_overloaded_get_no_more_than_the_budgets_share_on_top(share: float) -> None:
    busy = [Proxy(Busy("full")), Proxy(Busy("full"))]
    ring = ring_of(*busy, budget=RetryBudget(share, saved_max=10.0))
    requests = 1000

    for _ in range(requests):
        assert isinstance(await fails(ring.get(b"key", in_a_day())), Busy)

    tries = sum(len(proxy.asked) for proxy in busy)
    assert requests + share * requests <= tries <= requests + share * requests + 10


@in_virtual_time
async def test_the_same_load_is_twice_as_much_without_a_budget() -> None:
    busy = [Proxy(Busy("full")), Proxy(Busy("full"))]
    ring = ring_of(*busy, budget=RetryBudget(10.0, saved_max=1e9))

    for _ in range(100):
        await fails(ring.get(b"key", in_a_day()))

    assert sum(len(proxy.asked) for proxy in busy) == 200


@in_virtual_time
async def test_quiet_times_save_up_for_a_proxy_that_dies_but_not_without_end() -> None:
    budget = RetryBudget(0.1, saved_max=20.0)
    for _ in range(100_000):
        budget.earn()

    assert [budget.take() for _ in range(21)] == [True] * 20 + [False]


@in_virtual_time
async def test_tries_made_and_refused_are_counted() -> None:
    counters = SharedCounters(1)
    worker = counters.worker(0)
    worker.start()
    ring = ring_of(Proxy(Busy("full")), Proxy(Busy("full")), budget=RetryBudget(0.0, 3.0, worker))

    for _ in range(5):
        await fails(ring.get(b"key", in_a_day()))

    told = counters.figures(0.0)
    assert (told["retries"], told["retries_refused"]) == ("3", "2")


# --- where ---


@pytest.mark.parametrize("answer", [Busy("full"), NO_QUORUM, Unreachable("none of 3 nodes")])
@in_virtual_time
async def test_what_a_proxy_answers_is_not_asked_of_it_again(answer: SfssError) -> None:
    for proxies in ([Proxy(answer)], [Proxy(answer), Proxy(answer)]):
        ring = ring_of(*proxies)

        assert await fails(ring.get(b"key", in_a_day())) is answer
        assert [len(proxy.asked) for proxy in proxies] == [1] * len(proxies)
        assert ring.up_count == len(proxies)


@pytest.mark.parametrize("answer", [Busy("full"), NO_QUORUM, Unreachable("none of 3 nodes")])
@in_virtual_time
async def test_a_read_that_one_proxy_cannot_answer_is_answered_by_another(answer: SfssError) -> None:
    ring = ring_of(Proxy(answer), Proxy())

    for number in range(10):
        assert await settled(ring.get(b"key-%d" % number, in_a_day())) == FOUND


@in_virtual_time
async def test_a_write_whose_proxy_reaches_no_node_goes_to_another_marked_as_shared() -> None:
    proxies = [Proxy(Unreachable("none of 3 nodes")), Proxy()]
    ring = ring_of(*proxies)

    for number in range(10):
        await settled(ring.set(b"key-%d" % number, b"", call=in_a_day()))

    assert proxies[0].asked, "no key of these is the first one's"
    assert len(proxies[1].asked) == 10
    assert sum(call.shared for call in proxies[1].asked) >= len(proxies[0].asked)


@in_virtual_time
async def test_a_write_that_may_have_been_applied_is_sent_once() -> None:
    unknown = QuorumUnavailable("1 of 2 replicas", Outcome.UNKNOWN)
    proxies = [Proxy(unknown), Proxy(unknown)]

    assert await fails(ring_of(*proxies).set(b"key", b"", call=in_a_day())) is unknown
    assert sum(len(proxy.asked) for proxy in proxies) == 1


@in_virtual_time
async def test_a_write_that_was_sent_on_and_not_answered_is_unknown() -> None:
    refusing, silent = Proxy(Unreachable("none of 3 nodes")), Proxy(takes_s=10 * TIMEOUT_S)
    ring = ring_of(refusing, silent)

    key = next(key for key in (b"key-%d" % number for number in range(100)) if ring._ring.order(key)[0] == 0)

    assert (await fails(ring.set(key, b"", call=in_a_day()))).outcome is Outcome.UNKNOWN
    assert len(refusing.asked) == len(silent.asked) == 1


# --- for how long ---


@pytest.mark.parametrize("takes", [0.3, 0.5, 0.7])
@in_virtual_time
async def test_a_side_without_a_quorum_answers_in_the_time_that_one_proxy_has(takes: float) -> None:
    proxies = [Proxy(NO_QUORUM, takes * TIMEOUT_S), Proxy(NO_QUORUM, takes * TIMEOUT_S)]
    loop = asyncio.get_running_loop()
    began = loop.time()

    assert await fails(ring_of(*proxies).get(b"key", Call(began + 3 * TIMEOUT_S))) is NO_QUORUM

    assert loop.time() - began <= ANSWER_SHARE * TIMEOUT_S
    assert [len(proxy.asked) for proxy in proxies] == [1, 1]
