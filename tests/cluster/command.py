"""Commands of `sfss` as processes."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from tests.cluster.parts import clean_environment, python_command

COMMAND_S_MAX = 120.0


class Ended(NamedTuple):
    status: int
    out: str
    error: str


async def begin(*arguments: object) -> asyncio.subprocess.Process:
    """Start `sfss` with these words."""
    command = [*python_command("sfss.commands.main"), *map(str, arguments)]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=clean_environment())


async def sfss(*arguments: object) -> Ended:
    """Run it to its end."""
    process = await begin(*arguments)
    async with asyncio.timeout(COMMAND_S_MAX):
        out, error = await process.communicate()
    return Ended(process.returncode or 0, out.decode(), error.decode())
