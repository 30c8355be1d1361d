"""How a coordinator that starts finds the ring to go by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.elsewhere import Elsewhere
from proxy.following import place
from proxy.meeting import met
from proxy.members import Members
from proxy.roll import Roll
from sfss.store import NO_CALL, Call, Identity
from tests.unit.test_following import Node, ring
from tests.unit.virtual_time import in_virtual_time


class Boaster(Node):
    """Says that it is at another ring than the one that it keeps."""

    def tell_ring(self, call: Call = NO_CALL) -> Any:
        assert self.asked.count("ring") < 10, "asked for ever"
        return super().tell_ring(call)


@pytest.mark.parametrize("kept", [2, 3])
@in_virtual_time
async def test_a_node_that_tells_no_later_ring_than_ours_keeps_no_coordinator_from_starting(kept: int) -> None:
    nodes = {name: Boaster(name) for name in ("a:1", "b:1", "c:1")}
    ours = ring(3, "abc")
    for node in nodes.values():
        node.keep(ours)
        node._identity = replace(node._identity, cluster="ours")
    nodes["b:1"].keep(ring(kept, "abc"))
    nodes["b:1"].tells(5)
    members = Members(lambda name, *_: (name, nodes[name]))
    roll = Roll(await place(ours, members), ours, members, None)

    answers = await met(roll, members, Elsewhere([], members, roll, 1.0), 2.0, 1.0)

    assert all(isinstance(answer, Identity) for answer in answers)
    assert roll.ring.number == 3
    assert nodes["b:1"].asked == ["ring"]
    await members.close()
    await roll.close()
