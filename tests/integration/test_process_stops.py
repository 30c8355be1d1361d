"""How a process runs, ends when its stop hangs, and ends when its parent is gone."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from sfss import process


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)


SCRIPT = """
import asyncio, os, signal, sys, threading, time
from sfss import process
from sfss.errors import SetupError
process.STOP_S_MAX = 0.3
async def main(stop):
    {body}
sys.exit(process.run("sfss-part", main))
"""


def test_the_last_resort_is_disarmed_once_the_process_has_stopped() -> None:
    script = SCRIPT.format(body="os.kill(os.getpid(), 15); await stop.wait()").replace("sys.exit", "print")

    done = run_script(script + "time.sleep(0.6); print('alive')")

    assert done.stdout == "0\nalive\n"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("os.kill(os.getpid(), 15); await asyncio.sleep(60)", id="main that does not close"),
        pytest.param("os.kill(os.getpid(), 15); await stop.wait(); time.sleep(60)", id="main that blocks the loop"),
        pytest.param("asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)", id="thread that does not end"),
    ],
)
def test_a_stop_that_hangs_is_cut_short_with_status_1_and_the_stacks(body: str) -> None:
    done = run_script(SCRIPT.format(body=body))

    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "File" in done.stderr


TWO_SIGNALS = (
    "os.kill(os.getpid(), 2); await stop.wait(); await asyncio.sleep({apart_s}); os.kill(os.getpid(), 2); {then}"
)


def test_a_second_signal_ends_the_process_at_once() -> None:
    body = TWO_SIGNALS.format(apart_s=process.SAME_SIGNAL_S + 0.2, then="await asyncio.sleep(60)")
    done = run_script(SCRIPT.format(body=body).replace("= 0.3", "= 60"))

    assert done.returncode == 1
    assert "Timeout" not in done.stderr


def test_one_ctrl_c_that_comes_by_two_ways_is_one() -> None:
    body = TWO_SIGNALS.format(apart_s=0, then="await asyncio.sleep(0.1)")
    done = run_script(SCRIPT.format(body=body).replace("= 0.3", "= 60"))

    assert done.returncode == 0


CHILD = """
import os, sys, time
from sfss.process import end_with_parent
end_with_parent(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_child_ends_with_its_parent_however_that_dies() -> None:
    parent = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", parent, CHILD], capture_output=True, text=True, timeout=30, check=False
    )
    child = int(done.stdout)

    assert done.returncode == -signal.SIGKILL
    try:
        ended = os.pidfd_open(child)
    except ProcessLookupError:
        return
    with os.fdopen(ended) as handle:
        assert select.select([handle], [], [], 30)[0]


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, "1"], capture_output=True, timeout=30, check=False)

    assert done.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("before", "policy"),
    [
        pytest.param("pass", os.SCHED_BATCH, id="by default it interrupts nobody when it wakes"),
        pytest.param(
            "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))", os.SCHED_IDLE, id="an operator's choice stays"
        ),
    ],
)
def test_the_system_schedules_a_process(before: str, policy: int) -> None:
    script = SCRIPT.format(body="print(os.sched_getscheduler(0))").replace("async def", f"{before}\nasync def")

    assert run_script(script).stdout == f"{policy}\n"
