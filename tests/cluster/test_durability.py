"""How safe the files are and where each one lives, told by a real cluster that loses a node and gets it back."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.cluster import Cluster
from tests.cluster.http_client import HttpClient
from tests.cluster.parts import HOST

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0


async def told(client: HttpClient, target: str) -> dict[str, Any]:
    """A JSON answer."""
    answer = await client.request("GET", target, seconds=12)
    assert answer.status == 200, (target, answer.status, answer.body[:300])
    found: dict[str, Any] = json.loads(answer.body)
    return found


async def told_once(cluster: Cluster, target: str) -> dict[str, Any]:
    with closing(HttpClient(*cluster.webs[0].address)) as client:
        return await told(client, target)


async def until(client: HttpClient, state: str) -> dict[str, Any]:
    """Wait for a verdict of /status."""
    began = time.monotonic()
    while True:
        durability: dict[str, Any] = (await told(client, "/status"))["webserver"]["durability"]
        if durability["state"] == state:
            return durability
        assert time.monotonic() < began + PATIENCE_S, durability
        await asyncio.sleep(0.2)


async def explained(client: HttpClient, path: str, copies: int) -> dict[str, Any]:
    """Where a file lives, once so many copies of it are seen."""
    began = time.monotonic()
    while True:
        found = await told(client, f"/file?path={path}&explain")
        if found["copies"] == copies:
            return found
        assert time.monotonic() < began + PATIENCE_S, found
        await asyncio.sleep(0.1)


async def states(client: HttpClient) -> dict[str, float]:
    """`sfss_cluster_state` as Prometheus reads it."""
    answer = await client.request("GET", "/metrics", seconds=12)
    metrics = {metric.name: metric for metric in text_string_to_metric_families(answer.body.decode())}
    return {sample.labels["state"]: sample.value for sample in metrics["sfss_cluster_state"].samples}


@pytest.mark.parametrize("direct", [False, True], ids=["proxies", "direct"])
async def test_a_killed_node_is_said_and_shown_and_all_is_well_once_it_is_back(tmp_path: Path, direct: bool) -> None:
    async with Cluster(
        tmp_path / "c", nodes=3, proxies=2, webs=1, direct=direct, web_settings={"SFSS_READY_FAILS_ON": "nodes_dead>0"}
    ) as cluster:
        victim = cluster.nodes[1]
        address = f"{HOST}:{victim.port}"
        with closing(HttpClient(*cluster.webs[0].address)) as client:
            await client.request("PUT", "/file?path=a/b", b"four")
            await until(client, "ok")
            whole = await explained(client, "a/b", copies=3)  # two are on disk when a write is answered

            victim.kill()
            durability = await until(client, "recovering")
            ready = await client.request("GET", "/readyz", seconds=5)
            scraped = await states(client)
            lame = await explained(client, "a/b", copies=2)
            missed = await client.request("PUT", "/file?path=a/b", b"newer")
            await victim.start()
            await until(client, "ok")
            ready_again = await client.request("GET", "/readyz", seconds=5)

        assert [replica["verdict"] for replica in whole["replicas"]] == ["whole"] * 3
        assert {replica["address"] for replica in whole["replicas"]} == {
            f"{HOST}:{node.port}" for node in cluster.nodes
        }
        assert len({replica["node"] for replica in whole["replicas"]}) == 3
        assert (whole["kind"], whole["copies"], whole["quorum"]) == ("file", 3, "3/2/2")
        assert {replica["size"] for replica in whole["replicas"]} == {4}
        assert {replica["durable"] for replica in whole["replicas"]} == {"yes"}
        assert durability["nodes_dead"] == "1"
        assert any(reason.startswith(f"{address} is dead") for reason in durability["reasons"])
        assert ready.status == 503
        assert b"nodes_dead is 1" in ready.body
        assert scraped["recovering"] == 1
        dead = next(replica for replica in lame["replicas"] if replica["address"] == address)
        assert dead["verdict"] == "unreachable"
        assert dead["error"]
        assert lame["copies"] == 2
        assert lame["answers"] != address
        assert missed.status == 200
        assert ready_again.status == 200


async def test_every_worker_process_tells_what_all_of_them_did(tmp_path: Path) -> None:
    gets, scrapes = 40, 12
    async with Cluster(tmp_path / "c", nodes=3, proxies=1, webs=1, web_settings={"SFSS_WORKERS": "2"}) as cluster:
        served = set()
        totals = []
        for _ in range(gets):
            with closing(HttpClient(*cluster.webs[0].address)) as client:
                served.add((await client.request("GET", "/file?path=nowhere")).status)
        await asyncio.sleep(1.0)  # each process tells the other within a tenth of that
        for _ in range(scrapes):  # each over a connection of its own, so that both processes are asked
            with closing(HttpClient(*cluster.webs[0].address)) as client:
                answer = await client.request("GET", "/metrics", seconds=12)
            metrics = {metric.name: metric for metric in text_string_to_metric_families(answer.body.decode())}
            [total] = [
                sample.value
                for sample in metrics["sfss_web_requests"].samples
                if sample.labels == {"method": "GET", "code": "4xx"}
            ]
            totals.append(total)
        workers = (await told_once(cluster, "/status"))["webserver"]["workers"]

    assert served == {404}
    assert totals == [gets] * scrapes
    assert len(workers) == 2
    assert all(int(worker["requests_other"]) for worker in workers), "one process had no request at all"


async def test_with_too_few_nodes_for_a_quorum_it_is_failing_and_says_for_what(tmp_path: Path) -> None:
    async with Cluster(tmp_path / "c", nodes=3, proxies=1, webs=1) as cluster:
        with closing(HttpClient(*cluster.webs[0].address)) as client:
            await until(client, "ok")

            for node in cluster.nodes[:2]:
                node.kill()
            durability = await until(client, "failing")

        assert durability["reasons"][0] == "files can't be read or written: 2 of 3 nodes are away"
