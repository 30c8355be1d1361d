"""A node to somebody who keeps nothing over a restart: it is told at the beginning of each connection where it was last
seen, by this process or by the other nodes, and judges by that whether it went back (docs/replication.rst).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from sfss.errors import SfssError
from sfss.memcache.access import OPEN, Access
from sfss.memcache.client import MemcacheClient
from sfss.sightings import is_possible, later_of
from sfss.store import Identity, Seen


class Acquaintance:
    """`check` is called with who the node says it is, on each new connection, and raises for one that it must not be.
    `client` is for all else."""

    def __init__(self, host: str, port: int, check: Callable[[Identity], None], access: Access = OPEN) -> None:
        self._check = check
        self._seen: dict[str, Seen] = {}
        self.node = ""
        """Its id, once it was met."""
        self.introduced = False
        """Whether it was told what others saw of it."""
        self.client = MemcacheClient(host, port, access=access, greet=self._greet, last_seen=self._last_seen)

    async def identify(self) -> Identity:
        """Who it is. Raises `SfssError`."""
        identity = await self.client.identify()
        self._note(identity)
        return identity

    async def sightings(self) -> tuple[Seen, ...]:
        """What it keeps in mind of the others; nothing where it can't tell."""
        try:
            return await self.client.witness(())
        except SfssError:
            return ()

    async def recall(self, told: Iterable[Seen]) -> None:
        """Tell it what was seen of it. Raises `SfssError`."""
        for seen in told:
            if seen.node == self.node:
                self._seen |= later_of(self._seen, [seen])
                await self.client.recall(seen)

    def _last_seen(self) -> Seen | None:
        return self._seen.get(self.node)

    def _greet(self, _: MemcacheClient, identity: Identity) -> None:
        self._check(identity)
        self._note(identity)

    def _note(self, identity: Identity) -> None:
        self.node = identity.node
        if identity.start and is_possible(identity.epoch, identity.position):
            seen = Seen(identity.node, identity.epoch, identity.start, identity.position)
            self._seen |= later_of(self._seen, [seen])


async def introduce(acquaintances: Iterable[Acquaintance]) -> None:
    """Have nodes hear what the others saw of them, before they are counted on. Those that were never met are left
    for later."""
    met = [each for each in acquaintances if each.node]
    told = await asyncio.gather(*(each.sightings() for each in met))
    # Of each start the highest position; of several starts with one number the node knows which is its own.
    strongest = {seen[:3]: seen for seen in sorted(seen for each in told for seen in each)}
    errors = await asyncio.gather(*(each.recall(strongest.values()) for each in met), return_exceptions=True)
    for each, error in zip(met, errors, strict=True):
        if error is not None and not isinstance(error, SfssError):
            raise error
        each.introduced = each.introduced or error is None
