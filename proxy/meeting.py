"""How a coordinator that starts meets its nodes: who they are, at which ring, and what they saw of one another.

The ring that it begins with, remembered or configured, may have been left. Then a later one is learnt from the nodes
that are at it, and the members of that one are met.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from proxy.elsewhere import Elsewhere
from proxy.following import keeper, place
from proxy.founding import Founding
from proxy.members import Members
from proxy.peer import NodeAccess, Peer
from proxy.roll import Roll
from proxy.witnesses import consult
from sfss.errors import SetupError, SfssError, Unreachable, WrongCluster
from sfss.store import Identity, Reply, settled

_RETRY_S = 0.2


async def met(
    roll: Roll, members: Members, elsewhere: Elsewhere, founding_s: float, answer_s: float
) -> list[Identity | SfssError]:
    """Who the members of the ring are, or why they can't be used; that ring may turn out to be a later one than `roll`
    began with. Each question has `answer_s`; `founding_s` is for a cluster that isn't founded yet, of which only
    wiped nodes answer, or whose later ring nobody tells. Raises `SetupError`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + founding_s
    ahead = await elsewhere.ahead() if roll.record is not None else {}
    while True:
        if not ahead:
            founding = Founding(roll, roll.ring.peers, founding_s, answer_s)
            answers = await founding.run()
            ahead = founding.ahead
        if not ahead:
            await _consult_witnesses(roll, answers, answer_s)
            roll.mute.clear()
            return answers
        teller = next(iter(ahead))
        del ahead[teller]
        try:
            async with asyncio.timeout(answer_s):
                held = await settled(keeper(teller.replica).tell_ring())
            if held.record is None or held.record.number <= roll.ring.number:
                roll.mute.add(teller)
                continue
            roll.go_by(held.record, await place(held.record, members))
            members.keep([member.name for member in held.record.members], 0.0)
            ahead = {}
        except (SfssError, TimeoutError) as error:
            if not ahead and loop.time() >= until:
                reason = str(error) or type(error).__name__
                raise SetupError(
                    f"the ring has changed, and node {teller.name} doesn't tell it ({reason}); see to that node, and "
                    "start this once more"
                ) from None
            if not ahead:
                await asyncio.sleep(_RETRY_S)


async def _consult_witnesses(roll: Roll, answers: list[Identity | SfssError], answer_s: float) -> None:
    """Hear from the nodes what others saw of them, before they are counted on; updates `answers`."""

    async def ask(peer: Peer, question: Callable[[NodeAccess], Reply[Any]]) -> Any:
        try:
            return await asyncio.wait_for(settled(question(peer.replica)), answer_s)
        except TimeoutError:
            raise Unreachable(f"no answer in {answer_s} s") from None

    peers = roll.ring.peers
    met = [peer for peer, answer in zip(peers, answers, strict=True) if isinstance(answer, Identity)]
    judged, _ = await consult(roll, met, ask)
    for peer, identity in judged:
        try:
            roll.examine(peer, identity)
            answers[peers.index(peer)] = identity
        except WrongCluster as error:
            answers[peers.index(peer)] = error
