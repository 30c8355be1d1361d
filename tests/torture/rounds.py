"""One round of a fault: its tests run once by pytest, in a process of their own, with a seed; and what came of it.

The figures are those that each test's history (tests/cluster/conftest.py), or its own count (`tally` in
tests/conftest.py), gave to pytest's report.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tests.parent_death import die_with_parent
from tests.torture.faults import FAULTS

ROOT = Path(__file__).parents[2]
FIGURES = ("operations", "acknowledged", "lost", "unknown", "histories", "illegal")
LONG_FORM_S = 20.0
"""How long each test of a round of the long form injects faults. A long run is many rounds, each with a seed of its
own, so that what took an hour to find takes a minute to repeat."""


class Plant(NamedTuple):
    """A broken build that a test was shown, and that it caught, after so many `tries`: schedules, or runs of a
    cluster."""

    fault: str
    test: str
    tries: int
    seconds: float


@dataclass(slots=True)
class Round:
    """What came of it. `figures` counts over all its tests; `failures` has a line for each test that failed,
    `left_out` the reason for each that could not be run here."""

    name: str
    seed: int
    long_form: bool
    seconds: float = 0.0
    passed: int = 0
    figures: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    plants: list[Plant] = field(default_factory=list)

    @property
    def repeat(self) -> str:
        """The command that does it again."""
        return f"make torture T={self.name} SEED={self.seed}" + (" MINUTES=1" if self.long_form else "")

    def __str__(self) -> str:
        verdict = "FAILED" if self.failures else f"{self.passed} passed"
        if self.left_out:
            verdict += f", {len(self.left_out)} left out"
        return f"{self.name:13} {verdict:24} {self.seconds:4.0f} s  seed {self.seed:<10}  {told(self.figures)}"


_RULE = "============= ========== ======= ========== ========== ===== ======= ========"
REPORT_HEAD = f"{_RULE}\nname          seed       seconds operations acked      lost  unknown verdict\n{_RULE}"
"""Above the lines of a report, which are those of a table in reStructuredText."""


def report_line(done: Round) -> str:
    """A round as a line of a report."""
    figures = done.figures
    verdict = "failed" if done.failures else "left out" if not done.passed else "clean"
    counts = [str(figures[name]) if figures["operations"] else "-" for name in FIGURES[:4]]
    widths = zip(counts, (10, 10, 5, 7), strict=True)
    columns = [
        f"{done.name:13}",
        f"{done.seed:<10}",
        f"{done.seconds:<7.0f}",
        *(f"{one:{wide}}" for one, wide in widths),
    ]
    return " ".join([*columns, verdict])


def told(figures: Counter[str]) -> str:
    """The figures in words."""
    if not figures["operations"]:
        return ""
    writes = f"{figures['acknowledged']:,} writes acknowledged, {figures['lost']} lost, {figures['unknown']} unknown"
    if not figures["histories"]:
        return writes
    return f"{writes}; {figures['histories']:,} histories, {figures['illegal']} not linearizable"


def run_round(name: str, seed: int, folder: Path, *, long_form: bool) -> Round:
    """Run the tests of a fault once. All that pytest and the servers said stays in `folder` if it fails."""
    began = time.monotonic()
    folder.mkdir(parents=True)
    report = folder / "report.xml"
    command = [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--seed={seed}", f"--basetemp={folder / 'data'}"),
        *(f"--junitxml={report}", "-o", "junit_family=xunit1", "-o", "tmp_path_retention_policy=all"),
        *FAULTS[name].tests,
        *(["-k", FAULTS[name].only] if FAULTS[name].only else []),
        *([f"--fault-seconds={LONG_FORM_S}"] if long_form else []),
    ]
    # In CI nothing may be skipped and nothing is left to chance; both are what this is for.
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "PYTEST_ADDOPTS")}
    log = folder / "pytest.log"
    with log.open("wb") as output:
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False, preexec_fn=die_with_parent
        )
    done = Round(name, seed, long_form)
    if report.exists():
        _read(report, done)
    if (done.figures["lost"] or done.figures["illegal"]) and not done.failures:
        done.failures.append("no test failed, and yet histories were not legal")
    if ended.returncode and not done.failures:
        said = log.read_text(errors="replace").strip().splitlines()
        done.failures.append(f"pytest ended with {ended.returncode}: {said[-1] if said else 'it said nothing'}")
    done.seconds = time.monotonic() - began
    if not done.failures:
        shutil.rmtree(folder)
    return done


def _read(report: Path, into: Round) -> None:
    for case in ElementTree.parse(report).iter("testcase"):
        for given in case.iter("property"):
            if given.get("name") in FIGURES:
                into.figures[given.get("name", "")] += int(given.get("value", "0"))
        wrong = [*case.iter("failure"), *case.iter("error")]
        skipped = case.find("skipped")
        if wrong:
            first = (wrong[0].get("message") or wrong[0].text or "").strip().splitlines()
            into.failures.append(f"{case.get('name')}: {first[0][:300] if first else '?'}")
        elif skipped is not None:
            into.left_out.append(f"{case.get('name')}: {skipped.get('message')}")
        else:
            into.passed += 1
            plant = _plant_of(case)
            if plant is not None:
                into.plants.append(plant)


_CAUGHT = re.compile(r"test_(?P<fault>.+)_(?:is|are)_caught(?:_by_(?P<by>.+?))?(?P<part>\[.*\])?")


def _plant_of(case: ElementTree.Element) -> Plant | None:
    """What a test caught by its name: the fault, and by what if that isn't told by the test's file."""
    named = _CAUGHT.fullmatch(case.get("name", ""))
    if named is None:
        return None
    fault = f"{named['fault'].replace('_', ' ')} {named['part'] or ''}".strip()
    by = f", {named['by'].replace('_', ' ')}" if named["by"] else ""
    tries = [int(given.get("value", "1")) for given in case.iter("property") if given.get("name") == "tries"]
    file = (case.get("file") or case.get("classname", "").replace(".", "/") + ".py").rpartition("/")[2]
    return Plant(fault, file + by, sum(tries) or 1, float(case.get("time", "0")))


def plants_table(plants: Sequence[Plant]) -> str:
    """What was planted and caught, as a table in reStructuredText."""
    head = ("planted", "caught by", "tries", "seconds")
    rows = [head, *((one.fault, one.test, str(one.tries), f"{one.seconds:.1f}") for one in plants)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [" ".join(f"{one:{width}}" for one, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    rule = " ".join("=" * width for width in widths)
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])
