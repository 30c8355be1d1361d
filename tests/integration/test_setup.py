"""What is installed: the archives hold everything, and the commands in them run."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from sfss import __version__
from sfss.settings import load_settings

ROOT = Path(__file__).parents[2]
PACKAGES = ("sfss", "proxy", "nodes")
MADE_BY_TOOLS = shutil.ignore_patterns(
    *(".git", ".venv", "data", "build", "dist", "bin", "eggs", "develop-eggs", "parts", "*.egg-info", "__pycache__"),
    *(".*_cache", ".hypothesis", ".installed.cfg", "*.so"),
)


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree: building leaves files behind."""
    copy = tmp_path_factory.mktemp("sources") / "sfss"
    shutil.copytree(ROOT, copy, ignore=MADE_BY_TOOLS)
    return copy


def build(sources: Path, kind: str, into: Path, *, compiled: bool = False) -> Path:
    """Have setuptools build a `wheel` or an `sdist`, as pip does, but with the setuptools that is here."""
    script = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(into)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=sources, env={**os.environ, "SFSS_COMPILE": str(int(compiled))},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, as an installation would have them."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build(sources, "wheel", folder)) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_wheel_holds_every_file_of_the_packages(sources: Path, wheel: Path, package: str) -> None:
    assert files_of(sources / package) == files_of(wheel / package)


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    assert {path.name for path in wheel.iterdir()} == {*PACKAGES, f"sfss-{__version__}.dist-info"}


def test_the_source_archive_holds_every_file_of_the_repository(sources: Path, tmp_path: Path) -> None:
    with tarfile.open(build(sources, "sdist", tmp_path)) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}

    made_here = {name for name in files_of(sources) if re.match(r"(build|.*\.egg-info)/", name)}
    assert files_of(sources) - made_here - {".gitignore"} <= held


def commands(wheel: Path) -> dict[str, str]:
    entry_points = configparser.ConfigParser()
    entry_points.read(wheel / f"sfss-{__version__}.dist-info" / "entry_points.txt")
    return dict(entry_points["console_scripts"])


@pytest.mark.parametrize("command", ["sfss", "sfss-node", "sfss-proxy"])
@pytest.mark.parametrize("option", ["--version", "--help"])
def test_an_installed_command_tells_its_version_and_its_options(wheel: Path, command: str, option: str) -> None:
    module, function = commands(wheel)[command].split(":")
    script = f"""
import sys
sys.path.insert(0, {str(wheel)!r})
import {module}
assert {module}.__file__.startswith({str(wheel)!r})
sys.argv = [{command!r}, {option!r}]
sys.exit({module}.{function}())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert (__version__ if option == "--version" else "Usage: ") in done.stdout


def test_the_archives_have_a_description(wheel: Path) -> None:
    metadata = (wheel / f"sfss-{__version__}.dist-info" / "METADATA").read_text()

    assert "Description-Content-Type: text/x-rst" in metadata
    assert (ROOT / "README.rst").read_text().splitlines()[0] in metadata


def test_the_example_of_the_web_tiers_settings_loads_and_tells_the_true_defaults() -> None:
    text = (ROOT / "conf" / "sfss.toml").read_text()
    load_settings(ROOT / "conf" / "sfss.toml")
    defaults = load_settings()

    shown = re.findall(r"^# ([A-Z_]+) = (.*?)(?: +#.*)?$", text, re.MULTILINE)

    assert len(shown) > 5
    for name, value in shown:
        if not name.startswith("SSL"):
            told = load_settings(environment={f"SFSS_{name}": re.sub(r'[\[\]" ]', "", value)})
            assert getattr(told, name.lower()) == getattr(defaults, name.lower()), name


@pytest.mark.parametrize("unit", ["sfss-node@.service", "sfss-proxy@.service", "sfss-web.service"])
def test_a_unit_starts_an_installed_command_and_gives_it_time_to_stop(wheel: Path, unit: str) -> None:
    # Lines of a key that stands twice would be refused by configparser; systemd would silently take the last.
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.read(ROOT / "conf" / unit)
    service = parsed["Service"]

    assert Path(service["ExecStart"].split()[0]).name in commands(wheel)
    assert int(service["TimeoutStopSec"]) > 20
    assert service["NoNewPrivileges"] == "yes"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) to compile with")
def test_a_wheel_is_compiled_where_there_is_a_compiler(sources: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    shutil.copytree(sources, few, ignore=shutil.ignore_patterns("build"))
    script = (few / "setup.py").read_text()
    # The others are compiled in the same way by `make test`, before the tests.
    script, count = re.subn(
        r"^COMPILED = {$.*?^}$", 'COMPILED = {"wire": {"sfss": "keys stamps"}}', script, flags=re.M | re.S
    )
    assert count == 1
    (few / "setup.py").write_text(script)

    with zipfile.ZipFile(build(few, "wheel", tmp_path, compiled=True)) as archive:
        archive.extractall(tmp_path / "installed")

    done = subprocess.run(
        [sys.executable, "-c", "from nodes.command import main; main()", "--version"],
        cwd=tmp_path / "installed", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.endswith(", compiled\n"), done.stderr
    assert {path.name.partition(".")[0] for path in (tmp_path / "installed/sfss").glob("*.so")} == {"keys", "stamps"}
