"""Conditions and ranges of a request: pure decisions on header texts, by RFC 9110 sections 13 and 14.

What a file is known by is its validator: the ETag and the time of its version. Only reads may carry conditions; a
condition on a write would be a race between the check and the write, and is refused by the caller.
"""

from __future__ import annotations

import calendar
import re
import time
from enum import Enum
from typing import Final, NamedTuple

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE: Final = re.compile(r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d\d) (\w\w\w) (\d{4}) (\d\d):(\d\d):(\d\d) GMT")
_RANGE: Final = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.ASCII | re.IGNORECASE)
_ENTITY_TAG: Final = re.compile(r'\s*(?:(W/)?"([\x21\x23-\x7e\x80-\uffff]*)"\s*(?:,|$)|,)')

READ_CONDITIONS: Final = ("If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since")


class Validator(NamedTuple):
    """What a file is known by. `etag` without quotes; `modified` in whole Unix seconds, None where versions carry no
    time (foreign servers)."""

    etag: str
    modified: int | None


class Verdict(Enum):
    """What the conditions of a read ask for."""

    SEND = 200
    NOT_MODIFIED = 304
    FAILED = 412


class Span(NamedTuple):
    """Part of a file: offset of its first byte, and its length (at least 1)."""

    start: int
    size: int


class UnsatisfiableRange(Exception):
    """The range lies outside of the file."""


_DATES: Final = 4096
_dated: Final = [0] * _DATES
_dates: Final = [b"Thu, 01 Jan 1970 00:00:00 GMT"] * _DATES
"""What was told last of a second with the same lowest bits, which one stands at the same place of `_dated`."""


def http_date(seconds: int) -> bytes:
    """Unix seconds as HTTP wants them (IMF-fixdate), whatever the locale."""
    place = seconds % _DATES
    if _dated[place] != seconds:  # a sixth of what a dict takes
        _dates[place] = _date(seconds)
        _dated[place] = seconds
    return _dates[place]


def _date(seconds: int) -> bytes:
    at = time.gmtime(seconds)
    return (
        f"{_DAYS[at.tm_wday]}, {at.tm_mday:02d} {_MONTHS[at.tm_mon - 1]} {at.tm_year} "
        f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} GMT"
    ).encode()


def parse_http_date(text: str) -> int | None:
    """Unix seconds of an IMF-fixdate; None for anything else, which makes a condition void (RFC 9110, 13.1.3)."""
    match = _DATE.fullmatch(text.strip())
    if not match or match[2] not in _MONTHS:
        return None
    day, year, hour, minute, second = (int(match[group]) for group in (1, 3, 4, 5, 6))
    if not 1 <= day <= 31 or hour > 23 or minute > 59 or second > 60:
        return None
    return calendar.timegm((year, _MONTHS.index(match[2]) + 1, day, hour, minute, second))


def judge_read(
    file: Validator,
    if_match: str | None,
    if_unmodified_since: str | None,
    if_none_match: str | None,
    if_modified_since: str | None,
) -> Verdict:
    """Weigh a read's conditions in the order of RFC 9110, 13.2.2."""
    if if_match is not None:
        if not _matches(if_match, file.etag, weak=False):
            return Verdict.FAILED
    elif if_unmodified_since is not None:
        limit = parse_http_date(if_unmodified_since)
        if limit is not None and file.modified is not None and file.modified > limit:
            return Verdict.FAILED
    if if_none_match is not None:
        return Verdict.NOT_MODIFIED if _matches(if_none_match, file.etag, weak=True) else Verdict.SEND
    if if_modified_since is not None:
        since = parse_http_date(if_modified_since)
        if since is not None and file.modified is not None and file.modified <= since:
            return Verdict.NOT_MODIFIED
    return Verdict.SEND


def _matches(header: str, etag: str, *, weak: bool) -> bool:
    if header.strip() == "*":
        return True
    return any(tag == etag and (weak or not is_weak) for is_weak, tag in _entity_tags(header))


def _entity_tags(header: str) -> list[tuple[bool, str]]:
    """The entity tags of a list, up to the first thing that is none: (weak, tag)."""
    tags = []
    position = 0
    while position < len(header) and (match := _ENTITY_TAG.match(header, position)):
        if match[2] is not None:
            tags.append((match[1] is not None, match[2]))
        position = match.end()
    return tags


def span_of(range_header: str, size: int) -> Span | None:
    """The part of a file of `size` bytes that a Range header asks for; None when the whole file is the answer: a
    unit other than bytes, several ranges, or what is no range at all (RFC 9110, 14.2 allows to ignore them).
    Raises `UnsatisfiableRange`."""
    match = _RANGE.fullmatch(range_header.strip())
    if not match or match[1] == match[2] == "":
        return None
    if match[1] == "":
        length = min(int(match[2]), size)
        if length == 0:
            raise UnsatisfiableRange
        return Span(size - length, length)
    first = int(match[1])
    last = int(match[2]) if match[2] else size - 1
    if match[2] and last < first:
        return None
    if first >= size:
        raise UnsatisfiableRange
    return Span(first, min(last, size - 1) - first + 1)


def range_applies(if_range: str | None, file: Validator) -> bool:
    """Whether the file is surely still the one that an If-Range header names: by a strong entity tag. A date is never
    proof enough, since two versions within one second share it, and the client would glue them together."""
    return if_range is None or if_range.strip() == f'"{file.etag}"'
