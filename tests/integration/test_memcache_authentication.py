"""Whoever connects gives user and password first: what is understood before, what it costs, and how clients do it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from memcache_tier import HOST, client_of, serving
from store_servers import KINDS, serving_kind

from sfss.errors import ConnectionLost, Outcome, Unauthenticated, Unreachable
from sfss.memcache.access import AUTHENTICATION_KEY, Access
from sfss.memcache.client import ClientLimits, Dialect
from sfss.memcache.commands.table import COMMANDS
from sfss.memcache.server import TOLD_MAX, MemcacheServer, ServerLimits
from sfss.memcache.service import WIRE_VERSION
from sfss.memcache.stranger import REFUSALS_MAX
from sfss.memory import MemoryStore
from sfss.secret import Secret
from sfss.store import VALUE_BYTES_MAX

SECRET = Secret([(b"cluster", b"sesame"), (b"old", b"thyme")])
ACCESS = Access(SECRET.words)
RIGHT = b"set @ 0 0 14\r\ncluster sesame\r\n"
WRONG = b"set @ 0 0 14\r\ncluster sesamE\r\n"
UNAUTHENTICATED = b"CLIENT_ERROR unauthenticated\r\n"
FAILURE = b"CLIENT_ERROR authentication failure\r\n"
BAD_FORMAT = b"CLIENT_ERROR bad authentication token format\r\n"
STORED = b"STORED\r\n"
VERSION = b"VERSION " + WIRE_VERSION.encode() + b"\r\n"


@pytest.fixture
async def server() -> AsyncIterator[MemcacheServer]:
    async with serving(secret=SECRET) as server:
        yield server


class Talk:
    """One connection by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, data: bytes, lines: int = 1) -> bytes:
        """Send, and read lines of the answer; fewer where it ends."""
        self.writer.write(data)
        async with asyncio.timeout(20):
            return b"".join([await self.reader.readline() for _ in range(lines)])

    async def rest(self) -> bytes:
        async with asyncio.timeout(20):
            return await self.reader.read()


@asynccontextmanager
async def talk(port: int) -> AsyncIterator[Talk]:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield Talk(reader, writer)
    finally:
        writer.close()


# --- what a stranger is answered -------------------------------------------------------------------------------


def form_of(name: bytes) -> bytes:
    """A line of the command as clients send it, with its block if it has one."""
    words = {
        b"cas": b"cas k 0 0 3 1\r\nabc",
        b"incr": b"incr k 1",
        b"decr": b"decr k 1",
        b"touch": b"touch k 0",
        b"gat": b"gat 0 k",
        b"gats": b"gats 0 k",
        b"ms": b"ms k 3\r\nabc",
        b"verbosity": b"verbosity 1",
    }
    if name in (b"add", b"replace", b"append", b"prepend"):
        return name + b" k 0 0 3\r\nabc"
    return words.get(name, name + b" k")


@pytest.mark.parametrize("name", sorted(name for name in COMMANDS if name != b"set"), ids=bytes.decode)
async def test_no_other_command_is_understood_before_the_password(server: MemcacheServer, name: bytes) -> None:
    async with talk(server.port) as peer:
        assert await peer.say(form_of(name) + b"\r\n") == UNAUTHENTICATED

        # Its block, if it has one, was swallowed.
        assert await peer.say(RIGHT + b"version\r\n", 2) == STORED + VERSION
    assert not server.service.counters.cmd_get
    assert not server.service.counters.cmd_set


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"\r\n", UNAUTHENTICATED),
        (b"xyz\r\n", UNAUTHENTICATED),
        (b"SET @ 0 0 14\r\n", UNAUTHENTICATED),
        (b"set a 0 0\r\n", UNAUTHENTICATED),
        (b"set a 0 0 -1\r\n", UNAUTHENTICATED),
        (b"set a 0 0 x\r\n", UNAUTHENTICATED),
        (WRONG, FAILURE),
        (b"set @ 0 0 14\r\nClUster sesame\r\n", FAILURE),
        (b"set @ 0 0 12\r\nold password\r\n", FAILURE),
        (b"set @ 0 0 12\r\ncluster ses \r\n", FAILURE),
        (b"set @ 0 0 0\r\n\r\n", BAD_FORMAT),
        (b"set @ 0 0 13\r\nclustersesame\r\n", BAD_FORMAT),
        (b"set @ 0 0 8\r\ncluster \r\n", BAD_FORMAT),
        (b"set @ 0 0 3000\r\n" + b"x" * 3000 + b"\r\n", BAD_FORMAT),
    ],
)
async def test_what_is_not_the_password_is_refused_and_may_be_followed_by_it(
    server: MemcacheServer, said: bytes, answer: bytes
) -> None:
    async with talk(server.port) as peer:
        assert await peer.say(said) == answer
        assert await peer.say(b"version\r\n") == UNAUTHENTICATED
        assert await peer.say(RIGHT + b"version\r\n", 2) == STORED + VERSION


