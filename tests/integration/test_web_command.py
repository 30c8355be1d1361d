"""The command `sfss` as its user starts it: real processes, over a proxy that keeps its files in memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from web_tier import PATIENCE_S, RawClient, Reply, make_certificate, request

from sfss import __version__
from sfss.memcache.server import MemcacheServer
from sfss.memory import MemoryStore


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        port: int = free.getsockname()[1]
        return port


def clean_environment(**settings: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SFSS_")} | settings


@asynccontextmanager
async def sfss(*options: str, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A running web tier; its log can be read from `stderr`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sfss.commands.main", *options),
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(**settings),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def proxy() -> AsyncIterator[str]:
    server = MemcacheServer(MemoryStore(durable=True))
    await server.start("127.0.0.1", 0)
    yield f"127.0.0.1:{server.port}"
    await server.close(grace_s=0)


async def ask(port: int, data: bytes, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Reply:
    """One request, once the server is there."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=tls, server_hostname="localhost" if tls else None, limit=1 << 23
                )
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
                continue
            async with RawClient(reader, writer) as client:
                await client.send(data)
                return await client.reply()


async def webserver(port: int) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((await ask(port, request("GET", "/status"))).body)["webserver"]
    return figures


async def stopped(process: asyncio.subprocess.Process) -> int:
    process.send_signal(signal.SIGTERM)
    return await asyncio.wait_for(process.wait(), PATIENCE_S)


async def test_one_process_serves_files_and_ends_with_0(proxy: str) -> None:
    port = free_port()
    async with sfss("--port", str(port), "--proxies", proxy) as process:
        assert (await ask(port, request("PUT", "/file?path=a", body=b"1"))).status == 200
        assert (await ask(port, request("GET", "/file?path=a"))).body == b"1"

        assert await stopped(process) == 0


async def test_workers_share_a_port_and_tell_their_figures_together(proxy: str) -> None:
    port = free_port()
    async with sfss("--port", str(port), "--workers", "2", "--proxies", proxy) as process:
        for number in range(40):
            assert (await ask(port, request("PUT", f"/file?path=f{number}", body=b"1"))).status == 200

        async with asyncio.timeout(PATIENCE_S):
            # What the other one has counted is told within a tenth of a second.
            while len((figures := await webserver(port))["workers"]) < 2 or figures["requests_put"] != "40":
                await asyncio.sleep(0.05)
        counts = [int(worker["requests_put"]) for worker in figures["workers"]]
        assert sum(counts) == 40
        assert len({worker["pid"] for worker in figures["workers"]}) == 2
        assert str(process.pid) == figures["pid"]

        assert await stopped(process) == 0


async def test_a_dead_worker_is_replaced_and_its_figures_are_kept(proxy: str) -> None:
    port = free_port()
    async with sfss("--port", str(port), "--workers", "2", "--proxies", proxy) as process:
        async with asyncio.timeout(PATIENCE_S):
            while len((figures := await webserver(port))["workers"]) < 2:
                await asyncio.sleep(0.05)
        victim = int(figures["workers"][0]["pid"])
        os.kill(victim, signal.SIGKILL)

        async with asyncio.timeout(PATIENCE_S):
            while (figures := await webserver(port))["restarts"] != "1":
                await asyncio.sleep(0.05)
        assert len(figures["workers"]) == 2
        assert str(victim) not in {worker["pid"] for worker in figures["workers"]}
        for number in range(40):
            assert (await ask(port, request("PUT", f"/file?path=f{number}", body=b"1"))).status == 200

        assert await stopped(process) == 0


async def test_workers_end_when_the_process_that_watches_them_is_killed(proxy: str) -> None:
    port = free_port()
    async with sfss("--port", str(port), "--workers", "2", "--proxies", proxy) as process:
        await webserver(port)
        process.kill()

        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionRefusedError:
                    break
                writer.close()
                await asyncio.sleep(0.05)


