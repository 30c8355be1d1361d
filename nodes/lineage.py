"""Whether a node can have come from where it was last seen.

Each start has a number, the epoch, and a random word, which the directory keeps; a copy of the directory that is
started goes on with another word. Whoever works with a node remembers the epoch, the word and the durable position that
it told last, and says so when they meet again. A node that never was there went back: an older copy of its directory
was put in its place, or its disk lost what it had taken. It then makes itself suspect, with an epoch above all that
were seen: what is remembered of other lines of starts lies below that, and is settled by the refill.
docs/replication.rst argues it.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from nodes.identity import STARTS_MAX, NodeState
from sfss.store import Seen


def new_word() -> str:
    return uuid.uuid4().hex[:16]


def next_start(state: NodeState) -> NodeState:
    """The state of a node that starts."""
    starts = (*state.starts, new_word())[-STARTS_MAX:]
    return replace(state, epoch=state.epoch + 1, starts=starts, closed=False)


def why_not_from(state: NodeState, position: int, seen: Seen) -> str:
    """Why a node can't have been what was seen of it, in words; empty if it can. `position` is the durable one now.
    Of a start longer ago than the last `STARTS_MAX` only number and position are looked at."""
    if seen.node != state.identity(position).node or seen.epoch < state.since:
        return ""
    if seen.epoch > state.epoch:
        return (
            f"an older copy of it was put back: its start {seen.epoch} had been seen, and this is start {state.epoch}"
        )
    word = state.word_of(seen.epoch)
    if word and word != seen.start:
        return f"another copy of it was put back: its start {seen.epoch} wasn't the one that had been seen"
    if seen.position > position:
        return f"its disk went back: position {seen.position} had been seen, and it is at {position}"
    return ""


def changes_from(state: NodeState, position: int, seen: Seen) -> dict[str, Any]:
    """What becomes of a node that hears what was seen of it: one that went back is suspect, and above that."""
    reason = why_not_from(state, position, seen)
    if not reason:
        return {}
    epoch = max(state.epoch, seen.epoch) + 1
    starts = (new_word(),)
    return {"epoch": epoch, "since": epoch, "starts": starts, "suspect": state.suspect or reason, "mute": True}
