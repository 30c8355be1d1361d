"""A node whose process is ended from within C code: once, and not again at each start."""

from __future__ import annotations

import json
import signal
import struct
from pathlib import Path

import pytest

from nodes.index import Index
from tests.cluster.parts import Part
from tests.integration.node_process import NodeClient, node_command, node_part, running, value_of

pytestmark = pytest.mark.slow

FILES = 50
PAGE_BYTES = 4096
TXNID_AT = 144
FREE_FLAGS_AT = 44


async def filled(node: Part) -> NodeClient:
    """Start a node, fill it and stop it."""
    client = NodeClient(node.port)
    async with running(node), client:
        for number in range(FILES):
            await client.set(f"k{number}", value_of(number, 1000))
        assert await node.stop() == 0
    return client


def newest_meta_page(data: bytes) -> int:
    """Where the meta page begins that LMDB goes by."""
    txnids = [struct.unpack_from("<Q", data, page * PAGE_BYTES + TXNID_AT)[0] for page in (0, 1)]
    return txnids.index(max(txnids)) * PAGE_BYTES


def rot_meta_page(index: Path) -> None:
    """Make LMDB believe that its list of free pages has another kind of keys; it asserts what it finds at a commit."""
    node = json.loads((index.parent / "identity").read_text().splitlines()[1])["node"]
    opened = Index.open(index, node)
    for _ in range(6):  # so that there are free pages
        opened.commit({}, opened.covered(), {}, False)
    opened.close()
    data = bytearray((index / "data.mdb").read_bytes())
    data[newest_meta_page(data) + FREE_FLAGS_AT] ^= 1 << 2
    (index / "data.mdb").write_bytes(data)


async def test_a_meta_page_that_lmdb_aborts_over_ends_the_node_once_at_most(tmp_path: Path) -> None:
    node = node_part(tmp_path, tmp_path / "home")
    client = await filled(node)
    rot_meta_page(tmp_path / "home" / "index")

    ended = []
    while len(ended) < 3 and 0 not in ended:
        async with running(node), client.taken_over(node.port) as again:
            await again.set("new", b"x")
            await again.check_all()
            ended.append(await node.stop())
        client = again
    print(f"ended by {ended}")

    assert ended in ([0], [-signal.SIGABRT, 0])
    assert node_command("check", tmp_path / "home").returncode == 0


async def test_a_start_after_a_crash_rebuilds_the_index_and_the_one_after_that_does_not(tmp_path: Path) -> None:
    node = node_part(tmp_path, tmp_path / "home")
    client = await filled(node)
    async with running(node):
        node.signal(signal.SIGBUS)
        assert await node.ended() == -signal.SIGBUS

    assert node_command("check", tmp_path / "home").returncode == 0
    replayed = []
    for _ in range(2):
        async with running(node), client.taken_over(node.port) as again:
            await again.check_all()
            replayed.append(int((await again.stats())["replayed_records"]))
            assert await node.stop() == 0
    assert replayed == [FILES, 0]


async def test_a_kill_is_no_crash(tmp_path: Path) -> None:
    node = node_part(tmp_path, tmp_path / "home")
    client = await filled(node)
    async with running(node):
        node.kill()

    async with running(node), client.taken_over(node.port) as again:
        await again.check_all()
        assert (await again.stats())["replayed_records"] == "0"
