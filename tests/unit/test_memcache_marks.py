"""What a server remembers of items beside the store: bounded, and cheap when it is full."""

from __future__ import annotations

import pytest

from sfss.errors import Busy
from sfss.memcache.accesses import Accesses
from sfss.memcache.marks import PURGE_S, Mark, RecacheMarks


def stub(expires: int) -> Mark:
    return Mark(1, stub=True, stub_expires=expires)


def test_marks_beyond_the_limit_are_refused_until_stubs_expire() -> None:
    marks = RecacheMarks(marks_max=3)
    for key in (b"a", b"b"):
        marks.put(key, stub(10), 0.0)
    marks.put(b"c", Mark(5, stale=True), 0.0)

    with pytest.raises(Busy):
        marks.put(b"d", stub(20), 5.0)
    marks.put(b"a", stub(30), 5.0)
    marks.put(b"d", stub(20), 12.0)

    assert marks.stub(b"a", 12.0) is not None
    assert marks.stub(b"b", 12.0) is None
    assert marks.of(b"c", 5) == Mark(5, stale=True)


def test_full_marks_are_looked_through_only_so_often() -> None:
    marks = RecacheMarks(marks_max=1)
    marks.put(b"a", stub(10), 0.0)
    with pytest.raises(Busy):
        marks.put(b"b", stub(20), 9.9)

    with pytest.raises(Busy):
        marks.put(b"b", stub(20), 9.9 + PURGE_S / 2)
    marks.put(b"b", stub(20), 9.9 + PURGE_S)


def test_the_keys_last_fetched_are_remembered() -> None:
    accesses = Accesses(accesses_max=2)
    accesses.note(b"a", 1.0)
    accesses.note(b"b", 2.0)
    accesses.note(b"a", 3.0)
    accesses.note(b"c", 4.0)

    assert [accesses.last(key) for key in (b"a", b"b", b"c")] == [3.0, None, 4.0]
