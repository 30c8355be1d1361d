"""What clients did and saw, and the verdict over it.

Every operation is one `Event`. The outcome says what is known: `ok`, `fail` (surely not applied) or `unknown`. Two
kinds of evidence are judged: each key's history by the checker of linearizability, and single answers that no history
can excuse (bytes that are no whole value, an answer to something else).
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from tests.cluster.linearizability import Operation, Verdict, judge
from tests.cluster.standstill import Standstills

SHOWN = 40
"""Events that a complaint shows."""

WRITES = frozenset({"put", "post", "delete"})


class Violation(AssertionError):
    """A promise was broken, with the evidence."""


class Outcome(Enum):
    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Event:
    """One operation of one client. Times are seconds of `time.monotonic()`.

    `value` is the id written or read, None for a delete and for a read that found nothing. A read known by its ETag
    alone (HEAD, 304) has `by_tag` set, and its value is found from the other events."""

    client: str
    key: str
    kind: str
    start: float
    end: float
    outcome: Outcome
    value: int | None = None
    status: int = 0
    tag: str = ""
    durable: str = ""
    by_tag: bool = False
    note: str = ""

    def __str__(self) -> str:
        return (
            f"{self.start:12.6f} {self.end - self.start:9.6f} s {self.client:>12} {self.kind:6} {self.key} "
            f"value={self.value} {self.outcome.value} {self.status} {self.tag} {self.durable} {self.note}"
        )


class History:
    """All events of a run. `seed` and `repeat` (a command) are printed with every complaint. `standstills` are those of
    the machine."""

    def __init__(self, seed: int = 0, repeat: str = "", standstills: Standstills | None = None) -> None:
        self.seed = seed
        self.repeat = repeat
        self._standstills = standstills
        self.events: list[Event] = []
        self.complaints: list[str] = []
        self._numbers = itertools.count(1)

    def next_number(self) -> int:
        """An id for a value, unique in the run."""
        return next(self._numbers)

    def add(self, event: Event) -> None:
        self.events.append(event)

    def complain(self, text: str) -> None:
        """Note an answer that is wrong by itself."""
        self.complaints.append(text)

    def acknowledged(self, before: float = math.inf) -> list[Event]:
        """Writes acknowledged before a moment (seconds of `time.monotonic()`)."""
        return [e for e in self.events if e.kind in WRITES and e.outcome is Outcome.OK and e.end < before]

    def begun(self, since: float = 0.0, until: float = math.inf) -> list[Event]:
        """Operations begun in a span of time."""
        return [e for e in self.events if since <= e.start < until]

    def errors(self, since: float = 0.0, until: float = math.inf) -> list[Event]:
        """Operations begun in a span of time that were neither done nor answered with a plain 404."""
        return [e for e in self.begun(since, until) if e.outcome is not Outcome.OK]

    def check_errors(self, at_most: int | None = None, among: Sequence[Event] | None = None) -> None:
        """Raise `AssertionError` where more operations failed than a few (without `at_most`: 2, or one in a thousand)
        of all, or `among` those. What the machine had no chance to answer in time doesn't count."""
        among = self.events if among is None else among
        failed = [e for e in among if e.outcome is not Outcome.OK]
        still = self._standstills
        errors = [e for e in failed if still is None or not still.excuses(e.status, e.start, e.end)]
        if len(errors) < len(failed):
            excused = len(failed) - len(errors)
            warnings.warn(f"the machine stood still: {excused} of {len(among)} answers don't count", stacklevel=2)
        if at_most is None:
            at_most = max(2, len(among) // 1000)
        lines = "\n".join(f"  {error}" for error in errors[:10])
        assert len(errors) <= at_most, f"{len(errors)} of {len(among)} operations failed:\n{lines}"

    def all_keys(self) -> list[str]:
        return sorted({event.key for event in self.events})

    def operations(self, key: str) -> list[Operation]:
        """One key's history in the checker's terms."""
        return self._operations([event for event in self.events if event.key == key])

    def _operations(self, events: Iterable[Event]) -> list[Operation]:
        events = list(events)
        by_tag = {e.tag: e.value for e in events if e.tag and e.outcome is Outcome.OK and not e.by_tag}
        operations: list[Operation] = []
        for event in events:
            if event.kind in WRITES:
                if event.outcome is Outcome.OK:
                    operations.append((event.start, event.end, "w", event.value))
                elif event.outcome is Outcome.UNKNOWN:
                    operations.append((event.start, math.inf, "w", event.value))
            elif event.outcome is Outcome.OK:
                # A tag that no write and no read ever showed belongs to an unknown write nobody read: no evidence.
                if not event.by_tag:
                    operations.append((event.start, event.end, "r", event.value))
                elif event.tag in by_tag:
                    operations.append((event.start, event.end, "r", by_tag[event.tag]))
        return operations

    def violations(self) -> list[str]:
        """Everything that breaks a promise, in words; empty when the run is clean."""
        found = list(self.complaints) + self._ambiguous_tags()
        by_key: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            by_key[event.key].append(event)
        for key, events in sorted(by_key.items()):
            judgement = judge(self._operations(events))
            if judgement.verdict is not Verdict.LEGAL:
                found.append(self._case(key, events, judgement.verdict, judgement.stuck))
        return found

    def _ambiguous_tags(self) -> list[str]:
        """Whoever asks with an ETag, or joins ranges by it, must not be able to mean two values."""
        values: dict[tuple[str, str], set[int | None]] = defaultdict(set)
        for event in self.events:
            if event.tag and event.outcome is Outcome.OK and not event.by_tag:
                values[event.key, event.tag].add(event.value)
        return [f"{key}: ETag {tag} names values {named}" for (key, tag), named in values.items() if len(named) > 1]

    def _case(self, key: str, events: list[Event], verdict: Verdict, stuck: tuple[Operation, ...]) -> str:
        """The events around the point where no order was found any more."""
        first = min((o[0] for o in stuck), default=0.0)
        values = {o[3] for o in stuck} - {None}
        nearest = sorted(events, key=lambda e: (e.value not in values, abs(e.start - first)))[:SHOWN]
        lines = "\n".join(f"  {event}" for event in sorted(nearest, key=lambda e: e.start))
        return f"{key}: {verdict.value}; around {first:.6f} no order explains values {values}:\n{lines}"

    def check(self) -> None:
        """Raise `Violation` with seed, command and evidence unless the run is clean."""
        began = time.monotonic()
        found = self.violations()
        if found:
            raise Violation(
                f"{len(found)} violations; seed {self.seed}; repeat with: {self.repeat}\n{self.summary()}\n"
                + "\n".join(found[:5])
            )
        print(f"{self.summary()}; clean, judged in {time.monotonic() - began:.2f} s; seed {self.seed}: {self.repeat}")

    def lost(self) -> list[Event]:
        """Acknowledged writes of which the last read of their key shows neither them nor anything as late."""
        by_key: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            by_key[event.key].append(event)
        return [write for events in by_key.values() for write in _lost(events)]

    def figures(self) -> dict[str, int]:
        """What was acknowledged and what became of it, as `make torture` adds it up."""
        unknown = sum(e.kind in WRITES and e.outcome is Outcome.UNKNOWN for e in self.events)
        return {
            "operations": len(self.events),
            "acknowledged": len(self.acknowledged()),
            "lost": len(self.lost()),
            "unknown": unknown,
            "histories": len(self.all_keys()),
            "illegal": len(self.violations()),
        }

    def summary(self) -> str:
        kinds = Counter(f"{e.kind} {e.outcome.value}" for e in self.events)
        return f"{len(self.events)} operations on {len(self.all_keys())} keys: " + ", ".join(
            f"{kind} {count}" for kind, count in sorted(kinds.items())
        )


def _lost(events: Iterable[Event]) -> list[Event]:
    """The acknowledged writes of one key that were over before its last read began, and begun after all was over that
    the read can have shown."""
    events = list(events)
    reads = [e for e in events if e.kind not in WRITES and e.outcome is Outcome.OK and not e.by_tag]
    if not reads:
        return []
    last = max(reads, key=lambda event: event.start)
    shown = max(
        (
            math.inf if e.outcome is Outcome.UNKNOWN else e.end
            for e in events
            if e.kind in WRITES and e.value == last.value and e.outcome is not Outcome.FAIL
        ),
        default=-math.inf,
    )
    return [
        e for e in events if e.kind in WRITES and e.outcome is Outcome.OK and e.start > shown and e.end < last.start
    ]
