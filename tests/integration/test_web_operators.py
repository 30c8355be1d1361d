"""What the web tier tells operators: metrics, where a file lives, and readiness by figures of durability."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from web_tier import RawClient, WebTier, make_certificate, request, web_tier

from sfss.errors import BadRequest, Busy, SfssError, Unreachable, Unsupported
from sfss.explanation import key_of_topic
from sfss.memory import MemoryStore
from sfss.store import NO_CALL, Call
from sfss.tls import server_tls
from sfss.web.status import FRESH_S

OTHERS_ONLY = {"operators": "10.1.2.3"}


class Cluster:
    """A status source whose proxies and nodes say what the test lets them say."""

    def __init__(self) -> None:
        self.proxies: dict[str, dict[str, str]] = {"p:1": {"state": "ok", "quorum": "3/2/2", "hints_waiting": "0"}}
        self.nodes = {f"n{number}:1": {"state": "ok", "disk_free_bytes": "5000"} for number in range(3)}
        self.error: SfssError | None = None
        self.asked = 0

    async def collect(self) -> dict[str, object]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return {**self.proxies, "storages": self.nodes}


class Explaining(MemoryStore):
    """A store that explains keys as a coordinator does."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.asked: list[bytes | None] = []
        self.error: SfssError | None = None

    def stats(self, topic: str = "", call: Call = NO_CALL) -> Any:
        self.asked.append(key_of_topic(topic))
        if self.error is not None:
            raise self.error
        return {
            "hash": "ff",
            "partition": "7",
            "n1:1/place": "1",
            "n0:1/place": "0",
            "n0:1/size": "4",
            "n0:1/verdict": "whole",
        }


async def scraped(tier: WebTier) -> dict[str, dict[tuple[str, ...], float]]:
    """The metrics: samples by metric, and by the values of their labels."""
    reply = await tier.ask(request("GET", "/metrics"))
    assert reply.status == 200, reply.body
    return {
        metric.name: {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in metric.samples
        }
        for metric in text_string_to_metric_families(reply.body.decode())
    }


# --- metrics ---------------------------------------------------------------------------------------------


async def test_requests_made_are_requests_told() -> None:
    async with web_tier(status=Cluster()) as tier:
        await tier.put("a", b"four")
        await tier.get("a")
        await tier.get("nothing")

        told = await scraped(tier)

    assert told["sfss_web_requests"][("2xx", "PUT")] == told["sfss_web_requests"][("2xx", "GET")] == 1
    assert told["sfss_web_requests"][("4xx", "GET")] == 1
    assert told["sfss_web_received_bytes"][()] == 4
    assert told["sfss_cluster_state"][("ok",)] == 1
    assert told["sfss_cluster_node_disk_free_bytes"][("n2:1",)] == 5000


async def test_the_text_is_of_the_type_that_prometheus_asks_for() -> None:
    async with web_tier(status=Cluster()) as tier:
        reply = await tier.ask(request("GET", "/metrics", "Accept: application/openmetrics-text;version=1.0.0"))

    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert reply.headers["cache-control"] == "no-store"


async def test_with_no_proxy_left_the_web_tier_still_tells_its_own_metrics_and_that_it_fails() -> None:
    cluster = Cluster()
    cluster.error = Unreachable("no proxy answers")
    async with web_tier(status=cluster) as tier:
        told = await scraped(tier)

    assert told["sfss_cluster_state"][("failing",)] == 1
    assert "sfss_cluster_nodes_dead" not in told
    assert "sfss_web_requests" in told


async def test_scrapes_share_what_was_collected_for_status() -> None:
    cluster = Cluster()
    async with web_tier(status=cluster) as tier:
        await asyncio.gather(*(tier.ask(request("GET", target)) for target in ("/metrics", "/status") * 4))

    assert cluster.asked <= 4  # one for each half a second at most; eight without sharing


# --- who may ask -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/metrics", "/file?path=a&explain"])
async def test_who_is_no_operator_is_refused_and_nobody_is_asked(target: str) -> None:
    cluster, store = Cluster(), Explaining()
    async with web_tier(store, status=cluster, settings=OTHERS_ONLY) as tier:
        reply = await tier.ask(request("GET", target))

    assert reply.status == 403
    assert json.loads(reply.body)["error"] == "operators_only"
    assert "127.0.0.1 is none (OPERATORS)" in json.loads(reply.body)["message"]
    assert not cluster.asked
    assert not store.asked


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1", "Via: 1.1 x", "X-Real-IP: 1"]
)
async def test_what_a_server_in_front_has_passed_on_is_refused_though_that_one_is_on_this_machine(header: str) -> None:
    async with web_tier(status=Cluster()) as tier:
        reply = await tier.ask(request("GET", "/metrics", header))

    assert reply.status == 403


async def test_files_and_status_are_for_everybody() -> None:
    async with web_tier(status=Cluster(), settings=OTHERS_ONLY) as tier:
        await tier.put("a", b"x")
        statuses = [
            (await tier.ask(request("GET", target))).status
            for target in ("/file?path=a", "/status", "/readyz", "/healthz")
        ]

    assert statuses == [200] * 4


@pytest.mark.parametrize(("operators", "status"), [("127.0.0.0/8", 200), ("10.0.0.0/8, 127.0.0.1", 200), ("::1", 403)])
async def test_operators_are_networks(operators: str, status: int) -> None:
    async with web_tier(status=Cluster(), settings={"operators": operators}) as tier:
        reply = await tier.ask(request("GET", "/metrics"))

    assert reply.status == status


