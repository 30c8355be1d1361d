"""How fast a work in the background may go, and doing many pieces of it side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_AHEAD_S = 0.1


class Pace:
    """Bytes a second that many tasks share; 0 is no limit."""

    def __init__(
        self,
        bytes_per_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._spent_until = 0.0

    async def spend(self, size: int) -> None:
        """Account for bytes that went by, and wait until the next may."""
        if not self._bytes_per_s:
            return
        now = self._monotonic()
        self._spent_until = max(self._spent_until, now) + size / self._bytes_per_s
        wait_s = self._spent_until - now - _AHEAD_S
        if wait_s > 0:
            await self._sleep(wait_s)


async def side_by_side(jobs: int, items: AsyncGenerator[T, None], work: Callable[[T], Awaitable[None]]) -> None:
    """Do `work` for each item, for so many at a time. The first exception ends all and is raised."""
    taking = asyncio.Lock()

    async def worker() -> None:
        while True:
            async with taking:
                item = await anext(items, None)
            if item is None:
                return
            await work(item)

    workers = [asyncio.create_task(worker()) for _ in range(jobs)]
    try:
        await asyncio.gather(*workers)
    finally:
        for each in workers:
            each.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await items.aclose()
