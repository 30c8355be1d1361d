"""Faults planted on purpose: what the fault tests have to catch, or they prove nothing.

`python -m tests.cluster.plants PLANT MODULE ARGUMENT…` runs a tier's command line with one part of it replaced by a
broken one. The product has no switch for any of this.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from tests.interpreted import use_sources

# What is compiled can't be replaced, and is read once for all when it is first imported.
use_sources()

PLANTS: dict[str, Callable[[], None]] = {}


def _plant(function: Callable[[], None]) -> Callable[[], None]:
    PLANTS[function.__name__.replace("_", "-")] = function
    return function


@_plant
def no_fsync() -> None:
    """A node that acknowledges what it never had put on the disk."""

    def forget(_fd: int) -> None:
        return

    write = os.pwritev

    def write_unsynced(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        return write(fd, buffers, offset, flags & ~os.RWF_DSYNC)

    os.fsync = os.fdatasync = forget
    os.pwritev = write_unsynced


@_plant
def one_ack() -> None:
    """A proxy that acknowledges a write, and believes a read, as soon as one replica has it."""
    from proxy.quorum import Quorum

    Quorum.over = classmethod(lambda cls, members, n=3, w=2, r=2: cls(min(n, members), 1, 1))  # type: ignore[assignment]


@_plant
def no_version_check() -> None:
    """A node that stores whatever comes last, not what is newest."""
    from nodes.format import Kind
    from nodes.store import NodeStore
    from sfss.store import Applied, Call, Record

    def apply(self: Any, key: bytes, record: Record, call: Call) -> Any:
        kind = int(Kind.TOMBSTONE if record.tombstone else Kind.FILE)
        write = self._add(kind, key, record.value, record.flags, record.expires, record.version, record.checksum)
        return self._when_durable(write, Applied(True, record.version, record.checksum, True))

    NodeStore.apply = apply  # type: ignore[method-assign,assignment]


@_plant
def no_write_back() -> None:
    """A proxy that answers a read with the newest it heard of, however few replicas hold it."""
    from proxy.reading import Read

    def write_back(self: Any, target: Any) -> bool:
        self._answer(target)
        return True

    Read._write_back = write_back  # type: ignore[method-assign]


@_plant
def hint_counted() -> None:
    """A proxy that counts the hint for a replica which doesn't answer, or answers with an error, as its copy."""
    from proxy.writing import Write

    refused = Write._refused

    def count(self: Any, peer: Any, error: Exception) -> None:
        refused(self, peer, error)
        self._accepted += 1

    def overdue(self: Any, _now: float) -> None:
        if self._sent and not self._settled:
            self._accepted += self._waiting
            self._decide()

    Write._refused = count  # type: ignore[method-assign]
    Write.overdue = overdue  # type: ignore[method-assign]


@_plant
def remembers_nothing() -> None:
    """A proxy that never tells a node what it, or others, saw of it."""
    from proxy.last_seen import LastSeen

    LastSeen.of = lambda self, node: None  # type: ignore[method-assign]
    LastSeen.hear = lambda self, told: []  # type: ignore[method-assign]


@_plant
def oldest_spread() -> None:
    """A proxy that takes the oldest of several records for the one that all should have."""
    from proxy import comparison

    comparison.newest_of = lambda orders: min((order for order in orders if order != (0, 0)), default=(0, 0))


@_plant
def purge_by_those_present() -> None:
    """A proxy that has tombstones purged as soon as those owners that are there agree, and takes what comes back
    after that for new."""
    from proxy.comparison import Comparison
    from proxy.purging import RegionPurge

    ask = RegionPurge.ask

    async def ask_those_present(self: Any, peers: Any, *, suspect_too: bool = False) -> None:
        await ask(self, peers, suspect_too=suspect_too)
        self._all_told = True

    RegionPurge.ask = ask_those_present  # type: ignore[method-assign]
    RegionPurge.is_returned = lambda *_: False  # type: ignore[method-assign,assignment]
    Comparison.whole = property(lambda self: True, lambda self, whole: None)  # type: ignore[assignment]


@_plant
def purged_is_gone() -> None:
    """A node that drops what is purged at once, as compaction does some day."""
    from nodes.purging import Purger

    move = Purger._move

    def move_and_drop(self: Any, region: int, bound: int, keys: list[bytes]) -> None:
        move(self, region, bound, keys)
        for key in keys:
            self._overlay.drop(key)

    Purger._move = move_and_drop  # type: ignore[method-assign]


@_plant
def wrong_slot() -> None:
    """A client that forgets a request whose caller has left, so that its reply goes to the next in line, and that
    doesn't look whose reply it is."""
    from sfss.memcache import exchanges
    from sfss.memcache.link import Link
    from sfss.web.proxies import _Request

    class AgreesWithAnything(int):
        def __ne__(self, other: object) -> bool:
            return False

    exchanges.checksum_of = lambda *_: AgreesWithAnything()  # type: ignore[assignment]
    exchanges.Exchange.opaque = property(lambda self: b"1", lambda self, opaque: None)  # type: ignore[assignment]
    read_replies = Link.data_received

    def data_received(self: Link, data: bytes) -> None:
        for exchange in [one for one in self.pending if one.promise.done()]:
            self.pending.remove(exchange)
        read_replies(self, data)

    Link.data_received = data_received  # type: ignore[method-assign]

    def until_the_caller_leaves(send: Any) -> Any:
        def send_one(self: Any, client: Any, call: Any) -> Any:
            reply = send(self, client, call)
            self.add_done_callback(lambda request: request.cancelled() and reply.cancel())
            return reply

        return send_one

    for kind in _Request.__subclasses__():
        kind.send = until_the_caller_leaves(kind.send)  # type: ignore[method-assign]


def main() -> None:
    plant, module = sys.argv[1:3]
    PLANTS[plant]()
    sys.argv = [module, *sys.argv[3:]]
    sys.exit(importlib.import_module(module).main())


if __name__ == "__main__":
    main()
