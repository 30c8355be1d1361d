"""The proxy's configuration file: what loads, and that whatever can't be used is named in one line."""

from pathlib import Path

import pytest

from proxy.cluster import NodeAddress
from proxy.configuration import load_configuration
from sfss.errors import SetupError
from sfss.memcache.trust import Trust

AS_OPERATORS_HAVE_IT = """\
[default]
server_port=7900
servers=localhost,localhost:7901,localhost:7902

[proxy]
listen=127.0.0.1
port=8900
N=3
W=2
R=2
accesslog=

[monitor]
port=9900
proxy=localhost:8900
"""


def load(tmp_path, text):
    path = tmp_path / "proxy.ini"
    path.write_text(text)
    return load_configuration(path)


def test_the_usual_file_loads_as_it_stands(tmp_path):
    config = load(tmp_path, AS_OPERATORS_HAVE_IT)

    assert config.cluster.addresses == tuple(NodeAddress("localhost", port) for port in (7900, 7901, 7902))
    assert (config.cluster.n, config.cluster.w, config.cluster.r) == (3, 2, 2)
    assert (config.listen, config.port) == ("127.0.0.1", 8900)
    assert (config.monitor.listen, config.monitor.port) == ("127.0.0.1", 9900)
    assert not config.access_log


def test_the_secret_for_the_nodes_is_asked_of_clients_too_unless_another_is_named(tmp_path):
    nodes = "[default]\nservers = localhost\nsecret = s\ntlsca = ca\n"

    assert load(tmp_path, nodes).nodes == Trust(secret="s", authority="ca")
    assert load(tmp_path, nodes).door == Trust(secret="s")
    assert load(tmp_path, nodes + "[proxy]\nsecret = t\ntlscert = c\ntlskey = k\n").door == Trust("t", "c", "k")
    assert load(tmp_path, nodes + "[proxy]\nsecret =\n").door == Trust()


def test_the_smallest_file_has_defaults_for_the_rest(tmp_path):
    config = load(tmp_path, "[default]\nservers = localhost\n")

    assert config.cluster.addresses == (NodeAddress("localhost", 7900),)
    assert config.monitor is None
    assert config.cluster.state is None


def test_more_keys_are_optional(tmp_path):
    config = load(
        tmp_path,
        """
        [default]
        servers = a.example.org:1, [fd00::1]:2, [fd00::2]
        server_port = 7
        zones = x, y, x       ; racks
        weights = 1, 2, 3
        partitions = 1024
        [proxy]
        state = /var/lib/sfss/proxy
        timeout = 2.5
        node_timeout = 0.5
        founding_timeout = 5
        hint_mib = 3
        hint_hours = 7
        hint_rate = 50
        tombstone_days = 0.75
        """.replace("        ", ""),
    )

    assert config.cluster.addresses == (
        NodeAddress("a.example.org", 1, "x", 1),
        NodeAddress("fd00::1", 2, "y", 2),
        NodeAddress("fd00::2", 7, "x", 3),
    )
    assert config.cluster.partitions == 1024
    options = config.cluster.options
    assert (options.hint_bytes_max, options.hint_age_s, options.hint_rate) == (3 << 20, 7 * 3600.0, 50.0)
    assert options.tombstone_grace_s == 0.75 * 86400
    assert config.cluster.state == Path("/var/lib/sfss/proxy")
    assert (config.cluster.options.deadline_s, config.cluster.options.node_deadline_s) == (2.5, 0.5)
    assert config.cluster.founding_s == 5


