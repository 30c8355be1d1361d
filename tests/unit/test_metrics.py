"""What Prometheus is told: names by its rules, and values that are the figures themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from nodes.metrics import node_families
from proxy.metrics import proxy_families
from sfss.durability import FIGURES, OK, durability_of
from sfss.http.metrics import Row, cluster_families, exposition, families
from sfss.web.counters import SharedCounters, bucket_ceiling
from sfss.web.metrics import web_families

NOW = 2e9


def parsed(*told: Metric) -> dict[str, Metric]:
    """What a Prometheus makes of the text."""
    return {metric.name: metric for metric in text_string_to_metric_families(exposition(told).decode())}


def values(metric: Metric) -> dict[tuple[str, ...], float]:
    """The samples by the values of their labels, in the order of the labels' names."""
    return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in metric.samples}


def web() -> tuple[SharedCounters, dict[str, Metric]]:
    counters = SharedCounters(2)
    for index in (0, 1):
        worker = counters.worker(index)
        worker.start()
        worker.answered("get", 200, 0.003, 0, 10)
        worker.answered("get", 404, 0.040, 0, 0)
        worker.answered("put", 503, 50.0, 7, 0)
        worker.answered("other", 200, 0.0, 0, 5)
    return counters, parsed(*web_families(counters, NOW))


def test_requests_are_told_by_method_and_code_of_all_workers_together() -> None:
    _, told = web()

    requests = values(told["sfss_web_requests"])

    assert told["sfss_web_requests"].type == "counter"
    assert {labels: count for labels, count in requests.items() if count} == {
        ("2xx", "GET"): 2,
        ("4xx", "GET"): 2,
        ("5xx", "PUT"): 2,
        ("2xx", "other"): 2,
    }


def test_the_histogram_has_every_latency_once_below_its_bound_and_their_sum() -> None:
    _, told = web()

    latencies = told["sfss_web_request_seconds"]
    of_get = {
        s.labels["le"]: s.value for s in latencies.samples if s.name.endswith("_bucket") and s.labels["method"] == "GET"
    }
    sums = {s.labels["method"]: s.value for s in latencies.samples if s.name.endswith("_sum")}
    counts = {s.labels["method"]: s.value for s in latencies.samples if s.name.endswith("_count")}

    bounds = [float(bound) for bound in of_get]
    assert bounds == sorted(bounds)
    assert list(of_get.values()) == sorted(of_get.values())
    assert (of_get["0.002048"], of_get["0.004096"], of_get["0.032768"], of_get["0.065536"]) == (0, 2, 2, 4)
    assert (counts["GET"], counts["PUT"], counts["HEAD"]) == (4, 2, 0)
    assert abs(sums["GET"] - 2 * 0.043) < 1e-6
    assert all(bound in {bucket_ceiling(bucket) / 1e6 for bucket in range(104)} for bound in bounds[:-1])


def test_the_metrics_are_the_figures_of_status_in_base_units() -> None:
    counters, told = web()
    counters.worker(0).set("rusage_maxrss", 100)
    counters.worker(0).set("rusage_user_us", 2_500_000)

    told = parsed(*web_families(counters, NOW))

    assert values(told["sfss_web_memory_max_bytes"]) == {(): 102_400}
    assert values(told["sfss_web_cpu_seconds"])[("user",)] == 2.5
    assert values(told["sfss_web_received_bytes"]) == {(): 14}
    assert values(told["sfss_web_gets"]) == {("hit",): 2, ("miss",): 2}


def test_a_figure_that_is_not_told_is_no_metric_and_text_is_none() -> None:
    rows = (Row("there", "there", "h"), Row("away", "away", "h"), Row("text", "text", "h"), Row("inf", "inf", "h"))

    told = parsed(*families("sfss_t", rows, {"": {"there": "0", "text": "ok", "inf": "inf"}}))

    assert list(told) == ["sfss_t_there"]
    assert values(told["sfss_t_there"]) == {(): 0}


def test_each_node_is_a_label_and_hostile_names_stay_text() -> None:
    name = 'a"b\\c\nd:1'
    nodes = {name: {"state": "dead"}, "b:1": {"state": "suspect", "disk_free_bytes": "5"}}

    told = parsed(*cluster_families(durability_of({}, nodes), nodes))

    assert values(told["sfss_cluster_node_down"]) == {(name,): 1, ("b:1",): 0}
    assert values(told["sfss_cluster_node_suspect"]) == {(name,): 0, ("b:1",): 1}
    assert values(told["sfss_cluster_node_disk_free_bytes"]) == {("b:1",): 5}
    assert values(told["sfss_cluster_disk_free_bytes"]) == {(): 5}
    assert values(told["sfss_cluster_nodes_dead"]) == {(): 1}


def test_exactly_one_state_is_1() -> None:
    nodes = {"b:1": {"state": "ok"}}

    told = parsed(*cluster_families(durability_of({}, nodes), nodes))

    states = values(told["sfss_cluster_state"])
    assert sum(states.values()) == states[(OK,)] == 1


class Everything(dict[str, str]):
    """STATS that have every figure."""

    def get(self, name: str, default: object = None) -> str:  # type: ignore[override]
        return "1"

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return "ok"


def told_by(tier: str) -> list[Metric]:
    """All that a tier can tell."""
    nodes = {"a:1": {"state": "ok", "corrupt_records": "1", "oldest_unsynced_write_s": "1", "last_scrub_age_s": "1"}}
    nodes["a:1"]["disk_free_bytes"] = "1"
    if tier == "node":
        return list(node_families(Everything()))
    if tier == "proxy":
        names = ("state", "failures", "hints_waiting", "read_p50_us")
        return list(proxy_families("p:1", Everything({f"a:1/{name}": "1" for name in names}), nodes))
    counters = SharedCounters(1)
    counters.worker(0).start()
    proxy = {"hints_oldest_s": "0", "comparison_repaired_keys": "4", "comparison_oldest_s": "3", "hints_waiting": "0"}
    return [*web_families(counters, NOW), *cluster_families(durability_of({"p": proxy}, nodes), nodes)]


@pytest.mark.parametrize("tier", ["node", "proxy", "web"])
def test_all_names_follow_the_rules(tier: str) -> None:
    told = told_by(tier)

    names = [metric.name for metric in told]

    # prometheus_client takes _total off a counter's name, so this also finds a counter and a gauge of one name.
    assert len(names) == len(set(names)), sorted(names)
    assert len(names) > 20
    for metric in told:
        assert re.fullmatch(r"sfss_(build|cluster|node|proxy|web)(_[a-z0-9]+)+", metric.name)
        assert metric.documentation
        # Base units only.
        assert not re.search(r"_(s|ms|us|kb|kib|mb)$|_milliseconds|_microseconds|_total", metric.name), metric.name
    counters = {metric.name for metric in told if metric.type == "counter"}
    assert not [name for name in names if name.endswith(("keys_repaired", "corrupt_records")) and name not in counters]
    assert parsed(*told).keys() == set(names)


def test_every_metric_and_figure_that_the_manual_names_is_there() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "operations.rst").read_text("utf-8")
    emitted = {
        sample.name for tier in ("node", "proxy", "web") for metric in told_by(tier) for sample in metric.samples
    }

    named = set(re.findall(r"sfss_(?:cluster|node|proxy|web)_[a-z_]+[a-z]", manual))

    assert len(named) > 5
    assert named <= emitted, named - emitted
    assert [name for name in FIGURES if f"``{name}``" not in manual] == []
