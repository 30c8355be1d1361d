"""simple_client.py with many files: folders into the store and back, again and again, against the real web tier."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from test_simple_client_real_web import CLIENT, run
from web_tier import SlowStore, web_tier

from sfss.errors import Busy, Outcome, QuorumUnavailable, SfssError
from sfss.memory import MemoryStore
from sfss.store import NO_CALL, Call

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-sfss-files\r\n"


@pytest.fixture(scope="module")
def client() -> ModuleType:
    """The client as a module."""
    spec = importlib.util.spec_from_file_location("simple_client_many", CLIENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def grow(folder: Path, count: int) -> Path:
    (folder / "ü").mkdir(parents=True)
    for number in range(count):
        (folder / "ü" / f"{number} a").write_bytes(b"%d " % number * 100)
    (folder / "empty").write_bytes(b"")
    (folder / "large").write_bytes(bytes(2 * 1024 * 1024))
    return folder


async def test_a_folder_goes_in_and_comes_back_the_same(tmp_path: Path) -> None:
    there = grow(tmp_path / "there", 1500)
    manifest, back = tmp_path / "manifest", tmp_path / "back"
    async with web_tier() as web:
        put = await run("put", "-r", there, "some/prefix", "--port", web.port, "--manifest", manifest, "--batch", 400)
        got = await run("get", "-r", manifest, back, "--port", web.port)
        again = await run("put", "-r", there, "some/prefix", "--port", web.port, "--manifest", manifest)
        skipped = await run("get", "-r", manifest, back, "--skip-existing", "--port", web.port)

    assert (put[0], put[2]) == (0, "")
    assert put[1].startswith("stored 1,502 files, ")
    assert (got[0], got[2]) == (0, "")
    assert tree(back / "some" / "prefix") == tree(there)
    assert "stored 0 files" in again[1]
    assert "1,502 skipped" in again[1]
    assert "1,502 skipped" in skipped[1]


async def test_a_manifest_in_the_folder_itself_is_no_file_of_it(tmp_path: Path) -> None:
    there = grow(tmp_path / "there", 3)
    async with web_tier() as web:
        first = await run("put", "-r", there, "--port", web.port, "--manifest", there / "manifest")
        again = await run("put", "-r", there, "--port", web.port, "--manifest", there / "manifest")
        sent = (await web.get("manifest")).status

    assert "stored 5 files" in first[1]
    assert "stored 0 files" in again[1]
    assert sent == 404


async def test_a_file_that_was_changed_is_sent_again_and_a_torn_manifest_is_gone_on_with(tmp_path: Path) -> None:
    there = grow(tmp_path / "there", 3)
    manifest = tmp_path / "manifest"
    async with web_tier() as web:
        await run("put", "-r", there, "--port", web.port, "--manifest", manifest)
        text = manifest.read_bytes()
        manifest.write_bytes(text[: len(text) - 5])
        (there / "empty").write_bytes(b"no more")
        again = await run("put", "-r", there, "--port", web.port, "--manifest", manifest)
        more = await run("put", "-r", there, "--port", web.port, "--manifest", manifest)

        assert "stored 2 files" in again[1]
        assert "stored 0 files" in more[1]
        assert (await web.get("empty")).body == b"no more"


async def test_each_failed_file_has_its_line_and_the_others_go_on(tmp_path: Path) -> None:
    there = grow(tmp_path / "there", 3)
    (there / "too large").write_bytes(bytes(2 * 1024 * 1024 + 1))
    (there / ("x" * 200)).mkdir()
    (there / ("x" * 200) / ("y" * 100)).write_bytes(b"1")
    (there / "dangling").symlink_to("nowhere")
    os.mkfifo(there / "pipe")
    listed = tmp_path / "list"
    listed.write_text("empty\nnowhere\n/etc/passwd\nlarge\tsomething else\n")
    async with web_tier() as web:
        put = await run("put", "-r", there, "--port", web.port)
        got = await run("get", "-r", listed, tmp_path / "back", "--port", web.port)
        listed.write_text("empty\nnowhere\n")
        missing = await run("get", "-r", listed, tmp_path / "back", "--port", web.port)

    assert put[0] == 1
    lines = sorted(line.removeprefix("simple_client.py: ").split(":")[0] for line in put[2].splitlines())
    assert lines == sorted(["dangling", "pipe", "too large", "x" * 200 + "/" + "y" * 100])
    assert put[1].startswith("stored 5 files")
    assert got[0] == 1
    assert "nowhere: 404 not_found: there is no file nowhere" in got[2]
    assert "/etc/passwd: 400 bad_request" in got[2]
    assert sorted(tree(tmp_path / "back")) == ["empty", "large"]
    assert missing[0] == 4


class Moody(MemoryStore):
    """Fails the first writes of each key, in ways that pass."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.moods: dict[bytes, list[SfssError]] = {}

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Any:
        moods = self.moods.setdefault(
            key, [Busy("in a moment"), QuorumUnavailable("1 of 2 replicas answered", Outcome.UNKNOWN)]
        )
        if moods:
            raise moods.pop()
        return MemoryStore.set(self, key, value, flags, expires, call)


async def test_what_fails_for_a_passing_reason_is_sent_again(tmp_path: Path) -> None:
    there = grow(tmp_path / "there", 20)
    async with web_tier(Moody()) as web:
        put = await run("put", "-r", there, "--port", web.port, "--connections", "1")

    assert (put[0], put[2]) == (0, "")
    assert put[1].startswith("stored 22 files")