async def test_who_asks_is_known_over_tls_too(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=str(cert))
    statuses = []
    for operators in ("127.0.0.1", "10.0.0.1"):
        tls = server_tls(str(cert), str(key))
        async with web_tier(status=Cluster(), settings={"operators": operators}, tls=tls) as tier:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", tier.port, ssl=trusting, server_hostname="localhost"
            )
            async with RawClient(reader, writer) as client:
                await client.send(request("GET", "/metrics"))
                statuses.append((await client.reply()).status)

    assert statuses == [200, 403]


async def test_ipv4_over_an_ipv6_socket_is_ipv4() -> None:
    async with web_tier(status=Cluster(), host="::") as tier:
        reply = await tier.ask(request("GET", "/metrics"))

    assert reply.status == 200


# --- where a file lives ------------------------------------------------------------------------------------


async def test_a_file_is_explained_by_its_path_with_its_replicas_in_order() -> None:
    store = Explaining()
    async with web_tier(store) as tier:
        reply = await tier.ask(request("GET", "/file?path=%C3%A4%20b&explain"))

    told = json.loads(reply.body)
    assert reply.status == 200
    assert store.asked == ["ä%20b".encode()]
    assert (told["path"], told["key"], told["hash"], told["partition"]) == ("ä b", "ä%20b", "ff", 7)
    assert told["replicas"] == [
        {"address": "n0:1", "place": 0, "size": 4, "verdict": "whole"},
        {"address": "n1:1", "place": 1},
    ]


@pytest.mark.parametrize("query", ["explain&path=a", "path=a&explain=", "path=a&explain=1", "x=y&path=a&explain"])
async def test_explain_stands_anywhere_in_the_query(query: str) -> None:
    store = Explaining()
    async with web_tier(store) as tier:
        reply = await tier.ask(request("GET", f"/file?{query}"))

    assert (reply.status, store.asked) == (200, [b"a"])


async def test_a_file_that_is_called_explain_is_a_file() -> None:
    store = Explaining()
    async with web_tier(store) as tier:
        await tier.put("explain", b"its bytes")
        await tier.put("explain%26explain", b"others")

        named = await tier.get("explain")
        escaped = await tier.get("explain%26explain")
        head = await tier.ask(request("HEAD", "/file?path=explain&explain"))

    assert (named.body, escaped.body, head.status) == (b"its bytes", b"others", 200)
    assert not store.asked


@pytest.mark.parametrize("target", ["/file?explain", "/file?path=&explain", "/file?path=a/../b&explain"])
async def test_a_bad_path_is_a_400_with_explain_too(target: str) -> None:
    async with web_tier(Explaining()) as tier:
        assert (await tier.ask(request("GET", target))).status == 400


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unsupported("foreign"), 501),
        (BadRequest("no stats on it"), 501),
        (Busy("4 keys"), 503),
        (Unreachable("x"), 504),
    ],
)
async def test_a_store_that_cannot_explain_says_so(error: SfssError, status: int) -> None:
    store = Explaining()
    store.error = error
    async with web_tier(store) as tier:
        assert (await tier.ask(request("GET", "/file?path=a&explain"))).status == status


# --- readiness -------------------------------------------------------------------------------------------


async def test_by_default_readiness_asks_nobody_for_figures() -> None:
    cluster = Cluster()
    cluster.nodes["n0:1"] = {"state": "dead", "error": "gone"}
    async with web_tier(status=cluster) as tier:
        reply = await tier.ask(request("GET", "/readyz"))

    assert (reply.status, cluster.asked) == (200, 0)


async def test_readiness_fails_beyond_a_limit_with_the_figure_and_passes_below_it() -> None:
    cluster = Cluster()
    limits = {"ready_fails_on": "nodes_dead>0, disk_free_bytes<1000, hints_oldest_s>60"}
    async with web_tier(status=cluster, settings=limits) as tier:
        well = await tier.ask(request("GET", "/readyz"))
        cluster.nodes["n0:1"] = {"state": "dead", "error": "gone"}
        cluster.nodes["n1:1"]["disk_free_bytes"] = "999"
        await asyncio.sleep(FRESH_S + 0.1)  # until then what was collected for the first is given again
        ill = await tier.ask(request("GET", "/readyz"))

    assert well.status == 200
    assert ill.status == 503
    assert ill.headers["retry-after"] == "1"
    assert json.loads(ill.body) == {
        "error": "not_ready",
        "message": "READY_FAILS_ON: nodes_dead is 1 (nodes_dead>0), disk_free_bytes is 999 (disk_free_bytes<1000)",
    }


async def test_status_has_the_verdict_under_webserver_and_keeps_its_shape() -> None:
    cluster = Cluster()
    cluster.nodes["n1:1"] = {"state": "dead", "error": "connection refused"}
    async with web_tier(status=cluster) as tier:
        told = json.loads((await tier.ask(request("GET", "/status"))).body)

    assert set(told) == {"p:1", "storages", "webserver"}
    assert told["webserver"]["durability"] == {
        "state": "recovering",
        "reasons": ["n1:1 is dead: connection refused"],
        "nodes_dead": "1",
        "nodes_suspect": "0",
        "disk_free_bytes": "5000",
        "hints_waiting": "0",
        "keys_below_n": "0",
    }
