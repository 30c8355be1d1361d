"""`sfss ring apply`, `show` and `abort` on real nodes: files go where they belong, stay there over a restart, and what
can't be done is refused in one line. Nobody coordinates here; tests/cluster/test_ring_change.py has whole clusters.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from proxy.quorum import Quorum
from sfss.backup.tree import Trees
from sfss.backup.wire_node import WireNodes
from sfss.errors import CorruptRecord
from sfss.hash_tree import LEAF_DIGITS
from sfss.keys import hash_key
from sfss.memcache.client import MemcacheClient
from sfss.ring import Member, NodeRing
from sfss.ring_record import RingRecord
from sfss.store import Record
from tests.cluster.command import COMMAND_S_MAX, begin, sfss
from tests.cluster.parts import Part
from tests.integration.node_process import node_part, running
from tests.unit.ring_lab import record_of

PARTITIONS = 256
FILES = {
    key: record_of(key, 5, tombstone=number % 7 == 0) for number, key in enumerate(b"f/%d" % n for n in range(200))
}


class RealNodes:
    """Node processes, of which the first `bound` are a cluster. Names are those of the ring."""

    def __init__(self, folder: Path, parts: list[Part]) -> None:
        self.parts = {f"localhost:{part.port}": part for part in parts}
        self.names = list(self.parts)
        self.conf = folder / "proxy.ini"
        self.cluster = ""

    def client(self, name: str) -> MemcacheClient:
        return MemcacheClient(*self.parts[name].address)

    async def found(self, names: list[str]) -> None:
        quorum = Quorum.over(len(names))
        ring = NodeRing([Member(name) for name in names], quorum.n, partitions=PARTITIONS)
        for name in names:
            bound = await self.client(name).bind(self.cluster or "new", 1, ring.fingerprint)
            self.cluster = bound.cluster
        self.conf.write_text(f"[default]\nservers = {','.join(names)}\npartitions = {PARTITIONS}\n")
        for key, record in FILES.items():
            for index in ring.owners(key)[: quorum.w]:
                await self.client(ring.members[index].name).apply(key, record)

    async def ring(self, name: str) -> RingRecord | None:
        return (await self.client(name).tell_ring()).record

    async def held(self, name: str) -> dict[bytes, Record]:
        client = self.client(name)
        try:
            answers = await asyncio.gather(*(client.inspect(key) for key in FILES))
            return {key: held for key, held in zip(FILES, answers, strict=True) if held is not None}
        finally:
            await client.close()

    async def check(self, members: Iterable[str]) -> None:
        """Each file is on W of its owners and on nobody else."""
        record = await self.ring(next(iter(members)))
        assert record is not None
        assert not record.joint
        [placement] = record.placements
        assert {member.name for member in placement.members} == {*members}
        ring = placement.node_ring(record.number, record.partitions)
        held = {name: await self.held(name) for name in self.names}
        for key, wanted in FILES.items():
            owners = {ring.members[index].name for index in ring.owners(key)}
            holders = {name for name in self.names if key in held[name]}
            assert holders <= owners, key
            assert len(holders) >= placement.w, key
            assert all(held[name][key].order() == wanted.order() for name in holders)

    async def run(self, verb: str, *words: object) -> tuple[int, str, str]:
        return await sfss("ring", verb, "--conf", self.conf, *words)

    async def apply(self, *words: object) -> None:
        status, out, error = await self.run("apply", *words, "--despite-warnings")
        assert (status, error, out.splitlines()[-1]) == (0, "", "done"), out


class Onlooker:
    """A backup that goes on while rings change, and was told of the first ones only."""

    def __init__(self, names: Sequence[str], w: int) -> None:
        self.nodes = WireNodes()
        self._trees = Trees(self.nodes, [self.nodes.node_at(name) for name in names], w, w)

    async def sees_all(self) -> bool:
        for key, wanted in FILES.items():
            listed = await self._trees.records(f"{hash_key(key):016x}"[:LEAF_DIGITS])
            if listed is None or listed[key].record.order() != wanted.order() or not listed[key].proven:
                return False
        return True


@asynccontextmanager
async def real_nodes(folder: Path, bound: int, spare: int) -> AsyncIterator[RealNodes]:
    async with AsyncExitStack() as stack:
        parts = []
        for number in range(bound + spare):
            home = folder / f"{number}"
            home.mkdir()
            parts.append(await stack.enter_async_context(running(node_part(home, home / "data"))))
        nodes = RealNodes(folder, parts)
        await nodes.found(nodes.names[:bound])
        yield nodes


async def test_files_follow_one_change_after_the_other_and_stay_gone_where_they_were_over_a_restart(
    tmp_path: Path,
) -> None:
    async with real_nodes(tmp_path, 3, 2) as nodes:
        a, b, c, d, e = nodes.names
        backup = Onlooker([a, b, c], 2)

        assert await backup.sees_all()
        await nodes.apply("--add", d)
        await nodes.check([a, b, c, d])
        await nodes.apply("--replace", f"{a}={e}", "--remove", b)
        await nodes.check([c, d, e])
        assert await backup.sees_all()
        await backup.nodes.close()
        for part in nodes.parts.values():
            part.kill()
            await part.start()

        await nodes.check([c, d, e])
        status, out, _ = await nodes.run("show", "--json")
        shown = json.loads(out)
        assert (status, shown["number"], shown["joint"]) == (0, 5, False)
        assert {node["ring"] for node in shown["nodes"].values()} == {5}


async def test_one_node_grows_to_three(tmp_path: Path) -> None:
    async with real_nodes(tmp_path, 1, 2) as nodes:
        backup = Onlooker(nodes.names[:1], 1)
        await nodes.apply("--add", nodes.names[1], "--add", nodes.names[2])

        await nodes.check(nodes.names)
        assert await backup.sees_all()
        await backup.nodes.close()


async def test_a_file_whose_only_copy_is_damaged_is_named_and_never_becomes_one_that_is_not_there(
    tmp_path: Path,
) -> None:
    async with real_nodes(tmp_path, 1, 2) as nodes:
        [only, *others] = nodes.names
        key = b"f/13"
        for volume in (tmp_path / "0" / "data" / "volumes").iterdir():
            content = volume.read_bytes()
            with volume.open("r+b") as file:
                file.seek(content.index(FILES[key].value))
                file.write(b"F")
        with pytest.raises(CorruptRecord):
            await nodes.client(only).read(key)
        mover = await begin("ring", "apply", "--conf", nodes.conf, "--add", others[0], "--add", others[1])
        assert mover.stdout is not None
        async with asyncio.timeout(COMMAND_S_MAX):
            while b"waiting: " not in (said := await mover.stdout.readline()):
                assert said, "the change ended without the file"
        ring = await nodes.ring(only)
        await nodes.client(only).apply(key, FILES[key])
        _, error = await mover.communicate()

        assert said.decode() == f"waiting: f/13 can't be read (damaged on {only})\n"
        assert ring is not None
        assert ring.joint
        assert (mover.returncode, error) == (0, b"")
        await nodes.check(nodes.names)


async def test_a_command_that_is_killed_is_carried_on_by_the_next_and_another_wish_is_told_so(tmp_path: Path) -> None:
    async with real_nodes(tmp_path, 3, 1) as nodes:
        a, b, c, d = nodes.names
        slow = ("--rate", "0.0001", "--despite-warnings")
        mover = await begin("ring", "apply", "--conf", nodes.conf, "--add", d, *slow)
        while (ring := await nodes.ring(a)) is None:
            await asyncio.sleep(0.02)
        mover.kill()
        await mover.wait()
        assert ring.joint

        planned = await nodes.run("plan", "--add", "localhost:1")
        shown = await nodes.run("show")
        other = await nodes.run("apply", "--remove", c)

        assert planned[0] == 2
        assert f"a change is under way (it adds {d})" in planned[2]
        assert f"a change is under way: it adds {d}" in shown[1]
        assert (other[0], other[1].splitlines()[-1]) == (
            1,
            "another change was carried out instead; look at it with `sfss ring show`",
        )
        await nodes.check([a, b, c, d])


async def test_a_change_is_given_up_and_what_was_copied_goes(tmp_path: Path) -> None:
    async with real_nodes(tmp_path, 3, 1) as nodes:
        a, b, c, d = nodes.names
        mover = await begin("ring", "apply", "--conf", nodes.conf, "--add", d, "--rate", "0.0005", "--despite-warnings")
        while not await nodes.held(d):
            await asyncio.sleep(0.02)

        aborted = await nodes.run("abort")
        out, _ = await mover.communicate()

        assert (aborted.status, aborted.out.splitlines()[-1]) == (0, "done")
        assert mover.returncode == 1
        assert out.decode().splitlines()[-1] == "the change was given up by `sfss ring abort`"
        await nodes.check([a, b, c])


async def test_what_is_not_done_is_told_in_one_line(tmp_path: Path) -> None:
    async with real_nodes(tmp_path, 3, 1) as nodes:
        foreign = nodes.names[3]
        await nodes.client(foreign).bind("d" * 32, 1, "e" * 32)

        away = await nodes.run("apply", "--add", "localhost:1", "--despite-warnings")
        unknown = await nodes.run("apply", "--remove", "localhost:1")
        warned = await nodes.run("apply", "--add", foreign)
        nothing = await nodes.run("apply")

        assert (away.status, away.error.count("\n")) == (2, 1)
        assert "localhost:1 does not answer (Connection refused); start it first" in away.error
        assert (unknown.status, unknown.error.count("\n")) == (2, 1)
        assert "localhost:1 is not in the ring" in unknown.error
        assert (warned.status, warned.error) == (1, "")
        assert f"warning: {foreign} belongs to a cluster already" in warned.out
        assert warned.out.endswith("to go on all the same, say --despite-warnings\n")
        assert (nothing.status, nothing.out) == (0, "no change is under way, and nothing was left to do\n")
        assert await nodes.ring(nodes.names[0]) is None
