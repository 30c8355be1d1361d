"""Where one key lives: each of its replicas asked for the whole record, and what comes of that put beside the others.

For operators. It goes past quorums and repairs nothing: it shows what is there. Every replica is asked, those that are
down or suspect too, side by side, and each on its own deadline.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.peer import Peer
from sfss.errors import ConnectionLost, CorruptRecord, Expired, Recovering, Unreachable
from sfss.keys import hash_key
from sfss.store import Call, Identity, Record, settled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.coordinator import Coordinator

EXPLANATIONS_MAX = 4
"""Explanations under way; more are refused. Each holds a whole record of every replica in memory."""


_VERDICTS: dict[type[Exception], str] = {
    CorruptRecord: "corrupt",
    Recovering: "recovering",
    Unreachable: "unreachable",
    ConnectionLost: "unreachable",
    Expired: "unreachable",
}


@dataclass(frozen=True, slots=True)
class _Found:
    """What a replica said: `verdict` is `whole` (its record passed its checksum), `none`, one of `_VERDICTS` or
    `failed`; with these `error` says more. The node's identity, where it gave one."""

    peer: Peer
    verdict: str
    record: Record | None
    identity: Identity | None
    error: str


async def explain(coordinator: Coordinator, key: bytes) -> dict[str, str]:
    """What `stats explain <key>` answers (docs/wire.rst)."""
    placed = coordinator.placed
    owners = placed.owners(key)
    found = await asyncio.gather(*(_ask(coordinator, peer, key) for peer in owners.peers))
    nodes = await coordinator.figures.storages()
    newest = max((one.record for one in found if one.record is not None), key=Record.order, default=None)
    in_order = coordinator.in_order(owners)
    holders = [one.peer for one in found if newest is not None and one.record is not None and _same(one.record, newest)]
    told = {
        "hash": f"{hash_key(key):016x}",
        "partition": str(placed.partition(key)),
        "partitions": str(placed.partitions),
        "ring": str(placed.number),
        "quorum": str(placed.quorum),
        "kind": _kind(newest) if newest is not None or all(one.verdict == "none" for one in found) else "unknown",
        "newest": _etag(newest),
        "copies": str(len(holders)),
        # A read asks the replicas in this order, and takes the bytes from the first that has the newest.
        "answers": next((peer.name for peer in in_order if peer in holders and not peer.suspect), "-"),
    }
    for place, one in enumerate(found):
        figures = _of_replica(one, newest, nodes.get(one.peer.name, {}), coordinator.now())
        told |= {f"{one.peer.name}/{name}": value for name, value in {"place": str(place), **figures}.items()}
    return told


async def _ask(coordinator: Coordinator, peer: Peer, key: bytes) -> _Found:
    within = coordinator.options.node_deadline_s
    call = Call(coordinator.monotonic() + within, coordinator.placed.number)
    identity, record = await asyncio.gather(
        asyncio.wait_for(_identity(peer), within),
        asyncio.wait_for(_record(peer, key, call), within),
        return_exceptions=True,
    )
    who = identity if isinstance(identity, Identity) else None
    if isinstance(record, Record):
        return _Found(peer, "whole", record, who, "")
    if record is None:
        return _Found(peer, "none", None, who, "")
    if isinstance(record, TimeoutError):
        return _Found(peer, "unreachable", None, who, f"no answer in {within:g} s")
    # Whatever is wrong with one replica, the others are told.
    verdict = next((name for kind, name in _VERDICTS.items() if isinstance(record, kind)), "failed")
    return _Found(peer, verdict, None, who, str(record) or type(record).__name__)


async def _identity(peer: Peer) -> Identity:
    return await settled(peer.replica.identify())


async def _record(peer: Peer, key: bytes, call: Call) -> Record | None:
    """The record, verified by the node, and again here by a client over the wire."""
    record = await settled(peer.replica.read(key, call))
    return record.replaced(value=b"") if record is not None else None


def _of_replica(found: _Found, newest: Record | None, stats: Mapping[str, str], now: float) -> dict[str, str]:
    peer, record = found.peer, found.record
    figures = {
        "node": found.identity.node if found.identity is not None else "-",
        "health": "down" if peer.down else "suspect" if peer.suspect else "ok",
        "verdict": found.verdict,
    }
    if peer.zone:
        figures["zone"] = peer.zone
    if found.error:
        figures["error"] = found.error
    if record is not None:
        sync = stats.get("sync", "unknown")
        figures |= {
            "kind": _kind(record),
            "etag": _etag(record),
            "version": str(record.version),
            "size": str(record.size),
            "flags": str(record.flags),
            "expires": str(record.expires),
            "state": "newest" if newest is not None and _same(record, newest) else "stale",
            "durable": "yes" if sync == "always" else f"sync={sync}",
        }
        if not record.tombstone and not record.live(now):
            figures["kind"] = "expired"
    elif found.verdict == "none" and newest is not None:
        figures |= {"kind": "none", "state": "missing"}
    elif found.verdict == "none":
        figures["kind"] = "none"
    return figures


def _same(one: Record, other: Record) -> bool:
    return one.order() == other.order()


def _kind(record: Record | None) -> str:
    if record is None:
        return "none"
    return "tombstone" if record.tombstone else "file"


def _etag(record: Record | None) -> str:
    """As the web tier's ETag tells it."""
    return "-" if record is None else f"{record.version:016x}-{record.checksum:016x}"
