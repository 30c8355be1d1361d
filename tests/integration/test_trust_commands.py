"""The secret and TLS on the command lines of nodes and proxies, in real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from certificates import Authority, Pair
from memcache_tier import HOST, client_of
from node_process import node_command, node_part, running

from sfss.errors import ConnectionLost, Unauthenticated
from sfss.memcache.access import Access
from sfss.tls import client_tls
from tests.cluster.http_client import HttpClient
from tests.cluster.parts import Part, clean_environment, free_ports, python_command

SMALL = ("--volume-mib", "1", "--reserve-mib", "0")
WORDS = b"cluster sesame"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"cluster:sesame\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.sign("all")


def refusal(*options: object) -> str:
    """The one line in which a node refuses to start."""
    done = node_command(*options)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    return done.stderr


def proxy_part(folder: Path, nodes: Sequence[int], of_nodes: str = "", of_proxy: str = "") -> Part:
    """A proxy over nodes; not started yet."""
    [port] = free_ports(1)
    conf = folder / "proxy.ini"
    servers = ",".join(f"{HOST}:{node}" for node in nodes)
    conf.write_text(
        f"[default]\nservers={servers}\npartitions=64\n{of_nodes}\n"
        f"[proxy]\nport={port}\nN=1\nW=1\nR=1\nfounding_timeout=1\n{of_proxy}\n"
    )
    command = [*python_command("proxy.command"), "--conf", str(conf)]
    return Part("proxy", port, command, folder, clean_environment())


async def serves(port: int, access: Access) -> bool:
    async with client_of(port, access=access) as client:
        await client.set(b"k", b"value")
        record = await client.get(b"k")
        return record is not None and record.value == b"value"


async def test_a_node_with_a_secret_serves_who_knows_it_and_logs_who_does_not(tmp_path: Path, secret: Path) -> None:
    async with running(node_part(tmp_path, tmp_path / "home", *SMALL, "--secret", str(secret))) as node:
        assert await serves(node.port, Access(WORDS))
        with pytest.raises(Unauthenticated):
            await serves(node.port, Access(b"cluster wrong"))

        assert "127.0.0.1 was refused: it gave a wrong user or password" in node.tail()
        assert await node.stop() == 0


async def test_a_secret_opens_a_node_to_other_machines(tmp_path: Path, secret: Path) -> None:
    assert "give this tier the cluster's secret" in refusal("-p", 0, "-H", tmp_path / "home", "-l", "0.0.0.0")
    options = ("-l", "0.0.0.0", *SMALL)
    async with running(node_part(tmp_path, tmp_path / "home", *options, "--secret", str(secret))) as node:
        assert await serves(node.port, Access(WORDS))
        assert "serves whoever comes" not in node.tail()
    async with running(node_part(tmp_path, tmp_path / "home", *options, "--insecure")) as node:
        assert await serves(node.port, Access())
        assert "0.0.0.0 can be reached from other machines, and serves whoever comes" in node.tail()


def test_a_secret_or_a_certificate_that_cannot_be_used_is_refused(tmp_path: Path, secret: Path, pair: Pair) -> None:
    node = ("-p", 0, "-H", tmp_path / "home")
    assert "No such file" in refusal(*node, "--secret", tmp_path / "none")
    secret.chmod(0o644)
    assert f"chmod 600 {secret}" in refusal(*node, "--secret", secret)
    assert "tlscert and tlskey" in refusal(*node, "--tlscert", pair.certificate)
    assert "tlscert and tlskey" in refusal(*node, "--tlsca", pair.certificate)
    assert f"can't use {secret} and {pair.key}" in refusal(*node, "--tlscert", secret, "--tlskey", pair.key)
    assert not (tmp_path / "home").exists()


async def test_a_proxy_gives_the_secret_to_its_nodes_and_asks_its_clients_for_it(tmp_path: Path, secret: Path) -> None:
    async with running(node_part(tmp_path, tmp_path / "home", *SMALL, "--secret", str(secret))) as node:
        async with running(proxy_part(tmp_path, [node.port], f"secret = {secret}")) as proxy:
            assert await serves(proxy.port, Access(WORDS))
            with pytest.raises(Unauthenticated):
                await serves(proxy.port, Access())
        async with running(proxy_part(tmp_path, [node.port], f"secret = {secret}", "secret =")) as proxy:
            assert await serves(proxy.port, Access())


async def test_a_proxy_without_the_nodes_secret_says_so_when_it_ends(tmp_path: Path, secret: Path) -> None:
    async with running(node_part(tmp_path, tmp_path / "home", *SMALL, "--secret", str(secret))) as node:
        proxy = proxy_part(tmp_path, [node.port])
        proxy.launch()
        assert await proxy.ended() == 2

    last = proxy.tail(1)
    assert "0 of 1 nodes answer" in last
    assert "it asks for a user and password; give this side the same secret" in last


async def test_the_web_tier_gives_the_secret_to_nodes_where_there_are_no_proxies(tmp_path: Path, secret: Path) -> None:
    async with running(node_part(tmp_path, tmp_path / "home", *SMALL, "--secret", str(secret))) as node:
        [port] = free_ports(1)
        options = ("--direct", "--storages", f"{HOST}:{node.port}", "--port", str(port), "--secret", str(secret))
        one_copy = {"SFSS_N": "1", "SFSS_W": "1", "SFSS_R": "1"}
        command = [*python_command("sfss.commands.main"), *options]
        async with running(Part("web", port, command, tmp_path, clean_environment() | one_copy)) as web:
            client = HttpClient(*web.address)
            assert (await client.request("PUT", "/file?path=a", b"bytes")).status == 200
            assert (await client.request("GET", "/file?path=a")).body == b"bytes"
            assert b'"dead"' not in (await client.request("GET", "/status")).body
            client.close()


async def test_a_proxy_refuses_other_machines_without_a_secret_and_its_monitor_always(
    tmp_path: Path, secret: Path
) -> None:
    for more, of_nodes, message in (
        ("listen = 0.0.0.0", "", "give this tier the cluster's secret"),
        ("[monitor]\nlisten = 0.0.0.0", f"secret = {secret}", "reach the monitor through ssh"),
    ):
        proxy = proxy_part(tmp_path, [1], of_nodes, more)
        proxy.launch()
        assert await proxy.ended() == 2
        assert message in proxy.tail(1)


async def test_servers_that_take_both_let_their_clients_turn_to_tls_one_by_one(
    tmp_path: Path, secret: Path, authority: Authority, pair: Pair
) -> None:
    """Each step of turning a running cluster to TLS (docs/operations.rst), with the part that comes before it."""
    shown = {"tlscert": pair.certificate, "tlskey": pair.key}
    options = [word for name, file in shown.items() for word in (f"--{name}", file)]
    both = "\n".join(f"{name} = {file}" for name, file in shown.items()) + "\ntlsoptional = yes"
    ours, asked = client_tls(authority.certificate), f"secret = {secret}"
    home = tmp_path / "home"
    async with running(node_part(tmp_path, home, *SMALL, *options, "--tls-optional", "--secret", str(secret))) as node:
        for of_nodes in ("", f"tlsca = {authority.certificate}"):
            async with running(proxy_part(tmp_path, [node.port], f"{asked}\n{of_nodes}", both)) as proxy:
                assert await serves(proxy.port, Access(WORDS))
                assert await serves(proxy.port, Access(WORDS, ours))
                with pytest.raises(Unauthenticated):
                    await serves(proxy.port, Access())
                assert await proxy.stop() == 0

    assert "tlscert and tlskey" in refusal("-p", 0, "-H", home, "--tls-optional")


async def test_tls_from_client_to_node_with_certificates_on_both_sides(
    tmp_path: Path, secret: Path, authority: Authority, pair: Pair
) -> None:
    files = {"tlscert": pair.certificate, "tlskey": pair.key, "tlsca": authority.certificate, "secret": str(secret)}
    options = [word for name, file in files.items() for word in (f"--{name}", file)]
    settings = "\n".join(f"{name} = {file}" for name, file in files.items())
    ours = client_tls(authority.certificate, pair.certificate, pair.key)
    async with (
        running(node_part(tmp_path, tmp_path / "home", *SMALL, *options)) as node,
        running(proxy_part(tmp_path, [node.port], settings, settings)) as proxy,
    ):
        assert await serves(node.port, Access(WORDS, ours))
        assert await serves(proxy.port, Access(WORDS, ours))
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(serves(proxy.port, Access(WORDS)), 20)