@pytest.mark.parametrize(
    ("value", "on", "file"),
    [("yes", True, None), ("off", False, None), ("/var/log/p.log", True, Path("/var/log/p.log"))],
)
def test_access_lines_go_to_the_log_or_to_a_file(tmp_path, value, on, file):
    config = load(tmp_path, f"[default]\nservers=a\n[proxy]\naccesslog={value}\n")

    assert (config.access_log, config.access_log_file) == (on, file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[default]\nservers=a\n[what]\n", r"section \[what\]"),
        ("[default]\nservers=a\nserver=b\n", r"key 'server' in \[default\]"),
        ("[default]\nservers=a\n[proxy]\nthreads=4\n", r"key 'threads' in \[proxy\]"),
        ("[default]\nservers=\n", r"servers in \[default\] names no node"),
        ("[proxy]\nport=1\n", r"servers in \[default\] names no node"),
        ("[default]\nservers=a:b\n", r"servers in \[default\]: 'a:b'"),
        ("[default]\nservers=a:0\n", r"servers in \[default\]: 'a:0'"),
        ("[default]\nservers=a\nserver_port=70000\n", r"server_port = 70000 in \[default\]: not between 1 and 65535"),
        ("[default]\nservers=a,b\nzones=x\n", r"zones in \[default\] has 1 entries for 2 servers"),
        ("[default]\nservers=a,b\nweights=1,0\n", r"weights = 0 in \[default\]: not between"),
        ("[default]\nservers=a\npartitions=many\n", r"partitions = many in \[default\]: not a whole number"),
        ("[default]\nservers=a\n[proxy]\nN=three\n", r"n = three in \[proxy\]: not a whole number"),
        ("[default]\nservers=a\n[proxy]\nport=-1\n", r"port = -1 in \[proxy\]"),
        ("[default]\nservers=a\n[proxy]\ntimeout=soon\n", r"timeout = soon in \[proxy\]: not a number of seconds"),
        ("[default]\nservers=a\n[proxy]\nhint_hours=121\n", r"121 h, which is more than half of the 240 h after"),
        ("[default]\nservers=a\n[proxy]\ntombstone_days=3.9\n", r"48 h, which is more than half of the 93.6 h after"),
        ("[default]\nservers=a\n[proxy]\ntombstone_days=-1\n", r"tombstone_days = -1 in \[proxy\]: not between 0"),
        ("[default]\nservers=a\n[proxy]\nhint_hours=few\n", r"hint_hours = few in \[proxy\]: not a number"),
        ("[default]\nservers=a\n[proxy]\ntimeout=1\nnode_timeout=2\n", r"node_timeout = 2 in \[proxy\] is more than"),
        (
            "[default]\nservers=a\n[monitor]\nproxy=localhost:1\n",
            r"proxy = localhost:1 in \[monitor\] is not this proxy",
        ),
        ("[default]\nservers=a\n[monitor]\nproxy=here\n", r"proxy = here in \[monitor\]"),
        ("[default]\nservers=a\nservers=b\n", "already exists"),
        ("servers=a\n", "no section headers"),
        ("[default]\nwhat is this\n", "parsing errors"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(tmp_path, text, message):
    with pytest.raises(SetupError, match=message) as refused:
        load(tmp_path, text)

    assert "\n" not in str(refused.value)
    assert "proxy.ini" in str(refused.value)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(SetupError, match="missing"):
        load_configuration(tmp_path / "missing.ini")
    with pytest.raises(SetupError, match="not UTF-8"):
        load_configuration(tmp_path / "binary")


CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("name", ["proxy-0.ini", "proxy-1.ini"])
def test_the_examples_load(name):
    assert len(load_configuration(CONF / name).cluster.addresses) == 3


@pytest.mark.parametrize("number", ["0", "1"])
def test_the_examples_show_the_state_directory_that_the_unit_makes_and_passes_on(tmp_path, number):
    example = (CONF / f"proxy-{number}.ini").read_text().replace("; state =", "state =")
    unit = (CONF / "sfss-proxy@.service").read_text().replace("%i", number)
    made = next(line.partition("=")[2] for line in unit.splitlines() if line.startswith("StateDirectory="))

    assert load(tmp_path, example).cluster.state == Path("/var/lib") / made
    assert f" --state %S/{made} " in unit


def test_how_often_and_how_fast_replicas_are_compared_can_be_set(tmp_path):
    usual = load(tmp_path, AS_OPERATORS_HAVE_IT).cluster.options
    config = load(tmp_path, AS_OPERATORS_HAVE_IT.replace("R=2", "R=2\ncompare_interval=0\ncompare_rate=1000000"))

    assert (usual.compare_interval_s, usual.compare_bytes_per_s) == (21600, 8 << 20)
    assert config.cluster.options.compare_interval_s == 0
    assert config.cluster.options.compare_bytes_per_s == 1_000_000


@pytest.mark.parametrize(
    "line", ["compare_interval=-1", "compare_interval=2592001", "compare_rate=1", "compare_rate=x"]
)
def test_a_wrong_comparison_is_refused(tmp_path, line):
    with pytest.raises(SetupError, match=line.split("=")[0]):
        load(tmp_path, AS_OPERATORS_HAVE_IT.replace("R=2", f"R=2\n{line}"))