@pytest.mark.parametrize(
    "right",
    [
        RIGHT,
        b"set @ 0 0 9\r\nold thyme\r\n",
        b"set a 0 0 14 noreply\r\ncluster sesame\r\n",
        b"set a x y 14\r\ncluster sesame\r\n",
        b"set a 0 0 14 1 2\r\ncluster sesame\r\n",
        b"  set  a 0 0 14\r\ncluster sesame\r\n",
        b"set " + b"k" * 300 + b" 0 0 14\r\ncluster sesame\r\n",
    ],
)
async def test_key_flags_and_exptime_may_be_anything_and_every_line_of_the_secret_counts(
    server: MemcacheServer, right: bytes
) -> None:
    async with talk(server.port) as peer:
        assert await peer.say(right + b"version\r\n", 2) == STORED + VERSION


MEMCACHED = shutil.which("memcached")


@pytest.mark.skipif(MEMCACHED is None, reason="memcached is not installed")
@pytest.mark.parametrize(
    "said",
    [
        b"version\r\n",
        b"quit\r\n",
        b"get a\r\n",
        b"stats\r\n",
        b"\r\n",
        b"set a 0 0 x\r\n",
        WRONG,
        b"set @ 0 0 0\r\n\r\n",
        b"set @ 0 0 13\r\nclustersesame\r\n",
        b"set @ 0 0 3000\r\n" + b"x" * 3000 + b"\r\n",
        b"set a 0 0 14 noreply\r\ncluster sesame\r\n",
        b"set a x y 14\r\ncluster sesame\r\n",
        b"set @ 0 0 15\r\ncluster  sesame\r\n",
        b"set @ 0 0 17\r\ncluster sesame xx\r\n",
        RIGHT,
    ],
)
async def test_memcached_answers_the_same(server: MemcacheServer, tmp_path: Path, said: bytes) -> None:
    async with memcached(tmp_path) as port, talk(port) as theirs, talk(server.port) as ours:
        assert await theirs.say(said) == await ours.say(said)


async def test_the_password_and_what_follows_it_may_come_in_one_piece_or_byte_by_byte(server: MemcacheServer) -> None:
    said = RIGHT + b"set a 0 0 5\r\nvalue\r\nget a\r\n"
    answer = STORED + STORED + b"VALUE a 0 5\r\nvalue\r\nEND\r\n"
    async with talk(server.port) as peer:
        assert await peer.say(said, 5) == answer
    async with talk(server.port) as peer:
        for byte in said:
            peer.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert await peer.say(b"", 5) == answer


async def test_a_set_after_the_password_stores_also_what_looks_like_one(server: MemcacheServer) -> None:
    async with talk(server.port) as peer:
        await peer.say(RIGHT)
        assert await peer.say(b"set k 0 0 14\r\ncluster sesamE\r\nget k\r\n", 4) == (
            b"STORED\r\nVALUE k 0 14\r\ncluster sesamE\r\nEND\r\n"
        )


async def test_a_password_is_never_stored(server: MemcacheServer) -> None:
    store: Any = server.service.store
    async with talk(server.port) as peer:
        await peer.say(b"set k 0 0 14\r\ncluster sesame\r\n")

        assert store.get(b"k") is None