async def test_ctrl_c_in_a_terminal_is_one_stop_for_all_workers(proxy: str) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "sfss.commands.main", "--port", str(port), "--workers", "2", "--proxies", proxy],
        stderr=subprocess.PIPE,
        env=clean_environment(),
        start_new_session=True,
    )
    try:
        await webserver(port)
        os.killpg(process.pid, signal.SIGINT)
        _, log = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
    finally:
        process.kill()

    assert process.returncode == 0, log


async def test_tls_serves_files_of_all_sizes(proxy: str, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    port = free_port()
    trust = ssl.create_default_context(cafile=str(cert))
    async with sfss(
        *("--port", str(port), "--proxies", proxy, "--ssl", "--sslcert", str(cert), "--sslkey", str(key))
    ) as process:
        for number, size in enumerate((0, 1, 100_000, 2 * 1024 * 1024)):
            body = os.urandom(size)
            assert (await ask(port, request("PUT", f"/file?path=f{number}", body=body), tls=trust)).status == 200
            assert (await ask(port, request("GET", f"/file?path=f{number}"), tls=trust)).body == body
        over = request("PUT", "/file?path=x", "Content-Length: 2097153") + b"1"
        assert (await ask(port, over, tls=trust)).status == 413

        assert await stopped(process) == 0


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
async def test_ipv6_addresses_are_listened_on(proxy: str) -> None:
    port = free_port("::1")
    async with sfss("--host", "::1", "--port", str(port), "--proxies", proxy) as process:
        assert (await ask(port, request("GET", "/healthz"), host="::1")).status == 200
        assert process.stderr is not None
        await asyncio.wait_for(process.stderr.readuntil(f"serving on [::1]:{port}".encode()), PATIENCE_S)
        assert await stopped(process) == 0

    port = free_port("::")
    async with sfss("--host", "::", "--port", str(port), "--proxies", proxy) as process:
        assert (await ask(port, request("GET", "/healthz"), host="::1")).status == 200
        assert (await ask(port, request("GET", "/healthz"), host="127.0.0.1")).status == 200
        assert await stopped(process) == 0


async def test_the_access_log_has_each_request_with_its_id(proxy: str) -> None:
    port = free_port()
    options = ("--port", str(port), "--proxies", proxy, "--access-log", "--log-json")
    async with sfss(*options) as process:
        await ask(port, request("PUT", "/file?path=a%0a", "X-Request-Id: my-id", body=b"12345"))
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(process.communicate(), PATIENCE_S)

    lines = [json.loads(line) for line in log.splitlines()]
    (line,) = [line for line in lines if line.get("request") == "my-id"]
    assert '"PUT /file?path=a%0a" 400' in line["message"]


async def test_a_crowd_beyond_the_open_files_leaves_room_for_the_proxies(proxy: str) -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(
            "prlimit",
            "--nofile=256",
            sys.executable,
            "-m",
            "sfss.commands.main",
            "--port",
            str(port),
            "--proxies",
            proxy,
        ),
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    try:
        assert (await ask(port, request("PUT", "/file?path=a", body=b"1"))).status == 200
        crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(400)]
        served = [RawClient(*pair) for pair in crowd[:100]]
        for client in served:
            await client.send(request("GET", "/file?path=a"))
            assert (await client.reply()).body == b"1"
        refused_one = RawClient(*crowd[-1])
        assert (await refused_one.reply()).status == 503
        for _, writer in crowd:
            writer.transport.abort()

        async with asyncio.timeout(PATIENCE_S):
            while (await ask(port, request("GET", "/file?path=a"))).status != 200:
                await asyncio.sleep(0.05)
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0


