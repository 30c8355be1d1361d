"""One key that everybody writes and reads at once."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.history import History
from tests.cluster.workload import Mix, Workload, read_all

pytestmark = pytest.mark.slow

MIX = Mix(
    put=2, post=0, get=2, head=0.2, revalidate=0.2, delete=0.1, rest_s=0.02, size=lambda rng: rng.randint(64, 4096)
)


async def hammer(cluster: Cluster, history: History, seconds: float, key: str = "hot") -> None:
    workload = Workload(cluster.web_addresses, history, keys=[key], clients=64, mix=MIX, once=False)
    await workload.run(seconds)
    await read_all(cluster.web_addresses, history)


async def test_64_clients_on_one_key_through_the_proxies_see_no_error(standing, history, fault_seconds):
    await hammer(standing, history, fault_seconds or 3.0)

    history.check()
    history.check_errors(at_most=0)


async def test_64_clients_on_one_key_through_one_proxy_see_no_error(tmp_path, history, fault_seconds):
    async with Cluster(tmp_path / "c", nodes=3, proxies=1, webs=2) as cluster:
        await hammer(cluster, history, fault_seconds or 3.0)

        history.check()
        history.check_errors(at_most=0)


async def test_64_clients_on_one_key_through_4_direct_web_processes_see_no_error(tmp_path, history, fault_seconds):
    async with Cluster(tmp_path / "c", nodes=3, webs=4, direct=True) as cluster:
        await hammer(cluster, history, fault_seconds or 3.0)

        history.check()
        history.check_errors(at_most=0)
