"""A port of its own for a few pages, for tiers whose own port doesn't speak HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

_CLOSE_S_MAX = 2.0


class SmallServer:
    """Answers GET at each of `pages`, which are by path. Start, close."""

    def __init__(self, pages: Mapping[str, Callable[[web.Request], Awaitable[web.Response]]]) -> None:
        self._pages = pages
        self._runner: web.AppRunner | None = None
        self.port = 0
        """The port listened on, also where 0 was asked for."""

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError where that can't be."""
        app = web.Application()
        for path, answer in self._pages.items():
            app.router.add_get(path, answer)
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
