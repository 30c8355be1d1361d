"""What handlers work with: the store, what it offers, the counters, the clocks and the recache marks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from sfss import __version__
from sfss.errors import Unsupported
from sfss.memcache.accesses import Accesses
from sfss.memcache.marks import RecacheMarks
from sfss.ring_keeper import RingKeeper
from sfss.stamps import StampClock
from sfss.store import (
    Comparable,
    Flushable,
    GroupReplica,
    GroupStore,
    Purgeable,
    Refillable,
    Replica,
    Store,
    Updater,
    Witness,
)

OURS = "-sfss-"
"""What no other server's version has."""
WIRE_VERSION = f"1.6.0{OURS}{__version__}"
"""Which memcached's protocol is spoken, and by whom. libmemcached refuses servers whose major version is 0, and keeps
23 characters at most."""


@dataclass
class Counters:
    """Counts since the start or the last `stats reset`."""

    auth_cmds: int = 0
    auth_errors: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    cas_badval: int = 0
    cas_hits: int = 0
    cas_misses: int = 0
    cmd_delete: int = 0
    cmd_flush: int = 0
    cmd_get: int = 0
    cmd_set: int = 0
    cmd_touch: int = 0
    delete_hits: int = 0
    delete_misses: int = 0
    errors: int = 0
    get_hits: int = 0
    get_misses: int = 0
    rejected_busy: int = 0
    rejected_connections: int = 0
    total_connections: int = 0
    touch_hits: int = 0
    touch_misses: int = 0

    def reset(self) -> None:
        """Begin again at 0."""
        for field in fields(self):
            setattr(self, field.name, 0)


class Service:
    """One store as a memcache server offers it.

    `offers` names the contracts that the store implements besides `Store`; `replica` and `updater` are the store again
    as those. They raise `Unsupported` where it is none: `dispatch` refuses before that. `grouped` is the store as one
    that serves groups by itself; None where each key of a group is asked for alone. `grouped_replica`: the same of
    stamped writes.
    `settings` and `figures` are what `stats settings` and `stats` tell of the server itself.
    """

    def __init__(
        self,
        store: Store,
        *,
        allow_flush: bool = False,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        settings: Callable[[], Mapping[str, str]] = dict,
        figures: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.store = store
        self.grouped = store if isinstance(store, GroupStore) else None
        self.grouped_replica = store if isinstance(store, GroupReplica) else None
        # Looked at once: asking whether a store fits a protocol takes microseconds.
        self._replica = store if isinstance(store, Replica) else None
        self._comparable = store if isinstance(store, Comparable) else None
        self._purgeable = store if isinstance(store, Purgeable) else None
        self._refillable = store if isinstance(store, Refillable) else None
        self._witness = store if isinstance(store, Witness) else None
        self._ring_keeper = store if isinstance(store, RingKeeper) else None
        self._updater = store if isinstance(store, Updater) else None
        self._flushable = store if isinstance(store, Flushable) else None
        offered = {
            "replica": self._replica,
            "comparable": self._comparable,
            "purgeable": self._purgeable,
            "refillable": self._refillable,
            "updater": self._updater,
            "flushable": self._flushable,
        }
        self.offers = frozenset(name for name, kind in offered.items() if kind is not None) | {""}
        self.allow_flush = allow_flush
        self.now = now
        self.monotonic = monotonic
        self.settings = settings
        self.figures = figures
        self.counters = Counters()
        self.marks = RecacheMarks()
        self.accesses = Accesses()
        self.stub_stamps = StampClock(now)

    @property
    def replica(self) -> Replica:
        """The store as a replica."""
        if self._replica is None:
            raise Unsupported("raw records")
        return self._replica

    @property
    def comparable(self) -> Comparable:
        """The store as one that keeps a hash tree."""
        if self._comparable is None:
            raise Unsupported("get @ asks for the hash tree, which nodes keep")
        return self._comparable

    @property
    def purgeable(self) -> Purgeable:
        """The store as one that forgets tombstones."""
        if self._purgeable is None:
            raise Unsupported("only nodes are told what to purge")
        return self._purgeable

    @property
    def refillable(self) -> Refillable:
        """The store as one that may have forgotten something."""
        if self._refillable is None:
            raise Unsupported("only nodes are refilled")
        return self._refillable

    @property
    def witness(self) -> Witness:
        """The store as one that keeps in mind what was seen of others."""
        if self._witness is None:
            raise Unsupported("only nodes keep others in mind")
        return self._witness

    @property
    def ring_keeper(self) -> RingKeeper:
        """The store as one that keeps its cluster's ring."""
        if self._ring_keeper is None:
            raise Unsupported("only nodes keep a ring")
        return self._ring_keeper

    @property
    def updater(self) -> Updater:
        """The store as an updater."""
        if self._updater is None:
            raise Unsupported("atomic updates")
        return self._updater

    @property
    def flushable(self) -> Flushable:
        """The store as one that can be flushed."""
        if self._flushable is None:
            raise Unsupported("flush_all")
        return self._flushable
