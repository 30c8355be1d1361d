"""What a coordinator tells of itself and of its nodes: `stats`, `stats storages`, and the monitor's page.

Nodes are asked side by side, each with its own short deadline, and at most once per `_FRESH_S` however many look; a
dead one is told as dead and delays nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from proxy.explanation import EXPLANATIONS_MAX, explain
from proxy.latency import Latency
from proxy.peer import Peer
from sfss.errors import BadRequest, Busy
from sfss.explanation import key_of_topic
from sfss.store import Call, settled

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator
    from proxy.monitor import RingFigures

_FRESH_S = 0.5

NodeStats = dict[str, dict[str, str]]


class Figures:
    """The figures of one coordinator."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._asking: asyncio.Task[NodeStats] | None = None
        self._asked_at = float("-inf")
        self._others: list[Callable[[], dict[str, str]]] = []
        self._explanations = 0

    def also(self, figures: Callable[[], dict[str, str]]) -> None:
        """Tell these, too: of what works behind the coordinator."""
        self._others.append(figures)

    def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    async def of_topic(self, topic: str) -> dict[str, str]:
        """What `stats <topic>` answers; the empty topic is the coordinator's own."""
        key = key_of_topic(topic)
        if key is not None:
            return await self._explained(key)
        storages = await self.storages()
        if topic == "storages":
            return {f"{node}/{name}": value for node, stats in storages.items() for name, value in stats.items()}
        figures = self._items(storages) | self._own() | self._latencies()
        for other in self._others:
            figures |= other()
        return figures

    async def _explained(self, key: bytes) -> dict[str, str]:
        if self._explanations >= EXPLANATIONS_MAX:
            raise Busy(f"{self._explanations} keys are being explained")
        self._explanations += 1
        try:
            return await explain(self._coordinator, key)
        finally:
            self._explanations -= 1

    async def storages(self) -> NodeStats:
        """Each node's STATS by its address, with its `state` (`ok`, `suspect` or `dead`) and, when something is wrong,
        `error`."""
        now = self._coordinator.monotonic()
        if self._asking is None or (self._asking.done() and now >= self._asked_at + _FRESH_S):
            self._asked_at = now
            self._asking = asyncio.get_running_loop().create_task(self._ask_all(), name="stats of all nodes")
        return await asyncio.shield(self._asking)

    def ring(self) -> RingFigures:
        """The ring as the monitor shows it."""
        placed = self._coordinator.placed
        return {
            "number": placed.number,
            "joint": placed.joint,
            "partitions": placed.partitions,
            "N": placed.quorum.n,
            "W": placed.quorum.w,
            "R": placed.quorum.r,
            "nodes": {
                peer.name: {
                    "partitions": placed.held[peer],
                    "first": placed.first[peer],
                    "zone": peer.zone,
                    "weight": placed.weights[peer],
                }
                for peer in placed.peers
            },
        }

    async def _ask_all(self) -> NodeStats:
        peers = self._coordinator.placed.peers
        answers = await asyncio.gather(*(self._ask(peer) for peer in peers))
        return {peer.name: answer for peer, answer in zip(peers, answers, strict=True)}

    async def _ask(self, peer: Peer) -> dict[str, str]:
        if peer.down:
            return {"state": "dead", "error": peer.error}
        within = self._coordinator.options.stats_deadline_s
        try:
            reply = peer.replica.stats("", Call(self._coordinator.monotonic() + within))
            stats = await asyncio.wait_for(settled(reply), within)
        except TimeoutError:
            return {"state": "dead", "error": f"no answer in {within} s"}
        except Exception as error:  # whatever is wrong with one node, the others are told
            return {"state": "dead", "error": str(error) or type(error).__name__}
        suspect = peer.suspect or stats.get("state") == "suspect"
        reason = stats.get("suspect_reason", "")
        trouble = f"{peer.error} ({reason})" if peer.error and reason else peer.error
        return {**stats, "state": "suspect" if suspect else "ok"} | ({"error": trouble} if trouble else {})

    def _items(self, storages: NodeStats) -> dict[str, str]:
        """Files by what the living nodes say, each of which is kept N times; of the dead ones an average is assumed."""
        placed = self._coordinator.placed
        living = [stats for stats in storages.values() if stats["state"] != "dead"]
        scale = len(placed.peers) / (max(len(living), 1) * placed.quorum.n)
        return {
            name: str(round(scale * sum(_number(stats, name) for stats in living)))
            for name in ("curr_items", "total_items")
        }

    def _own(self) -> dict[str, str]:
        coordinator = self._coordinator
        placed, counters = coordinator.placed, coordinator.counters
        figures: dict[str, object] = {
            "quorum": placed.quorum,
            "quorum_relaxed": int(placed.quorum.relaxed),
            "stamps": coordinator.stamping,
            "ring_number": placed.number,
            "ring_joint": int(placed.joint),
            "ring_fingerprint": placed.fingerprint,
            "ring_partitions": placed.partitions,
            "ring_share_min": f"{min(placed.shares):.3f}",
            "ring_share_max": f"{max(placed.shares):.3f}",
            "requests_in_flight": coordinator.in_flight,
            "write_bytes_in_flight": coordinator.bytes_in_flight,
            "keys_written_by_others": coordinator.shared_keys,
        }
        return (
            {name: str(value) for name, value in figures.items()}
            | {name: str(count) for name, count in asdict(counters).items()}
            | (coordinator.hints.figures(placed.peers) if coordinator.hints is not None else {})
        )

    def _latencies(self) -> dict[str, str]:
        figures = {}
        for peer in self._coordinator.placed.peers:
            figures[f"{peer.name}/state"] = "down" if peer.down else "suspect" if peer.suspect else "ok"
            figures[f"{peer.name}/failures"] = str(peer.failures)
            latencies: Mapping[str, Latency] = {
                "read": peer.read_latency,
                "inspect": peer.inspect_latency,
                "apply": peer.apply_latency,
            }
            for operation, latency in latencies.items():
                for name, part in (("p50", 0.5), ("p99", 0.99)):
                    seconds = latency.quantile(part)
                    if seconds is not None:
                        figures[f"{peer.name}/{operation}_{name}_us"] = str(round(seconds * 1e6))
        return figures


def check_topic(topic: str) -> None:
    """Refuse (`BadRequest`) a topic that a coordinator has no figures on."""
    if topic not in ("", "storages") and key_of_topic(topic) is None:
        raise BadRequest(f"no stats on {topic!r} here")


def _number(stats: Mapping[str, str], name: str) -> int:
    try:
        return int(stats.get(name, "0"))
    except ValueError:
        return 0
