"""`sfss backup` and `sfss restore` over a real proxy and a real node: what they say, refuse and exit with."""

from __future__ import annotations

import contextlib
import shutil
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from certificates import Authority
from memcache_tier import HOST, client_of
from node_process import node_part, running

from sfss.memcache.access import Access
from sfss.memcache.client import Dialect
from sfss.tls import client_tls
from tests.cluster.command import Ended, sfss
from tests.cluster.disks import SmallDisk, needs_root
from tests.cluster.parts import Part, clean_environment, free_ports, python_command

SMALL = ("--volume-mib", "1", "--reserve-mib", "0")


@contextlib.asynccontextmanager
async def cluster(folder: Path, node_options: tuple[str, ...] = (), settings: str = "") -> AsyncIterator[Part]:
    """A node and a proxy over it."""
    folder.mkdir()
    async with running(node_part(folder, folder / "home", *SMALL, *node_options)) as node:
        [port] = free_ports(1)
        conf = folder / "proxy.ini"
        conf.write_text(
            f"[default]\nservers={HOST}:{node.port}\npartitions=64\n{settings}\n"
            f"[proxy]\nport={port}\nN=1\nW=1\nR=1\nfounding_timeout=5\n{settings}\n"
        )
        command = [*python_command("proxy.command"), "--conf", str(conf)]
        async with running(Part("proxy", port, command, folder, clean_environment())) as proxy:
            yield proxy


async def put(proxy: Part, files: dict[str, bytes], access: Access | None = None) -> None:
    async with client_of(proxy.port, access=access or Access()) as client:
        for key, value in files.items():
            await client.set(key.encode(), value)


def at(proxy: Part) -> tuple[str, str]:
    return "--proxies", f"{HOST}:{proxy.port}"


def in_one_line(done: Ended, status: int) -> str:
    """What a command said that ended so."""
    assert done.status == status, done
    assert done.out == ""
    lines = [line for line in done.error.splitlines() if " WARNING " not in line]
    assert len(lines) == 1, done
    return lines[0]


