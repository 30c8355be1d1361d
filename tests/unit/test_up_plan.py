"""What `sfss up` makes of its options: ports, the proxies' configuration, delays, words."""

from __future__ import annotations

import configparser
import random
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from proxy.quorum import Quorum
from sfss.commands.data_folder import Founding
from sfss.commands.local_cluster import Plan, doors, proxy_ini, what_to_try
from sfss.commands.ports import check_distinct
from sfss.commands.supervisor import how_it_ended, restart_delay_s
from sfss.errors import SetupError


def plan_with(**changes: Any) -> Plan:
    options: dict[str, Any] = {
        "founding": Founding(nodes=3, node_port=7900),
        "proxies": 2,
        "workers": 1,
        "host": "127.0.0.1",
        "port": 8255,
        "proxy_port": 8900,
        "monitor_port": 9900,
        "access_log": False,
        "log_level": "info",
        "log_json": False,
    }
    return Plan(**{**options, **changes})


def test_every_part_has_a_port_of_its_own_and_the_option_that_moves_it() -> None:
    wanted = [(door.part, door.port, door.option) for door in doors(plan_with())]

    assert wanted == [
        ("node-0", 7900, "--node-port"),
        ("node-1", 7901, "--node-port"),
        ("node-2", 7902, "--node-port"),
        ("proxy-0", 8900, "--proxy-port"),
        ("the monitor of proxy-0", 9900, "--monitor-port"),
        ("proxy-1", 8901, "--proxy-port"),
        ("the monitor of proxy-1", 9901, "--monitor-port"),
        ("web", 8255, "--port"),
    ]


def test_the_proxies_take_the_secret_for_nodes_and_clients_from_the_file_by_its_whole_name() -> None:
    ini = configparser.ConfigParser()
    ini.read_string(proxy_ini(plan_with(secret=Path("my/secret")), 0, Path("state")))

    assert ini["default"]["secret"] == str(Path("my/secret").absolute())
    assert "secret" not in proxy_ini(plan_with(), 0, Path("state"))


def test_a_port_that_two_parts_want_is_refused_with_both_options() -> None:
    with pytest.raises(SetupError) as refused:
        check_distinct(doors(plan_with(port=7901)))

    for words in ("7901", "node-1", "web", "--node-port", "--port"):
        assert words in str(refused.value)


def test_a_port_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SetupError, match="65536 of node-1 is over 65535; choose another --node-port"):
        check_distinct(doors(plan_with(founding=Founding(nodes=3, node_port=65535))))


@pytest.mark.parametrize(("nodes", "quorum"), [(1, "1/1/1"), (2, "2/2/2"), (3, "3/2/2"), (5, "3/2/2")])
def test_a_quorum_follows_the_number_of_nodes(nodes: int, quorum: str) -> None:
    plan = plan_with(founding=Founding(nodes=nodes, node_port=7900))
    ini = configparser.ConfigParser()
    ini.read_string(proxy_ini(plan, 0, Path("/data/proxy-0")))

    assert str(Quorum.over(nodes, *(int(ini["proxy"][name]) for name in "NWR"))) == quorum


def test_a_cluster_that_has_grown_tells_its_proxies_the_nodes_that_it_was_founded_with() -> None:
    plan = plan_with(founding=Founding(nodes=1, node_port=7900).with_nodes(3))
    ini = configparser.ConfigParser()
    ini.read_string(proxy_ini(plan, 0, Path("/data/proxy-0")))

    assert ini["default"]["servers"] == "127.0.0.1:7900"
    assert [door.part for door in doors(plan)][:4] == ["node-0", "node-1", "node-2", "proxy-0"]


def test_each_proxy_has_its_own_ports_and_state_and_all_have_the_same_nodes() -> None:
    inis = []
    for number in (0, 1):
        ini = configparser.ConfigParser()
        ini.read_string(proxy_ini(plan_with(), number, Path(f"/data/proxy-{number}")))
        inis.append(ini)

    first, second = inis
    assert first["default"]["servers"] == second["default"]["servers"] == "127.0.0.1:7900,127.0.0.1:7901,127.0.0.1:7902"
    assert (first["proxy"]["port"], second["proxy"]["port"]) == ("8900", "8901")
    assert (first["monitor"]["port"], second["monitor"]["port"]) == ("9900", "9901")
    assert (second["monitor"]["proxy"], second["proxy"]["state"]) == ("127.0.0.1:8901", "/data/proxy-1")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8255"),
        ("0.0.0.0", "http://127.0.0.1:8255"),
        ("::", "http://[::1]:8255"),
        ("example.org", "http://example.org:8255"),
    ],
)
def test_printed_lines_can_be_copied(host: str, url: str) -> None:
    text = what_to_try(plan_with(host=host), Path("data"))

    assert f'-X POST "{url}/files?path=' in text
    assert f"{url}/status\n" in text
    assert "http://127.0.0.1:9901/" in text


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_a_web_tier_that_others_can_reach_is_pointed_out(host: str, warned: bool) -> None:
    assert ("Anyone who reaches" in what_to_try(plan_with(host=host), Path("data"))) is warned


def test_restarts_wait_longer_each_time_up_to_a_limit_and_never_all_at_once(rng: random.Random) -> None:
    delays = [[restart_delay_s(failures, rng) for _ in range(200)] for failures in (*range(1, 60), 10_000)]

    assert 0.25 <= min(delays[0]) <= max(delays[0]) <= 0.75
    assert all(sum(later) > sum(sooner) for sooner, later in pairwise(delays[:6]))
    assert max(max(some) for some in delays) <= 45.0
    assert all(len(set(some)) > 100 for some in delays)


def test_an_end_is_told_in_words() -> None:
    assert how_it_ended(3) == "ended with status 3"
    assert how_it_ended(-signal.SIGKILL) == "was killed by SIGKILL"
