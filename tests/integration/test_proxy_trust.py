"""A coordinator over nodes that ask for a password: one that refuses it is broken, never empty."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from memcache_tier import HOST, serving

from proxy.cluster import Cluster, ClusterConfig, NodeAddress, open_cluster
from sfss.errors import SetupError, Unavailable
from sfss.memcache.access import OPEN, Access
from sfss.memcache.server import MemcacheServer
from sfss.memory import MemoryStore
from sfss.secret import Secret
from sfss.store import settled

OURS, THEIRS = Secret([(b"cluster", b"sesame")]), Secret([(b"cluster", b"thyme")])
ACCESS = Access(OURS.words)


@contextlib.asynccontextmanager
async def nodes_with(secrets: Sequence[Secret | None]) -> AsyncIterator[list[MemcacheServer]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(serving(MemoryStore(node=f"n{index}", durable=True), secret=secret))
            for index, secret in enumerate(secrets)
        ]


@contextlib.asynccontextmanager
async def opened(
    nodes: Sequence[MemcacheServer], access: Access, state: Path, founding_s: float = 10.0
) -> AsyncIterator[Cluster]:
    addresses = tuple(NodeAddress(HOST, node.port) for node in nodes)
    config = ClusterConfig(addresses, partitions=64, access=access, state=state, founding_s=founding_s)
    cluster = await open_cluster(config)
    try:
        yield cluster
    finally:
        await cluster.close()


async def test_a_node_with_another_secret_is_down_for_a_reason_and_the_others_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with nodes_with([OURS, OURS, OURS]) as nodes:
        async with opened(nodes, ACCESS, tmp_path) as founding:
            await settled(founding.coordinator.set(b"k", b"before"))

        nodes[0]._secret = THEIRS
        async with opened(nodes, ACCESS, tmp_path) as cluster:
            await settled(cluster.coordinator.set(b"k", b"after"))
            record = await settled(cluster.coordinator.get(b"k"))
            assert record is not None
            assert record.value == b"after"

            figures = await settled(cluster.coordinator.stats("storages"))
            name = f"{HOST}:{nodes[0].port}"
            assert figures[f"{name}/state"] == "dead"
            assert "it refused our user and password; give both sides the same secret" in figures[f"{name}/error"]
    assert caplog.text.count(f"node {name} is down: it refused our user and password") == 1
    assert caplog.text.count("was refused: it gave a wrong user or password") == 1


async def test_where_too_few_let_us_in_nothing_is_absent_and_nothing_is_acknowledged(tmp_path: Path) -> None:
    async with nodes_with([OURS, OURS, OURS]) as nodes:
        async with opened(nodes, ACCESS, tmp_path):
            pass
        for node in nodes[:2]:
            node._secret = THEIRS
        async with opened(nodes, ACCESS, tmp_path) as cluster:
            with pytest.raises(Unavailable):
                await settled(cluster.coordinator.get(b"k"))
            with pytest.raises(Unavailable):
                await settled(cluster.coordinator.set(b"k", b"value"))


@pytest.mark.parametrize("access", [OPEN, Access(THEIRS.words)])
async def test_a_cluster_is_not_founded_with_nodes_that_do_not_let_us_in(access: Access, tmp_path: Path) -> None:
    async with nodes_with([OURS, OURS, OURS]) as nodes:
        with pytest.raises(SetupError, match=r"0 of 3 nodes answer.*user and password; give"):
            async with opened(nodes, access, tmp_path, founding_s=0.3):
                pass
