"""`sfss up --tls`: certificates of the cluster's own, and nothing in the clear between its parts."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from pathlib import Path

import pytest
from test_up_cluster import Cluster, free_ports

from sfss.commands.local_authority import LocalAuthority
from sfss.errors import SetupError
from sfss.tls import client_context, server_context
from tests.unit.virtual_time import in_virtual_time


def speaks_tls(port: int, authority: Path) -> bool:
    """Whether a server shows a certificate of that authority for its address."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        client_context(str(authority)).wrap_socket(plain, server_hostname="127.0.0.1") as peer,
    ):
        return peer.version() is not None


def test_a_cluster_with_tls_serves_files_and_each_of_its_parts_speaks_nothing_else(tmp_path: Path) -> None:
    first_port = free_ports(32)
    with Cluster(tmp_path / "data", first_port, "--tls") as cluster:
        cluster.ready()

        assert cluster.put("a", b"bytes") == (200, b"")
        assert cluster.get("a") == (200, b"bytes")
        assert b'"dead"' not in cluster.request("GET", "/status")[1]
        for port in (first_port + 1, first_port + 3, first_port + 11):
            assert speaks_tls(port, tmp_path / "data" / "tls" / "ca.pem")
            with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
                plain.sendall(b"version\r\n")
                assert b"VERSION" not in plain.recv(100)
        cluster.pressed_ctrl_c()
        assert cluster.process.returncode == 0

    for path in (tmp_path / "data" / "tls").iterdir():
        assert path.stat().st_mode & 0o077 == 0


@pytest.fixture
def made(tmp_path: Path) -> LocalAuthority:
    authority = LocalAuthority(tmp_path)
    authority.prepare()
    return authority


def contents(authority: LocalAuthority) -> tuple[bytes, bytes, bytes]:
    return (authority.authority.read_bytes(), authority.certificate.read_bytes(), authority.key.read_bytes())


def fits(authority: LocalAuthority) -> bool:
    server_context(str(authority.certificate), str(authority.key), str(authority.authority))
    return True


def test_certificates_are_made_once(made: LocalAuthority) -> None:
    before = contents(made)
    made.prepare()

    assert contents(made) == before
    assert fits(made)
    assert sorted(os.listdir(made.authority.parent)) == ["ca.key", "ca.pem", "cert.pem", "key.pem"]


@pytest.mark.parametrize("damage", ["gone", "no key", "another key", "another authority", "ends soon"])
def test_what_is_not_there_does_not_fit_or_ends_soon_is_made_anew(
    tmp_path: Path, made: LocalAuthority, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    other = LocalAuthority(tmp_path / "other")
    (tmp_path / "other").mkdir()
    if damage == "gone":
        made.certificate.unlink()
    elif damage == "no key":
        made.key.unlink()
    elif damage == "ends soon":
        monkeypatch.setattr("sfss.commands.local_authority._RENEW_S", 900 * 86400)
    else:
        other.prepare()
        theirs, ours = (other.key, made.key) if damage == "another key" else (other.certificate, made.certificate)
        theirs.replace(ours)
    authority, certificate, _ = contents(made) if damage not in ("gone", "no key") else (b"", b"", b"")

    made.prepare()

    assert fits(made)
    if authority:
        assert made.authority.read_bytes() == authority
        assert made.certificate.read_bytes() != certificate


@in_virtual_time
async def test_a_cluster_that_runs_for_years_renews_its_certificate_and_says_what_stands_in_the_way() -> None:
    loop = asyncio.get_running_loop()
    looked_at, said = [], []

    class Counted(LocalAuthority):
        def prepare(self) -> None:
            looked_at.append(loop.time())
            if len(looked_at) == 2:
                raise SetupError("no room")

    keeping = asyncio.ensure_future(Counted(Path()).keep(said.append))
    await asyncio.sleep(10.5 * 86400)
    keeping.cancel()

    assert len(looked_at) == 10
    assert said == ["no room"]


def test_without_openssl_the_start_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="command openssl, which isn't there"):
        LocalAuthority(tmp_path).prepare()


def test_what_openssl_says_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = subprocess.CompletedProcess([], 1, b"", b"many\nwords of it\n")
    monkeypatch.setattr(LocalAuthority, "_run", lambda *_: failing)

    with pytest.raises(SetupError, match=r"^`openssl req` in .* failed: words of it$"):
        LocalAuthority(tmp_path).prepare()