async def test_a_server_that_is_away_is_told_in_one_line(tmp_path: Path) -> None:
    there = grow(tmp_path / "there", 3)
    async with web_tier() as web:
        port = web.port

    status, _, err = await run("put", "-r", there, "--port", port)

    assert status == 3
    assert len(err.splitlines()) == 1
    assert "nothing listens on" in err


def test_wrong_usage_is_refused(client: ModuleType, tmp_path: Path) -> None:
    for arguments in (
        ("put", "-r", str(tmp_path), "--path", "a"),
        ("put", "a"),
        ("put", "--path", "a"),
        ("get", "-r", str(CLIENT)),
        ("get", "--path", "a", "b"),
        ("get",),
        ("bench", "--batch", "100", "--keys", "100"),
        ("bench", "--batch", "10", "--rate", "5", "--keys", "1000"),
    ):
        result = CliRunner().invoke(client.main, arguments)

        assert result.exit_code == 2, arguments
        assert "Usage" in result.output


def test_no_path_leads_out_of_the_folder(client: ModuleType, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = client.Folder(str(tmp_path / "in"))
    (tmp_path / "in" / "link").symlink_to(outside)
    (tmp_path / "in" / "own").symlink_to(outside / "target")

    for path in ("../a", "/etc/a", "a/../../b", "", "a//b", "./a", "a/", "..", "a\0b", "link/a"):
        with pytest.raises((OSError, ValueError)):
            folder.write(path, b"1")
    folder.write("own", b"2")
    folder.write("a\\b/c", b"3")

    assert list(outside.iterdir()) == []
    assert not (tmp_path / "in" / "own").is_symlink()
    assert sorted(tree(tmp_path / "in")) == ["a\\b/c", "own"]


def test_what_a_run_that_was_killed_left_is_in_nobodys_way(client: ModuleType, tmp_path: Path) -> None:
    left = tmp_path / f".sfss-{os.getpid()}-0.part"
    left.write_bytes(b"left")

    client.Folder(str(tmp_path)).write("a", b"1")

    assert tree(tmp_path) == {"a": b"1", left.name: b"left"}


async def test_a_server_that_answers_other_paths_is_not_believed(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # the client first looks whether anybody listens
            await reader.readuntil(b"\r\n\r\n")
        body = b'{"path": "../../evil", "status": 200, "size": 1}\n1\n{"end": true}\n'
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    listed = tmp_path / "list"
    listed.write_text("good\n")
    port = server.sockets[0].getsockname()[1]
    status, _, err = await run("get", "-r", listed, tmp_path / "in" / "back", "--port", port)
    server.close()

    assert status == 1
    assert "evil" in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["back", "in", "list"]


async def test_an_answer_that_nobody_understands_is_no_success(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # the client first looks whether anybody listens
            await reader.readuntil(b"\r\n\r\n")
        body = b'["what is this?"]\n'
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    listed = tmp_path / "list"
    listed.write_text("good\n")
    status, _, err = await run("get", "-r", listed, tmp_path / "back", "--port", server.sockets[0].getsockname()[1])
    server.close()

    assert status == 1
    assert "can't be understood" in err
    assert err.count("\n") == 1


def test_a_folder_that_can_not_be_read_is_told(
    client: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(tmp_path / "there", 2)
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("ü"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    items = list(client.files_below(str(tmp_path / "there"), "some/prefix"))

    assert [item.path for item in items] == ["some/prefix/empty", "some/prefix/large", "some/prefix/ü"]
    assert items[-1].told["message"] == "can't be read: Permission denied"


async def test_a_path_that_no_line_has_room_for_spoils_only_itself(tmp_path: Path) -> None:
    there = tmp_path / "there"
    deep = there.joinpath(*["ü" * 120] * 7)
    deep.mkdir(parents=True)
    (deep / "a").write_bytes(b"1")
    (there / "b").write_bytes(b"2")
    async with web_tier() as web:
        status, out, err = await run("put", "-r", there, "--port", web.port)

    assert status == 1
    assert out.startswith("stored 1 file, ")
    assert "its path is too long" in err


async def test_an_answer_cut_short_is_asked_for_again(tmp_path: Path) -> None:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:  # the client first looks whether anybody listens
            return writer.close()
        asked += 1
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        paths = (await reader.readexactly(length)).decode().split("\n")
        records = [b'{"path": "%b", "status": 200, "size": 1}\n1\n' % path.encode() for path in paths]
        body = b"".join(records) + b'{"end": true}\n'
        body = body if asked == 3 else body[: len(body) // 2]
        end = b"0\r\n\r\n" if asked != 1 else b""
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n%b" % (len(body), body, end))
        await writer.drain()
        return writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    listed = tmp_path / "list"
    listed.write_text("".join(f"{number}\n" for number in range(8)))
    port = server.sockets[0].getsockname()[1]
    status, out, err = await run("get", "-r", listed, tmp_path / "back", "--port", port)
    server.close()

    assert (status, err) == (0, "")
    assert out.startswith("wrote 8 files")
    assert len(tree(tmp_path / "back")) == 8


async def test_bench_in_batches_verifies_every_byte() -> None:
    async with web_tier(SlowStore()) as web:
        status, out, _ = await run(
            *("bench", "--port", web.port, "--batch", "50", "--keys", "300", "--concurrency", "3"),
            *("--requests", "3000", "--sizes", "4k:9,100k:1", "--reads", "0.5", "--json"),
        )
        left = len([record for record in web.store.records.values() if not record.tombstone])

    figures = json.loads(out)
    assert status == 0
    assert figures["errors"] == {}
    assert figures["total"]["count"] == 3000
    assert figures["settings"]["batch"] == 50
    assert figures["wrong_reads"] == 0
    assert left == 0
