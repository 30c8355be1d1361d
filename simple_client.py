#!/usr/bin/env python3
"""Command-line client and benchmark for sfss. One file: it needs Python 3.11 and click, and nothing of sfss.

    simple_client.py --host 127.0.0.1 --port 8255 --path folder/file.ext --filepath /local/file    post a file
    simple_client.py get | put | rm | explain --path folder/file.ext …                             one file
    simple_client.py put -r FOLDER [PREFIX] · get -r LIST FOLDER                                    many, in batches
    simple_client.py bench …                                                                       load

Exit status: 0 done · 1 the server refused or failed · 2 wrong usage · 3 the server can't be reached · 4 no such file ·
5 `bench` read bytes that were never written. Of many files 1 when any failed, 4 when some are missing and none failed.

How the benchmark stays honest: every value is derived from its path and generation, so a read is compared whole,
and an old one is told from a current one; one write of a path is in flight at a time. With `--rate` requests start
by a schedule and their latency is counted from the moment they were due, whether or not a connection was free.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import itertools
import json
import multiprocessing
import os
import random
import resource
import select
import selectors
import shutil
import signal
import socket
import ssl
import stat
import sys
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait as wait_for_pipes
from typing import Any, BinaryIO, NoReturn
from urllib.parse import quote

try:
    import click
except ImportError:
    sys.stderr.write(
        "simple_client.py needs click: run it with .venv/bin/python (`make run` makes it), or install click\n"
    )
    sys.exit(2)

VERSION = "0.1.0"
"""That of the sfss it comes with."""

DONE, FAILED, USAGE, UNREACHABLE, NOT_FOUND, WRONG_BYTES = range(6)
CHUNK_BYTES = 64 * 1024

# --- one server, one request at a time ---------------------------------------------------------------------------


Address = tuple[socket.AddressFamily, Any]
"""Family and socket address of the server, as one connection found them."""


@dataclass(frozen=True)
class Target:
    """Where the web tier is. `tls` speaks HTTPS; `cafile` names the authority to trust, `insecure` trusts anybody."""

    host: str
    port: int
    tls: bool = False
    cafile: str | None = None
    insecure: bool = False
    timeout_s: float = 15.0

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port as in a URL and in the Host field."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def context(self) -> ssl.SSLContext | None:
        """What to check a certificate by; None without TLS. Raises `OSError` for an unreadable `cafile`."""
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=self.cafile)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def connection(self) -> http.client.HTTPConnection:
        context = self.context()
        if context is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=self.timeout_s)
        return http.client.HTTPSConnection(self.host, self.port, timeout=self.timeout_s, context=context)

    def find(self) -> Address:
        """Connect once, to learn which of the host's addresses answers. Raises what `trouble` explains."""
        trial = self.connection()
        trial.connect()
        try:
            return trial.sock.family, trial.sock.getpeername()
        finally:
            trial.close()

    def trouble(self, error: Exception) -> str:
        """One line for a server that did not answer, which says what to do."""
        if isinstance(error, ConnectionRefusedError):
            return f"nothing listens on {self.authority}; start the server (`make run`) or name it by --host and --port"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{self.authority} is not trusted ({error.verify_message}); see --cafile and --insecure"
        if isinstance(error, ssl.SSLError):
            return f"{self.authority} does not speak HTTPS as expected ({error.reason}); leave out --ssl for plain HTTP"
        if isinstance(error, TimeoutError):
            return f"{self.authority} did not answer within {self.timeout_s:g} s"
        if isinstance(error, http.client.HTTPException):
            return f"{self.authority} does not speak HTTP as expected ({error!r}); does it want --ssl?"
        return f"{self.authority} can't be reached: {getattr(error, 'strerror', None) or error}"


def file_target(resource: str, path: str) -> str:
    """The request target of a path, percent-encoded once. What is no UTF-8 is left for the server to refuse."""
    return f"/{resource}?path={quote(path, safe='/', errors='surrogateescape')}"


class MultipartFile:
    """A file as the only part, named upload_file, of a form; what `curl -F upload_file=@file` sends."""

    def __init__(self, source: BinaryIO, name: str) -> None:
        boundary = uuid.uuid4().hex
        # Browsers and curl write a file name's quotes this way.
        shown = name.translate({ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"})
        self._source = source
        self._head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="upload_file"; filename="{shown}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode(errors="surrogateescape")
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._size = os.fstat(source.fileno()).st_size
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(self._head) + self._size + len(self._tail)),
        }

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        left = self._size
        while left and (chunk := self._source.read(min(left, CHUNK_BYTES))):
            left -= len(chunk)
            yield chunk
        if left:
            raise click.ClickException("the local file became shorter while it was sent; nothing was stored")
        yield self._tail


@dataclass(frozen=True)
class Answer:
    """What the server said to one request."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytes = b""

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    def lines(self) -> str:
        """Status, the fields that sfss adds, and the body, for people."""
        fields = [
            f"{name}: {self.headers[name]}" for name in ("ETag", "Sfss-Durable", "Sfss-Outcome") if name in self.headers
        ]
        first = "  ".join([f"{self.status} {self.reason}", *fields])
        text = self.body.decode("utf-8", "replace").strip()
        return f"{first}\n{text}" if text else first


def exchange(
    target: Target,
    method: str,
    resource: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    sink: Callable[[bytes], object] | None = None,
) -> Answer:
    """Send one request. A good answer's body goes to `sink`, chunk by chunk, where one is given.

    Ends the program with one line when there is no answer, or a body shorter than announced.
    """
    connection = target.connection()
    try:
        try:
            connection.request(method, resource, body=body, headers=headers or {})
        except (BrokenPipeError, ConnectionResetError):
            # A server that refuses a body (413) answers and closes before all of it is sent; the answer says why.
            if connection.sock is None:
                raise
        response = connection.getresponse()
        answer = Answer(response.status, response.reason, response.headers)
        if sink is not None and answer.good:
            while chunk := response.read(CHUNK_BYTES):
                sink(chunk)
            # http.client ends a sized read quietly when the connection does.
            if response.length:
                fail(FAILED, f"the answer of {target.authority} ended {response.length} bytes early")
            return answer
        return Answer(response.status, response.reason, response.headers, response.read())
    except http.client.IncompleteRead as error:
        fail(FAILED, f"the answer of {target.authority} ended {error.expected} bytes early")
    except (OSError, http.client.HTTPException) as error:
        fail(UNREACHABLE, target.trouble(error))
    finally:
        connection.close()


def fail(status: int, message: str) -> NoReturn:
    """End the program with one line on standard error."""
    click.echo(f"simple_client.py: {message}", err=True)
    sys.exit(status)


def finish(answer: Answer) -> None:
    """Print what the server said, and end with the status that goes with it."""
    click.echo(answer.lines(), err=not answer.good)
    if not answer.good:
        sys.exit(NOT_FOUND if answer.status == 404 else FAILED)


# --- figures: latencies that can be merged, sizes that are mixed -----------------------------------------------


class Histogram:
    """Counts of latencies in microseconds, in slots less than 0.8 % wide; merging two loses nothing.

    Below 256 µs each microsecond has its slot; above, each power of two has 128.
    """

    __slots__ = ("count", "counts", "max")

    def __init__(self) -> None:
        self.counts: list[int] = [0] * (128 * 32)  # up to 2^38 µs, three days
        self.count = 0
        self.max = 0

    def record(self, microseconds: int, count: int = 1) -> None:
        shift = max(microseconds.bit_length() - 8, 0)
        self.counts[(shift << 7) + (microseconds >> shift)] += count
        self.count += count
        if microseconds > self.max:
            self.max = microseconds

    def merge(self, other: Histogram) -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.count += other.count
        self.max = max(self.max, other.max)

    def percentile(self, percent: float) -> int:
        """Microseconds within which `percent` of all were; rounded up to the slot's end, 0 when empty."""
        wanted = self.count * percent / 100.0
        seen = 0
        for slot, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                shift = max((slot >> 7) - 1, 0)
                return min((((slot - (shift << 7)) + 1) << shift) - 1, self.max)
        return self.max

    def milliseconds(self) -> dict[str, float]:
        """The four figures that are shown."""
        shown = {"p50_ms": self.percentile(50), "p90_ms": self.percentile(90), "p99_ms": self.percentile(99)}
        return {name: value / 1000.0 for name, value in shown.items()} | {"max_ms": self.max / 1000.0}


def parse_size(text: str) -> int:
    """Bytes of `4k`, `1m`, `100b` or `100`. Raises `ValueError`."""
    units = {"b": 1, "k": 1024, "m": 1024 * 1024}
    text = text.strip().lower()
    factor = units.get(text[-1:], 0)
    return int(text[:-1]) * factor if factor else int(text)


def parse_mix(text: str) -> dict[int, float]:
    """Weights by size in bytes of `4k:80,64k:15,1m:5`; a size without a weight weighs 1. Raises `ValueError`."""
    mix: dict[int, float] = {}
    for entry in text.split(","):
        size_text, _, weight_text = entry.partition(":")
        size, weight = parse_size(size_text), float(weight_text or 1)
        if not 0 <= size <= VALUE_BYTES_MAX:
            raise ValueError(f"a size is 0 to {VALUE_BYTES_MAX} bytes, not {size}")
        if not weight > 0:
            raise ValueError(f"a weight is above 0, not {weight_text}")
        mix[size] = mix.get(size, 0.0) + weight
    return mix


