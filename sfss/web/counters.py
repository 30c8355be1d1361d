"""Figures of all worker processes together, in memory that they share.

The pages are made before the workers are forked. Each worker writes only its own slot, so no lock is needed: a
reader may see a figure that is a moment old, never one that is torn (64-bit aligned words). A worker that was
restarted takes over its predecessor's slot and counts on, so sums never fall; its gauges are reset.

Requests are counted in the process that answers them, and told to the others when that says so (`publish`): for each
request a word of the shared memory is ten times the work. What this process itself has counted is always told.

Percentiles are those of the last 10 to 20 seconds: a slot also keeps its histograms as they were at the last two marks,
and what counts is the difference to the older one.
"""

from __future__ import annotations

import mmap
import os
import resource
import threading
import time
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from mypy_extensions import i64

GAUGES: Final = (
    "pid",
    "started",
    "curr_connections",
    "threads",
    "rusage_user_us",
    "rusage_system_us",
    "rusage_maxrss",
    "body_bytes",
    "batches",
)
COUNTS: Final = (
    "total_connections",
    "rejected_connections",
    "restarts",
    "get_hits",
    "get_misses",
    "bytes_in",
    "bytes_out",
    "aborted",
    "retries",
    "retries_refused",
    "batch_files_given",
    "batch_files_stored",
    "batch_files_failed",
)
TIMED: Final = ("get", "head", "put", "post", "delete")
"""Operations whose latency is kept as a histogram."""

OPERATIONS: Final = (*TIMED, "batch_get", "batch_put", "other")
CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
"""Requests are counted by operation and by the class of the answer's status, together: one word for each pair."""

_BUCKETS: Final = 104
"""Four to each doubling of the microseconds, so a percentile is at most 25 % too high; the last starts at 50 s."""

_ANSWERS: Final = tuple(f"{operation}_{kind}" for operation in OPERATIONS for kind in CLASSES)

_NAMES: Final = GAUGES + COUNTS + _ANSWERS
_SLOT: Final = {name: index for index, name in enumerate(_NAMES)}
_HISTOGRAM: Final = {name: index * (_BUCKETS + 1) for index, name in enumerate(TIMED)}
"""Where each one's buckets begin; the word behind them has all its latencies added up, in microseconds."""

_HISTOGRAMS_START: Final = len(_NAMES)
_HISTOGRAMS_WORDS: Final = len(TIMED) * (_BUCKETS + 1)
_NOW: Final = slice(_HISTOGRAMS_START, _HISTOGRAMS_START + _HISTOGRAMS_WORDS)
_LAST_MARK: Final = slice(_NOW.stop, _NOW.stop + _HISTOGRAMS_WORDS)
_MARK_BEFORE: Final = slice(_LAST_MARK.stop, _LAST_MARK.stop + _HISTOGRAMS_WORDS)
_WORDS: Final = _MARK_BEFORE.stop

_COUNTED: Final = slice(0, _NOW.stop)
"""What is counted here, and published."""

MARK_S: Final = 10.0


def bucket_of(microseconds: int) -> int:
    """The histogram bucket that a latency falls into."""
    if microseconds < 4:
        return microseconds
    bits = microseconds.bit_length()
    return min(((bits - 2) << 2) | ((microseconds >> (bits - 3)) & 3), _BUCKETS - 1)


def bucket_ceiling(bucket: int) -> int:
    """The least latency, in microseconds, that lies above a bucket."""
    if bucket < 4:
        return bucket + 1
    octave, quarter = bucket >> 2, bucket & 3
    return (4 + quarter + 1) << (octave - 1)


