"""The loads: memload (memcache, C, built when first needed) and wrk (HTTP, with the scripts beside this file).

Both are closed loops of one thread, with checked answers. A load with any error, miss or wrong answer is a failed
measurement, never a fast one.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from bench.servers import HOST, Server, Unavailable, tool
from bench.side import FILE, Side

HERE = Path(__file__).parent
PATIENCE = ("--timeout", "15s")
"""wrk's own is 2 s, and counts what takes longer as an error. A web tier answers within 10 s, or says that it can't."""

SEED = 1
"""Of the choice of keys: the same for every server that is compared."""

GENERATOR_CORES_MAX = 0.9
"""A load of one thread that takes more of a core than this could not have sent much more."""

FILLING_CONNECTIONS = 8

BATCH_FILES = 250
BATCHES_AT_ONCE = 4
"""As many as a web process takes at once."""

BATCH_S_MIN = 3.0
"""Long enough for some batches on a slow machine, too."""


@dataclass(frozen=True)
class Load:
    """How hard and for how long: `bytes` of a value, `connections` at once, `keys` files, `seconds` a measurement.

    With `once` no file is asked for twice: a load over HTTP ends when all were asked for, or when the time is over.
    """

    bytes: int = 4096
    connections: int = 32
    keys: int = 20_000
    seconds: float = 4.0
    once: bool = False


@dataclass(frozen=True)
class Run:
    """What one load found: `done` requests in `seconds`, latencies in microseconds, and what it took.

    `server_s` is the processor time of all processes of the side, `generator_cores` that of the load for each second.
    """

    done: int
    seconds: float
    p50_us: float
    p90_us: float
    p99_us: float
    max_us: float
    generator_cores: float
    server_s: float

    @property
    def rate(self) -> float:
        return self.done / self.seconds

    @property
    def processor_s_per_1000(self) -> float:
        return 1000 * self.server_s / self.done

    @property
    def generator_was_limit(self) -> bool:
        return self.generator_cores >= GENERATOR_CORES_MAX


def build_memload(directory: Path) -> Path:
    """Compile the memcache load into `directory`. Raises `Unavailable`."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unavailable("cc (a C compiler) is not installed")
    program = directory / "memload"
    if not program.exists():
        subprocess.run([compiler, "-O2", "-o", str(program), str(HERE / "memload.c")], check=True)
    return program


def memcache(program: Path, server: Server, operation: str, load: Load) -> dict[str, Any]:
    """Run `get`, `set`, `mixed` or `fill`; figures as memload prints them. Raises `Unavailable` for any bad answer."""
    ended = subprocess.run(_memload(program, server, operation, load), capture_output=True, text=True)
    if ended.returncode:
        raise Unavailable(f"{operation} on {server.name} failed: {ended.stderr.strip()}")
    figures: dict[str, Any] = json.loads(ended.stdout)
    bad = {name: figures[name] for name in ("misses", "errors", "wrong") if figures[name]}
    if bad:
        raise Unavailable(f"{operation} on {server.name} was answered badly: {bad} {figures['first_error']}")
    return figures


def memcache_run(program: Path, side: Side, operation: str, load: Load) -> Run:
    """Run memload on a side, and say what that took. Raises `Unavailable` as `memcache` does."""
    before_s = side.processor_s()
    figures = memcache(program, side.servers[0], operation, load)
    return _run(figures, figures["cpu_share"] * figures["seconds"], side.processor_s() - before_s)