def deal_sizes(mix: dict[int, float], count: int) -> list[int]:
    """Give `count` files their sizes, in proportion to the weights to within one file, spread evenly."""
    total = sum(mix.values())
    dealt: Counter[int] = Counter()
    sizes = []
    for number in range(1, count + 1):
        size = max(mix, key=lambda size: mix[size] * number / total - dealt[size])
        dealt[size] += 1
        sizes.append(size)
    return sizes


# --- values that prove themselves ---------------------------------------------------------------------------------

VALUE_BYTES_MAX = 2 * 1024 * 1024
_OFFSETS = 1 << 20
_NOISE = b""


def noise() -> bytes:
    """3 MiB that don't compress, the same in every run; a value is a window of it that path and generation choose."""
    global _NOISE
    if not _NOISE:
        _NOISE = hashlib.shake_128(b"sfss bench").digest(VALUE_BYTES_MAX + _OFFSETS)
    return _NOISE


class BenchFile:
    """One path, its prebuilt requests, and which of its generations a read may find.

    `acknowledged` is the newest generation that the server has confirmed (0: none), `issued` the newest one sent. A
    read that starts now must find one of them or one between. `size` is in bytes and stays.
    """

    __slots__ = ("acknowledged", "delete_request", "get_request", "issued", "name", "put_head", "size", "writing")

    def __init__(self, target: Target, path: str, size: int) -> None:
        rest = f"{file_target('file', path)} HTTP/1.1\r\nHost: {target.authority}\r\n"
        self.name = path.encode()
        self.size = size
        self.get_request = f"GET {rest}\r\n".encode()
        self.delete_request = f"DELETE {rest}\r\n".encode()
        self.put_head = f"PUT {rest}Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n".encode()
        self.acknowledged = 0
        self.issued = 0
        self.writing = False

    def value(self, generation: int) -> tuple[bytes, int, int]:
        """The head of a generation's bytes, and where in `noise` the rest starts and ends."""
        head = b"%d %b\n" % (generation, self.name)
        offset = zlib.crc32(head) % _OFFSETS
        return head[: self.size], offset, offset + max(self.size - len(head), 0)

    def holds(self, body: memoryview, generation: int) -> bool:
        head, start, end = self.value(generation)
        return (
            len(body) == self.size
            and body[: len(head)] == head
            # startswith compares with memcmp and copies nothing; memoryviews compare byte by byte in Python's own loop.
            and (start == end or noise().startswith(body[len(head) :], start))
        )

    def fault(self, body: memoryview, oldest: int) -> str:
        """What is wrong with a body read: empty when it is whole and of generation `oldest` or newer."""
        for generation in range(self.issued, max(oldest, 1) - 1, -1):
            if self.holds(body, generation):
                return ""
        if len(body) != self.size:
            return "wrong length"
        for generation in range(1, oldest):
            if self.holds(body, generation):
                return "older than acknowledged"
        return "wrong bytes"


# --- what to send next, and when ---------------------------------------------------------------------------------

GET, PUT, DELETE = "GET", "PUT", "DELETE"


@dataclass(slots=True)
class Operation:
    """One request. `started` is what its latency counts from, in monotonic seconds: when it was due, or when it was
    first sent. `generation` is the one that a PUT writes, once it was sent."""

    kind: str
    file: BenchFile
    started: float | None = None
    generation: int = 0


class Listed:
    """One operation of one kind for each file, as fast as they go: filling and clearing up."""

    def __init__(self, kind: str, files: list[BenchFile]) -> None:
        self.kind = kind
        self._left = [Operation(kind, file) for file in files]
        self._left.reverse()
        self.unsent = 0
        self.unsent_oldest_s = 0.0

    def next(self, now: float) -> Operation | None:
        return self._left.pop() if self._left else None

    def wait_s(self, now: float) -> float | None:
        """Seconds until `next` has more to do; None when it never will."""
        return 0.0 if self._left else None

    def end(self, now: float) -> None:
        self.unsent += len(self._left)
        self._left.clear()


class Mixed:
    """Random reads and writes until a time or a count is reached: at once, or by a schedule.

    `due` is when the n-th operation has to start, in seconds from the start, for an open loop; None for a closed one.
    `unsent` are those that were due before the end and found no free connection until then, the oldest for
    `unsent_oldest_s`.
    """

    def __init__(
        self,
        files: list[BenchFile],
        reads: float,
        seed: int,
        start: float,
        end: float,
        count_max: int | None = None,
        due: Callable[[int], float] | None = None,
    ) -> None:
        self._files = files
        self._reads = reads
        self._random = random.Random(seed).random
        self._start = start
        self._end = end
        self._count_max = sys.maxsize if count_max is None else count_max
        self._due = due
        self._count = 0
        self.unsent = 0
        self.unsent_oldest_s = 0.0

    def next(self, now: float) -> Operation | None:
        if self._count >= self._count_max or now >= self._end:
            return None
        due = None
        if self._due is not None:
            due = self._start + self._due(self._count)
            if due > now or due >= self._end:
                return None
        self._count += 1
        index = int(self._random() * len(self._files))
        if self._random() < self._reads:
            return Operation(GET, self._files[index], due)
        # One write of a path at a time, else nobody could say which of two the server must keep.
        while self._files[index].writing:
            index = (index + 1) % len(self._files)
        return Operation(PUT, self._files[index], due)

    def wait_s(self, now: float) -> float | None:
        if self._count >= self._count_max or now >= self._end:
            self.end(now)
            return None
        if self._due is None:
            return 0.0
        due = self._start + self._due(self._count)
        return max(due - now, 0.0) if due < self._end else None

    def end(self, now: float) -> None:
        """Send nothing more; count what was due by now."""
        if self._due is not None:
            limit = min(self._end, now)
            if self._count < self._count_max:
                self.unsent_oldest_s = max(limit - self._start - self._due(self._count), 0.0)
            while self._count < self._count_max and self._start + self._due(self._count) < limit:
                self._count += 1
                self.unsent += 1
        self._count_max = self._count


def schedule(rate: float, process: int, processes: int) -> Callable[[int], float]:
    """When the n-th operation of one process is due, in seconds, so that all together start `rate` a second, evenly."""
    return lambda number: (process + number * processes) / rate


# --- the loop that sends and receives ------------------------------------------------------------------------------

RECEIVE_BYTES = 256 * 1024
HEAD_BYTES_MAX = 16 * 1024
RECONNECT_S = 0.1
IDLE_S = 1.0
SWEEP_S = 0.25
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@dataclass
class Tally:
    """What one process measured in one phase; merged over processes.

    `cpu` and `busy` are one figure a process: the share of a core used, and the share of time not spent waiting for
    the server. `turns` are the microseconds that the loop took from one wait to the next: an answer may have lain
    unseen that long. `repeated` counts requests sent again because the server had closed an idle connection. `gone`:
    the phase ended because no connection could be opened any more.
    """

    latencies: dict[str, Histogram] = field(default_factory=dict)
    bytes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    wall_s: float = 0.0
    cpu: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    turns: Histogram = field(default_factory=Histogram)
    repeated: int = 0
    unsent: int = 0
    unsent_oldest_s: float = 0.0
    stopped: bool = False
    gone: bool = False

    def merge(self, other: Tally) -> None:
        for kind, histogram in other.latencies.items():
            self.latencies.setdefault(kind, Histogram()).merge(histogram)
        self.bytes += other.bytes
        self.errors += other.errors
        self.wrong += other.wrong
        self.wall_s = max(self.wall_s, other.wall_s)
        self.cpu += other.cpu
        self.busy += other.busy
        self.turns.merge(other.turns)
        self.repeated += other.repeated
        self.unsent += other.unsent
        self.unsent_oldest_s = max(self.unsent_oldest_s, other.unsent_oldest_s)
        self.stopped |= other.stopped
        self.gone |= other.gone

    @property
    def done(self) -> int:
        return sum(histogram.count for histogram in self.latencies.values())


class Link:
    """One connection and the request it carries. `out` waits to be sent; `body` is filled up to `got`.

    `sent_at` is when the request, or before the first one the connection, was begun; `idle_s` how long it had carried
    none. `used`: it is set up.
    """

    __slots__ = (
        "body",
        "closing",
        "free_at",
        "got",
        "handshaking",
        "head",
        "idle_s",
        "mask",
        "oldest",
        "operation",
        "out",
        "sent_at",
        "sock",
        "status",
        "used",
    )

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.mask = 0
        self.handshaking = False
        self.out: list[bytes | memoryview] = []
        self.operation: Operation | None = None
        self.sent_at = self.free_at = time.monotonic()
        self.idle_s = 0.0
        self.oldest = 0
        self.head = b""  # of an answer whose head came in pieces
        self.status = 0
        self.closing = False
        self.body: memoryview | None = None
        self.got = 0
        self.used = False


