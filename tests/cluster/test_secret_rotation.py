"""A cluster is given a secret, another one later, and TLS, while it runs, and nobody outside notices."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.http_client import HttpClient
from tests.cluster.parts import Part
from tests.cluster.standstill import Standstills
from tests.integration.certificates import Authority

OLD, NEW = b"old:thyme\n", b"new:sesame\n"
NOTICED_S_MAX = 30.0


class Visitor:
    """Writes and reads one file after another; keeps what went wrong while the machine worked. `web` is whom it
    visits."""

    def __init__(self, web: Part, standstills: Standstills) -> None:
        self.web = web
        self._standstills = standstills
        self.leaving = False
        self.count = 0
        self.failed: list[str] = []

    async def run(self) -> None:
        while not self.leaving:
            client = HttpClient(*self.web.address)
            self.count += 1
            began = time.monotonic()
            target, body = f"/file?path=file{self.count}", b"%d" % self.count
            written = await client.request("PUT", target, body)
            read = await client.request("GET", target)
            client.close()
            right = (written.status, read.status, read.body) == (200, 200, body)
            worst = max(written.status, read.status)
            if not right and not self._standstills.excuses(worst, began, time.monotonic()):
                self.failed.append(f"{written.status} {written.body[:200]!r} {read.status} {read.body[:200]!r}")
            await asyncio.sleep(0.01)


def misses_one(part: Part) -> bool:
    """Whether a part says that another one, below it, is away."""
    said = part.log.read_text().rpartition("--- started at ")[2]
    return len(re.findall(r" is (down|left out): ", said)) > len(re.findall(r" is (up|back)$", said, re.M))


async def all_used_again(cluster: Cluster) -> None:
    """Wait until those above use the parts again that are back."""
    give_up = time.monotonic() + NOTICED_S_MAX
    while any(misses_one(part) for part in (*cluster.webs, *cluster.proxies)):
        assert time.monotonic() < give_up, cluster.tails()
        await asyncio.sleep(0.05)


async def restart(cluster: Cluster, visitor: Visitor, *tiers: Iterable[Part]) -> None:
    """Start all parts anew, of each tier one at a time."""
    waiting = [list(tier) for tier in tiers]
    while any(waiting):
        parts = [tier.pop() for tier in waiting if tier]
        visitor.web = next(web for web in cluster.webs if web not in parts)
        await asyncio.sleep(0.1)  # until it has left the other one
        await asyncio.gather(*(part.stop() for part in parts))
        await asyncio.gather(*(part.start() for part in parts))
        await cluster.ready()
        await all_used_again(cluster)


def set_in(section: str, conf: Path, *lines: str) -> None:
    """Put settings into a proxy's file."""
    conf.write_text(conf.read_text().replace(f"[{section}]", "\n".join([f"[{section}]", *lines])))


async def answers_in_the_clear(part: Part) -> bool:
    """Whether a part that asks for a password says so to a connection without TLS."""
    reader, writer = await asyncio.open_connection(*part.address)
    writer.write(b"version\r\n")
    said = await reader.read(100)
    writer.close()
    return said.startswith(b"CLIENT_ERROR")


class TurnToTls:
    """What changes in each of the three steps by which a cluster is turned to TLS (docs/operations.rst)."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._files = [cluster.directory / f"{proxy.name}.ini" for proxy in cluster.proxies]
        self._authority = Authority(folder)
        self._pair = self._authority.sign("all")

    def servers_take_both(self) -> None:
        for node in self._cluster.nodes:
            node.command += ["--tlscert", self._pair.certificate, "--tlskey", self._pair.key, "--tls-optional"]
        shown = (f"tlscert = {self._pair.certificate}", f"tlskey = {self._pair.key}", "tlsoptional = yes")
        for conf in self._files:
            set_in("proxy", conf, *shown)

    def clients_speak_it(self) -> None:
        for web in self._cluster.webs:
            web.command += ["--tlsca", self._authority.certificate]
        for conf in self._files:
            set_in("default", conf, f"tlsca = {self._authority.certificate}")

    def servers_take_nothing_else(self) -> None:
        for node in self._cluster.nodes:
            node.command.remove("--tls-optional")
        for conf in self._files:
            conf.write_text(conf.read_text().replace("tlsoptional = yes\n", ""))


async def test_a_secret_is_introduced_and_replaced_and_tls_with_it_and_no_request_fails(
    tmp_path: Path, standstills: Standstills
) -> None:
    secret = tmp_path / "secret"
    soon = {"SFSS_STORAGE_PROXY_RETRY_AFTER_SECONDS": "0.1"}  # proxies are waited for again and again
    cluster = Cluster(tmp_path / "cluster", nodes=3, proxies=2, webs=2, web_settings=soon)
    await cluster.start()
    await cluster.settled()
    visitor = Visitor(cluster.webs[0], standstills)
    visiting = asyncio.create_task(visitor.run())
    try:
        # From above to below: whoever has a secret is served by who asks for none.
        secret.write_bytes(OLD)
        secret.chmod(0o600)
        for part in (*cluster.webs, *cluster.nodes):
            part.command += ["--secret", str(secret)]
        for proxy in cluster.proxies:
            conf = cluster.directory / f"{proxy.name}.ini"
            conf.write_text(conf.read_text().replace("[proxy]", f"secret = {secret}\n[proxy]"))
        for tier in (cluster.webs, cluster.proxies, cluster.nodes):
            await restart(cluster, visitor, tier)

        # The new one is known to all before anybody gives it, and the old one until nobody does. TLS likewise.
        turn = TurnToTls(cluster, tmp_path / "tls")
        for content, step in (
            (OLD + NEW, turn.servers_take_both),
            (NEW + OLD, turn.clients_speak_it),
            (NEW, turn.servers_take_nothing_else),
        ):
            secret.write_bytes(content)
            step()
            await restart(cluster, visitor, cluster.webs, cluster.proxies, cluster.nodes)
        visitor.leaving = True
        await visiting

        assert visitor.failed == []
        assert visitor.count > 50
        for part in (*cluster.nodes, *cluster.proxies):
            assert "was refused" not in part.log.read_text()
            assert not await answers_in_the_clear(part)
    finally:
        visiting.cancel()
        await cluster.close()
