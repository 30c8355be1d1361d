"""The three kinds of server that answer memcache clients: over a store in memory, a node's, and a proxy's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from memcache_tier import HOST, serving

from nodes.options import NodeOptions
from nodes.store import NodeStore
from proxy.cluster import ClusterConfig, NodeAddress, open_cluster
from sfss.memcache.server import MemcacheServer
from sfss.memory import MemoryStore

KINDS = ("memory", "node", "proxy")


@asynccontextmanager
async def serving_kind(kind: str, directory: Path, **options: Any) -> AsyncIterator[MemcacheServer]:
    """A server of one of `KINDS`; what it keeps on disk is under `directory`."""
    async with AsyncExitStack() as stack:
        if kind == "node":
            store = await NodeStore.open(directory / "node", replace(NodeOptions(), reserve_bytes=0))
            stack.push_async_callback(store.close)
        elif kind == "proxy":
            store = await _coordinator(stack, directory / "proxy")
        else:
            store = MemoryStore()
        yield await stack.enter_async_context(serving(store, **options))


async def _coordinator(stack: AsyncExitStack, directory: Path) -> Any:
    addresses = []
    for number in range(3):
        node = await stack.enter_async_context(serving(MemoryStore(node=f"n{number}", durable=True)))
        addresses.append(NodeAddress(HOST, node.port))
    cluster = await open_cluster(ClusterConfig(tuple(addresses), partitions=64, state=directory))
    stack.push_async_callback(cluster.close)
    return cluster.coordinator
