"""`sfss up --secret`: every part asks for it, and the cluster works as without one."""

from __future__ import annotations

import socket
from pathlib import Path

from test_up_cluster import Cluster, free_ports


def said_by(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as peer:
        peer.sendall(request)
        return peer.recv(1000)


def test_a_cluster_with_a_secret_serves_files_and_lets_no_stranger_in(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"cluster:sesame\n")
    secret.chmod(0o644)
    first_port = free_ports(32)
    with Cluster(tmp_path / "data", first_port, "--secret", str(secret), words=tmp_path / "refused") as cluster:
        assert f"chmod 600 {secret}" in cluster.refused()

    secret.chmod(0o600)
    with Cluster(tmp_path / "data", first_port, "--secret", "secret") as cluster:
        cluster.ready()
        assert cluster.put("a", b"bytes") == (200, b"")
        assert cluster.get("a") == (200, b"bytes")
        assert b'"dead"' not in cluster.request("GET", "/status")[1]
        assert not any("was refused" in log.read_text() for log in (tmp_path / "data" / "log").glob("*.log"))

        for port in (first_port + 1, first_port + 11):
            assert said_by(port, b"get a\r\n") == b"CLIENT_ERROR unauthenticated\r\n"
        cluster.pressed_ctrl_c()
        assert cluster.process.returncode == 0
