"""Our own sides, with all defaults but where files are to come from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.servers import Server, Servers
from bench.side import DIRECT, FILE, NODE, PROXY, SFSS, Ack, Side

REPLICATED = Ack(2, synced=True, lost_by="the end of two disks at once; a third copy follows")
"""W=2 of N=3. All nodes of a benchmark share one disk, and their copies one machine."""

_NOTHING_KEPT = ("--cache-mib", "0")


def node(servers: Servers) -> Side:
    one = servers.node("node-alone")
    directory = servers.scratch / "node-alone"
    return Side(NODE, (one,), Ack(1, synced=True, lost_by="the end of its disk"), directories=(directory,))


def proxy(servers: Servers, node_options: Sequence[str] = ()) -> Side:
    """A proxy over three nodes."""
    nodes = _nodes(servers, "node", node_options)
    return Side(PROXY, (servers.proxy("proxy", nodes), *nodes), REPLICATED, directories=_directories(servers, nodes))


def http(servers: Servers, node_options: Sequence[str] = ()) -> Side:
    """All tiers: web, proxy, three nodes."""
    below = proxy(servers, node_options)
    web = servers.web([below.servers[0]])
    return Side(SFSS, (web, *below.servers), REPLICATED, path=FILE, directories=below.directories)


def direct(servers: Servers, node_options: Sequence[str] = ()) -> Side:
    """The web tier over three nodes, without proxies, content with one answer to a read."""
    nodes = _nodes(servers, "direct-node", node_options)
    web = servers.direct_web(nodes, r=1)
    return Side(DIRECT, (web, *nodes), REPLICATED, path=FILE, directories=_directories(servers, nodes))


def http_from_disk(servers: Servers) -> Side:
    """The same as `http`, of which the page cache has all that isn't on disk."""
    return http(servers, _NOTHING_KEPT)


def direct_from_disk(servers: Servers) -> Side:
    """The same of `direct`."""
    return direct(servers, _NOTHING_KEPT)


def _nodes(servers: Servers, name: str, options: Sequence[str]) -> list[Server]:
    return [servers.node(f"{name}-{number}", options=options) for number in range(3)]


def _directories(servers: Servers, nodes: list[Server]) -> tuple[Path, ...]:
    return tuple(servers.scratch / node.name for node in nodes)
