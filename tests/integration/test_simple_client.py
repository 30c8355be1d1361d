"""simple_client.py as a user runs it, against a tiny HTTP server that can be told to misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from sfss import __version__

CLIENT = Path(__file__).parents[2] / "simple_client.py"
Fault = Callable[[str, str, bytes], Awaitable[bytes | None]]


async def no_fault(method: str, path: str, answer: bytes) -> bytes | None:
    return answer


class TinyServer:
    """Files in a dict behind HTTP/1.1. `fault` sees every answer before it is sent, and may change it or return None
    to hang up instead."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.fault: Fault = no_fault
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        method, target, _ = first.split(" ")
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest)}
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        path = parse_qs(urlsplit(target).query)["path"][0]
        self.requests.append((method, path, fields))
        answer = await self.fault(method, path, self._answer(method, path, fields, body))
        if answer is None:
            return False
        writer.write(answer)
        await writer.drain()
        return b"Connection: close" not in answer

    def _answer(self, method: str, path: str, fields: dict[str, str], body: bytes) -> bytes:
        if method in ("PUT", "POST"):
            if fields["content-type"].startswith("multipart/"):
                boundary = b"\r\n--" + fields["content-type"].split("boundary=")[1].encode()
                body = body.split(b"\r\n\r\n", 1)[1].split(boundary)[0]
            self.files[path] = body
            return response("201 Created" if method == "POST" else "200 OK", b"", 'ETag: "1"\r\nSfss-Durable: 2/3\r\n')
        if path not in self.files:
            return response("404 Not Found", b'{"error": "not_found", "message": "no such file"}')
        if method == "DELETE":
            del self.files[path]
            return response("204 No Content", b"")
        return response("200 OK", self.files[path])