class Loop:
    """Keeps `size` connections to one server and runs operations over them, one at a time on each.

    A hand-made selector loop rather than asyncio, because the client must outrun the server: a request with its
    verification takes it about 18 µs of one core at 4 KiB (measured).
    """

    def __init__(self, target: Target, address: Address, size: int, control: Pipe | None = None) -> None:
        self._target = target
        self._context = target.context()
        self._family, self._address = address
        self._size = size
        self._control = control
        self._selector = selectors.DefaultSelector()
        if control is not None:
            self._selector.register(control.fileno(), _READ, None)
        self._inbox = bytearray(RECEIVE_BYTES)
        self._inbox_view = memoryview(self._inbox)
        self._links: set[Link] = set()
        self._free: list[Link] = []
        self._again: list[Operation] = []
        self._reconnect_at = 0.0
        self._unreachable_since = float("inf")
        self._stopped = False
        self.tally = Tally()

    def run(self, source: Listed | Mixed, progress: Callable[[Tally], None]) -> Tally:
        """Carry out all operations of `source`; returns what was measured.

        Ends early when the parent says so, and when no connection could be had for `timeout_s` seconds.
        """
        self.tally = tally = Tally()
        started = woken = now = time.monotonic()
        cpu_started = time.process_time()
        waited = 0.0
        sweep_at = now + SWEEP_S
        while True:
            if now - self._unreachable_since > self._target.timeout_s:
                tally.gone = True
                source.end(now)
                break
            self._open_links(now)
            while self._free and self._again:
                self._begin(self._free.pop(), self._again.pop(), now)
            while self._free and (operation := source.next(now)) is not None:
                self._begin(self._free.pop(), operation, now)
            wait_s = source.wait_s(now)
            if wait_s is None and len(self._free) == len(self._links) and not self._again:
                break
            tally.turns.record(int((time.monotonic() - woken) * 1e6))
            # With nothing to send, or nothing to send it over, only the sockets and the sweep matter.
            timeout = min(wait_s, SWEEP_S) if wait_s and self._free else SWEEP_S
            if len(self._links) < self._size:
                timeout = min(timeout, max(self._reconnect_at - now, 0.0))
            elif timeout < SWEEP_S:
                # epoll counts in whole milliseconds, rounded up; select, on the epoll itself, in microseconds.
                select.select([self._selector], (), (), timeout)
                timeout = 0.0
            events = self._selector.select(timeout)
            woken = time.monotonic()
            waited += woken - now
            for key, mask in events:
                self._on_event(key.data, mask, source)
            now = time.monotonic()
            if now >= sweep_at:
                sweep_at = now + SWEEP_S
                self._sweep(now)
                progress(tally)
        tally.wall_s = time.monotonic() - started
        tally.cpu = [(time.process_time() - cpu_started) / tally.wall_s]
        tally.busy = [max(1.0 - waited / tally.wall_s, 0.0)]
        tally.unsent = source.unsent
        tally.unsent_oldest_s = source.unsent_oldest_s
        tally.stopped = self._stopped
        return tally

    def close(self) -> None:
        for link in self._links:
            link.sock.close()
        self._selector.close()

    def _open_links(self, now: float) -> None:
        if len(self._links) >= self._size or now < self._reconnect_at:
            return
        while len(self._links) < self._size:
            sock = socket.socket(self._family, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect_ex(self._address)
            link = Link(sock)
            self._links.add(link)
            self._watch(link, _WRITE)

    def _watch(self, link: Link, mask: int) -> None:
        if link.mask != mask:
            if link.mask:
                self._selector.modify(link.sock, mask, link)
            else:
                self._selector.register(link.sock, mask, link)
            link.mask = mask

    def _on_event(self, link: Link | None, mask: int, source: Listed | Mixed) -> None:
        if link is None:  # the parent's word: stop
            self._stopped = True
            self._selector.unregister(self._control.fileno())  # type: ignore[union-attr]
            source.end(time.monotonic())
            return
        try:
            if not link.used:
                self._connect_on(link)
            elif mask & _READ or not link.out:
                self._receive(link)
            else:
                self._send(link)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            pass
        except OSError as error:
            self._drop(link, _cause(error))

    def _connect_on(self, link: Link) -> None:
        """Take a new connection one step further, until it can carry requests."""
        if not link.handshaking:
            error = link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            if self._context is not None:
                self._selector.unregister(link.sock)
                link.mask = 0
                link.sock = self._context.wrap_socket(
                    link.sock, server_hostname=self._target.host, do_handshake_on_connect=False
                )
                link.handshaking = True
        if link.handshaking:
            try:
                link.sock.do_handshake()  # type: ignore[attr-defined]
            except ssl.SSLWantReadError:
                return self._watch(link, _READ)
            except ssl.SSLWantWriteError:
                return self._watch(link, _WRITE)
        link.used = True
        self._unreachable_since = float("inf")
        self._watch(link, _READ)
        link.free_at = time.monotonic()
        self._free.append(link)
        return None

    def _begin(self, link: Link, operation: Operation, now: float) -> None:
        file = operation.file
        link.operation = operation
        link.sent_at = now
        link.idle_s = now - link.free_at
        link.oldest = file.acknowledged
        if operation.started is None:
            operation.started = now
        if operation.kind is GET:
            link.out = [file.get_request]
        elif operation.kind is DELETE:
            link.out = [file.delete_request]
        else:
            if not operation.generation:
                file.issued += 1
                file.writing = True
                operation.generation = file.issued
            head, start, end = file.value(operation.generation)
            if end - start <= CHUNK_BYTES:
                link.out = [file.put_head + head + noise()[start:end]]
            else:
                link.out = [file.put_head + head, memoryview(noise())[start:end]]
        try:
            self._send(link)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            self._watch(link, _READ | _WRITE)
        except OSError as error:
            self._drop(link, _cause(error))

    def _send(self, link: Link) -> None:
        while link.out:
            piece = link.out[0]
            sent = link.sock.send(piece)
            if sent == len(piece):
                link.out.pop(0)
            else:
                link.out[0] = memoryview(piece)[sent:]
        self._watch(link, _READ)

    def _receive(self, link: Link) -> None:
        while True:
            if link.body is not None:
                got = link.sock.recv_into(link.body[link.got :])
                link.got += got
                if not got:
                    return self._drop(link, "answer ended early")
                if link.got == len(link.body):
                    self._answered(link, link.body)
                    return None
            else:
                offset = len(link.head)
                self._inbox[:offset] = link.head
                got = link.sock.recv_into(self._inbox_view[offset:])
                if not got:
                    return self._drop(link, "answer ended early" if offset else _CLOSED[0])
                if self._read_head(link, offset + got):
                    return None
            # The selector tells when a socket has more, but not of what TLS has deciphered already.
            if self._context is None or not link.sock.pending():  # type: ignore[attr-defined]
                return None

    def _read_head(self, link: Link, got: int) -> bool:
        """Look at the first `got` bytes of the inbox; whether the link is through with its answer."""
        if link.operation is None:
            self.tally.errors["answer to no request"] += 1
            self._drop(link, "")
            return True
        inbox = self._inbox
        end = inbox.find(b"\r\n\r\n", 0, got)
        if end < 0:
            link.head = bytes(inbox[:got])
            if got > HEAD_BYTES_MAX:
                self._drop(link, "answer is not HTTP")
                return True
            return False
        link.head = b""
        head = bytes(inbox[:end]).lower()
        length = content_length(head)
        if length is None:
            self._drop(link, "answer is not HTTP with a Content-Length")
            return True
        link.status = int(head[9:12])
        link.closing = b"\r\nconnection: close" in head
        end += 4
        if got - end == length:
            self._answered(link, self._inbox_view[end:got])
            return True
        if got - end > length:
            self._drop(link, "answer longer than announced")
            return True
        body = memoryview(bytearray(length))
        body[: got - end] = self._inbox_view[end:got]
        link.body = body
        link.got = got - end
        return False

    def _answered(self, link: Link, body: memoryview) -> None:
        operation, status = link.operation, link.status
        if operation is None:
            return
        now = time.monotonic()
        file, kind, tally = operation.file, operation.kind, self.tally
        if kind is GET:
            if status == 200:
                fault = file.fault(body, link.oldest)
                if fault:
                    tally.wrong += 1
            elif status == 404:
                # Before the first acknowledged write, absent is a right answer.
                fault = "acknowledged file missing" if link.oldest else ""
                tally.wrong += bool(fault)
            else:
                fault = _refusal(status, body)
        elif kind is PUT:
            file.writing = False
            fault = "" if status in (200, 201) else _refusal(status, body)
            if not fault:
                file.acknowledged = file.issued
        else:
            fault = "" if status in (204, 404) else _refusal(status, body)
            if not fault:
                file.issued = 0
        if fault:
            tally.errors[f"{kind} {fault}"] += 1
        else:
            histogram = tally.latencies.get(kind)
            if histogram is None:
                histogram = tally.latencies[kind] = Histogram()
            histogram.record(int((now - (operation.started or now)) * 1e6))
            tally.bytes[kind] += file.size
        link.operation = None
        link.body = None
        if link.closing or link.out:
            self._forget(link)
        else:
            link.free_at = now
            self._free.append(link)

    def _drop(self, link: Link, cause: str) -> None:
        """Close a connection that is of no more use, and count what it carried as failed for `cause`."""
        now = time.monotonic()
        if not link.status:
            # It never answered, so the next one may not either: without a pause this would be a storm of attempts.
            self._reconnect_at = now + RECONNECT_S
        if cause in _CLOSED and link.operation is not None and link.idle_s > IDLE_S and not (link.head or link.body):
            # The server closed an idle connection while the request was on its way, as HTTP lets it. Each request here
            # may be repeated: a write stores the same generation.
            self.tally.repeated += 1
            self._again.append(link.operation)
        elif link.operation is not None:
            if link.operation.kind is PUT:
                link.operation.file.writing = False
            self.tally.errors[f"{link.operation.kind} {cause}"] += 1
        elif not link.used:
            self.tally.errors[f"connect: {cause}"] += 1
            self._unreachable_since = min(self._unreachable_since, now)
        else:
            # An idle connection that the server closed, as servers do; no request suffered.
            self._free.remove(link)
        self._forget(link)

    def _forget(self, link: Link) -> None:
        self._selector.unregister(link.sock)
        link.sock.close()
        self._links.discard(link)

    def _sweep(self, now: float) -> None:
        for link in list(self._links):
            waiting = link.operation is not None or not link.used
            if waiting and now - link.sent_at > self._target.timeout_s:
                self._drop(link, f"no answer within {self._target.timeout_s:g} s")


@dataclass(slots=True)
class Batch:
    """Operations of one kind that go in one request. `oldest`: what a read of each must find at least."""

    kind: str
    operations: list[Operation]
    oldest: list[int] = field(default_factory=list)


class Gathered:
    """Another source's operations, in batches of `size` of one kind; the last ones may be smaller."""

    def __init__(self, source: Listed | Mixed, size: int) -> None:
        self._source = source
        self._size = size
        self._kept: dict[str, list[Operation]] = {}

    def next(self, now: float) -> Batch | None:
        while (operation := self._source.next(now)) is not None:
            kept = self._kept.setdefault(operation.kind, [])
            kept.append(operation)
            if operation.kind is PUT:
                operation.file.writing = True
            if len(kept) == self._size:
                return Batch(operation.kind, self._kept.pop(operation.kind))
        if self._kept and self._source.wait_s(now) is None:
            return Batch(*self._kept.popitem())
        return None

    def wait_s(self, now: float) -> float | None:
        wait_s = self._source.wait_s(now)
        return 0.0 if wait_s is None and self._kept else wait_s

    def end(self, now: float) -> None:
        self._source.end(now)
        for operation in self._kept.get(PUT, []):
            operation.file.writing = False
        self._kept.clear()

    @property
    def unsent(self) -> int:
        return self._source.unsent

    @property
    def unsent_oldest_s(self) -> float:
        return self._source.unsent_oldest_s


class BatchAnswer:
    """An answer of any length, or in chunks, out of the bytes as they come."""

    __slots__ = ("_chunked", "_data", "_left", "body", "closing", "status")

    def __init__(self) -> None:
        self._data = bytearray()
        self._left = -1  # bytes of the body, or of the chunk, that are still to come; -1: its length is
        self._chunked = False
        self.body = bytearray()
        self.status = 0
        self.closing = False

    def feed(self, data: memoryview) -> bool:
        """Take bytes in; whether the answer is whole. Raises `ValueError` for what is no HTTP."""
        self._data += data
        if not self.status and not self._head():
            return False
        while True:
            if self._left < 0:
                end = self._data.find(b"\r\n")
                if end < 0:
                    return False
                self._left = int(self._data[:end], 16) + 2
                del self._data[: end + 2]
            if len(self._data) < self._left:
                return False
            if not self._chunked:
                self.body = self._data
                return len(self._data) == self._left
            self.body += memoryview(self._data)[: self._left - 2]
            del self._data[: self._left]
            if self._left == 2:
                return True
            self._left = -1

    def _head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._data[:end]).lower()
        self._chunked = b"\r\ntransfer-encoding: chunked" in head
        length = content_length(head)
        if not head.startswith(b"http/1.") or (length is None and not self._chunked):
            raise ValueError("answer is not HTTP")
        self._left = -1 if length is None else length
        self.status = int(head[9:12])
        self.closing = b"\r\nconnection: close" in head
        del self._data[: end + 4]
        return True


