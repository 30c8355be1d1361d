"""How much of the time compaction takes: little while garbage is no trouble, all of it when garbage is too much.

Waiting pays twice. Clients have the machine to themselves while they want it, and a volume whose records go on dying
has less to copy later.
"""

from __future__ import annotations

_LIVE_TIMES = 2
_VOLUMES = 8
"""So many volumes of garbage are allowed to any store: small ones would else be copied over and over."""


def garbage_allowed(live: int, free: int, volume_bytes: int) -> int:
    """Bytes of garbage that a store with `live` bytes of records may have: twice as many and eight volumes more, but
    no more than the disk has `free`."""
    return min(_LIVE_TIMES * live + _VOLUMES * volume_bytes, free)


def share_of_time(garbage: int, allowed: int, least: float) -> float:
    """The part of the time to work: `least` (over 0, up to 1) up to half of the garbage that is allowed, from there on
    in proportion more, and all of it at what is allowed."""
    if garbage >= allowed:
        return 1.0
    return max(least, 2 * garbage / allowed - 1)
