"""Our own sides, with all defaults."""

from __future__ import annotations

from pathlib import Path

from bench.servers import Server, Servers
from bench.side import DIRECT, FILE, NODE, PROXY, SFSS, Ack, Side

REPLICATED = Ack(2, synced=True, lost_by="the end of two disks at once; a third copy follows")
"""W=2 of N=3. All nodes of a benchmark share one disk, and their copies one machine."""


def node(servers: Servers) -> Side:
    one = servers.node("node-alone")
    directory = servers.scratch / "node-alone"
    return Side(NODE, (one,), Ack(1, synced=True, lost_by="the end of its disk"), directories=(directory,))


def proxy(servers: Servers) -> Side:
    """A proxy over three nodes."""
    nodes = _nodes(servers, "node")
    return Side(PROXY, (servers.proxy("proxy", nodes), *nodes), REPLICATED, directories=_directories(servers, nodes))


def http(servers: Servers) -> Side:
    """All tiers: web, proxy, three nodes."""
    below = proxy(servers)
    web = servers.web([below.servers[0]])
    return Side(SFSS, (web, *below.servers), REPLICATED, path=FILE, directories=below.directories)


def direct(servers: Servers) -> Side:
    """The web tier over three nodes, without proxies, content with one answer to a read."""
    nodes = _nodes(servers, "direct-node")
    web = servers.direct_web(nodes, r=1)
    return Side(DIRECT, (web, *nodes), REPLICATED, path=FILE, directories=_directories(servers, nodes))


def _nodes(servers: Servers, name: str) -> list[Server]:
    return [servers.node(f"{name}-{number}") for number in range(3)]


def _directories(servers: Servers, nodes: list[Server]) -> tuple[Path, ...]:
    return tuple(servers.scratch / node.name for node in nodes)
