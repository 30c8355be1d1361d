"""A model of the design in docs/decisions/ring-changes.rst: nodes, coordinators and movers that follow its rules and do
nothing else, on virtual time, from one seed. It is not the product: it shows that the rules are enough, before they are
built.

What is simplified: nodes are durable at once, placement is a few owners for each key, who decides what the next ring is
stands for the nodes' consensus on it, and the coordinator is the shortest one that follows docs/replication.rst (blind
and asked stamps, write-back, W exact holders before a read is answered).

The rules that the tests take away are methods of `Rules`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.cluster.linearizability import Operation

KEYS = ("k0", "k1", "k2")
OPERATION_S = 1.0
QUESTION_S = 0.3


class Group(NamedTuple):
    """A key's owners under one placement, and how many of them a write and a read need."""

    owners: tuple[str, ...]
    w: int
    r: int

    @property
    def barrier(self) -> int:
        """So many owners that refuse a ring leave it neither a write nor a read quorum."""
        return max(len(self.owners) - self.w, len(self.owners) - self.r) + 1


Placement = dict[str, Group]
"""By key."""


class Held(NamedTuple):
    """A record. Its version is a stamp and a number that no other write has."""

    version: tuple[int, int] = (0, 0)
    value: int | None = None


ABSENT = Held()


@dataclass(frozen=True)
class Ring:
    """A numbered ring: one placement, or (joint) the old and the new one."""

    number: int
    placements: tuple[Placement, ...]

    @property
    def joint(self) -> bool:
        return len(self.placements) == 2

    def groups(self, key: str) -> list[Group]:
        return [placement[key] for placement in self.placements]

    def owners(self, key: str) -> list[str]:
        return list(dict.fromkeys(owner for group in self.groups(key) for owner in group.owners))

    def members(self) -> set[str]:
        return {owner for key in KEYS for owner in self.owners(key)}


NO_RING = Ring(0, ())


class OtherRing(Exception):
    """A node's refusal: it is at this ring."""

    def __init__(self, ring: Ring) -> None:
        super().__init__(ring.number)
        self.ring = ring


class Unanswered(Exception):
    """Too few answers in time. Whatever was asked may still happen."""


class Rules:
    """What the tests plant faults in."""

    def executes(self, node: Node, number: int) -> bool:
        """Whether a node does what it is asked under a ring of this number."""
        return node.ring.number == number

    def groups(self, ring: Ring, key: str) -> list[Group]:
        """The quorums that an operation needs, all of them."""
        return ring.groups(key)

    def barrier(self, group: Group) -> int:
        """How many owners must have stored the joint ring before anything is copied."""
        return group.barrier

    def fills(self) -> bool:
        """Whether the new owners get what the old ones have before the old ring is left."""
        return True

    def drops_early(self) -> bool:
        """Whether old copies go while the ring is joint."""
        return False

    def decides(self) -> bool:
        """Whether movers agree on what the next ring is."""
        return True


class Node:
    """What one node has on its disk: its ring, and records by key."""

    def __init__(self, name: str, rules: Rules) -> None:
        self.name = name
        self.ring = NO_RING
        self.records: dict[str, Held] = {}
        self.up = True
        self._rules = rules

    def store_ring(self, ring: Ring) -> int:
        """Take over a ring that was decided, if it is a later one. The number that it has then."""
        if ring.number > self.ring.number:
            self.ring = ring
        return self.ring.number

    def read(self, number: int, key: str) -> Held:
        self._check(number)
        return self.records.get(key, ABSENT)

    def listed(self, key: str) -> Held:
        """What a comparison is told: `get @` asks under no ring."""
        return self.records.get(key, ABSENT)

    def apply(self, number: int, key: str, record: Held) -> Held:
        """Store if newer. What it holds then: the record itself means accepted."""
        self._check(number)
        if record.version > self.records.get(key, ABSENT).version:
            self.records[key] = record
        return self.records.get(key, ABSENT)

    def drop(self, number: int, key: str) -> None:
        self._check(number)
        self.records.pop(key, None)

    def _check(self, number: int) -> None:
        if not self._rules.executes(self, number):
            raise OtherRing(self.ring)


