"""`sfss up` with the real commands: start, files in and out, killed parts, Ctrl-C, another start, refusals."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from sfss.commands.local_cluster import installed_command
from tests.cluster.parts import PORTS

DEADLINE_S = 60.0
STOP_S_MAX = 20.0

FILES = {
    "photos/東京タワー.jpg": b"\xff\xd8" + random.Random(1).randbytes(300_000),
    "empty": b"",
    "largest.bin": random.Random(2).randbytes(2 * 1024 * 1024),
}


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    while True:
        first = random.SystemRandom().choice(PORTS[:-count])
        with ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first


class Cluster:
    """`sfss up` as a user runs it: in a terminal's process group, here with its words in a file."""

    def __init__(self, data: Path, first_port: int, *options: str, words: Path | None = None) -> None:
        self.data = data
        self.web = first_port
        self.words = words or data.with_name(f"{data.name}.terminal")
        with self.words.open("ab") as terminal:
            self.process = subprocess.Popen(
                [
                    *(*installed_command("sfss"), "up", "--data", str(data), "--port", str(first_port)),
                    *("--node-port", str(first_port + 1), "--proxy-port", str(first_port + 11)),
                    *("--monitor-port", str(first_port + 21), *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=terminal,
                stderr=terminal,
                start_new_session=True,
                cwd=data.parent,
            )

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        return self.words.read_text()

    def until_said(self, words: str, times: int = 1) -> None:
        until(lambda: self.said().count(words) >= times or self.process.poll() is not None, self.said)
        assert self.said().count(words) >= times, self.said()

    def ready(self) -> Cluster:
        self.until_said("Ctrl-C stops it")
        return self

    def pressed_ctrl_c(self) -> float:
        """Seconds that it took to stop."""
        began = time.monotonic()
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(DEADLINE_S)
        return time.monotonic() - began

    def refused(self) -> str:
        """The one line of a refused start."""
        assert self.process.wait(DEADLINE_S) == 2, self.said()
        (line,) = self.said().splitlines()
        return line

    def request(self, method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.web, timeout=30)
        try:
            connection.request(method, target, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def put(self, path: str, body: bytes) -> tuple[int, bytes]:
        return self.request("PUT", f"/file?path={quote(path)}", body)

    def get(self, path: str) -> tuple[int, bytes]:
        return self.request("GET", f"/file?path={quote(path)}")

    def until_web_uses_all_proxies(self) -> None:
        """The web tier asks a proxy that was away only now and then; with one left, another may go."""
        log = self.data / "log" / "web.log"
        until(lambda: log.read_text().count(" is left out") == len(re.findall(r"proxy \S+ is back", log.read_text())))

    def processes(self) -> dict[str, int]:
        """Process ids of the running parts, by name."""
        found: dict[str, int] = {}
        for folder in Path("/proc").iterdir():
            try:
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) != self.process.pid:
                    continue
                command = (folder / "cmdline").read_bytes().decode()
            except (ValueError, OSError):
                continue
            if not command:
                continue  # it has ended
            name = re.search(r"(node-\d+)\0|(proxy-\d+)\.ini\0", command)
            found[name[1] or name[2] if name else "web"] = int(folder.name)
        return found


def until(happened: Callable[[], bool], otherwise: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three nodes and two proxies with FILES in it."""
    with Cluster(tmp_path_factory.mktemp("up") / "data", free_ports(32)) as cluster:
        cluster.ready()
        for path, content in FILES.items():
            assert cluster.put(path, content) == (200, b"")
        yield cluster
        cluster.pressed_ctrl_c()


def test_what_was_put_is_got(running: Cluster) -> None:
    for path, content in FILES.items():
        assert running.get(path) == (200, content)


def test_the_lines_that_are_printed_work(running: Cluster, tmp_path: Path) -> None:
    lines = [line.strip() for line in running.said().splitlines() if line.strip().startswith("curl ")]
    wanted = []
    for line in lines:
        done = subprocess.run(
            ["sh", "-c", f"{line} -s -o /dev/null -w '%{{http_code}}'"],
            capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False,
        )  # fmt: skip
        wanted.append(done.stdout)

    assert wanted == ["201", "200", "200", "204"]


def test_status_shows_every_part(running: Cluster) -> None:
    status, body = running.request("GET", "/status")
    shown = json.loads(body)

    assert status == 200
    assert {"storages", "webserver", f"127.0.0.1:{running.web + 11}", f"127.0.0.1:{running.web + 12}"} <= shown.keys()
    assert len(shown["storages"]) == 3


def test_monitor_pages_answer(running: Cluster) -> None:
    for port in (running.web + 21, running.web + 22):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/", headers={"Accept": "text/html"})
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize("part", ["node-0", "proxy-0", "proxy-1"])
def test_a_killed_node_or_proxy_is_back_and_nobody_outside_noticed(running: Cluster, part: str) -> None:
    back = running.said().count(f"{part} is back")
    path = f"while/{part}"

    killed = running.processes()[part]
    os.kill(killed, signal.SIGKILL)
    # Its last thread closes its connections; what is sent before that is not "after it died".
    until(lambda: not Path(f"/proc/{killed}").exists())
    answers = [running.put(path, b"written meanwhile"), running.get(path), running.get("largest.bin")]
    running.until_said(f"{part} is back", back + 1)
    running.until_web_uses_all_proxies()

    assert answers == [(200, b""), (200, b"written meanwhile"), (200, FILES["largest.bin"])]
    assert running.get(path) == (200, b"written meanwhile")


def test_a_killed_web_tier_is_back(running: Cluster) -> None:
    back = running.said().count("web is back")

    os.kill(running.processes()["web"], signal.SIGKILL)
    running.until_said("web is back", back + 1)

    assert running.get("largest.bin") == (200, FILES["largest.bin"])


def test_a_second_start_on_the_same_folder_is_refused_and_harms_nobody(running: Cluster) -> None:
    said = len(running.said())
    with Cluster(running.data, free_ports(32)) as second:
        assert second.process.wait(DEADLINE_S) == 2
        line = second.said()[said:]

    assert line.startswith("sfss up: ")
    assert f"process id {running.process.pid}" in line
    assert running.get("empty") == (200, b"")


@pytest.mark.parametrize(
    ("offset", "part", "option"),
    [
        (0, "web", "--port"),
        (2, "node-1", "--node-port"),
        (12, "proxy-1", "--proxy-port"),
        (21, "the monitor of proxy-0", "--monitor-port"),
    ],
)
def test_a_busy_port_is_refused_with_the_part_and_the_option(
    tmp_path: Path, offset: int, part: str, option: str
) -> None:
    first = free_ports(32)
    with socket.socket() as other:
        other.bind(("127.0.0.1", first + offset))
        other.listen()
        with Cluster(tmp_path / "data", first) as cluster:
            line = cluster.refused()

    assert line.startswith(f"sfss up: {part}: 127.0.0.1:{first + offset} is in use")
    assert line.endswith(option)


def test_a_folder_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a folder")
    with Cluster(tmp_path / "data", free_ports(32)) as cluster:
        assert cluster.process.wait(DEADLINE_S) == 2

    assert "data" in cluster.said().splitlines()[-1]


def test_ctrl_c_stops_with_status_0_and_the_next_start_finds_every_file(tmp_path: Path) -> None:
    first_port = free_ports(32)
    with Cluster(tmp_path / "data", first_port, "--workers", "2") as cluster:
        cluster.ready()
        for path, content in FILES.items():
            assert cluster.put(path, content) == (200, b"")
        parts = cluster.processes()
        took_s = cluster.pressed_ctrl_c()

        assert cluster.process.returncode == 0
        assert took_s < STOP_S_MAX
        assert len(parts) == 6
        assert cluster.said().endswith("stopped\n")
        assert "was killed" not in cluster.said()

    with Cluster(tmp_path / "data", first_port) as cluster:
        cluster.until_said("Ctrl-C stops it", 2)
        for path, content in FILES.items():
            assert cluster.get(path) == (200, content)


def test_a_killed_supervisor_takes_its_parts_along_and_the_next_start_finds_every_file(tmp_path: Path) -> None:
    first_port = free_ports(32)
    with Cluster(tmp_path / "data", first_port) as cluster:
        cluster.ready()
        assert cluster.put("kept", b"content") == (200, b"")
        parts = cluster.processes()
        os.kill(cluster.process.pid, signal.SIGKILL)
        cluster.process.wait()

    with Cluster(tmp_path / "data", first_port) as cluster:
        cluster.until_said("Ctrl-C stops it", 2)
        assert cluster.get("kept") == (200, b"content")
        assert not set(parts.values()) & set(cluster.processes().values())
        cluster.pressed_ctrl_c()


def test_a_request_can_be_followed_through_the_logs_of_all_parts(tmp_path: Path) -> None:
    with Cluster(tmp_path / "data", free_ports(32), "--proxies", "1", "--access-log") as cluster:
        cluster.ready()
        connection = http.client.HTTPConnection("127.0.0.1", cluster.web, timeout=30)
        connection.request("PUT", "/file?path=followed", b"content", {"X-Request-Id": "one-of-many"})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        assert (answer.status, answer.headers["X-Request-Id"]) == (200, "one-of-many")

        def parts_that_tell() -> set[str]:
            return {log.stem for log in (cluster.data / "log").iterdir() if "one-of-many" in log.read_text()}

        everybody = {"web", "proxy-0", "node-0", "node-1", "node-2"}
        until(lambda: parts_that_tell() == everybody, lambda: str(parts_that_tell()))
        cluster.pressed_ctrl_c()


def test_ctrl_c_while_starting_stops_with_status_0(tmp_path: Path) -> None:
    with Cluster(tmp_path / "data", free_ports(32)) as cluster:
        until(lambda: "node-0" in cluster.processes())
        cluster.pressed_ctrl_c()

        assert cluster.process.returncode == 0
        assert "Traceback" not in cluster.said()


def test_a_folder_with_one_node_grows_to_three_beside_clients_and_never_shrinks(tmp_path: Path) -> None:
    first_port = free_ports(32)
    with Cluster(tmp_path / "data", first_port, "--nodes", "1", "--proxies", "1") as cluster:
        cluster.ready()
        for path, content in FILES.items():
            assert cluster.put(path, content) == (200, b"")
        cluster.pressed_ctrl_c()

    grown = tmp_path / "grown"
    with Cluster(tmp_path / "data", first_port, "--nodes", "3", "--proxies", "1", words=grown) as cluster:
        cluster.until_said("are in the ring")
        assert cluster.get("empty") == (200, b"")  # which tells the proxy of the ring
        (cluster.data / "node-0").rename(tmp_path / "lost")
        os.kill(cluster.processes()["node-0"], signal.SIGKILL)
        assert {path: cluster.get(path) for path in FILES} == {path: (200, FILES[path]) for path in FILES}
        cluster.pressed_ctrl_c()

    with Cluster(tmp_path / "data", first_port, "--nodes", "2", words=tmp_path / "less") as cluster:
        line = cluster.refused()
    assert f"localhost:{first_port + 3} would be missing, which the ring has; start with --nodes 3" in line


@pytest.mark.root
def test_a_full_disk_is_refused_in_one_line(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    try:
        with pytest.raises(OSError, match="No space"):
            (disk / "filler").write_bytes(bytes(128 * 1024))
        with Cluster(disk / "data", free_ports(32), words=tmp_path / "terminal") as cluster:
            line = cluster.refused()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)

    assert line.startswith(f"sfss up: no room left in {disk / 'data'}")