@contextmanager
def memcache_forever(program: Path, server: Server, operation: str, load: Load) -> Iterator[None]:
    """The same load during the block, for longer than any block takes; the server may die under it."""
    lasting = _memload(program, server, operation, replace(load, seconds=3600))
    running = subprocess.Popen(lasting, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        running.kill()
        running.wait()


def _memload(program: Path, server: Server, operation: str, load: Load) -> list[str]:
    where = [str(program), HOST, str(server.port), operation]
    return [*where, str(load.bytes), str(load.connections), str(load.keys), str(load.seconds), str(SEED)]


def http_run(side: Side, operation: str, load: Load) -> Run:
    """Run `get`, `put` or `mixed` with wrk on a side. Raises `Unavailable` for any bad answer."""
    before_s = side.processor_s()
    said, generator_s = _wrk(side.address, str(side.path), operation, load, "end" if load.once else "0")
    server_s = side.processor_s() - before_s
    return _run(parse_wrk(said, operation, load, side.name), generator_s, server_s)


def batch_run(side: Side, operation: str, load: Load) -> Run:
    """Run `get` or `put` of sfss's batches with wrk; `done` counts files, latencies are those of whole batches.

    A batch has files of different names. Raises `Unavailable` where a file of a batch failed.
    """
    batches = replace(load, connections=BATCHES_AT_ONCE, seconds=max(load.seconds, BATCH_S_MIN))
    before_s = side.processor_s()
    said, generator_s = _wrk(side.address, FILE, f"batch_{operation}", batches, "1")
    server_s = side.processor_s() - before_s
    figures = parse_wrk(said, f"batch_{operation}", load, side.name)
    return _run(figures | {"done": figures["done"] * BATCH_FILES}, generator_s, server_s)


def http_with_errors(server: Server, operation: str, load: Load) -> dict[str, Any]:
    """Run `get` or `put` with wrk; figures as its script prints them, however many of the answers were errors."""
    said, _ = _wrk(server.address, FILE, operation, load)
    return _figures(said, operation, server.name)


def _wrk(address: str, path: str, operation: str, load: Load, once: str = "0") -> tuple[str, float]:
    """What wrk printed, and its processor time in seconds. `once`: see wrk_common.lua."""
    environment = os.environ | {
        "BENCH_DIR": str(HERE),
        "BENCH_PATH": path,
        "BENCH_KEYS": str(load.keys),
        "BENCH_BYTES": str(load.bytes),
        "BENCH_ONCE": once,
        "BENCH_BATCH": str(BATCH_FILES),
    }
    command = [tool("wrk"), "-t1", f"-c{load.connections}", f"-d{max(load.seconds, 1):.0f}s", *PATIENCE]
    return _counted([*command, "-s", str(HERE / f"wrk_{operation}.lua"), f"http://{address}"], environment)


def parse_wrk(said: str, operation: str, load: Load, name: str) -> dict[str, Any]:
    """The figures in the last line that wrk's script printed. Raises `Unavailable` unless all answers were good.

    wrk's script can't look into an answer without slowing the load, but wrk counts the bytes: less than all the bodies
    together means that some answer was not the file.
    """
    figures = _figures(said, operation, name)
    if not figures["done"]:
        raise Unavailable(f"{operation} on {name}: no answer in the time")
    if figures["errors"]:
        raise Unavailable(f"{operation} on {name}: {figures['errors']} of {figures['done']} answers were errors")
    files = {"get": 1, "batch_get": BATCH_FILES}.get(operation, 0)
    if figures["bytes"] < figures["done"] * files * load.bytes:
        raise Unavailable(f"{operation} on {name}: {figures['done']} answers had {figures['bytes']} bytes, too few")
    return figures


def _figures(said: str, operation: str, name: str) -> dict[str, Any]:
    try:
        figures: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise Unavailable(f"{operation} on {name}: wrk gave no figures: {said.strip()[-200:]!r}") from None
    return figures


def _counted(command: list[str], environment: dict[str, str]) -> tuple[str, float]:
    """Run a load; what it printed, and its processor time in seconds. Raises `Unavailable` when it fails."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    with process.stdout:
        said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Unavailable(f"{Path(command[0]).name} ended with {process.returncode}: {said.strip()[-200:]}")
    return said, usage.ru_utime + usage.ru_stime


def _run(figures: dict[str, Any], generator_s: float, server_s: float) -> Run:
    return Run(
        done=figures["done"],
        seconds=figures["seconds"],
        p50_us=figures["p50_us"],
        p90_us=figures["p90_us"],
        p99_us=figures["p99_us"],
        max_us=figures["max_us"],
        generator_cores=generator_s / figures["seconds"],
        server_s=server_s,
    )


def fill(side: Side, load: Load) -> None:
    """PUT every file once over HTTP. Raises `Unavailable` at the first refusal."""
    body = Random(SEED).randbytes(load.bytes)  # nothing that a side could compress

    def put(numbers: range) -> None:
        connection = http.client.HTTPConnection(HOST, side.port, timeout=30)
        try:
            for number in numbers:
                connection.request("PUT", f"{side.path}{number:06}", body)
                answer = connection.getresponse()
                said = answer.read()
                if answer.status >= 300:
                    raise Unavailable(f"put on {side.name}: {answer.status} {said[:200].decode(errors='replace')}")
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"put on {side.name}: {error!r}") from error
        finally:
            connection.close()

    with ThreadPoolExecutor(FILLING_CONNECTIONS) as pool:
        shares = [range(first, load.keys, FILLING_CONNECTIONS) for first in range(FILLING_CONNECTIONS)]
        for done in [pool.submit(put, share) for share in shares]:
            done.result()
