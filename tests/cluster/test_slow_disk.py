"""A disk that takes a second for whatever is to be durable: its node waits for it, and nobody waits for the node."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from tests.cluster.disks import needs_root
from tests.cluster.history import History, Outcome
from tests.cluster.parts import Part
from tests.cluster.strace import SYNCS, injected, needs_strace
from tests.cluster.workload import Workload, keys_of, read_all

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.root, needs_root, needs_strace]

DELAY_S = 1.0


def within(times: list[float], share: float) -> float:
    """The seconds within which a share of them was over."""
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


def answer_times(history: History, since: float, until: float) -> list[float]:
    return [e.end - e.start for e in history.events if since <= e.start < until and e.outcome is Outcome.OK]


async def ask(node: Part, request: bytes, answer: bytes, seconds: float = 0.0) -> list[float]:
    """Ask a node itself, once and then again for some seconds; returns the seconds that each answer took."""
    times: list[float] = []
    reader, writer = await asyncio.open_connection(*node.address)
    until = time.monotonic() + seconds
    while not times or time.monotonic() < until:
        began = time.monotonic()
        writer.write(request)
        async with asyncio.timeout(20 * DELAY_S):
            assert (await reader.readline()).startswith(answer)
        times.append(time.monotonic() - began)
        await asyncio.sleep(0.02)
    writer.transport.abort()
    return times


async def test_one_slow_disk_delays_neither_the_cluster_nor_what_its_node_says_without_it(
    standing, history, fault_seconds
):
    victim = random.Random(history.seed).choice(standing.nodes)

    async with Workload(standing.web_addresses, history, keys=keys_of("slow-disk")):
        healthy = time.monotonic()
        await asyncio.sleep(2)
        with injected(victim, SYNCS, f"delay_enter={DELAY_S * 1e6:.0f}"):
            slow = time.monotonic()
            versions = await ask(victim, b"version\r\n", b"VERSION", fault_seconds or 4.0)
            healed = time.monotonic()
            (own_write,) = await ask(victim, b"set slow-disk-itself 0 0 1\r\nx\r\n", b"STORED")
    await read_all(standing.web_addresses, history)

    history.check()
    before, during = answer_times(history, healthy, slow), answer_times(history, slow, healed)
    print(
        f"99 % of {len(before)} answers within {within(before, 0.99):.3f} s, with a slow disk {len(during)} "
        f"within {within(during, 0.99):.3f} s; its node told its version within {max(versions):.3f} s"
    )
    history.check_errors()
    assert own_write > DELAY_S
    if fault_seconds:  # in the short form, 99 % are all but a handful
        assert within(during, 0.99) <= max(2 * within(before, 0.99), DELAY_S / 2)
    # Of all paths, three in five have a copy there. Whoever waited for that copy would wait for the disk.
    assert within(during, 0.9) < DELAY_S / 2
    assert within(versions, 0.9) < DELAY_S / 2
