"""The web tier's own figures as Prometheus reads them: of all worker processes together, whichever of them is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from sfss.http.metrics import SERVER_ROWS, Row, build_family, families
from sfss.web.counters import TIMED, RequestCounts, SharedCounters, bucket_ceiling

_BATCH_FILES = "Files of batches; failed are those with another status than 200"

_ROWS = (
    *SERVER_ROWS,
    Row("restarts", "worker_restarts_total", "Worker processes that ended and were replaced"),
    Row("get_hits", "gets_total", "Files looked for", (("result", "hit"),)),
    Row("get_misses", "gets_total", "Files looked for", (("result", "miss"),)),
    Row("bytes_in", "received_bytes_total", "Bytes of bodies from clients"),
    Row("bytes_out", "sent_bytes_total", "Bytes of bodies to clients"),
    Row("aborted", "aborted_total", "Answers whose client was gone before their end"),
    Row("retries", "retries_total", "Tries after a request's first", (("result", "made"),)),
    Row("retries_refused", "retries_total", "Tries after a request's first", (("result", "refused"),)),
    Row("batch_files_given", "batch_files_total", _BATCH_FILES, (("result", "given"),)),
    Row("batch_files_stored", "batch_files_total", _BATCH_FILES, (("result", "stored"),)),
    Row("batch_files_failed", "batch_files_total", _BATCH_FILES, (("result", "failed"),)),
    Row("batches", "batches_in_hand", "Batches not yet answered"),
    Row("body_bytes", "body_bytes", "Bytes of bodies in memory"),
)

_BOUNDS = range(27, 96, 4)
"""One bucket of each doubling, from 256 µs to 34 s: a Prometheus keeps each as a series of its own, and what lies
between is of use only to percentiles, which `/status` has."""

_METHODS = {name: name.upper() for name in TIMED} | {
    "batch_get": "batch_get",
    "batch_put": "batch_put",
    "other": "other",
}
"""What isn't about a file, as `/status`, is `other`."""


def web_families(counters: SharedCounters, now: float) -> Iterator[Metric]:
    """The web tier's metrics. `now` is Unix seconds."""
    counted = counters.requests()
    yield build_family("web")
    requests = CounterMetricFamily("sfss_web_requests", "Requests answered", labels=("method", "code"))
    for (operation, kind), count in counted.answered.items():
        requests.add_metric((_METHODS[operation], kind), count)
    yield requests
    yield _latencies(counted)
    told: Mapping[str, Any] = counters.figures(now)
    yield from families("sfss_web", _ROWS, {"": told})


def _latencies(counted: RequestCounts) -> Metric:
    latencies = HistogramMetricFamily(
        "sfss_web_request_seconds", "From the end of a request's head to its answer", labels=("method",)
    )
    for operation, counts in counted.latencies.items():
        buckets = [(str(bucket_ceiling(last) / 1e6), float(sum(counts[: last + 1]))) for last in _BOUNDS]
        buckets.append(("+Inf", float(sum(counts))))
        latencies.add_metric((_METHODS[operation],), buckets, counted.seconds[operation])
    return latencies
