"""The monitor: a web page about one proxy, its ring and its nodes, on a port of its own.

People get a live page, programs the same figures as JSON, at the same URL, by `Accept`. The JSON has the shape of the
web tier's `/status` (one key for the proxy, then `storages`) and, besides, `ring` and `durability`. Prometheus has
`/metrics`. However many look at once, the source is asked at most once a second.

It does nothing and tells no path and no file's bytes. So `Host` isn't checked: a page elsewhere whose name is made to
point here (DNS rebinding) could read figures, as anybody can who reaches the port, and names that operators give this
machine go on working.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol, TypedDict

from aiohttp import web

from proxy.metrics import proxy_families
from sfss.durability import durability_of
from sfss.http.metrics_server import metrics_response
from sfss.http.negotiation import prefers_html
from sfss.http.page import render_page
from sfss.http.small_server import SmallServer

_FRESH_S = 1.0
"""Figures younger than this are given again; the page asks every 2 s."""

_HEADERS = {"Cache-Control": "no-store", "Vary": "Accept"}

_log = logging.getLogger("sfss.proxy.monitor")


class RingShare(TypedDict):
    """One node's part of the ring. `partitions` counts those it holds a copy of, `first` those it is the first
    owner of; `zone` is empty where no zones are configured."""

    partitions: int
    first: int
    zone: str
    weight: float


class RingFigures(TypedDict):
    """The ring: its number, whether it is joint (on the way to the next placement), how many partitions it has, the
    quorum (`N` copies, `W` writes, `R` reads) and each node's share, by address."""

    number: int
    joint: bool
    partitions: int
    N: int
    W: int
    R: int
    nodes: dict[str, RingShare]


class Figures(TypedDict):
    """What the monitor shows. `proxy` is the proxy's own address, `stats` its STATS; `storages` has those of every node
    by address, each with `state` (`ok`, `suspect` or `dead`) and, when something is wrong, `error`."""

    proxy: str
    stats: dict[str, str]
    storages: dict[str, dict[str, str]]
    ring: RingFigures


class MonitorSource(Protocol):
    """Where the monitor's figures come from."""

    async def figures(self) -> Figures:
        """Collect them now. Bounded in time by the source: a dead node is told as dead, and delays nothing."""


class Monitor:
    """A running monitor; made by `start_monitor`. `port` is the one listened on, also where 0 was asked for."""

    def __init__(self, source: MonitorSource, now: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._now = now
        self._page = render_page("monitor")
        self._asking: asyncio.Task[Figures] | None = None
        self._asked_at = float("-inf")
        self._server = SmallServer({"/": self._answer, "/metrics": self._metrics})

    @property
    def port(self) -> int:
        return self._server.port

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError where that can't be."""
        await self._server.start(host, port)

    async def close(self) -> None:
        """Stop listening, end what is in hand; idempotent, takes at most about two seconds."""
        await self._server.close()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _answer(self, request: web.Request) -> web.Response:
        if prefers_html(request.headers.get("Accept", "")):
            return web.Response(body=self._page.html.encode(), headers=self._page.headers)
        try:
            figures = await self._figures()
        except Exception as error:
            return _no_figures(error)
        body: dict[str, Any] = {
            figures["proxy"]: {"state": "ok", **figures["stats"]},
            "storages": figures["storages"],
            "ring": figures["ring"],
            "durability": durability_of({figures["proxy"]: figures["stats"]}, figures["storages"]).told(),
        }
        return web.json_response(body, headers=_HEADERS)

    async def _metrics(self, request: web.Request) -> web.Response:
        try:
            figures = await self._figures()
        except Exception as error:
            return _no_figures(error)
        return metrics_response(proxy_families(figures["proxy"], figures["stats"], figures["storages"]))

    async def _figures(self) -> Figures:
        """Figures not older than `_FRESH_S`. Requests that come meanwhile wait for the same answer; one that leaves
        takes nothing from the others."""
        if self._asking is None or (self._asking.done() and self._now() >= self._asked_at + _FRESH_S):
            self._asked_at = self._now()
            self._asking = asyncio.create_task(self._source.figures())
        return await asyncio.shield(self._asking)


def _no_figures(error: Exception) -> web.Response:
    _log.error("no figures for the monitor", exc_info=error)
    answer = {"error": "no_figures", "message": f"the proxy can't tell its figures: {error}"}
    return web.json_response(answer, status=503, headers=_HEADERS)


async def start_monitor(source: MonitorSource, host: str, port: int) -> Monitor:
    """Serve the monitor on `host`:`port` (0 picks one). The caller has checked that `host` may be listened on."""
    monitor = Monitor(source)
    await monitor.start(host, port)
    return monitor
