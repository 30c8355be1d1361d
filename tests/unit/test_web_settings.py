"""Settings: where they come from, and that a wrong one is refused with its source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.configuration import load_configuration
from sfss.commands.web import cluster_config
from sfss.errors import SetupError
from sfss.settings import Address, Settings, load_settings, parse_address


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sfss.toml"
    path.write_text(text)
    return path


def test_what_setup_py_is_told_by_the_environment_is_no_setting_and_in_nobody_s_way() -> None:
    """Whoever builds and starts in one shell, as `SFSS_COMPILE=0 make run` does, has it in both."""
    assert load_settings(environment={"SFSS_COMPILE": "0", "SFSS_PORT": "8000"}).port == 8000


def test_the_defaults_are_those_of_a_local_cluster() -> None:
    settings = load_settings()

    assert [str(one) for one in settings.storages] == ["127.0.0.1:7900", "127.0.0.1:7901", "127.0.0.1:7902"]
    assert [str(one) for one in settings.storage_proxies] == ["127.0.0.1:8900", "127.0.0.1:8901"]
    assert settings.storage_proxy_max_retry == 3
    assert settings.storage_proxy_retry_after_seconds == 2
    assert settings.max_encoded_path_length == 250
    assert settings.max_content_size == 2 * 1024 * 1024
    assert (settings.n, settings.w, settings.r) == (3, 2, 2)


def test_options_override_the_environment_that_overrides_the_file_that_overrides_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, 'PORT = 1\nWORKERS = 1\nLOG_LEVEL = "error"\nSTORAGES = ["a:1", "b:2"]')

    settings = load_settings(file, {"SFSS_PORT": "2", "SFSS_WORKERS": "2", "HOME": "/"}, {"port": "3", "host": None})

    assert (settings.port, settings.workers, settings.log_level, settings.host) == (3, 2, "error", "127.0.0.1")
    assert settings.storages == (Address("a", 1), Address("b", 2))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("STORAGE_PROXIES", "a:1, [::1]:2", (Address("a", 1), Address("::1", 2))),
        ("DIRECT", "yes", True),
        ("DIRECT", "0", False),
        ("STORAGE_PROXY_RETRY_AFTER_SECONDS", "0.5", 0.5),
        ("KEY_ENCODING", "base64", "base64"),
    ],
)
def test_values_from_the_environment_are_read_by_kind(name: str, text: str, value: Any) -> None:
    assert getattr(load_settings(None, {f"SFSS_{name}": text}), name.lower()) == value


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"SFSS_PORT": "x"}, "environment variable SFSS_PORT: 'x' is not a whole number"),
        ({"SFSS_PORT": "70000"}, "SFSS_PORT: 70000 is not between 0 and 65535"),
        ({"SFSS_HOST": ""}, "SFSS_HOST: an empty address; 0.0.0.0 or :: is everybody"),
        ({"SFSS_HOST": " "}, "SFSS_HOST: an empty address"),
        ({"SFSS_POTR": "1"}, "SFSS_POTR: there is no such setting; PORT is meant?"),
        ({"SFSS_STORAGES": "nowhere"}, "SFSS_STORAGES: 'nowhere' is not host:port"),
        ({"SFSS_STORAGES": "::1:7900"}, "brackets"),
        ({"SFSS_STORAGES": "a:1,a:1"}, "twice"),
        ({"SFSS_STORAGES": ""}, "at least one"),
        ({"SFSS_DIRECT": "perhaps"}, "neither true nor false"),
        ({"SFSS_KEY_ENCODING": "rot13"}, "none of percent, base64"),
        ({"SFSS_MAX_CONTENT_SIZE": "3000000"}, "not between 1 and 2097152"),
        ({"SFSS_REQUEST_TIMEOUT_SECONDS": "nan"}, "not between"),
        ({"SFSS_SSL": "1"}, "--sslcert"),
        ({"SFSS_SSL_CERT": "x"}, "add --ssl"),
        ({"SFSS_DIRECT": "1", "SFSS_W": "4"}, "W=4"),
        ({"SFSS_DIRECT": "1", "SFSS_STORAGE_ZONES": "a,b"}, "STORAGE_ZONES has 2 entries for 3 STORAGES"),
        ({"SFSS_DIRECT": "1", "SFSS_STORAGE_WEIGHTS": "1"}, "STORAGE_WEIGHTS has 1 entries for 3 STORAGES"),
        ({"SFSS_STORAGE_WEIGHTS": "1,17,1"}, "SFSS_STORAGE_WEIGHTS: 17 is not between 1 and 16"),
        ({"SFSS_PARTITIONS": "1"}, "SFSS_PARTITIONS: 1 is not between 2 and"),
        ({"SFSS_OPERATORS": "here"}, "SFSS_OPERATORS: 'here' does not appear to be an IPv4 or IPv6 network"),
        ({"SFSS_OPERATORS": "10.0.3.7/8"}, "SFSS_OPERATORS: 10.0.3.7/8 has host bits set"),
        ({"SFSS_READY_FAILS_ON": "nodes_ded>0"}, "READY_FAILS_ON: there is no figure nodes_ded; nodes_dead is meant?"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_its_source(environment: dict[str, str], said: str) -> None:
    with pytest.raises(SetupError) as refused:
        load_settings(None, environment)

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("PORT = true", "PORT in"),
        ("PORT = 1.5", "not a whole number"),
        ("port = 1", "capitals"),
        ("NOTHING = 1", "no such setting"),
        ("PORT = ", "not TOML"),
        ("STORAGES = 5", "not a list"),
        ("STORAGE_ZONES = [1, 2, 3]", "not a list of zones"),
        ("STORAGE_WEIGHTS = 5", "not a list of weights"),
        ("HOST = 5", "not a text"),
        ("OPERATORS = 5", "not a list of addresses and networks"),
        ("READY_FAILS_ON = [5]", "not a list of limits"),
        ("STATUS_TIMEOUT_SECONDS = inf", "not between"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SetupError) as refused:
        load_settings(write(tmp_path, text))

    assert said in str(refused.value)
    assert "sfss.toml" in str(refused.value)


def test_nodes_without_proxies_are_placed_as_a_proxys_file_places_them(tmp_path: Path) -> None:
    ini = tmp_path / "proxy.ini"
    ini.write_text("[default]\nservers = a,b:7901,[::1]\nzones = x, y,z\nweights = 1,2,3\npartitions = 1024\n")
    proxy = load_configuration(ini).cluster
    toml = """
