#!/usr/bin/env python3
"""Command-line client and benchmark for sfss. One file: it needs Python 3.11 and click, and nothing of sfss.

    simple_client.py --host 127.0.0.1 --port 8255 --path folder/file.ext --filepath /local/file    post a file
    simple_client.py get | put | rm | explain --path folder/file.ext …                             one file
    simple_client.py bench …                                                                       load

Exit status: 0 done · 1 the server refused or failed · 2 wrong usage · 3 the server can't be reached · 4 no such file ·
5 `bench` read bytes that were never written.

How the benchmark stays honest: every value is derived from its path and generation, so a read is compared whole,
and an old one is told from a current one; one write of a path is in flight at a time. With `--rate` requests start
by a schedule and their latency is counted from the moment they were due, whether or not a connection was free.
"""

from __future__ import annotations

import hashlib
import http.client
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
import sys
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

    def record(self, microseconds: int) -> None:
        shift = max(microseconds.bit_length() - 8, 0)
        self.counts[(shift << 7) + (microseconds >> shift)] += 1
        self.count += 1
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


def work(plan: Plan, pipe: Pipe) -> None:
    """Run one process: fill, wait for the word to start, measure, clear up. Tells the parent over `pipe`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files = [
        BenchFile(plan.target, f"{plan.prefix}/{plan.process}/{number}", size) for number, size in enumerate(plan.sizes)
    ]
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
    lines = [
        f"{settings['server']}  {settings['keys']:,} files of {settings['sizes']}, {settings['reads']:.0%} reads, "
        f"{settings['concurrency']} connections in {_plural(settings['processes'], 'process', 'processes')}, {pace}",
        f"seed {settings['seed']}, {figures['duration_s']:.1f} s" + " (stopped early)" * figures["stopped_early"],
        "",
        f"{'':6}{'requests':>12}{'per s':>11}{'MB/s':>10}{'p50 ms':>10}{'p90 ms':>10}{'p99 ms':>10}{'max ms':>10}",
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


@main.command()
@target_options
@click.option("--path", required=True, help="Path of the stored file.")
@click.option("--filepath", help="Where to put it; standard output without. Replaced only by a whole file.")
def get(path: str, filepath: str | None, **where: Any) -> None:
    """Read one file."""
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
@click.option("--path", required=True, help="Path to store the file under.")
@click.option("--filepath", type=click.File("rb"), required=True, help="The local file; - for standard input.")
def put(path: str, filepath: BinaryIO, **where: Any) -> None:
    """Create or replace one file; its bytes are sent as they are."""
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
    if keys < concurrency:
        raise click.UsageError(
            f"--keys ({keys}) can't be below --concurrency ({concurrency}): one write a file at a time"
        )
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
