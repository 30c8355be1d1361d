"""What a coordinator tells of itself."""

import pytest

from proxy.coordinator import Coordinator
from proxy.peer import Peer
from proxy.placed_ring import PlacedRing
from proxy.quorum import Quorum
from sfss.memory import MemoryStore
from sfss.ring import Member, NodeRing


async def test_the_table_of_the_ring_is_gone_through_once_however_often_figures_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ring = NodeRing([Member("a:1"), Member("b:1")], 2, partitions=256)
    peers = [Peer(member.name, MemoryStore()) for member in ring.members]
    figures = Coordinator(PlacedRing.of(ring, peers, Quorum.over(2))).figures
    first, drawn = await figures.of_topic(""), figures.ring()
    monkeypatch.setattr(ring, "table", None)

    again = await figures.of_topic("")

    assert again["ring_share_min"] == first["ring_share_min"] == "1.000"
    assert figures.ring() == drawn
    assert drawn["nodes"]["a:1"]["partitions"] == 256
