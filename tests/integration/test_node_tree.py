"""The hash tree over the wire: `get @…` of a real node, and what is left of it after a restart, a kill and a loss."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sfss.errors import BadRequest
from sfss.hash_tree import Branch, read_branches, read_listing
from sfss.memcache.client import MemcacheClient
from sfss.store import Record, checksum_of
from tests.cluster.parts import HOST
from tests.integration.node_process import node_command, node_part, running

KEYS = [b"folder/%d" % number for number in range(300)]


def file_of(key: bytes, version: int, tombstone: bool = False) -> Record:
    value = b"" if tombstone else key * 20
    checksum = checksum_of(key, value, 0, 0, version, tombstone)
    return Record(value, len(value), version=version, checksum=checksum, tombstone=tombstone)


async def whole_tree(port: int) -> tuple[list[Branch], dict[bytes, tuple[int, int]]]:
    """The root, and version and checksum of all that is listed."""
    client = MemcacheClient(HOST, port)
    try:
        root = read_branches(await client.hashes(b""))
        found = {}
        for page in range(256):
            for digit, branch in enumerate(read_branches(await client.hashes(b"%02x" % page))):
                if branch.records:
                    leaves = read_branches(await client.hashes(b"%02x%x" % (page, digit)))
                    prefixes = [b"%02x%x%x" % (page, digit, at) for at, leaf in enumerate(leaves) if leaf.records]
                    for text in await asyncio.gather(*map(client.hashes, prefixes)):
                        found.update((each.key, each.order()) for each in read_listing(text)[0])
        return root, found
    finally:
        await client.close()


async def test_a_node_tells_what_it_holds_and_still_does_after_restart_kill_and_rebuild(tmp_path: Path) -> None:
    home = tmp_path / "home"
    part = node_part(tmp_path, home)
    async with running(part):
        client = MemcacheClient(HOST, part.port)
        await asyncio.gather(*(client.apply(key, file_of(key, 5)) for key in KEYS))
        await asyncio.gather(*(client.apply(key, file_of(key, 6, tombstone=True)) for key in KEYS[::10]))
        with pytest.raises(BadRequest):
            await client.hashes(b"X")
        with pytest.raises(BadRequest):
            await client.hashes(b"0" * 17)
        await client.close()
        before = await whole_tree(part.port)
        assert before[1] == {key: file_of(key, 5 + (key in KEYS[::10]), key in KEYS[::10]).order() for key in KEYS}

        part.kill()
        await part.start()
        assert await whole_tree(part.port) == before

        part.process.terminate()
        await part.ended()
        await part.start()
        assert await whole_tree(part.port) == before

        part.process.terminate()
        await part.ended()
        for file in (home / "index").iterdir():
            file.unlink()
        await part.start()
        assert await whole_tree(part.port) == before

        part.process.terminate()
        await part.ended()
        assert node_command("check", home).returncode == 0


async def test_a_set_and_then_a_get_of_its_leaf_on_one_connection_finds_it(tmp_path: Path) -> None:
    part = node_part(tmp_path, tmp_path / "home")
    async with running(part):
        reader, writer = await asyncio.open_connection(HOST, part.port)

        writer.write(b"set a 0 0 1\r\nx\r\nget @\r\nget @e6c6\r\n")

        answer = await asyncio.wait_for(reader.readuntil(b"END\r\n"), 10) + await reader.readuntil(b"END\r\n")
        assert b"VALUE @ 0 " in answer
        assert b"\r\ne/ " in answer
        assert b" 1\r\n" in answer
        assert answer.count(b"\r\na ") == 1
        writer.close()
