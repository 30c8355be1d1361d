"""Taking the records of dropped partitions out of the index, in slices, so that nobody waits for it.

What is dead is decided by position (`nodes.dropped`) and is on disk before the first entry goes. Entries go the way of
all others, through the overlay and the indexer, so figures and hash tree follow. What a crash leaves, the next start
takes out (`remove_dead`, without a loop).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from nodes.dropped import Dropped, Range, key_bounds, shift_of
from nodes.entry import HASH_BYTES, is_whole, unpack_fields
from nodes.index import Index
from nodes.index import errors as index_errors
from nodes.indexer import Indexer
from nodes.overlay import Overlay
from nodes.volume import Volume
from nodes.writer import Writer
from sfss.errors import Busy

_SLICE_ENTRIES = 200
"""Taken out in one go: about a millisecond of the loop's time."""

Slice = list[tuple[bytes, bytes]]


class Dropper:
    """Drops partitions. For the loop's thread. One drop at a time: `settle`, then `remove` until it succeeds, then
    `end`.

    `on_damage` makes an error of one of the index; `stopping` says whether the node ends."""

    def __init__(
        self,
        index: Index,
        overlay: Overlay,
        indexer: Indexer,
        writer: Writer,
        volumes: Iterable[Volume],
        entries_max: int,
        *,
        on_damage: Callable[[Exception], Exception],
        stopping: Callable[[], bool],
    ) -> None:
        self._index = index
        self._overlay = overlay
        self._indexer = indexer
        self._writer = writer
        self._volumes = volumes
        self._entries_max = entries_max
        self._on_damage = on_damage
        self._stopping = stopping
        self._worker = ThreadPoolExecutor(1, "sfss-dropper")
        self._shift = 0
        self._dropping = bytearray()
        """For each partition whether it is being dropped; empty while none is."""

    def close(self) -> None:
        """End the thread. Nothing may be on its way."""
        self._worker.shutdown()

    def is_dropping(self, lookup: bytes) -> bool:
        """Whether a key's partition is being dropped: nothing of it may be appended again by compaction."""
        return bool(self._dropping and self._dropping[int.from_bytes(lookup[:HASH_BYTES]) >> self._shift])

    async def settle(self, ranges: Iterable[Range], partitions: int) -> int:
        """Wait for what is on its way to disk. Returns a durable position that all records of the partitions lie below,
        but for those that clients write from now on."""
        self._shift = shift_of(partitions)
        self._dropping = bytearray(partitions)
        for first, end in ranges:
            self._dropping[first:end] = b"\1" * (end - first)
        await self._writer.settled()
        settled: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._writer.when_synced(lambda: settled.set_result(self._writer.synced_position))
        return await settled

    async def remove(self, ranges: Iterable[Range], dropped: Dropped) -> dict[int, int]:
        """Take what is dead in these partitions out of the index, durably. Returns how many records of each partition
        went. Raises `Busy` when the node stops: then some are left."""
        await self._indexer.commit()  # so that all that is dead is in the index, and nowhere else
        try:
            counts = await self._remove(ranges, dropped)
        except index_errors as error:
            raise self._on_damage(error) from None
        await self._indexer.commit()
        return counts

    async def _remove(self, ranges: Iterable[Range], dropped: Dropped) -> dict[int, int]:
        loop = asyncio.get_running_loop()
        dead = Dead(dropped, self._volumes)
        counts: dict[int, int] = {}
        for within in ranges:
            low, high = key_bounds(within, dropped.partitions)
            while found := await loop.run_in_executor(self._worker, next_slice, self._index, low, high):
                if self._stopping():
                    raise Busy("the node is stopping")
                for key in dead.take_out(found, self._overlay):
                    partition = int.from_bytes(key[:HASH_BYTES]) >> self._shift
                    counts[partition] = counts.get(partition, 0) + 1
                if len(self._overlay.current) >= self._entries_max:
                    await self._indexer.commit()
                low = found[-1][0] + b"\0"
        return counts

    def end(self) -> None:
        """The drop is over, or was given up before anything of it was on disk."""
        self._dropping = bytearray()


class Dead:
    """Tells dead entries by where their records lie. `volumes` are those that there are."""

    def __init__(self, dropped: Dropped, volumes: Iterable[Volume]) -> None:
        self._dropped = dropped
        self._bases = {volume.number: volume.header.position for volume in volumes}
        self._numbers = sorted(self._bases)

    def take_out(self, found: Slice, overlay: Overlay) -> list[bytes]:
        """Have the dead ones of the index's entries go, unless they are newest no more. Returns their keys."""
        gone = [key for key, entry in found if overlay.newest(key) == entry and self._is_dead(key, entry)]
        for key in gone:
            overlay.drop(key)
        return gone

    def _is_dead(self, key: bytes, entry: bytes) -> bool:
        """Whether an entry points to a dead record. One that is damaged is told by its key alone: where anything was
        dropped, it may go."""
        if not is_whole(key, entry):
            return self._dropped.is_dead(key, 0)
        volume, offset = unpack_fields(entry)[:2]
        base = self._bases.get(volume)
        if base is not None:
            return self._dropped.is_dead(key, base + offset)
        # The volume is lost; what it had lay before the next one's first byte.
        following = bisect_right(self._numbers, volume)
        if following == len(self._numbers):
            return False
        return self._dropped.is_dead(key, self._bases[self._numbers[following]] - 1)


def next_slice(index: Index, low: bytes, high: bytes | None) -> Slice:
    """The next entries of the last commit, in key order. For any thread."""
    with index.frozen() as commit:
        return commit.between(low, high, _SLICE_ENTRIES)


def remove_dead(
    index: Index,
    overlay: Overlay,
    dropped: Dropped,
    ranges: Iterable[Range],
    volumes: Iterable[Volume],
    after_slice: Callable[[], None],
) -> None:
    """Take out, at start, what a crash has left of dead entries. `after_slice` may commit them."""
    dead = Dead(dropped, volumes)
    for within in ranges:
        low, high = key_bounds(within, dropped.partitions)
        while found := next_slice(index, low, high):
            dead.take_out(found, overlay)
            after_slice()
            low = found[-1][0] + b"\0"
