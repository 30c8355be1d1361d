"""One node as its coordinator sees it: the replica behind the wire, its health as observed, its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from proxy.latency import Latency
from sfss.groups import each
from sfss.memcache.client import MemcacheClient
from sfss.memcache.lookup import Lookup
from sfss.memcache.stamped import Stamped
from sfss.promise import Promise
from sfss.store import NO_CALL, Applied, Call, Record, Replica, Reply

_HEDGE_EVERY: Final = 128
"""After so many reads, when to hedge is worked out anew."""

_HEDGE_S_MIN: Final = 0.005
_HEDGE_S_FIRST: Final = 0.05
"""Until so many reads are known."""


class NodeAccess(Replica, Protocol):
    """A replica that also tells its figures; a node's store and the memcache client both do."""

    def stats(self, topic: str = "", call: Call = NO_CALL) -> Reply[dict[str, str]]: ...


class Peer:
    """A member of the ring. `name` is its address.

    `down`: it failed, and is asked only where a quorum is impossible without it. `suspect`: it may have forgotten
    acknowledged writes, so it counts toward no quorum. `error` says in words what is wrong, empty when nothing is.
    Changed by `proxy.health` alone.
    """

    __slots__ = (
        "apply_latency",
        "down",
        "error",
        "failures",
        "hedge_s",
        "inspect_latency",
        "name",
        "read_latency",
        "reads_until_hedge",
        "replica",
        "rest_s",
        "rests_until",
        "silences",
        "suspect",
        "suspect_at",
        "up_at",
        "zone",
    )

    def __init__(self, name: str, replica: NodeAccess, *, zone: str = "") -> None:
        self.name = name
        self.zone = zone
        self.replica = replica
        self.down = False
        self.suspect = False
        self.suspect_at = 0.0
        """When it was last seen to be (monotonic seconds)."""
        self.error = ""
        self.up_at = float("-inf")
        """When it last came back (monotonic seconds)."""
        self.rest_s = 0.0
        """How long it is left alone at least, being down; more each time that it is soon down again."""
        self.rests_until = 0.0
        self.silences = 0
        self.failures = 0
        self.read_latency = Latency()
        self.inspect_latency = Latency()
        self.apply_latency = Latency()
        self.hedge_s = _HEDGE_S_FIRST
        """What 95 % of its reads stay under: one that takes longer is overtaken by asking another replica."""
        self.reads_until_hedge = _HEDGE_EVERY

    def read_took(self, seconds: float) -> None:
        self.read_latency.record(seconds)
        self.reads_until_hedge -= 1
        if not self.reads_until_hedge:
            self.reads_until_hedge = _HEDGE_EVERY
            self.hedge_s = max(self.read_latency.quantile(0.95) or 0.0, _HEDGE_S_MIN)

    # A client is known by its class, and its methods called as C functions: 500 instructions less for each question.

    def read(self, lookup: Lookup, whole: bool, call: Call, question: Promise[Any]) -> Reply[Record | None]:
        """Read one key, or inspect it, as others may be asked to. A reply that is to come may be `question`."""
        replica = self.replica
        if isinstance(replica, MemcacheClient):
            return replica.consult(lookup, whole, call, question)
        return replica.read(lookup.key, call) if whole else replica.inspect(lookup.key, call)

    def apply(self, stamped: Stamped, call: Call, delivery: Promise[Any]) -> Reply[Applied]:
        """Write one record, which may go to others, too. A reply that is to come may be `delivery`."""
        replica = self.replica
        if isinstance(replica, MemcacheClient):
            return replica.apply_stamped(stamped, call, delivery)
        return replica.apply(stamped.key, stamped.record, call)

    def read_many(self, keys: Sequence[bytes], whole: bool, call: Call) -> Reply[list[Any]]:
        """Read or inspect several keys; in the list errors stand as values. What is inspected may be told in words
        (`Record.words`)."""
        replica = self.replica
        if isinstance(replica, MemcacheClient):
            return replica.read_many(keys, whole, call)
        ask = replica.read if whole else replica.inspect
        return each(lambda key: ask(key, call), keys)

    def apply_many(self, stamped: Sequence[Stamped], call: Call) -> Reply[list[Any]]:
        """Write several records; in the list errors stand as values."""
        replica = self.replica
        if isinstance(replica, MemcacheClient):
            return replica.apply_many(stamped, call)
        return each(lambda one: replica.apply(one.key, one.record, call), stamped)
