"""Comparing all replicas with one another, again and again, behind what clients do.

One region after the other, as the schedule says and no faster than the pace allows. Each coordinator does so by itself
and tells nobody: where nothing differs a comparison is 256 questions of half a kilobyte to each node, and what one has
repaired costs the next one nothing, so to agree on who does what would be more work than it spares.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from proxy.comparison import Comparison, Pace
from proxy.purging import RegionPurge
from proxy.schedule import REGION_DIGITS, REGIONS, Schedule
from sfss.stamps import stamp_time
from sfss.tasks import end

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator

_TELLING_MAX = 16
"""Regions whose owners are told at a time how far to purge, while the next ones are compared: a node puts what comes
together on disk together."""

_LOOK_S = 1.0
"""How often at least to look whether something is due, or was marked."""

_log = logging.getLogger("sfss.proxy.comparison")


class Comparer:
    """Runs the comparisons of one coordinator, from `start` to `close`."""

    def __init__(self, coordinator: Coordinator, schedule: Schedule) -> None:
        self._coordinator = coordinator
        self._schedule = schedule
        self._pace = Pace(coordinator.options.compare_bytes_per_s, coordinator.monotonic)
        self._task: asyncio.Task[None] | None = None
        self._partitions = 0.0
        self._repaired = 0
        self._repaired_bytes = 0
        self._too_new = 0
        self._unrepaired = 0
        self._returned = 0
        self._telling: set[asyncio.Task[None]] = set()
        self._bounds = [0] * REGIONS
        """How far all owners have purged each region, as far as is known here."""

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="comparison of replicas")

    async def close(self) -> None:
        """Stop; a write to a replica that is under way may still be carried out there. Idempotent."""
        await end(self._task)
        for telling in list(self._telling):
            await end(telling)

    async def all_told(self) -> None:
        """Wait until the owners were told what followed from the comparisons that have ended."""
        if self._telling:
            await asyncio.wait(self._telling)

    def figures(self) -> dict[str, str]:
        """What `stats` tells of it; counts since the start."""
        figures = {
            "comparison_oldest_s": f"{self._schedule.oldest_s():.0f}",
            "comparison_partitions": int(self._partitions),
            "comparison_marked": self._schedule.marked,
            "comparison_bytes": self._pace.bytes,
            "comparison_repaired_keys": self._repaired,
            "comparison_repaired_bytes": self._repaired_bytes,
            "comparison_unrepaired": self._unrepaired,
            "comparison_too_new": self._too_new,
            "comparison_returned": self._returned,
        }
        if all(self._bounds):
            figures["tombstones_oldest_s"] = int(self._coordinator.now() - stamp_time(min(self._bounds)))
        return {name: str(value) for name, value in figures.items()}

    async def compare(self, region: int) -> bool:
        """Compare one region; whether all of it was."""
        prefix = b"%0*x" % (REGION_DIGITS, region)
        purge = RegionPurge(self._coordinator, region)
        comparison = Comparison(self._coordinator, self._pace, self._coordinator.options.compare_settle_s, purge)
        await purge.ask(comparison.peers_below(prefix))
        try:
            await comparison.compare(prefix)
        finally:
            self._repaired += comparison.repaired
            self._repaired_bytes += comparison.repaired_bytes
            self._too_new += comparison.too_new
            self._unrepaired += comparison.unrepaired
            self._returned += comparison.returned
        if comparison.whole:
            self._partitions += self._coordinator.placed.partitions / REGIONS
        if comparison.repaired:
            _log.info("%d keys were brought up to date on replicas that lacked them", comparison.repaired)
        self._bounds[region] = purge.bound or 0
        if comparison.whole:
            if len(self._telling) >= _TELLING_MAX:
                await asyncio.wait(self._telling, return_when=asyncio.FIRST_COMPLETED)
            telling = asyncio.get_running_loop().create_task(self._tell(region, purge), name="telling how far to purge")
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)
        return comparison.whole

    async def _tell(self, region: int, purge: RegionPurge) -> None:
        try:
            if await purge.advance():
                self._bounds[region] = purge.bound or 0
        except Exception:
            _log.exception("the owners of a region couldn't be told how far to purge; the next comparison tries again")

    async def _run(self) -> None:
        while True:
            region, wait_s = self._schedule.next()
            if wait_s > 0:
                await asyncio.sleep(min(wait_s, _LOOK_S))
                continue
            self._schedule.begin(region)
            whole = False
            too_new = self._too_new
            try:
                whole = await self.compare(region)
            except Exception:
                _log.exception("a comparison of replicas failed and will be tried again")
            settle_s = self._coordinator.options.compare_settle_s
            self._schedule.end(region, whole, too_new=self._too_new > too_new, settle_s=settle_s)
            await asyncio.sleep(0)
