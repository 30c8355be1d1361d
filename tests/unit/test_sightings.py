"""What is told of nodes is whole, bounded, and never takes back what is known."""

import pytest

from sfss.errors import BadRequest
from sfss.sightings import SIGHTINGS_MAX, decode, encode, is_later, later_of
from sfss.store import Seen

ONE = Seen("ab" * 16, 7, "0123456789abcdef", 1 << 50, "localhost:7900")
TWO = Seen("cd" * 16, 1, "f" * 16, 0, "[::1]:7900")


def test_what_is_told_is_heard():
    assert decode(encode([ONE, TWO])) == (ONE, TWO)
    assert decode(encode([])) == ()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"ab 7 word 5",
        b"ab -7 word 5 a:1",
        b"ab 7 word x a:1",
        b"ab 7  5 a:1",
        b"ab 7 word 5 a:1 b",
        b"ab 9999999999999999999 word 5 a:1",
        b"ab 7 word 5 \xff" + b"a" * 300,
        b"a/b 7 word 5 a:1",
        b"ab 100000000000000001 word 5 a:1",
    ],
)
def test_what_tells_of_no_node_keeps_nobody_from_hearing_of_the_others(line):
    assert decode(encode([ONE]) + line + b"\n" + encode([TWO])) == (ONE, TWO)


def test_of_two_lines_about_one_node_the_later_counts_in_whatever_order():
    later = ONE._replace(epoch=ONE.epoch + 1, start="later")

    for known in ({}, {ONE.node: ONE}):
        assert later_of(known, [ONE, later]) == later_of(known, [later, ONE]) == {ONE.node: later}


def test_more_than_there_is_room_for_is_refused_and_never_kept():
    with pytest.raises(BadRequest):
        decode(encode([ONE] * (SIGHTINGS_MAX + 1)))
    many = [ONE._replace(node=f"n{number}") for number in range(SIGHTINGS_MAX)]
    known = later_of({}, many)
    assert len(known) == SIGHTINGS_MAX
    assert later_of(known, [TWO]) == {}
    assert later_of(known, [many[0]._replace(epoch=8)]) == {"n0": many[0]._replace(epoch=8)}


@pytest.mark.parametrize(
    ("changes", "later"),
    [
        ({}, False),
        ({"epoch": 8, "start": "other", "position": 0}, True),
        ({"epoch": 6, "position": 1 << 60}, False),
        ({"position": (1 << 50) + 1}, True),
        ({"position": 5}, False),
        ({"start": "other", "position": 1 << 60}, False),
    ],
)
def test_a_later_start_counts_and_within_one_a_higher_position(changes, later):
    assert is_later(ONE._replace(**changes), ONE) is later
