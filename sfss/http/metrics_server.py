"""A port of its own for Prometheus, for tiers that have no HTTP besides: `GET /metrics`, and nothing else.

It tells figures, no key and no file's bytes, and changes nothing; whoever reaches the port may read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiohttp import web
from prometheus_client.core import Metric

from sfss.http.metrics import CONTENT_TYPE, exposition

_CLOSE_S_MAX = 2.0


class MetricsServer:
    """Answers with what `tell` gives at that moment, from the loop's thread. Start, close."""

    def __init__(self, tell: Callable[[], Iterable[Metric]]) -> None:
        self._tell = tell
        self._runner: web.AppRunner | None = None
        self.port = 0
        """The port listened on, also where 0 was asked for."""

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError where that can't be."""
        app = web.Application()
        app.router.add_get("/metrics", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_S_MAX)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError:
            await self.close()
            raise
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop listening, end what is in hand; idempotent, takes at most about two seconds."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}
        return web.Response(body=exposition(self._tell()), headers=headers)