DIRECT = true
STORAGES = ["a:7900", "b:7901", "[::1]:7900"]
STORAGE_ZONES = ["x", "y", "z"]
STORAGE_WEIGHTS = [1, 2, 3]
PARTITIONS = 1024
"""
    environment = {
        "SFSS_STORAGES": "a:7900,b:7901,[::1]:7900",
        "SFSS_STORAGE_ZONES": "x, y,z",
        "SFSS_STORAGE_WEIGHTS": "1,2,3",
        "SFSS_PARTITIONS": "1024",
    }

    for settings in (load_settings(write(tmp_path, toml)), load_settings(None, environment)):
        direct = cluster_config(settings)
        assert (direct.addresses, direct.partitions) == (proxy.addresses, proxy.partitions)

    ini.write_text("[default]\nservers = 127.0.0.1,127.0.0.1:7901,127.0.0.1:7902\n")
    proxy = load_configuration(ini).cluster
    direct = cluster_config(load_settings())
    assert (direct.addresses, direct.partitions) == (proxy.addresses, proxy.partitions)


def test_direct_processes_together_compare_and_replay_as_much_as_is_configured() -> None:
    configured = {
        "compare_interval": 600,
        "compare_rate": 1_000_000,
        "hint_hours": 24,
        "hint_rate": 500,
        "tombstone_days": 4,
    }

    alone = cluster_config(load_settings(None, {}, configured | {"workers": 1})).options
    of_four = cluster_config(load_settings(None, {}, configured | {"workers": 4})).options

    assert (alone.compare_interval_s, alone.compare_bytes_per_s) == (600, 1_000_000)
    assert (alone.hint_age_s, alone.hint_rate) == (24 * 3600, 500)
    assert (alone.tombstone_grace_s, of_four.tombstone_grace_s) == (4 * 86400, 4 * 86400)
    # Each compares everything, a quarter as often and as fast: four of them do it once in the interval.
    assert (of_four.compare_interval_s, of_four.compare_bytes_per_s) == (4 * 600, 1_000_000 / 4)
    assert (of_four.hint_age_s, of_four.hint_rate) == (24 * 3600, 500 / 4)


def test_direct_and_a_proxy_work_in_the_background_alike_by_default(tmp_path: Path) -> None:
    proxy = load_configuration(write(tmp_path, "[default]\nservers = a\n")).cluster.options

    assert cluster_config(load_settings()).options == replace(proxy, shared=True)


def test_a_missing_file_and_a_wrong_option_say_so(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="can't read"):
        load_settings(tmp_path / "none.toml")
    with pytest.raises(SetupError, match="option --proxies"):
        load_settings(None, {}, {"storage_proxies": "x"})


def test_the_example_file_is_valid_and_shows_the_defaults() -> None:
    example = Path(__file__).parents[2] / "conf" / "sfss.toml"
    shown = "\n".join(line.removeprefix("# ").partition("  #")[0] for line in example.read_text().splitlines())
    names = [line for line in shown.splitlines() if line.split(" ")[0].isupper() and " = " in line]

    load_settings(example)

    defaults = Settings()
    for line in names:
        name = line.split(" ")[0].lower()
        assert hasattr(defaults, name), line


@pytest.mark.parametrize("text", ["host:1", "[::1]:65535", "127.0.0.1:80"])
def test_addresses_are_written_as_they_are_read(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize("text", ["", ":1", "host", "host:", "host:0", "host:65536", "host:-1", "host:１"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)