class World:
    """Nodes, the network between, what was decided, and what clients saw. All randomness comes from `rng`."""

    def __init__(self, rng: random.Random, first: Placement, rules: Rules, nodes: Iterable[str]) -> None:
        self.rng = rng
        self.rules = rules
        self.nodes = {name: Node(name, rules) for name in nodes}
        self.loop = asyncio.get_running_loop()
        self.decided = {1: Ring(1, (first,))}
        self.histories: dict[str, list[Operation]] = {key: [] for key in KEYS}
        self.outcomes: dict[str, int] = {}
        self._numbers = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        for name in self.decided[1].members():
            self.nodes[name].store_ring(self.decided[1])

    def decide(self, ring: Ring) -> Ring:
        """What the ring of this number is, once and for all: the first that anybody proposed."""
        return self.decided.setdefault(ring.number, ring) if self.rules.decides() else ring

    def count(self) -> int:
        self._numbers += 1
        return self._numbers

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def settle(self) -> None:
        """Wait for what is still on its way."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def send(self, name: str, request: Callable[[Node], Any]) -> Any:
        """One request to one node and its answer. Late ones arrive all the same."""
        await self._delay()
        node = self.nodes[name]
        if not node.up or self.rng.random() < 0.02:
            await asyncio.sleep(QUESTION_S)
            raise Unanswered(name)
        answer = request(node)
        await self._delay()
        if self.rng.random() < 0.02:
            await asyncio.sleep(QUESTION_S)
            raise Unanswered(name)
        return answer

    async def _delay(self) -> None:
        late = 40.0 if self.rng.random() < 0.05 else 1.0
        await asyncio.sleep(self.rng.expovariate(1 / 0.005) * late)

    async def ask(
        self,
        names: Iterable[str],
        ask_one: Callable[[str], Coroutine[Any, Any, Any]],
        enough: Callable[[dict[str, Any]], bool],
    ) -> dict[str, Any]:
        """Ask nodes side by side until `enough` says so. Raises `OtherRing` when one is ahead, `Unanswered` otherwise.
        What isn't answered by then goes on."""
        asked = {self.spawn(ask_one(name)): name for name in names}
        waiting: set[asyncio.Task[Any]] = set(asked)
        answers: dict[str, Any] = {}
        until = self.loop.time() + QUESTION_S
        while not enough(answers):
            left_s = until - self.loop.time()
            if not waiting or left_s <= 0:
                raise Unanswered("too few answers")
            done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            for task, name in asked.items():
                if task in done:
                    error = task.exception()
                    if isinstance(error, OtherRing):
                        raise error
                    if error is None:
                        answers[name] = task.result()
        return answers


class User:
    """Whoever asks nodes under a ring: learns a later one from a refusal, and brings it to nodes that are behind."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ring = world.decided[1]

    async def under_ring(self, name: str, ring: Ring, request: Callable[[Node], Any]) -> Any:
        try:
            return await self.world.send(name, request)
        except OtherRing as refusal:
            if refusal.ring.number > ring.number:
                raise
        await self.world.send(name, lambda node: node.store_ring(ring))
        return await self.world.send(name, request)

    async def until(self, seconds: float, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do it, again under each later ring that is met. Raises `Unanswered` when the time is over."""
        give_up = self.world.loop.time() + seconds
        while True:
            try:
                return await work()
            except OtherRing as refusal:
                if refusal.ring.number > self.ring.number:
                    self.ring = refusal.ring
                if self.world.loop.time() > give_up:
                    raise Unanswered("the ring changed too often") from None

    async def newest(self, ring: Ring, key: str) -> dict[str, Held]:
        groups = self.world.rules.groups(ring, key)
        return await self.world.ask(
            _asked(groups),
            lambda name: self.under_ring(name, ring, lambda node: node.read(ring.number, key)),
            lambda got: all(sum(owner in got for owner in group.owners) >= max(group.r, group.w) for group in groups),
        )

    async def give(
        self, ring: Ring, key: str, record: Held, counts: Callable[[Held], bool], groups: list[Group]
    ) -> dict[str, Held]:
        return await self.world.ask(
            _asked(groups),
            lambda name: self.under_ring(name, ring, lambda node: node.apply(ring.number, key, record)),
            lambda got: _everywhere(groups, {name for name, held in got.items() if counts(held)}),
        )


def _asked(groups: list[Group]) -> list[str]:
    return list(dict.fromkeys(owner for group in groups for owner in group.owners))