class BatchLoop(Loop):
    """The same with many files in each request. A file's latency is that of its batch."""

    def __init__(self, target: Target, address: Address, size: int, control: Pipe | None, batch: int) -> None:
        super().__init__(target, address, size, control)
        self._batch = batch
        head = f"HTTP/1.1\r\nHost: {target.authority}\r\nContent-Type: {RECORDS}\r\nContent-Length: "
        self._get_head = f"POST /files:get {head}".encode()
        self._put_head = f"POST /files:put {head}".encode()

    def run(self, source: Any, progress: Callable[[Tally], None]) -> Tally:
        if not isinstance(source, Listed):
            return super().run(Gathered(source, self._batch), progress)  # type: ignore[arg-type]
        if source.kind is PUT:
            return super().run(Gathered(source, min(self._batch, BATCH_FILES)), progress)  # type: ignore[arg-type]
        single = Loop(self._target, (self._family, self._address), self._size)
        try:
            return single.run(source, progress)
        finally:
            single.close()

    def _begin(self, link: Link, batch: Any, now: float) -> None:
        link.operation = batch
        link.sent_at = now
        link.idle_s = now - link.free_at
        link.body = BatchAnswer()  # type: ignore[assignment]
        if batch.kind is GET:
            batch.oldest = [operation.file.acknowledged for operation in batch.operations]
            body = b"\n".join([operation.file.name for operation in batch.operations])
            head = self._get_head
        else:
            body = b"".join([_record(operation) for operation in batch.operations]) + b'{"end": true}\n'
            head = self._put_head
        link.out = [b"%b%d\r\n\r\n" % (head, len(body)), body]
        try:
            self._send(link)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            self._watch(link, _READ | _WRITE)
        except OSError as error:
            self._drop(link, _cause(error))

    def _receive(self, link: Link) -> None:
        while True:
            got = link.sock.recv_into(self._inbox_view)
            answer: Any = link.body
            if not got or answer is None:
                return self._drop(link, _CLOSED[0])
            try:
                if answer.feed(self._inbox_view[:got]):
                    self._told(link, answer)
                    return None
            except (ValueError, KeyError) as error:
                return self._drop(link, f"answer can't be read ({error})")
            if self._context is None or not link.sock.pending():  # type: ignore[attr-defined]
                return None

    def _told(self, link: Link, answer: BatchAnswer) -> None:
        """Judge each file of an answer that has come whole."""
        now = time.monotonic()
        batch: Any = link.operation
        link.status = answer.status
        microseconds = int((now - link.sent_at) * 1e6)
        body, view, at = answer.body, memoryview(answer.body), 0
        good = 0
        for number, operation in enumerate(batch.operations):
            end = body.find(b"\n", at)
            told = json.loads(body[at:end]) if end >= 0 else {"end": True}
            if "status" not in told:
                self.tally.errors[f"{batch.kind} {answer.status} {told.get('error', 'not told')}"] += len(
                    batch.operations[number:]
                )
                break
            at = end + 1
            value = view[:0]
            if "size" in told:
                value = view[at : at + told["size"]]
                at += told["size"] + 1
            if self._fault(batch, number, told, value):
                continue
            good += 1
            self.tally.bytes[batch.kind] += operation.file.size
        if good:
            self.tally.latencies.setdefault(batch.kind, Histogram()).record(microseconds, good)
        self._release(link)
        if answer.closing or link.out:
            self._forget(link)
        else:
            link.free_at = now
            self._free.append(link)

    def _fault(self, batch: Batch, number: int, told: dict[str, Any], value: memoryview) -> bool:
        """Whether a file of an answer is no success; counts it then."""
        file, status = batch.operations[number].file, told["status"]
        fault = f"{status} {told.get('error', '')}"
        if batch.kind is PUT:
            if status == 200:
                file.acknowledged = batch.operations[number].generation
                return False
        elif status == 200:
            fault = file.fault(value, batch.oldest[number])
            self.tally.wrong += bool(fault)
        elif status == 404:
            fault = "acknowledged file missing" if batch.oldest[number] else ""
            self.tally.wrong += bool(fault)
        if fault:
            self.tally.errors[f"{batch.kind} {fault}"] += 1
        return bool(fault)

    def _release(self, link: Link) -> None:
        batch: Any = link.operation
        if batch.kind is PUT:
            for operation in batch.operations:
                operation.file.writing = False
        link.operation = None
        link.body = None

    def _drop(self, link: Link, cause: str) -> None:
        batch: Any = link.operation
        if batch is None:
            return super()._drop(link, cause)
        if not link.status:
            self._reconnect_at = time.monotonic() + RECONNECT_S
        self.tally.errors[f"{batch.kind} {cause}"] += len(batch.operations)
        self._release(link)
        return self._forget(link)


def _record(operation: Operation) -> bytes:
    """A file as a batch of writes has it."""
    file = operation.file
    if not operation.generation:
        file.issued += 1
        operation.generation = file.issued
    head, start, end = file.value(operation.generation)
    return b'{"path": %b, "size": %d}\n%b%b\n' % (
        json.dumps(file.name.decode()).encode(),
        file.size,
        head,
        noise()[start:end],
    )


_CLOSED = ("connection closed", "connection reset")


def content_length(head: bytes) -> int | None:
    """Length of the body that a lower-cased answer head announces; None when it is no such answer."""
    if not head.startswith(b"http/1.") or not head[9:12].isdigit():
        return None
    if head[9:12] in (b"204", b"304"):
        return 0
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        return None
    end = head.find(b"\r\n", at + 17)
    text = head[at + 17 : end if end > 0 else len(head)].strip()
    return int(text) if text.isdigit() else None


