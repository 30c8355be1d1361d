"""What the tests' own common ground promises: the loop, the seed, that nothing is skipped in CI, and who is alone."""

from __future__ import annotations

import itertools
import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.disks import SmallDisk, needs_root

TESTS = Path(__file__).parents[1]

SKIPPING = """
import asyncio, random
import pytest

def test_skips_inside():
    pytest.skip("no such tool")

@pytest.mark.skipif(True, reason="no such right")
def test_skips_outside(): ...

@pytest.mark.xfail(strict=True)
def test_known_to_fail():
    raise ValueError

async def test_runs_on_uvloop():
    assert type(asyncio.get_running_loop()).__module__ == "uvloop"

def test_randomness(rng):
    print("drawn", rng.random())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "tests").mkdir()
    for name in ("__init__.py", "interpreted.py", "parent_death.py", "planted.py"):
        shutil.copy(TESTS / name, tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    return tmp_path


def run_pytest(folder: Path, *options: str, ci: str = "") -> str:
    environment = {**os.environ, "CI": ci, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_a_skip_is_a_skip_at_a_developers(folder: Path) -> None:
    (folder / "test_some.py").write_text(SKIPPING)

    said = run_pytest(folder)

    assert "2 passed, 2 skipped, 1 xfailed" in said


def test_a_skip_is_a_failure_in_ci(folder: Path) -> None:
    (folder / "test_some.py").write_text(SKIPPING)

    said = run_pytest(folder, ci="true")

    assert "1 failed, 2 passed, 1 xfailed, 1 error" in said
    assert "may not be skipped in CI: Skipped: no such tool" in said


def test_a_module_that_skips_itself_is_a_failure_in_ci(folder: Path) -> None:
    (folder / "test_some.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")

    assert "1 skipped" in run_pytest(folder)
    assert "1 error" in run_pytest(folder, ci="true")


def test_a_run_can_be_repeated_with_the_seed_that_it_printed(folder: Path) -> None:
    (folder / "test_some.py").write_text(SKIPPING)

    first, other = run_pytest(folder, "-s"), run_pytest(folder, "-s")
    seed = re.search(r"--seed=\d+", first)
    assert seed is not None
    again = run_pytest(folder, "-s", seed[0])

    drawn = [re.search(r"drawn (\S+)", said) for said in (first, other, again)]
    assert None not in drawn
    assert drawn[0][1] == drawn[2][1] != drawn[1][1]  # type: ignore[index]


@needs_root
def test_without_room_for_what_the_tests_store_nothing_is_begun_and_one_line_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "test_some.py").write_text("def test_some(): ...\n")
    with SmallDisk(folder / "disk", 1 << 20) as disk:
        monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(disk.path))

        side_by_side, one_by_one = run_pytest(folder, "-n", "2"), run_pytest(folder)
        in_a_new_folder = run_pytest(folder, "-n", "2", f"--basetemp={disk.path / 'new' / 'one'}")

    assert side_by_side == (
        f"ERROR: the tests need 4 GiB on the disk of {disk.path}, and 0.0 GiB are free: "
        "make room, or name another folder in TMPDIR\n\n"
    )
    assert in_a_new_folder == side_by_side
    assert "1 passed" in one_by_one


LOGGING = """
import pathlib, time
import pytest

@pytest.mark.parametrize("number", range(5))
def test_logs(number):
    for word in ("begins", "ends"):
        with open("log", "a") as log:
            log.write(f"{pathlib.Path(__file__).stem} {word}\\n")
        time.sleep(0.05)
"""


def test_of_two_processes_one_waits_while_a_file_runs_alone(folder: Path) -> None:
    for name in ("test_first", "test_second", "test_third"):
        (folder / f"{name}.py").write_text(LOGGING)
    (folder / "test_a_lonely.py").write_text(LOGGING + "pytestmark = pytest.mark.alone\n")

    said = run_pytest(folder, "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")

    assert "20 passed" in said
    log = (folder / "log").read_text().splitlines()
    assert "test_first begins" not in log[log.index("test_a_lonely begins") :]
    for line, following in itertools.pairwise(log):
        if line == "test_a_lonely begins":
            assert following == "test_a_lonely ends"


ENDLESS = """
import subprocess, time
from tests.parent_death import die_with_parent

def test_that_hangs():
    with open("alive", "wb") as alive:
        subprocess.Popen(["sleep", "600"], preexec_fn=die_with_parent, pass_fds=[alive.fileno()])
        open("started", "w").close()
        time.sleep(600)
"""


def test_nothing_goes_on_when_pytest_is_killed(folder: Path) -> None:
    (folder / "test_endless.py").write_text(ENDLESS)
    os.mkfifo(folder / "alive")
    alive = os.open(folder / "alive", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "pytest", "-n", "2"], cwd=folder, stdout=subprocess.DEVNULL
        ) as run:
            give_up = time.monotonic() + 60
            while not (folder / "started").exists() and time.monotonic() < give_up:
                time.sleep(0.05)
            run.kill()
        assert (folder / "started").exists()

        # Once nobody has it open for writing. By itself pytest-xdist would take ten seconds.
        ended, _, _ = select.select([alive], [], [], 5)
        assert ended
    finally:
        os.close(alive)


def test_the_sources_are_run_also_where_a_folder_on_the_command_line_imports_what_is_compiled(folder: Path) -> None:
    (folder / "sfss").mkdir()
    for name in ("__init__.py", "keys.py", "keys.so", "stamps.py", "stamps.so"):  # a .so that can't be loaded
        (folder / "sfss" / name).touch()
    (folder / "deep").mkdir()
    (folder / "deep" / "conftest.py").write_text("import sfss.keys\n")
    (folder / "deep" / "test_some.py").write_text("import sfss.stamps\ndef test_some(): ...\n")

    (folder / "plain").mkdir()
    (folder / "plain" / "test_other.py").write_text("import sfss.stamps\ndef test_other(): ...\n")

    assert "1 passed" in run_pytest(folder, "deep/test_some.py")
    assert "stamps.so" in run_pytest(folder, "--compiled", "plain/test_other.py")
    # What is compiled and inherits from what was imported as sources would end the process.
    assert "sfss have been imported already" in run_pytest(folder, "--compiled", "deep/test_some.py")
