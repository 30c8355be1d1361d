"""What the fault tests share: how long they run, a history that can be repeated, and logs when one fails."""

from __future__ import annotations

import signal
from collections.abc import Generator
from types import FrameType

import pytest

from tests.cluster.cluster import LIVE, Cluster, shared
from tests.cluster.history import History
from tests.cluster.standstill import Standstills

TEST_S_MAX = 150.0
"""A test may take this long beside the time that it injects faults; then it and all that it started is ended."""


@pytest.fixture
def fault_seconds(request: pytest.FixtureRequest) -> float | None:
    """The `--fault-seconds` of a long run; None asks for each test's own short form."""
    value: float | None = request.config.getoption("--fault-seconds")
    return value


@pytest.fixture
def standstills(tmp_path_factory: pytest.TempPathFactory) -> Generator[Standstills]:
    """Those of the machine during the test."""
    with Standstills(tmp_path_factory.getbasetemp() / "standstills") as standstills:
        yield standstills


@pytest.fixture
def history(
    request: pytest.FixtureRequest, fault_seconds: float | None, standstills: Standstills
) -> Generator[History]:
    """An empty history that knows the command which repeats this test. Where a report is written (`--junitxml`, as
    `make torture` does), the test's entry has its figures."""
    seed = request.config.getoption("--seed")
    length = f" --fault-seconds={fault_seconds:g}" if fault_seconds is not None else ""
    history = History(seed, f"pytest '{request.node.nodeid}' --seed={seed}{length}", standstills)
    yield history
    if request.config.option.xmlpath:
        request.node.user_properties.extend(history.figures().items())


@pytest.fixture(autouse=True)
def _bounded(request: pytest.FixtureRequest) -> Generator[None]:
    """End a test that hangs, in a way that its `with` blocks see."""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("the test hangs")

    long_form = request.config.getoption("--fault-seconds") or 0.0
    before = signal.signal(signal.SIGALRM, give_up)
    # Again and again: what is raised in the middle of a callback, the loop only logs.
    signal.setitimer(signal.ITIMER_REAL, TEST_S_MAX + 4 * long_form, 1.0)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="package")
def _standing(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with shared(tmp_path_factory.mktemp("standing")) as cluster:
        yield cluster


@pytest.fixture
async def standing(_standing: Cluster) -> Cluster:
    """5 nodes, 2 proxies and 2 web processes that several tests use one after the other; whole at the start of each."""
    await _standing.heal()
    return _standing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of the clusters that run, below a failure."""
    report = yield
    if report.failed:
        for cluster in LIVE:
            report.sections.append(("logs of the cluster", cluster.tails()))
    return report
