"""`sfss-node` as an operator meets it: start, stop, refusals, tools."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from sfss import __version__
from tests.cluster.parts import HOST, clean_environment, free_ports, python_command
from tests.integration.node_process import NodeClient, node_command, node_part, running, value_of

SMALL = ("--reserve-mib", "0", "--volume-mib", "1")


async def filled(tmp_path: Path, count: int = 10) -> Path:
    """A data directory with some files, whose node was stopped cleanly."""
    async with running(node_part(tmp_path, tmp_path / "home", *SMALL)) as node:
        async with NodeClient(node.port) as client:
            for number in range(count):
                await client.set(f"folder/файл-{number}", value_of(number, 5000))
        assert await node.stop() == 0
    return tmp_path / "home"


async def test_files_are_there_after_a_stop_and_after_a_kill(tmp_path):
    node = node_part(tmp_path, tmp_path / "home", *SMALL)
    client = NodeClient(node.port)
    for number, end in enumerate(("stop", "kill", "stop")):
        async with running(node):
            client = client.taken_over(node.port)
            async with client:
                await client.check_all()
                await client.set("same", value_of(number, 2 * 1024 * 1024))
                await client.set(f"key/{number}", b"")
                await client.delete(f"key/{number - 1}")
            if end == "stop":
                assert await node.stop() == 0
            else:
                node.kill()


async def test_a_stop_answers_what_it_has_taken(tmp_path):
    async with running(node_part(tmp_path, tmp_path / "home", *SMALL)) as node:
        async with NodeClient(node.port) as client:
            client._writer.write(b"".join(b"set k%d 0 0 1\r\nx\r\n" % number for number in range(100)))
            assert await client._reader.readline() == b"STORED\r\n"
            node.process.send_signal(signal.SIGTERM)
            rest = await client._reader.read()
        assert await node.ended() == 0
        answered = 1 + rest.count(b"STORED\r\n")
    async with running(node_part(tmp_path, tmp_path / "home", *SMALL)) as node, NodeClient(node.port) as client:
        for number in range(answered):
            assert await client.get(f"k{number}") == b"x"


async def test_every_capability_of_the_protocol_that_memccapable_tries_is_there(tmp_path):
    if shutil.which("memccapable") is None:
        pytest.skip("needs memccapable (libmemcached-tools)")
    async with running(node_part(tmp_path, tmp_path / "home", "--allow-flush", *SMALL)) as node:
        done = subprocess.run(
            ["memccapable", "-h", HOST, "-p", str(node.port), "-a", "-t", "30"], capture_output=True, text=True
        )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "[FAIL]" not in done.stdout
    assert done.stdout.count("[pass]") > 10


# --- refusals: one line, status 2 --------------------------------------------------------------------------


def refused(*arguments: object, prefix: Sequence[str] = ()) -> str:
    done = node_command(*arguments, prefix=prefix)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


async def test_two_processes_on_one_directory_are_refused(tmp_path):
    async with running(node_part(tmp_path, tmp_path / "home", *SMALL)) as node:
        assert "in use by another process" in refused("-p", 0, "-H", tmp_path / "home")
        assert "in use by another process" in refused("check", tmp_path / "home")
        assert node.running


async def test_a_directory_of_a_newer_format_is_refused(tmp_path):
    home = await filled(tmp_path)
    identity = home / "identity"
    identity.write_bytes(identity.read_bytes().replace(b"directory 1", b"directory 2"))

    assert "newer than this program" in refused("-p", 0, "-H", home)


async def test_a_busy_port_is_refused_and_the_directory_let_go(tmp_path):
    with socket.create_server((HOST, 0)) as taken:
        assert "choose another port with -p" in refused("-p", taken.getsockname()[1], "-H", tmp_path / "home", *SMALL)
    async with running(node_part(tmp_path, tmp_path / "home", *SMALL)):
        pass


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    assert "can't be used" in refused("-p", 0, "-H", tmp_path / "file" / "home")


def test_a_directory_without_permission_is_refused(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    # Permissions don't bind root unless it gives up the capability.
    capability = "-dac_override,-dac_read_search"
    mortal = ["setpriv", f"--inh-caps={capability}", f"--bounding-set={capability}"] if os.geteuid() == 0 else []

    assert "Permission denied" in refused("-p", 0, "-H", home, prefix=mortal)


def test_options_that_make_no_sense_are_refused(tmp_path):
    assert "name one with -H DIR" in refused("-p", 0)
    assert "--insecure" in refused("-p", 0, "-H", tmp_path / "home", "-l", "0.0.0.0")
    assert "is not between" in refused("-p", 0, "-H", tmp_path / "home", "--volume-mib", 4096)
    assert "not the data directory of a node" in refused("check", tmp_path)
    for options in (("-p", 5), ("-H", "zz"), ("--log-json",)):
        assert "options go after `check`" in refused(*options, "check", tmp_path)
    assert "--port, --home before `check`" in refused("-p", 5, "-H", "zz", "check", tmp_path)


def test_the_version_is_told():
    assert re.fullmatch(
        rf"sfss-node, version {re.escape(__version__)}, (compiled|interpreted)\n", node_command("--version").stdout
    )


# --- in the background ------------------------------------------------------------------------------------------


async def test_a_daemon_serves_when_its_start_returns_and_logs_to_its_directory(tmp_path):
    [port] = free_ports(1)
    done = node_command("-d", "-p", port, "-l", HOST, "-H", tmp_path / "home", *SMALL)
    assert done.returncode == 0, done.stderr
    async with NodeClient(port) as client:
        pid = int((await client.stats())["pid"])
        try:
            await client.set("k", b"v")
            assert await client.get("k") == b"v"
        finally:
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "stopping" in (tmp_path / "home" / "node.log").read_text()


def test_a_daemon_that_cannot_start_says_so_where_it_was_started(tmp_path):
    with socket.create_server((HOST, 0)) as taken:
        assert "is in use" in refused("-d", "-p", taken.getsockname()[1], "-H", tmp_path / "home", *SMALL)


# --- tools --------------------------------------------------------------------------------------------------------


async def test_check_gives_its_verdict_as_exit_status(tmp_path):
    home = await filled(tmp_path)

    good = node_command("check", home)
    volume = max((home / "volumes").iterdir())
    content = bytearray(volume.read_bytes())
    content[content.index(value_of(3, 5000)) + 100] ^= 1
    volume.write_bytes(content)
    bad = node_command("check", home)

    assert (good.returncode, bad.returncode) == (0, 1)
    assert "10 files" in good.stdout
    assert "all is well" in good.stdout
    assert "failed its checksum" in bad.stdout
    assert "1 faults" in bad.stdout


async def test_tools_change_nothing(tmp_path):
    async with running(node_part(tmp_path, tmp_path / "home", *SMALL)) as node:
        async with NodeClient(node.port) as client:
            for number in range(5):
                await client.set(f"k{number}", value_of(number, 1000))
        node.kill()
    home = tmp_path / "home"
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}

    assert node_command("check", home).returncode == 0
    assert node_command("export", home).returncode == 0

    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


async def test_export_gives_every_live_file_as_a_tar(tmp_path):
    home = await filled(tmp_path)
    done = subprocess.run(
        [*python_command("nodes.command"), "export", str(home)], capture_output=True, env=clean_environment()
    )

    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        members = {member.name: member for member in tar}
        assert sorted(members) == [f"folder/файл-{number}" for number in range(10)]
        for number in range(10):
            member = members[f"folder/файл-{number}"]
            assert tar.extractfile(member).read() == value_of(number, 5000)
            assert abs(member.mtime - time.time()) < 600
