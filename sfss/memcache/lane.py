"""The connections of a client that carry one kind of request, and the requests that wait for room on them.

Reads, writes and large writes go on lanes of their own: a server answers a connection's requests in order, so a read
behind a write would wait for the disk, and anything behind 2 MiB for the network.

A request waits here, not in a transport, until a connection can take it: what is here was surely not sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from sfss.errors import ConnectionLost, Expired, SfssError, Unreachable
from sfss.memcache.exchanges import Exchange
from sfss.memcache.link import Link, Owner
from sfss.memcache.replies import OutOfStep

_log = logging.getLogger("sfss.memcache")

RETRY_S = 0.05
"""After a refused connection, requests fail at once for this long: a dead server costs 20 attempts a second. So does
one that hangs up before it has answered anything, but there requests wait."""

GROW_AT: Final = 8
"""Requests in flight on the least busy connection at which another one is opened."""


class Account:
    """The exchanges of one client that have begun and not ended: how many, and the bytes that they hold."""

    __slots__ = ("bytes", "held")

    def __init__(self) -> None:
        self.held = 0
        self.bytes = 0

    def take_on(self, exchange: Exchange) -> None:
        self.held += 1
        self.bytes += exchange.size

    def over(self, exchange: Exchange) -> None:
        """It has ended, in whatever way."""
        self.held -= 1
        self.bytes -= exchange.size


class Lane(Owner):
    """Up to `links_max` connections to one server, opened on demand.

    `connect` gives a link that is open (greeting included) or raises `SfssError`. Every exchange that ends is taken off
    the `account`.
    """

    def __init__(
        self,
        connect: Callable[[Lane], Awaitable[Link]],
        account: Account,
        monotonic: Callable[[], float],
        links_max: int,
    ) -> None:
        self._connect = connect
        self._account = account
        self._monotonic = monotonic
        self._links_max = links_max
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False
        self._last: Link | None = None
        self._refusal: SfssError | None = None
        self._refused_until = 0.0
        self.links: list[Link] = []
        self.queue: deque[Exchange] = deque()

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered."""
        return sum(len(link.pending) for link in self.links)

    def submit(self, exchange: Exchange, now: float) -> None:
        """Send a request, or queue it until a connection has room."""
        link = None if self.queue else self._pick()
        if link is None:
            if self._refusal is not None and not self.links and now < self._refused_until:
                exchange.fail(_told(self._refusal, exchange))
                self._account.over(exchange)
                return
            self.queue.append(exchange)
            self._grow()
            return
        if len(link.pending) >= GROW_AT:
            self._grow()
        link.send(exchange, now)

    def _pick(self) -> Link | None:
        links = self.links
        if len(links) == 1:
            return links[0] if links[0].has_room else None
        last = self._last
        if last is not None and last.gathering and last.has_room:
            # What one turn of the loop asks for goes out in one system call, and is answered in one.
            return last
        best, best_load = None, 1 << 30
        for link in links:
            if link.has_room:
                load = len(link.pending) + (1 << 20) * link.receiving
                if load < best_load:
                    best, best_load = link, load
        self._last = best
        return best

    def _grow(self) -> None:
        if (
            self._connecting is None
            and len(self.links) < self._links_max
            and self._monotonic() >= self._refused_until
            and not self._closed
        ):
            self._connecting = asyncio.get_running_loop().create_task(self._add_link())

    async def _add_link(self) -> None:
        failure: SfssError | None = None
        try:
            link = await self._connect(self)
        except SfssError as error:
            failure = error
        except Exception as fault:
            _log.exception("a connection could not be opened because of a fault")
            failure = Unreachable(f"{type(fault).__name__}: {fault}")
        finally:
            self._connecting = None
        self._refusal = failure
        if failure is None:
            link.in_service = True
            self.links.append(link)
        else:
            self._refused_until = self._monotonic() + RETRY_S
            if not self.links:
                self._fail_queue(failure)
        self.has_room()

    def forgive(self) -> None:
        """The server was just connected to: a refusal from before says nothing any more."""
        if self._refusal is not None:
            self._refusal = None
            self._refused_until = 0.0

    def _fail_queue(self, error: SfssError) -> None:
        while self.queue:
            exchange = self.queue.popleft()
            exchange.fail(_told(error, exchange))
            self._account.over(exchange)

    def sweep(self, now: float, silence_s: float) -> bool:
        """Expire what is past its deadline and close what is silent; says whether anything is still waited for."""
        for exchange in self.queue:
            _expire(exchange, now)
        while self.queue and self.queue[0].promise.done():
            self._account.over(self.queue.popleft())
        if self.queue:
            self._grow()
        for link in list(self.links):
            for exchange in link.pending:
                _expire(exchange, now)
            if link.heard:
                link.heard = False
                link.quiet_since = now
            if link.pending and now - max(link.quiet_since, link.pending[0].deadline) > silence_s:
                link.close(OutOfStep(f"no byte for {now - link.quiet_since:.1f} s"))
        return bool(self.queue or any(link.pending for link in self.links))

    async def close(self) -> None:
        """Close the connections; what is in flight or queued ends with ConnectionLost."""
        self._closed = True
        connecting = self._connecting
        if connecting is not None:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        error = ConnectionLost("the client was closed")
        self._fail_queue(error)
        for link in list(self.links):
            link.close(error)
        await asyncio.gather(*(link.gone for link in self.links))

    # What links tell

    def answered(self, exchange: Exchange) -> None:
        """An exchange is over."""
        self._account.over(exchange)

    def has_room(self) -> None:
        """Send what waits, as far as there is room."""
        queue = self.queue
        if not queue:
            return
        now = self._monotonic()
        while queue:
            if queue[0].promise.done():
                self._account.over(queue.popleft())
                continue
            link = self._pick()
            if link is None:
                self._grow()
                return
            link.send(queue.popleft(), now)

    def lost(self, link: Link, error: SfssError, orphans: list[Exchange]) -> None:
        """Send once more what may be repeated, in its old order; tell the others."""
        now = self._monotonic()
        if link in self.links:
            self.links.remove(link)
            if not link.proven:
                self._refused_until = now + RETRY_S
        # The greeting of a link that isn't in service yet would say nothing of another one.
        goes_on = link.in_service and not self._closed
        again = []
        for exchange in orphans:
            unsent_or_repeatable = not exchange.sent or (exchange.repeatable and not exchange.repeated)
            if goes_on and unsent_or_repeatable and exchange.deadline > now and not exchange.promise.done():
                exchange.repeated = exchange.sent
                again.append(exchange)
            else:
                exchange.fail(_told(error, exchange))
                self._account.over(exchange)
        self.queue.extendleft(reversed(again))
        if not isinstance(error, OutOfStep) and not self.links:
            # The server said why it doesn't want us; asking again at once would get the same answer.
            self._fail_queue(error)
        self.has_room()


def _expire(exchange: Exchange, now: float) -> None:
    if exchange.deadline <= now and not exchange.promise.done():
        waited = "on its way" if exchange.sent else "unsent"
        exchange.fail(Expired(f"no answer within the deadline; the request was {waited}", exchange.outcome))


def _told(error: SfssError, exchange: Exchange) -> SfssError:
    """The caller's own error: why, and what may have become of the request."""
    if isinstance(error, Unreachable):
        return type(error)(str(error), exchange.outcome)
    if isinstance(error, OutOfStep | ConnectionLost):
        return ConnectionLost(str(error), exchange.outcome)
    told = type(error)(*error.args)
    told.outcome = exchange.outcome
    return told
