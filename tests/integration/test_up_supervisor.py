"""The supervisor over stand-in processes: order, restarts, last words, orphans."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sfss.commands import supervisor as module
from sfss.commands.supervisor import Part, Supervisor
from sfss.errors import SetupError

DEADLINE_S = 30.0

# Notes each start and stop in the file `events`, and its process id in a file named after itself.
STAND_IN = """
import os, signal, sys, time
name, folder = sys.argv[1:3]
def note(event):
    with open(f"{folder}/events", "a") as events:
        events.write(f"{name} {event}\\n")
def stop(*_):
    note("stops")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
note("starts")
with open(f"{folder}/{name}.new", "w") as file:
    file.write(str(os.getpid()))
os.rename(f"{folder}/{name}.new", f"{folder}/{name}")
print(f"{name} is up", flush=True)
while True:
    time.sleep(60)
"""


class Stage:
    """A supervisor's parts, what it said, and what they did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.supervisor: Supervisor | None = None

    def part(self, name: str, script: str = STAND_IN, stop_s_max: float = 10.0) -> Part:
        async def answers() -> bool:
            return (self.folder / name).exists()

        return Part(name, [sys.executable, "-c", script, name, str(self.folder)], answers, stop_s_max)

    def supervise(self, *tiers: list[Part]) -> Supervisor:
        self.supervisor = Supervisor(tiers, self.folder, self.said.append, random.Random(1))
        return self.supervisor

    def process_id(self, name: str) -> int:
        return int((self.folder / name).read_text())

    def events(self) -> list[str]:
        return (self.folder / "events").read_text().splitlines()

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not happened():
                await asyncio.sleep(0.01)


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(module, "_RESTART_S_MIN", 0.05)
    stage = Stage(tmp_path)
    yield stage
    if stage.supervisor is not None:
        await stage.supervisor.close()


def lives(process_id: int) -> bool:
    """Whether the process runs. One that ended and waits for an adoptive parent to notice does not."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


async def in_time(work: Awaitable[None]) -> None:
    await asyncio.wait_for(work, DEADLINE_S)


async def test_tiers_start_lowest_first_and_stop_highest_first(stage: Stage) -> None:
    supervisor = stage.supervise([stage.part("node")], [stage.part("proxy")], [stage.part("web")])

    await in_time(supervisor.start())
    await in_time(supervisor.close())

    assert stage.events() == [
        *("node starts", "proxy starts", "web starts"),
        *("web stops", "proxy stops", "node stops"),
    ]
    assert stage.said == []


async def test_a_killed_part_is_started_again_and_both_are_said(stage: Stage) -> None:
    supervisor = stage.supervise([stage.part("node-0"), stage.part("node-1")])
    await in_time(supervisor.start())
    killed, other = stage.process_id("node-0"), stage.process_id("node-1")

    (stage.folder / "node-0").unlink()
    os.kill(killed, signal.SIGKILL)
    await stage.until(lambda: "node-0 is back" in stage.said)

    assert stage.said[0].startswith("node-0 was killed by SIGKILL: node-0 is up (log: ")
    assert "starting it again in" in stage.said[0]
    assert stage.process_id("node-0") != killed
    assert stage.process_id("node-1") == other


async def test_a_part_that_ends_at_once_each_time_is_tried_at_growing_distances(stage: Stage) -> None:
    once = STAND_IN.replace('note("starts")', 'note("starts")\nif os.path.exists(f"{folder}/broken"): sys.exit(7)')
    supervisor = stage.supervise([stage.part("node", once)])
    await in_time(supervisor.start())

    (stage.folder / "broken").touch()
    (stage.folder / "node").rename(stage.folder / "was")
    os.kill(int((stage.folder / "was").read_text()), signal.SIGKILL)
    await stage.until(lambda: len(stage.said) >= 4)
    (stage.folder / "broken").unlink()
    await stage.until(lambda: "node is back" in stage.said)

    assert "ended with status 7" in stage.said[1]
    delays = [float(line.rsplit(" ", 2)[1]) for line in stage.said[:4]]
    assert delays[3] > delays[0]


async def test_a_part_that_refuses_to_start_is_told_with_its_own_words(stage: Stage) -> None:
    refusing = """
