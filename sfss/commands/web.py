"""Serving over HTTP: the web tier over proxies, over nodes directly, or over foreign memcache servers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from socket import socket

from proxy.cluster import ClusterConfig, NodeAddress, open_cluster
from proxy.options import Options
from sfss.log import set_up_logging
from sfss.memcache.access import Access
from sfss.memcache.trust import Trust
from sfss.process import check_packages, is_loopback, run
from sfss.settings import Settings
from sfss.store import Store
from sfss.tls import server_tls
from sfss.web.counters import SharedCounters, WorkerCounters
from sfss.web.proxies import ProxyRing
from sfss.web.retry_budget import RetryBudget
from sfss.web.serve import OpenBackend, serve
from sfss.web.status import DirectStatus, ProxiesStatus, StatusSource
from sfss.web.workers import Workers, bind_sockets

_log = logging.getLogger("sfss.web")


def serve_until_stopped(settings: Settings) -> int:
    """Serve until a signal comes; returns the exit status."""
    check_packages()
    tls = server_tls(settings.ssl_cert, settings.ssl_key) if settings.ssl else None
    backend = open_backend(settings)
    socket_sets = bind_sockets(settings.host, settings.port, settings.workers)
    counters = SharedCounters(settings.workers)
    tier = f"web:{socket_sets[0][0].getsockname()[1]}"
    set_up_logging(tier, settings.log_level, settings.log_json)
    _warn_of_reach(settings)

    def work(index: int, sockets: Sequence[socket], serving: Callable[[], None]) -> int:
        if settings.workers > 1:
            set_up_logging(f"{tier}/{index}", settings.log_level, settings.log_json)
        return run("sfss", partial(serve, settings, index, sockets, tls, counters, backend, serving))

    if settings.workers == 1:
        return work(0, socket_sets[0], lambda: None)
    return Workers(work, socket_sets).run()


def _warn_of_reach(settings: Settings) -> None:
    if not is_loopback(settings.host):
        _log.warning(
            "%s can be reached from other machines, and whoever reaches it can read, write and delete files",
            settings.host,
        )


def open_backend(settings: Settings) -> OpenBackend:
    """What the web tier is to stand on. Raises `SetupError`."""
    files = (settings.storage_secret, settings.storage_tls_cert, settings.storage_tls_key, settings.storage_tls_ca)
    return partial(_over_nodes if settings.direct else _over_proxies, settings, Trust(*files).access())


@asynccontextmanager
async def _over_proxies(
    settings: Settings, access: Access, counters: WorkerCounters
) -> AsyncIterator[tuple[Store, StatusSource]]:
    ring = ProxyRing(
        settings.storage_proxies,
        retry_max=settings.storage_proxy_max_retry,
        retry_after_s=settings.storage_proxy_retry_after_seconds,
        timeout_s=settings.storage_proxy_timeout_seconds,
        budget=RetryBudget(settings.storage_proxy_retry_share, counters=counters),
        access=access,
    )
    await ring.start()
    try:
        yield ring, ProxiesStatus(settings.storage_proxies, settings.status_timeout_seconds, ring.notes, access)
    finally:
        await ring.close()


def cluster_config(settings: Settings) -> ClusterConfig:
    """The nodes, and what is done in the background, as a proxy's configuration file would describe them; for --direct.
    Each worker process is a coordinator, so each does its part."""
    zones = settings.storage_zones or ("",) * len(settings.storages)
    weights = settings.storage_weights or (1,) * len(settings.storages)
    return ClusterConfig(
        tuple(
            NodeAddress(node.host, node.port, zone, weight)
            for node, zone, weight in zip(settings.storages, zones, weights, strict=True)
        ),
        n=settings.n,
        w=settings.w,
        r=settings.r,
        partitions=settings.partitions,
        options=Options(
            shared=True,
            compare_interval_s=float(settings.compare_interval * settings.workers),
            compare_bytes_per_s=settings.compare_rate / settings.workers,
            hint_age_s=settings.hint_hours * 3600.0,
            tombstone_grace_s=settings.tombstone_days * 86400.0,
            hint_rate=settings.hint_rate / settings.workers,
        ),
    )


@asynccontextmanager
async def _over_nodes(
    settings: Settings, access: Access, counters: WorkerCounters
) -> AsyncIterator[tuple[Store, StatusSource]]:
    cluster = await open_cluster(replace(cluster_config(settings), access=access))
    try:
        yield cluster.coordinator, DirectStatus(cluster.coordinator, settings.status_timeout_seconds)
    finally:
        await cluster.close()