class _Operation:
    """Where an operation is counted; and what of it is the same for most requests, as words of C until it is added to
    the others. `histogram`: the first word of its latencies, -1 where none are kept."""

    __slots__ = ("answered", "done", "histogram", "microseconds")

    def __init__(self, name: str) -> None:
        self.answered = _SLOT[f"{name}_1xx"] - 1
        self.histogram = _HISTOGRAMS_START + _HISTOGRAM[name] if name in _HISTOGRAM else -1
        self.done: i64 = 0
        """Answered by 2xx."""
        self.microseconds: i64 = 0

    def add_to(self, counts: list[int]) -> None:
        """Count what came since the last time."""
        counts[self.answered + 2] += self.done
        if self.histogram >= 0:
            counts[self.histogram + _BUCKETS] += self.microseconds
        self.done = self.microseconds = 0


_BYTES_IN: Final = _SLOT["bytes_in"]
_BYTES_OUT: Final = _SLOT["bytes_out"]
_HITS: Final = _SLOT["get_hits"]
_MISSES: Final = _SLOT["get_misses"]


class WorkerCounters:
    """One worker's own slot. Get it from `SharedCounters.worker`, in the worker's process."""

    def __init__(self, words: memoryview, index: int) -> None:
        self._words = words[index * _WORDS : (index + 1) * _WORDS]
        self._counted = self._words[_COUNTED]
        self._counts: list[int] = self._counted.tolist()
        self._operations = {name: _Operation(name) for name in OPERATIONS}
        self._bytes_in: i64 = 0
        self._bytes_out: i64 = 0
        self._marked_at = float("-inf")

    def start(self) -> None:
        """Take the slot over for this process."""
        if self.get("pid"):
            self.add("restarts")
        for name in GAUGES:
            self.set(name, 0)
        self.set("pid", os.getpid())
        self.set("started", int(time.time()))

    def publish(self) -> None:
        """Let other processes see what was counted here."""
        self._add_up()
        self._counted[:] = array("Q", self._counts)

    def add(self, name: str, count: int = 1) -> None:
        self.set(name, self.get(name) + count)

    def get(self, name: str) -> int:
        self._add_up()
        return self._counts[_SLOT[name]]

    def set(self, name: str, value: int) -> None:
        """Set a figure, also for other processes."""
        self._counts[_SLOT[name]] = self._words[_SLOT[name]] = value

    def answered(self, operation: str, status: int, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """Count one request, to be published soon. `operation` is one of `OPERATIONS`."""
        counted = self._operations[operation]
        self._bytes_in += bytes_in
        self._bytes_out += bytes_out
        if 200 <= status < 300:
            counted.done += 1
        else:
            self._counts[counted.answered + status // 100] += 1
            if operation == "get" and status == 404:
                self._counts[_MISSES] += 1
        if counted.histogram >= 0:
            microseconds = int(seconds * 1e6)
            bucket = counted.histogram + bucket_of(microseconds)
            self._counts[bucket] = self._counts[bucket] + 1  # `+=` of an item is compiled to an addition of objects
            counted.microseconds += microseconds

    def _add_up(self) -> None:
        counts = self._counts
        counts[_HITS] += self._operations["get"].done
        for operation in self._operations.values():
            operation.add_to(counts)
        counts[_BYTES_IN] += self._bytes_in
        counts[_BYTES_OUT] += self._bytes_out
        self._bytes_in = self._bytes_out = 0

    def measure_process(self, now: float) -> None:
        """Refresh what the system knows of this process, and mark the histograms. `now` is `time.monotonic()`; to be
        called every second or so."""
        if now >= self._marked_at + MARK_S:
            self._marked_at = now
            self.publish()
            self._words[_MARK_BEFORE] = self._words[_LAST_MARK]
            self._words[_LAST_MARK] = self._words[_NOW]
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.set("rusage_user_us", int(usage.ru_utime * 1e6))
        self.set("rusage_system_us", int(usage.ru_stime * 1e6))
        self.set("rusage_maxrss", usage.ru_maxrss)
        self.set("threads", threading.active_count())


class RequestCounts(NamedTuple):
    """Requests by operation and class of status; and of each timed operation how many fell into each bucket (its
    `bucket_ceiling`), and all its latencies added up, in seconds."""

    answered: dict[tuple[str, str], int]
    latencies: dict[str, list[int]]
    seconds: dict[str, float]


class SharedCounters:
    """The slots of `workers` processes in one anonymous shared mapping."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._words = memoryview(mmap.mmap(-1, workers * _WORDS * 8)).cast("Q")
        self._own: dict[int, WorkerCounters] = {}

    def worker(self, index: int) -> WorkerCounters:
        """The slot that this process counts in from now on."""
        own = self._own.get(index)
        if own is None:
            own = self._own[index] = WorkerCounters(self._words, index)
        return own

    def figures(self, now: float) -> dict[str, object]:
        """All workers together, and `workers`: the same for each. `now` is
        Unix seconds. Values are strings, as in the other parts of /status; `latency_*` are recent percentiles in
        microseconds, not there when there was nothing to measure."""
        alive, together = self._read()
        together[_SLOT["started"]] = min((slot[_SLOT["started"]] for slot in alive), default=0)
        together[_SLOT["pid"]] = alive[0][_SLOT["pid"]] if len(alive) == 1 else os.getppid()
        return _named(together, now) | {"workers": [_named(slot, now) for slot in alive]}

    def _read(self) -> tuple[list[list[int]], list[int]]:
        """The slots in use, and all of them added up."""
        for own in self._own.values():
            own.publish()
        slots = [self._words[index * _WORDS : (index + 1) * _WORDS].tolist() for index in range(self._workers)]
        alive = [slot for slot in slots if slot[_SLOT["pid"]]]
        return alive, [sum(words) for words in zip(*alive, strict=True)] if alive else [0] * _WORDS

    def requests(self) -> RequestCounts:
        """What all workers together have answered since the start."""
        words = self._read()[1]
        return RequestCounts(
            {(operation, kind): words[_SLOT[f"{operation}_{kind}"]] for operation in OPERATIONS for kind in CLASSES},
            {name: words[_NOW][first : first + _BUCKETS] for name, first in _HISTOGRAM.items()},
            {name: words[_NOW][first + _BUCKETS] / 1e6 for name, first in _HISTOGRAM.items()},
        )


def _named(words: Sequence[int], now: float) -> dict[str, object]:
    figures: dict[str, object] = {
        name: str(words[_SLOT[name]]) for name in GAUGES + COUNTS if name not in ("started", "restarts")
    }
    for operation in OPERATIONS:
        figures[f"requests_{operation}"] = str(sum(words[_SLOT[f"{operation}_{kind}"]] for kind in CLASSES))
    for kind in CLASSES:
        figures[f"status_{kind}"] = str(sum(words[_SLOT[f"{operation}_{kind}"]] for operation in OPERATIONS))
    for name in ("rusage_user", "rusage_system"):
        microseconds = words[_SLOT[f"{name}_us"]]
        figures[name] = f"{microseconds // 1_000_000}.{microseconds % 1_000_000:06d}"
        del figures[f"{name}_us"]
    figures["time"] = str(int(now))
    figures["uptime"] = str(max(0, int(now) - words[_SLOT["started"]]))
    figures["restarts"] = str(words[_SLOT["restarts"]])
    recent = [count - earlier for count, earlier in zip(words[_NOW], words[_MARK_BEFORE], strict=True)]
    for name, first in _HISTOGRAM.items():
        counts = recent[first : first + _BUCKETS]
        if any(counts):
            for percent in (50, 90, 99):
                figures[f"latency_{name}_p{percent}_us"] = str(percentile(counts, percent))
    return figures


def percentile(counts: Sequence[int], percent: int) -> int:
    """The ceiling, in microseconds, of the bucket in which the given percentile lies; 0 when nothing was counted."""
    rank = sum(counts) * percent / 100
    passed = 0
    for bucket, count in enumerate(counts):
        passed += count
        if count and passed >= rank:
            return bucket_ceiling(bucket)
    return 0
