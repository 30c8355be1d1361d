"""Looking for a later ring at nodes that only the configuration names."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from proxy.elsewhere import Elsewhere
from proxy.members import Members
from sfss.errors import Unreachable
from sfss.memory import MemoryStore
from sfss.store import Identity
from tests.unit.replica_lab import Lab
from tests.unit.virtual_time import in_virtual_time


class Outsider(MemoryStore):
    def __init__(self, ring: int) -> None:
        super().__init__()
        self._identity = replace(self._identity, cluster="ours", ring=ring)
        self.asked_at: list[float] = []
        self.opened = 0
        self.closed = 0

    def identify(self) -> Identity:
        self.asked_at.append(asyncio.get_running_loop().time())
        return super().identify()

    async def close(self) -> None:
        self.closed += 1


class Looking:
    """A coordinator over three members, a configuration that names `outsider` besides, and what was heard of it."""

    def __init__(self, outsider: Outsider) -> None:
        self.outsider = outsider
        self.lab = Lab()
        self.lab.coordinator.health.close()  # nobody comes back by being looked at
        self.heard: list[tuple[str, int]] = []
        self.peers_heard: set[Any] = set()
        rings: Any = SimpleNamespace(heard=self._hear)
        self.lab.coordinator.rings = rings
        members = Members(self._dial)
        for peer in self.lab.peers:
            members.peers[peer.name] = peer
        names = [*members.peers, "outsider:1"]
        self.elsewhere = Elsewhere(names, members, self, 1.0)
        self.elsewhere.start(self.lab.coordinator)

    def _dial(self, name: str, *_: Any) -> tuple[str, Outsider]:
        assert name == "outsider:1"
        self.outsider.opened += 1
        return name, self.outsider

    def _hear(self, peer: Any, number: int) -> None:
        self.heard.append((peer.name, number))
        self.peers_heard.add(peer)

    def ahead(self, answers: Any) -> dict[Any, int]:
        return {peer: answer.ring for peer, answer in answers if getattr(answer, "ring", 0) > 1}

    def lose(self, count: int) -> None:
        for peer in self.lab.peers[:count]:
            self.lab.coordinator.health.failed(peer, Unreachable("gone"))

    async def close(self) -> None:
        await self.elsewhere.close()


@in_virtual_time
async def test_who_can_serve_asks_nobody_elsewhere() -> None:
    looking = Looking(Outsider(ring=5))

    looking.lose(1)
    await asyncio.sleep(60.0)

    assert looking.outsider.opened == 0
    await looking.close()


@in_virtual_time
async def test_who_can_not_serve_asks_elsewhere_ever_less_often_and_never_ends() -> None:
    looking = Looking(Outsider(ring=5))

    looking.lose(2)
    await asyncio.sleep(600.0)

    times = looking.outsider.asked_at
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert looking.heard[0] == ("outsider:1", 5)
    assert pauses == sorted(pauses)
    assert 1.0 < pauses[0] < pauses[-1] < 30.0
    assert looking.outsider.opened == 1
    await looking.close()
    assert looking.outsider.closed == 1


@in_virtual_time
async def test_a_node_elsewhere_that_has_no_later_ring_is_not_heard() -> None:
    looking = Looking(Outsider(ring=1))

    looking.lose(3)
    await asyncio.sleep(60.0)

    assert looking.outsider.asked_at
    assert not looking.heard
    await looking.close()


@in_virtual_time
async def test_connections_elsewhere_are_let_go_of_once_there_is_a_quorum_again() -> None:
    looking = Looking(Outsider(ring=1))
    looking.lose(2)
    await asyncio.sleep(5.0)

    for peer in looking.lab.peers:
        peer.down = False
    await asyncio.sleep(30.0)

    assert (looking.outsider.opened, looking.outsider.closed) == (1, 1)
    await looking.close()


@in_virtual_time
async def test_a_node_elsewhere_is_one_peer_however_often_it_is_looked_at_again() -> None:
    looking = Looking(Outsider(ring=5))

    for times in range(1, 4):
        looking.lose(2)
        await asyncio.sleep(30.0)
        assert looking.outsider.opened == times
        for peer in looking.lab.peers:
            peer.down = False
        await asyncio.sleep(30.0)
        assert looking.outsider.closed == times

    assert len(looking.peers_heard) == 1
    await looking.close()
