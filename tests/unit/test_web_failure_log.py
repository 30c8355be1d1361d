"""5xx answers in the log: all kinds, and not each one."""

from __future__ import annotations

import pytest

from sfss.errors import Busy, QuorumUnavailable
from sfss.web.errors import failure_of
from sfss.web.failure_log import FailureLog

QUORUM = failure_of(QuorumUnavailable("2 of 3 replicas needed, 1 answered"))
BUSY = failure_of(Busy("too much is in hand"))


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What was logged since the last call, each with its request id."""
    told = [(record.getMessage(), record.request_id) for record in caplog.records if record.levelname == "WARNING"]
    caplog.clear()
    return told


def test_the_first_of_each_kind_is_logged_at_once_with_its_request(caplog: pytest.LogCaptureFixture) -> None:
    log = FailureLog()

    log.note(QUORUM, "GET /file?path=a", b"id-1")
    log.note(BUSY, "PUT /file?path=b", b"id-2")

    assert lines(caplog) == [
        ("GET /file?path=a: 503 quorum_unavailable: 2 of 3 replicas needed, 1 answered", "id-1"),
        ("PUT /file?path=b: 503 busy: too much is in hand", "id-2"),
    ]


def test_a_storm_is_one_line_a_second_with_a_count_and_its_newest_request(caplog: pytest.LogCaptureFixture) -> None:
    log = FailureLog()
    for number in range(1000):
        log.note(QUORUM, f"GET /file?path={number}", b"id-%d" % number)
    assert len(lines(caplog)) == 1

    for now in (1.0, 1.1, 1.9):
        log.tell(now)
    ((line, request_id),) = lines(caplog)

    assert line.startswith("GET /file?path=999: 503 quorum_unavailable")
    assert line.endswith("(999 since the last such line)")
    assert request_id == "id-999"


def test_what_is_over_is_told_to_its_end_and_a_later_failure_at_once(caplog: pytest.LogCaptureFixture) -> None:
    log = FailureLog()
    log.note(QUORUM, "GET /file?path=a", b"id-1")
    log.note(QUORUM, "GET /file?path=a", b"id-2")
    log.tell(1.0)
    assert len(lines(caplog)) == 2

    log.tell(2.0)
    assert lines(caplog) == []
    log.note(QUORUM, "GET /file?path=a", b"id-3")

    assert [request_id for _, request_id in lines(caplog)] == ["id-3"]


def test_a_long_target_does_not_make_a_long_line(caplog: pytest.LogCaptureFixture) -> None:
    FailureLog().note(BUSY, "GET /" + "x" * 8000, b"id")

    ((line, _),) = lines(caplog)
    assert len(line) < 300