def refused(*options: str, **settings: str) -> str:
    """What a start that is refused prints, in one line."""
    done = subprocess.run(
        [sys.executable, "-m", "sfss.commands.main", *options],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(**settings),
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_start_that_cannot_work_is_refused_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "is in use" in refused("--port", port)
        assert "is in use" in refused("--port", port, "--workers", "2")
    assert "--sslcert" in refused("--ssl")
    assert "can't use" in refused("--ssl", "--sslcert", str(tmp_path / "no"), "--sslkey", str(tmp_path / "no"))
    assert "option --port" in refused("--port", "70000")
    assert "environment variable SFSS_WORKERS" in refused(SFSS_WORKERS="many")
    assert "can't read" in refused("--config", str(tmp_path / "none.toml"))
    assert "no address of this machine" in refused("--host", "no.such.host.invalid")
    assert "no address of this machine" in refused("--host", "a..b")


@pytest.mark.parametrize("option", ["--port=1", "--config=x", "--direct", "--log-level=info"])
def test_options_before_up_are_refused_rather_than_dropped(option: str) -> None:
    name = option.partition("=")[0]

    assert f"{name} before `up` would do nothing; options go after `up`" in refused(option, "up", "--nodes", "65")


async def test_a_second_server_cannot_join_the_port_of_several_workers(proxy: str) -> None:
    port = free_port()
    async with sfss("--port", str(port), "--workers", "2", "--proxies", proxy) as process:
        await webserver(port)

        assert "is in use" in await asyncio.to_thread(refused, "--port", str(port), "--workers", "2")
        assert await stopped(process) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_stop_while_nodes_are_waited_for_ends_with_0(workers: str) -> None:
    options = ("--direct", "--workers", workers, "--port", str(free_port()))
    async with sfss(*options, SFSS_STORAGES=f"127.0.0.1:{free_port()}", SFSS_N="1", SFSS_W="1", SFSS_R="1") as process:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while b"waiting for nodes" not in (line := await process.stderr.readline()):
                assert line, "it ended"

        assert await stopped(process) == 0


async def test_nodes_that_are_away_are_waited_for_by_one_worker() -> None:
    options = ("--direct", "--workers", "4", "--port", str(free_port()))
    async with sfss(*options, SFSS_STORAGES=f"127.0.0.1:{free_port()}", SFSS_N="1", SFSS_W="1", SFSS_R="1") as process:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            assert b"waiting for nodes" in await process.stderr.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

        assert await stopped(process) == 0

    assert len(children) == 1


def test_a_refused_start_of_several_workers_is_one_line() -> None:
    options = ("--direct", "--workers", "4", "--port", str(free_port()))

    assert "two writes could miss each other" in refused(*options, SFSS_W="1", SFSS_R="1")


def test_a_worker_that_is_refused_when_it_starts_again_is_tried_until_it_serves(tmp_path: Path) -> None:
    """Its nodes may be away just then; the other workers serve, and go on."""
    script = """
import os, pathlib, signal, sys
from sfss.web.workers import Workers

lives = pathlib.Path(sys.argv[1])

def work(index, sockets, serving):
    with lives.open("a") as file:
        file.write("x")
    life = lives.stat().st_size
    if life == 4:
        os.kill(os.getppid(), signal.SIGTERM)
        signal.sigwait({signal.SIGUSR1})
    if life == 1:
        serving()
        return 1
    return 2

sys.exit(Workers(work, [[]]).run())
"""
    lives = tmp_path / "lives"
    done = subprocess.run([sys.executable, "-c", script, str(lives)], timeout=PATIENCE_S, check=False)

    assert lives.read_text() == "xxxx"
    assert done.returncode == 1  # the last life was ended by the signal that it waited under


def test_a_worker_that_cannot_be_forked_is_tried_again_and_ends_nobody() -> None:
    script = """
import os, signal
from sfss.web import workers

fork, failures = os.fork, [BlockingIOError(11, "Resource temporarily unavailable")] * 2

def scarce_fork():
    if failures:
        raise failures.pop()
    return fork()

os.fork = scarce_fork

def work(index, sockets, serving):
    os.kill(os.getppid(), signal.SIGTERM)
    signal.sigwait({signal.SIGUSR1})

raise SystemExit(workers.Workers(work, [[]]).run())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert done.stderr.count("worker 0 can't be started: Resource temporarily unavailable") == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "start"),
    [
        (["--version"], f"sfss, version {__version__}, "),
        (["up", "--version"], f"sfss up, version {__version__}, "),
        (["-h"], "Usage: python -m sfss.commands.main [OPTIONS]"),
        (["up", "-h"], "Usage: python -m sfss.commands.main up [OPTIONS]"),
    ],
)
def test_version_and_help_are_told(options: list[str], start: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sfss.commands.main", *options], capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith(start)
