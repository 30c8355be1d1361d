"""A node's figures as Prometheus reads them: what `stats` tells, by its rules for names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from sfss.http.metrics import MEMCACHE_ROWS, Row, build_family, families

_ROWS = (
    *MEMCACHE_ROWS,
    Row("state", "suspect", "Whether acknowledged writes may have been forgotten", equals="suspect"),
    Row("sync", "sync_always", "Whether writes are on disk before they are acknowledged", equals="always"),
    Row("total_items", "files_stored_total", "Files written"),
    Row("live_bytes", "live_bytes", "Bytes of the records that count"),
    Row("dead_bytes", "garbage_bytes", "Bytes of records that count no more and wait for compaction"),
    Row("volumes", "volumes", "Volumes, spares not counted"),
    Row("spare_volumes", "spare_volumes", "Volumes made ahead or left over, to be written next"),
    Row("fsyncs", "fsyncs_total", "Batches made durable"),
    Row("oldest_unsynced_write_s", "oldest_unsynced_write_seconds", "Age of the oldest write that is not on disk yet"),
    Row("pending_writes", "pending_writes", "Writes that wait for the disk"),
    Row("pending_bytes", "pending_bytes", "Bytes that wait for the disk"),
    Row("unindexed_records", "unindexed_records", "Durable records that are not in the index yet"),
    Row("index_commits", "index_commits_total", "Commits of the index"),
    Row("corrupt_records", "corrupt_records_total", "Records that failed their checksum when read"),
    Row("damaged_records", "damaged_records", "Records known to be damaged that wait to be written again"),
    Row("tombstones", "tombstones", "Tombstones held, those included that are purged and wait for compaction"),
    Row("dropped_tombstones", "dropped_tombstones_total", "Purged tombstones and expired files that are gone for good"),
    Row("cold_reads", "cold_reads_total", "Reads that waited for the disk"),
    Row("cached_reads", "cached_reads_total", "Reads of files, or of their versions, from the node's own memory"),
    Row("cached_files", "cached_files", "Files of which it has the bytes or the version"),
    Row("cached_bytes", "cached_bytes", "Bytes that they take there"),
    Row("compacted_volumes", "compacted_volumes_total", "Volumes compacted"),
    Row("compacted_bytes", "compacted_bytes_total", "Bytes copied by compaction"),
    Row(
        "compaction_turn_max_ms",
        "compaction_turn_max_seconds",
        "Longest that compaction held the event loop",
        scale=0.001,
    ),
    Row(
        "compaction_append_max_ms",
        "compaction_append_max_seconds",
        "Longest that a slice of compaction was on its way to disk",
        scale=0.001,
    ),
    Row("scrubbed_bytes", "scrubbed_bytes_total", "Bytes read in search of rot"),
    Row("scrub_faults", "scrub_faults_total", "Faults that scrubbing found"),
    Row("scrub_passes", "scrub_passes_total", "Times that everything was scrubbed"),
    Row("scrub_left_bytes", "scrub_left_bytes", "Bytes that the pass under way has yet to read"),
    Row("last_scrub_age_s", "last_scrub_age_seconds", "Time since the last such time; not there before the first"),
    Row("reserve_bytes", "reserve_bytes", "Room kept for a full disk"),
    Row("reserve_short", "reserve_short", "Whether some of it is given away"),
    Row("disk_free_bytes", "disk_free_bytes", "Free room on the disk"),
    Row("appended_bytes", "appended_bytes_total", "Bytes written to volumes"),
    Row("replayed_records", "replayed_records", "Records that the last start took from volumes"),
    Row("epoch", "epoch", "Number of this start"),
)


def node_families(stats: Mapping[str, str]) -> Iterator[Metric]:
    """The metrics of a node whose STATS are these."""
    yield build_family("node")
    yield from families("sfss_node", _ROWS, {"": stats})
