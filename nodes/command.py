"""The command line of a node: `sfss-node -p 7900 -H DIR`, and `check` and `export` for a directory that no node runs
on."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nodes.checker import check_directory
from nodes.daemon import Daemon, log_to
from nodes.export import export_directory
from nodes.identity import LOG_FILE, DataDirectory
from nodes.options import MIB, NodeOptions, Sync
from nodes.ring_file import read_ring_file, write_ring_file
from nodes.store import NodeStore
from sfss import __version__
from sfss.addresses import host_and_port
from sfss.errors import SetupError
from sfss.log import LEVELS, set_up_logging
from sfss.memcache.server import MemcacheServer
from sfss.memcache.trust import Trust
from sfss.process import VERSION_LINE, check_packages, check_reach, refusal, run
from sfss.subcommands import check_nothing_before

if TYPE_CHECKING:
    from sfss.http.small_server import SmallServer
    from sfss.settings import Address

_SWITCH_INTERVAL_S = 0.0001
"""How long a thread may keep the interpreter while another waits. With Python's default of 5 ms the loop would lose
that each time it meets the indexer's or the compactor's thread."""

_log = logging.getLogger("sfss.node")


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-p", "--port", type=click.IntRange(0, 65535), default=7900, show_default=True, help="Port; 0: any.")
@click.option("-l", "--listen", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("-H", "--home", type=click.Path(path_type=Path), metavar="DIR", help="Data directory.")
@click.option("-d", "--daemon", is_flag=True, help="Go to the background once the node serves.")
@click.option("--log-file", type=click.Path(path_type=Path), help="Log there.  [default with -d: DIR/node.log]")
@click.option("--allow-flush", is_flag=True, help="Let clients delete everything with flush_all.")
@click.option("--secret", default="", metavar="FILE", help="Ask for one of its users and passwords (user:password).")
@click.option("--tlscert", default="", metavar="FILE", help="Speak TLS with this certificate chain, PEM.")
@click.option("--tlskey", default="", metavar="FILE", help="Its private key, PEM.")
@click.option("--tlsca", default="", metavar="FILE", help="Ask clients for a certificate that this authority signed.")
@click.option("--tls-optional", is_flag=True, help="Let clients in without TLS, too, while they are turned to it.")
@click.option("--insecure", is_flag=True, help="Listen where other machines reach it even without a secret.")
@click.option(
    "--sync",
    type=click.Choice([sync.value for sync in Sync]),
    default=Sync.ALWAYS.value,
    show_default=True,
    help="When acknowledged writes are on disk.",
)
@click.option("--sync-interval", type=click.FloatRange(0.001, 60), default=0.2, show_default=True, help="Seconds.")
@click.option("--volume-mib", type=int, default=64, show_default=True, help="Size of a volume.")
@click.option("--reserve-mib", type=click.IntRange(0), default=64, show_default=True, help="Room kept for a full disk.")
@click.option(
    "--cache-mib", type=click.IntRange(0), default=128, show_default=True, help="Memory for files read lately; 0: none."
)
@click.option("--metrics", metavar="ADDR:PORT", help="Answer Prometheus there, at /metrics.  [default: nowhere]")
@click.option("--access-log", is_flag=True, help="Log each request.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--log-json", is_flag=True, help="Log JSON lines.")
@click.version_option(__version__, prog_name="sfss-node", message=VERSION_LINE)
@click.pass_context
def node(context: click.Context, /, **options: Any) -> None:
    """Serve the files of one data directory over the memcache protocol."""
    if context.invoked_subcommand is None:
        sys.exit(_serve(**options))
    try:
        check_nothing_before(context)
    except SetupError as error:
        click.echo(f"sfss-node: {error}", err=True)
        sys.exit(2)


def _serve(
    *,
    port: int,
    listen: str,
    home: Path | None,
    daemon: bool,
    log_file: Path | None,
    allow_flush: bool,
    secret: str,
    tlscert: str,
    tlskey: str,
    tlsca: str,
    tls_optional: bool,
    insecure: bool,
    sync: str,
    sync_interval: float,
    volume_mib: int,
    reserve_mib: int,
    cache_mib: int,
    metrics: str | None,
    access_log: bool,
    log_level: str,
    log_json: bool,
) -> int:
    background = Daemon() if daemon else None
    if background is not None and background.is_parent:
        return background.wait()
    if daemon and log_file is None and home is not None:
        log_file = home / LOG_FILE
    try:
        if log_file is not None:
            log_to(log_file)
    except SetupError as error:
        click.echo(f"sfss-node: {error}", err=True)
        return 2
    set_up_logging(f"node:{port}", log_level, log_json)
    if background is not None:
        background.keep_terminal()

    async def main(stop: asyncio.Event) -> None:
        check_packages()
        password, tls = Trust(secret, tlscert, tlskey, tlsca, tls_optional).door()
        if password is None:
            check_reach(listen, insecure)
        where = _metrics_address(metrics, insecure)
        if home is None:
            raise SetupError("no data directory; name one with -H DIR")
        options = NodeOptions(
            sync=Sync(sync),
            sync_interval_s=sync_interval,
            volume_bytes=volume_mib * MIB,
            reserve_bytes=reserve_mib * MIB,
            cache_bytes=cache_mib * MIB,
        )
        store = await NodeStore.open(home, options, note_crashes=True)
        scraped: SmallServer | None = None
        try:
            server = MemcacheServer(
                store, allow_flush=allow_flush, access_log=access_log, secret=password, tls=tls, plain_too=tls_optional
            )
            try:
                await server.start(listen, port)
            except OSError as error:
                raise refusal(error, listen, port, "-p") from None
            if where is not None:
                scraped = await _start_metrics(store, server, where)
            _log.info("node %s serves %s on %s", store.identify().node, home, host_and_port(listen, server.port))
            # What has been made so far stays; the collector needn't look at it again. Requests leave no cycles behind:
            # looking for them less often is 4 % less work for each write.
            gc.freeze()
            gc.set_threshold(20_000, 50, 50)
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
            if background is not None:
                background.ready()
            await stop.wait()
            await server.close()
        finally:
            if scraped is not None:
                await scraped.close()
            await store.close()

    return run("sfss-node", main)


# Imports for metrics are made only where they are wanted: most nodes do without HTTP, and the 14 MiB that it takes.


def _metrics_address(text: str | None, insecure: bool) -> Address | None:
    """Where metrics are wanted. Raises `SetupError`."""
    if text is None:
        return None
    from sfss.settings import parse_address

    try:
        address = parse_address(text)
    except ValueError as error:
        raise SetupError(f"--metrics: {error}") from None
    check_reach(address.host, insecure, "have Prometheus come through a tunnel or a web server of your own")
    return address


async def _start_metrics(store: NodeStore, server: MemcacheServer, where: Address) -> SmallServer:
    from nodes.metrics import node_families
    from sfss.http.metrics_server import metrics_server

    scraped = metrics_server(lambda: node_families({**server.service.figures(), **store.stats()}))
    try:
        await scraped.start(*where)
    except OSError as error:
        raise refusal(error, *where, "--metrics") from None
    _log.info("metrics on %s", where)
    return scraped


@node.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-q", "--quiet", is_flag=True, help="Print the verdict only.")
def check(directory: Path, quiet: bool) -> None:
    """Check every byte of a data directory that no node runs on. Changes nothing.

    Exit status: 0 all is well, 1 damage was found, 2 it could not be checked.
    """
    sys.exit(_offline(lambda: check_directory(directory, print, quiet)))


@node.command()
@click.argument("directory", type=click.Path(path_type=Path))
def export(directory: Path) -> None:
    """Write all live files of a data directory that no node runs on to standard output, as a tar archive.

    Exit status: 0 all went well, 1 some files could not be read (named on standard error), 2 nothing was written.
    """
    sys.exit(_offline(lambda: export_directory(directory, sys.stdout.buffer)))


@node.command()
@click.argument("directory", type=click.Path(path_type=Path))
def trust(directory: Path) -> None:
    """Declare that what a node has is all there is to be had, after data was lost. It then answers reads again.

    With replicas, files that it lost may then be answered as absent. As long as the others serve, leave it as it is: it
    takes writes, counts toward no quorum, and gets back from them what it lacks.
    """
    sys.exit(_offline(lambda: _trust(directory)))


def _trust(directory: Path) -> int:
    data = DataDirectory.open(directory, create=False)
    try:
        state = data.load()
        ring = read_ring_file(data.path, state)
        silent = state.mute or ring.kept.forgot > ring.kept.held.number
        if silent:
            click.echo("its word on the next ring counts, although it may have given another one before")
            write_ring_file(data.path, replace(ring, kept=replace(ring.kept, forgot=0)).encode(0))
        if state.suspect:
            click.echo(f"trusted, although {state.suspect}")
            data.save(replace(state, suspect="", mute=False))
        elif not silent:
            click.echo("nothing is known to be missing; nothing was changed")
    finally:
        data.close()
    return 0


def _offline(work: Callable[[], int]) -> int:
    set_up_logging("node", "warning")
    try:
        return work()
    except SetupError as error:
        click.echo(f"sfss-node: {error}", err=True)
        return 2


def main() -> None:
    """Entry point of `sfss-node`."""
    node()


if __name__ == "__main__":
    main()