def _everywhere(groups: list[Group], names: set[str]) -> bool:
    return all(sum(owner in names for owner in group.owners) >= group.w for group in groups)


class Coordinator(User):
    """Reads and writes as in docs/replication.rst, with the quorums of every group."""

    def __init__(self, world: World, skew: int) -> None:
        super().__init__(world)
        self._skew = skew
        self._highest = 0

    def _stamp(self, above: int = 0) -> tuple[int, int]:
        self._highest = max(self._highest, above, int(self.world.loop.time() * 1000) + self._skew) + 1
        return self._highest, self.world.count()

    async def read(self, key: str) -> int | None:
        record: Held = await self.until(OPERATION_S, lambda: self._read(key))
        return record.value

    async def _read(self, key: str) -> Held:
        ring = self.ring
        groups = self.world.rules.groups(ring, key)
        answers = await self.newest(ring, key)
        while True:
            aim = max(answers.values())
            if _everywhere(groups, {name for name, held in answers.items() if held == aim}):
                return aim
            answers |= await self.give(ring, key, aim, aim.__le__, groups)

    async def write(self, key: str, value: int | None, asked: bool) -> None:
        """Raises `Unanswered` for a write that surely isn't stored anywhere, `Doubtful` for one that may be."""
        record: Held | None = None

        async def attempt() -> None:
            nonlocal record
            ring = self.ring
            if record is None:
                above = max((await self.newest(ring, key)).values()).version[0] if asked else 0
                record = Held(self._stamp(above), value)
            # Who asked after the write began may count refusals: something newer is held there.
            counts = record.__le__ if asked else record.__eq__
            await self.give(ring, key, record, counts, self.world.rules.groups(ring, key))

        try:
            await self.until(OPERATION_S, attempt)
        except Unanswered:
            if record is None:
                raise
            raise Doubtful from None


class Doubtful(Exception):
    """A write that may have happened, or will."""


class Mover(User):
    """Carries out one change after another. All that it knows is on the nodes: any of its lives goes on where another
    one ended, and two at a time do no harm."""

    def __init__(self, world: World, goals: list[Placement]) -> None:
        super().__init__(world)
        self._goals = goals
        """Which may not be those of another mover: the first that is decided is carried out."""

    async def run(self) -> None:
        """Until the last goal is reached."""
        while True:
            await self._learn()
            if not self.ring.joint:
                await self._spread(self.ring, lambda group: group.barrier)
                await self._release(self.ring)
                done = self.ring.number // 2
                if done >= len(self._goals):
                    return
                wanted = Ring(self.ring.number + 1, (self.ring.placements[0], self._goals[done]))
                self.ring = self.world.decide(wanted)
            await self._try(self._move)

    async def _move(self) -> None:
        ring = self.ring
        await self._spread(ring, self.world.rules.barrier)
        if self.world.rules.drops_early():
            await self._release(Ring(ring.number, ring.placements[1:]))
        if self.world.rng.random() < 0.15:
            # Somebody thinks better of it, while another mover may be about to finish.
            self.ring = self.world.decide(Ring(ring.number + 1, ring.placements[:1]))
            return
        if self.world.rules.fills():
            for key in KEYS:
                await self._fill(key)
        self.ring = self.world.decide(Ring(ring.number + 1, ring.placements[1:]))

    async def _learn(self) -> None:
        """The latest ring that any node has. Two nodes may be away: whoever is behind learns it from a refusal."""
        for name in sorted(self.world.nodes):
            try:
                ring = await self.world.send(name, lambda node: node.ring)
            except Unanswered:
                continue
            if ring.number > self.ring.number:
                self.ring = ring

    async def _spread(self, ring: Ring, count: Callable[[Group], int]) -> None:
        """Bring a ring to so many of each key's owners in its first placement; the others learn it when they are asked
        something under it."""
        stored: set[str] = set()

        def enough() -> bool:
            groups = ring.placements[0].values()
            return all(sum(owner in stored for owner in group.owners) >= count(group) for group in groups)

        while not enough():
            missing = sorted(ring.members() - stored)
            for name in self.world.rng.sample(missing, len(missing)):
                with contextlib.suppress(Unanswered):
                    if await self.world.send(name, lambda node: node.store_ring(ring)) >= ring.number:
                        stored.add(name)
                if enough():
                    return

    async def _fill(self, key: str) -> None:
        """Bring what old owners have, so many that they meet each write quorum, to a write quorum of the new ones."""
        ring = self.ring
        old, new = ring.groups(key)
        answers = await self.world.ask(
            old.owners,
            lambda name: self.world.send(name, lambda node: node.listed(key)),
            lambda got: len(got) > len(old.owners) - old.w,
        )
        newest = max(answers.values())
        await self.give(ring, key, newest, newest.__le__, [new])

    async def _release(self, ring: Ring) -> None:
        """Remove copies from nodes that don't own them in this ring; those away keep theirs until the next time."""
        for name in sorted(self.world.nodes):
            for key in KEYS:
                if name in ring.owners(key):
                    continue
                try:
                    await self.under_ring(name, ring, lambda node, key=key: node.drop(ring.number, key))  # type: ignore[misc]
                except (Unanswered, OtherRing):
                    break

    async def _try(self, work: Callable[[], Awaitable[Any]]) -> None:
        try:
            await work()
        except Unanswered:
            await asyncio.sleep(0.05)
        except OtherRing as refusal:
            self.ring = max(self.ring, refusal.ring, key=lambda ring: ring.number)


