"""The loads: memload (memcache, C, built when first needed) and wrk (HTTP, with the scripts beside this file).

Both are closed loops with checked answers. A load with any error, miss or wrong answer is a failed measurement, never a
fast one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.servers import HOST, Server, Unavailable, tool

HERE = Path(__file__).parent
SEED = 1
"""Of the choice of keys: the same for every server that is compared."""


@dataclass(frozen=True)
class Load:
    """How hard and for how long: `bytes` of a value, `connections` at once, `keys` files, `seconds` a measurement."""

    bytes: int = 4096
    connections: int = 32
    keys: int = 20_000
    seconds: float = 4.0


def build_memload(directory: Path) -> Path:
    """Compile the memcache load into `directory`. Raises `Unavailable`."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unavailable("cc (a C compiler) is not installed")
    program = directory / "memload"
    subprocess.run([compiler, "-O2", "-o", str(program), str(HERE / "memload.c")], check=True)
    return program


def memcache(program: Path, server: Server, operation: str, load: Load) -> dict[str, Any]:
    """Run `get`, `set` or `fill`; figures as memload prints them. Raises `Unavailable` where answers were not good."""
    ended = subprocess.run(_memload(program, server, operation, load), capture_output=True, text=True)
    if ended.returncode:
        raise Unavailable(f"{operation} on {server.name} failed: {ended.stderr.strip()}")
    figures: dict[str, Any] = json.loads(ended.stdout)
    bad = {name: figures[name] for name in ("misses", "errors", "wrong") if figures[name]}
    if bad:
        raise Unavailable(f"{operation} on {server.name} was answered badly: {bad} {figures['first_error']}")
    return figures


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


def http(server: Server, operation: str, load: Load) -> dict[str, Any]:
    """The same as `http_with_errors`. Raises `Unavailable` as `memcache` does."""
    figures = http_with_errors(server, operation, load)
    if figures["errors"] or not figures["done"]:
        raise Unavailable(f"{operation} on {server.name}: {figures['errors']} of {figures['done']} answers were errors")
    return figures


def http_with_errors(server: Server, operation: str, load: Load) -> dict[str, Any]:
    """Run `get` or `put` with wrk; figures as its script prints them, however many of the answers were errors."""
    script = HERE / f"wrk_{operation}.lua"
    environment = os.environ | {
        "BENCH_DIR": str(HERE),
        "BENCH_KEYS": str(load.keys),
        "BENCH_BYTES": str(load.bytes),
    }
    command = [tool("wrk"), "-t1", f"-c{load.connections}", f"-d{load.seconds:.0f}s", "-s", str(script)]
    ended = subprocess.run(
        [*command, f"http://{server.address}"], env=environment, capture_output=True, text=True, check=True
    )
    figures: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return figures
