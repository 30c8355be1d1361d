"""Logging: one format on all tiers, as text or as JSON lines, to standard error.

A line is time (UTC, ms), level, tier, message and, where there is one, the request id, which is the same from
web to node. Callers use `logging.getLogger("sfss.<tier>")` and pass `extra=of_call(call)`.

Whoever reads standard error can be slow, stopped or gone, and a server must not wait for it: lines that a pipe, a
terminal or a socket does not take at once wait in memory, up to `BACKLOG_BYTES_MAX`; further ones are dropped,
counted, and the count is logged when there is room again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import stat
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable
from logging.handlers import WatchedFileHandler
from pathlib import Path

from sfss.errors import SetupError
from sfss.store import Call

LEVELS = ("debug", "info", "warning", "error")

BACKLOG_BYTES_MAX = 256 * 1024
"""Most that waits in memory for a slow reader of standard error, in bytes."""

FLUSH_S_MAX = 1.0
"""Longest that the end of a process waits for that reader."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def of_call(call: Call) -> dict[str, str]:
    """The `extra` of a log call that belongs to a request."""
    return {"request_id": call.request_id.decode("ascii", "replace")}


def set_up_logging(tier: str, level: str = "info", as_json: bool = False) -> None:
    """Send all logging of this process to standard error. `tier` names the process, as in `node:7900`."""
    handler = PatientHandler(writer_to(sys.stderr.fileno()))
    handler.setFormatter(_JsonLines(tier) if as_json else _Lines(tier))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def writer_to(fd: int) -> Callable[[bytes], int]:
    """A function like `os.write` to `fd` that raises BlockingIOError instead of waiting.

    The flag O_NONBLOCK belongs to the open file, which a shell or other processes share, so it is set on an opening of
    our own. A regular file has no reader to wait for, and a second opening would have an offset of its own and
    overwrite: it is written as it is.
    """
    kind = os.fstat(fd).st_mode
    if stat.S_ISSOCK(kind):
        connection = socket.socket(fileno=os.dup(fd))
        return lambda line: connection.send(line, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
        try:
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            # No /proc, somebody else's terminal, or a pipe without a reader: rather wait than say nothing.
            own = fd
        return lambda line: os.write(own, line)
    return lambda line: os.write(fd, line)


class PatientHandler(logging.Handler):
    """Writes whole lines with `write`, in order, and keeps what it does not take (the module says how much).

    What waits is written before the next line, or by `flush`. When `write` raises anything but BlockingIOError (nobody
    reads any more, a full disk) what it was given counts as lost; the next line tries again.
    """

    def __init__(self, write: Callable[[bytes], int]) -> None:
        super().__init__()
        self._write = write
        self._waiting: deque[tuple[bytes, int]] = deque()  # with the number of lines that are lost with it
        self._waiting_bytes = 0
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write or keep one record; never waits."""
        try:
            # Lone surrogates stand for bytes that were no UTF-8; the escape is legal in JSON too.
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        except Exception:
            self.handleError(record)
            return
        if self._waiting and not self._drain() and self._waiting_bytes + len(line) > BACKLOG_BYTES_MAX:
            self._lost += 1
            return
        if self._lost:
            line = b"%d log lines were lost here: nobody took them\n%b" % (self._lost, line)
        self._waiting.append((line, self._lost + 1))
        self._waiting_bytes += len(line)
        self._lost = 0
        self._drain()

    def flush(self) -> None:
        """Write what waits; gives up after `FLUSH_S_MAX` seconds."""
        deadline = time.monotonic() + FLUSH_S_MAX
        self.acquire()
        try:
            while not self._drain() and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            self.release()

    def _drain(self) -> bool:
        """Write all that is taken now; whether nothing waits any more."""
        while self._waiting:
            line, count = self._waiting.popleft()
            self._waiting_bytes -= len(line)
            try:
                written = self._write(line)
            except BlockingIOError:
                written = 0
            except OSError:
                self._lost += count
                continue
            if written < len(line):
                rest = line[written:]
                self._waiting.appendleft((rest, count))
                self._waiting_bytes += len(rest)
                return False
        return True


def log_to_file(logger: str, path: Path, tier: str, as_json: bool = False) -> None:
    """Send what one logger says to a file instead, which may be rotated from outside. Raises `SetupError`."""
    try:
        handler = WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror or error}") from None
    handler.setFormatter(_JsonLines(tier) if as_json else _Lines(tier))
    logging.getLogger(logger).addHandler(handler)
    logging.getLogger(logger).propagate = False


def _timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


class _Lines(logging.Formatter):
    def __init__(self, tier: str) -> None:
        super().__init__()
        self._tier = tier

    def format(self, record: logging.LogRecord) -> str:
        text = f"{_timestamp(record.created)} {record.levelname:<7} {self._tier} {_one_line(record.getMessage())}"
        request_id = getattr(record, "request_id", "")
        if request_id:
            text += f" request={request_id}"
        if record.exc_info:
            # Indented, so that what a client sent can't pass for a line of the log.
            text += "\n" + textwrap.indent(self.formatException(record.exc_info), "  ", lambda line: True)
        return text


def _one_line(message: str) -> str:
    """Escape control characters: paths and keys come from strangers, and a log is read in a terminal."""
    return _CONTROL.sub(lambda match: ascii(match.group())[1:-1], message)


class _JsonLines(logging.Formatter):
    def __init__(self, tier: str) -> None:
        super().__init__()
        self._tier = tier

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "tier": self._tier,
            "message": record.getMessage(),
        }
        request_id = getattr(record, "request_id", "")
        if request_id:
            line["request"] = request_id
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
