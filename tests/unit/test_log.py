"""What a log line looks like, and that a server never waits for whoever reads its log."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator

import pytest

from sfss import log
from sfss.log import PatientHandler, of_call, set_up_logging, writer_to
from sfss.store import Call


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    return lambda: capfd.readouterr().err.splitlines()


class Reader:
    """Stands for what reads standard error: takes `room` bytes, then nothing; or fails with `error`."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.error: OSError | None = None
        self.taken = b""

    def write(self, line: bytes) -> int:
        if self.error is not None:
            raise self.error
        if self.room == 0:
            raise BlockingIOError
        written = line[: self.room]
        self.room -= len(written)
        self.taken += written
        return len(written)


def logger_to(reader: Reader) -> logging.Logger:
    logger = logging.Logger("test")
    logger.addHandler(PatientHandler(reader.write))
    return logger


def test_a_text_line_has_time_level_tier_message_and_request(lines: Callable[[], list[str]]) -> None:
    set_up_logging("node:7900")

    logging.getLogger("sfss.node").info("stored %d bytes", 3, extra=of_call(Call(request_id=b"abc-1")))

    (line,) = lines()
    time, level, tier, *rest = line.split()
    assert time.endswith("Z")
    assert "T" in time
    assert (level, tier, rest) == ("INFO", "node:7900", ["stored", "3", "bytes", "request=abc-1"])


def test_a_json_line_has_the_same_and_the_traceback(lines: Callable[[], list[str]]) -> None:
    set_up_logging("web", as_json=True)

    try:
        raise ValueError("café\n")
    except ValueError:
        logging.getLogger("sfss.web").exception("can't answer", extra=of_call(Call(request_id=b"r2")))

    (line,) = lines()
    parsed = json.loads(line)
    assert parsed.pop("time").endswith("Z")
    assert parsed.pop("error").endswith("ValueError: café\n")
    assert parsed == {"level": "error", "tier": "web", "message": "can't answer", "request": "r2"}


def test_what_a_client_sent_can_not_forge_a_line(lines: Callable[[], list[str]]) -> None:
    set_up_logging("web")
    forged = "2026-01-01T00:00:00.000Z INFO web all is well"

    logging.warning("bad path %s", f"a\r\n{forged}\x1b[2J\u2028")
    try:
        raise ValueError(f"\n{forged}")
    except ValueError:
        logging.exception("oops")

    got = lines()
    assert got[0].endswith(f"bad path a\\r\\n{forged}\\x1b[2J\\u2028")
    assert not any(line.startswith(forged) for line in got)


@pytest.mark.parametrize("as_json", [False, True])
def test_bytes_that_are_no_text_are_logged_escaped(lines: Callable[[], list[str]], as_json: bool) -> None:
    set_up_logging("web", as_json=as_json)

    logging.warning("name %s", b"\xff".decode("utf-8", "surrogateescape"))

    assert "\\udcff" in lines()[0]


def test_lines_below_the_level_are_not_written(lines: Callable[[], list[str]]) -> None:
    set_up_logging("web", level="warning")

    logging.info("quiet")
    logging.warning("loud")

    assert [line.rsplit(" ", 1)[1] for line in lines()] == ["loud"]


def test_lines_that_are_not_taken_wait_and_come_in_order() -> None:
    reader = Reader(room=8)
    logger = logger_to(reader)

    for number in range(4):
        logger.warning("line %d", number)  # 7 bytes each
    assert reader.taken == b"line 0\nl"
    reader.room = 1000
    logger.warning("line 4")

    assert reader.taken == b"line 0\nline 1\nline 2\nline 3\nline 4\n"


def test_memory_for_waiting_lines_is_bounded_and_the_lost_ones_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "BACKLOG_BYTES_MAX", 20)
    reader = Reader(room=0)
    logger = logger_to(reader)

    for number in range(6):
        logger.warning("line %d", number)
    reader.room = 1000
    logger.warning("line 6")

    assert reader.taken == b"line 0\nline 1\n4 log lines were lost here: nobody took them\nline 6\n"


def test_lines_that_failed_are_counted_too_and_nothing_is_raised() -> None:
    reader = Reader()
    logger = logger_to(reader)

    reader.error = BrokenPipeError()
    for number in range(3):
        logger.warning("line %d", number)
    reader.error = None
    logger.warning("line 3")

    assert reader.taken == b"3 log lines were lost here: nobody took them\nline 3\n"


def test_flush_writes_what_waits() -> None:
    reader = Reader(room=0)
    logger = logger_to(reader)
    logger.warning("the last words")

    reader.room = 1000
    logger.handlers[0].flush()

    assert reader.taken == b"the last words\n"


def test_flush_gives_up_on_a_reader_that_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "FLUSH_S_MAX", 0.02)
    reader = Reader(room=0)
    logger = logger_to(reader)
    logger.warning("the last words")

    logger.handlers[0].flush()

    assert reader.taken == b""


def test_a_full_pipe_makes_nobody_wait_and_leaves_the_shared_flag_alone() -> None:
    reader, writer = os.pipe()
    try:
        write = writer_to(writer)

        pipe_bytes = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        write(b"x" * pipe_bytes)
        with pytest.raises(BlockingIOError):
            write(b"one more")

        assert os.get_blocking(writer)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_regular_file_is_written_at_the_offset_that_others_share(tmp_path: os.PathLike[str]) -> None:
    fd = os.open(os.path.join(tmp_path, "log"), os.O_RDWR | os.O_CREAT)
    try:
        write = writer_to(fd)
        os.write(fd, b"one\n")
        write(b"two\n")
        os.write(fd, b"three\n")

        assert os.pread(fd, 100, 0) == b"one\ntwo\nthree\n"
    finally:
        os.close(fd)