def _refusal(status: int, body: memoryview) -> str:
    """Name of an answer that is no success: its status and, where the body has one, the server's name for it."""
    try:
        return f"{status} {json.loads(bytes(body))['error']}"
    except (ValueError, KeyError, TypeError):
        return str(status)


def _cause(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return _CLOSED[1]
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate not trusted"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason})"
    return error.strerror or str(error)


# --- several processes, one result -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What one process of a benchmark does. `sizes` are its own files', which no other process touches."""

    target: Target
    address: Address
    prefix: str
    sizes: list[int]
    reads: float
    connections: int
    process: int
    processes: int
    rate: float | None
    duration_s: float
    requests: int | None
    seed: int
    keep: bool
    batch: int


def work(plan: Plan, pipe: Pipe) -> None:
    """Run one process: fill, wait for the word to start, measure, clear up. Tells the parent over `pipe`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files = [
        BenchFile(plan.target, f"{plan.prefix}/{plan.process}/{number}", size) for number, size in enumerate(plan.sizes)
    ]
    if plan.batch > 1:
        loop: Loop = BatchLoop(plan.target, plan.address, plan.connections, pipe, plan.batch)
    else:
        loop = Loop(plan.target, plan.address, plan.connections, pipe)

    def tell(phase: str) -> Callable[[Tally], None]:
        return lambda tally: pipe.send((phase, tally.done, sum(tally.errors.values()), sum(tally.bytes.values())))

    filled = loop.run(Listed(PUT, files if plan.reads else []), tell("filling"))
    pipe.send(("ready", filled))
    measured = Tally()
    if pipe.recv() == "start" and not filled.gone:
        start = time.monotonic()
        due = schedule(plan.rate, plan.process, plan.processes) if plan.rate else None
        mixed = Mixed(files, plan.reads, plan.seed + plan.process, start, start + plan.duration_s, plan.requests, due)
        measured = loop.run(mixed, tell("measuring"))
    if not (plan.keep or measured.gone or filled.gone):
        loop.run(Listed(DELETE, [file for file in files if file.issued]), tell("clearing"))
    left = sum(1 for file in files if file.issued)
    loop.close()
    pipe.send(("done", measured, left))


class Progress:
    """What goes on, on standard error: one line that changes on a terminal, else a line every five seconds."""

    def __init__(self, quiet: bool) -> None:
        self._terminal = sys.stderr.isatty()
        self._quiet = quiet and not self._terminal
        self._shown_at = time.monotonic()
        self._states: dict[int, tuple[str, int, int, int]] = {}
        self._before: tuple[str, int, float] = ("", 0, time.monotonic())

    def update(self, process: int, state: tuple[str, int, int, int]) -> None:
        self._states[process] = state
        now = time.monotonic()
        if self._quiet or now - self._shown_at < (SWEEP_S if self._terminal else 5.0):
            return
        self._shown_at = now
        phase = state[0]
        done = sum(state[1] for state in self._states.values())
        errors = sum(state[2] for state in self._states.values())
        size = sum(state[3] for state in self._states.values())
        phase_before, done_before, then = self._before
        self._before = (phase, done, now)
        rate = (done - done_before) / (now - then) if phase == phase_before and now > then else 0.0
        self._write(f"{phase}: {done:,} requests, {rate:,.0f}/s, {size / 1e6:,.0f} MB, {errors:,} errors")

    def _write(self, line: str) -> None:
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r{line[:width]}\x1b[K")
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@dataclass
class Result:
    """A whole benchmark: the phase that fills, the one that is measured, and how many files were left behind."""

    filled: Tally = field(default_factory=Tally)
    measured: Tally = field(default_factory=Tally)
    left: int = 0
    lost: int = 0


def run_bench(plans: list[Plan], progress: Progress) -> Result:
    """Run the processes side by side and merge what they measured. Ctrl-C ends the measuring, then they clear up."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[Any, int] = {}
    processes = []
    for number, plan in enumerate(plans):
        mine, theirs = context.Pipe()
        process = context.Process(target=work, args=(plan, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes[mine] = number
        processes.append(process)
    result = Result()
    ready: set[Any] = set()
    started = False
    stops = 0
    try:
        while pipes:
            try:
                speaking: list[Any] = wait_for_pipes(list(pipes))
            except KeyboardInterrupt:
                stops += 1
                if stops > 1:
                    raise
                for pipe in pipes:
                    pipe.send("stop")
                continue
            for pipe in speaking:
                try:
                    message = pipe.recv()
                except (EOFError, ConnectionResetError):
                    result.lost += 1
                    del pipes[pipe]
                    continue
                if message[0] == "ready":
                    result.filled.merge(message[1])
                    ready.add(pipe)
                elif message[0] == "done":
                    result.measured.merge(message[1])
                    result.left += message[2]
                    del pipes[pipe]
                else:
                    progress.update(pipes[pipe], message)
            if not started and ready.issuperset(pipes):
                started = True
                for pipe in ready.intersection(pipes):
                    pipe.send("start")
    finally:
        progress.close()
        for process in processes:
            if pipes:
                process.terminate()
            process.join()
    result.measured.stopped = result.measured.stopped or stops > 0
    return result


BOTTLENECK_SHARE = 0.9


def summary(result: Result, settings: dict[str, Any]) -> dict[str, Any]:
    """The figures as plain data: what --json prints, and what the text is made of."""
    measured = result.measured
    wall_s = measured.wall_s or 1.0
    operations = {
        kind: {
            "count": histogram.count,
            "rate_per_s": round(histogram.count / wall_s, 1),
            "bytes": measured.bytes[kind],
            "mb_per_s": round(measured.bytes[kind] / wall_s / 1e6, 2),
            **histogram.milliseconds(),
        }
        for kind, histogram in sorted(measured.latencies.items())
    }
    errors = measured.errors + Counter({f"filling: {kind}": count for kind, count in result.filled.errors.items()})
    return {
        "settings": settings,
        "duration_s": round(measured.wall_s, 3),
        "stopped_early": measured.stopped,
        "server_lost": measured.gone or result.filled.gone,
        "operations": operations,
        "total": {
            "count": measured.done,
            "rate_per_s": round(measured.done / wall_s, 1),
            "mb_per_s": round(sum(measured.bytes.values()) / wall_s / 1e6, 2),
        },
        "errors": dict(errors.most_common()),
        "error_count": sum(errors.values()),
        "wrong_reads": measured.wrong,
        "repeated": measured.repeated,
        "unsent": measured.unsent,
        "unsent_oldest_ms": round(measured.unsent_oldest_s * 1000, 1),
        "files_left": result.left,
        "processes_lost": result.lost,
        "client": {
            "cpu_share": [round(share, 3) for share in measured.cpu],
            "busy_share": [round(share, 3) for share in measured.busy],
            "turn_p99_ms": measured.turns.percentile(99) / 1000.0,
            "turn_max_ms": measured.turns.max / 1000.0,
            "bottleneck": any(share >= BOTTLENECK_SHARE for share in measured.cpu + measured.busy),
        },
    }


def describe(figures: dict[str, Any]) -> str:
    """The figures for people."""
    settings = figures["settings"]
    pace = f"{settings['rate']:g} requests/s by schedule" if settings["rate"] else "as fast as the server answers"
    if settings["batch"] > 1:
        pace = f"batches of {settings['batch']:,}, {pace}"
    counted = "files" if settings["batch"] > 1 else "requests"
    lines = [
        f"{settings['server']}  {settings['keys']:,} files of {settings['sizes']}, {settings['reads']:.0%} reads, "
        f"{settings['concurrency']} connections in {_plural(settings['processes'], 'process', 'processes')}, {pace}",
        f"seed {settings['seed']}, {figures['duration_s']:.1f} s" + " (stopped early)" * figures["stopped_early"],
        "",
        f"{'':6}{counted:>12}{'per s':>11}{'MB/s':>10}{'p50 ms':>10}{'p90 ms':>10}{'p99 ms':>10}{'max ms':>10}",
    ]
    for kind, row in figures["operations"].items():
        lines.append(
            f"{kind:6}{row['count']:>12,}{row['rate_per_s']:>11,.0f}{row['mb_per_s']:>10,.1f}"
            f"{row['p50_ms']:>10.2f}{row['p90_ms']:>10.2f}{row['p99_ms']:>10.2f}{row['max_ms']:>10.2f}"
        )
    total = figures["total"]
    lines += [f"{'all':6}{total['count']:>12,}{total['rate_per_s']:>11,.0f}{total['mb_per_s']:>10,.1f}", ""]
    if figures["errors"]:
        lines.append("errors:")
        lines += [f"{count:>12,}  {kind}" for kind, count in figures["errors"].items()]
    else:
        lines.append("errors: none")
    reads = figures["operations"].get(GET, {"count": 0})["count"]
    if figures["wrong_reads"]:
        lines.append(f"WRONG: {figures['wrong_reads']:,} reads were not what was written (see errors)")
    elif reads:
        lines.append(f"verified: every byte of {reads:,} reads")
    if figures["unsent"]:
        lines.append(
            f"the rate was not kept: {figures['unsent']:,} requests were due and never begun, for want of a free "
            f"connection (the oldest for {figures['unsent_oldest_ms']:,.0f} ms); the figures are of the others"
        )
    client = figures["client"]
    shares = ", ".join(
        f"{cpu:.0%} of a core, {busy:.0%} busy"
        for cpu, busy in zip(client["cpu_share"], client["busy_share"], strict=True)
    )
    if client["bottleneck"]:
        lines.append(f"the CLIENT was the bottleneck ({shares}): the server can do more; try more --processes")
    elif shares:
        lines.append(f"the client was not the bottleneck ({shares}, p99 turn {client['turn_p99_ms']:.1f} ms)")
    if figures["server_lost"]:
        lines.append(f"the server went away: no connection for {settings['timeout_s']:g} s")
    if figures["processes_lost"]:
        lines.append(f"{_plural(figures['processes_lost'], 'process', 'processes')} of the client died")
    if figures["files_left"]:
        lines.append(f"{_plural(figures['files_left'], 'file', 'files')} left under {settings['prefix']}/")
    return "\n".join(lines)


def _plural(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


# --- many files, in batches ----------------------------------------------------------------------------------------

BATCH_FILES = 1000
BATCH_BYTES = 8 * 1024 * 1024
"""Files and bytes of one batch at most; so much of a folder is in memory for each connection."""

TRIES = 5
PAUSE_S = 0.5
"""Before the second try; doubled before each further one."""

RECORDS = "application/x-sfss-files"
LINE_BYTES_MAX = 4096


@dataclass(slots=True)
class Item:
    """One file of many: its path on the server, where it is here, and what its last try came to."""

    path: str
    local: str = ""
    size: int = 0
    mtime_ns: int = 0
    told: dict[str, Any] | None = None

    @property
    def good(self) -> bool:
        return self.told is not None and self.told["status"] == 200

    @property
    def final(self) -> bool:
        """Whether another try would come to the same."""
        return self.told is not None and (
            self.told["status"] not in (408, 502, 503, 504) and self.told.get("error") != "batch_full"
        )


@dataclass(frozen=True)
class Pace:
    """How many batches are under way at a time, and how many files each has at most."""

    connections: int
    batch: int


def failed_here(item: Item, why: str) -> None:
    """Note that a file failed on this side."""
    item.told = {"status": 0, "error": "", "message": why}


class Unusable(Exception):
    """The server answered a batch in a way that no further try would change."""


class Courier:
    """Carries batches over one kept connection."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection = target.connection()

    def close(self) -> None:
        self._connection.close()

    def put(self, items: list[Item]) -> None:
        """Send files, and note in each what became of it. Raises `OSError`, `HTTPException` or `Unusable`."""
        body: list[bytes] = []
        sent: list[Item] = []
        for item in items:
            try:
                with open(item.local, "rb") as source:
                    changed = os.fstat(source.fileno()).st_mtime_ns
                    value = source.read(VALUE_BYTES_MAX + 1)
            except OSError as error:
                failed_here(item, f"can't be read: {error.strerror}")
                continue
            if len(value) > VALUE_BYTES_MAX:
                failed_here(item, f"is larger than {VALUE_BYTES_MAX} bytes")
                continue
            item.size, item.mtime_ns = len(value), changed
            line = json.dumps({"path": item.path, "size": len(value)}).encode()
            if len(line) >= LINE_BYTES_MAX:
                failed_here(item, "its path is too long")
                continue
            body += (line, b"\n", value, b"\n")
            sent.append(item)
        body.append(b'{"end": true, "files": %d}\n' % len(sent))
        response = self._ask("/files:put", b"".join(body), RECORDS)
        for number, told in enumerate(self._lines(response, sent)):
            sent[number].told = told

    def get(self, items: list[Item], folder: Folder) -> None:
        """Write files into `folder`, and note in each item what became of it. Raises as `put` does."""
        names = "\n".join(item.path for item in items).encode(errors="surrogateescape")
        response = self._ask("/files:get", names, "text/plain; charset=utf-8")
        source = io.BufferedReader(response, 4 * CHUNK_BYTES)  # type: ignore[arg-type]
        for number, told in enumerate(self._lines(source, items)):
            item = items[number]
            if told["status"] == 200:
                value = source.read(told["size"])
                if len(value) != told["size"] or source.read(1) != b"\n":
                    raise http.client.IncompleteRead(value)
                if told["path"] != item.path:
                    raise Unusable(f"the server answered {told['path']!r} when asked for {item.path!r}")
                item.size = len(value)
                try:
                    folder.write(item.path, value)
                except (OSError, ValueError) as error:
                    failed_here(item, f"can't be written: {getattr(error, 'strerror', None) or error}")
                    continue
            item.told = told

    def _ask(self, resource: str, body: bytes, content_type: str) -> http.client.HTTPResponse:
        headers = {"Content-Type": content_type, "Accept": RECORDS}
        try:
            self._connection.request("POST", resource, body=body, headers=headers)
        except (BrokenPipeError, ConnectionResetError):
            if self._connection.sock is None:  # else it may have answered already
                raise
        response = self._connection.getresponse()
        if response.status in (404, 405):
            raise Unusable("the server has no batches; it is older than they are")
        if response.getheader("Content-Type", "").partition(";")[0] not in _OWN_TYPES:
            raise ConnectionError(f"what stands in front of it answered {response.status} {response.reason}")
        return response

    def _lines(self, source: Any, items: list[Item]) -> Iterator[dict[str, Any]]:
        """The lines of an answer but the last, which is checked. An answer that tells of fewer files than were sent
        says why there, and what isn't told of is tried again where that may help."""
        count = 0
        while True:
            line = source.readline(CHUNK_BYTES)
            if not line.endswith(b"\n"):
                raise http.client.IncompleteRead(line)
            told = json.loads(line)
            if "end" in told or "status" not in told:
                break
            if count == len(items):
                raise Unusable("the server told of more files than it was asked for")
            yield told
            count += 1
        source.read()
        if count < len(items) and told.get("error") not in _PASSING:
            raise Unusable(f"{told.get('error')}: {told.get('message')}")


_OWN_TYPES = (RECORDS, "application/x-ndjson", "application/json")
_PASSING = ("busy", "stopping", "too_slow", "short_body", "unavailable", "unreachable")


class Folder:
    """A local folder that is written into and nowhere else: links in it are not followed, whatever paths say. A file
    appears in its place only when it is whole."""

    def __init__(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._numbers = itertools.count()
        self._mark = os.urandom(6).hex()  # in a container each run may have the same process id

    def has(self, path: str) -> bool:
        """Whether a file is there."""
        try:
            with self._parent(path, make=False) as (parent, name):
                return stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        except (OSError, ValueError):
            return False

    def write(self, path: str, value: bytes) -> None:
        """Create or replace a file. Raises `OSError`, or `ValueError` for a path that would lead elsewhere."""
        with self._parent(path, make=True) as (parent, name):
            partial = f".sfss-{self._mark}-{next(self._numbers)}.part"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            try:
                with open(os.open(partial, flags, 0o666, dir_fd=parent), "wb") as sink:
                    sink.write(value)
                os.replace(partial, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(partial, dir_fd=parent)
                raise

    @contextlib.contextmanager
    def _parent(self, path: str, *, make: bool) -> Iterator[tuple[int, str]]:
        """The open folder that a path's file lies in, and the file's name there."""
        *folders, name = path.split("/")
        for segment in (*folders, name):
            if segment in ("", ".", "..") or "\0" in segment:
                raise ValueError("the path leads out of the folder")
        at = os.dup(self._root)
        try:
            for segment in folders:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(segment, dir_fd=at)
                below = os.open(segment, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                os.close(at)
                at = below
            yield at, name
        finally:
            os.close(at)


class Bar:
    """How far it is: on a terminal one line that changes, else nothing. Failures get lines of their own."""

    def __init__(self, verb: str, total: int | None) -> None:
        self._terminal = sys.stderr.isatty()
        self._verb = verb
        self._total = total
        self._began = time.monotonic()
        self._shown_at = 0.0
        self.done = 0
        self.failed = 0
        self.missing = 0
        self.bytes = 0
        self.skipped = 0

    def took(self, item: Item) -> None:
        """Count a file whose fate is known, and say why when it failed."""
        if item.good:
            self.done += 1
            self.bytes += item.size
        else:
            told = item.told or {"status": 0, "error": "", "message": "nothing is known of it"}
            self.failed += 1
            self.missing += told["status"] == 404
            words = f"{told['status']} {told['error']}: " if told["status"] else ""
            outcome = "; it may be stored all the same" if told.get("outcome") == "unknown" else ""
            self.clear()
            click.echo(f"simple_client.py: {shown(item.path)}: {words}{told['message']}{outcome}", err=True)
        self._show()

    def skip(self) -> None:
        self.skipped += 1
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if not self._terminal or now - self._shown_at < SWEEP_S:
            return
        self._shown_at = now
        through = self.done + self.failed + self.skipped
        line = f"{through:,} files"
        if self._total:
            filled = min(through * 30 // self._total, 30)
            line = f"[{'#' * filled}{'-' * (30 - filled)}] {through:,} of {self._total:,} files"
        rate = (self.done + self.failed) / max(now - self._began, 0.001)
        line += f", {rate:,.0f}/s, {self.bytes / 1e6:,.1f} MB, {self.failed:,} failed"
        sys.stderr.write(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K")
        sys.stderr.flush()

    def clear(self) -> None:
        if self._terminal and self._shown_at:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def finish(self) -> None:
        """Say what was done, and end with the status that goes with it."""
        self.clear()
        skipped = f", {self.skipped:,} skipped" if self.skipped else ""
        seconds = time.monotonic() - self._began
        files = _plural(self.done, "file", "files")
        click.echo(
            f"{self._verb} {files}, {self.bytes / 1e6:,.1f} MB, {seconds:.1f} s; {self.failed:,} failed{skipped}"
        )
        if self.failed:
            sys.exit(NOT_FOUND if self.failed == self.missing else FAILED)


def shown(path: str) -> str:
    """A path as it can be printed: whatever else is in it is escaped."""
    return path if path.isprintable() else ascii(path)[1:-1]


def carry(
    target: Target,
    items: Iterator[Item],
    pace: Pace,
    serve: Callable[[Courier, list[Item]], None],
    took: Callable[[list[Item]], None],
) -> None:
    """Have all items carried, in batches over several connections, and each tried again while that may help. `took` is
    called, one at a time, with those whose fate is known.

    Ends the program in one line where a batch gets no answer in all its tries.
    """
    try:
        target.find()
    except (OSError, http.client.HTTPException) as error:
        fail(UNREACHABLE, target.trouble(error))
    lock = threading.Lock()
    troubles: list[tuple[int, str]] = []

    def take() -> list[Item]:
        batch: list[Item] = []
        size = 0
        with lock:
            while not troubles and len(batch) < pace.batch and size < BATCH_BYTES:
                item = next(items, None)
                if item is None:
                    break
                batch.append(item)
                size += item.size
        return batch

    def work() -> None:
        courier = Courier(target)
        try:
            while batch := take():
                deliver(courier, batch)
        except Unusable as error:
            troubles.append((FAILED, str(error)))
        except (OSError, http.client.HTTPException, ValueError) as error:
            troubles.append((UNREACHABLE, target.trouble(error)))
        except Exception as error:  # a thread that ended silently would leave files out, and nobody would know
            troubles.append((FAILED, f"{target.authority} gave an answer that can't be understood ({error!r})"))
        finally:
            courier.close()

    def deliver(courier: Courier, batch: list[Item]) -> None:
        left = batch
        for attempt in range(1, TRIES + 1):
            trouble: Exception | None = None
            for item in left:
                item.told = None
            try:
                serve(courier, left)
            except (OSError, http.client.HTTPException, ValueError) as error:
                trouble = error
                courier.close()
            known = [item for item in left if item.final or (attempt == TRIES and item.told is not None)]
            left = [item for item in left if not (item.final or (attempt == TRIES and item.told is not None))]
            with lock:
                took(known)
            if not left or troubles:
                return
            if attempt < TRIES:
                time.sleep(PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
        raise trouble or ConnectionError("no answer to all files of a batch")

    threads = [threading.Thread(target=work, daemon=True) for _ in range(pace.connections)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        troubles.append((FAILED, "stopped"))
        for thread in threads:
            thread.join(target.timeout_s)
    if troubles:
        status, trouble = troubles[0]
        fail(status, f"{trouble}; what is left can be carried by the same command once more")


class Manifest:
    """What `put -r` has stored: a line for each file with path, size, time of change (ns) and ETag, parted by tabs,
    which no path has. It is a list for `get -r`, too."""

    def __init__(self, path: str) -> None:
        self._stored: dict[str, tuple[str, str]] = {}
        if os.path.exists(path):
            with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
                for line in lines:
                    fields = line.rstrip("\n").split("\t")
                    if line.endswith("\n") and len(fields) == 4:
                        self._stored[fields[0]] = (fields[1], fields[2])
        self._path = os.path.realpath(path)
        self._sink = open(path, "a", encoding="utf-8", errors="surrogateescape", newline="\n")  # noqa: SIM115
        if self._sink.tell() and not _ends_line(path):
            self._sink.write("\n")

    def has(self, item: Item) -> bool:
        """Whether a file was stored as it is now, or is this one, which changes with each file that is."""
        if os.path.basename(item.local) == os.path.basename(self._path) and os.path.realpath(item.local) == self._path:
            return True
        return self._stored.get(item.path) == (str(item.size), str(item.mtime_ns))

    def add(self, items: list[Item]) -> None:
        for item in items:
            if item.told is not None and item.good:
                self._sink.write(f"{item.path}\t{item.size}\t{item.mtime_ns}\t{item.told['etag']}\n")
        self._sink.flush()


def _ends_line(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def files_below(folder: str, prefix: str) -> Iterator[Item]:
    """The files of a folder, in the order of their names. Links to files count as files, links to folders don't. At
    the end come the folders that can't be read."""

    def parts_of(local: str) -> list[str]:
        below = os.path.relpath(local, folder)
        return [prefix] * bool(prefix) + ([] if below == "." else below.split(os.sep))

    unread: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=unread.append):
        folders.sort()
        parts = parts_of(parent)
        for name in sorted(names):
            item = Item("/".join([*parts, name]), os.path.join(parent, name))
            try:
                found = os.stat(item.local)
            except OSError as error:
                failed_here(item, f"can't be read: {error.strerror}")
            else:
                item.size, item.mtime_ns = found.st_size, found.st_mtime_ns
                if not stat.S_ISREG(found.st_mode):
                    failed_here(item, "is no regular file")
            yield item
    for error in unread:
        item = Item("/".join(parts_of(error.filename)), error.filename)
        failed_here(item, f"can't be read: {error.strerror}")
        yield item


def paths_in(lines: Iterator[bytes]) -> Iterator[Item]:
    """The paths of a list: one a line, up to a tab. Empty lines are passed over."""
    for line in lines:
        path = line.rstrip(b"\n").removesuffix(b"\r").partition(b"\t")[0]
        if path:
            yield Item(path.decode(errors="surrogateescape"))


def put_folder(target: Target, folder: str, prefix: str, pace: Pace, manifest: Manifest | None) -> None:
    """Store all files of a folder below a prefix."""
    terminal = sys.stderr.isatty()
    bar = Bar("stored", sum(1 for _ in files_below(folder, prefix)) if terminal else None)

    def items() -> Iterator[Item]:
        for item in files_below(folder, prefix):
            if item.told is not None:
                bar.took(item)
            elif manifest is not None and manifest.has(item):
                bar.skip()
            else:
                yield item

    def took(known: list[Item]) -> None:
        if manifest is not None:
            manifest.add(known)
        for item in known:
            bar.took(item)

    carry(target, items(), pace, Courier.put, took)
    bar.finish()


def get_list(
    target: Target, listed: BinaryIO, total: int | None, folder: Folder, pace: Pace, skip_existing: bool
) -> None:
    """Write the files of a list into a folder."""
    bar = Bar("wrote", total)

    def items() -> Iterator[Item]:
        for item in paths_in(iter(listed)):
            if skip_existing and folder.has(item.path):
                bar.skip()
            else:
                yield item

    def took(known: list[Item]) -> None:
        for item in known:
            bar.took(item)

    carry(target, items(), pace, lambda courier, batch: courier.get(batch, folder), took)
    bar.finish()


# --- the command line ----------------------------------------------------------------------------------------------

COMMANDS = ("get", "put", "rm", "explain", "bench")


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the server is: the same options for every command."""
    for option in reversed(
        (
            click.option("--host", default="127.0.0.1", show_default=True, help="Name or address of the web tier."),
            click.option("--port", type=click.IntRange(1, 65535), default=8255, show_default=True, help="Its port."),
            click.option("--ssl", "tls", is_flag=True, help="Speak HTTPS."),
            click.option("--cafile", type=click.Path(exists=True, dir_okay=False), help="Trust this authority (PEM)."),
            click.option("--insecure", is_flag=True, help="With --ssl: accept any certificate."),
            click.option(
                "--timeout",
                "timeout_s",
                type=click.FloatRange(min=0, min_open=True),
                default=15.0,
                show_default=True,
                help="Longest wait for an answer, in seconds.",
            ),
        )
    ):
        command = option(command)
    return command


def make_target(host: str, port: int, tls: bool, cafile: str | None, insecure: bool, timeout_s: float) -> Target:
    if (cafile or insecure) and not tls:
        raise click.UsageError("--cafile and --insecure go with --ssl")
    target = Target(host, port, tls, cafile, insecure, timeout_s)
    try:
        target.context()
    except (OSError, ssl.SSLError) as error:
        raise click.UsageError(f"{cafile} is no usable file of certificates: {error}") from error
    return target


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@target_options
@click.option("--path", help="Path to store the file under, as folder/sub/name.ext.")
@click.option("--filepath", type=click.Path(exists=True, dir_okay=False), help="The local file to post.")
@click.version_option(VERSION, prog_name="simple_client.py")
@click.pass_context
def main(context: click.Context, /, path: str | None, filepath: str | None, **where: Any) -> None:
    """Post one local file, or with a command: read, write and remove files, and measure the server.

    Options given before a command hold for it too.
    """
    if context.invoked_subcommand is not None:
        given = {
            name: value
            for name, value in {**where, "path": path, "filepath": filepath}.items()
            if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        }
        context.default_map = dict.fromkeys(COMMANDS, given)
        return
    if path is None or filepath is None:
        raise click.UsageError("--path and --filepath say what to post; or name a command: " + ", ".join(COMMANDS))
    target = make_target(**where)
    with open(filepath, "rb") as source:
        form = MultipartFile(source, os.path.basename(filepath))
        finish(exchange(target, "POST", file_target("files", path), form, form.headers))


def pace_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How batches go."""
    connections = click.option(
        "--connections", type=click.IntRange(1, 64), default=2, show_default=True, help="With -r: batches at a time."
    )
    batch = click.option(
        "--batch",
        type=click.IntRange(1, 100_000),
        default=1000,
        show_default=True,
        help="With -r: files in one at most.",
    )
    return connections(batch(command))


def get_many(target: Target, listed: BinaryIO, folder: str, pace: Pace, skip_existing: bool) -> None:
    """Write the files of a list into a folder, which is made."""
    total = None
    if sys.stderr.isatty() and listed.seekable():
        total = sum(1 for _ in paths_in(iter(listed)))
        listed.seek(0)
    try:
        there = Folder(folder)
    except OSError as error:
        fail(FAILED, f"can't write into {folder}: {error.strerror}")
    get_list(target, listed, total, there, pace, skip_existing)


@main.command()
@target_options
@click.option("--path", help="Path of the stored file.")
@click.option("--filepath", help="Where to put it; standard output without. Replaced only by a whole file.")
@click.option(
    "-r", "--recursive", "listed", type=click.File("rb"), metavar="LIST", help="Paths, one a line; - for stdin."
)
@click.option("--skip-existing", is_flag=True, help="With -r: leave out what is in the folder already.")
@pace_options
@click.argument("folder", required=False)
def get(
    path: str | None,
    filepath: str | None,
    listed: BinaryIO | None,
    skip_existing: bool,
    connections: int,
    batch: int,
    folder: str | None,
    **where: Any,
) -> None:
    """Read one file; or with -r LIST FOLDER those of a list, into a folder.

    LIST is a file of paths (what put -r --manifest wrote is one). What failed for a passing reason is tried again.
    """
    if listed is not None:
        if folder is None or path is not None or filepath is not None:
            raise click.UsageError("get -r LIST FOLDER says all; --path and --filepath are for one file")
        get_many(make_target(**where), listed, folder, Pace(connections, batch), skip_existing)
        return
    if path is None or folder is not None:
        raise click.UsageError("--path says which file; -r LIST FOLDER is for many")
    target, resource = make_target(**where), file_target("file", path)
    if filepath is None or filepath == "-":
        answer = exchange(target, "GET", resource, sink=sys.stdout.buffer.write)
        if not answer.good:
            finish(answer)
        return
    # Written beside its place and moved there when whole, so that a cut connection leaves what was there before.
    partial = f"{filepath}.{os.getpid()}.part"
    try:
        with open(partial, "xb") as sink:
            answer = exchange(target, "GET", resource, sink=sink.write)
        if answer.good:
            os.replace(partial, filepath)
    except OSError as error:
        fail(FAILED, f"can't write {filepath}: {error.strerror or error}")
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
    finish(answer)


@main.command()
@target_options
@click.option("--path", help="Path to store the file under.")
@click.option("--filepath", type=click.File("rb"), help="The local file; - for standard input.")
@click.option(
    "-r",
    "--recursive",
    "folder",
    type=click.Path(exists=True, file_okay=False),
    metavar="FOLDER",
    help="All files below this folder.",
)
@click.option("--manifest", help="With -r: note here what is stored, and leave out what is noted and unchanged.")
@pace_options
@click.argument("prefix", required=False)
def put(
    path: str | None,
    filepath: BinaryIO | None,
    folder: str | None,
    manifest: str | None,
    connections: int,
    batch: int,
    prefix: str | None,
    **where: Any,
) -> None:
    """Create or replace one file, its bytes as they are; or with -r FOLDER [PREFIX] all files of a folder.

    What failed for a passing reason is sent again, which is safe where nobody else writes the same paths.
    """
    if folder is not None:
        if path is not None or filepath is not None:
            raise click.UsageError("put -r FOLDER [PREFIX] says all; --path and --filepath are for one file")
        try:
            noted = Manifest(manifest) if manifest is not None else None
        except OSError as error:
            fail(FAILED, f"can't use {manifest}: {error.strerror}")
        put_folder(make_target(**where), folder, (prefix or "").strip("/"), Pace(connections, batch), noted)
        return
    if path is None or filepath is None or prefix is not None:
        raise click.UsageError("--path and --filepath say what to put; -r FOLDER [PREFIX] is for many")
    body = filepath.read()
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))}
    finish(exchange(make_target(**where), "PUT", file_target("file", path), body, headers))


@main.command()
@target_options
@click.option("--path", required=True, help="Path of the stored file.")
def rm(path: str, **where: Any) -> None:
    """Remove one file."""
    finish(exchange(make_target(**where), "DELETE", file_target("file", path)))


@main.command()
@target_options
@click.option("--path", required=True, help="Path of the file.")
def explain(path: str, **where: Any) -> None:
    """Tell where a file lives and what each replica has; for operators."""
    answer = exchange(make_target(**where), "GET", f"{file_target('file', path)}&explain")
    if not answer.good:
        finish(answer)
    try:
        print(json.dumps(json.loads(answer.body), ensure_ascii=False, indent=2))
    except ValueError:
        fail(FAILED, "the server answered the file itself: it is older than explanations")


@main.command()
@target_options
@click.option("--sizes", default="4k", show_default=True, help="Mix of sizes and weights, as 4k:80,64k:15,1m:5.")
@click.option("--reads", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="Share of reads.")
@click.option(
    "--concurrency", type=click.IntRange(1, 10_000), default=32, show_default=True, help="Connections in all."
)
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), help="Seconds to measure.  [default: 10]")
@click.option("--requests", type=click.IntRange(min=1), help="Requests to measure, in place of --duration.")
@click.option("--keys", type=click.IntRange(1, 10_000_000), default=1000, show_default=True, help="Files to use.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Start this many requests a second, whatever the answers; latency counts from when each was due.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 100_000),
    default=1,
    show_default=True,
    help="Files in one request; --concurrency counts requests then.",
)
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes of the client.")
@click.option("--seed", type=int, help="Repeats a run's choices.  [default: random, printed]")
@click.option("--prefix", help="Folder for the files.  [default: bench/<seed>]")
@click.option("--keep", is_flag=True, help="Leave the files on the server.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench(
    sizes: str,
    reads: float,
    concurrency: int,
    duration: float | None,
    requests: int | None,
    keys: int,
    rate: float | None,
    batch: int,
    processes: int,
    seed: int | None,
    prefix: str | None,
    keep: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Measure a server: write and read files, verify every byte read, print rates and latencies.

    The files are removed afterwards, also after Ctrl-C.
    """
    try:
        mix = parse_mix(sizes)
    except ValueError as error:
        raise click.BadParameter(f"{error}; the form is 4k:80,64k:15,1m:5", param_hint="--sizes") from error
    if keys < concurrency * batch:
        raise click.UsageError(
            f"--keys ({keys}) can't be below --concurrency ({concurrency}){f' times --batch ({batch})' * (batch > 1)}: "
            "one write a file at a time"
        )
    if rate is not None and batch > 1:
        raise click.UsageError("--rate is for single requests, not for --batch")
    if concurrency < processes:
        raise click.UsageError(f"--concurrency ({concurrency}) can't be below --processes ({processes})")
    if requests is not None and requests < processes:
        raise click.UsageError(f"--requests ({requests}) can't be below --processes ({processes})")
    if duration is not None and requests is not None:
        raise click.UsageError("--duration or --requests, not both")
    target = make_target(**where)
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    prefix = f"bench/{seed}" if prefix is None else prefix.strip("/")
    duration_s = float("inf") if requests else duration or 10.0
    try:
        address = target.find()
    except (OSError, http.client.HTTPException) as error:
        fail(UNREACHABLE, target.trouble(error))
    dealt = deal_sizes(mix, keys)
    random.Random(seed).shuffle(dealt)
    plans = [
        Plan(
            target=target,
            address=address,
            prefix=prefix,
            sizes=dealt[process::processes],
            reads=reads,
            connections=len(range(process, concurrency, processes)),
            process=process,
            processes=processes,
            rate=rate,
            duration_s=duration_s,
            requests=None if requests is None else len(range(process, requests, processes)),
            seed=seed,
            keep=keep,
            batch=batch,
        )
        for process in range(processes)
    ]
    result = run_bench(plans, Progress(quiet=as_json))
    settings = {
        "server": str(target),
        "sizes": sizes,
        "reads": reads,
        "concurrency": concurrency,
        "keys": keys,
        "rate": rate,
        "batch": batch,
        "processes": processes,
        "seed": seed,
        "prefix": prefix,
        "timeout_s": target.timeout_s,
    }
    figures = summary(result, settings)
    click.echo(json.dumps(figures) if as_json else describe(figures))
    if figures["wrong_reads"]:
        sys.exit(WRONG_BYTES)
    if figures["server_lost"]:
        sys.exit(UNREACHABLE)
    if figures["error_count"] or figures["processes_lost"]:
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
