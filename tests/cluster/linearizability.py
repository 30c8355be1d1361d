"""Decide whether what clients saw of one key could have happened on a single copy of it.

Strategy: a depth-first search over (set of operations done, current value), each state visited once. Three facts keep
it from branching where it need not:

1. A read that may come next and returns the current value does no harm when it comes next.
2. A value written once, together with all its reads, is one block in any legal order. If the whole block may come
   next, it does no harm there; if it may not, its write can't be next.
3. Of several writes of one value that may come next (deletes), the one that ended first may as well be it.

With unique values nothing is left to branch on, so thousands of operations take milliseconds, legal or not.

A state keeps the undone operations that may come next (`waiting`) and the index of the first operation that may not
(`frontier`); every operation before the frontier that isn't waiting is done.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

Operation: TypeAlias = tuple[float, float, str, Hashable]
"""(start, end, `r` or `w`, value) of one operation of one key. Times are seconds of one clock; a write of unknown
outcome ends at infinity. A delete writes None, a read that found nothing read None. Failed operations are left out."""

SECONDS_MAX = 20.0


class Verdict(Enum):
    LEGAL = "legal"
    ILLEGAL = "illegal"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was decided. `stuck`: where the search got furthest, the operations that might have come next, and the last
    read of every value that one of them wrote (often the very read that nothing explains)."""

    verdict: Verdict
    stuck: tuple[Operation, ...] = ()

    @property
    def legal(self) -> bool:
        return self.verdict is Verdict.LEGAL


def linearizable(history: Iterable[Operation], seconds_max: float = SECONDS_MAX) -> bool:
    """Whether the operations can be put in an order in which each comes after all that ended before it began, every
    read returns the last write before it (None before the first), and every ended operation is included. Undecided
    within `seconds_max` counts as no."""
    return judge(history, seconds_max).legal


def judge(history: Iterable[Operation], seconds_max: float = SECONDS_MAX) -> Judgement:
    """The same, with the reason. History: operations of one key, in any order."""
    return _Search(history).run(time.monotonic() + seconds_max)


_State: TypeAlias = tuple[int, tuple[int, ...], Hashable]
"""frontier, waiting (indexes, rising), current value"""


class _Search:
    def __init__(self, history: Iterable[Operation]) -> None:
        operations = [operation for operation in history if operation[2] == "w" or operation[1] != math.inf]
        read = {value for _, _, kind, value in operations if kind == "r"}
        # A write that may never have happened and that nobody saw constrains nothing.
        self._operations = sorted(
            (o for o in operations if not (o[2] == "w" and o[1] == math.inf and o[3] not in read)),
            key=lambda operation: operation[:2],
        )
        self._starts = [operation[0] for operation in self._operations]
        self._ends = [operation[1] for operation in self._operations]
        self._is_read = [operation[2] == "r" for operation in self._operations]
        self._values = [operation[3] for operation in self._operations]

        self._end_from = [math.inf] * (len(self._ends) + 1)
        """Earliest end of the operations from an index on."""
        for index in range(len(self._ends) - 1, -1, -1):
            self._end_from[index] = min(self._ends[index], self._end_from[index + 1])

        self._write_count = Counter(o[3] for o in self._operations if o[2] == "w")
        self._write_count[None] += 1  # the key begins absent
        self._read_count = Counter(o[3] for o in self._operations if o[2] == "r")
        self._block_end: dict[Hashable, float] = {}
        """Earliest end of a value's write and reads."""
        for _, end, _, value in self._operations:
            self._block_end[value] = min(end, self._block_end.get(value, math.inf))

    def run(self, give_up: float) -> Judgement:
        furthest: tuple[int, tuple[int, ...]] = (-1, ())
        stack: list[_State] = [self._settle(0, [], None)[0]]
        seen: set[_State] = set()
        while stack:
            state = stack.pop()
            if state in seen:
                continue
            seen.add(state)
            frontier, waiting, _ = state
            if self._end_before(frontier, waiting) == math.inf:
                return Judgement(Verdict.LEGAL)
            if frontier - len(waiting) > furthest[0]:
                furthest = (frontier - len(waiting), waiting)
            if len(seen) % 64 == 0 and time.monotonic() > give_up:
                return Judgement(Verdict.UNDECIDED, self._explain(furthest[1]))
            stack += self._next_states(state)
        return Judgement(Verdict.ILLEGAL, self._explain(furthest[1]))

    def _explain(self, waiting: tuple[int, ...]) -> tuple[Operation, ...]:
        shown = set(waiting)
        for index in waiting:
            value = self._values[index]
            if not self._is_read[index] and self._read_count[value]:
                shown.add(max(i for i, v in enumerate(self._values) if v == value and self._is_read[i]))
        return tuple(self._operations[i] for i in sorted(shown))

    def _end_before(self, frontier: int, waiting: Iterable[int]) -> float:
        """The earliest end of all undone operations; those that begin after it can't come next."""
        return min(self._end_from[frontier], *(self._ends[i] for i in waiting), math.inf)

    def _settle(self, frontier: int, waiting: list[int], value: Hashable) -> tuple[_State, int]:
        """Let everything wait that may come next, and do the reads of the current value (fact 1). Returns the state and
        how many reads that were."""
        reads = 0
        while True:
            limit = self._end_before(frontier, waiting)
            while frontier < len(self._starts) and self._starts[frontier] <= limit:
                waiting.append(frontier)
                frontier += 1
            left = [i for i in waiting if not (self._is_read[i] and self._values[i] == value)]
            if len(left) == len(waiting):
                return (frontier, tuple(waiting), value), reads
            reads += len(waiting) - len(left)
            waiting = left

    def _next_states(self, state: _State) -> list[_State]:
        """Where one more write can lead; the likeliest last."""
        frontier, waiting, _ = state
        writes = sorted((i for i in waiting if not self._is_read[i]), key=lambda i: self._block_end[self._values[i]])
        repeated: dict[Hashable, int] = {}
        for write in writes:
            value = self._values[write]
            if self._write_count[value] > 1:
                best = repeated.get(value)
                if best is None or self._ends[write] < self._ends[best]:  # fact 3
                    repeated[value] = write
                continue
            after, reads = self._settle(frontier, [i for i in waiting if i != write], value)
            if reads == self._read_count[value]:  # fact 2
                return [after]
        return [
            self._settle(frontier, [i for i in waiting if i != write], value)[0]
            for value, write in reversed(repeated.items())
        ]
