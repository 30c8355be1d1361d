"""Contests: one load on several sides, in turns, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from bench.loads import Load, Run
from bench.servers import Unavailable

Measure = Callable[[], Run]


class Ratio(NamedTuple):
    """Median over median; `least` and `most` are the smallest and largest of the turns' own ratios."""

    value: float
    least: float
    most: float


@dataclass
class Contest:
    """One row of the grid. `operation` is get, put (memcache: set) or mixed, `cache` warm or cold (the page cache)."""

    operation: str
    protocol: str
    load: Load
    cache: str = "warm"
    entrants: dict[str, Measure] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        said = f"{self.protocol} {self.operation.upper() if self.protocol == 'HTTP' else self.operation}"
        cold = ", cold" if self.cache == "cold" else ""
        connections = "" if self.load.connections == 32 else f", {plural(self.load.connections, 'connection')}"
        return f"{said} {size_text(self.load.bytes)}{connections}{cold}"

    def turn(self, number: int) -> list[str]:
        """Measure every side once; who goes first changes from turn to turn.

        A side that can't be measured is out of the contest, with all its turns. Returns what there is to say of that.
        """
        troubles = []
        names = list(self.entrants)
        first = number % max(len(names), 1)
        for name in names[first:] + names[:first]:
            try:
                self.runs.setdefault(name, []).append(self.entrants[name]())
            except Unavailable as error:
                del self.entrants[name], self.runs[name]
                troubles.append(f"{self.name}: {error}")
        return troubles

    def rates(self, side: str) -> list[float]:
        """Requests a second of each turn."""
        return [run.rate for run in self.runs[side]]

    def ratio(self, ours: str, theirs: str) -> Ratio:
        return ratio(self.rates(ours), self.rates(theirs))

    def figures(self) -> dict[str, Any]:
        """The contest as plain data."""
        return {
            "name": self.name,
            "protocol": self.protocol,
            "operation": self.operation,
            "cache": self.cache,
            **asdict(self.load),
            "sides": {name: summary(runs, self.load.bytes) for name, runs in self.runs.items()},
        }


def ratio(ours: list[float], theirs: list[float]) -> Ratio:
    """Compare two lists of rates, a turn for a turn."""
    each = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(ours) / statistics.median(theirs), min(each), max(each))


def summary(runs: list[Run], size: int) -> dict[str, Any]:
    """What one side did in all turns: medians, the smallest and largest rate, and every run."""
    rates = [run.rate for run in runs]
    median = statistics.median(rates)
    return {
        "rate_per_s": median,
        "rate_spread": [min(rates), max(rates)],
        "mb_per_s": median * size / 1e6,
        "p50_us": statistics.median(run.p50_us for run in runs),
        "p99_us": statistics.median(run.p99_us for run in runs),
        "processor_s_per_1000": statistics.median(run.processor_s_per_1000 for run in runs),
        "generator_cores": statistics.median(run.generator_cores for run in runs),
        "generator_was_limit": limited(run.generator_was_limit for run in runs),
        "runs": [asdict(run) for run in runs],
    }


def limited(turns: Iterable[bool]) -> bool:
    """Whether the load generator was the limit in half of the turns or more: then the median may be one of them."""
    said = list(turns)
    return 2 * sum(said) >= len(said) > 0


def size_text(size: int) -> str:
    """`100 B`, `4 KiB`, `1 MiB`."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