# --- what a stranger costs -------------------------------------------------------------------------------------


async def test_a_large_block_before_the_password_is_swallowed_unbuffered(server: MemcacheServer) -> None:
    async with talk(server.port) as peer:
        peer.writer.write(b"set a 0 0 %d\r\n" % VALUE_BYTES_MAX)
        for _ in range(VALUE_BYTES_MAX // 65536):
            peer.writer.write(bytes(65536))
            await peer.writer.drain()
            assert server.bytes_held == 0
            assert all(stranger._parser.waiting == 0 for stranger in server._strangers)
        assert await peer.say(b"\r\n") == BAD_FORMAT
        assert await peer.say(RIGHT) == STORED


@pytest.mark.parametrize("said", [b"get " + b"k" * 2050, b"x" * 2050, b"get " + b"k " * 30_000])
async def test_a_line_without_an_end_is_refused_and_closed(server: MemcacheServer, said: bytes) -> None:
    async with talk(server.port) as peer:
        assert await peer.say(said) == b"CLIENT_ERROR line too long\r\n"
        assert await peer.rest() == b""


async def test_a_block_that_is_longer_than_it_said_is_closed(server: MemcacheServer) -> None:
    async with talk(server.port) as peer:
        assert await peer.say(b"set @ 0 0 14\r\ncluster sesameXX\r\n") == b"CLIENT_ERROR bad data chunk\r\n"
        assert await peer.rest() == b""


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x80\x00\x00\x00" + bytes(20), b"\x16\x03\x01"]
)
async def test_what_is_no_memcache_client_gets_no_word(server: MemcacheServer, said: bytes) -> None:
    async with talk(server.port) as peer:
        with contextlib.suppress(ConnectionResetError):
            peer.writer.write(said)
            assert await peer.rest() == b""


async def test_guesses_are_counted_and_few(server: MemcacheServer) -> None:
    async with talk(server.port) as peer:
        peer.writer.write(WRONG * 1000 + RIGHT)
        assert await peer.rest() == FAILURE * REFUSALS_MAX

    assert server.service.counters.auth_errors == REFUSALS_MAX
    assert server.service.counters.auth_cmds == REFUSALS_MAX


@pytest.mark.parametrize("half", [b"", b"se", b"set @ 0 0 14\r\n", b"set @ 0 0 14\r\ncluster ses", RIGHT[:-1], WRONG])
async def test_half_an_authentication_is_closed_after_a_while(half: bytes) -> None:
    async with serving(secret=SECRET, limits=ServerLimits(stranger_s=0.2)) as server, talk(server.port) as peer:
        peer.writer.write(half)
        with contextlib.suppress(ConnectionResetError):
            assert await peer.rest() in (b"", FAILURE)
        async with talk(server.port) as other:
            await other.say(RIGHT)
            await asyncio.sleep(0.5)
            assert await other.say(b"version\r\n") == VERSION


async def test_a_crowd_of_strangers_keeps_nobody_out_who_knows_the_password() -> None:
    limits = ServerLimits(connections_max=4, strangers_max=8)
    async with serving(secret=SECRET, limits=limits) as server, contextlib.AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(talk(server.port)) for _ in range(50)]
        for _ in range(4):
            known = await stack.enter_async_context(talk(server.port))
            assert await known.say(RIGHT + b"version\r\n", 2) == STORED + VERSION

        assert len(server._strangers) <= 8
        closed = await asyncio.wait([asyncio.create_task(stranger.rest()) for stranger in crowd], timeout=0.5)
        assert len(closed[0]) >= 42
        for task in closed[1]:
            task.cancel()
        await asyncio.gather(*closed[0], *closed[1], return_exceptions=True)
        async with talk(server.port) as one_more:
            assert await one_more.say(RIGHT, 2) == STORED + b"SERVER_ERROR too many connections\r\n"


async def test_a_stranger_does_not_hold_up_a_stop() -> None:
    async with serving(secret=SECRET) as server, talk(server.port) as peer:
        await peer.say(WRONG)

        await asyncio.wait_for(server.close(grace_s=300.0), 20)

        assert not server._strangers


