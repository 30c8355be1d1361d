"""The end of tasks that work in the background."""

from __future__ import annotations

import asyncio


async def end(task: asyncio.Task[None] | None) -> None:
    """Cancel a task and wait until it is over, however it ended. Idempotent; None is one that was never started."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
