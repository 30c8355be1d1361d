"""Conditional and partial reads, decided on header texts alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.web.conditions import (
    Span,
    UnsatisfiableRange,
    Validator,
    Verdict,
    http_date,
    judge_read,
    parse_http_date,
    range_applies,
    span_of,
)

MODIFIED = 1_700_000_000
FILE = Validator("abc", MODIFIED)
NAMELESS_TIME = Validator("abc", None)
BEFORE, SAME, AFTER = (http_date(MODIFIED + delta).decode() for delta in (-1, 0, 1))


def judged(file: Validator = FILE, **headers: str) -> Verdict:
    names = ("if_match", "if_unmodified_since", "if_none_match", "if_modified_since")
    return judge_read(file, *(headers.get(name) for name in names))


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({}, Verdict.SEND),
        ({"if_none_match": '"abc"'}, Verdict.NOT_MODIFIED),
        ({"if_none_match": 'W/"abc"'}, Verdict.NOT_MODIFIED),
        ({"if_none_match": '"x", W/"y" , "abc"'}, Verdict.NOT_MODIFIED),
        ({"if_none_match": "*"}, Verdict.NOT_MODIFIED),
        ({"if_none_match": '"x"'}, Verdict.SEND),
        ({"if_none_match": "abc"}, Verdict.SEND),
        ({"if_none_match": ""}, Verdict.SEND),
        ({"if_none_match": '"x"', "if_modified_since": AFTER}, Verdict.SEND),
        ({"if_modified_since": BEFORE}, Verdict.SEND),
        ({"if_modified_since": SAME}, Verdict.NOT_MODIFIED),
        ({"if_modified_since": AFTER}, Verdict.NOT_MODIFIED),
        ({"if_modified_since": "yesterday"}, Verdict.SEND),
        ({"if_match": '"abc"'}, Verdict.SEND),
        ({"if_match": "*"}, Verdict.SEND),
        ({"if_match": 'W/"abc"'}, Verdict.FAILED),
        ({"if_match": '"x"'}, Verdict.FAILED),
        ({"if_unmodified_since": BEFORE}, Verdict.FAILED),
        ({"if_unmodified_since": SAME}, Verdict.SEND),
        ({"if_match": '"abc"', "if_unmodified_since": BEFORE}, Verdict.SEND),
        ({"if_match": '"abc"', "if_none_match": '"abc"'}, Verdict.NOT_MODIFIED),
    ],
)
def test_conditions_are_weighed_in_the_order_of_rfc_9110(headers: dict[str, str], verdict: Verdict) -> None:
    assert judged(**headers) is verdict


def test_a_file_without_a_time_is_never_unmodified_since() -> None:
    assert judged(NAMELESS_TIME, if_modified_since=AFTER) is Verdict.SEND
    assert judged(NAMELESS_TIME, if_unmodified_since=BEFORE) is Verdict.SEND


@pytest.mark.parametrize(
    ("header", "size", "span"),
    [
        ("bytes=0-0", 10, Span(0, 1)),
        ("bytes=0-9", 10, Span(0, 10)),
        ("bytes=3-", 10, Span(3, 7)),
        ("bytes=3-99", 10, Span(3, 7)),
        ("bytes=-3", 10, Span(7, 3)),
        ("bytes=-99", 10, Span(0, 10)),
        ("Bytes=1-2", 10, Span(1, 2)),
        # not one range of bytes: the whole file is sent
        ("bytes=5-3", 10, None),
        ("bytes=-", 10, None),
        ("bytes=0-1,3-4", 10, None),
        ("bytes=a-b", 10, None),
        ("lines=0-1", 10, None),
        ("bytes 0-1", 10, None),
        ("", 10, None),
        ("bytes=" + "9" * 40 + "-", 10, None),
    ],
)
def test_one_range_is_cut_to_the_file_and_others_are_passed_over(header: str, size: int, span: Span | None) -> None:
    assert span_of(header, size) == span


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-5", 0)])
def test_a_range_outside_of_the_file_is_unsatisfiable(header: str, size: int) -> None:
    with pytest.raises(UnsatisfiableRange):
        span_of(header, size)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 100))
def test_a_span_lies_within_the_file(first: int, last: int, size: int) -> None:
    try:
        span = span_of(f"bytes={first}-{last}", size)
    except UnsatisfiableRange:
        assert first >= size
        return

    assert span is None or (span.start == first and span.size >= 1 and span.start + span.size <= size)


@pytest.mark.parametrize(
    ("if_range", "applies"),
    [
        (None, True),
        ('"abc"', True),
        (' "abc" ', True),
        ('W/"abc"', False),
        ('"x"', False),
        ('"x", "abc"', False),
        ("abc", False),
        ("*", False),
        (SAME, False),
        (AFTER, False),
        ("soon", False),
    ],
)
def test_if_range_holds_for_exactly_this_version_which_no_date_tells(if_range: str | None, applies: bool) -> None:
    assert range_applies(if_range, FILE) is applies


@given(st.integers(0, 4_000_000_000))
def test_dates_are_read_as_they_are_written(seconds: int) -> None:
    assert parse_http_date(http_date(seconds).decode()) == seconds


def test_dates_are_written_as_rfc_9110_has_them() -> None:
    assert http_date(784_111_777) == b"Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    "text", ["", "Sun, 06 Nov 1994", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Non 1994 08:49:37 GMT"]
)
def test_what_is_no_date_is_none(text: str) -> None:
    assert parse_http_date(text) is None


def test_dates_stay_right_however_many_are_asked_for() -> None:
    for seconds in range(MODIFIED, MODIFIED + 10_000):
        assert parse_http_date(http_date(seconds).decode()) == seconds
    assert http_date(MODIFIED) == SAME.encode()