async def test_figures_and_settings_tell_of_it(server: MemcacheServer) -> None:
    async with client_of(server.port, access=ACCESS) as client, talk(server.port) as peer:
        await peer.say(WRONG)
        figures = await client.stats()
        settings = await client.stats("settings")

    assert (figures["auth_cmds"], figures["auth_errors"]) == ("2", "1")
    assert figures["curr_connections"] == "2"
    assert (settings["auth_enabled_ascii"], settings["ssl_enabled"]) == ("yes", "no")


async def test_who_is_refused_is_told_in_the_log_once_for_each_reason_and_not_what_it_said(
    server: MemcacheServer, caplog: Any
) -> None:
    for said in (WRONG, b"get a\r\n", WRONG, RIGHT, b"set a 0 0 14\r\nno such:one\r\n", b"get a\r\n"):
        async with talk(server.port) as peer:
            await peer.say(said)

    assert caplog.text.count("127.0.0.1 was refused: it gave a wrong user or password") == 1
    assert caplog.text.count("127.0.0.1 was refused: it gave no user and password") == 1
    assert caplog.text.count("was refused") == 2
    assert "sesam" not in caplog.text
    assert "such" not in caplog.text


async def test_the_log_cannot_be_filled_by_being_refused(server: MemcacheServer, caplog: Any) -> None:
    for number in range(3 * TOLD_MAX):
        server.refused(f"10.0.0.{number}", "it gave a wrong user or password")

    assert caplog.text.count("was refused") == TOLD_MAX


# --- once in, every other rule holds ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_server_serves_who_is_let_in(tmp_path: Path, kind: str) -> None:
    async with serving_kind(kind, tmp_path, secret=SECRET) as server, client_of(server.port, access=ACCESS) as client:
        await client.set(b"k", b"value")

        record = await client.get(b"k")
        assert record is not None
        assert record.value == b"value"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"nonsense\r\n\r\n", b"ERROR\r\nERROR\r\n"),
        (b"set " + b"k" * 251 + b" 0 0 1\r\nx\r\n", b"CLIENT_ERROR bad key: "),
        (b"set a 0 0 -1\r\n", b"CLIENT_ERROR bad data chunk\r\n"),
        (b"set a 0 0 70000000\r\n", b"SERVER_ERROR object too large for cache\r\n"),
        (b"set a 0 0 3\r\nabcde\r\n", b"CLIENT_ERROR bad data chunk\r\n"),
        (b"x" * 2050, b"CLIENT_ERROR line too long\r\n"),
        (b"flush_all\r\n", b"CLIENT_ERROR flush_all not allowed\r\n"),
        (b"shutdown\r\n", b"ERROR\r\n"),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"\x80\x00", b""),
        (RIGHT, b"CLIENT_ERROR bad key: "),
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_hostile_input_after_the_password_is_answered_as_without_one(
    server: MemcacheServer, said: bytes, answer: bytes, together: bool
) -> None:
    async with talk(server.port) as peer:
        peer.writer.write(RIGHT)
        if not together:
            assert await peer.say(b"") == STORED
        peer.writer.write(said)
        peer.writer.write_eof()
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            heard = await peer.rest()
        heard = heard.removeprefix(STORED) if together else heard

        assert heard.startswith(answer)
        assert bool(heard) == bool(answer)


# --- clients ---------------------------------------------------------------------------------------------------


async def test_a_client_gives_the_password_once_on_every_connection(server: MemcacheServer) -> None:
    limits = ClientLimits(links=2, bulk_links=2)
    async with client_of(server.port, limits, access=ACCESS) as client:
        for _ in range(50):
            await asyncio.gather(
                *(client.set(b"k%d" % number, b"x") for number in range(20)),
                *(client.set(b"large%d" % number, bytes(100_000)) for number in range(12)),
                *(client.get(b"k%d" % number) for number in range(20)),
            )

        assert client.connections >= 3
        assert server.service.counters.auth_cmds == client.connections


