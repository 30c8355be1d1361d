"""What the next ring is, decided once: single-decree Paxos with the members of the last settled ring as acceptors.

Whoever finds that something was accepted proposes that instead of its own wish, so two that want different rings end
with one. A ballot is a round and a number of chance, so no two proposers have the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from sfss.errors import StaleRing
from sfss.ring_change.node import Nodes, Overtaken, RingNode
from sfss.ring_change.trouble import Trouble
from sfss.ring_keeper import Accepted, HeldRing, Nack, Prepared, Promised, Voted
from sfss.ring_record import RingRecord

_CHANCE_BITS = 16
_PAUSE_S = 0.5
"""How long to wait, on average, before another try; of two proposers one is through by then."""

_SAY_EVERY = 20


class Agreeing:
    """One decision. `say` takes a line for people."""

    def __init__(
        self,
        nodes: Nodes,
        present: RingRecord,
        *,
        rng: random.Random,
        say: Callable[[str], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`present` is the ring that the one to decide comes after."""
        self._nodes = nodes
        self._present = present
        self._number = present.number + 1
        self._rng = rng
        self._say = say
        self._sleep = sleep
        self._round = 0
        self._trouble = Trouble()
        # The first placement of a joint ring is that of the last settled one.
        self._acceptors = [member.name for member in present.placements[0].members]
        self._majority = len(self._acceptors) // 2 + 1

    async def decide(self, wish: RingRecord | None) -> RingRecord | None:
        """Have `wish` decided, or whatever else was wished for first, and return that; None without one where nobody
        has one. Waits for as long as too few acceptors answer. Raises `Overtaken` when rings have gone on since."""
        tries = 0
        while True:
            self._round += 1
            ballot = self._round << _CHANCE_BITS | self._rng.getrandbits(_CHANCE_BITS)
            answered, decided = await self._try(ballot, wish)
            if answered:
                return decided
            if not tries % _SAY_EVERY and self._trouble:
                self._say(f"waiting for more than half of {len(self._acceptors)} nodes to agree: {self._trouble}")
            tries += 1
            await self._sleep(self._rng.uniform(0.5, 1.5) * _PAUSE_S)

    async def _try(self, ballot: int, wish: RingRecord | None) -> tuple[bool, RingRecord | None]:
        """Whether there is an outcome, and which."""
        promises = await self._ask_acceptors(lambda node: node.prepare(self._number, ballot))
        if (ring := self._ring_among(promises)) is not None:
            return True, ring
        given = [answer for answer in promises if isinstance(answer, Promised)]
        if len(given) < self._majority:
            return False, None
        before = max(given, key=lambda promise: promise.ballot)
        proposed = before.accepted if before.accepted is not None else wish
        if proposed is None:
            return True, None
        answers = await self._ask_acceptors(lambda node: node.accept(ballot, proposed))
        if (ring := self._ring_among(answers)) is not None:
            return True, ring
        return sum(isinstance(answer, Accepted) for answer in answers) >= self._majority, proposed

    async def _ask_acceptors(
        self, question: Callable[[RingNode], Awaitable[Prepared | Voted]]
    ) -> Sequence[Prepared | Voted]:
        answers, errors = await self._nodes.ask_all(self._acceptors, question)
        behind = [name for name, error in errors.items() if isinstance(error, StaleRing)]
        # They answer the next try.
        await self._nodes.ask_all(behind, lambda node: node.learn(self._present))
        self._trouble = Trouble(errors)
        refused = [answer.ballot for answer in answers.values() if isinstance(answer, Nack)]
        self._round = max([self._round, *(ballot >> _CHANCE_BITS for ballot in refused)])
        return list(answers.values())

    def _ring_among(self, answers: Sequence[Prepared | Voted]) -> RingRecord | None:
        """What some node knows to be decided already."""
        for answer in answers:
            if isinstance(answer, HeldRing) and answer.number >= self._number:
                if answer.number > self._number or answer.record is None:
                    raise Overtaken
                return answer.record
        return None
