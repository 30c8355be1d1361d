"""`sfss-node --metrics`: what Prometheus is told, and that nobody is told anything unless asked for."""

from __future__ import annotations

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.parts import HOST, free_ports
from tests.integration.node_process import NodeClient, node_command, node_part, running

SMALL = ("--reserve-mib", "0", "--volume-mib", "1")


async def scraped(port: int) -> dict[tuple[str, ...], float]:
    async with aiohttp.ClientSession() as http, http.get(f"http://{HOST}:{port}/metrics") as answer:
        assert answer.status == 200
        text = await answer.text()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for metric in text_string_to_metric_families(text)
        for sample in metric.samples
    }


async def test_what_clients_did_is_what_the_node_tells(tmp_path):
    [port] = free_ports(1)
    async with running(node_part(tmp_path, tmp_path / "home", *SMALL, "--metrics", f"{HOST}:{port}")) as node:
        async with NodeClient(node.port) as client:
            await client.set("a", b"four")
            await client.set("b", b"x" * 5000)
            await client.delete("b")

        told = await scraped(port)

        assert told["sfss_node_files",] == 1
        assert told["sfss_node_commands_total", "set"] == 2
        assert told["sfss_node_commands_total", "delete"] == 1
        assert told["sfss_node_fsyncs_total",] >= 1
        assert told["sfss_node_disk_free_bytes",] > 0
        assert told["sfss_node_suspect",] == 0
        assert told["sfss_node_sync_always",] == 1
        assert ("sfss_node_last_scrub_age_seconds",) not in told
        assert await node.stop() == 0


async def test_without_the_option_nothing_listens_and_nothing_of_http_is_loaded(tmp_path):
    async with running(node_part(tmp_path, tmp_path / "home", *SMALL)) as node:
        with open(f"/proc/{node.process.pid}/maps") as maps:
            loaded = maps.read()

        assert "aiohttp" not in loaded
        assert await node.stop() == 0


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nowhere", "--metrics: 'nowhere' is not host:port"),
        ("0.0.0.0:9100", "0.0.0.0 can be reached from other machines"),
    ],
)
def test_a_wrong_place_for_metrics_is_refused_in_one_line(tmp_path, where, said):
    ended = node_command("-H", tmp_path / "home", "-p", free_ports(1)[0], "--metrics", where)

    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


async def test_a_port_in_use_is_refused_in_one_line_and_the_data_is_let_go_of(tmp_path):
    [port] = free_ports(1)
    first = node_part(tmp_path, tmp_path / "first", *SMALL, "--metrics", f"{HOST}:{port}")
    async with running(first):
        ended = node_command("-H", tmp_path / "second", "-p", free_ports(1)[0], *SMALL, "--metrics", f"{HOST}:{port}")

    assert ended.returncode == 2
    assert "is in use" in ended.stderr.splitlines()[-1]
    assert "--metrics" in ended.stderr.splitlines()[-1]