def response(status: str, body: bytes, fields: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
async def server() -> AsyncIterator[TinyServer]:
    server = TinyServer()
    await server.start()
    yield server
    await server.close()


async def run(
    *arguments: object, stdin: bytes = b"", python: tuple[str, ...] = (sys.executable,)
) -> tuple[int, str, str]:
    """Exit status, standard output, standard error of one run."""
    process = await asyncio.create_subprocess_exec(
        *python,
        str(CLIENT),
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def bench(server: TinyServer, *arguments: object) -> tuple[int, dict[str, Any], str]:
    status, out, err = await run(
        "bench", "--port", server.port, "--json", "--keys", 8, "--concurrency", 4, "--timeout", 5, *arguments
    )
    return status, json.loads(out), err


# --- files -------------------------------------------------------------------------------------------------------


async def test_a_file_is_posted_as_a_form_and_the_answer_is_printed(server: TinyServer, tmp_path: Path) -> None:
    local = tmp_path / '照片 "1".jpg'
    local.write_bytes(bytes(range(256)) * 1000)

    status, out, err = await run(
        "--host", "127.0.0.1", "--port", server.port, "--path", "folder/子 1.jpg", "--filepath", local
    )

    assert (status, err) == (0, "")
    assert out == '201 Created  ETag: "1"  Sfss-Durable: 2/3\n'
    assert server.files == {"folder/子 1.jpg": local.read_bytes()}
    assert server.requests[0][2]["content-type"].startswith("multipart/form-data; boundary=")


async def test_put_get_and_rm_carry_bytes_through_files_and_pipes(server: TinyServer, tmp_path: Path) -> None:
    data = bytes(range(256)) * 3000
    where = ("--port", server.port, "--path", "a/b")

    put = await run("put", *where, "--filepath", "-", stdin=data)
    got = await run("get", *where, "--filepath", tmp_path / "out")
    removed = await run("rm", *where)
    missing = await run("get", *where, "--filepath", tmp_path / "missing")

    assert put[:2] == (0, '200 OK  ETag: "1"  Sfss-Durable: 2/3\n')
    assert got[0] == 0
    assert (tmp_path / "out").read_bytes() == data
    assert removed[0] == 0
    assert missing[0] == 4
    assert "not_found" in missing[2]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


async def test_options_before_a_command_hold_for_it(server: TinyServer) -> None:
    server.files["a"] = b"bytes"

    assert await run("--port", server.port, "--path", "a", "get") == (0, "bytes", "")


async def test_a_server_that_knows_no_explanations_is_told_as_such(server: TinyServer) -> None:
    server.files["a"] = b"the file itself"

    status, out, err = await run("explain", "--port", server.port, "--path", "a")

    assert (status, out) == (1, "")
    assert err == "simple_client.py: the server answered the file itself: it is older than explanations\n"


async def test_an_empty_file_goes_in_and_out(server: TinyServer, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    where = ("--port", server.port, "--path", "e")

    await run(*where, "--filepath", tmp_path / "empty")

    assert server.files == {"e": b""}
    assert await run("get", *where) == (0, "", "")


async def test_a_short_answer_is_noticed_and_leaves_the_local_file_as_it_was(
    server: TinyServer, tmp_path: Path
) -> None:
    server.files["a"] = b"x" * 100_000
    local = tmp_path / "local"
    local.write_bytes(b"old")

    async def cut(method: str, path: str, answer: bytes) -> bytes:
        return answer[:-10].replace(b"200 OK", b"200 OK\r\nConnection: close")

    server.fault = cut
    status, _, err = await run("get", "--port", server.port, "--path", "a", "--filepath", local)

    assert status == 1
    assert "ended 10 bytes early" in err
    assert local.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["local"]


async def test_a_refusal_is_printed_with_exit_status_one(server: TinyServer) -> None:
    async def refuse(method: str, path: str, answer: bytes) -> bytes:
        return response("503 Service Unavailable", b'{"error": "quorum_unavailable"}', "Sfss-Outcome: unknown\r\n")

    server.fault = refuse
    status, out, err = await run("put", "--port", server.port, "--path", "a", "--filepath", CLIENT)

    assert (status, out) == (1, "")
    assert err == '503 Service Unavailable  Sfss-Outcome: unknown\n{"error": "quorum_unavailable"}\n'


@pytest.mark.parametrize("command", [["get", "--path", "a"], ["rm", "--path", "a"], ["bench"]])
async def test_a_refused_connection_is_one_line_that_says_what_to_start(command: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused, and nobody else gets the port
        status, out, err = await run(*command, "--port", taken.getsockname()[1])

    assert (status, out) == (3, "")
    assert err.count("\n") == 1
    assert "make run" in err


async def test_without_click_it_says_in_one_line_how_to_run_it() -> None:
    status, out, err = await run("--help", python=(sys.executable, "-I", "-S"))

    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert ".venv/bin/python" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--path", "a"],
        ["bench", "--sizes", "4x"],
        ["bench", "--keys", "4", "--concurrency", "8"],
        ["bench", "--duration", "1", "--requests", "1"],
        ["bench", "--concurrency", "1", "--processes", "2"],
        ["get", "--path", "a", "--insecure"],
        ["get", "--path", "a", "--ssl", "--cafile", str(CLIENT)],
    ],
)
async def test_wrong_usage_is_refused_before_anything_is_sent(arguments: list[str]) -> None:
    status, _, err = await run(*arguments)

    assert status == 2
    assert "Error: " in err
    assert "Traceback" not in err


# --- bench -------------------------------------------------------------------------------------------------------


async def test_bench_reads_writes_verifies_and_clears_up(server: TinyServer) -> None:
    status, figures, _ = await bench(server, "--requests", 400, "--sizes", "0b:1,10b:1,4k:3,100k:2,2m:1", "--seed", 7)

    assert status == 0
    assert figures["error_count"] == 0
    assert figures["operations"]["GET"]["count"] + figures["operations"]["PUT"]["count"] == 400
    assert server.files == {}
    assert figures["files_left"] == 0
    assert {path.rsplit("/", 1)[0] for _, path, _ in server.requests} == {"bench/7/0"}


async def test_bench_json_has_these_fields(server: TinyServer) -> None:
    _, figures, err = await bench(server, "--requests", 50)

    assert err == ""
    assert set(figures) == {
        "settings",
        "duration_s",
        "stopped_early",
        "server_lost",
        "operations",
        "total",
        "errors",
        "error_count",
        "wrong_reads",
        "repeated",
        "unsent",
        "unsent_oldest_ms",
        "files_left",
        "processes_lost",
        "client",
    }
    assert set(figures["operations"]["GET"]) == {
        "count",
        "rate_per_s",
        "bytes",
        "mb_per_s",
        "p50_ms",
        "p90_ms",
        "p99_ms",
        "max_ms",
    }
    assert set(figures["client"]) == {"cpu_share", "busy_share", "turn_p99_ms", "turn_max_ms", "bottleneck"}


async def test_bench_keeps_its_files_when_asked(server: TinyServer) -> None:
    _, figures, _ = await bench(server, "--requests", 20, "--keep", "--prefix", "kept/here", "--sizes", "100b")

    assert figures["files_left"] == 8
    assert {len(value) for value in server.files.values()} == {100}
    assert all(path.startswith("kept/here/") for path in server.files)


async def test_bench_notices_one_wrong_byte(server: TinyServer) -> None:
    async def corrupt(method: str, path: str, answer: bytes) -> bytes:
        return answer[:-1] + bytes([answer[-1] ^ 1]) if method == "GET" and path.endswith("/3") else answer

    server.fault = corrupt
    status, figures, _ = await bench(server, "--requests", 200)

    assert status == 5
    assert figures["wrong_reads"] == figures["errors"]["GET wrong bytes"] > 0


async def test_bench_notices_a_lost_and_an_undone_write(server: TinyServer) -> None:
    first: dict[str, bytes] = {}

    async def forget(method: str, path: str, answer: bytes) -> bytes:
        if method == "PUT":
            first.setdefault(path, server.files[path])
            if path.endswith("/1"):
                del server.files[path]
            if path.endswith("/2"):
                server.files[path] = first[path]
        return answer

    server.fault = forget
    status, figures, _ = await bench(server, "--requests", 400, "--reads", 0.5)

    assert status == 5
    assert figures["errors"]["GET acknowledged file missing"] > 0
    assert figures["errors"]["GET older than acknowledged"] > 0


async def test_bench_notices_a_short_body(server: TinyServer) -> None:
    async def cut(method: str, path: str, answer: bytes) -> bytes:
        if method == "GET" and path.endswith("/3"):
            return answer[:-1].replace(b"200 OK", b"200 OK\r\nConnection: close")
        return answer

    server.fault = cut
    status, figures, _ = await bench(server, "--requests", 200)

    assert status == 1
    assert figures["errors"]["GET answer ended early"] > 0


async def test_bench_counts_errors_by_kind_and_goes_on(server: TinyServer) -> None:
    async def trouble(method: str, path: str, answer: bytes) -> bytes | None:
        if method == "GET" and path.endswith("/1"):
            return response("503 Service Unavailable", b'{"error": "quorum_unavailable"}')
        if method == "GET" and path.endswith("/2"):
            return None
        if method == "GET" and path.endswith("/3"):
            return answer + b"more"
        if method == "GET" and path.endswith("/4"):
            return b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops"
        return answer

    server.fault = trouble
    status, figures, _ = await bench(server, "--requests", 400)

    assert status == 1
    assert set(figures["errors"]) == {
        "GET 503 quorum_unavailable",
        "GET connection closed",
        "GET answer longer than announced",
        "GET 500",
    }
    answered = sum(row["count"] for row in figures["operations"].values())
    assert answered + figures["error_count"] == 400


async def test_a_request_that_meets_the_close_of_an_idle_connection_is_repeated(server: TinyServer) -> None:
    """HTTP lets a server close a connection that idles, at the moment when a request is on its way."""
    last: dict[str, float] = {}

    async def close_after_idling(method: str, path: str, answer: bytes) -> bytes | None:
        idled = time.monotonic() - last.get("at", time.monotonic()) > 1.2
        last["at"] = time.monotonic()
        return None if idled else answer

    server.fault = close_after_idling
    status, figures, _ = await bench(server, "--rate", 0.7, "--duration", 5, "--reads", 0.5, "--concurrency", 1)

    assert (status, figures["errors"]) == (0, {})
    assert figures["repeated"] > 0


async def test_bench_gives_up_on_a_silent_request(server: TinyServer) -> None:
    async def silent(method: str, path: str, answer: bytes) -> bytes:
        if method == "GET" and path.endswith("/1"):
            await asyncio.sleep(30)
        return answer

    server.fault = silent
    status, figures, _ = await bench(server, "--requests", 60, "--timeout", 0.5, "--reads", 0.9)

    assert status == 1
    assert set(figures["errors"]) == {"GET no answer within 0.5 s"}


async def test_bench_merges_processes(server: TinyServer) -> None:
    _, figures, _ = await bench(server, "--requests", 301, "--processes", 3, "--concurrency", 6)

    assert figures["total"]["count"] == 301
    assert len(figures["client"]["cpu_share"]) == 3
    assert {path.split("/")[2] for _, path, _ in server.requests} == {"0", "1", "2"}


async def test_a_rate_is_kept_and_latency_counts_from_when_a_request_was_due(server: TinyServer) -> None:
    stalled = asyncio.Event()

    async def stall_once(method: str, path: str, answer: bytes) -> bytes:
        if method == "GET" and not stalled.is_set():
            stalled.set()
            server.fault = wait_for_end
            stall_until[0] = time.monotonic() + 1.0
            return await wait_for_end(method, path, answer)
        return answer

    async def wait_for_end(method: str, path: str, answer: bytes) -> bytes:
        await asyncio.sleep(max(stall_until[0] - time.monotonic(), 0))
        return answer

    stall_until = [0.0]
    server.fault = stall_once
    _, figures, _ = await bench(server, "--rate", 100, "--duration", 4, "--reads", 1)

    assert figures["total"]["count"] + figures["unsent"] == 400
    # The server answered nothing for one second of four: of the hundred requests due in it, each waited for the rest of
    # it. A closed loop would show four slow ones, 1 %.
    assert figures["operations"]["GET"]["p90_ms"] > 300


async def test_an_unkept_rate_is_said(server: TinyServer) -> None:
    async def slow(method: str, path: str, answer: bytes) -> bytes:
        await asyncio.sleep(0.05)
        return answer

    server.fault = slow
    status, figures, _ = await bench(server, "--rate", 1000, "--duration", 2)

    assert status == 0
    assert figures["unsent"] > 1000, "4 connections at 50 ms make 80 a second"
    assert figures["unsent_oldest_ms"] > 500


async def test_bench_says_when_the_server_is_gone(server: TinyServer) -> None:
    async def vanish(method: str, path: str, answer: bytes) -> bytes | None:
        if method == "GET":
            server._server.close()
            return None
        return answer

    server.fault = vanish
    status, figures, _ = await bench(server, "--duration", 30, "--timeout", 1)

    assert status == 3
    assert figures["server_lost"]
    assert figures["errors"]["connect: connection refused"] > 0
    assert figures["files_left"] == 8


async def test_a_server_that_takes_few_connections_is_not_stormed(server: TinyServer) -> None:
    accepted = 0

    def take_two(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        if len(server._tasks) < 2:
            server._accept(reader, writer)
        else:
            writer.close()

    limited = await asyncio.start_server(take_two, "127.0.0.1", 0)
    server.port = limited.sockets[0].getsockname()[1]
    status, figures, _ = await bench(server, "--duration", 1)
    limited.close()

    assert status == 1
    assert figures["total"]["count"] > 0
    assert accepted < 100


async def test_ctrl_c_ends_the_measuring_and_still_clears_up_and_prints(server: TinyServer) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CLIENT), "bench", "--port", str(server.port), "--duration", "60", "--keys", "50"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    while not any(method == "GET" for method, _, _ in server.requests):
        await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 30)

    assert process.returncode == 0
    assert b"stopped early" in out
    assert b"Traceback" not in err
    assert server.files == {}


async def test_the_text_names_what_was_measured(server: TinyServer) -> None:
    status, out, _ = await run("bench", "--port", server.port, "--requests", 200, "--keys", 32)

    assert status == 0
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("GET", "PUT", "all"))] == [
        "GET",
        "PUT",
        "all",
    ]
    assert "p50 ms" in out
    assert "verified: every byte of" in out
    assert "the client was not the bottleneck" in out or "the CLIENT was the bottleneck" in out


async def test_progress_is_one_line_on_a_terminal(server: TinyServer) -> None:
    primary, secondary = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CLIENT), "bench", "--port", str(server.port), "--duration", "1.5", "--keys", "32"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=secondary,
    )
    os.close(secondary)
    await asyncio.wait_for(process.wait(), 30)
    shown = os.read(primary, 65536)
    os.close(primary)

    assert b"measuring: " in shown
    assert shown.count(b"\r") > 2
    assert b"\n" not in shown


async def test_the_version_is_that_of_sfss() -> None:
    assert await run("--version") == (0, f"simple_client.py, version {__version__}\n", "")
