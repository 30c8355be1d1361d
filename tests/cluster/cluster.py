"""A whole cluster of real processes: nodes, proxies and web processes on free ports, with data in a scratch
directory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sfss.ring import PARTITIONS
from sfss.web.proxies import ASK_AGAIN_S_MIN, ASK_S_MAX
from tests.cluster.http_client import HttpClient, NoAnswer, NotSent
from tests.cluster.network import Network
from tests.cluster.parts import HOST, Part, clean_environment, free_ports, python_command
from tests.cluster.workload import Address

LIVE: list[Cluster] = []
"""Clusters that run now; their logs are printed when a test fails."""

PROXY_SECTION = "N = 3\nW = 2\nR = 2\naccesslog =\n"
PROXY_TIMES = "timeout = 2\nnode_timeout = 0.7\n"
WEB_SETTINGS: Mapping[str, str] = {
    "SFSS_STORAGE_PROXY_TIMEOUT_SECONDS": "2.5",
    "SFSS_STORAGE_PROXY_RETRY_AFTER_SECONDS": "0.5",
}
NODE_OPTIONS = ("--volume-mib", "4")
"""Volumes so small that they fill up and are compacted while a test runs."""


def part_names(nodes: int = 5, proxies: int = 2, webs: int = 2) -> list[str]:
    """What the parts of a cluster are called, tier by tier."""
    tiers = {"node": nodes, "proxy": proxies, "web": webs}
    return [f"{tier}-{number}" for tier, count in tiers.items() for number in range(count)]


class Cluster:
    """5 nodes, 2 proxies and 2 web processes, or as told. Use as an async context; all is ended at its end.

    `data` says where a node's directory lies (default: in the scratch directory); `node_ports` are what the proxies
    are told, where a relay stands between. The last `spares` of the nodes run beside the cluster: nobody is told of
    them. With `direct` the web processes coordinate themselves and there are no proxies. These have monitors where
    `monitors` says so; with one a proxy starts in twice the time. `plants` names a fault of `plants.py` by tier:
    `node`, `proxy` or `web`. On a `network` of their own, which knows every part by its name (`part_names`), the parts
    listen there instead of on the loopback interface."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 5,
        spares: int = 0,
        partitions: int = PARTITIONS,
        proxies: int = 2,
        webs: int = 2,
        direct: bool = False,
        data: Mapping[str, Path] | None = None,
        node_ports: Sequence[int] = (),
        node_options: Sequence[str] = NODE_OPTIONS,
        proxy_settings: str = PROXY_TIMES,
        monitors: bool = False,
        web_settings: Mapping[str, str] | None = None,
        plants: Mapping[str, str] | None = None,
        network: Network | None = None,
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        proxies = 0 if direct else proxies
        ports = free_ports(nodes + proxies + webs)
        plants = plants or {}
        env = clean_environment()
        self._data = dict(data or {})
        self._proxy_settings = proxy_settings
        self._monitors = monitors
        self._partitions = partitions
        names = part_names(nodes, proxies, webs)
        self._hosts = {name: network.host(name) if network is not None else HOST for name in names}
        # The network's own address is not loopback, and nobody else is on it.
        open_to_others = ["--insecure"] if network is not None else []
        self.nodes = [
            Part(
                name,
                port,
                [
                    *python_command("nodes.command", plants.get("node", "")),
                    *("-p", str(port), "-H", str(self.data_of(name)), "-l", self._hosts[name]),
                    *(*open_to_others, *node_options),
                ],
                directory,
                env,
                self._hosts[name],
            )
            for name, port in zip(names[:nodes], ports, strict=False)
        ]
        self._node_addresses = [f"{HOST}:{port}" for port in node_ports] or [
            f"{node.host}:{node.port}" for node in self.nodes[: nodes - spares]
        ]
        self.proxies = [
            Part(
                name,
                port,
                [
                    *python_command("proxy.command", plants.get("proxy", "")),
                    *("--conf", str(directory / f"{name}.ini"), *open_to_others),
                ],
                directory,
                env,
                self._hosts[name],
            )
            for name, port in zip(names[nodes:], ports[nodes : nodes + proxies], strict=False)
        ]
        self._web_env = env | WEB_SETTINGS | dict(web_settings or {})
        if direct:
            self._web_env["SFSS_STORAGES"] = ",".join(self._node_addresses)
            self._web_env["SFSS_PARTITIONS"] = str(partitions)
            above = ["--direct"]
        else:
            above = ["--proxies", ",".join(f"{proxy.host}:{proxy.port}" for proxy in self.proxies)]
        self.webs = [
            Part(
                name,
                port,
                [
                    *python_command("sfss.commands.main", plants.get("web", "")),
                    *("--host", self._hosts[name], "--port", str(port), *above),
                ],
                directory,
                self._web_env,
                self._hosts[name],
            )
            for name, port in zip(names[nodes + proxies :], ports[nodes + proxies :], strict=True)
        ]
        if network is not None:
            for part in self.parts:
                part.prefix = network.prefix(part.name)

    @property
    def parts(self) -> list[Part]:
        return [*self.nodes, *self.proxies, *self.webs]

    @property
    def web_addresses(self) -> list[Address]:
        return [web.address for web in self.webs]

    def data_of(self, node: str) -> Path:
        """The data directory of a node, by its name."""
        return self._data.get(node, self.directory) / f"data-{node}"

    async def start(self) -> None:
        """Start all tiers, lowest first, and wait until every web process says that it can serve."""
        LIVE.append(self)
        for number, proxy in enumerate(self.proxies):
            self._configure(number, proxy)
        for tier in (self.nodes, self.proxies, self.webs):
            for part in tier:
                part.launch()
            await asyncio.gather(*(part.serving() for part in tier))
        await self.ready()

    def _configure(self, number: int, proxy: Part) -> None:
        servers = ",".join(self._node_addresses)
        monitor = f"[monitor]\nport = {free_ports(1)[0]}\nproxy = {proxy.host}:{proxy.port}\n" if self._monitors else ""
        (self.directory / f"proxy-{number}.ini").write_text(
            f"[default]\nserver_port = 7900\nservers = {servers}\npartitions = {self._partitions}\n"
            f"[proxy]\nport = {proxy.port}\nstate = {self.directory / f'state-{number}'}\n"
            f"listen = {proxy.host}\n{PROXY_SECTION}{self._proxy_settings}{monitor}"
        )

    async def settled(self) -> None:
        """Wait until writes no longer ask first because two web processes might use two proxies
        (docs/replication.rst)."""
        times = ("TIMEOUT", "RETRY_AFTER")
        own_s = sum(float(self._web_env[f"SFSS_STORAGE_PROXY_{name}_SECONDS"]) for name in times)
        await asyncio.sleep(ASK_AGAIN_S_MIN + ASK_S_MAX + own_s)

    async def ready(self, webs: Iterable[Part] | None = None, seconds: float = 60.0) -> float:
        """Wait until the web processes say that they can serve and store a file; returns the seconds it took."""
        began = time.monotonic()
        for web in webs if webs is not None else self.webs:
            client = HttpClient(*web.address)
            while True:
                try:
                    ready = await client.request("GET", "/readyz", seconds=5)
                    if ready.status == 200:
                        written = await client.request("PUT", f"/file?path=ready-{web.name}", b"x", seconds=12)
                        if written.status == 200:
                            break
                    reason = f"{ready.status} {ready.body[:200]!r}"
                except (NoAnswer, NotSent) as error:
                    reason = str(error)
                if time.monotonic() - began > seconds:
                    raise AssertionError(f"{web.name} is not ready after {seconds} s: {reason}\n{self.tails()}")
                await asyncio.sleep(0.1)
            client.close()
        return time.monotonic() - began

    async def heal(self) -> None:
        """Wake what is paused, start what is down, and wait until everything serves."""
        for tier in (self.nodes, self.proxies, self.webs):
            for part in tier:
                if part.running:
                    part.resume()
                else:
                    part.launch()
            # Those that were launched before, too: they may not listen yet.
            await asyncio.gather(*(part.serving() for part in tier))
        await self.ready()

    async def close(self) -> None:
        """End everything: politely from the top down, then by force."""
        for part in self.parts:
            if part.running:
                part.resume()
        for tier in (self.webs, self.proxies, self.nodes):
            for part in tier:
                if part.running:
                    part.process.terminate()
            for part in tier:
                try:
                    if part.running:
                        await part.ended()
                except AssertionError:
                    part.kill()
        if self in LIVE:
            LIVE.remove(self)

    def kill(self) -> None:
        """End everything at once, by force."""
        for part in self.parts:
            part.kill()
        if self in LIVE:
            LIVE.remove(self)

    def tails(self, count: int = 15) -> str:
        """The last lines of every part's log."""
        return "\n".join(
            f"=== {part.name} ({'running' if part.running else 'not running'})\n{part.tail(count)}"
            for part in self.parts
        )

    async def __aenter__(self) -> Cluster:
        try:
            await self.start()
        except BaseException:
            self.kill()
            raise
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        # After a failure nothing has to be polite.
        if kind is None:
            await self.close()
        else:
            print(self.tails())
            self.kill()


@contextmanager
def shared(directory: Path, **options: Any) -> Generator[Cluster]:
    """A cluster that several tests use one after the other, each with an event loop of its own."""
    cluster = Cluster(directory, **options)
    try:
        asyncio.run(cluster.start())
        yield cluster
        asyncio.run(cluster.close())
    finally:
        cluster.kill()