async def test_a_folder_is_its_owners_and_an_older_run_can_be_restored(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    async with cluster(tmp_path / "source") as source:
        await put(source, {"a": b"first", "b": b"first"})
        first = await sfss("backup", folder, *at(source))
        await put(source, {"a": b"second", "c": b"second"})
        second = await sfss("backup", folder, *at(source))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
        kept = await sfss("backup", folder, *at(source), "--keep", 2)
    async with cluster(tmp_path / "target") as target:
        done = await sfss("restore", folder, *at(target), "--run", 2)
        async with client_of(target.port) as client:
            found = {key: await client.get(key) for key in (b"a", b"b", b"c")}
        gone = await sfss("restore", folder, *at(target), "--run", 1)

    assert (first.status, first.error, first.out) == (
        0,
        "",
        "run 1: 2 files, 0.0 MiB; 2 of them new or changed (0.0 MiB), 0 gone since the last run\n",
    )
    assert second.out.startswith("run 2: 3 files, 0.0 MiB; 2 of them new or changed")
    assert "removed 1 older runs and 0 archives" in kept.out
    assert set(modes.values()) == {0o700, 0o600}
    assert done.status == 0
    assert {key: record.value for key, record in found.items() if record} == {
        b"a": b"second",
        b"b": b"first",
        b"c": b"second",
    }
    assert "has no run 1; it has 2, 3" in in_one_line(gone, 2)


async def test_what_a_target_has_stays_and_only_the_rest_is_added(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    async with cluster(tmp_path / "source") as source:
        await put(source, {"a": b"saved", "b": b"saved"})
        await sfss("backup", folder, *at(source))
        async with client_of(source.port) as client:
            await client.delete(b"a")
        await put(source, {"b": b"newer"})

        refused = await sfss("restore", folder, *at(source))
        done = await sfss("restore", folder, *at(source), "--into-existing", "--verify")

        async with client_of(source.port) as client:
            found = [await client.get(key) for key in (b"a", b"b")]
    assert "has 1 files; restore into an empty one, or say --into-existing" in in_one_line(refused, 2)
    assert "1 files restored, 0.0 MiB, read back and compared; 1 were there already" in done.out
    assert [record and record.value for record in found] == [b"saved", b"newer"]


async def test_nothing_is_begun_without_a_cluster_a_folder_or_sense(tmp_path: Path) -> None:
    [nobody] = free_ports(1)
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis").write_text("x")

    away = await sfss("backup", tmp_path / "backup", "--proxies", f"{HOST}:{nobody}")
    other = await sfss("backup", tmp_path / "other")
    nowhere = await sfss("restore", tmp_path / "none")
    senseless = await sfss("backup", tmp_path / "backup", "--proxies", "nonsense")
    file = await sfss("backup", tmp_path / "file")

    assert f"the proxies {HOST}:{nobody} can't be asked" in in_one_line(away, 2)
    assert "holds files that are no backup (thesis)" in in_one_line(other, 2)
    assert "holds no backup" in in_one_line(nowhere, 2)
    assert "option --proxies: 'nonsense' is not host:port" in in_one_line(senseless, 2)
    assert (file.status, "is a file" in file.error) == (2, True)


async def test_a_server_that_is_no_proxy_is_not_backed_up(tmp_path: Path) -> None:
    async with running(node_part(tmp_path, tmp_path / "home", *SMALL)) as node:
        refused = await sfss("backup", tmp_path / "backup", *at(node))

    assert "not a proxy of sfss; other servers don't tell which files they have" in in_one_line(refused, 2)


async def test_damage_is_told_and_named_by_verify_and_by_restore(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    async with cluster(tmp_path / "source") as source:
        await put(source, {"good": b"good bytes", "bad": b"bad bytes"})
        await sfss("backup", folder, *at(source))
    archive = folder / "segments" / "000001.tar"
    archive.write_bytes(archive.read_bytes().replace(b"bad bytes", b"bad b1tes"))

    verified = await sfss("backup", "--verify", folder)
    async with cluster(tmp_path / "target") as target:
        restored = await sfss("restore", folder, *at(target))
        async with client_of(target.port) as client:
            found = [await client.get(key) for key in (b"good", b"bad")]

    assert verified.status == restored.status == 1
    assert verified.error.startswith("bad: the saved bytes fail their checksum (000001.tar, byte ")
    assert restored.error == "bad: the saved bytes fail their checksum\n"
    assert "1 files restored, 0.0 MiB; 1 could not be restored" in restored.out
    assert found[0] is not None
    assert found[1] is None


async def test_secret_and_tls_are_given_to_proxies_and_nodes(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    pair = authority.sign("all")
    secret = tmp_path / "secret"
    secret.write_bytes(b"cluster:sesame\n")
    secret.chmod(0o600)
    files = {"secret": str(secret), "tlsca": authority.certificate, "tlscert": pair.certificate, "tlskey": pair.key}
    options = tuple(word for name, file in files.items() for word in (f"--{name}", file))
    settings = "\n".join(f"{name} = {file}" for name, file in files.items())
    access = Access(b"cluster sesame", client_tls(authority.certificate, pair.certificate, pair.key))
    folder = tmp_path / "backup"
    async with cluster(tmp_path / "cluster", options, settings) as source:
        await put(source, {"a": b"x"}, access)

        without = await sfss("backup", folder, *at(source))
        done = await sfss("backup", folder, *at(source), *options)
        again = await sfss("restore", folder, *at(source), *options, "--into-existing")

    assert "can't be asked" in in_one_line(without, 2)
    assert (done.status, "run 1: 1 files" in done.out) == (0, True)
    assert "1 were there already" in again.out


@needs_root
@pytest.mark.root
async def test_a_full_disk_is_told_in_one_line_and_the_next_run_goes_on(tmp_path: Path) -> None:
    async with cluster(tmp_path / "source") as source:
        await put(source, {f"f{number}": bytes([number]) * 100_000 for number in range(30)})
        with SmallDisk(tmp_path / "disk", 6 << 20) as disk:
            folder = disk.path / "backup"
            room = disk.path / "room"
            room.write_bytes(bytes(1 << 20))
            disk.fill()
            room.unlink()

            full = await sfss("backup", folder, *at(source))
            disk.free()
            done = await sfss("backup", folder, *at(source))
            whole = await sfss("backup", folder, "--verify")

    assert "no room left" in in_one_line(full, 1)
    assert "run it again, it goes on from there" in full.error
    assert (done.status, "run 1: 30 files" in done.out) == (0, True)
    assert "all 30 files are whole" in whole.out


@pytest.mark.skipif(shutil.which("memcached") is None, reason="memcached is not installed")
async def test_a_memcached_can_be_restored_into(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    async with cluster(tmp_path / "source") as source:
        await put(source, {"a": b"x", "b": b"y" * 1000})
        await sfss("backup", folder, *at(source))
    [port] = free_ports(1)
    command = ["memcached", "-l", HOST, "-p", str(port), "-u", "root"]
    async with running(Part("memcached", port, command, tmp_path, clean_environment())) as memcached:
        refused = await sfss("restore", folder, *at(memcached))
        done = await sfss("restore", folder, *at(memcached), "--into-existing", "--verify")
        async with client_of(port, dialect=Dialect.CLASSIC) as client:
            found = await client.get(b"b")

    assert "can't tell whether it is empty; say --into-existing" in in_one_line(refused, 2)
    assert (done.status, "2 files restored" in done.out) == (0, True)
    assert found is not None
    assert found.value == b"y" * 1000
