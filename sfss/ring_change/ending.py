"""How a change of the ring ended, as far as later rings tell."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeAlias

from sfss.ring_record import RingRecord


class Outcome(Enum):
    """How a change ended, for whoever asked for it."""

    DONE = "done"
    NOTHING = "nothing was left to do"
    COPIES_LEFT = "done, but old copies are left"
    OTHER = "another change was carried out"
    GIVEN_UP = "the change was given up"
    OVERTAKEN = "others have changed the ring since"


Endings: TypeAlias = Mapping[Outcome, Outcome]
"""How the ends of a change are told to somebody; any other end is OVERTAKEN."""

MINE: Endings = {Outcome.DONE: Outcome.DONE, Outcome.GIVEN_UP: Outcome.GIVEN_UP}
THEIRS: Endings = {Outcome.DONE: Outcome.OTHER}
UNSURE: Endings = {Outcome.DONE: Outcome.DONE}
"""Where others have gone on before it was heard whether it was this wish that was decided."""

ABORTED: Endings = {Outcome.GIVEN_UP: Outcome.DONE, Outcome.DONE: Outcome.OTHER}


def ending(change: RingRecord, later: RingRecord) -> Outcome:
    """What became of the change that a joint ring stands for: DONE, GIVEN_UP, OTHER where another one was decided in
    its place, or OVERTAKEN where `later`, a ring with a higher number, doesn't tell any more."""
    old, new = change.placements
    # A joint ring begins with the placement that was settled before it.
    if later.number > change.number + 2:
        return Outcome.OVERTAKEN
    return {new: Outcome.DONE, old: Outcome.GIVEN_UP}.get(later.placements[0], Outcome.OTHER)
