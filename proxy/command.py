"""The command `sfss-proxy`: one proxy, and its monitor, from one configuration file."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proxy.cluster import Cluster, open_cluster
from proxy.configuration import MonitorConfig, ProxyConfig, load_configuration
from sfss import __version__
from sfss.addresses import host_and_port
from sfss.errors import SetupError
from sfss.log import LEVELS, log_to_file, set_up_logging
from sfss.memcache.server import MemcacheServer
from sfss.process import VERSION_LINE, check_packages, check_reach, refusal, run, unless_stopped
from sfss.secret import Secret
from sfss.tls import Tls

if TYPE_CHECKING:
    from proxy.monitor import Figures, Monitor

_CLOSE_S = 5.0
"""For clients, and again for nodes, to take what is under way when the proxy stops."""

_log = logging.getLogger("sfss.proxy")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--conf", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Configuration file.")
@click.option("--state", type=click.Path(path_type=Path), metavar="DIR", help="This proxy's own small directory.")
@click.option("--insecure", is_flag=True, help="Listen where other machines reach it even without a secret.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--log-json", is_flag=True, help="Log JSON lines.")
@click.version_option(__version__, prog_name="sfss-proxy", message=VERSION_LINE)
def main(**options: Any) -> None:
    """Replicate files over the nodes that a configuration file names."""
    sys.exit(_serve(**options))


def _serve(*, conf: Path, state: Path | None, insecure: bool, log_level: str, log_json: bool) -> int:
    try:
        config = load_configuration(conf)
    except SetupError as error:
        sys.stderr.write(f"sfss-proxy: {error}\n")
        return 2
    if state is not None:
        config = replace(config, cluster=replace(config.cluster, state=state))
    if config.monitor is not None:
        # Only where it is wanted: HTTP is half of a proxy's start, and 16 MiB. Before there is a loop to hold up.
        import proxy.monitor  # noqa: F401
    tier = f"proxy:{config.port}"
    set_up_logging(tier, log_level, log_json)

    async def serve(stop: asyncio.Event) -> None:
        check_packages()
        secret, tls = config.door.door()
        if secret is None:
            check_reach(config.listen, insecure)
        if config.monitor is not None:
            # Passwords would go to it in the clear, and into people's browsers; this one is for machines.
            check_reach(config.monitor.listen, insecure, "reach the monitor through ssh or a web server of your own")
        cluster = replace(config.cluster, access=config.nodes.access())
        if config.access_log_file is not None:
            log_to_file("sfss.access", config.access_log_file, tier, log_json)
        await _run(replace(config, cluster=cluster), secret, tls, stop)

    return run("sfss-proxy", serve)


async def _run(config: ProxyConfig, secret: Secret | None, tls: Tls | None, stop: asyncio.Event) -> None:
    """Start, serve until `stop`, close; in this order."""
    cluster = await unless_stopped(open_cluster(config.cluster), stop)
    if cluster is None:
        return
    server = MemcacheServer(
        cluster.coordinator, access_log=config.access_log, secret=secret, tls=tls, plain_too=config.door.plain_too
    )
    monitor = None
    try:
        try:
            await server.start(config.listen, config.port)
        except OSError as error:
            raise refusal(error, config.listen, config.port, "`port` in [proxy]") from None
        if config.monitor is not None:
            monitor = await _start_monitor(_MonitorSource(config, cluster, server), config.monitor)
        where_served = host_and_port(config.listen, server.port)
        _log.info("serving on %s over %d nodes", where_served, len(cluster.coordinator.placed.peers))
        # What exists now stays, and requests leave next to no cycles behind: looking for them less often is 5 % faster.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 50)
        await stop.wait()
    finally:
        if monitor is not None:
            await monitor.close()
        await server.close(_CLOSE_S)
        await cluster.close(_CLOSE_S)


async def _start_monitor(source: _MonitorSource, where: MonitorConfig) -> Monitor:
    from proxy.monitor import start_monitor

    try:
        monitor = await start_monitor(source, where.listen, where.port)
    except OSError as error:
        raise refusal(error, where.listen, where.port, "`port` in [monitor]") from None
    _log.info("monitor on %s", host_and_port(where.listen, monitor.port))
    return monitor


class _MonitorSource:
    """The monitor's figures of this process."""

    def __init__(self, config: ProxyConfig, cluster: Cluster, server: MemcacheServer) -> None:
        self._config = config
        self._figures = cluster.coordinator.figures
        self._server = server

    async def figures(self) -> Figures:
        stats = {**self._server.service.figures(), **await self._figures.of_topic("")}
        return {
            "proxy": host_and_port(self._config.listen, self._server.port),
            "stats": stats,
            "storages": await self._figures.storages(),
            "ring": self._figures.ring(),
        }
