"""`sfss backup` and `sfss restore`: a live cluster's files into a folder, and back into a cluster.

What they do is in `sfss.backup`; here they are connected: files go through the proxies, and the nodes that these have
tell which files there are.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import click

from sfss.backup.archive import Archive
from sfss.backup.errors import BackupFailed
from sfss.backup.folder import BackupFolder, refusals
from sfss.backup.manifest import Manifest, Run
from sfss.backup.restoring import Restored, Restoring
from sfss.backup.saving import Progress, Saving
from sfss.backup.tree import Trees
from sfss.backup.verifying import text_of, verify
from sfss.backup.wire_node import WireNodes
from sfss.errors import SetupError, SfssError
from sfss.log import set_up_logging
from sfss.memcache.access import Access
from sfss.memcache.trust import Trust
from sfss.pace import Pace
from sfss.process import check_packages, run
from sfss.settings import Settings, load_settings, parse_address
from sfss.store import settled
from sfss.web.proxies import ProxyRing
from sfss.web.retry_budget import RetryBudget
from sfss.web.status import by_node

_MIB = 1024 * 1024
_NAMED_MAX = 100
"""Failures that are named on standard error, one a line; the others are counted."""

_PROGRESS_S = 0.5

_FIGURES_S_MAX = 0.6
"""How old a proxy's figures of its nodes may be."""


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """What backup and restore have in common. Those on `Settings` are called as there."""
    for option in (
        click.option("--rate", type=click.FloatRange(0, min_open=True), help="MiB/s at most.  [default: no limit]"),
        click.option("--jobs", type=click.IntRange(1, 32), default=8, show_default=True, help="Files at a time."),
        click.option("--tlskey", "storage_tls_key", metavar="FILE", help="Its private key, PEM."),
        click.option("--tlscert", "storage_tls_cert", metavar="FILE", help="Certificate to show to them, PEM."),
        click.option(
            "--tlsca", "storage_tls_ca", metavar="FILE", help="Speak TLS to them: the authority to trust, PEM."
        ),
        click.option("--secret", "storage_secret", metavar="FILE", help="User and password for them (user:password)."),
        click.option("--proxies", "storage_proxies", metavar="HOST:PORT,…", help="The proxies of the cluster."),
        click.option("--config", type=click.Path(path_type=Path), help="Settings of the web tier, for its proxies."),
        click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path)),
    ):
        command = option(command)
    return command


@click.command()
@_options
@click.option("--node-secret", metavar="FILE", default="", help="User and password for the nodes.  [default: --secret]")
@click.option("--node-tlsca", metavar="FILE", default="", help="The authority of the nodes.  [default: --tlsca]")
@click.option("--node-plain", is_flag=True, help="The nodes speak no TLS, though the proxies do.")
@click.option("--keep", type=click.IntRange(1), help="Remove all runs but so many.  [default: remove none]")
@click.option("--verify", "only_verify", is_flag=True, help="Check every byte of the last run; needs no cluster.")
@click.option("--run", "number", type=click.IntRange(1), help="The run to verify.  [default: the last]")
def backup(directory: Path, only_verify: bool, number: int | None, **options: Any) -> None:
    """Save the files of a running cluster in DIR: all of them at first, then what has changed.

    DIR gets tar archives and, for each run, an SQLite database that says where each file lies. A run that was ended
    early is taken up by the next. Exit status: 0 every file is saved, 1 some could not be (they are named), 2 nothing
    was begun.
    """
    if number is not None and not only_verify:
        raise click.UsageError("--run goes with --verify: a backup saves what there is now")
    if only_verify:
        _run("sfss backup", lambda: _verify(directory, number))
    else:
        _run("sfss backup", lambda: _backup(directory, **options), "; run it again, it goes on from there")


@click.command()
@_options
@click.option("--run", "number", type=click.IntRange(1), help="Which run's files.  [default: the last]")
@click.option("--into-existing", is_flag=True, help="Into a cluster that has files, too: they stay as they are.")
@click.option("--verify", "read_back", is_flag=True, help="Read each file back and compare.")
def restore(directory: Path, **options: Any) -> None:
    """Write the files that `sfss backup` saved in DIR into an empty cluster, of whatever size.

    Exit status: 0 every file is there, 1 something is missing (it is named), 2 nothing was begun.
    """
    _run("sfss restore", lambda: _restore(directory, **options), "; go on with --into-existing")


def _run(name: str, work: Callable[[], Coroutine[Any, Any, int]], how_to_go_on: str = "") -> None:
    """Do it until it is done or a signal comes, and exit."""
    set_up_logging(name.split()[-1], "warning")
    status = 1

    async def main(stop: asyncio.Event) -> None:
        nonlocal status
        check_packages()
        working = asyncio.create_task(work())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))
        if working.cancelled():
            _complain(f"{name}: stopped before the end{how_to_go_on}")
            return
        try:
            status = working.result()
        except BackupFailed as error:
            _complain(f"{name}: {error}")

    refused = run(name, main)
    sys.exit(refused or status)


