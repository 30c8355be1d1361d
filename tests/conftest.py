"""What all tests share: the event loop the servers run on, a seed that is printed, and no skipping in CI.

* Async tests run on uvloop, as the servers do: asyncio's own loop differs in when it reports a closed peer.
* One seed for the whole run stands in pytest's header with the option that repeats it; randomness in tests comes from
  the fixture `rng`, and hypothesis is seeded with it too. In CI hypothesis is derandomized instead: a build that turns
  red must do so because of the change, and the same commit must give the same verdict. Developers' runs explore.
* Tests run the packages' sources in their own process, also where they are compiled; the servers that they start as
  processes run as they are installed.
* With CI set, a skip is a failure: a machine that lacks a tool must not look like a machine where the test passed.
* `make test` runs in three processes (pytest-xdist), and only with room for what they store. Files marked `alone` come
  last, one test at a time: what they measure says something only where nobody else keeps the machine busy.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import uvloop

from tests.interpreted import changed_since_compiled, use_compiled, use_sources
from tests.parent_death import die_with_parent
from tests.planted import TRIES

# Not in pytest_configure: the conftest of a folder that stands on the command line is imported before that, and imports
# the packages.
use_sources()

# What Python compiles is kept, also where the environment says otherwise: tests start hundreds of processes, each of
# which starts in two thirds of the time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_ROOM_BYTES = 4 << 30
"""For three processes: the largest tests of clusters at once, and what whole files of tests share."""

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

hypothesis.settings.register_profile(
    "ci", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
# Two cores are shared by servers and tests: how long one example takes says nothing about the code.
hypothesis.settings.register_profile("developer", deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci" if IN_CI else "developer")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="repeat a run: the seed that it printed in its header")
    parser.addoption(
        "--fault-seconds", type=float, default=None, help="how long each fault test of tests/cluster injects faults"
    )

    parser.addoption(
        "--compiled", action="store_true", help="run what is compiled in this process, too (tests with fakes fail then)"
    )


def pytest_configure(config: pytest.Config) -> None:
    if _is_one_of_several(config):
        die_with_parent()
    elif config.getoption("numprocesses", None):
        _look_for_room(Path(config.option.basetemp or os.environ.get("PYTEST_DEBUG_TEMPROOT") or tempfile.gettempdir()))
    if stale := changed_since_compiled():
        raise pytest.UsageError(f"{stale[0]} has changed since it was compiled: `make test` compiles it anew")
    if config.getoption("--compiled"):
        try:
            use_compiled()
        except RuntimeError as reason:
            raise pytest.UsageError(f"--compiled is for files of tests/integration alone: {reason}") from None
    if config.getoption("--seed") is None:
        config.option.seed = 1 if IN_CI else random.SystemRandom().randrange(1 << 32)
    if not IN_CI and config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(config.getoption("--seed"))


def _look_for_room(folder: Path) -> None:
    """Clusters on a full disk would fail in a thousand ways, none of which says why."""
    folder = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())  # not made yet, maybe
    free = shutil.disk_usage(folder).free
    if free < _ROOM_BYTES:
        raise pytest.UsageError(
            f"the tests need {_ROOM_BYTES >> 30} GiB on the disk of {folder}, and {free / (1 << 30):.1f} GiB are free: "
            "make room, or name another folder in TMPDIR"
        )


def _is_one_of_several(config: pytest.Config) -> bool:
    """Whether this process was started by pytest-xdist. Its variables in the environment don't tell: a pytest that a
    test starts has them, too, and may not wait for that test to end."""
    return hasattr(config, "workerinput")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_runs_alone)


def _runs_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if not _is_one_of_several(item.config):
        return (yield)
    # Outside of what is timed: a wait for tests in other processes is no test's own time.
    with Path(__file__).open() as all_have:
        fcntl.flock(all_have, fcntl.LOCK_EX if _runs_alone(item) else fcntl.LOCK_SH)
        return (yield)


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.getoption('--seed')} (repeat with --seed={config.getoption('--seed')})"


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Randomness of one test, the same whichever other tests run with it."""
    return random.Random(f"{request.config.getoption('--seed')} {request.node.nodeid}")


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Generator[Counter[str]]:
    """What a test counts of its operations where no `History` does (`operations`, `acknowledged`, `lost`, `unknown`):
    the test's entry in a report (`--junitxml`, as `make torture` writes it) has it."""
    tally: Counter[str] = Counter()
    yield tally
    request.node.user_properties.extend(tally.items())


def _skip_is_failure(report: Any) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} may not be skipped in CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    if TRIES.count:
        item.user_properties.append(("tries", TRIES.count))
        TRIES.count = 0
    report = yield
    if IN_CI:
        _skip_is_failure(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI:
        _skip_is_failure(report)
    return report
