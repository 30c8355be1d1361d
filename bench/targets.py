"""The targets: which ratios sfss shall reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.contests import Contest, Ratio
from bench.side import AIOHTTP, DIRECT, FASTAPI, FLASK, IN_BATCHES, MEMCACHED, NGINX, NODE, ONE_BY_ONE, PROXY, SFSS
from bench.verdict import Verdict


@dataclass(frozen=True)
class Target:
    """In the contest named `contest`, `ours` shall make `least` times the requests of `theirs`."""

    contest: str
    ours: str
    theirs: str
    least: float

    def verdict(self, contest: Contest) -> Verdict:
        found: Ratio = contest.ratio(self.ours, self.theirs)
        sides = contest.figures()["sides"]
        limited = [side for side in (self.ours, self.theirs) if sides[side]["generator_was_limit"]]
        note = f"the load was the limit for {' and '.join(limited)}" if limited else ""
        name = f"{self.contest}: {self.ours} / {self.theirs}"
        return Verdict(name, found.value, self.least, "×", True, (found.least, found.most), note)


TARGETS = (
    Target("node get 4 KiB", NODE, MEMCACHED, 0.7),
    Target("node set 4 KiB", NODE, MEMCACHED, 0.4),
    Target("proxy get 4 KiB", PROXY, MEMCACHED, 0.25),
    Target("proxy set 4 KiB", PROXY, MEMCACHED, 0.12),
    Target("HTTP GET 4 KiB", SFSS, NGINX, 0.35),
    Target("HTTP GET 4 KiB", DIRECT, NGINX, 1.0),
    Target("HTTP PUT 4 KiB", SFSS, NGINX, 0.5),
    Target("HTTP GET 4 KiB", SFSS, AIOHTTP, 1.5),
    Target("HTTP PUT 4 KiB", SFSS, AIOHTTP, 0.8),
    Target("HTTP GET 4 KiB", SFSS, FLASK, 5),
    Target("HTTP PUT 4 KiB", SFSS, FLASK, 5),
    Target("HTTP GET 4 KiB", SFSS, FASTAPI, 2),
    Target("HTTP PUT 4 KiB", SFSS, FASTAPI, 1.5),
    Target("HTTP GET 1 MiB", SFSS, NGINX, 0.6),
    Target("batch put 4 KiB", IN_BATCHES, ONE_BY_ONE, 3),
    Target("batch get 4 KiB", IN_BATCHES, ONE_BY_ONE, 3),
)
"""4 KiB, 32 connections, warm page cache; everything of sfss with its defaults (fsync, N=3 W=2 R=2, checksums)."""

TAIL_MOST = 5.0
"""99th percentile of GET over its median, at half the peak rate, while nodes compact."""

DISK_MOST = 1.1
"""Bytes on disk for each byte stored, of one copy, freshly loaded."""


def verdicts(contests: list[Contest], targets: Iterable[Target]) -> list[Verdict]:
    """What the contests say of the targets; targets whose sides weren't measured are left out."""
    by_name = {contest.name: contest for contest in contests}
    return [
        target.verdict(by_name[target.contest])
        for target in targets
        if target.contest in by_name and {target.ours, target.theirs} <= by_name[target.contest].runs.keys()
    ]


def unmeasured(contests: list[Contest], targets: Iterable[Target]) -> list[Target]:
    """The targets of which the contests say nothing."""
    measured = {(contest.name, side) for contest in contests for side in contest.runs}
    return [
        target for target in targets if not {(target.contest, target.ours), (target.contest, target.theirs)} <= measured
    ]
