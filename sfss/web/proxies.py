"""The store behind the web tier: a ring of proxies, or of foreign memcache servers in their place.

A key's writes all go to the first proxy of its order that is up, so that each key has one writer; reads go to the one
that has least in hand. A proxy that can't be reached, or falls silent, is left out and asked again in the
background, so that no request waits for it. What was surely not begun, and every read, is tried again elsewhere while
`RetryBudget` allows it; a write that a dying proxy may have carried out is `unknown`, and is the caller's to decide on.
What a proxy itself answers (it is busy, it finds no quorum) it isn't asked again at once, and another one only within
the time in which the one would have had to answer: a side of a parted network says soon that it can't.

Other web processes notice later, or earlier, that a proxy is gone or back, and until then a key may have two writers.
So a write that isn't sent to its key's own proxy, or to that one before every process has surely turned to it, is
marked as `shared`: the proxy then asks the nodes before it stamps, and no other write can make this one `unknown`.

Foreign servers in a list are taken for doors to one cluster, as proxies are. They have no quorum that would make a read
through one see a write through another, so reads go where the writes go.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, cast

from sfss.addresses import reason_of
from sfss.errors import (
    Busy,
    ConnectionLost,
    Expired,
    Outcome,
    QuorumUnavailable,
    SfssError,
    Stopping,
    Unreachable,
    Unsupported,
)
from sfss.groups import Item, each, mapped
from sfss.memcache.access import OPEN, Access
from sfss.memcache.client import Dialect, MemcacheClient
from sfss.promise import Promise, Turn, turn_of
from sfss.ring import ServerRing
from sfss.settings import Address
from sfss.store import NO_CALL, Call, Record, Reply, Written
from sfss.web.foreign import speaks_our_flags, try_out
from sfss.web.retry_budget import RetryBudget

_Send: TypeAlias = Callable[[MemcacheClient, Call], Promise[Any]]

ASK_AGAIN_S_MIN: Final = 0.25
"""How soon a proxy is asked again when none at all is up."""

ASK_S_MAX: Final = 1.0
"""How long a proxy may take to say that it is there."""

ANSWER_SHARE: Final = 0.75
"""Of the time of one try, what a proxy takes itself at most (its deadline; by default 3 s of 4)."""

_ANSWERED: Final = (Busy, Expired, QuorumUnavailable)
"""What a proxy that is well answers: to ask it again at once would get the same."""

_TRY_READ_AGAIN: Final = (Unreachable, ConnectionLost, Busy, Stopping, Expired, QuorumUnavailable)
_TRY_WRITE_AGAIN: Final = (Unreachable, ConnectionLost, Stopping)

_log = logging.getLogger("sfss.web")


class _Link:
    """One server and how it is. `client` is None until it is known which dialect it speaks; only then it may be up."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.client: MemcacheClient | None = None
        self.foreign = False
        self.up = False
        self.settled_at = math.inf
        """When every web process surely uses it (monotonic seconds)."""
        self.error = "it has not been asked yet"
        self.in_hand = 0
        self.watch: asyncio.Task[None] | None = None


