"""Batches over real sockets: what is answered for every file, and for bodies and clients that break off."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from web_tier import RawClient, Reply, SlowStore, eventually, form, make_certificate, request, web_tier

from sfss.errors import CorruptRecord, Outcome, QuorumUnavailable, SfssError
from sfss.memory import MemoryStore
from sfss.settings import load_settings
from sfss.store import NO_CALL, Call, Record, Written
from sfss.web.batches.putting import TURN_FILES
from sfss.web.batches.room import READS_MAX, WRITES_MAX
from sfss.web.connection import ConnectionLimits
from sfss.web.serve import check_batches

RECORDS = "Content-Type: application/x-sfss-files"


def get_of(*paths: str, more: Iterable[str] = ()) -> bytes:
    return request("POST", "/files:get", *more, body="\n".join(paths).encode())


def records(*stored: tuple[str, bytes], end: bool = True) -> bytes:
    lines = [json.dumps({"path": path, "size": len(value)}).encode() + b"\n" + value + b"\n" for path, value in stored]
    return b"".join(lines) + (b'{"end": true}\n' if end else b"")


def put_of(body: bytes, *more: str) -> bytes:
    return request("POST", "/files:put", RECORDS, *more, body=body)


def given(reply: Reply) -> list[dict[str, Any]]:
    """The lines of an answer; those of files with their `bytes`."""
    told = []
    rest = reply.body
    while rest:
        line, _, rest = rest.partition(b"\n")
        told.append(json.loads(line))
        if "size" in told[-1]:
            size = told[-1]["size"]
            told[-1]["bytes"], rest = rest[:size], rest[size + 1 :]
    return told


class Faulty(MemoryStore):
    """A store in which some keys have a fault."""

    def __init__(self, **faults: SfssError) -> None:
        super().__init__(durable=True)
        self.faults = {name.encode(): fault for name, fault in faults.items()}

    def get(self, key: bytes, call: Call = NO_CALL) -> Any:
        if key in self.faults:
            raise self.faults[key]
        return MemoryStore.get(self, key, call)

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Any:
        if key in self.faults:
            raise self.faults[key]
        return MemoryStore.set(self, key, value, flags, expires, call)


# --- what is told of each file ---


async def test_put_stores_and_get_gives_each_file_as_single_requests_do() -> None:
    async with web_tier() as web:
        stored = await web.ask(put_of(records(("a/b", b"one"), ('ä "c"', b""), ("large", bytes(2 * 1024 * 1024)))))
        got = await web.ask(get_of("large", "a/b", 'ä "c"'))
        single = await web.get("a/b")

    assert (stored.status, got.status) == (200, 200)
    lines = given(stored)
    assert [(line.get("path"), line.get("status"), line.get("durable")) for line in lines] == [
        ("a/b", 200, "1/1"),
        ('ä "c"', 200, "1/1"),
        ("large", 200, "1/1"),
        (None, None, None),
    ]
    assert lines[-1] == {"end": True, "files": 3, "failed": 0}
    files = given(got)
    assert [(line.get("path"), line.get("bytes")) for line in files[:-1]] == [
        ("large", bytes(2 * 1024 * 1024)),
        ("a/b", b"one"),
        ('ä "c"', b""),
    ]
    assert f'"{lines[0]["etag"]}"' == f'"{files[1]["etag"]}"' == single.headers["etag"]
    assert files[-1] == {"end": True, "files": 3, "failed": 0}


async def test_a_missing_or_broken_file_spoils_only_itself() -> None:
    lost = QuorumUnavailable("1 of 2 replicas answered", Outcome.UNKNOWN)
    store = Faulty(lost=lost, rotten=CorruptRecord("bad checksum"))
    store.faults[b"fault"] = KeyError("a mistake")  # type: ignore[assignment]
    async with web_tier(store) as web:
        put = await web.ask(put_of(records(("a", b"1"), ("lost", b"2"), ("x//y", b"3"), ("b", b"4"))))
        paths = ("a", "lost", "nowhere", "rotten", "fault", "../a", "", "b", "x" * 251)
        got = await web.ask(get_of(*paths))
        no_utf_8 = await web.ask(request("POST", "/files:get", body=b"\xff\na\r\n"))

    assert put.status == 207
    assert [(line["path"], line["status"], line.get("error"), line.get("outcome")) for line in given(put)[:-1]] == [
        ("a", 200, None, None),
        ("lost", 503, "quorum_unavailable", "unknown"),
        ("x//y", 400, "bad_request", "not-applied"),
        ("b", 200, None, None),
    ]
    assert given(put)[-1] == {"end": True, "files": 4, "failed": 2}
    assert got.status == 200
    assert [(line["path"], line["status"], line.get("error")) for line in given(got)[:-1]] == [
        ("a", 200, None),
        ("lost", 503, "quorum_unavailable"),
        ("nowhere", 404, "not_found"),
        ("rotten", 500, "corrupt"),
        ("fault", 500, "internal"),
        ("../a", 400, "bad_request"),
        ("", 400, "bad_request"),
        ("b", 200, None),
        ("x" * 251, 400, "bad_path"),
    ]
    assert given(got)[-1] == {"end": True, "files": 9, "failed": 7}
    assert [(line.get("path"), line.get("status")) for line in given(no_utf_8)[:-1]] == [("�", 400), ("a", 200)]


async def test_of_two_files_of_one_path_the_later_one_stays() -> None:
    store = SlowStore()
    async with web_tier(store) as web:
        put = await web.ask(put_of(records(*((f"same{number % 2}", b"%d" % number) for number in range(50)))))
        got = await web.ask(get_of("same0", "same1", "same1"))

    assert put.status == 200
    assert [line["bytes"] for line in given(got)[:-1]] == [b"48", b"49", b"49"]


async def test_an_answer_of_get_can_be_sent_to_put() -> None:
    async with web_tier() as web, web_tier() as other:
        await web.ask(put_of(records(("a", b"1"), ("b", b"2"))))
        got = await web.ask(get_of("a", "nowhere", "b"))
        put = await other.ask(put_of(got.body))

        assert [line.get("status") for line in given(put)] == [200, 400, 200, None]
        assert [(await other.get(path)).body for path in ("a", "b")] == [b"1", b"2"]


async def run(command: str, folder: Path) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_shell(
        command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode()


async def test_curl_and_tar_put_a_folder_and_get_it_back(tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    (there / "ordner").mkdir(parents=True)
    back.mkdir()
    for number in range(30):
        (there / "ordner" / f"ü {number}").write_bytes(b"%d" % number * 1000)
    async with web_tier() as web:
        url = f"http://127.0.0.1:{web.port}"
        put = await run(f"tar c . | curl -sS -X POST -H 'Content-Type: application/x-tar' -T - {url}/files:put", there)
        paths = "(find . -type f -printf '%P\\n'; echo nowhere)"
        curl = f"curl -sS -H 'Accept: application/x-tar' --data-binary @- {url}/files:get"
        got = await run(f"{paths} | {curl} | tar x -C {back}", there)

    assert '{"end": true, "files": 30, "failed": 0}' in put[1]
    assert got[0] == 2
    assert "nowhere" in got[1]
    assert "404 not_found" in got[1]
    assert {path.relative_to(back): path.read_bytes() for path in back.rglob("*") if path.is_file()} == {
        path.relative_to(there): path.read_bytes() for path in there.rglob("*") if path.is_file()
    }


# --- bodies that end too early, or can't be followed ---


async def test_a_body_cut_off_tells_of_what_was_stored_before() -> None:
    body = records(("a", b"1"), ("b", b"2")) + b"x"
    cut = records(("a", b"1"), ("b", b"2"), end=False) + b'{"path": "c", "size": 10}\n123'
    async with web_tier() as web:
        async with await web.connect() as client:
            await client.send(put_of(cut, f"Content-Length: {len(cut) + 7}"))
            client.writer.write_eof()
            short = await client.reply()
        no_end = await web.ask(put_of(cut))
        broken = await web.ask(put_of(body))
        nothing = await web.ask(put_of(b"no line of json"))
        gone = (await web.get("c")).status

    for reply in (short, no_end):
        assert (reply.status, reply.closes) == (400, True)
        assert [(line.get("path"), line.get("status"), line.get("error")) for line in given(reply)] == [
            ("a", 200, None),
            ("b", 200, None),
            ("c", 400, "short_body"),
            (None, None, "short_body"),
        ]
        assert given(reply)[2]["outcome"] == "not-applied"
    assert broken.status == 400
    assert given(broken)[-1]["files"] == 2
    assert "behind" in given(broken)[-1]["message"]
    assert (nothing.status, given(nothing)[0]["error"]) == (400, "short_body")
    assert gone == 404


async def test_files_that_came_with_what_breaks_a_body_are_stored_and_told() -> None:
    store = SlowStore(held=True)
    many = records(*((f"{number}", b"1") for number in range(WRITES_MAX + 1)), end=False)
    last = records(("a", b"1"), ("b", b"2"), end=False)
    async with web_tier(store) as web, await web.connect() as client:
        await client.send(put_of(b"%x\r\n%b\r\n" % (len(many), many), "Transfer-Encoding: chunked"))
        await eventually(lambda: len(store.calls) == WRITES_MAX)
        await client.send(b"%x\r\n%b\r\nno chunk\r\n" % (len(last), last))
        await asyncio.sleep(0.05)
        store.gate.set()
        reply = await client.reply()

    assert (reply.status, reply.closes) == (400, True)
    assert [line.get("path") for line in given(reply)][-3:] == ["a", "b", None]
    assert given(reply)[-1]["failed"] == 0


async def test_a_client_that_resets_has_stored_what_was_whole() -> None:
    async with web_tier() as web:
        async with await web.connect() as client:
            body = records(("a", b"1"), end=False) + b'{"path": "b", "size": 10}\n123'
            await client.send(put_of(body, "Content-Length: 100000"))
            await eventually(lambda: b"a" in web.store.records)
            client.reset()
        await eventually(lambda: not web.server.tasks)
        left = (await web.get("a")).status, (await web.get("b")).status

        assert left == (200, 404)
        assert web.memory.held == 0


async def test_writes_under_way_are_told_when_the_body_breaks_off() -> None:
    store = SlowStore(held=True)
    async with web_tier(store) as web, await web.connect() as client:
        body = records(("a", b"1"), ("b", b"2"), end=False)
        await client.send(put_of(body, f"Content-Length: {len(body) + 1}"))
        await eventually(lambda: len(store.calls) == 2)
        client.writer.write_eof()
        store.gate.set()
        reply = await client.reply()

    assert [line.get("status") for line in given(reply)] == [200, 200, None]


# --- limits ---


async def test_limits_of_a_batch_are_kept_and_named() -> None:
    small = {"batch_files_max": 3, "batch_list_bytes_max": 1024, "max_content_size": 1000}
    async with web_tier(settings=small) as web:
        many = await web.ask(get_of("a", "b", "c", "d"))
        long_list = await web.ask(get_of(*["x" * 100] * 11))
        long_chunks = await web.ask(
            request(
                "POST", "/files:get", "Transfer-Encoding: chunked", body=b"401\r\n" + bytes(1025) + b"\r\n0\r\n\r\n"
            )
        )
        more = await web.ask(put_of(records(*((name, b"1") for name in "abcd"))))
        large = await web.ask(put_of(records(("e", bytes(1001)), ("f", bytes(1000)))))

    assert (many.status, long_list.status, long_chunks.status, more.status, large.status) == (413, 413, 413, 413, 207)
    assert "4 files are asked for; the limit for a batch is 3" in json.loads(many.body)["message"]
    assert [line.get("path") for line in given(more)] == ["a", "b", "c", None]
    assert "over 3 files" in given(more)[-1]["message"]
    assert [(line.get("path"), line.get("status")) for line in given(large)[:-1]] == [("e", 413), ("f", 200)]


async def test_a_body_over_the_limit_is_refused_before_it_is_sent_or_where_it_passes() -> None:
    async with web_tier(settings={"batch_bytes_max": 2 * 1024 * 1024}) as web:
        async with await web.connect() as client:
            await client.send(put_of(b"", "Content-Length: 3000000", "Expect: 100-continue"))
            announced = await client.reply()
        chunk = records(*((f"{number}", bytes(100_000)) for number in range(30)))
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(chunk), chunk)
        chunked = await web.ask(put_of(body, "Transfer-Encoding: chunked"))

    assert (announced.status, chunked.status) == (413, 413)
    assert 15 < given(chunked)[-1]["files"] < 22
    assert "send the other files in another batch" in given(chunked)[-1]["message"]


async def test_an_answer_over_the_limit_ends_with_what_to_ask_for_again() -> None:
    async with web_tier(settings={"batch_bytes_max": 2 * 1024 * 1024}) as web:
        for name in "abcdefghijklmnopqrst":
            await web.put(name, bytes(1024 * 1024))
        got = given(await web.ask(get_of(*"abcdefghijklmnopqrst")))

    statuses = [line.get("status") for line in got[:-1]]
    count = statuses.count(200)
    assert 2 <= count <= 10
    assert statuses == [200] * count + [413] * (20 - count)
    assert got[-2]["error"] == "batch_full"


async def test_what_a_batch_can_not_have_is_refused() -> None:
    async with web_tier() as web:
        replies = {
            "query": await web.ask(request("POST", "/files:get?path=a", body=b"a")),
            "condition": await web.ask(put_of(records(), 'If-Match: "a"')),
            "digest": await web.ask(put_of(records(), "Content-MD5: AAAAAAAAAAAAAAAAAAAAAA==")),
            "digest of a list": await web.ask(get_of("a", more=["Content-MD5: AAAAAAAAAAAAAAAAAAAAAA=="])),
            "encoding": await web.ask(put_of(records(), "Content-Encoding: gzip")),
            "origin": await web.ask(put_of(records(), "Origin: https://example.com")),
            "origin of a read": await web.ask(get_of("a", more=["Origin: https://example.com"])),
            "method": await web.ask(request("GET", "/files:get")),
            "form": await web.ask(
                request(
                    "POST",
                    "/files:put",
                    "Content-Type: multipart/form-data; boundary=xyz",
                    body=form([('name="file"', bytes(1000))]),
                )
            ),
        }

    assert {name: reply.status for name, reply in replies.items()} == {
        "query": 400,
        "condition": 501,
        "digest": 501,
        "digest of a list": 501,
        "encoding": 415,
        "origin": 403,
        "origin of a read": 403,
        "method": 405,
        "form": 400,
    }
    assert replies["method"].headers["allow"] == "POST"


async def test_a_list_that_is_too_long_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bytes] = []
    monkeypatch.setattr("sfss.web.batches.handlers.lines_of", taken.append)
    async with web_tier() as web:
        lines = await web.ask(request("POST", "/files:get", body=b"\n" * 10_001))
        last = await web.ask(request("POST", "/files:get", body=b"\n" * 10_000 + b"a"))

    assert (lines.status, last.status, taken) == (413, 413, [])
    assert "10001 files are asked for" in json.loads(last.body)["message"]


async def test_others_get_their_turn_beside_a_batch_that_waits_for_nothing() -> None:
    class Counting(MemoryStore):
        def __init__(self) -> None:
            super().__init__(durable=True)
            self.turns = 0
            self.sets: Counter[int] = Counter()

        def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Any:
            self.sets[self.turns] += 1
            return MemoryStore.set(self, key, value, flags, expires, call)

        def turn(self) -> None:
            self.turns += 1
            asyncio.get_running_loop().call_soon(self.turn)

    store = Counting()
    async with web_tier(store) as web:
        store.turn()
        reply = await web.ask(put_of(records(*((f"{number}", b"") for number in range(1000)))))

    assert (reply.status, store.sets.total()) == (200, 1000)
    assert max(store.sets.values()) <= TURN_FILES


async def test_no_browser_runs_what_an_answer_holds() -> None:
    async with web_tier() as web:
        await web.put("a", b"<script>")
        got = await web.ask(get_of("a"))

    assert got.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert got.headers["x-content-type-options"] == "nosniff"


async def test_an_empty_batch_is_answered() -> None:
    async with web_tier() as web:
        got, put = await web.ask(request("POST", "/files:get")), await web.ask(put_of(records()))

    assert given(got) == given(put) == [{"end": True, "files": 0, "failed": 0}]


async def test_one_batch_too_many_is_refused_at_once_and_single_requests_go_on() -> None:
    store = SlowStore(held=True)
    async with web_tier(store, settings={"batches_max": 1}) as web, await web.connect() as client:
        await client.send(get_of("a"))
        await eventually(lambda: len(store.calls) == 1)

        refused = await web.ask(put_of(records(("b", b"1"))))
        store.gate.set()
        single = await web.put("c", b"1")
        first = await client.reply()
        after = await web.ask(put_of(records(("b", b"1"))))

    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.headers["sfss-outcome"] == "not-applied"
    assert (single.status, first.status, after.status) == (200, 200, 200)


async def test_no_memory_for_a_window_refuses_a_batch_at_once() -> None:
    async with web_tier(body_memory=16 * 1024 * 1024) as web:
        web.memory.hold(10 * 1024 * 1024)
        refused = await web.ask(get_of("a"))
        web.memory.release(10 * 1024 * 1024)

        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert web.memory.held == 0


async def test_where_there_never_is_memory_for_a_batch_nobody_is_told_to_come_back() -> None:
    async with web_tier(body_memory=4 * 1024 * 1024) as web:
        refused = await web.ask(get_of("a"))

    assert (refused.status, refused.headers.get("retry-after")) == (501, None)
    assert "send each file by itself" in json.loads(refused.body)["message"]


def test_a_start_says_that_memory_does_not_suffice_for_batches(caplog: pytest.LogCaptureFixture) -> None:
    check_batches(load_settings(None, {}, {"body_memory_max": 16 * 1024 * 1024}))
    assert not caplog.messages

    check_batches(load_settings(None, {}, {"body_memory_max": 8 * 1024 * 1024}))

    assert caplog.messages == [
        "/files:get and /files:put are refused where they need more than BODY_MEMORY_MAX, which is 8388608: 12582912 "
        "is enough"
    ]


# --- pace ---


async def test_no_more_files_are_under_way_than_fit_the_window() -> None:
    store = SlowStore(held=True)
    async with web_tier(store) as web, await web.connect() as reader, await web.connect() as writer:
        await reader.send(get_of(*(f"r{number}" for number in range(1000))))
        await writer.send(put_of(records(*((f"w{number}", b"1") for number in range(1000)))))
        await eventually(lambda: sum(name == "set" for name, _, _ in store.calls) == WRITES_MAX)
        await asyncio.sleep(0.05)
        asked = [name for name, _, _ in store.calls]
        store.gate.set()
        got, put = given(await reader.reply()), given(await writer.reply())

    assert asked.count("set") == WRITES_MAX
    assert 0 < asked.count("get") <= READS_MAX
    assert got[-1] == {"end": True, "files": 1000, "failed": 1000}
    assert put[-1] == {"end": True, "files": 1000, "failed": 0}


def slow_socket(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    return sock


async def test_a_slow_reader_holds_up_what_is_read_for_it() -> None:
    store = Counting()
    async with web_tier(store) as web:
        for number in range(40):
            store.set(b"%d" % number, bytes(1024 * 1024))
        with slow_socket(web.port) as sock:
            await asyncio.get_running_loop().run_in_executor(
                None, sock.sendall, get_of(*(str(number) for number in range(40)))
            )
            await eventually(lambda: store.gets > 0)
            await asyncio.sleep(0.2)
            asked = store.gets
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            reader, writer = await asyncio.open_connection(sock=sock.dup(), limit=1 << 23)
            async with RawClient(reader, writer) as client:
                reply = await client.reply()

        assert asked < 30
        assert len(given(reply)) == 41
        await eventually(lambda: web.memory.held == 0)


class Counting(MemoryStore):
    def __init__(self) -> None:
        super().__init__(durable=True)
        self.gets = 0

    def get(self, key: bytes, call: Call = NO_CALL) -> Record | None:
        self.gets += 1
        return MemoryStore.get(self, key, call)


async def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    async with web_tier(limits=ConnectionLimits(reader_stall_s=0.2)) as web:
        for number in range(20):
            web.store.set(b"%d" % number, bytes(1024 * 1024))
        with slow_socket(web.port) as sock:
            await asyncio.get_running_loop().run_in_executor(
                None, sock.sendall, get_of(*(str(number) for number in range(20)))
            )
            await eventually(lambda: web.server.counters.get("aborted") > 0)
            await eventually(lambda: not web.server.tasks)

        assert web.memory.held == 0


async def test_a_reader_that_takes_too_little_is_cut_off() -> None:
    settings = {"body_grace_seconds": 0.2, "body_rate_min": 1 << 30}
    async with web_tier(settings=settings) as web:
        for number in range(20):
            web.store.set(b"%d" % number, bytes(1024 * 1024))
        with slow_socket(web.port) as sock:
            sock.sendall(get_of(*(str(number) for number in range(20))))
            loop = asyncio.get_running_loop()
            while web.server.tasks or not web.server.counters.get("aborted"):
                await loop.run_in_executor(None, sock.recv, 1)  # a byte now and then
                await asyncio.sleep(0.01)

        assert web.memory.held == 0


async def test_a_batch_that_takes_too_long_ends_with_what_to_send_again() -> None:
    async with web_tier(settings={"batch_seconds_max": 0.1}) as web, await web.connect() as client:
        await client.send(put_of(records(("a", b"1"), end=False), "Content-Length: 1000000"))
        await eventually(lambda: web.store.records)
        await asyncio.sleep(0.1)
        await client.send(records(("b", b"1"), end=False))
        reply = await client.reply()

    assert (reply.status, reply.closes) == (408, True)
    assert [(line.get("path"), line.get("error")) for line in given(reply)] in (
        [("a", None), (None, "too_slow")],
        [("a", None), ("b", None), (None, "too_slow")],
    )


async def test_an_answer_that_takes_too_long_ends_with_what_to_ask_for_again() -> None:
    store = SlowStore(held=True)
    async with web_tier(store, settings={"batch_seconds_max": 0.1}) as web, await web.connect() as client:
        await client.send(get_of(*(str(number) for number in range(1000))))
        await eventually(lambda: store.calls)
        await asyncio.sleep(0.1)
        store.gate.set()
        got = given(await client.reply())

    statuses = [line.get("status") for line in got[:-1]]
    assert statuses == [404] * len(store.calls) + [413] * (1000 - len(store.calls))
    assert got[-2]["error"] == "batch_full"


async def test_a_reader_that_leaves_ends_its_batch() -> None:
    store = SlowStore()
    async with web_tier(store) as web:
        for number in range(400):
            await web.put(str(number), bytes(100_000))
        store.calls.clear()
        with slow_socket(web.port) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(get_of(*(str(number) for number in range(400))))
            await eventually(lambda: store.calls)
        await eventually(lambda: not web.server.tasks)

        assert len(store.calls) < 400
        assert web.memory.held == 0


async def test_a_sender_that_falls_silent_is_told_what_was_stored() -> None:
    settings = {"body_grace_seconds": 0.2}
    async with web_tier(settings=settings) as web, await web.connect() as client:
        await client.send(put_of(records(("a", b"1"), end=False), "Content-Length: 1000"))
        reply = await client.reply()

    assert (reply.status, reply.closes) == (408, True)
    assert [(line.get("path"), line.get("error")) for line in given(reply)] == [("a", None), (None, "too_slow")]


async def test_a_sender_that_dribbles_is_told_what_was_stored() -> None:
    limits = ConnectionLimits(body_grace_s=0.2)
    async with web_tier(limits=limits) as web, await web.connect() as client:
        await client.send(put_of(records(("a", b"1"), end=False), "Content-Length: 100000"))
        while not web.answered("batch_put"):
            await client.send(b" ")
            await asyncio.sleep(0.01)
        reply = await client.reply()

    assert reply.status == 408
    assert [line.get("path") for line in given(reply)] == ["a", None]


async def test_waiting_for_the_cluster_is_not_held_against_the_sender() -> None:
    store = SlowStore(held=True)
    limits = ConnectionLimits(body_grace_s=0.1)
    async with web_tier(store, limits=limits) as web, await web.connect() as client:
        body = records(*((f"{number}", bytes(4096)) for number in range(WRITES_MAX + 50)))
        sending = asyncio.create_task(client.send(put_of(body)))
        await eventually(lambda: len(store.calls) == WRITES_MAX)
        await asyncio.sleep(0.5)
        store.gate.set()
        await sending
        reply = await client.reply()

    assert reply.status == 200


async def test_the_body_is_asked_for_only_when_there_is_room() -> None:
    async with web_tier() as web, await web.connect() as client:
        body = records(("a", b"1"))
        head = put_of(body, "Expect: 100-continue")[: -len(body)]
        await client.send(head)
        go_on = await client.reply()
        await client.send(body)
        reply = await client.reply()

    assert (go_on.status, reply.status) == (100, 200)


# --- the end ---


async def test_a_stop_lets_a_batch_finish() -> None:
    store = SlowStore(held=True)
    async with web_tier(store) as web, await web.connect() as client:
        await client.send(put_of(records(("a", b"1"))))
        await eventually(lambda: store.calls)
        closing = asyncio.create_task(web.server.close(5.0))
        await eventually(lambda: web.server.stopping)
        store.gate.set()
        reply = await client.reply()
        client.writer.close()
        await closing

    assert (reply.status, reply.closes) == (200, True)


async def test_a_stop_ends_a_batch_that_takes_too_long_and_says_so() -> None:
    limits = ConnectionLimits(idle_s=0.4)  # how often connections are looked at follows from it
    async with web_tier(limits=limits) as web, await web.connect() as client:
        await client.send(put_of(records(("a", b"1"), end=False), "Content-Length: 100000"))
        await eventually(lambda: web.store.records)
        closing = asyncio.create_task(web.server.close(1.5))
        reply = await client.reply()
        client.writer.close()
        await closing

    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert [(line.get("path"), line.get("error")) for line in given(reply)] == [("a", None), (None, "stopping")]


async def test_a_stop_refuses_files_that_are_not_asked_for_yet() -> None:
    store = SlowStore(held=True)
    async with web_tier(store) as web, await web.connect() as client:
        await client.send(get_of(*(str(number) for number in range(100))))
        await eventually(lambda: store.calls)
        web.server.hurrying = True
        store.gate.set()
        got = given(await client.reply())

    statuses = [line.get("status") for line in got[:-1]]
    assert statuses == [404] * len(store.calls) + [503] * (100 - len(store.calls))
    assert got[-2]["error"] == "stopping"


async def test_a_fault_in_the_middle_of_an_answer_cuts_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async with web_tier() as web:
        for number in range(3):
            await web.put(str(number), bytes(300_000))
        monkeypatch.setattr("sfss.web.batches.records.RecordWriter.end", broken_end)
        async with await web.connect() as client:
            await client.send(get_of("0", "1", "2"))
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.reply()


async def test_what_was_sent_behind_a_request_whose_answer_is_cut_off_is_not_carried_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with web_tier() as web:
        await web.put("0", bytes(300_000))
        monkeypatch.setattr("sfss.web.batches.records.RecordWriter.end", broken_end)
        async with await web.connect() as client:
            await client.send(get_of("0") + request("PUT", "/file?path=behind", body=b"x"))
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.reply()
        behind = await web.get("behind")

    assert behind.status == 404


def broken_end(*_: object) -> bytes:
    raise KeyError("a mistake")


async def test_a_connection_goes_on_after_batches() -> None:
    async with web_tier() as web, await web.connect() as client:
        await client.send(put_of(records(("a", b"1"))) + get_of("a") + request("GET", "/file?path=a"))
        replies = [await client.reply() for _ in range(3)]

    assert [reply.status for reply in replies] == [200, 200, 200]
    assert replies[2].body == b"1"


async def test_http_1_0_gets_its_answer_until_the_connection_ends() -> None:
    async with web_tier() as web, await web.connect() as client:
        await web.put("a", b"1")
        await client.send(b"POST /files:get HTTP/1.0\r\nHost: a\r\nContent-Length: 1\r\n\r\na")
        answer = await asyncio.wait_for(client.reader.read(), 20)

    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body.endswith(b'{"end": true, "files": 1, "failed": 0}\n')


async def test_large_batches_go_through_tls(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    trusting = ssl.create_default_context(cafile=str(cert))
    async with web_tier(tls=lambda: context) as web:  # type: ignore[arg-type]
        body = records(*((f"{number}", bytes([number]) * 500_000) for number in range(20)))
        reader, writer = await asyncio.open_connection("localhost", web.port, ssl=trusting, limit=1 << 23)
        async with RawClient(reader, writer) as client:
            await client.send(put_of(body))
            put = await client.reply()
            await client.send(get_of(*(str(number) for number in range(20))))
            got = given(await client.reply())

    assert put.status == 200
    assert [line["bytes"] for line in got[:-1]] == [bytes([number]) * 500_000 for number in range(20)]


async def test_figures_count_batches_and_their_files() -> None:
    async with web_tier() as web:
        await web.ask(put_of(records(("a", b"1"), ("b//", b"2"))))
        await web.ask(get_of("a", "nowhere"))
        figures = web.counters.figures(0.0)
        answered = web.answered("batch_get"), web.answered("batch_put")

    assert {name: figures[name] for name in figures if name.startswith(("batch", "get_"))} == {
        "batches": "0",
        "batch_files_given": "1",
        "batch_files_stored": "1",
        "batch_files_failed": "2",
        "get_hits": "1",
        "get_misses": "1",
    }
    assert answered == (1, 1)


async def test_files_without_versions_have_digests_for_etags() -> None:
    class Foreign(MemoryStore):
        def get(self, key: bytes, call: Call = NO_CALL) -> Record | None:
            record = MemoryStore.get(self, key, call)
            return record and Record(record.value, record.size)

        def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Written:
            MemoryStore.set(self, key, value, flags, expires, call)
            return Written()

    async with web_tier(Foreign()) as web:
        put = given(await web.ask(put_of(records(("a", b"1")))))
        got = given(await web.ask(get_of("a")))
        single = await web.get("a")

    assert f'"{put[0]["etag"]}"' == f'"{got[0]["etag"]}"' == single.headers["etag"]
    assert "durable" not in put[0]
    assert "modified" not in got[0]
