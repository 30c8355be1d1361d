"""The coordinator's settings. Times in seconds; every limit has an immediate refusal behind it."""

from __future__ import annotations

from dataclasses import dataclass

from sfss.errors import SetupError


@dataclass(frozen=True, slots=True)
class Options:
    deadline_s: float = 3.0
    """For a whole request; an earlier deadline that comes with the request wins."""

    node_deadline_s: float = 1.0
    """For one question to one node, after which another is asked. A write has its request's whole deadline at each
    node: there is no other to ask, and giving up earlier would only turn slow into unknown."""

    stats_deadline_s: float = 0.5
    """For one node's figures."""

    in_flight_max: int = 4096
    """Requests not yet answered; one more is refused (`Busy`)."""

    in_flight_bytes_max: int = 256 * 1024 * 1024
    """Bytes of the values of writes not yet answered."""

    hedge_budget: float = 0.05
    """Reads that may be asked of one more replica because the first is slow, as a part of all reads."""

    sweep_s: float = 0.005
    """How often requests in flight are looked at for slowness and deadlines: one timer for all of them, since one
    for each costs 2 µs a request."""

    shared: bool = False
    """Other coordinators write the same keys all the time (`--direct`): every write asks before it stamps."""

    shared_keys_max: int = 10_000
    shared_key_s: float = 60.0
    """A key that somebody else was seen to write is asked about first for so long."""

    probe_s_min: float = 0.05
    probe_s_max: float = 1.0
    """How soon, and how seldom at last, a node that is down is looked at again."""

    hint_bytes_max: int = 128 * 1024 * 1024
    """Room for hints in the state directory: about 800,000. Without one they are in memory, and have
    `hint_memory_bytes_max`."""

    hint_memory_bytes_max: int = 8 * 1024 * 1024

    hint_age_s: float = 48 * 3600.0
    """An older hint is dropped, and its partition compared. Below half of the time after which tombstones may go."""

    hint_rate: float = 1000.0
    hint_byte_rate: float = 16.0 * 1024 * 1024
    """Hints a second, and bytes a second, that are replayed to one node at most: a small part of what it can take."""

    hint_flush_s: float = 0.1
    """How long hints are collected before they are written with one sync."""

    hint_round_s: float = 1.0
    """How often to look whether a node with hints is there."""

    compare_interval_s: float = 6 * 3600.0
    """How often the replicas of each partition are compared; 0 for only where something is known to be missing."""

    compare_retry_s: float = 300.0
    """When to compare again what could be compared only in part, because an owner was away."""

    compare_bytes_per_s: float = 8.0 * 1024 * 1024
    """How much a comparison reads and writes at most, files and what nodes tell of them."""

    tombstone_grace_s: float = 10 * 86400.0
    """How long at least the tombstone of a deleted file is kept, after which all its owners may forget it together; 0
    for ever. No coordinator's clock may be slow by that much, and hints may be kept for half of it."""

    compare_settle_s: float = 10.0
    """What was stamped less than so long ago isn't compared: it may be on its way. Longer than any deadline."""

    def __post_init__(self) -> None:
        if self.tombstone_grace_s and self.hint_age_s > self.tombstone_grace_s / 2:
            raise SetupError(
                f"hints are kept for {self.hint_age_s / 3600:g} h, which is more than half of the"
                f" {self.tombstone_grace_s / 3600:g} h after which tombstones may go: make hint_hours less or"
                " tombstone_days more"
            )