class _Cluster(NamedTuple):
    ring: ProxyRing
    settings: Settings


@asynccontextmanager
async def _proxies(config: Path | None, options: Mapping[str, object]) -> AsyncIterator[_Cluster]:
    """`options` are by the names of settings."""
    settings = load_settings(config, os.environ, options)
    trust = Trust(settings.storage_secret, settings.storage_tls_cert, settings.storage_tls_key, settings.storage_tls_ca)
    ring = ProxyRing(
        settings.storage_proxies,
        retry_max=settings.storage_proxy_max_retry,
        retry_after_s=settings.storage_proxy_retry_after_seconds,
        timeout_s=settings.storage_proxy_timeout_seconds,
        budget=RetryBudget(settings.storage_proxy_retry_share),
        access=trust.access(),
    )
    await ring.start()
    try:
        yield _Cluster(ring, settings)
    finally:
        await ring.close()


async def _stats(cluster: _Cluster, topic: str) -> dict[str, str]:
    try:
        return await settled(cluster.ring.stats(topic))
    except SfssError as error:
        proxies = ", ".join(map(str, cluster.settings.storage_proxies))
        raise SetupError(
            f"the proxies {proxies} can't be asked ({error}); name those that run with --proxies"
        ) from None


# --- backup ---


async def _backup(
    directory: Path,
    *,
    config: Path | None,
    rate: float | None,
    jobs: int,
    keep: int | None,
    node_secret: str,
    node_tlsca: str,
    node_plain: bool,
    **options: Any,
) -> int:
    with closing(BackupFolder(directory, write=True)) as folder:
        async with _proxies(config, options) as cluster:
            access = _node_access(cluster.settings, node_secret, node_tlsca, node_plain)
            async with _trees(cluster, access) as (trees, cluster_id):
                done = await _save(folder, cluster, trees, cluster_id, jobs=jobs, pace=_pace(rate), keep=keep)
    return 1 if done.failed else 0


async def _save(
    folder: BackupFolder, cluster: _Cluster, trees: Trees, cluster_id: str, *, jobs: int, pace: Pace, keep: int | None
) -> Run:
    with refusals(folder.path, BackupFailed):
        manifest = await asyncio.to_thread(folder.begin, cluster_id, _now())
        with closing(manifest):
            saving = Saving(Archive(folder, manifest), cluster.ring, trees, jobs=jobs, pace=pace)
            async with _told(lambda: _progress(saving.progress)):
                await saving.run()
            done = await asyncio.to_thread(folder.end, manifest, _now())
        _tell_failures(folder, done)
        _say(_summary(done, saving.progress))
        if keep is not None:
            runs, segments = await asyncio.to_thread(folder.keep, keep)
            _say(f"removed {runs} older runs and {segments} archives that no run needs")
    return done


def _node_access(settings: Settings, secret: str, authority: str, plain: bool) -> Access:
    """How the nodes let us in: as the proxies do, unless something else is said."""
    secret = secret or settings.storage_secret
    authority = authority or settings.storage_tls_ca
    if plain or not authority:
        return Trust(secret).access()
    return Trust(secret, settings.storage_tls_cert, settings.storage_tls_key, authority).access()


@asynccontextmanager
async def _trees(cluster: _Cluster, access: Access) -> AsyncIterator[tuple[Trees, str]]:
    """The trees of the nodes that the proxies have, and the cluster's id."""
    quorum = (await _stats(cluster, "")).get("quorum", "")
    try:
        w, r = map(int, quorum.split("/")[1:])
        addresses = [parse_address(name) for name in by_node(await _stats(cluster, "storages"))]
    except ValueError:
        proxies = ", ".join(map(str, cluster.settings.storage_proxies))
        raise SetupError(f"{proxies}: not a proxy of sfss; other servers don't tell which files they have") from None
    nodes = WireNodes(access)
    try:
        first = [nodes.node_at(str(address)) for address in addresses]
        cluster_id = await nodes.meet(first)
        yield Trees(nodes, first, w, r), cluster_id
    finally:
        await nodes.close()


def _tell_failures(folder: BackupFolder, done: Run) -> None:
    if not done.failed:
        return
    with closing(folder.open_run(done.number)) as manifest:
        for index, (key, error) in enumerate(manifest.failures()):
            if index == _NAMED_MAX:
                _complain(f"… and {done.failed - _NAMED_MAX} more: see the table `failed` in {manifest.path}")
                break
            _complain(f"{text_of(key)}: {error}")


def _summary(done: Run, progress: Progress) -> str:
    line = (
        f"run {done.number}: {done.files} files, {_mib(done.size)}; {progress.saved} of them new or changed "
        f"({_mib(progress.bytes_saved)}), {progress.dropped} gone since the last run"
    )
    if done.failed:
        line += f"\n{done.failed} files could not be read; run it again to try them anew"
    return line


