"""What handlers work with: the store, what it offers, the counters, the clocks and the recache marks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from sfss.errors import Unsupported
from sfss.memcache.marks import RecacheMarks
from sfss.stamps import StampClock
from sfss.store import Flushable, Replica, Store, Updater


class Counters:
    """Counts since the start or the last `stats reset`."""

    __slots__ = (
        "bytes_read",
        "bytes_written",
        "cas_badval",
        "cas_hits",
        "cas_misses",
        "cmd_delete",
        "cmd_flush",
        "cmd_get",
        "cmd_meta",
        "cmd_set",
        "cmd_touch",
        "conn_yields",
        "delete_hits",
        "delete_misses",
        "errors",
        "get_hits",
        "get_misses",
        "rejected_busy",
        "rejected_connections",
        "total_connections",
        "touch_hits",
        "touch_misses",
    )

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)


class Service:
    """One store as a memcache server offers it.

    `offers` names the contracts that the store implements besides `Store`; `replica` and `updater` are the store again
    as those. They raise `Unsupported` where it is none: `dispatch` refuses before that.
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
        # Looked at once: asking whether a store fits a protocol takes microseconds.
        self._replica = store if isinstance(store, Replica) else None
        self._updater = store if isinstance(store, Updater) else None
        self._flushable = store if isinstance(store, Flushable) else None
        offered = {"replica": self._replica, "updater": self._updater, "flushable": self._flushable}
        self.offers = frozenset(name for name, kind in offered.items() if kind is not None) | {""}
        self.allow_flush = allow_flush
        self.now = now
        self.monotonic = monotonic
        self.settings = settings
        self.figures = figures
        self.counters = Counters()
        self.marks = RecacheMarks()
        self.stub_stamps = StampClock(now)

    @property
    def replica(self) -> Replica:
        """The store as a replica."""
        if self._replica is None:
            raise Unsupported("raw records")
        return self._replica

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
