"""The parts of a cluster as real processes that a test starts, kills, pauses and restarts.

Whatever a test started is ended by its own process id: at the end of the `with` block, and, should this process be
killed itself, by the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sfss.memcache.client import ClientLimits, MemcacheClient
from tests.parent_death import die_with_parent

HOST = "127.0.0.1"
START_S_MAX = 60.0
STOP_S_MAX = 30.0
PATIENCE_S = 30.0
"""How long a test waits for an answer whose time it doesn't judge."""


def _ports_of_this_process() -> range:
    # pytest-xdist calls its processes gw0, gw1, …
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = 22_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return range(10_000 + number * share, 10_000 + (number + 1) * share)


PORTS = _ports_of_this_process()
"""What servers listen on in tests. They are below those that the kernel gives to outgoing connections, and tests in
another process have others: a part that is down may not lose its port to one of them."""

_given_ports: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on. None is given twice: it may belong to a part that is down just now."""
    rng = random.Random(f"{os.getpid()} {time.monotonic_ns()}")
    ports: list[int] = []
    while len(ports) < count:
        port = rng.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            if port not in _given_ports:
                _given_ports.add(port)
                ports.append(port)
    return ports


class Part:
    """One process of the cluster. Its output goes to a log file, one for all its lives."""

    def __init__(
        self,
        name: str,
        port: int,
        command: Sequence[str],
        directory: Path,
        env: Mapping[str, str],
        host: str = HOST,
    ) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.command = list(command)
        self.prefix: list[str] = []
        """What to run it under, as `strace …`."""
        self.log = directory / f"{name}.log"
        self._env = dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return (self.host, self.port)

    def client(self) -> MemcacheClient:
        """One that asks this part itself, and waits for it (`PATIENCE_S`)."""
        return MemcacheClient(*self.address, limits=ClientLimits(connect_s=PATIENCE_S, answer_s=PATIENCE_S))

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def anonymous_bytes(self) -> int:
        """Memory of the process that belongs to no file: what it allocated."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))

    def launch(self) -> None:
        """Start the process, and don't wait until it serves."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        with self.log.open("ab") as log:
            log.write(f"--- started at {time.monotonic():.3f}: {' '.join(self.prefix + self.command)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                self.prefix + self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    async def serving(self) -> None:
        """Wait until it takes connections. Raises `AssertionError` with its log when it ends or never does."""
        give_up = time.monotonic() + START_S_MAX
        while time.monotonic() < give_up:
            if not self.running:
                raise AssertionError(f"{self.name} ended with {self.process.returncode} at its start:\n{self.tail()}")
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(*self.address)
                writer.close()
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{self.name} does not listen after {START_S_MAX} s:\n{self.tail()}")

    async def start(self) -> None:
        self.launch()
        await self.serving()

    def signal(self, number: int) -> None:
        """Send a signal to the process and to what it runs under."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait(STOP_S_MAX)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    async def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.resume()
        self.process.terminate()
        return await self.ended()

    async def ended(self, seconds: float = STOP_S_MAX) -> int:
        """Wait for the process to end by itself; returns the exit status (negative: the signal)."""
        give_up = time.monotonic() + seconds
        while self.running:
            if time.monotonic() > give_up:
                raise AssertionError(f"{self.name} still runs after {seconds} s:\n{self.tail()}")
            await asyncio.sleep(0.02)
        return int(self.process.returncode)

    def tail(self, count: int = 40) -> str:
        """The last lines of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


def python_command(module: str, plant: str = "") -> list[str]:
    """How to run a tier's command line with this interpreter; with a fault of `plants.py` planted in it, if named."""
    if plant:
        return [sys.executable, "-m", "tests.cluster.plants", plant, module]
    return [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"]


def clean_environment() -> dict[str, str]:
    """The environment of the parts: this interpreter's packages, and no settings of the user's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SFSS_")}
    root = str(Path(__file__).parents[2])
    return kept | {"PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)]), "PYTHONUNBUFFERED": "1"}
