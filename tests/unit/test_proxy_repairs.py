"""Random schedules in which nodes die and forget, while coordinators compare replicas, replay hints and refill who
forgot: none may cost an acknowledged write, and in the end all owners of a key hold the same. Each rule, taken away,
must be missed by that judgement.

A failure prints the command that runs its schedule again, and tells it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy.asking import ask
from proxy.comparison import Comparison
from proxy.coordinator import Coordinator
from proxy.peer import Peer
from proxy.refill import Refilling
from sfss.errors import Outcome
from sfss.hash_tree import Listed
from sfss.store import Applied, Call, Identity, Record
from tests.planted import TRIES
from tests.unit.simulated_network import Link
from tests.unit.simulated_repairs import SETTINGS, coarse_regions, simulate
from tests.unit.simulated_trouble import Crashes
from tests.unit.tree_store import ForgetfulStore
from tests.unit.virtual_time import run

ROOT = Path(__file__).parents[2]

SEEDS = 5
"""Of each setting; with `--fault-seconds` as many as there is time for."""

PLANTED_SEEDS = range(100)
"""Many, because a planted fault shows only in some schedules; the first that shows it ends the test."""


@pytest.fixture(autouse=True)
def few_regions() -> Iterator[None]:
    logging.disable()
    with coarse_regions():
        yield
    logging.disable(logging.NOTSET)


def caught(settings: str = "hints are lost", **changes: Any) -> bool:
    """Whether some schedule shows the fault that was planted."""
    return TRIES.until(bool(run(simulate(seed, settings, **changes)).faults()) for seed in PLANTED_SEEDS)


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_schedule_of_crashes_and_repairs_costs_an_acknowledged_write(
    settings: str, request: pytest.FixtureRequest, tally: Counter[str]
) -> None:
    first = request.config.getoption("--seed") * 1_000_000
    seconds = request.config.getoption("--fault-seconds")
    until = time.monotonic() + (seconds or 0.0) / len(SETTINGS)
    number = forgot = 0

    while number < SEEDS or (seconds and time.monotonic() < until):
        cluster = run(simulate(first + number, settings))
        forgot += cluster.trouble.forgot
        number += 1
        tally.update(cluster.figures())
        assert not cluster.faults(), f"python -m tests.unit.simulated_repairs {settings!r} {first + number - 1}"

    assert forgot > number / 2 or settings == "hints alone"


def test_a_schedule_repeats_exactly_in_another_process() -> None:
    def tell(hash_seed: str) -> bytes:
        command = [sys.executable, "-m", "tests.unit.simulated_repairs", "three nodes", "3"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, timeout=60, check=True
        ).stdout  # fmt: skip

    told = tell("1")

    assert told.endswith(b"no fault\n")
    assert b"without its last" in told
    assert tell("2") == told


# Faults planted by substituting a part. If one of these isn't caught, the judgement above proves nothing.


def test_a_refill_content_with_one_owner_too_few_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class ContentWithLess(Refilling):
        def is_enough(self, prefix: bytes) -> bool:
            return not self.not_given() and all(
                len(set(owners.peers) - self._away - {self._target}) >= owners.copies - owners.w
                for owners in self.owners_below(prefix)
            )

    monkeypatch.setattr("proxy.refill.Refilling", ContentWithLess)

    assert caught()


def test_a_refill_that_leaves_out_what_is_new_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class LeavesOutWhatIsNew(Refilling):
        async def _compare_record(self, key: bytes, owners: Sequence[Peer], by_peer: Any) -> None:
            self._settle_s = 60.0
            await Comparison._compare_record(self, key, owners, by_peer)

    monkeypatch.setattr("proxy.refill.Refilling", LeavesOutWhatIsNew)

    assert caught()


def test_a_refill_that_takes_the_word_of_another_suspect_node_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class BelievesAnybody(Refilling):
        def _can_be_asked(self, peer: Peer) -> bool:
            return not peer.down

        async def _hashes(self, peer: Peer, prefix: bytes) -> bytes:
            target, self._target = self._target, peer
            try:
                return await super()._hashes(peer, prefix)
            finally:
                self._target = target

    monkeypatch.setattr("proxy.refill.Refilling", BelievesAnybody)

    assert caught("several forget at a time")


def test_a_node_that_is_trusted_for_what_an_earlier_life_got_is_caught() -> None:
    class ForgetsItsLives(ForgetfulStore):
        def trust(self, epoch: int) -> Identity:
            return super().trust(self.epoch)

    assert caught(node=ForgetsItsLives, crashes=Crashes(every_s=20.0))  # many lives, and short ones


def test_a_suspect_node_whose_word_counts_is_caught() -> None:
    class Assertive(ForgetfulStore):
        def _refuse_while_suspect(self, outcome: Outcome = Outcome.NOT_APPLIED) -> None:
            return

    assert caught(node=Assertive)


def test_a_replay_that_writes_an_older_record_over_a_newer_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Overwritten(ForgetfulStore):
        def overwrite(self, key: bytes, record: Record, call: Call) -> Applied:
            self.records.pop(key, None)
            return self.apply(key, record)

    class Overwrites:
        def __init__(self, link: Link) -> None:
            self._link = link
            self.read = link.read

        def inspect(self, key: bytes, call: Call) -> None:
            return None

        def apply(self, key: bytes, record: Record, call: Call) -> Any:
            return self._link._send_until(call.deadline, "overwrite", key, record, call)

    async def ask_to_overwrite(coordinator: Coordinator, peer: Peer, question: Any, **options: Any) -> Any:
        return await ask(coordinator, peer, lambda link, call: question(Overwrites(link), call), **options)

    monkeypatch.setattr("proxy.replay.ask", ask_to_overwrite)

    assert caught("hints alone", node=Overwritten)


@pytest.mark.parametrize("part", [Comparison, Refilling])
def test_tombstones_skipped_in_comparison_or_refill_are_caught(
    part: type[Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare_record = part._compare_record

    async def compare_files(
        self: Comparison, key: bytes, owners: Sequence[Peer], by_peer: Mapping[Peer, Listed]
    ) -> None:
        files = {peer: listed for peer, listed in by_peer.items() if not listed.tombstone}
        await compare_record(self, key, owners, files)

    monkeypatch.setattr(part, "_compare_record", compare_files)

    assert caught()


def test_a_comparison_that_spreads_the_oldest_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "proxy.comparison.newest_of", lambda orders: min((order for order in orders if order != (0, 0)), default=(0, 0))
    )

    assert caught()
