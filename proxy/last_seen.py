"""What a coordinator remembers of its nodes, so that one that went back is noticed: of each the start that it was last
met in, and the highest position that it told then.

A node is told it at the beginning of each new connection, before anything else, and judges by it whether it can have
come from there (docs/replication.rst). A new start is written down as soon as it is met; of positions, which rise with
every write, only one in `SAVE_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from proxy.state import Notes
from sfss.sightings import is_possible, later_of
from sfss.store import Identity, Seen

SAVE_S = 5.0
"""How long a position may wait to be written down, with others."""


class LastSeen:
    """Of each node by its id; kept in `notes`."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        kept = [Seen(node, *what) for node, what in notes.state.seen.items()]
        # What can't be true may have been kept before it was known for that; a node would refuse whoever tells it.
        self._seen = {seen.node: seen for seen in kept if is_possible(seen.epoch, seen.position)}
        self._timer: asyncio.TimerHandle | None = None
        self.news = asyncio.Event()
        """Set when a node was met in a new start."""

    def of(self, node: str) -> Seen | None:
        return self._seen.get(node)

    def all(self) -> tuple[Seen, ...]:
        return tuple(seen for seen in self._seen.values() if seen.name)

    def note(self, identity: Identity, name: str) -> None:
        """A node of the cluster, of that name in the ring, said who it is. What is late or contradicts what is known
        already is left out: the node hears of that with the next connection. So is what can't be true."""
        if identity.start and is_possible(identity.epoch, identity.position):
            seen = Seen(identity.node, identity.epoch, identity.start, identity.position, name)
            if self._is_new_start(seen):
                self.news.set()
            self._keep([seen])

    def hear(self, told: Iterable[Seen]) -> list[Seen]:
        """Keep what is later than what is known. Returns whatever isn't known, of each start the highest position."""
        heard: dict[tuple[str, int, str], Seen] = {}
        for seen in sorted(told):
            if not self._is_known(seen):
                heard[seen[:3]] = seen
        self._keep(heard.values())
        return list(heard.values())

    def _is_known(self, seen: Seen) -> bool:
        known = self._seen.get(seen.node)
        if known is None:
            return False
        return (seen.epoch, seen.start) == (known.epoch, known.start) and seen.position <= known.position

    def _keep(self, told: Iterable[Seen]) -> None:
        later = later_of(self._seen, told)
        if not later:
            return
        started = any(self._is_new_start(seen) for seen in later.values())
        self._seen |= later
        if started:
            self.save()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SAVE_S, self.save)

    def _is_new_start(self, seen: Seen) -> bool:
        before = self._seen.get(seen.node)
        return before is None or before.epoch < seen.epoch

    def save(self) -> None:
        """Write down what is known now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._notes.write(seen={node: tuple(seen)[1:] for node, seen in self._seen.items()})
