"""The monitor over real HTTP: two answers at one URL, and no more questions to the proxy than needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.monitor import Figures, Monitor, start_monitor
from tests.integration.invented_cluster import NODES, InventedCluster


class CountedSource:
    """A cluster's figures, given only once `gate` is open; counts how often they were asked for."""

    def __init__(self) -> None:
        self.cluster = InventedCluster()
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False

    async def figures(self) -> Figures:
        self.asked += 1
        await self.gate.wait()
        if self.broken:
            raise RuntimeError("no figures today")
        return await self.cluster.figures()


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def source() -> CountedSource:
    return CountedSource()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def monitor(source: CountedSource, clock: Clock) -> AsyncIterator[Monitor]:
    monitor = Monitor(source, now=clock)
    await monitor.start("127.0.0.1", 0)
    yield monitor
    await monitor.close()


@pytest.fixture
async def http(monitor: Monitor) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{monitor.port}") as session:
        yield session


async def test_programs_get_json_with_the_proxy_its_nodes_and_the_ring(http: aiohttp.ClientSession) -> None:
    answer = await http.get("/")
    figures = await answer.json()

    assert answer.headers["Content-Type"].startswith("application/json")
    assert list(figures) == ["localhost:8900", "storages", "ring", "durability"]
    assert figures["durability"]["state"] == "ok"
    assert figures["localhost:8900"]["state"] == "ok"
    assert list(figures["storages"]) == list(NODES)
    assert figures["ring"]["nodes"]["localhost:7900"]["partitions"] == 4096


async def test_prometheus_gets_the_same_figures_with_a_label_for_each_node(
    http: aiohttp.ClientSession, source: CountedSource
) -> None:
    source.cluster.dead.add("localhost:7901")

    answer = await http.get("/metrics")
    told = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for metric in text_string_to_metric_families(await answer.text())
        for sample in metric.samples
    }

    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert told["sfss_proxy_connections",] == 18
    assert told["sfss_proxy_node_latency_seconds", "0.5", "localhost:7900", "read"] == pytest.approx(320e-6)
    assert told["sfss_cluster_node_down", "localhost:7901"] == 1
    assert told["sfss_cluster_node_disk_free_bytes", "localhost:7902"] == 1_202_000_000_000
    assert told["sfss_cluster_state", "recovering"] == 1
    assert source.asked == 1


async def test_a_page_of_another_site_can_neither_change_anything_nor_read_the_figures(
    http: aiohttp.ClientSession, source: CountedSource
) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = await http.request(method, "/", headers={"Origin": "http://elsewhere.example"})
        assert answer.status == 405
    assert source.asked == 0

    answer = await http.get("/", headers={"Origin": "http://elsewhere.example"})

    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


async def test_browsers_get_the_page_under_a_strict_policy(http: aiohttp.ClientSession) -> None:
    answer = await http.get("/", headers={"Accept": "text/html,*/*;q=0.8"})

    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "monitor" in await answer.text()


async def test_the_page_is_served_while_the_figures_are_still_being_asked_for(
    http: aiohttp.ClientSession, source: CountedSource
) -> None:
    source.gate.clear()

    answer = await http.get("/", headers={"Accept": "text/html"})

    assert answer.status == 200
    assert source.asked == 0


async def test_many_who_look_at_once_ask_the_proxy_once(
    http: aiohttp.ClientSession, source: CountedSource, clock: Clock
) -> None:
    answers = await asyncio.gather(*(http.get("/") for _ in range(20)))
    again = await http.get("/")
    asked_within_a_second = source.asked
    clock.seconds += 1.5
    await http.get("/")

    assert {answer.status for answer in (*answers, again)} == {200}
    assert asked_within_a_second == 1
    assert source.asked == 2


async def test_one_who_leaves_takes_nothing_from_the_others(http: aiohttp.ClientSession, source: CountedSource) -> None:
    source.gate.clear()
    leaving = asyncio.create_task(http.get("/"))
    staying = asyncio.create_task(http.get("/"))
    while not source.asked:
        await asyncio.sleep(0.01)
    leaving.cancel()
    source.gate.set()

    assert (await staying).status == 200


async def test_a_proxy_without_figures_is_a_503_that_says_so_and_passes(
    http: aiohttp.ClientSession, source: CountedSource, clock: Clock
) -> None:
    source.broken = True
    failed = await http.get("/")
    unscraped = await http.get("/metrics")
    source.broken = False
    clock.seconds += 1.5
    recovered = await http.get("/")

    assert failed.status == unscraped.status == 503
    assert json.loads(await failed.text())["message"] == "the proxy can't tell its figures: no figures today"
    assert recovered.status == 200


async def test_a_port_in_use_is_an_error_of_the_start(monitor: Monitor, source: CountedSource) -> None:
    with pytest.raises(OSError, match="in use"):
        await start_monitor(source, "127.0.0.1", monitor.port)


async def test_closing_twice_and_with_a_question_open_is_fine(source: CountedSource) -> None:
    source.gate.clear()
    monitor = await start_monitor(source, "127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(session.get(f"http://127.0.0.1:{monitor.port}/"))
        while not source.asked:
            await asyncio.sleep(0.01)

        async with asyncio.timeout(15):
            await monitor.close()
            await monitor.close()

        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