class Run:
    """Clients, trouble and movers on one world, until the last change is done and the clients have had enough."""

    def __init__(
        self, rng: random.Random, placements: list[Placement], rules: Rules, coordinators: int = 4, operations: int = 60
    ) -> None:
        names = sorted({owner for placement in placements for group in placement.values() for owner in group.owners})
        self.world = World(rng, placements[0], rules, names)
        self._goals = placements[1:]
        self._rng = rng
        self._operations = operations
        self.coordinators = [Coordinator(self.world, rng.randrange(-300, 300)) for _ in range(coordinators)]
        self.mover_lives = 0
        self.moved = False

    async def run(self) -> None:
        trouble = [asyncio.ensure_future(self._trouble()), asyncio.ensure_future(self._move())]
        await asyncio.gather(*(self._client(coordinator) for coordinator in self.coordinators for _ in range(2)))
        trouble[0].cancel()
        for node in self.world.nodes.values():
            node.up = True
        await trouble[1]
        self.moved = True
        await self._client(self.coordinators[0], 6)
        await self.world.settle()

    async def _trouble(self) -> None:
        """One node at a time is away: it answers nothing, and keeps what it had."""
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / 0.3))
            node = self.world.nodes[self._rng.choice(sorted(self.world.nodes))]
            node.up = False
            await asyncio.sleep(self._rng.expovariate(1 / 0.3))
            node.up = True

    async def _move(self) -> None:
        """Movers that are killed at any moment, and started again, at times two."""
        await asyncio.sleep(self._rng.random() * 0.3)
        while True:
            movers = [
                asyncio.ensure_future(Mover(self.world, self._rng.sample(self._goals, len(self._goals))).run())
                for _ in range(self._rng.choice([1, 2]))
            ]
            self.mover_lives += len(movers)
            done, left = await asyncio.wait(movers, timeout=self._rng.expovariate(1 / 0.4))
            for mover in left:
                mover.cancel()
            if left:
                await asyncio.wait(left)
            if done:
                return

    async def _client(self, coordinator: Coordinator, operations: int = 0) -> None:
        for _ in range(operations or self._operations):
            key = self._rng.choice(KEYS)
            await self._operate(coordinator, key, self._rng.choice("rrww"))
            # Now and then a client, and its coordinator's knowledge of the ring, sleeps through a change.
            await asyncio.sleep(self._rng.expovariate(1 / 0.02) * (30.0 if self._rng.random() < 0.03 else 1.0))

    async def _operate(self, coordinator: Coordinator, key: str, kind: str) -> None:
        history, began = self.world.histories[key], self.world.loop.time()
        value: int | None = None
        outcome = "ok"
        try:
            if kind == "r":
                value = await coordinator.read(key)
            else:
                value = self.world.count()
                await coordinator.write(key, value, asked=self._rng.random() < 0.5)
            history.append((began, self.world.loop.time(), kind, value))
        except Doubtful:
            history.append((began, math.inf, "w", value))
            outcome = "unknown"
        except Unanswered:
            outcome = "failed"
        self.world.outcomes[f"{kind} {outcome}"] = self.world.outcomes.get(f"{kind} {outcome}", 0) + 1
