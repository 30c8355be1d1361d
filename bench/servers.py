"""The servers that are measured: each on a free loopback port with a scratch directory, gone when the block ends.

`Servers` is a context manager. Whatever happens inside it, every process that it started is ended and its directory
removed. Each server logs to a file in the scratch directory; a start that fails shows its last lines.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.usage import anonymous_kib

HOST = "127.0.0.1"
START_S_MAX = 60.0
STOP_S_MAX = 25.0


class Unavailable(Exception):
    """Something that a measurement needs is not on this machine, or did not start; the message names it."""


@dataclass
class Server:
    """One running process that listens on `port`."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def pids(self) -> list[int]:
        """The process and its descendants."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                    found += map(int, task.read_text().split())
        return found

    def anonymous_kib(self) -> int:
        """RssAnon of the process and its descendants, in KiB: memory that belongs to nobody's file."""
        return sum(anonymous_kib(pid) for pid in self.pids())


def tool(name: str) -> str:
    """Path of a program: of this environment, else of the system. Raises `Unavailable`."""
    own = Path(sys.executable).parent / name
    # Servers are in sbin, which isn't on every user's PATH.
    found = str(own) if own.exists() else shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise Unavailable(f"{name} is not installed")
    return found


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Servers:
    """Starts servers, and ends them all at the end of the block."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._scratch = Path()

    def __enter__(self) -> Servers:
        self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sfss-bench-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def scratch(self) -> Path:
        return self._scratch

    def node(self, name: str, port: int | None = None, options: Sequence[str] = ()) -> Server:
        """A node with the directory `name`; started again over the same directory, it finds its files."""
        port = free_port() if port is None else port
        directory = self._scratch / name
        directory.mkdir(exist_ok=True)
        command = [tool("sfss-node"), "-l", HOST, "-p", str(port), "-H", str(directory), *options]
        return self.start(name, command, port)

    def proxy(self, name: str, nodes: list[Server]) -> Server:
        """A proxy over `nodes` with the defaults (N=3 W=2 R=2 for three of them)."""
        port, monitor_port = free_port(), free_port()
        state = self._scratch / f"{name}-state"
        configuration = self._scratch / f"{name}.ini"
        configuration.write_text(
            f"[default]\nservers={','.join(node.address for node in nodes)}\n"
            f"[proxy]\nlisten={HOST}\nport={port}\nN={min(len(nodes), 3)}\nW=2\nR=2\nstate={state}\n"
            f"[monitor]\nlisten={HOST}\nport={monitor_port}\nproxy={HOST}:{port}\n"
        )
        return self.start(name, [tool("sfss-proxy"), "--conf", str(configuration)], port)

    def web(self, proxies: list[Server], workers: int | None = None) -> Server:
        """The web tier over `proxies`; `workers` None leaves its default."""
        port = free_port()
        command = [tool("sfss"), "--host", HOST, "--port", str(port)]
        command += ["--proxies", ",".join(proxy.address for proxy in proxies)]
        command += [] if workers is None else ["--workers", str(workers)]
        return self.start(f"web-{port}", command, port)

    def direct_web(self, nodes: list[Server], r: int) -> Server:
        """A web tier that asks `nodes` itself, with a read quorum of `r` and the other defaults."""
        port = free_port()
        command = [tool("sfss"), "--host", HOST, "--port", str(port), "--direct"]
        command += ["--storages", ",".join(node.address for node in nodes)]
        return self.start(f"direct-{port}", command, port, environment={"SFSS_R": str(r)})

    def stop(self, server: Server) -> None:
        """End one server as a user would (SIGTERM), by force when it takes too long."""
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            try:
                server.process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                for pid in reversed(server.pids()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                server.process.wait()

    def start(
        self,
        name: str,
        command: list[str],
        port: int,
        *,
        user: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> Server:
        """Start `command`, as `user` if one is given, and wait until it listens on `port`. Raises `Unavailable`."""
        log = self._scratch / f"{name}.log"
        with log.open("ab") as sink:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                user=user,
                env=os.environ | (environment or {}),
            )
        server = Server(name, process, port, log)
        self._stack.callback(self.stop, server)
        for _ in _until(START_S_MAX):
            if process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
                return server
        last = log.read_text(errors="replace").strip().splitlines()[-3:]
        raise Unavailable(f"{name} did not start: {' / '.join(last) or 'no word'}")


def until_done(command: list[str], trouble: str) -> None:
    """Repeat `command` until it succeeds, for as long as a start may take. Raises `Unavailable`."""
    said = ""
    for _ in _until(START_S_MAX):
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if not ended.returncode:
            return
        said = ended.stderr.strip()
    raise Unavailable(f"{trouble}: {said}")


def _until(seconds: float) -> Iterator[None]:
    """Turns of a waiting loop, 20 ms apart."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.02)
