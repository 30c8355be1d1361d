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

_LINE = re.compile(r"([0-9a-zA-Z-]{1,64}) ([0-9]{1,18}) ([0-9a-zA-Z]{1,32}) ([0-9]{1,18}) ([^\s]{1,255})")


def is_later(seen: Seen, before: Seen | None) -> bool:
    """Whether a sighting says more than the one before. Of two different starts with one number neither does: the node
    itself will say which was its own."""
    if before is None or seen.epoch > before.epoch:
        return True
    return seen.epoch == before.epoch and seen.start == before.start and seen.position > before.position


def later_of(known: Mapping[str, Seen], told: Iterable[Seen]) -> dict[str, Seen]:
    """Those that are told and later than what is known, by node; no more than there is room for."""
    later: dict[str, Seen] = {}
    for seen in told:
        room = seen.node in known or len(known) + len(later) < SIGHTINGS_MAX
        if room and is_later(seen, known.get(seen.node)):
            later[seen.node] = seen
    return later


def encode(sightings: Iterable[Seen]) -> bytes:
    return "".join(f"{one.node} {one.epoch} {one.start} {one.position} {one.name}\n" for one in sightings).encode()


def decode(block: bytes) -> tuple[Seen, ...]:
    """Raises `BadRequest`."""
    lines = block.decode("utf-8", "replace").splitlines()
    if len(lines) > SIGHTINGS_MAX:
        raise BadRequest(f"{len(lines)} sightings of nodes; the limit is {SIGHTINGS_MAX}")
    return tuple(_seen(line) for line in lines)


def _seen(line: str) -> Seen:
    fields = _LINE.fullmatch(line)
    if fields is None:
        raise BadRequest(f"{line[:80]!r} tells of no node")
    node, epoch, start, position, name = fields.groups()
    return Seen(node, int(epoch), start, int(position), name)
