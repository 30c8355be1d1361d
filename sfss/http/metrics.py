"""Figures that the tiers keep anyway, as Prometheus reads them.

Nothing is counted here, and nothing happens until somebody asks: a table says which figure of STATS is which metric,
and each scrape reads the figures once. Names follow Prometheus' rules: base units (seconds, bytes), `_total` at the end
of whatever only rises, one metric for one thing with labels for its kinds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sfss import __version__
from sfss.durability import FIGURES, STATES, Durability, Stats, number_in

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The text format that every Prometheus reads, and whoever else took it over."""

_KIB = 1024.0


class Row(NamedTuple):
    """`figure` of STATS is `metric` (after the tier's prefix): a counter where the name ends in `_total`, else a gauge.

    `kinds` are labels and their values, where several figures make one metric. `scale` brings it to the base unit. With
    `equals`, the metric is 1 where the figure is that text and 0 where it is another."""

    figure: str
    metric: str
    help: str
    kinds: tuple[tuple[str, str], ...] = ()
    scale: float = 1.0
    equals: str = ""

    def value_in(self, stats: Stats) -> float | None:
        """None where it isn't told."""
        if self.equals:
            return float(stats[self.figure] == self.equals) if self.figure in stats else None
        number = number_in(stats, self.figure)
        return None if number is None else number * self.scale


_COMMANDS = "Commands received"
_RESULTS = "Keys looked up"

SERVER_ROWS = (
    Row("uptime", "uptime_seconds", "Time since the start"),
    Row("rusage_user", "cpu_seconds_total", "Processor time", (("mode", "user"),)),
    Row("rusage_system", "cpu_seconds_total", "Processor time", (("mode", "system"),)),
    Row("rusage_maxrss", "memory_max_bytes", "Most memory that was resident", scale=_KIB),
    Row("curr_connections", "connections", "Connections that are open"),
    Row("total_connections", "connections_accepted_total", "Connections accepted"),
    Row("rejected_connections", "connections_rejected_total", "Connections refused because there were too many"),
    Row("threads", "threads", "Python threads"),
)
"""What every server process of ours tells under the same names."""

MEMCACHE_ROWS = (
    *SERVER_ROWS,
    Row("cmd_get", "commands_total", _COMMANDS, (("command", "get"),)),
    Row("cmd_set", "commands_total", _COMMANDS, (("command", "set"),)),
    Row("cmd_delete", "commands_total", _COMMANDS, (("command", "delete"),)),
    Row("cmd_touch", "commands_total", _COMMANDS, (("command", "touch"),)),
    Row("cmd_flush", "commands_total", _COMMANDS, (("command", "flush"),)),
    Row("get_hits", "gets_total", _RESULTS, (("result", "hit"),)),
    Row("get_misses", "gets_total", _RESULTS, (("result", "miss"),)),
    Row("errors", "errors_total", "Commands answered with an error"),
    Row("rejected_busy", "busy_total", "Commands refused because too much was in hand"),
    Row("bytes_read", "received_bytes_total", "Bytes from clients"),
    Row("bytes_written", "sent_bytes_total", "Bytes to clients"),
    Row("loop_stalls", "loop_stalls_total", "Times that the event loop was held up for over 10 ms (a sample)"),
    Row("bytes_held", "held_bytes", "Bytes of requests and answers in memory"),
    Row("in_flight", "requests_in_flight", "Requests not yet answered"),
    Row("curr_items", "files", "Files stored"),
)
"""What a memcache server of ours tells: nodes and proxies."""

_NODE_ROWS = (
    Row("state", "node_down", "Whether the node doesn't answer", equals="dead"),
    Row("state", "node_suspect", "Whether the node may have forgotten acknowledged writes", equals="suspect"),
    Row("oldest_unsynced_write_s", "node_oldest_unsynced_write_seconds", "Age of the oldest write not on disk yet"),
    Row("last_scrub_age_s", "node_last_scrub_age_seconds", "Time since the last scrub; not there before the first"),
    Row("corrupt_records", "node_corrupt_records_total", "Records that failed their checksum"),
    Row("damaged_records", "node_damaged_records", "Records known to be damaged that wait to be written again"),
    Row("reserve_short", "node_reserve_short", "Whether the reserve for a full disk is given away"),
    Row("disk_free_bytes", "node_disk_free_bytes", "Free room on the node's disk"),
)
"""What those above the nodes tell of each."""

_RISING = ("corrupt_records", "keys_repaired")


def families(prefix: str, rows: Iterable[Row], subjects: Mapping[str, Stats], label: str = "") -> Iterator[Metric]:
    """The metrics of a table with the figures of all `subjects`. Where there are several, their names are the values of
    `label`."""
    made: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for row in rows:
        for subject, stats in subjects.items():
            value = row.value_in(stats)
            if value is None:
                continue
            labels = ({label: subject} if label else {}) | dict(row.kinds)
            name = f"{prefix}_{row.metric}"
            if name not in made:
                kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                made[name] = kind(name, row.help, labels=tuple(labels))
            made[name].add_metric(tuple(labels.values()), value)
    yield from made.values()


def cluster_families(durability: Durability, nodes: Mapping[str, Stats]) -> Iterator[Metric]:
    """The verdict on the cluster and the figures that it comes from, as those above the nodes tell them."""
    state = GaugeMetricFamily("sfss_cluster_state", "How safe what is stored is: 1 for one state", labels=("state",))
    for name in STATES:
        state.add_metric((name,), float(name == durability.state))
    yield state
    for name, value in durability.figures.items():
        if value is None:
            continue
        metric = f"sfss_cluster_{name.removesuffix('_s')}{'_seconds' if name.endswith('_s') else ''}"
        kind = CounterMetricFamily if name in _RISING else GaugeMetricFamily
        yield kind(metric, FIGURES[name], value=value)
    yield from families("sfss_cluster", _NODE_ROWS, nodes, "node")


def build_family(tier: str) -> Metric:
    """Which version of which tier this is."""
    info = GaugeMetricFamily("sfss_build_info", "Version of the software", labels=("tier", "version"))
    info.add_metric((tier, __version__), 1.0)
    return info


class _Scrape:
    """What one scrape tells, as a registry wants it."""

    def __init__(self, told: Sequence[Metric]) -> None:
        self._told = told

    def collect(self) -> Iterable[Metric]:
        return self._told


def exposition(told: Iterable[Metric]) -> bytes:
    """The text that a scrape is answered with. The registry is the scrape's own: the library's global one would add
    figures of this one process, which the tiers tell better."""
    registry = CollectorRegistry()
    registry.register(_Scrape(tuple(told)))
    return generate_latest(registry)
