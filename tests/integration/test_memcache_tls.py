"""TLS between the tiers: who trusts whom, and what a crowd of handshakes costs."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, Pair
from memcache_tier import HOST, client_of, serving

from sfss.errors import SetupError, Unauthenticated, Unreachable
from sfss.memcache.access import Access
from sfss.memcache.client import ClientLimits
from sfss.memcache.server import ServerLimits
from sfss.memcache.service import WIRE_VERSION
from sfss.memory import MemoryStore
from sfss.secret import Secret
from sfss.store import VALUE_BYTES_MAX
from sfss.tls import Tls, client_tls, server_tls

SECRET = Secret([(b"cluster", b"sesame")])
RIGHT = b"set @ 0 0 14\r\ncluster sesame\r\n"
VERSION = b"VERSION " + WIRE_VERSION.encode() + b"\r\n"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "others")


@pytest.fixture(scope="module")
def pair(ours: Authority) -> Pair:
    return ours.sign("node")


@pytest.fixture
def door(pair: Pair) -> Tls:
    """A server that asks for no certificate."""
    return server_tls(pair.certificate, pair.key)


@pytest.fixture
def trust(ours: Authority) -> Tls:
    """A client that shows none."""
    return client_tls(ours.certificate)


async def test_files_of_every_size_and_many_requests_go_through(door: Tls, trust: Tls) -> None:
    access = Access(SECRET.words, trust)
    async with serving(tls=door, secret=SECRET) as server, client_of(server.port, access=access) as client:
        values = {b"k%d" % size: bytes(size) for size in (0, 1, 4096, 70_000, VALUE_BYTES_MAX)}
        await asyncio.gather(*(client.set(key, value) for key, value in values.items()))
        for key, value in list(values.items()) * 3:
            assert (await client.get(key)).value == value  # type: ignore[union-attr]
        await asyncio.gather(*(client.get(b"k4096") for _ in range(2000)))

        assert server.service.counters.auth_cmds == client.connections
        assert (await client.stats("settings"))["ssl_enabled"] == "yes"


async def test_a_password_is_asked_for_inside_tls_too(door: Tls, trust: Tls) -> None:
    async with serving(tls=door, secret=SECRET) as server, client_of(server.port, access=Access(tls=trust)) as client:
        with pytest.raises(Unauthenticated):
            await client.get(b"k")


async def test_a_server_that_our_authority_did_not_sign_is_not_talked_to(door: Tls, others: Authority) -> None:
    access = Access(SECRET.words, client_tls(others.certificate))
    async with serving(tls=door, secret=SECRET) as server, client_of(server.port, access=access) as client:
        for _ in range(3):
            with pytest.raises(Unreachable, match="TLS failed: "):
                await client.set(b"k", b"v")
            await asyncio.sleep(0.06)
        assert server.service.counters.auth_cmds == 0


async def test_a_server_with_a_certificate_for_another_name_is_not_talked_to(ours: Authority) -> None:
    elsewhere = ours.sign("elsewhere", "DNS:elsewhere.example,IP:192.0.2.1")
    access = Access(SECRET.words, client_tls(ours.certificate))
    tls = server_tls(elsewhere.certificate, elsewhere.key)
    async with serving(tls=tls) as server, client_of(server.port, access=access) as client:
        with pytest.raises(Unreachable, match=r"TLS failed: .*127\.0\.0\.1"):
            await client.get(b"k")


async def test_clients_show_a_certificate_where_one_is_asked_for(
    ours: Authority, others: Authority, pair: Pair, trust: Tls, caplog: Any
) -> None:
    mutual = server_tls(pair.certificate, pair.key, ours.certificate)
    known, unknown = ours.sign("proxy"), others.sign("proxy")
    async with serving(tls=mutual) as server:
        shown = Access(tls=client_tls(ours.certificate, known.certificate, known.key))
        async with client_of(server.port, access=shown) as client:
            assert await client.get(b"k") is None
        for refused in (trust, client_tls(ours.certificate, unknown.certificate, unknown.key)):
            async with client_of(server.port, ClientLimits(answer_s=0.5), access=Access(tls=refused)) as client:
                with pytest.raises(Exception, match=r"TLS|closed|reset|no answer"):
                    await client.get(b"k")
        assert server.service.counters.cmd_get == 1
    assert caplog.text.count("127.0.0.1 was refused: TLS failed: ") == 2  # none, and a wrong one


async def test_plain_and_tls_do_not_mix_and_say_so_in_time(door: Tls, trust: Tls) -> None:
    quick = ClientLimits(connect_s=0.5, answer_s=0.5)
    async with serving(tls=door) as server, client_of(server.port, quick) as plain:
        with pytest.raises(Exception, match=r"closed|reset|no answer"):
            await plain.get(b"k")
    async with serving() as server, client_of(server.port, quick, access=Access(tls=trust)) as client:
        with pytest.raises(Unreachable):
            await client.get(b"k")


@pytest.mark.parametrize("secret", [None, SECRET])
async def test_a_server_that_is_to_take_both_takes_both(door: Tls, trust: Tls, secret: Secret | None) -> None:
    words = secret.words if secret else b""
    async with (
        serving(tls=door, plain_too=True, secret=secret) as server,
        client_of(server.port, access=Access(words)) as plain,
        client_of(server.port, access=Access(words, trust)) as encrypted,
    ):
        large = bytes(VALUE_BYTES_MAX)
        await asyncio.gather(plain.set(b"p", large), encrypted.set(b"e", large))
        found = await asyncio.gather(*(client.get(key) for client in (plain, encrypted) for key in (b"p", b"e")))

        assert [record and record.value for record in found] == [large] * 4
        assert (await plain.stats("settings"))["ssl_enabled"] == "optional"
        if secret is not None:
            async with client_of(server.port) as stranger:
                with pytest.raises(Unauthenticated):
                    await stranger.get(b"p")


async def test_a_server_that_takes_both_waits_for_a_first_byte_only_so_long(door: Tls, trust: Tls) -> None:
    limits = ServerLimits(strangers_max=8, stranger_s=0.5)
    async with serving(tls=door, plain_too=True, limits=limits) as server, contextlib.AsyncExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((HOST, server.port))) for _ in range(30)]
        silent.pop().close()
        async with client_of(server.port) as plain, client_of(server.port, access=Access(tls=trust)) as encrypted:
            assert await plain.get(b"k") is None
            assert await encrypted.get(b"k") is None
            assert len(server._strangers) <= 8
            async with asyncio.timeout(20):
                while server._strangers:
                    await asyncio.sleep(0.05)
            assert await plain.get(b"k") is None
        await asyncio.wait_for(server.close(grace_s=300.0), 20)


async def shown_by(port: int, authority: Authority) -> bytes:
    """The certificate that a server shows to a new connection."""
    _, writer = await asyncio.open_connection(HOST, port, ssl=client_tls(authority.certificate)(), server_hostname=HOST)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    assert isinstance(shown, bytes)
    return shown


async def test_a_renewed_certificate_is_shown_to_new_connections_and_the_others_go_on(
    tmp_path: Path, ours: Authority, trust: Tls
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(pair: Pair) -> None:
        shutil.copy(pair.certificate, cert)
        shutil.copy(pair.key, key)

    install(ours.sign("first"))
    async with (
        serving(tls=server_tls(str(cert), str(key))) as server,
        client_of(server.port, access=Access(tls=trust)) as client,
    ):
        await client.set(b"k", b"v")
        await client.get(b"k")
        before, connections = await shown_by(server.port, ours), client.connections

        install(ours.sign("second"))
        async with asyncio.timeout(20):
            while await shown_by(server.port, ours) == before:
                await asyncio.sleep(0.1)

        assert await client.get(b"k") is not None
        assert client.connections == connections


async def test_an_authority_added_to_a_clients_file_is_trusted_without_a_restart(
    tmp_path: Path, ours: Authority, others: Authority, door: Tls
) -> None:
    trusted = tmp_path / "ca.pem"
    shutil.copy(others.certificate, trusted)
    quick = ClientLimits(connect_s=1.0, answer_s=1.0)
    async with (
        serving(tls=door) as server,
        client_of(server.port, quick, access=Access(tls=client_tls(str(trusted)))) as client,
    ):
        with pytest.raises(Unreachable, match="TLS failed"):
            await client.get(b"k")

        with trusted.open("a") as file:
            file.write(Path(ours.certificate).read_text())
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(Unreachable):
                    assert await client.get(b"k") is None
                    break
                await asyncio.sleep(0.1)


async def test_a_peer_may_say_all_at_once_and_hang_up(door: Tls, trust: Tls) -> None:
    async with serving(tls=door, secret=SECRET) as server:
        reader, writer = await asyncio.open_connection(HOST, server.port, ssl=trust(), server_hostname=HOST)
        writer.write(RIGHT + b"version\r\nquit\r\n")

        assert await asyncio.wait_for(reader.read(), 20) == b"STORED\r\n" + VERSION
        writer.close()


async def test_a_refused_request_is_answered_before_the_end(door: Tls, trust: Tls) -> None:
    async with serving(tls=door) as server:
        reader, writer = await asyncio.open_connection(HOST, server.port, ssl=trust(), server_hostname=HOST)
        writer.write(b"set a 0 0 3\r\nabcde\r\n")

        assert await asyncio.wait_for(reader.read(), 20) == b"CLIENT_ERROR bad data chunk\r\n"
        writer.close()


async def test_a_slow_reader_gets_all_it_asked_for_in_bounded_memory(door: Tls, trust: Tls) -> None:
    store = MemoryStore()
    value = bytes(range(256)) * 8000
    store.set(b"large", value)
    async with serving(store, tls=door) as server:
        reader, writer = await asyncio.open_connection(
            HOST, server.port, ssl=trust(), server_hostname=HOST, limit=2**16
        )
        writer.write(b"get " + b"large " * 20 + b"\r\nversion\r\n")
        received, most_held = 0, 0
        last = b""
        while not last.endswith(VERSION):
            piece = await asyncio.wait_for(reader.read(200_000), 20)
            received += len(piece)
            last = (last + piece)[-100:]
            most_held = max(most_held, server.bytes_held)
            await asyncio.sleep(0)

        assert received == 20 * (len(value) + len(b"VALUE large 0 2048000\r\n\r\n")) + len(b"END\r\n" + VERSION)
        assert most_held <= 16 * 1024 * 1024
        writer.close()


async def test_what_a_deaf_reader_leaves_unsent_is_on_the_account_and_in_the_end_it_is_closed(
    door: Tls, trust: Tls
) -> None:
    store = MemoryStore()
    store.set(b"large", bytes(VALUE_BYTES_MAX))
    async with serving(store, tls=door, limits=ServerLimits(reading_s=0.5)) as server:
        _, writer = await asyncio.open_connection(HOST, server.port, ssl=trust(), server_hostname=HOST, limit=2**16)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"get large\r\n" * 8)
        async with asyncio.timeout(20):
            while server.bytes_held < VALUE_BYTES_MAX // 2:
                await asyncio.sleep(0.02)
            while server._connections:
                await asyncio.sleep(0.05)

        assert server.bytes_held == 0
        writer.transport.abort()


async def test_handshakes_that_are_begun_and_left_are_bounded_and_keep_nobody_out(door: Tls, trust: Tls) -> None:
    limits = ServerLimits(strangers_max=8, stranger_s=1.0)
    async with serving(tls=door, limits=limits) as server, contextlib.AsyncExitStack() as stack:
        crowd = [stack.enter_context(socket.create_connection((HOST, server.port))) for _ in range(50)]
        crowd[-1].sendall(b"\x16\x03")
        async with client_of(server.port, access=Access(tls=trust)) as client:
            assert await client.get(b"k") is None
            assert len(server._strangers) <= 8
            async with asyncio.timeout(20):
                while server._strangers:
                    await asyncio.sleep(0.05)
            assert await client.get(b"k") is None


async def test_a_stop_does_not_wait_for_handshakes_or_strangers(door: Tls, trust: Tls) -> None:
    async with serving(tls=door, secret=SECRET) as server:
        with socket.create_connection((HOST, server.port)) as stuck:
            stuck.sendall(b"\x16\x03")
            _, writer = await asyncio.open_connection(HOST, server.port, ssl=trust(), server_hostname=HOST)
            while len(server._strangers) < 2:
                await asyncio.sleep(0.01)

            await asyncio.wait_for(server.close(grace_s=300.0), 20)

            assert not server._strangers
            writer.close()


def test_files_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path, ours: Authority, pair: Pair) -> None:
    (tmp_path / "nonsense").write_text("nonsense")
    nonsense = str(tmp_path / "nonsense")
    for make in (
        lambda: server_tls(nonsense, pair.key),
        lambda: server_tls("/nowhere", pair.key),
        lambda: server_tls(pair.certificate, ours.sign("another").key),
        lambda: server_tls(pair.certificate, pair.key, nonsense),
        lambda: client_tls("/nowhere"),
        lambda: client_tls(ours.certificate, nonsense, nonsense),
    ):
        with pytest.raises(SetupError, match=r"^can't use /") as refused:
            make()
        assert "\n" not in str(refused.value)