def _progress(progress: Progress) -> str:
    return f"{progress.part:4.0%} looked through, {progress.saved} files saved, {_mib(progress.bytes_saved)}" + (
        f", {progress.failed} could not be read" if progress.failed else ""
    )


# --- verify ---


async def _verify(directory: Path, number: int | None) -> int:
    with ExitStack() as stack:
        folder = stack.enter_context(closing(BackupFolder(directory, write=False)))
        stack.enter_context(refusals(directory, BackupFailed))
        manifest = stack.enter_context(closing(folder.open_run(number)))
        stopped = threading.Event()
        try:
            damages = await asyncio.to_thread(verify, manifest, folder.segments, _complain, stopped.is_set)
        finally:
            stopped.set()
        done = _complete(manifest)
        _warn_of_holes(done)
        if damages:
            _say(f"run {done.number}: {damages} damages; start anew in another folder, or use an older run (--run)")
        else:
            _say(f"run {done.number} of {done.ended}: all {done.files} files are whole, {_mib(done.size)}")
        return 1 if damages or done.failed else 0


# --- restore ---


async def _restore(
    directory: Path,
    *,
    config: Path | None,
    rate: float | None,
    jobs: int,
    number: int | None,
    into_existing: bool,
    read_back: bool,
    **options: Any,
) -> int:
    with ExitStack() as stack:
        folder = stack.enter_context(closing(BackupFolder(directory, write=False)))
        stack.enter_context(refusals(directory, BackupFailed))
        manifest = stack.enter_context(closing(folder.open_run(number)))
        async with _proxies(config, options) as cluster:
            if not into_existing:
                await _check_empty(cluster)
            restoring = Restoring(
                manifest,
                folder.segments,
                cluster.ring,
                jobs=jobs,
                pace=_pace(rate),
                say=_FirstOnes(_NAMED_MAX),
                only_absent=into_existing,
                verify=read_back,
            )
            async with _told(lambda: _restore_progress(restoring.progress)):
                await restoring.run()
        progress, done = restoring.progress, _complete(manifest)
        _say(_restore_summary(done, progress, read_back))
        _warn_of_holes(done)
        return 1 if progress.failed or done.failed else 0


async def _check_empty(cluster: _Cluster) -> None:
    """Refuse a target that has files, or may have some on nodes that don't answer."""
    if "quorum" not in await _stats(cluster, ""):
        # Its count has what the web tier tries out on such servers, which goes by and by.
        raise SetupError("a server that isn't sfss's can't tell whether it is empty; say --into-existing")
    await asyncio.sleep(_FIGURES_S_MAX)
    for name, figures in by_node(await _stats(cluster, "storages")).items():
        if figures.get("state", "ok") != "ok":
            raise SetupError(
                f"node {name} doesn't answer, so it isn't known whether the cluster is empty; start it, or say "
                "--into-existing"
            )
        if figures.get("curr_items") != "0":
            raise SetupError(
                f"the cluster isn't empty: {name} has {figures.get('curr_items')} files; restore into an empty one, "
                "or say --into-existing to add what is absent there and leave the rest as it is"
            )


def _restore_summary(done: Run, progress: Restored, read_back: bool) -> str:
    line = f"run {done.number} of {done.ended}: {progress.written} files restored, {_mib(progress.bytes_written)}"
    if read_back:
        line += ", read back and compared"
    if progress.there:
        line += f"; {progress.there} were there already and stay as they are"
    if progress.expired:
        line += f"; {progress.expired} have expired"
    if progress.failed:
        line += f"; {progress.failed} could not be restored"
    return line


def _restore_progress(progress: Restored) -> str:
    return f"{progress.part:4.0%}, {progress.written} files restored, {_mib(progress.bytes_written)}" + (
        f", {progress.failed} could not be" if progress.failed else ""
    )


class _FirstOnes:
    """Names the first so many failures."""

    def __init__(self, count: int) -> None:
        self._left = count

    def __call__(self, line: str) -> None:
        self._left -= 1
        if self._left >= 0:
            _complain(line)
        elif self._left == -1:
            _complain("… and more")


# --- what is told ---


def _complete(manifest: Manifest) -> Run:
    done = manifest.run()
    if done is None or not done.ended:
        raise SetupError(f"{manifest.path} is not the manifest of a complete run")
    return done


def _warn_of_holes(done: Run) -> None:
    if done.failed:
        _complain(
            f"when run {done.number} was made, {done.failed} files could not be read: they are missing or of an older "
            "run (its table `failed` names them)"
        )


@asynccontextmanager
async def _told(line: Callable[[], str]) -> AsyncIterator[None]:
    """Show a line that changes, on a terminal."""
    if not sys.stderr.isatty():
        yield
        return

    async def tell() -> None:
        while True:
            _draw(line())
            await asyncio.sleep(_PROGRESS_S)

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait((telling,))
        _draw("")


def _draw(line: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()


def _say(line: str) -> None:
    with suppress(OSError):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _complain(line: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")


def _pace(rate: float | None) -> Pace:
    return Pace((rate or 0) * _MIB)


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
