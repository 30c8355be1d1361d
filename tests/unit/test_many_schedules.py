"""What single schedules of the replication code show, over thousands of seeds: each of them leaves a legal history.

In CI there are `MANY_IN_CI`, the same ones each time; elsewhere fewer, others in each run. The number in a failure's
message, with the same --seed, repeats it exactly.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.conftest import IN_CI
from tests.unit.test_proxy_linearizable import SETTINGS, is_clean, simulate
from tests.unit.virtual_time import run

MANY_IN_CI = 2400
MANY = MANY_IN_CI if IN_CI else 60
PARTS = 12

KINDS = [
    {**settings, **kind}
    for settings in SETTINGS.values()
    for kind in ({}, {"hints": True}, {"hints": True, "grouped": True, "keys": 3})
]


@pytest.mark.parametrize("part", range(PARTS))
def test_no_schedule_makes_a_history_that_is_not_linearizable(
    part: int, request: pytest.FixtureRequest, tally: Counter[str]
) -> None:
    first = request.config.getoption("--seed") * 1_000_000

    for number in range(part, MANY, PARTS):
        kind = KINDS[number % len(KINDS)]
        cluster = run(simulate(first + number, clients=5, operations=25, **kind))
        tally.update(cluster.figures())
        assert is_clean(cluster), f"number {number}, {kind}: {cluster.histories}"
        if "hints" in kind:
            assert (cluster.behind(), cluster.marked) == ([], []), f"number {number}, {kind}"
