"""What an operator can set on a node, with its defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sfss.errors import SetupError
from sfss.store import WIRE_VALUE_BYTES_MAX

MIB = 1024 * 1024

VOLUME_BYTES_MIN = 64 * 1024
VOLUME_BYTES_MAX = 2048 * MIB


class Sync(Enum):
    """When an acknowledged write is on disk."""

    ALWAYS = "always"
    """Before it is acknowledged."""

    INTERVAL = "interval"
    """At most `sync_interval_s` after it was."""

    NEVER = "never"
    """When the kernel likes, at the latest before the index covers it (about a second)."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """Settings of one node. Sizes in bytes, times in seconds."""

    sync: Sync = Sync.ALWAYS
    sync_interval_s: float = 0.2
    volume_bytes: int = 64 * MIB
    """A volume is closed before it grows over this. Small, so that compaction needs little room."""
    preallocate_bytes: int = 8 * MIB
    """Room taken ahead in the newest volume. fdatasync of a batch of 4 KiB then takes half the time (measured)."""
    reserve_bytes: int = 64 * MIB
    """Room kept for deletes, compaction and the index when the disk is full."""
    pending_bytes_max: int = 128 * MIB
    """Writes waiting for the disk; more are refused as busy."""
    index_interval_s: float = 1.0
    overlay_entries_max: int = 50_000
    """Durable records that are not in the index yet, about 300 bytes of memory each. At this many the index is
    written at once; at three times as many, writes wait for it."""
    compact_dead_ratio: float = 0.5
    """A volume is compacted when this part of it is garbage."""
    compact_bytes_per_s: int = 32 * MIB
    """How fast files are copied at most, as long as the disk is not full."""
    compact_share: float = 0.05
    """The part of the time that compaction works while garbage is no trouble; more when there is more, see
    `nodes.pace`."""
    scrub_bytes_per_s: int = 4 * MIB
    """How fast volumes are read in search of rot; 0 for never."""
    cache_bytes: int = 128 * MIB
    """Memory for files that were read lately (`nodes.hot`); 0 for none."""
    read_threads: int = 4
    reads_waiting_max: int = 1024
    """Reads that wait for the disk; more are refused as busy."""
    open_volumes_max: int = 512

    def __post_init__(self) -> None:
        if not VOLUME_BYTES_MIN <= self.volume_bytes <= VOLUME_BYTES_MAX:
            raise SetupError(
                f"a volume of {self.volume_bytes} bytes is not between {VOLUME_BYTES_MIN} and {VOLUME_BYTES_MAX}"
            )
        if self.pending_bytes_max < 2 * WIRE_VALUE_BYTES_MAX:
            raise SetupError(f"{self.pending_bytes_max} bytes of waiting writes don't hold two of the largest values")
        if not 0 < self.compact_dead_ratio <= 1:
            raise SetupError(f"compaction at a garbage ratio of {self.compact_dead_ratio}; it must be over 0, up to 1")
        if not 0 < self.compact_share <= 1:
            raise SetupError(f"compaction for {self.compact_share} of the time; it must be over 0, up to 1")
