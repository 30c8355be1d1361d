"""What `make torture` promises: every name runs something, and what it says of a round is what came of it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sfss.commands import torture as command
from tests.torture import __main__ as runner
from tests.torture.faults import FAULTS, Fault
from tests.torture.rounds import ROOT

CONFTEST = """
import pytest
from tests.cluster.conftest import fault_seconds, history, standstills
"""
EVENTS = """
from tests.cluster.history import Event, Outcome
def add(history, *events):
    for kind, value, start, outcome in events:
        history.add(Event("c", "k", kind, start, start + 0.5, outcome, value))
"""
CLEAN = (
    EVENTS
    + """
def test_clean(history):
    add(history, ("put", 1, 0, Outcome.OK), ("put", 2, 1, Outcome.UNKNOWN), ("get", 1, 2, Outcome.OK))
"""
)
LOSING = (
    EVENTS
    + """
def test_losing(history):
    add(history, ("put", 1, 0, Outcome.OK), ("get", None, 1, Outcome.OK))
    history.check()
"""
)
UNCHECKED = LOSING.replace("    history.check()\n", "")
LENGTH = """
def test_length(fault_seconds):
    raise ValueError(f"injects for {fault_seconds} s")
"""
MISSING = """
import pytest
@pytest.mark.skip(reason="needs a tool")
def test_missing(): ...
"""


def test_every_name_runs_tests_that_exist() -> None:
    tests = sorted({test for fault in FAULTS.values() for test in fault.tests})

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


@pytest.fixture
def torture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command on one fault, whose test is the text given."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(source: str, *options: str) -> Result:
        folder = tmp_path / "given"
        folder.mkdir()
        (folder / "conftest.py").write_text(CONFTEST)
        (folder / "test_it.py").write_text(source)
        ours = ("-ptests.conftest", f"-c{ROOT / 'pyproject.toml'}", str(folder / "test_it.py"))
        monkeypatch.setitem(FAULTS, "it", Fault("nothing", ours))
        return CliRunner().invoke(runner.main, ["it", "--seed", "5", *options])

    return run


def test_a_clean_round_is_told_with_its_figures(torture: Callable[..., Result], tmp_path: Path) -> None:
    done = torture(CLEAN)

    assert done.exit_code == 0, done.output
    assert "1 writes acknowledged, 0 lost, 1 unknown; 1 histories, 0 not linearizable" in done.output
    assert not list(tmp_path.glob("sfss-torture-*"))


@pytest.mark.parametrize("source", [LOSING, UNCHECKED], ids=["seen by the test", "seen by nobody else"])
def test_a_lost_write_is_told_with_the_command_that_repeats_it(
    torture: Callable[..., Result], tmp_path: Path, source: str
) -> None:
    done = torture(source)

    assert done.exit_code == 1, done.output
    assert "1 writes acknowledged, 1 lost, 0 unknown; 1 histories, 1 not linearizable" in done.output
    assert "repeat with: make torture T=it SEED=5\n" in done.output
    assert "pytest.log" in {path.name for path in tmp_path.glob("sfss-torture-*/it-5/*")}


def test_a_report_gets_a_line_for_each_round(torture: Callable[..., Result], tmp_path: Path) -> None:
    report = tmp_path / "report.rst"

    torture(CLEAN, "--report", str(report))
    shutil.rmtree(tmp_path / "given")
    torture(LOSING, "--report", str(report))

    head, names, below, *rounds = report.read_text().splitlines()
    assert head == below
    assert names.split() == ["name", "seed", "seconds", "operations", "acked", "lost", "unknown", "verdict"]
    assert [[*line.split()[:2], *line.split()[3:]] for line in rounds] == [
        ["it", "5", "3", "1", "0", "1", "clean"],
        ["it", "5", "2", "1", "1", "0", "failed"],
    ]


COUNTED = """
def test_counted(tally):
    tally.update(operations=7, acknowledged=4)
"""
PLANTED = """
from tests.planted import TRIES
def test_a_node_that_lies_is_caught_by_the_power_cut():
    assert TRIES.until(number == 3 for number in range(9))
def test_a_proxy_that_lies_is_caught(): ...
def test_nothing_else(): ...
"""


def test_what_a_test_without_a_history_counts_is_in_the_report(torture: Callable[..., Result], tmp_path: Path) -> None:
    report = tmp_path / "report.rst"

    done = torture(COUNTED, "--report", str(report))

    assert "4 writes acknowledged, 0 lost, 0 unknown\n" in done.output
    assert report.read_text().splitlines()[-1].split()[3:] == ["7", "4", "0", "0", "clean"]


def test_broken_builds_that_were_caught_are_told_with_the_test_and_the_tries_it_took(
    torture: Callable[..., Result],
) -> None:
    done = torture(PLANTED)

    assert re.search(r"^a node that lies +test_it.py, the power cut +4 +[0-9.]+$", done.output, re.MULTILINE)
    assert re.search(r"^a proxy that lies +test_it.py +1 +[0-9.]+$", done.output, re.MULTILINE)
    assert "nothing else" not in done.output


def test_minutes_ask_for_the_long_form_and_its_repetition_too(torture: Callable[..., Result]) -> None:
    done = torture(LENGTH, "--minutes", "0.001")

    assert "injects for 20.0 s" in done.output
    assert "repeat with: make torture T=it SEED=5 MINUTES=1\n" in done.output


def test_what_is_missing_is_left_out_and_said(torture: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    done = torture(MISSING)

    assert done.exit_code == 0, done.output
    assert "left out: test_missing: needs a tool" in done.output


def test_a_run_that_is_ended_takes_its_tests_along_and_tells_what_there_was() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.torture", "model", "--minutes", "5"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as run:
        give_up = time.monotonic() + 60
        while not (children := _running_pytest(run.pid)) and time.monotonic() < give_up:
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        told, _ = run.communicate(timeout=60)

    assert children
    assert (run.returncode, told.splitlines()[-1]) == (130, "interrupted")
    while any(_runs(child) for child in children) and time.monotonic() < give_up:
        time.sleep(0.05)  # the kernel is at it
    assert not any(_runs(child) for child in children)


def _runs(pid: int) -> bool:
    """Whether there is such a process, and it isn't one that has ended and waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def _running_pytest(pid: int) -> list[int]:
    """The children of a process that run pytest by now."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"pytest" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    done = CliRunner().invoke(runner.main, ["nope"])

    assert done.exit_code == 2
    assert "kill-node" in done.output


def test_without_a_checkout_the_command_says_in_one_line_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "CHECKOUT", tmp_path)

    done = CliRunner().invoke(command.torture, ["--list"])

    assert done.exit_code == 2
    assert done.output.startswith("sfss torture: the tests that it runs aren't installed")
    assert "make torture" in done.output
    assert done.output.count("\n") == 1
