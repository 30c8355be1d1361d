"""A port of its own for Prometheus, for tiers that have no HTTP besides: `GET /metrics`, and nothing else.

It tells figures, no key and no file's bytes, and changes nothing; whoever reaches the port may read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiohttp import web
from prometheus_client.core import Metric

from sfss.http.metrics import CONTENT_TYPE, exposition
from sfss.http.small_server import SmallServer


def metrics_response(families: Iterable[Metric]) -> web.Response:
    return web.Response(body=exposition(families), headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})


def metrics_server(tell: Callable[[], Iterable[Metric]]) -> SmallServer:
    """Answers with what `tell` gives at that moment, from the loop's thread."""

    async def answer(request: web.Request) -> web.Response:
        return metrics_response(tell())

    return SmallServer({"/metrics": answer})
