"""What a coordinator remembers of its nodes, so that one that went back is noticed: of each the start that it was last
met in, and the highest position that it told then.

A node is told it at the beginning of each new connection, before anything else, and judges by it whether it can have
come from there (docs/replication.rst). A new start is written down as soon as it is met; of positions, which rise with
every write, only one in `SAVE_S`.
"""

from __future__ import annotations

import asyncio

from proxy.state import Notes
from sfss.store import Identity, Seen

SAVE_S = 5.0
"""How long a position may wait to be written down, with others."""


class LastSeen:
    """Of each node by its id; kept in `notes`."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._seen = {node: Seen(node, *what) for node, what in notes.state.seen.items()}
        self._timer: asyncio.TimerHandle | None = None

    def of(self, node: str) -> Seen | None:
        return self._seen.get(node)

    def note(self, identity: Identity) -> None:
        """A node of the cluster said who it is. What is late or contradicts what is known already is left out: the node
        hears of that with the next connection."""
        before = self._seen.get(identity.node)
        if not identity.start or (before is not None and not _follows(identity, before)):
            return
        self._seen[identity.node] = Seen(identity.node, identity.epoch, identity.start, identity.position)
        if before is None or before.epoch != identity.epoch:
            self.save()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SAVE_S, self.save)

    def save(self) -> None:
        """Write down what is known now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._notes.write(seen={node: (seen.epoch, seen.start, seen.position) for node, seen in self._seen.items()})


def _follows(identity: Identity, before: Seen) -> bool:
    if identity.epoch == before.epoch:
        return identity.start == before.start and identity.position > before.position
    return identity.epoch > before.epoch