import os, sys, time
while not os.path.exists(f"{sys.argv[2]}/node-0"):
    time.sleep(0.01)
sys.exit("sfss-node: /data belongs to another cluster")
"""
    supervisor = stage.supervise([stage.part("node-0"), stage.part("node-1", refusing)], [stage.part("web")])

    with pytest.raises(SetupError, match="node-1 ended with status 1: sfss-node: /data belongs to another cluster"):
        await in_time(supervisor.start())
    await in_time(supervisor.close())

    assert not lives(stage.process_id("node-0"))
    assert "web starts" not in stage.events()


async def test_a_command_that_does_not_exist_is_a_refusal(stage: Stage) -> None:
    async def never() -> bool:
        return False

    supervisor = stage.supervise([Part("node-0", ["/nowhere/sfss-node"], never, 1.0)])

    with pytest.raises(SetupError, match="node-0 can't be started: No such file"):
        await in_time(supervisor.start())


async def test_a_start_can_be_given_up_at_any_moment(stage: Stage) -> None:
    supervisor = stage.supervise([stage.part("node")], [stage.part("proxy", "import time; time.sleep(60)")])
    starting = asyncio.create_task(supervisor.start())
    await stage.until(lambda: (stage.folder / "node").exists())

    starting.cancel()
    await asyncio.wait({starting})
    await in_time(supervisor.close())

    assert not lives(stage.process_id("node"))


async def test_a_part_that_does_not_stop_is_killed_after_its_time(stage: Stage) -> None:
    deaf = STAND_IN.replace("signal.signal(signal.SIGTERM, stop)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    supervisor = stage.supervise([stage.part("node", deaf, stop_s_max=0.2)])
    await in_time(supervisor.start())

    await in_time(supervisor.close())

    assert not lives(stage.process_id("node"))
    assert stage.said == ["node did not stop within 0.2 s and was killed"]


async def test_workers_that_a_killed_part_left_behind_do_not_outlive_it(stage: Stage) -> None:
    with_worker = STAND_IN.replace(
        'note("starts")',
        'note("starts")\nif not os.path.exists(f"{folder}/worker"):\n'
        '    import subprocess\n    worker = subprocess.Popen(["sleep", "60"])\n'
        '    open(f"{folder}/worker", "w").write(str(worker.pid))',
    )
    supervisor = stage.supervise([stage.part("web", with_worker)])
    await in_time(supervisor.start())

    os.kill(stage.process_id("web"), signal.SIGKILL)
    await stage.until(lambda: "web is back" in stage.said)

    await stage.until(lambda: not lives(stage.process_id("worker")))


async def test_what_a_part_prints_is_in_its_log_to_the_last_line(stage: Stage) -> None:
    talking = STAND_IN.replace("sys.exit(0)", 'print("last words", flush=True); sys.exit(0)')
    supervisor = stage.supervise([stage.part("node", talking)])

    await in_time(supervisor.start())
    await in_time(supervisor.close())

    assert (stage.folder / "node.log").read_text() == "node is up\nlast words\n"


async def test_a_part_that_closed_its_output_is_still_watched(stage: Stage) -> None:
    mute = STAND_IN.replace('print(f"{name} is up", flush=True)', "os.close(1); os.close(2)")
    supervisor = stage.supervise([stage.part("node", mute)])
    await in_time(supervisor.start())

    (stage.folder / "node").rename(stage.folder / "was")
    os.kill(int((stage.folder / "was").read_text()), signal.SIGKILL)

    await stage.until(lambda: "node is back" in stage.said)


async def test_no_descriptor_is_left_after_many_lives(stage: Stage) -> None:
    supervisor = stage.supervise([stage.part("node")])
    await in_time(supervisor.start())
    before = len(os.listdir("/proc/self/fd"))

    for count in range(1, 4):
        (stage.folder / "node").rename(stage.folder / "was")
        os.kill(int((stage.folder / "was").read_text()), signal.SIGKILL)
        await stage.until(lambda wanted=count: stage.said.count("node is back") == wanted)

    assert len(os.listdir("/proc/self/fd")) == before
