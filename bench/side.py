"""Side: one of those that are measured, with all that it takes to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.servers import Server
from bench.usage import disk_bytes, processor_s, resident_kib

SFSS = "sfss"
DIRECT = "sfss --direct, R=1"
NODE = "sfss-node"
PROXY = "sfss-proxy"
NGINX = "nginx"
MEMCACHED = "memcached -t 1"
AIOHTTP = "aiohttp + memcached"
FLASK = "Flask + PostgreSQL"
FASTAPI = "FastAPI + files"
"""Names of the sides."""

ONE_BY_ONE = "sfss, one by one"
IN_BATCHES = "sfss, in batches"
"""The same side, asked in two ways."""

FILE = "/file?path=bench/"
"""Request target of a file up to its number, of sfss and of all handlers."""


@dataclass(frozen=True)
class Ack:
    """What it is worth that a write was answered: `copies` on different processes' disks, and what loses it."""

    copies: int
    synced: bool
    lost_by: str


@dataclass(frozen=True)
class Side:
    """`servers` are all processes that a request needs; the first is the one that is asked.

    `path` is what comes before a file's number in the request target of HTTP, and None for memcache's protocol.
    `directories` are where files lie, none for those who keep them in memory.
    """

    name: str
    servers: tuple[Server, ...]
    ack: Ack
    path: str | None = None
    directories: tuple[Path, ...] = ()

    @property
    def address(self) -> str:
        return self.servers[0].address

    @property
    def port(self) -> int:
        return self.servers[0].port

    def pids(self) -> list[int]:
        return [pid for server in self.servers for pid in server.pids()]

    def processor_s(self) -> float:
        return processor_s(self.pids())

    def resident_mib(self) -> float:
        return resident_kib(self.pids()) / 1024

    def disk_bytes(self) -> int:
        return disk_bytes(self.directories)
