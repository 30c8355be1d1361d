"""A cluster that is not there: figures of the shape that `/status` and the monitor give, which change as real ones do.

For tests of the pages, and to look at them: `python -m tests.integration.invented_cluster` serves both at fixed ports.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from proxy.monitor import Figures, RingFigures, start_monitor
from sfss.durability import durability_of
from sfss.http.negotiation import prefers_html
from sfss.web.status_page import status_page

NODES = ("localhost:7900", "localhost:7901", "localhost:7902")
PROXIES = ("localhost:8900", "localhost:8901")
NODE_LATENCIES = {"read_p50": "320", "read_p99": "1790", "apply_p50": "1280", "apply_p99": "6140"}


class InventedCluster:
    """Every counter rises by a rate that swings slowly; `speed` 0 makes it stand still. `dead` holds the addresses that
    don't answer, and may be changed at any time."""

    def __init__(
        self,
        nodes: tuple[str, ...] = NODES,
        proxies: tuple[str, ...] = PROXIES,
        workers: int = 2,
        speed: float = 1.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.nodes = nodes
        self.proxies = proxies
        self.workers = workers
        self.speed = speed
        self.dead: set[str] = set()
        self.joint = False
        self.states: dict[str, str] = {}
        self.extra: dict[str, dict[str, str]] = {}
        self._now = now
        self._started = now()

    def status(self) -> dict[str, Any]:
        """What the web tier answers at `/status`."""
        peers = {
            address: self._peer(address, index, 1 / len(self.proxies)) for index, address in enumerate(self.proxies)
        }
        storages = self.storages()
        durability = {"durability": durability_of(peers, storages).told()}
        return {**peers, "storages": storages, "webserver": self._webserver() | durability}

    def storages(self) -> dict[str, dict[str, str]]:
        return {
            address: self._peer(address, index + 5, 1.0) | {"disk_free_bytes": str(1_200_000_000_000 + index * 10**9)}
            for index, address in enumerate(self.nodes)
        }

    async def figures(self) -> Figures:
        """What a proxy tells its monitor."""
        stats = self._peer(self.proxies[0], 0, 1.0)
        stats.pop("state")
        return {"proxy": self.proxies[0], "stats": stats, "storages": self.storages(), "ring": self._ring()}

    def _ring(self) -> RingFigures:
        partitions = 4096
        copies = min(3, len(self.nodes))
        held = [partitions * copies // len(self.nodes) + (-1) ** index * 31 * index for index in range(len(self.nodes))]
        return {
            "number": 2 if self.joint else 1,
            "joint": self.joint,
            "partitions": partitions,
            "N": copies,
            "W": copies // 2 + 1,
            "R": copies // 2 + 1,
            "nodes": {
                address: {
                    "partitions": held[index],
                    "first": partitions // len(self.nodes) + (-1) ** index * 17 * index,
                    "zone": "abc"[index % 3],
                    "weight": 1.0,
                }
                for index, address in enumerate(self.nodes)
            },
        }

    def _elapsed(self) -> float:
        return (self._now() - self._started) * self.speed

    def _risen(self, per_s: float, phase: float) -> int:
        """The integral over time of a rate that swings around `per_s` by a third, with a faster ripple."""
        t = self._elapsed()
        slow = 0.33 * 47 * (math.cos(phase) - math.cos(t / 47 + phase))
        ripple = 0.12 * 5 * (math.cos(phase * 3) - math.cos(t / 5 + phase * 3))
        return int(per_s * (t + slow + ripple))

    def _peer(self, address: str, index: int, load: float) -> dict[str, str]:
        if address in self.dead:
            return {"state": "dead", "error": "connection refused"}
        reads = self._risen(1240 * load, index * 0.3)
        writes = self._risen(310 * load, 1 + index * 0.3)
        deletes = self._risen(12 * load, 2)
        return {
            "state": self.states.get(address, "ok"),
            "pid": str(4210 + index),
            "uptime": str(int(183_600 + self._elapsed())),
            "time": str(int(self._now())),
            "threads": "4",
            "total_items": str(1_204_881 + writes),
            "curr_items": str(1_104_300 + index * 417 + writes - deletes),
            "live_bytes": str(48_300_000_000 + index * 1_730_000_000 + writes * 41_000),
            "rusage_user": f"{self._elapsed() * 0.31:.6f}",
            "rusage_system": f"{self._elapsed() * 0.12:.6f}",
            "rusage_maxrss": str(61_200 + index * 830),
            "curr_connections": str(18 + index),
            "total_connections": str(930 + index),
            "cmd_get": str(reads),
            "cmd_set": str(writes),
            "cmd_delete": str(deletes),
            "get_hits": str(int(reads * 0.987)),
            "get_misses": str(reads - int(reads * 0.987)),
            "bytes_read": str(writes * 41_000),
            "bytes_written": str(reads * 38_500),
            "quorum": "3/2/2",
            **({"hints_waiting": "0", "hints_oldest_s": "0"} if address in self.proxies else {}),
            "oldest_unsynced_write_s": "0.002",
            "corrupt_records": "0",
            "damaged_records": "0",
            "quorum_failures": "0",
            **{f"{node}/{name}_us": value for node in self.nodes for name, value in NODE_LATENCIES.items()},
            "sync": "always",
            **self.extra.get(address, {}),
        }

    def _webserver(self) -> dict[str, Any]:
        workers = [self._worker(index, 1 / self.workers) for index in range(self.workers)]
        return {**self._worker(-1, 1.0), "workers": workers}

    def _worker(self, index: int, load: float) -> dict[str, Any]:
        reads = self._risen(1240 * load, index * 0.2)
        writes = self._risen(310 * load, 1 + index * 0.2)
        return {
            "state": "ok",
            "pid": str(5301 + index),
            "uptime": str(int(183_500 + self._elapsed())),
            "rusage_maxrss": str(88_000 + index * 410),
            "curr_connections": str(24 + index * 3),
            "requests_get": str(reads),
            "requests_head": str(reads // 90),
            "requests_put": str(writes),
            "requests_post": str(writes // 20),
            "requests_delete": str(writes // 40),
            "get_hits": str(int(reads * 0.987)),
            "get_misses": str(reads - int(reads * 0.987)),
            "bytes_in": str(writes * 41_000),
            "bytes_out": str(reads * 38_500),
            "status_2xx": str(reads + writes),
            "status_4xx": str(reads // 80),
            "status_5xx": "0",
            "latency_get_p50_us": str(self._swinging(900, index)),
            "latency_get_p99_us": str(self._swinging(5100, index + 1)),
            "latency_put_p50_us": str(self._swinging(2600, index + 2)),
            "latency_put_p99_us": str(self._swinging(14300, index + 3)),
        }

    def _swinging(self, around: int, phase: float) -> int:
        """A figure that swings around its mean in the minutes."""
        return int(around * (1 + 0.2 * math.sin(self._elapsed() / 31 + phase) + 0.06 * math.sin(self._elapsed() / 3)))


class StatusServer:
    """The web tier's `/status` over an invented cluster. `broken` makes it fail as a server without proxies does."""

    def __init__(self, cluster: InventedCluster) -> None:
        self.cluster = cluster
        self.broken = False
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_get("/status", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        if prefers_html(request.headers.get("Accept", "")):
            page = status_page()
            return web.Response(body=page.html.encode(), headers=page.headers)
        if self.broken:
            return web.json_response({"error": "unreachable", "message": "none of 2 proxies answers"}, status=504)
        return web.json_response(self.cluster.status())


async def _show() -> None:
    cluster = InventedCluster()
    server = StatusServer(cluster)
    await server.start(18255)
    await start_monitor(cluster, "127.0.0.1", 19900)
    print("http://127.0.0.1:18255/status http://127.0.0.1:19900/")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_show())
