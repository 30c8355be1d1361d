"""The client of one memcache server, as a Store and a Replica: pipelined, bounded, and sure whose reply is whose.

Requests go out at once on a few connections (`lane`), many at a time on each; a reply can only reach its own request
(`link`, `exchanges`). Every answer is a promise; no task is made for a request. One sweep per client, running while
anything is waited for, ends requests past their deadline and connections that are silent.

When a connection is lost, reads and stamped writes in flight go once to another one; an unstamped write fails with
`ConnectionLost`, outcome unknown. What was never handed to a connection is not-applied. More requests or bytes than
the limits allow are refused at once with `Busy`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sfss.addresses import host_and_port, reason_of
from sfss.errors import BadKey, Busy, ConnectionLost, Expired, SfssError, Unreachable, Unsupported
from sfss.groups import Item
from sfss.keys import has_forbidden
from sfss.memcache.access import OPEN, Access
from sfss.memcache.classic_exchanges import AskHashes, ClassicDelete, ClassicGet, ClassicSet
from sfss.memcache.exchanges import AskIdentity, AskPurged, AskStats, Authenticate, Exchange, Fetch, Put, Remove
from sfss.memcache.group_exchanges import FetchGroup, InspectGroup, PutGroup
from sfss.memcache.lane import Account, Lane
from sfss.memcache.link import Link
from sfss.memcache.lookup import Consult, Lookup
from sfss.memcache.opaques import Opaques
from sfss.memcache.ring_exchanges import AskRing, ChangeRing, DropPartition, PrepareRing
from sfss.memcache.sighting_exchange import TellSightings
from sfss.memcache.socket_transport import SocketTransport, connected
from sfss.memcache.stamped import Apply, ApplyGroup, Stamped
from sfss.memcache.tls_transport import TlsProtocol
from sfss.promise import Promise, Turn, new_promise, turn_of
from sfss.ring_keeper import HeldRing, Prepared, Voted
from sfss.ring_record import RingRecord
from sfss.store import KEY_BYTES_MAX, NO_CALL, Applied, Call, Identity, Purged, Record, Seen, Written

_log = logging.getLogger("sfss.memcache")


class Dialect(Enum):
    """What the server speaks: sfss's own flags, or only get, set and delete as any memcache server does."""

    SFSS = "sfss"
    CLASSIC = "classic"


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What one client takes on. `_s` are seconds.

    `in_flight_max` and `bytes_max` are what a coordinator or a web process takes on by default, so that what these have
    admitted waits here for its turn: were they less, a burst of large writes would be refused by the client of one
    replica and taken by those of others. They are reached when the server falls behind: by values whose callers were
    answered without it, until their deadlines.

    `links` connections for reads and as many for writes, `bulk_links` for writes of more than `bulk_bytes`, and one for
    what nodes are told besides (rings, purges). A request without a deadline gets `answer_s`, but a node has
    `connect_s` to say who it is. A connection is silent when nothing came for `silence_s` past the deadline of its
    oldest request. `sweep_s` is how exactly deadlines are kept.
    """

    links: int = 2
    bulk_links: int = 2
    bulk_bytes: int = 64 * 1024
    in_flight_max: int = 4096
    link_in_flight_max: int = 64
    bytes_max: int = 256 * 1024 * 1024
    connect_s: float = 1.0
    answer_s: float = 10.0
    silence_s: float = 1.0
    sweep_s: float = 0.02


Greet = Callable[["MemcacheClient", Identity], None]
LastSeen = Callable[[], Seen | None]


def _nothing() -> Seen | None:
    return None


class MemcacheClient:
    """A server at `host:port`. Connects when first asked for something, and again after a loss.

    Each connection begins as `access` says: with the handshake of TLS, then with user and password. `greet` is called
    with what `sfss identity` says on every new connection, and may raise to refuse it. The server is told first what
    `last_seen` knows of it.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        dialect: Dialect = Dialect.SFSS,
        access: Access = OPEN,
        limits: ClientLimits | None = None,
        greet: Greet | None = None,
        last_seen: LastSeen = _nothing,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self.port = port
        self.limits = limits or ClientLimits()
        self._classic = dialect is Dialect.CLASSIC
        self._access = access
        self._found_open = False
        self._greet = greet
        self._last_seen = last_seen
        self._monotonic = monotonic
        self._opaques = Opaques()
        self._account = Account()
        self._sweep: asyncio.TimerHandle | None = None
        self._turn: Turn | None = None
        self._closed = False
        self._reads = self._lane(self.limits.links)
        self._writes = self._lane(self.limits.links)
        self._bulk = self._lane(self.limits.bulk_links)
        self._orders = self._lane(1)
        self._lanes = (self._reads, self._writes, self._bulk, self._orders)

    def _lane(self, links: int) -> Lane:
        return Lane(self._open_link, self._account, self._monotonic, links)

    def __repr__(self) -> str:
        return f"<MemcacheClient {host_and_port(self.host, self.port)}>"

    # Health

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return sum(len(lane.links) for lane in self._lanes)

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered, those of callers who have left included."""
        return sum(lane.in_flight for lane in self._lanes)

    @property
    def bytes_waiting(self) -> int:
        """Bytes of values that are queued, or sent and not acknowledged."""
        return self._account.bytes

    # Life

    async def connect(self) -> Identity | None:
        """Try the server now. Who it says it is; None in the classic dialect, which can't say. Raises `Unavailable`
        or what `greet` raises."""
        if self._classic:
            await self.stats()
            return None
        return await self.identify()

    async def close(self) -> None:
        """Close the connections. What is in flight fails with ConnectionLost."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for lane in self._lanes:
            await lane.close()

    # Store

    def get(self, key: bytes, call: Call = NO_CALL) -> Promise[Record | None]:
        if self._classic:
            return self._ask(self._reads, ClassicGet(_checked(key), True), call)
        return self._ask(self._reads, Fetch(_checked(key), True, False, call), call)

    def head(self, key: bytes, call: Call = NO_CALL) -> Promise[Record | None]:
        if self._classic:
            return self._ask(self._reads, ClassicGet(_checked(key), False), call)
        return self._ask(self._reads, Fetch(_checked(key), False, False, call), call)

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Promise[Written]:
        lane = self._bulk if len(value) > self.limits.bulk_bytes else self._writes
        if self._classic:
            return self._ask(lane, ClassicSet(_checked(key), value, flags, expires), call)
        return self._ask(lane, Put(_checked(key), value, flags, expires, call), call)

    def delete(self, key: bytes, call: Call = NO_CALL) -> Promise[Written | None]:
        if self._classic:
            return self._ask(self._writes, ClassicDelete(_checked(key)), call)
        return self._ask(self._writes, Remove(_checked(key), call), call)

    def stats(self, topic: str = "", call: Call = NO_CALL) -> Promise[dict[str, str]]:
        return self._ask(self._reads, AskStats(topic), call)

    # GroupStore, and the same of replicas

    def get_many(self, keys: Sequence[bytes], call: Call = NO_CALL) -> Promise[list[Any]]:
        self._needs_sfss("get_many")
        return self._ask(self._reads, FetchGroup(_all_checked(keys), True, False, call), call)

    def set_many(self, items: Sequence[Item], call: Call = NO_CALL) -> Promise[list[Any]]:
        self._needs_sfss("set_many")
        _all_checked([item.key for item in items])
        return self._ask(self._writes, PutGroup(items, call), call)

    def read_many(self, keys: Sequence[bytes], whole: bool, call: Call = NO_CALL) -> Promise[list[Any]]:
        self._needs_sfss("read_many")
        checked = _all_checked(keys)
        return self._ask(
            self._reads, FetchGroup(checked, True, True, call) if whole else InspectGroup(checked, call), call
        )

    def apply_many(self, stamped: Sequence[Stamped], call: Call = NO_CALL) -> Promise[list[Any]]:
        self._needs_sfss("apply_many")
        return self._ask(self._writes, ApplyGroup(stamped, call), call)

    # Replica

    def read(self, key: bytes, call: Call = NO_CALL) -> Promise[Record | None]:
        self._needs_sfss("read")
        return self._ask(self._reads, Fetch(_checked(key), True, True, call), call)

    def inspect(self, key: bytes, call: Call = NO_CALL) -> Promise[Record | None]:
        self._needs_sfss("inspect")
        return self._ask(self._reads, Fetch(_checked(key), False, True, call), call)

    def consult(self, lookup: Lookup, whole: bool, call: Call, promise: Promise[Any]) -> Promise[Record | None]:
        """read, or where not `whole` inspect, of a key that several servers are asked for. It settles `promise`."""
        self._needs_sfss("read" if whole else "inspect")
        exchange = Consult(lookup, whole, call)
        exchange.opaque = lookup.opaque_in(call)
        return self._ask(self._reads, exchange, call, promise)

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Promise[Applied]:
        return self.apply_stamped(Stamped(key, record), call, new_promise())

    def apply_stamped(self, stamped: Stamped, call: Call, promise: Promise[Any]) -> Promise[Applied]:
        """The same, of a record that goes to several servers. It settles `promise`."""
        self._needs_sfss("apply")
        lane = self._bulk if stamped.record.size > self.limits.bulk_bytes else self._writes
        apply = Apply(stamped, call)
        apply.opaque = stamped.opaque_in(call)
        return self._ask(lane, apply, call, promise)

    def identify(self) -> Promise[Identity]:
        self._needs_sfss("identify")
        # It costs a node nothing, so one that doesn't say it soon isn't there: a lost packet would else hold up for
        # `answer_s` whoever waits for the node to come back.
        soon = Call(self._monotonic() + self.limits.connect_s)
        return self._ask(self._reads, AskIdentity(b"sfss identity\r\n"), soon)

    def bind(self, cluster: str, ring: int, fingerprint: str) -> Promise[Identity]:
        self._needs_sfss("bind")
        line = f"sfss bind {cluster} {ring} {fingerprint}\r\n".encode()
        return self._ask(self._reads, AskIdentity(line), NO_CALL)

    # Comparable and Refillable

    def hashes(self, prefix: bytes, call: Call = NO_CALL) -> Promise[bytes]:
        self._needs_sfss("hashes")
        return self._ask(self._reads, AskHashes(prefix), call)

    def hashes_held(self, prefix: bytes, call: Call = NO_CALL) -> Promise[bytes]:
        self._needs_sfss("hashes_held")
        return self._ask(self._reads, AskHashes(b"?" + prefix), call)

    def trust(self, epoch: int) -> Promise[Identity]:
        self._needs_sfss("trust")
        return self._ask(self._reads, AskIdentity(b"sfss trust %d\r\n" % epoch), NO_CALL)

    def recall(self, seen: Seen) -> Promise[Identity]:
        self._needs_sfss("recall")
        return self._ask(self._reads, AskIdentity(_recall(seen)), NO_CALL)

    def witness(self, told: Sequence[Seen]) -> Promise[tuple[Seen, ...]]:
        self._needs_sfss("witness")
        return self._ask(self._orders, TellSightings(told), NO_CALL)

    def adopt(self, cluster: str, ring: int, fingerprint: str, node: str) -> Promise[Identity]:
        self._needs_sfss("adopt")
        line = f"sfss adopt {cluster} {ring} {fingerprint} {node}\r\n".encode()
        return self._ask(self._reads, AskIdentity(line), NO_CALL)

    # RingKeeper. What may take long has a lane of its own: no read or write waits behind it, and it behind no file.

    def tell_ring(self, call: Call = NO_CALL) -> Promise[HeldRing]:
        self._needs_sfss("rings")
        return self._ask(self._reads, AskRing(b"sfss ring", (b"RING",)), call)

    def prepare_ring(self, number: int, ballot: int, call: Call = NO_CALL) -> Promise[Prepared]:
        self._needs_sfss("rings")
        line = b"sfss ring prepare %d %d" % (number, ballot)
        return self._ask(self._orders, PrepareRing(line, (b"PROMISE", b"NACK", b"RING")), call)

    def accept_ring(self, ballot: int, record: RingRecord, call: Call = NO_CALL) -> Promise[Voted]:
        self._needs_sfss("rings")
        line = b"sfss ring accept %d %d" % (record.number, ballot)
        return self._ask(self._orders, ChangeRing(line, (b"ACCEPTED", b"NACK", b"RING"), record.encode()), call)

    def learn_ring(self, record: RingRecord, call: Call = NO_CALL) -> Promise[HeldRing]:
        self._needs_sfss("rings")
        return self._ask(self._orders, ChangeRing(b"sfss ring learn", (b"RING",), record.encode()), call)

    def leave_ring(self, number: int, call: Call = NO_CALL) -> Promise[Identity]:
        self._needs_sfss("rings")
        return self._ask(self._orders, AskIdentity(b"sfss ring left %d\r\n" % number), call)

    def drop_partition(self, ring: int, partition: int, call: Call = NO_CALL) -> Promise[int]:
        self._needs_sfss("rings")
        return self._ask(self._orders, DropPartition(ring, partition), call)

    # Purgeable

    def purged(self, region: int) -> Promise[Purged]:
        self._needs_sfss("purged")
        return self._ask(self._reads, AskPurged(b"sfss purged %02x\r\n" % region), NO_CALL)

    def purge(self, region: int, ring: int, fence: int, bound: int) -> Promise[Purged]:
        self._needs_sfss("purge")
        line = b"sfss purge %02x %d %d %d\r\n" % (region, ring, fence, bound)
        return self._ask(self._orders, AskPurged(line), NO_CALL)

    def _needs_sfss(self, name: str) -> None:
        if self._classic:
            raise Unsupported(f"{name} on a server that isn't sfss's")

    # The way of every request

    def _ask(self, lane: Lane, exchange: Exchange, call: Call, promise: Promise[Any] | None = None) -> Promise[Any]:
        limits, account = self.limits, self._account
        if account.held >= limits.in_flight_max or account.bytes + exchange.size > limits.bytes_max:
            server = host_and_port(self.host, self.port)
            raise Busy(f"{account.held} requests with {account.bytes} bytes wait for {server}")
        if self._closed:
            raise ConnectionLost("the client was closed")
        now = self._monotonic()
        if call.deadline <= now:
            raise Expired("the deadline passed before the request was sent")
        exchange.deadline = min(call.deadline, now + limits.answer_s)
        if not exchange.opaque:
            exchange.opaque = self._opaques.next(call.request_id)
        turn = self._turn
        if turn is None:
            turn = self._turn = turn_of(asyncio.get_running_loop())
        if promise is None:
            promise = Promise(turn)
        exchange.promise = promise
        account.take_on(exchange)
        lane.submit(exchange, now)
        if self._sweep is None:
            self._sweep = turn.loop.call_later(limits.sweep_s, self._sweep_lanes)
        return promise

    def _sweep_lanes(self) -> None:
        self._sweep = None  # so that after a fault in here the next request begins it anew
        now = self._monotonic()
        waiting = [lane.sweep(now, self.limits.silence_s) for lane in self._lanes]
        if any(waiting):
            self._sweep = asyncio.get_running_loop().call_later(self.limits.sweep_s, self._sweep_lanes)

    # New connections

    async def _open_link(self, lane: Lane) -> Link:
        link = Link(lane, self._monotonic, self.limits.link_in_flight_max)
        try:
            async with asyncio.timeout(self.limits.connect_s):
                await self._plug_in(link)
        except TimeoutError:
            raise Unreachable(f"no connection within {self.limits.connect_s} s") from None
        except OSError as failure:
            raise Unreachable(reason_of(failure)) from None
        try:
            if self._access.words:
                await self._authenticate(link)
            if self._greet is not None:
                self._greet(self, await self._first(link, self._introduction(), "identity"))
        except SfssError as error:
            link.close(error)
            raise
        except BaseException:
            link.close(ConnectionLost("the client was closed"))
            raise
        if not link.open:
            raise ConnectionLost("the server closed the connection after its greeting")
        # A probe on one lane that finds the server back must not be followed by a write that another lane still
        # refuses: the caller would take the server for dead again.
        for every in self._lanes:
            every.forgive()
        return link

    async def _plug_in(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        sock = await connected(self.host, self.port)
        tls = self._access.tls
        if tls is None:
            SocketTransport(loop, sock, link)
            return
        try:
            await loop.create_connection(lambda: TlsProtocol(link), sock=sock, ssl=tls(), server_hostname=self.host)
        except BaseException:
            sock.close()
            raise

    def _introduction(self) -> AskIdentity:
        seen = self._last_seen()
        return AskIdentity(b"sfss identity\r\n" if seen is None else _recall(seen))

    async def _authenticate(self, link: Link) -> None:
        try:
            await self._first(link, Authenticate(self._access), "answer to the user and password")
        except BadKey:
            # One of ours that has no secret: so clients can have theirs before their servers do.
            if not self._found_open:
                self._found_open = True
                _log.warning("%s lets in whoever comes; give it the secret", host_and_port(self.host, self.port))

    async def _first(self, link: Link, exchange: Exchange, what: str) -> Any:
        """Ask on a link that isn't in service yet."""
        exchange.promise = new_promise()
        self._account.take_on(exchange)
        now = self._monotonic()
        exchange.deadline = now + self.limits.connect_s
        link.send(exchange, now)
        try:
            async with asyncio.timeout(self.limits.connect_s):
                return await exchange.promise
        except TimeoutError:
            raise Unreachable(f"no {what} within {self.limits.connect_s} s") from None


def _recall(seen: Seen) -> bytes:
    return f"sfss recall {seen.node} {seen.epoch} {seen.start} {seen.position}\r\n".encode()


def _checked(key: bytes) -> bytes:
    # A key with a line end in it would be a request of its own, and its reply would be another caller's.
    if not 0 < len(key) <= KEY_BYTES_MAX or has_forbidden(key):
        raise BadKey(f"{key[:80]!r} is no key")
    return key


def _all_checked(keys: Sequence[bytes]) -> Sequence[bytes]:
    # The bytes of all in one go: each by itself takes 250 instructions.
    some_odd = has_forbidden(b"".join(keys))
    for key in keys:
        if some_odd or not 0 < len(key) <= KEY_BYTES_MAX:
            _checked(key)
    return keys
