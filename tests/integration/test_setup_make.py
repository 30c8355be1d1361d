"""What `make` says where Python is not as it must be, and that it does nothing twice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def make(folder: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run make in a folder that holds nothing but what it needs."""
    for name in ("setup.py", "pyproject.toml"):
        if not (folder / name).exists():
            (folder / name).touch()
    environment = {**os.environ, "PATH": path or os.environ["PATH"], "MAKEFLAGS": ""}
    return subprocess.run(
        [shutil.which("make") or "make", "--no-print-directory", "-f", str(MAKEFILE), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def stand_in(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


OLD = 'case "$2" in *version_info*) exit 1;; esac; exit 0'
WITHOUT_VENV = 'case "$2" in *ensurepip*) exit 1;; esac; exit 0'
GOOD = 'case "$1" in -m) mkdir -p "$3"; echo "$0" >"$3/made-by";; esac; exit 0'
SLOW = f'case "$2" in *enable-optimizations*) exit 1;; esac; {GOOD}'


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A PATH with what the recipe needs and no Python."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("sh", "rm", "touch", "mkdir"):
        (folder / name).symlink_to(f"/bin/{name}")
    return folder


def test_a_python_without_venv_is_told_in_one_line_with_the_package_to_install(tmp_path: Path) -> None:
    done = make(tmp_path, ".venv/made", f"PYTHON={stand_in(tmp_path, 'python', WITHOUT_VENV)}")

    assert done.returncode == 2
    assert done.stderr.splitlines()[0].endswith("has no venv; on Debian and Ubuntu: apt install python3-venv")


def test_a_python_that_is_too_old_is_told_in_one_line(tmp_path: Path) -> None:
    python = stand_in(tmp_path, "python", OLD)
    done = make(tmp_path, ".venv/made", f"PYTHON={python}")

    assert done.returncode == 2
    assert done.stderr.startswith(f"make: sfss needs Python 3.11 or newer, and {python} is not; name one with PYTHON=")


def test_where_python3_is_too_old_a_newer_one_beside_it_is_taken(tmp_path: Path, programs: Path) -> None:
    stand_in(programs, "python3", OLD)
    newer = stand_in(programs, "python3.12", GOOD)

    done = make(tmp_path, ".venv/made", path=str(programs))

    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".venv" / "made-by").read_text().strip() == str(newer)


def test_a_faster_build_further_down_the_path_is_taken_and_told(tmp_path: Path, programs: Path) -> None:
    stand_in(programs, "python3", SLOW)
    (tmp_path / "further").mkdir()
    faster = stand_in(tmp_path / "further", "python3", GOOD)

    done = make(tmp_path, ".venv/made", path=f"{programs}:{tmp_path / 'further'}")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".venv" / "made-by").read_text().strip() == str(faster)
    assert done.stdout.startswith(f"taking {faster}: python3 was built without optimization")


def test_where_none_is_faster_the_first_python_is_taken(tmp_path: Path, programs: Path) -> None:
    python = stand_in(programs, "python3", SLOW)
    stand_in(programs, "python3.12", SLOW)

    done = make(tmp_path, ".venv/made", path=str(programs))

    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".venv" / "made-by").read_text().strip() == str(python)
    assert done.stdout == ""


def test_a_python_that_is_named_is_taken_however_slow(tmp_path: Path) -> None:
    python = stand_in(tmp_path, "python", SLOW)

    assert make(tmp_path, ".venv/made", f"PYTHON={python}").returncode == 0

    assert (tmp_path / ".venv" / "made-by").read_text().strip() == str(python)


def test_no_python_at_all_is_told_in_one_line(tmp_path: Path, programs: Path) -> None:
    done = make(tmp_path, ".venv/made", path=str(programs))

    assert done.returncode == 2
    assert done.stderr.startswith("make: sfss needs Python 3.11 or newer")


def test_what_an_interrupted_run_left_half_made_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "half").touch()

    assert make(tmp_path, ".venv/made", f"PYTHON={stand_in(tmp_path, 'python', GOOD)}").returncode == 0

    assert not (tmp_path / ".venv" / "half").exists()


def test_what_is_installed_is_not_installed_again_until_the_setup_changes(tmp_path: Path) -> None:
    python = stand_in(tmp_path, "python", GOOD)
    assert make(tmp_path, ".venv/made", f"PYTHON={python}").returncode == 0
    (tmp_path / ".venv" / "installed").touch()

    assert make(tmp_path, "--question", ".venv/installed").returncode == 0
    os.utime(tmp_path / "setup.py", (4_000_000_000, 4_000_000_000))
    assert make(tmp_path, "--question", ".venv/installed").returncode == 1


def test_cleaning_leaves_the_data_alone(tmp_path: Path) -> None:
    for name in (".venv", "build", "data", "sfss/__pycache__"):
        (tmp_path / name).mkdir(parents=True)

    assert make(tmp_path, "clean").returncode == 0

    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["data", "sfss"]


def test_what_is_compiled_is_made_anew_after_any_change_of_it() -> None:
    script = (MAKEFILE.parent / "setup.py").read_text()
    compiled = set(re.findall(r'^        "([a-z/]+)": "', script, re.M)) | {"proxy", "nodes"}
    named = re.search(r"^folders := (.*)$", MAKEFILE.read_text(), re.M)

    assert named is not None
    assert compiled == set(named[1].split())