class ProxyRing:
    """A `Store` over `proxies`. Start, use, close.

    `retry_max`: how many times a request is tried again. `retry_after_s`: how long a proxy that failed is left out.
    `timeout_s`: for one try. `budget`: for the tries after the first of all requests. `access`: what lets us in.
    """

    def __init__(
        self,
        proxies: tuple[Address, ...],
        *,
        retry_max: int,
        retry_after_s: float,
        timeout_s: float,
        budget: RetryBudget,
        access: Access = OPEN,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ring = ServerRing([str(address) for address in proxies])
        self._links = [_Link(address) for address in proxies]
        self._access = access
        self.retry_max = retry_max
        self._known_turn: Turn | None = None
        self._retry_after_s = retry_after_s
        self._settle_s = ASK_AGAIN_S_MIN + retry_after_s + ASK_S_MAX + timeout_s
        """So long after a proxy is up, every web process has asked it again, and what was begun elsewhere is over."""
        self._trials: set[asyncio.Task[None]] = set()
        self.timeout_s = timeout_s
        self.budget = budget
        self.monotonic = monotonic
        self.notes: dict[Address, str] = {}
        """What was found out about foreign servers."""

    # --- start and close ---

    async def start(self) -> None:
        """Ask every proxy; those that don't answer within a second are asked again in the background."""
        await asyncio.gather(*(self._ask(link) for link in self._links))
        for link in self._links:
            if not link.up:
                self.leave_out(link, link.error)

    async def close(self) -> None:
        tasks = [link.watch for link in self._links if link.watch is not None] + list(self._trials)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in self._links:
            if link.client is not None:
                await link.client.close()

    # --- Store ---

    def get(self, key: bytes, call: Call = NO_CALL) -> Reply[Record | None]:
        return self._begin(_Fetch(self, key, call, self._turn(), True))

    def head(self, key: bytes, call: Call = NO_CALL) -> Reply[Record | None]:
        return self._begin(_Fetch(self, key, call, self._turn(), False))

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Reply[Written]:
        return self._begin(_Put(self, key, call, self._turn(), value, flags, expires))

    def delete(self, key: bytes, call: Call = NO_CALL) -> Reply[Written | None]:
        return self._begin(_Remove(self, key, call, self._turn(), False))

    # --- GroupStore ---

    def get_many(self, keys: Sequence[bytes], call: Call = NO_CALL) -> Reply[list[Any]]:
        """All from one proxy, which any key may be read through."""
        if self._any_foreign():
            return each(lambda key: self.get(key, call), keys)
        return self._ask_anything(keys[0], call, lambda client, limited: client.get_many(keys, limited), of_read=True)

    def set_many(self, items: Sequence[Item], call: Call = NO_CALL) -> Reply[list[Any]]:
        """Each through the proxy that its key's writes go to; those of one proxy together."""
        if self._any_foreign():
            return each(lambda item: self.set(item.key, item.value, item.flags, item.expires, call), items)
        orders = [self._ring.order(item.key) for item in items]
        if orders.count(orders[0]) == len(orders):
            return self._set_group(items, call)
        parts: dict[tuple[int, ...], list[int]] = {}
        for place, order in enumerate(orders):
            parts.setdefault(order, []).append(place)
        groups = list(parts.values())
        replies = each(lambda places: self._set_group([items[place] for place in places], call), groups)
        return mapped(replies, lambda answers: _in_places(groups, answers))

    def _set_group(self, items: Sequence[Item], call: Call) -> Promise[list[Any]]:
        key = items[0].key
        return self._ask_anything(key, call, lambda client, limited: client.set_many(items, limited), of_read=False)

    def _any_foreign(self) -> bool:
        return any(link.foreign for link in self._links)

    def stats(self, topic: str = "", call: Call = NO_CALL) -> Reply[dict[str, str]]:
        if topic and any(link.foreign for link in self._links):
            raise Unsupported("foreign memcache servers have figures of their own on other topics, or none")
        return self._ask_anything(b"", call, lambda client, limited: client.stats(topic, limited), of_read=True)

    def _ask_anything(self, key: bytes, call: Call, send: _Send, *, of_read: bool) -> Promise[Any]:
        return self._begin(_Anything(self, key, call, self._turn(), of_read, send))

    def _begin(self, request: _Request) -> Promise[Any]:
        self.budget.earn()
        request.attempt(request.began)
        return request

    def _turn(self) -> Turn:
        turn = self._known_turn
        if turn is None:
            turn = self._known_turn = turn_of(asyncio.get_running_loop())
        return turn

    def order(self, key: bytes) -> tuple[int, ...]:
        """The proxies for a key, the one for its writes first."""
        return self._ring.order(key)

    # --- which proxy ---

    @property
    def up_count(self) -> int:
        """Proxies that requests are sent to."""
        return sum(link.up for link in self._links)

    def choose(self, order: tuple[int, ...], of_read: bool, avoided: tuple[_Link, ...]) -> _Link:
        """The proxy for a request's next try; none of `avoided` if there is another. Raises `Unreachable` when none is
        up."""
        best: _Link | None = None
        for index in order:
            link = self._links[index]
            if not link.up:
                continue
            if link.foreign or (not of_read and link not in avoided):
                return link
            if best is None or best in avoided or (of_read and link.in_hand < best.in_hand and link not in avoided):
                best = link
        if best is None:
            raise Unreachable("; ".join(f"{link.address}: {link.error}" for link in self._links))
        return best

    def has_other(self, avoided: tuple[_Link, ...]) -> bool:
        """Whether a proxy besides `avoided` is up, which the same request may be sent to."""
        return any(link.up and not link.foreign and link not in avoided for link in self._links)

    def is_shared(self, order: tuple[int, ...], link: _Link, now: float) -> bool:
        """Whether another web process may just now send writes of the same key to another proxy than `link`."""
        return now < link.settled_at or link is not self._links[order[0]]

    def leave_out(self, link: _Link, error: str) -> None:
        """Send nothing more to a proxy until it has answered a question of our own."""
        link.error = error
        if link.watch is None:
            link.up = False
            _log.warning("proxy %s is left out: %s", link.address, error)
            link.watch = asyncio.get_running_loop().create_task(self._bring_back(link))

    async def _bring_back(self, link: _Link) -> None:
        while not link.up:
            await self._pause()
            await self._ask(link)
        link.watch = None
        _log.info("proxy %s is back", link.address)

    async def _pause(self) -> None:
        """Wait before a proxy is asked again: for `retry_after_s`, but not on while no proxy is left at all."""
        until = self.monotonic() + self._retry_after_s
        while True:
            await asyncio.sleep(min(self._retry_after_s, ASK_AGAIN_S_MIN))
            if self.monotonic() >= until or not any(link.up for link in self._links):
                return

    async def _ask(self, link: _Link) -> None:
        """Find out whether a proxy answers, and at the first time which dialect it speaks."""
        try:
            if link.client is None:
                link.foreign = not await speaks_our_flags(link.address, ASK_S_MAX, self._access)
                dialect = Dialect.CLASSIC if link.foreign else Dialect.SFSS
                link.client = MemcacheClient(*link.address, dialect=dialect, access=self._access)
                if link.foreign:
                    self._look_into(link)
            else:
                await link.client.stats(call=Call(time.monotonic() + ASK_S_MAX))
        except TimeoutError:
            link.error = f"no answer in {ASK_S_MAX:g} s"
        except OSError as failure:
            link.error = reason_of(failure)
        except (EOFError, ValueError, SfssError) as error:  # ValueError: a line beyond all limits
            link.error = str(error) or f"no answer in {ASK_S_MAX:g} s"
        else:
            link.up = True
            link.settled_at = self.monotonic() + self._settle_s

    def _look_into(self, link: _Link) -> None:
        task = asyncio.get_running_loop().create_task(self._try_out(link))
        self._trials.add(task)
        task.add_done_callback(self._trials.discard)

    async def _try_out(self, link: _Link) -> None:
        self.notes[link.address] = str(await try_out(link.address, self._access))
        _log.info("%s is a %s", link.address, self.notes[link.address])


def _in_places(groups: list[list[int]], answers: list[Any]) -> list[Any]:
    """The outcomes of all keys in the order of the request, of those of its parts."""
    outcomes: list[Any] = [None] * sum(map(len, groups))
    for places, answer in zip(groups, answers, strict=True):
        for at, place in enumerate(places):
            outcomes[place] = answer if isinstance(answer, BaseException) else answer[at]
    return outcomes


class _Request(Promise[Any]):
    """One request on its way through one proxy or several, and the promise of what comes of it. No task, and nothing
    made to be called: it is on every file's path."""

    __slots__ = (
        "answered",
        "avoided",
        "began",
        "call",
        "deadline",
        "key",
        "link",
        "of_read",
        "order",
        "ring",
        "tries_left",
        "until",
    )

    def __init__(self, ring: ProxyRing, key: bytes, call: Call, turn: Turn, of_read: bool) -> None:
        super().__init__(turn)
        self.ring = ring
        self.key = key
        self.order = ring.order(key)
        self.call = call
        self.of_read = of_read
        self.tries_left = ring.retry_max
        self.link: _Link
        self.avoided: tuple[_Link, ...] = ()
        """Proxies that have failed it; of a write, only those that said so."""
        self.answered: SfssError | None = None
        """What the last proxy that answered gave for a reason."""
        self.began = ring.monotonic()
        self.deadline = 0.0
        """Of the try under way."""
        self.until = call.deadline
        """Of all tries."""

    def attempt(self, now: float) -> None:
        while True:
            try:
                self.link = link = self.ring.choose(self.order, self.of_read, self.avoided)
            except Unreachable as unreachable:
                self.set_exception(unreachable)
                return
            try:
                self.deadline = min(self.until, now + self.ring.timeout_s)
                call = Call(self.deadline, 0, self.call.request_id, self.ring.is_shared(self.order, link, now))
                reply = self.send(cast(MemcacheClient, link.client), call)
            except SfssError as error:
                if not self._may_try_again(error):
                    self.set_exception(error)
                    return
                now = self.ring.monotonic()
            else:
                link.in_hand += 1
                reply.tell(self)
                return

    def send(self, client: MemcacheClient, call: Call) -> Promise[Any]:
        """Ask one proxy."""
        raise NotImplementedError

    def told(self, reply: Promise[Any]) -> None:
        self.link.in_hand -= 1
        error = ConnectionLost("the request was dropped", Outcome.UNKNOWN) if reply.cancelled() else reply.exception()
        if self.done():
            return  # whoever asked has left
        if error is None:
            self.set_result(reply.result())
        elif isinstance(error, SfssError) and self._may_try_again(error):
            self.attempt(self.ring.monotonic())
        elif self.of_read and isinstance(error, Expired) and self.answered is not None:
            self.set_exception(self.answered)  # it tells more; of a write the last try tells what became of it
        elif isinstance(error, Unreachable) and not self.link.up:
            self.set_exception(Unreachable(f"{self.link.address}: {error}", error.outcome))
        else:
            self.set_exception(error)

    def _may_try_again(self, error: SfssError) -> bool:
        """Judge a failure: is the proxy to be left out, and may the request be sent once more?"""
        ring, link = self.ring, self.link
        now = ring.monotonic()
        answered = isinstance(error, _ANSWERED)
        if isinstance(error, Unreachable):
            # Said by our client of the proxy, or by the proxy of its nodes? Only in the first nothing is connected.
            answered = link.client is not None and link.client.connections > 0
            if not answered:
                ring.leave_out(link, str(error))
        elif isinstance(error, Stopping):
            ring.leave_out(link, "it is stopping")
        elif isinstance(error, Expired) and now >= self.deadline:
            answered = False
            if self.deadline < self.until:
                # A proxy's own deadline is shorter than ours for it: one that says nothing is stopped or cut off.
                ring.leave_out(link, str(error))
        if answered:
            self.answered = error
            self.until = min(self.until, self.began + ANSWER_SHARE * ring.timeout_s)
        if self.of_read or answered:
            self.avoided = (*self.avoided, link)
        if not self.tries_left or now >= self.until or (answered and not ring.has_other(self.avoided)):
            return False
        if self.of_read:
            worth_it = isinstance(error, _TRY_READ_AGAIN)
        else:
            worth_it = isinstance(error, _TRY_WRITE_AGAIN) and error.outcome is Outcome.NOT_APPLIED
        if not (worth_it and ring.budget.take()):
            return False
        self.tries_left -= 1
        return True


class _Fetch(_Request):
    __slots__ = ("_whole",)

    def __init__(self, ring: ProxyRing, key: bytes, call: Call, turn: Turn, whole: bool) -> None:
        super().__init__(ring, key, call, turn, True)
        self._whole = whole

    def send(self, client: MemcacheClient, call: Call) -> Promise[Any]:
        return client.get(self.key, call) if self._whole else client.head(self.key, call)


class _Put(_Request):
    __slots__ = ("_expires", "_flags", "_value")

    def __init__(
        self, ring: ProxyRing, key: bytes, call: Call, turn: Turn, value: bytes, flags: int, expires: int
    ) -> None:
        super().__init__(ring, key, call, turn, False)
        self._value = value
        self._flags = flags
        self._expires = expires

    def send(self, client: MemcacheClient, call: Call) -> Promise[Any]:
        return client.set(self.key, self._value, self._flags, self._expires, call)


class _Remove(_Request):
    __slots__ = ()

    def send(self, client: MemcacheClient, call: Call) -> Promise[Any]:
        return client.delete(self.key, call)


class _Anything(_Request):
    """What isn't on every file's path."""

    __slots__ = ("_send",)

    def __init__(self, ring: ProxyRing, key: bytes, call: Call, turn: Turn, of_read: bool, send: _Send) -> None:
        super().__init__(ring, key, call, turn, of_read)
        self._send = send

    def send(self, client: MemcacheClient, call: Call) -> Promise[Any]:
        return self._send(client, call)
