"""What is made for every request may be freed anywhere: also, compiled, deep within other objects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0

WAITING = """
import asyncio
from sfss.errors import ConnectionLost, Outcome
from sfss.promise import new_promise
from sfss.record import Applied, Call, Record, Written
from sfss.web.answers import Answer

def made(number):
    return [
        Record(b"x%d" % number, 3, version=number), Call(1.0, number), Written(number), Applied(True, number, 0, True),
        Answer(200, b"x%d" % number),
    ]

async def wait(promise, number):
    mine = made(number)
    await promise

async def main():
    for _ in range(10):
        promise = new_promise()
        tasks = [asyncio.create_task(wait(promise, number)) for number in range(100)]
        await asyncio.sleep(0)
        promise.set_exception(ConnectionLost("lost", Outcome.UNKNOWN))
        assert len(await asyncio.gather(*tasks, return_exceptions=True)) == 100
        del promise, tasks
        others = [made(number) for number in range(100)]
        assert [one[0].value for one in others] == [b"x%d" % number for number in range(100)]

asyncio.run(main())
"""


def test_an_error_that_many_waited_for_takes_what_they_had_with_it() -> None:
    try:
        ended = subprocess.run([sys.executable, "-c", WAITING], cwd=ROOT, timeout=PATIENCE_S, stderr=subprocess.PIPE)
    except subprocess.TimeoutExpired:
        pytest.fail("it goes round in memory that is spoiled")
    assert (ended.returncode, ended.stderr) == (0, b"")
