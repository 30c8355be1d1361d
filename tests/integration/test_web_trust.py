"""The web tier gives the secret to what it stands on, over TLS if that is asked for."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from memcache_tier import scripted, serving
from test_web_command import ask, free_port, sfss, stopped
from test_web_foreign import memcached
from web_tier import PATIENCE_S, WebTier, eventually, request, web_tier

from sfss.memcache.access import OPEN, Access
from sfss.memory import MemoryStore
from sfss.secret import Secret
from sfss.settings import Address
from sfss.store import VALUE_BYTES_MAX
from sfss.tls import client_tls, server_tls
from sfss.web.foreign import Abilities, speaks_our_flags, try_out
from sfss.web.proxies import ProxyRing
from sfss.web.retry_budget import RetryBudget
from sfss.web.status import ProxiesStatus

SECRET = Secret([(b"cluster", b"sesame")])
ACCESS = Access(SECRET.words)
WRONG = Access(b"cluster wrong")
HOST = "127.0.0.1"


@asynccontextmanager
async def web_over(server: Address, access: Access) -> AsyncIterator[tuple[WebTier, ProxyRing]]:
    ring = ProxyRing((server,), retry_max=1, retry_after_s=0.05, timeout_s=2.0, budget=RetryBudget(0.1), access=access)
    await ring.start()
    try:
        async with web_tier(ring, status=ProxiesStatus((server,), 2.0, ring.notes, access)) as web:
            yield web, ring
    finally:
        await ring.close()


async def figures_of(web: WebTier, server: Address) -> Any:
    return json.loads((await web.ask(request("GET", "/status"))).body)[str(server)]


async def test_files_and_figures_come_from_proxies_that_ask_for_a_password() -> None:
    async with serving(MemoryStore(durable=True), secret=SECRET) as proxy:
        server = Address(HOST, proxy.port)
        async with web_over(server, ACCESS) as (web, ring):
            assert (await web.put("a", b"bytes")).status == 200
            assert (await web.get("a")).body == b"bytes"

            assert (await figures_of(web, server))["state"] == "ok"
            assert not ring.notes  # it isn't taken for a foreign server


async def test_the_same_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    pair = authority.sign("proxy")
    access = Access(SECRET.words, client_tls(authority.certificate))
    async with serving(MemoryStore(), secret=SECRET, tls=server_tls(pair.certificate, pair.key)) as proxy:
        server = Address(HOST, proxy.port)
        async with web_over(server, access) as (web, _):
            large = bytes(VALUE_BYTES_MAX)
            assert (await web.put("a", large)).status == 200
            assert (await web.get("a")).body == large

            assert (await figures_of(web, server))["state"] == "ok"


@pytest.mark.parametrize(("access", "why"), [(OPEN, "asks for a user and password"), (WRONG, "refused our user")])
async def test_a_proxy_that_refuses_us_is_left_out_is_told_once_and_comes_back(
    access: Access, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = Secret([(b"cluster", b"sesame")])
    async with serving(secret=secret) as proxy, web_over(Address(HOST, proxy.port), access) as (web, ring):
        reply = await web.put("a", b"bytes")
        assert reply.status == 504
        assert reply.headers["sfss-outcome"] == "not-applied"
        assert why in reply.body.decode()
        await eventually(lambda: proxy.service.counters.total_connections == 0 and len(caplog.records) >= 2)
        await asyncio.sleep(0.3)
        assert caplog.text.count("is left out: it ") == 1
        assert caplog.text.count("was refused: it gave") == 1

        proxy._secret = None  # as after a restart without one
        await eventually(lambda: ring.up_count == 1)
        assert (await web.put("a", b"bytes")).status == 200


@pytest.mark.parametrize(("access", "why"), [(OPEN, "it asks for a user"), (WRONG, "it refused our user")])
async def test_the_figures_say_why_a_proxy_refuses_us(access: Access, why: str) -> None:
    async with serving(secret=SECRET) as proxy, serving(MemoryStore()) as open_one:
        servers = Address(HOST, proxy.port), Address(HOST, open_one.port)
        figures: Any = await ProxiesStatus(servers, 2.0, {}, access).collect()

    refused, served = (figures[str(server)] for server in servers)
    assert refused["state"] == "dead"
    assert refused["error"].startswith(why)
    assert served["state"] == "ok"


async def test_a_proxy_that_hangs_up_on_the_password_holds_up_nothing() -> None:
    async def hang_up(reader: Any, writer: Any, number: int) -> None:
        await reader.read(10)

    async with scripted(hang_up) as port, serving(MemoryStore()) as well:
        status = ProxiesStatus((Address(HOST, port), Address(HOST, well.port)), 2.0, {}, ACCESS)
        figures: Any = await asyncio.wait_for(status.collect(), PATIENCE_S)

    assert figures[f"{HOST}:{port}"]["state"] == "dead"


@pytest.mark.skipif(shutil.which("memcached") is None, reason="memcached is not installed")
async def test_a_foreign_server_that_asks_for_a_password_gets_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"cluster:sesame\n")
    for folder in (secret, *list(tmp_path.parents)[:3], tmp_path):
        folder.chmod(0o755)  # memcached reads it as nobody
    async with memcached("-I", "4m", "-Y", str(secret)) as server:
        assert await speaks_our_flags(server, 5.0, ACCESS) is False
        assert await try_out(server, ACCESS) == Abilities(overwrite=True, large_values=True, cas=True, ttl=True)
        async with web_over(server, ACCESS) as (web, ring):
            assert (await web.put("a", b"bytes")).status == 200
            assert (await web.get("a")).body == b"bytes"
            assert (await figures_of(web, server))["state"] == "ok"
            await eventually(lambda: ring.notes)
        async with web_over(server, WRONG) as (web, ring):
            assert (await web.get("a")).status == 504
            assert not ring.notes


async def test_the_command_takes_the_secret_from_option_file_and_environment(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"cluster:sesame\n")
    secret.chmod(0o600)
    config = tmp_path / "sfss.toml"
    config.write_text(f'STORAGE_SECRET = "{secret}"\n')
    async with serving(MemoryStore(), secret=SECRET) as proxy:
        proxies = ("--proxies", f"{HOST}:{proxy.port}")
        for options, settings in (
            (("--secret", str(secret)), {}),
            (("--config", str(config)), {}),
            ((), {"SFSS_STORAGE_SECRET": str(secret)}),
        ):
            port = free_port()
            async with sfss("--port", str(port), *proxies, *options, **settings) as process:
                assert (await ask(port, request("PUT", "/file?path=a", body=b"1"))).status == 200
                assert await stopped(process) == 0
        secret.chmod(0o644)
        async with sfss("--port", str(port), *proxies, "--secret", str(secret)) as process:
            assert process.stderr is not None
            said = (await process.stderr.read()).decode()
            assert await process.wait() == 2
        assert said.startswith("sfss: the secret in ")
        assert said.count("\n") == 1
