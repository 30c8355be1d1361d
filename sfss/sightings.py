"""What was seen of nodes, as coordinators and nodes tell one another: of two sightings of a node which is the later,
and how they are written. One line for each: `<node> <epoch> <start> <position> <name in the ring>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sfss.errors import BadRequest
from sfss.store import Seen

SIGHTINGS_MAX = 1024
"""So many nodes are kept in mind at most."""

BYTES_MAX = SIGHTINGS_MAX * 400

EPOCH_MAX = 10**17
"""No node was started so often. Whoever says so is broken, or wants others to be: it is told to no node, as that would
go on from there, and isn't kept in mind."""

POSITION_MAX = 10**18 - 1
"""Beyond any disk."""

_LINE = re.compile(r"([0-9a-zA-Z-]{1,64}) ([0-9]{1,18}) ([0-9a-zA-Z]{1,32}) ([0-9]{1,18}) ([^\s]{1,255})")


def is_possible(epoch: int, position: int) -> bool:
    """Whether a node may have been seen so."""
    return 0 <= epoch <= EPOCH_MAX and 0 <= position <= POSITION_MAX


def is_later(seen: Seen, before: Seen | None) -> bool:
    """Whether a sighting says more than the one before. Of two different starts with one number neither does: the node
    itself will say which was its own."""
    if before is None or seen.epoch > before.epoch:
        return True
    return seen.epoch == before.epoch and seen.start == before.start and seen.position > before.position


def later_of(known: Mapping[str, Seen], told: Iterable[Seen]) -> dict[str, Seen]:
    """Those that are told and later than what is known, by node; of several about one node the latest, and no more than
    there is room for."""
    later: dict[str, Seen] = {}
    room = SIGHTINGS_MAX - len(known)
    for seen in told:
        before = later.get(seen.node) or known.get(seen.node)
        if is_later(seen, before) and (before is not None or room > 0):
            room -= before is None
            later[seen.node] = seen
    return later


def encode(sightings: Iterable[Seen]) -> bytes:
    return "".join(f"{one.node} {one.epoch} {one.start} {one.position} {one.name}\n" for one in sightings).encode()


def decode(block: bytes) -> tuple[Seen, ...]:
    """What the lines tell, without those that can't be true: one bad line must not keep the others from being heard.
    Raises `BadRequest` where they are too many."""
    lines = block.decode("utf-8", "replace").splitlines()
    if len(lines) > SIGHTINGS_MAX:
        raise BadRequest(f"{len(lines)} sightings of nodes; the limit is {SIGHTINGS_MAX}")
    told = (_seen(fields) for line in lines if (fields := _LINE.fullmatch(line)) is not None)
    return tuple(seen for seen in told if is_possible(seen.epoch, seen.position))


def _seen(fields: re.Match[str]) -> Seen:
    node, epoch, start, position, name = fields.groups()
    return Seen(node, int(epoch), start, int(position), name)
