"""What a coordinator tells of itself."""

import pytest

from proxy.coordinator import Coordinator
from proxy.peer import Peer
from proxy.placed_ring import PlacedRing
from proxy.quorum import Quorum
from sfss.errors import Recovering
from sfss.memory import MemoryStore
from sfss.ring import Member, NodeRing
from sfss.store import NO_CALL, Call


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


class Suspect(MemoryStore):
    """A node that says why it is suspect."""

    def stats(self, topic: str = "", call: Call = NO_CALL) -> dict[str, str]:
        return {"state": "suspect", "suspect_reason": "an older copy of it was put back"}


async def test_of_a_suspect_node_it_is_told_what_it_says_itself_and_what_it_waits_for() -> None:
    ring = NodeRing([Member("a:1"), Member("b:1")], 2, partitions=16)
    peers = [Peer("a:1", Suspect()), Peer("b:1", MemoryStore())]
    coordinator = Coordinator(PlacedRing.of(ring, peers, Quorum.over(2)))
    coordinator.health.failed(peers[0], Recovering())
    coordinator.health.explain(peers[0], "it waits for b:1")

    told = (await coordinator.figures.storages())["a:1"]

    assert told["state"] == "suspect"
    assert told["error"] == "recovering: it waits for b:1 (an older copy of it was put back)"
    coordinator.health.close()
