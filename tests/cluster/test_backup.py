"""`sfss backup` of a live cluster and `sfss restore` into others.

Every file that wasn't touched meanwhile comes back as it was, each other one as a version that was acknowledged at some
moment of the run, and what was deleted stays away.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.command import COMMAND_S_MAX, begin, sfss
from tests.cluster.http_client import HttpClient, NoAnswer, NotSent, file_target
from tests.cluster.parts import HOST
from tests.cluster.values import draw_size, make_value, number_of

pytestmark = pytest.mark.slow

ODD_NAMES = ("文件/名字.jpg", "100%25 of/50%.txt", "a b/ü+é?#&=.bin", "@at", "?question", "x" * 250, "päth" * 40)


def proxies_of(cluster: Cluster) -> tuple[str, str]:
    return "--proxies", ",".join(f"{HOST}:{proxy.port}" for proxy in cluster.proxies)


@contextlib.asynccontextmanager
async def empty_cluster(directory: Path, nodes: int) -> AsyncIterator[Cluster]:
    """A cluster without the file by which the harness finds it ready."""
    async with Cluster(directory, nodes=nodes, proxies=1, webs=1) as cluster:
        client = HttpClient(*cluster.webs[0].address)
        assert (await client.request("DELETE", file_target("ready-web-0"))).status == 204
        client.close()
        yield cluster


async def lay(cluster: Cluster, files: dict[str, bytes]) -> None:
    client = HttpClient(*cluster.webs[0].address)
    for path, value in files.items():
        assert (await client.request("PUT", file_target(path), value)).status == 200
    client.close()


async def files_at(cluster: Cluster, paths: list[str]) -> dict[str, bytes | None]:
    """What a reader gets; None for 404."""
    client = HttpClient(*cluster.webs[0].address)
    found: dict[str, bytes | None] = {}
    for path in paths:
        answer = await client.request("GET", file_target(path))
        assert answer.status in (200, 404), answer
        found[path] = answer.body if answer.status == 200 else None
    client.close()
    return found


@dataclass
class Writer:
    """Writes and deletes a few files of its own, over and over. `history` has for each file what it may have held: from
    when a write began until the one that replaced it was acknowledged, with its number, or None for a delete."""

    cluster: Cluster
    name: str
    rng: random.Random
    history: dict[str, list[tuple[float, float, int | None, bool]]] = field(default_factory=dict)
    """(began, ended, number, acknowledged)"""

    async def run(self) -> None:
        with contextlib.closing(HttpClient(*self.cluster.webs[0].address)) as client:
            await self._write(client)

    async def _write(self, client: HttpClient) -> None:
        number = 0
        while True:
            number += 1
            path = f"touched/{self.name}/{self.rng.randrange(3)}"
            deletes = self.rng.random() < 0.3
            began = time.monotonic()
            try:
                if deletes:
                    answer = await client.request("DELETE", file_target(path))
                else:
                    value = make_value(path, number, draw_size(self.rng))
                    answer = await client.request("PUT", file_target(path), value)
                done = answer.status in (200, 204, 404)
            except (NoAnswer, NotSent):
                done = False
            self.history.setdefault(path, []).append((began, time.monotonic(), None if deletes else number, done))
            await asyncio.sleep(0.01)

    def possible(self, path: str, first: float, last: float) -> set[int | None]:
        """What a read at some moment between `first` and `last` could have found."""
        before: set[int | None] = {None}
        during: set[int | None] = set()
        for began, ended, number, acknowledged in self.history[path]:
            if began > last:
                break
            if acknowledged and ended < first:
                before = set()
            if ended < first:
                before.add(number)
            else:
                during.add(number)
        return before | during


async def test_a_backup_under_writes_with_a_node_down_is_restored_into_clusters_of_other_sizes(
    tmp_path: Path, rng: random.Random
) -> None:
    untouched = {f"still/{number}": rng.randbytes(draw_size(rng) // 8) for number in range(150)}
    untouched |= {name: rng.randbytes(300) for name in ODD_NAMES}
    untouched |= {"empty": b"", "largest": rng.randbytes(2 * 1024 * 1024)}
    flagged, expiring = b"with/flags", b"with/expiry"
    until = int(time.time()) + 86_400
    folder = tmp_path / "backup"
    async with Cluster(tmp_path / "source", nodes=3, proxies=2, webs=1) as source:
        await lay(source, untouched | {"deleted/before": b"x", "deleted/between": b"x", "changed/between": b"old"})
        client = source.proxies[0].client()
        await client.set(flagged, b"flags", 1234)
        await client.set(expiring, b"expiry", 0, until)
        await client.set(b"expires/soon", b"x", 0, int(time.time()) + 2)
        await client.delete(b"deleted/before")
        await client.close()
        first = await sfss("backup", folder, *proxies_of(source))
        assert first.status == 0, first
        http = HttpClient(*source.webs[0].address)
        assert (await http.request("DELETE", file_target("deleted/between"))).status == 204
        assert (await http.request("PUT", file_target("changed/between"), b"new")).status == 200

        writers = [Writer(source, str(number), random.Random(rng.random())) for number in range(4)]
        writing = [asyncio.create_task(writer.run()) for writer in writers]
        await asyncio.sleep(1.0)
        source.nodes[rng.randrange(3)].kill()
        began = time.monotonic()
        second = await sfss("backup", folder, *proxies_of(source), "--rate", "1")
        ended = time.monotonic()
        for task in writing:
            task.cancel()
        await asyncio.gather(*writing, return_exceptions=True)
        http.close()
    assert second.status == 0, second
    assert (await sfss("backup", folder, "--verify")).status == 0

    touched = [path for writer in writers for path in writer.history]
    for nodes in (1, 5):
        async with empty_cluster(tmp_path / f"target-{nodes}", nodes) as target:
            done = await sfss("restore", folder, *proxies_of(target), "--verify")
            assert done.status == 0, done
            again = await sfss("restore", folder, *proxies_of(target))
            assert again.status == 2
            assert "the cluster isn't empty" in again.error

            assert await files_at(target, list(untouched)) == untouched
            assert await files_at(target, ["deleted/before", "deleted/between", "expires/soon"]) == {
                "deleted/before": None,
                "deleted/between": None,
                "expires/soon": None,
            }
            assert await files_at(target, ["changed/between"]) == {"changed/between": b"new"}
            client = target.proxies[0].client()
            with_flags, with_expiry = await client.get(flagged), await client.get(expiring)
            await client.close()
            assert with_flags is not None
            assert with_expiry is not None
            assert (with_flags.value, with_flags.flags, with_flags.expires) == (b"flags", 1234, 0)
            assert (with_expiry.value, with_expiry.flags, with_expiry.expires) == (b"expiry", 0, until)
            for path, value in (await files_at(target, touched)).items():
                number = None if value is None else number_of(path, value)
                assert (number is None) == (value is None), f"{path} is no whole value"
                writer = next(writer for writer in writers if path in writer.history)
                assert number in writer.possible(path, began, ended), path


async def test_a_backup_that_is_stopped_or_killed_is_taken_up_by_the_next(tmp_path: Path, rng: random.Random) -> None:
    files = {f"f/{number}": rng.randbytes(20_000) for number in range(150)}
    folder = tmp_path / "backup"
    async with Cluster(tmp_path / "source", nodes=3, proxies=1, webs=1) as source:
        await lay(source, files)
        for number in (signal.SIGINT, signal.SIGKILL):
            process = await begin("backup", folder, *proxies_of(source), "--rate", "0.1")
            await has_grown(folder / "segments", 200_000)
            busy = await sfss("backup", folder, *proxies_of(source))
            assert (busy.status, "is in use by another backup or restore" in busy.error) == (2, True)
            process.send_signal(number)
            _, error = await process.communicate()
            if number is signal.SIGINT:
                assert process.returncode == 1
                assert "stopped before the end; run it again, it goes on from there" in error.decode()
            nothing = await sfss("backup", "--verify", folder)
            assert (nothing.status, "has no complete run" in nothing.error) == (2, True)

        last = await sfss("backup", folder, *proxies_of(source))
        assert last.status == 0, last
        assert "run 1: 151 files" in last.out
        saved = int(last.out.split("; ")[1].split()[0])
        assert 0 < saved < 151  # what the stopped run had, stays
        whole = await sfss("backup", "--verify", folder)
        assert (whole.status, "all 151 files are whole" in whole.out) == (0, True)

    async with empty_cluster(tmp_path / "other", 1) as other:
        refused = await sfss("backup", folder, *proxies_of(other))
        assert (refused.status, "is a backup of cluster" in refused.error) == (2, True)
        assert (await sfss("restore", folder, *proxies_of(other))).status == 0
        assert await files_at(other, list(files)) == files


async def has_grown(segments: Path, size: int) -> None:
    """Wait until newly written segments have so many bytes."""
    before = {path: path.stat().st_size for path in segments.glob("*.tar")}
    async with asyncio.timeout(COMMAND_S_MAX):
        while True:
            now = {path: path.stat().st_size for path in segments.glob("*.tar")}
            if sum(now[path] - before.get(path, 0) for path in now) >= size:
                return
            await asyncio.sleep(0.05)