@pytest.mark.parametrize("access", [Access(), Access(b"cluster wrong"), Access(b"nobody sesame")])
@pytest.mark.parametrize("dialect", list(Dialect))
async def test_a_client_without_the_right_password_is_refused_with_nothing_applied(
    server: MemcacheServer, access: Access, dialect: Dialect
) -> None:
    async with client_of(server.port, access=access, dialect=dialect) as client:
        for ask in (lambda: client.set(b"k", b"v"), lambda: client.get(b"k"), client.connect):
            with pytest.raises(Unauthenticated, match="user and password; give") as refused:
                await ask()
            assert refused.value.outcome is Outcome.NOT_APPLIED


async def test_a_client_whose_server_asks_for_a_password_from_now_on_is_refused_not_lost() -> None:
    store = MemoryStore()
    async with serving(store) as before, client_of(before.port) as client:
        await client.set(b"k", b"v")
        port = before.port
        await before.close()
        after = MemcacheServer(store, secret=SECRET)
        await after.start(HOST, port)
        try:
            with pytest.raises((Unauthenticated, ConnectionLost)):
                await client.get(b"k")
            with pytest.raises(Unauthenticated):
                await client.get(b"k")
        finally:
            await after.close()


async def test_a_client_with_a_password_is_served_where_none_is_asked_for_and_says_so_once(caplog: Any) -> None:
    async with serving() as server, client_of(server.port, access=ACCESS) as client:
        await client.set(b"k", b"v")
        await client.set(b"large", bytes(100_000))
        assert (await client.get(b"k")).value == b"v"  # type: ignore[union-attr]

        assert caplog.text.count("lets in whoever comes") == 1
        store: Any = server.service.store
        assert store.get(AUTHENTICATION_KEY) is None


async def test_a_server_that_never_answers_the_password_is_unreachable_in_time() -> None:
    with socket.create_server((HOST, 0)) as deaf:
        port = deaf.getsockname()[1]
        async with client_of(port, ClientLimits(connect_s=0.2), access=ACCESS) as client:
            with pytest.raises(Unreachable, match="no answer to the user and password within"):
                await client.get(b"k")


@asynccontextmanager
async def memcached(tmp_path: Path) -> AsyncIterator[int]:
    """A real one that asks for the same user and password."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    secret = tmp_path / "secret"
    secret.write_bytes(b"cluster:sesame\nold:thyme\n")
    tmp_path.chmod(0o755)
    secret.chmod(0o644)  # it runs as nobody
    process = await asyncio.create_subprocess_exec(
        *(str(MEMCACHED), "-l", HOST, "-p", str(port), "-u", "root", "-U", "0", "-I", "4m", "-Y", str(secret))
    )
    try:
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    _, writer = await asyncio.open_connection(HOST, port)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield port
    finally:
        process.kill()
        await process.wait()


@pytest.mark.skipif(MEMCACHED is None, reason="memcached is not installed")
async def test_memcached_takes_our_clients_password_and_refuses_another(tmp_path: Path) -> None:
    async with memcached(tmp_path) as port:
        async with client_of(port, access=ACCESS, dialect=Dialect.CLASSIC) as client:
            await client.set(b"k", b"v")
            await client.set(b"large", bytes(VALUE_BYTES_MAX))
            assert (await client.get(b"k")).value == b"v"  # type: ignore[union-attr]
            assert await client.get(AUTHENTICATION_KEY) is None
        for access in (Access(), Access(b"cluster wrong")):
            async with client_of(port, access=access, dialect=Dialect.CLASSIC) as stranger:
                with pytest.raises(Unauthenticated):
                    await stranger.get(b"k")


@pytest.mark.skipif(MEMCACHED is None, reason="memcached is not installed")
async def test_a_memcached_that_asks_for_no_password_keeps_nothing_of_it() -> None:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(str(MEMCACHED), "-l", HOST, "-p", str(port), "-u", "nobody", "-U", "0")
    )
    try:
        async with client_of(port, access=ACCESS, dialect=Dialect.CLASSIC) as client:
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(Unreachable):
                        await client.set(b"k", b"v")
                        break
                    await asyncio.sleep(0.05)
            assert await client.get(AUTHENTICATION_KEY) is None
    finally:
        process.kill()
        await process.wait()
