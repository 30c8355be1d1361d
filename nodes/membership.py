"""What a node is to its cluster: which one it belongs to, whether it is trusted, what it keeps in mind of the others,
and its say on rings.

What is answered here is on disk, in the identity file (`nodes.housekeeping`, which tells the store who the node is now)
or in that of the ring (`nodes.rings`). What each word promises is told in `sfss.store`, by `Replica`, `Refillable` and
`Witness`.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from nodes.dropping import Dropper
from nodes.housekeeping import Housekeeper
from nodes.identity import NodeState
from nodes.indexer import Indexer
from nodes.lineage import changes_from, why_not_from
from nodes.ring_file import RingFile
from nodes.rings import Rings
from nodes.volume import Volumes
from nodes.writer import Writer
from sfss.errors import BadRequest, WrongCluster
from sfss.promise import promised
from sfss.ring_keeper import HeldRing
from sfss.sightings import later_of
from sfss.store import Identity, Reply, Seen

_log = logging.getLogger("sfss.node")


class Membership:
    """For the loop's thread. `files_held` counts what the node has, on its way to disk or there; `on_ring` is told a
    ring's number once that is on disk; `spawn` runs what the node's end waits for."""

    def __init__(
        self,
        ring: RingFile,
        housekeeper: Housekeeper,
        dropper: Dropper,
        indexer: Indexer,
        writer: Writer,
        volumes: Volumes,
        *,
        files_held: Callable[[], int],
        on_ring: Callable[[int], None],
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
    ) -> None:
        self._housekeeper = housekeeper
        self._indexer = indexer
        self._writer = writer
        self._volumes = volumes
        self._files_held = files_held
        self._spawn = spawn
        self.rings = Rings(
            ring,
            lambda: self._state.identity(0).node,
            lambda: self._state.mute,
            dropper,
            save=self._save_ring,
            settle=writer.settled,
            on_ring=on_ring,
            on_told=lambda held: housekeeper.take_ring(held.number, held.fingerprint),
            spawn=spawn,
        )

    @property
    def _state(self) -> NodeState:
        return self._housekeeper.state

    async def _save_ring(self, file: RingFile) -> None:
        oldest = self._volumes.by_number.get(self._volumes.oldest_number)
        await self._housekeeper.save_ring(file, oldest.header.position if oldest is not None else 0)

    def identify(self) -> Identity:
        return self._state.identity(self._writer.synced_position)

    # --- which cluster it belongs to -----------------------------------------------------------------

    def bind(self, cluster: str, ring: int, fingerprint: str) -> Reply[Identity]:
        if not self._state.cluster:
            if held := self._files_held():
                raise WrongCluster(f"the node holds {held} files of no cluster")
            # Taken at once, so that a second coordinator's bind meets a bound node; told once it is on disk.
            self._housekeeper.bind(uuid.uuid4().hex if cluster == "new" else cluster, ring, fingerprint)
        return self._later(self._bound())

    async def _bound(self) -> Identity:
        await self._housekeeper.save()
        await self.rings.bind(HeldRing(self._state.ring, self._state.fingerprint))
        return self.identify()

    def adopt(self, cluster: str, ring: int, fingerprint: str, node: str) -> Reply[Identity]:
        reason = f"its directory is empty, and node {node} had files"
        place: dict[str, Any] = {"cluster": cluster, "ring": ring, "fingerprint": fingerprint, "member": node}
        return self._later(self._adopted(place | {"suspect": reason, "mute": True}))

    async def _adopted(self, changes: dict[str, Any]) -> Identity:
        if not self._state.cluster:
            await self._housekeeper.become(partial(self._unless_used, changes))
            if self._state.member:
                node = self._state.member
                _log.warning("takes the place of node %s, which had files: they are brought back from the others", node)
        return await self._bound()

    def _unless_used(self, changes: dict[str, Any], state: NodeState) -> dict[str, Any]:
        if state.cluster:
            return {}
        if self._files_held() or self._writer.synced_position:
            raise WrongCluster("the node has had files of no cluster; give it an empty data directory")
        return changes

    async def leave(self, number: int) -> Identity:
        """See `RingKeeper`."""
        await self.rings.leave(number)
        return self.identify()

    # --- whether it is trusted -----------------------------------------------------------------------

    def recall(self, seen: Seen) -> Reply[Identity]:
        position = self._writer.synced_position
        if not why_not_from(self._state, position, seen):
            return self.identify()
        return self._later(self._gone_back(seen, position))

    async def _gone_back(self, seen: Seen, position: int) -> Identity:
        """`position` is the one that gave it away: what is written meanwhile must not hide that."""
        known = bool(self._state.suspect)
        await self._housekeeper.become(lambda state: changes_from(state, position, seen))
        if not known:
            _log.error("acknowledged writes may be missing here, so reads are refused: %s", self._state.suspect)
        return self.identify()

    def trust(self, epoch: int) -> Reply[Identity]:
        self._check_epoch(epoch)
        if not self._state.suspect:
            return self.identify()
        return self._later(self._trusted(epoch))

    async def _trusted(self, epoch: int) -> Identity:
        await self._indexer.commit()  # that all regions are open
        await self.rings.have_a_say_after(partial(self._housekeeper.become, partial(self._without_suspicion, epoch)))
        _log.info("trusted again: whatever may have been missing was compared with the other nodes")
        return self.identify()

    def _without_suspicion(self, epoch: int, _: NodeState) -> dict[str, Any]:
        self._check_epoch(epoch)  # it may have been found to have gone back meanwhile
        return {"suspect": "", "mute": False}

    def _check_epoch(self, epoch: int) -> None:
        if epoch != self._state.epoch:
            raise BadRequest(f"the node is at its start {self._state.epoch}, not {epoch}")

    # --- what it keeps in mind of the others ---------------------------------------------------------

    def witness(self, told: Sequence[Seen]) -> Reply[tuple[Seen, ...]]:
        if not self._state.cluster:
            raise WrongCluster("the node belongs to no cluster")
        own = self.identify().node
        known = {seen.node: seen for seen in self._state.others}
        later = later_of(known, [seen for seen in told if seen.node != own])
        if later:
            self._housekeeper.keep_in_mind(tuple((known | later).values()))
        if any(node not in known or known[node].epoch != seen.epoch for node, seen in later.items()):
            return self._later(self._witnessed())
        return self._state.others

    async def _witnessed(self) -> tuple[Seen, ...]:
        await self._housekeeper.become(lambda _: {})
        return self._state.others

    def _later(self, work: Coroutine[Any, Any, Any]) -> Reply[Any]:
        return promised(self._spawn(work))
