"""Several keys in one request (`sfss.store.GroupStore`): their limits, and how answers for one key each become one.

A group saves what a request costs, and promises nothing more: each key has an outcome of its own, at the place that
the key has in the request. It is what the same request for this key alone would have brought, or its error; or, of a
read, `LeftOut`: then the key is to be asked for alone. That is said of whatever isn't plain, so that all that reads do
about damaged, missing and differing records stays in one place. Groups hold little: up to `GROUP_KEYS_MAX` keys, and
of files those up to `GROUP_VALUE_BYTES_MAX`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from sfss.errors import Busy, Expired, Outcome
from sfss.promise import Promise, new_promise
from sfss.record import Record

T = TypeVar("T")

GROUP_KEYS_MAX: Final = 32
"""Keys of a group: a fraction of a millisecond of every tier."""

GROUP_VALUE_BYTES_MAX: Final = 32 * 1024
"""Larger files travel alone."""

GROUP_BYTES_MAX: Final = 256 * 1024
"""Bytes of values to be written in a group; as many are looked at of what is read, then the rest is left out."""


class LeftOut(Busy):
    """A key of a group that is to be asked for alone. On the wire it is `SERVER_ERROR busy`."""


class Item:
    """A file to be stored."""

    __slots__ = ("expires", "flags", "key", "value")

    def __init__(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0) -> None:
        self.key = key
        self.value = value
        self.flags = flags
        self.expires = expires


def each(ask: Callable[[T], Any], things: Sequence[T]) -> list[Any] | Promise[list[Any]]:
    """Ask for one thing after the other, in one turn, and make one answer of theirs. What would be too much to be kept
    until all have come is left out of it."""
    outcomes: list[Any] = []
    join: Join | None = None
    size = 0
    for thing in things:
        if size > GROUP_BYTES_MAX:
            outcomes.append(LeftOut("too much for one group"))
            continue
        try:
            reply = ask(thing)
        except Exception as error:
            reply = error
        if isinstance(reply, Promise):
            if join is None:
                join = Join(outcomes)
            join.wait_for(reply, len(outcomes))
        elif isinstance(reply, Record):
            size += len(reply.value)
        outcomes.append(bounded(reply))
    return outcomes if join is None else join.all_came


def mapped(
    reply: list[Any] | Promise[list[Any]], change: Callable[[list[Any]], list[Any]]
) -> list[Any] | Promise[list[Any]]:
    """The same answer with its outcomes changed."""
    if not isinstance(reply, Promise):
        return change(reply)
    answer: Promise[list[Any]] = new_promise()
    reply.add_done_callback(lambda came: None if answer.done() else answer.set_result(change(came.result())))
    return answer


def bounded(outcome: Any) -> Any:
    """The outcome of a read, if it is small enough for a group; else `LeftOut`."""
    if isinstance(outcome, Record) and len(outcome.value) > GROUP_VALUE_BYTES_MAX:
        return LeftOut(f"a file of {outcome.size} bytes")
    return outcome


class Join:
    """Fills in the outcomes that have to be waited for."""

    __slots__ = ("_missing", "_outcomes", "all_came")

    def __init__(self, outcomes: list[Any]) -> None:
        self._outcomes = outcomes
        self._missing = 0
        self.all_came: Promise[list[Any]] = new_promise()

    def wait_for(self, reply: Promise[Any], place: int) -> None:
        self._missing += 1
        reply.add_done_callback(partial(self._came, place))

    def _came(self, place: int, reply: Promise[Any]) -> None:
        if reply.cancelled():
            outcome: Any = Expired("cancelled", Outcome.UNKNOWN)
        else:
            outcome = reply.exception() or bounded(reply.result())
        self._outcomes[place] = outcome
        self.came()

    def expect(self) -> None:
        """One outcome more is to be waited for: `came` or `failed` will tell. It stands at its place already."""
        self._missing += 1

    def failed(self, place: int, error: Exception) -> None:
        """What was expected became an error."""
        self._outcomes[place] = error
        self.came()

    def came(self) -> None:
        """What was expected is as it stands."""
        self._missing -= 1
        if not self._missing and not self.all_came.done():
            self.all_came.set_result(self._outcomes)
