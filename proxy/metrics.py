"""A proxy's figures as Prometheus reads them: its own, how it sees each node, and the verdict on the cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from sfss.durability import durability_of
from sfss.http.metrics import MEMCACHE_ROWS, Row, build_family, cluster_families, families

_LATENCY = "Latency of a node as this proxy sees it, lately"

_ROWS = (
    *MEMCACHE_ROWS,
    Row("write_bytes_in_flight", "write_bytes_in_flight", "Bytes of the values of writes not yet answered"),
    Row("busy", "coordinator_busy_total", "Requests refused because too much was in flight"),
    Row("quorum_failures", "quorum_failures_total", "Requests that too few nodes answered"),
    Row("unknown_outcomes", "unknown_outcomes_total", "Writes that failed and may still show"),
    Row("corrupt", "corrupt_answers_total", "Answers of nodes whose bytes failed their checksum"),
    Row("hedges", "hedged_reads_total", "Reads that asked one more node because the first was slow"),
    Row("restamped", "restamped_writes_total", "Writes whose first stamp was below what every replica held"),
    Row("write_backs", "write_backs_total", "Records that reads brought to replicas that lacked them"),
    Row("keys_written_by_others", "shared_keys", "Keys that another coordinator was lately seen to write"),
    Row("hints_waiting", "hints", "Writes kept for replicas that were away"),
    Row("hints_bytes", "hints_bytes", "Room that they take"),
    Row("hints_oldest_s", "hints_oldest_seconds", "Age of the oldest"),
    Row("hints_replayed", "hints_replayed_total", "Writes brought to a replica that was back"),
    Row("hints_dropped", "hints_dropped_total", "Writes no longer kept, for lack of room or for their age"),
    Row(
        "comparison_oldest_s", "comparison_oldest_seconds", "Time since the comparison of replicas that is longest ago"
    ),
    Row("comparison_marked", "comparison_marked_regions", "Regions, of 256, that wait because copies may be missing"),
    Row("comparison_partitions", "compared_partitions_total", "Partitions whose replicas were compared"),
    Row("comparison_bytes", "comparison_bytes_total", "Bytes that comparisons moved"),
    Row("comparison_repaired_keys", "repaired_keys_total", "Keys brought to replicas that lacked them"),
    Row("comparison_repaired_bytes", "repaired_bytes_total", "Bytes of these"),
    Row("comparison_unrepaired", "unrepaired_keys_total", "Keys that differed and could not be repaired then"),
    Row(
        "refill_regions_left", "refill_regions_left", "Regions, of 256, that suspect nodes have yet to be refilled with"
    ),
    Row("refill_keys", "refilled_keys_total", "Keys that suspect nodes were refilled with"),
    Row("refill_bytes", "refilled_bytes_total", "Bytes of these"),
    Row("refilled_nodes", "refilled_nodes_total", "Suspect nodes that were refilled"),
    Row("adopted_nodes", "adopted_nodes_total", "Empty nodes that were given the place of one that was lost"),
    Row("ring_number", "ring_number", "Number of the ring"),
    Row("ring_joint", "ring_joint", "Whether the ring is on its way to another one"),
)

_OF_NODE = (
    Row("state", "node_up", "Whether requests are sent to the node", equals="ok"),
    Row("failures", "node_failures_total", "Requests to the node that failed or were not answered in time"),
    Row("hints_waiting", "node_hints", "Writes kept for the node"),
    *(
        Row(
            f"{operation}_{name}_us",
            "node_latency_seconds",
            _LATENCY,
            (("operation", operation), ("quantile", part)),
            1e-6,
        )
        for operation in ("read", "inspect", "apply")
        for name, part in (("p50", "0.5"), ("p99", "0.99"))
    ),
)
"""What is told of each node, as `<node>/<figure>`."""


def proxy_families(proxy: str, stats: Mapping[str, str], storages: Mapping[str, Mapping[str, str]]) -> Iterator[Metric]:
    """The metrics of the proxy at address `proxy`, whose STATS are `stats`; `storages` has those of the nodes."""
    yield build_family("proxy")
    yield from families("sfss_proxy", _ROWS, {"": stats})
    seen: dict[str, dict[str, str]] = {}
    for name, value in stats.items():
        node, slash, figure = name.rpartition("/")
        if slash:
            seen.setdefault(node, {})[figure] = value
    yield from families("sfss_proxy", _OF_NODE, seen, "node")
    yield from cluster_families(durability_of({proxy: stats}, storages), storages)
