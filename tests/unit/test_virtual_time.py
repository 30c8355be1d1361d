"""The loop of the simulations: time passes as soon as nothing else can be done, and never stands still."""

from __future__ import annotations

import asyncio
import math

from tests.unit.virtual_time import in_virtual_time


async def until(due: float, turns_later: int) -> float:
    loop = asyncio.get_running_loop()
    for _ in range(turns_later):
        await asyncio.sleep(0)
    for _ in range(100):
        if loop.time() >= due:
            break
        await asyncio.sleep(due - loop.time())
    return loop.time()


@in_virtual_time
async def test_tasks_that_wait_for_less_than_a_nanosecond_do_not_keep_each_other_awake_for_ever():
    now = asyncio.get_running_loop().time()
    due = now + 3 * math.ulp(now)

    assert await asyncio.gather(*(until(due, turns) for turns in range(4))) == [due] * 4
