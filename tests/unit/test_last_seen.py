"""What is remembered of nodes only ever moves on, is soon on disk, and costs no write of its own for each request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy.last_seen import SAVE_S, LastSeen
from proxy.state import Notes, ProxyState, StateDirectory
from sfss.store import Identity, Seen
from tests.unit.virtual_time import in_virtual_time


class Kept:
    """Notes that say what was written."""

    def __init__(self) -> None:
        self.state = ProxyState()
        self.written: list[dict[str, Any]] = []

    def write(self, **changes: Any) -> None:
        self.written.append(changes)


def told(epoch: int, start: str, position: int) -> Identity:
    return Identity("n", "c", 1, "ring", epoch, position, start=start)


def memory() -> tuple[LastSeen, Kept]:
    notes = Kept()
    return LastSeen(notes), notes  # type: ignore[arg-type]


def note(seen: LastSeen, identity: Identity) -> None:
    seen.note(identity, "a:1")


@in_virtual_time
async def test_a_new_start_is_written_down_at_once_and_positions_now_and_then() -> None:
    seen, notes = memory()

    note(seen, told(1, "a", 10))
    note(seen, told(2, "b", 10))
    assert [each["seen"]["n"] for each in notes.written] == [(1, "a", 10, "a:1"), (2, "b", 10, "a:1")]

    for position in range(11, 1000):
        note(seen, told(2, "b", position))
    assert len(notes.written) == 2
    await asyncio.sleep(SAVE_S + 1)
    assert [each["seen"]["n"] for each in notes.written[2:]] == [(2, "b", 999, "a:1")]
    await asyncio.sleep(10 * SAVE_S)
    assert len(notes.written) == 3


@in_virtual_time
async def test_what_is_late_or_contradicts_does_not_take_back_what_is_known() -> None:
    seen, _ = memory()
    note(seen, told(5, "e", 100))

    for identity in (told(4, "d", 500), told(5, "e", 99), told(5, "other", 500), told(5, "", 500)):
        note(seen, identity)

    assert seen.of("n") == Seen("n", 5, "e", 100, "a:1")


def test_a_node_that_tells_no_start_is_not_remembered() -> None:
    seen, notes = memory()

    note(seen, told(5, "", 100))

    assert seen.of("n") is None
    assert notes.written == []


def test_what_can_not_be_true_is_neither_remembered_nor_news() -> None:
    seen, notes = memory()

    note(seen, told(10**17 + 1, "a", 100))
    note(seen, told(1, "a", 10**18))

    assert seen.of("n") is None
    assert notes.written == []
    assert not seen.news.is_set()


def test_what_can_not_be_true_is_not_taken_over_from_an_earlier_life() -> None:
    notes = Kept()
    notes.state = ProxyState(seen={"n": (10**17 + 1, "a", 100, "a:1"), "m": (1, "b", 100, "b:1")})

    seen = LastSeen(notes)  # type: ignore[arg-type]

    assert seen.of("n") is None
    assert seen.of("m") == Seen("m", 1, "b", 100, "b:1")


async def test_it_is_there_after_a_restart(tmp_path) -> None:
    directory = StateDirectory(tmp_path)
    notes = Notes(directory)
    seen = LastSeen(notes)
    note(seen, told(5, "e", 100))
    note(seen, told(5, "e", 200))
    seen.save()
    await notes.close()
    directory.close()

    directory = StateDirectory(tmp_path)

    assert LastSeen(Notes(directory)).of("n") == Seen("n", 5, "e", 200, "a:1")
    directory.close()


async def test_of_notes_that_come_faster_than_the_disk_the_newest_is_kept(tmp_path) -> None:
    directory = StateDirectory(tmp_path)
    notes = Notes(directory)

    for number in range(200):
        notes.write(cluster=f"c{number}")
        notes.write(members={"a": str(number)})
    await notes.close()

    assert directory.state == ProxyState(cluster="c199", members={"a": "199"})
    directory.close()


async def test_what_could_not_be_written_is_said_once_and_written_later(tmp_path, monkeypatch, caplog) -> None:
    directory = StateDirectory(tmp_path)
    notes = Notes(directory)
    with monkeypatch.context() as patch:
        patch.setattr(directory, "_replace_file", _no_room)
        for number in range(3):
            notes.write(cluster=f"c{number}")
            await notes.close()
    assert [record.message for record in caplog.records] == ["the state directory can't be written: no room"]

    notes.write(members={"a": "n"})
    await notes.close()

    assert directory.state == ProxyState(cluster="c2", members={"a": "n"})
    directory.close()


def _no_room(path: Path, text: str) -> None:
    raise OSError("no room")


@pytest.mark.parametrize("changes", [{"seen": {"n": [5, "e", 100, "a:1"]}}, {}])
async def test_a_state_of_before_or_after_is_read(tmp_path, changes) -> None:
    directory = StateDirectory(tmp_path)
    directory.update(**changes)
    directory.close()

    directory = StateDirectory(tmp_path)

    assert (LastSeen(Notes(directory)).of("n") is not None) == bool(changes)
    directory.close()
