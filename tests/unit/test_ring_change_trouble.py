"""The line that says what is in the way of a change."""

from __future__ import annotations

from sfss.errors import Unreachable
from sfss.ring_change.trouble import Blocked, Trouble


def trouble_of(*reasons: Blocked) -> Trouble:
    trouble = Trouble()
    for blocked in reasons:
        trouble.add(blocked)
    return trouble


def test_nothing_is_in_the_way_until_something_is() -> None:
    assert not Trouble()
    assert Trouble({"a:1": Unreachable("Connection refused")})
    assert trouble_of(Blocked(files={"f": "damaged"}))
    assert trouble_of(Blocked()), "whoever is blocked is, also without a word"


def test_every_node_is_told_once_with_its_reason_whatever_the_order() -> None:
    away, full = Blocked({"b:1": "Connection refused"}), Blocked({"a:1": "out of disk", "b:1": "Connection refused"})

    assert str(trouble_of(away, full)) == "a:1: out of disk; b:1: Connection refused"
    assert str(trouble_of(full, away)) == str(trouble_of(away, full))


def test_files_that_cannot_be_read_are_told_beside_the_nodes() -> None:
    trouble = trouble_of(Blocked({"a:1": "busy"}), Blocked(files={"f/1": "the copy on b:1 is damaged"}))

    assert str(trouble) == "a:1: busy; f/1 can't be read (the copy on b:1 is damaged)"


def test_however_much_is_in_the_way_the_line_is_bounded_and_says_that_there_is_more() -> None:
    nodes = [Blocked({f"n{number:03}:1": "why " * 1000}) for number in range(100)]
    files = [Blocked(files={f"f/{number:03}": "damaged"}) for number in reversed(range(1000))]

    told = str(trouble_of(*nodes, *files))

    assert told.startswith("n000:1: why why")
    assert "94 more nodes; f/000 can't be read (damaged); f/001" in told
    assert told.endswith("f/002 can't be read (damaged); 997 more can't be read")
    assert len(told) < 2000
    assert "\n" not in told


def test_a_file_that_is_met_again_and_again_is_counted_once() -> None:
    files = Blocked(files={f"f/{number}": "damaged" for number in range(5)})

    assert str(trouble_of(files, files, files)).endswith("; 2 more can't be read")
