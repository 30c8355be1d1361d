"""The mover: brings a cluster from one ring to the next, from wherever the nodes are on that way.

It keeps nothing of its own. Each round looks at the nodes and does what comes next; where another mover has been
faster, the round is begun anew. What comes when, and why nothing is lost whoever is killed whenever, is told in
docs/decisions/ring-changes.rst, whose rules are named here by their numbers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeVar

from sfss.errors import SetupError, SfssError
from sfss.pace import Pace, side_by_side
from sfss.ring_change.agreeing import Agreeing
from sfss.ring_change.ending import ABORTED, MINE, THEIRS, UNSURE, Endings, Outcome, ending
from sfss.ring_change.filling import Filling, Place
from sfss.ring_change.layout import Layout, even_out, fill
from sfss.ring_change.leftovers import Leftovers, places_of
from sfss.ring_change.node import Nodes, Overtaken
from sfss.ring_change.trouble import Blocked, Trouble
from sfss.ring_change.wish import Wish, join
from sfss.ring_keeper import HeldRing
from sfss.ring_record import RingRecord
from sfss.store import Identity
from sfss.tasks import end

T = TypeVar("T")

JOBS = 16
"""Leaves that are filled side by side; each holds one file in memory at most."""

_PAUSE_S = 2.0
"""How long to wait before what couldn't be done is tried again."""

_LOOK_S = 5.0
"""How often to see whether others have gone on with the ring. At a low pace one file may take hours."""

_RELEASE_S = 30.0
"""How long to go on while no old copy becomes removable; they harm nobody."""

_SAY_S = 60.0
"""How long the same isn't said again, should two things be in the way by turns."""


FirstRing = Callable[[dict[str, Identity]], Awaitable[RingRecord]]
"""Makes the record of ring 1, which no node has, of who the nodes are that answered. Raises `SetupError`."""


class Mover:
    """`names` are the nodes that the configuration knows. `say` takes a line for people, about what it waits for and
    what others have done. Use one for one change."""

    def __init__(
        self,
        nodes: Nodes,
        names: Sequence[str],
        first: FirstRing,
        *,
        say: Callable[[str], None],
        pace: Pace | None = None,
        rng: random.Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._nodes = nodes
        self._names = dict.fromkeys(names)
        self._first = first
        self._say = say
        self._pace = pace or Pace(0)
        self._rng = rng or random.Random()
        self._monotonic = monotonic
        self._sleep = sleep
        self._cluster = ""
        self._said: dict[str, float] = {}
        """What was said to be in the way, the newest last, and when."""
        self._gone: set[str] = set()
        self._stage = ""
        self._filling: Filling | None = None
        self._partitions = 0
        self._removed = 0
        """Partitions that were removed from nodes which don't own them."""
        self._unsettled: dict[str, int] = {}
        """Of how many partitions a node had to keep what it doesn't own: the fewest so far. Copies that were given for
        that are no measure of it: a node may forget what it is given, as it does what is purged there."""

    def progress(self) -> str:
        """What is being done, in a few words; empty before anything is."""
        filling = self._filling
        if filling is None:
            return self._stage
        return (
            f"{self._stage}: {filling.done:.0f} of {self._partitions} partitions, "
            f"{filling.records} copies of files ({filling.bytes / 1024**2:.1f} MiB)"
        )

    async def look(self) -> RingRecord:
        """The latest ring that any node has. Raises `SetupError` where none can be found."""
        held: dict[str, HeldRing] = {}
        identities: dict[str, Identity] = {}
        errors: dict[str, SfssError] = {}
        asked: set[str] = set()
        latest = HeldRing(0, "")
        while asked < self._names.keys():
            names = sorted(self._names.keys() - asked)
            asked |= set(names)
            met, away = await self._nodes.ask_all(names, lambda node: node.identify())
            told, mute = await self._nodes.ask_all(sorted(met), lambda node: node.ring())
            identities |= met
            held |= told
            errors |= away | mute
            # One that was given the place of another knows the number of its ring, and not yet the ring.
            known = (ring for ring in held.values() if ring.number == 1 or ring.record is not None)
            latest = max((latest, *known), key=lambda ring: ring.number)
            if latest.record is not None:
                self._names |= dict.fromkeys(member.name for member in latest.record.members)
        if not held:
            reasons = "; ".join(f"{name}: {error}" for name, error in errors.items())
            raise SetupError(f"no node answers ({reasons}); start them, or correct their addresses")
        clusters = {identity.cluster: name for name, identity in identities.items() if identity.cluster}
        if len(clusters) > 1:
            found = ", ".join(f"{name} to {cluster}" for cluster, name in clusters.items())
            raise SetupError(f"these nodes belong to several clusters: {found}; name those of one")
        if not latest.number:
            raise SetupError("the nodes belong to no cluster yet; start a proxy, which founds it")
        self._cluster = next(iter(clusters))
        ring = latest.record if latest.record is not None else await self._first(identities)
        for member in ring.members:
            self._nodes[member.name].expect(member.node, self._cluster)
        return ring

    async def apply(self, wish: Wish | None) -> Outcome:
        """Carry out what is under way, or else the wish, to its end. Raises `SetupError` in one line for what can't be
        begun."""
        change: RingRecord | None = None
        endings = MINE
        named = 0
        while True:
            ring = await self._look_on(change)
            try:
                if change is not None and ring.number > change.number:
                    ended = ending(change, ring)
                    if ended is not Outcome.OTHER:
                        return await self._conclude(ring, endings.get(ended, Outcome.OVERTAKEN))
                    change = None  # the wish was not decided
                if ring.joint:
                    if ring != change:
                        endings = MINE if wish is None or await wish.is_what_happens(ring) else THEIRS
                    if named != ring.number and (wish is None or endings is THEIRS):
                        named = ring.number
                        self._say(f"carrying on with the change that is under way: {difference(ring)}")
                    change = ring
                    await self._move(ring)
                else:
                    change, endings = await self._begin(ring, wish)
                    if change is None:
                        return await self._conclude(ring, Outcome.NOTHING)
            except Overtaken:
                continue

    async def abort(self) -> Outcome:
        """Go back to the ring from before the change that is under way: DONE, or OTHER where it was finished before."""
        change: RingRecord | None = None
        while True:
            ring = await self._look_on(change)
            try:
                if change is not None and ring.number > change.number:
                    return await self._conclude(ring, ABORTED.get(ending(change, ring), Outcome.OVERTAKEN))
                if ring.joint:
                    change = ring
                    self._stage = "going back"
                    await self._decide(ring, RingRecord(ring.number + 1, ring.partitions, ring.placements[:1]))
                elif await self._decide(ring, None) is None:
                    return Outcome.NOTHING
            except Overtaken:
                continue

    async def _look_on(self, change: RingRecord | None) -> RingRecord:
        """The latest ring. Once a change is under way nothing that is in the way of looking ends it."""
        while True:
            try:
                return await self.look()
            except SetupError as error:
                if change is None:
                    raise
                await self._wait_for(error)

    # stages

    async def _begin(self, ring: RingRecord, wish: Wish | None) -> tuple[RingRecord | None, Endings]:
        """Decide a joint ring after a settled one. That ring, if there is one, and how to tell the ends of it."""
        if wish is None:
            return await self._decide(ring, None), MINE
        before, after = await wish.rings(ring)
        present = {member.name: member.node for member in ring.placements[0].members}
        names = {member.name for member in after.members}
        await self._see_well(sorted(names & present.keys()))
        # One that was in an earlier ring, and whose copies nobody has removed, is to be rid of them first.
        known, _ = await self._nodes.ask_all(sorted(names - present.keys()), lambda node: node.identify())
        self._names |= dict.fromkeys(known)
        # Rule 8: the last change is over, and no node has copies of what it may come to own.
        layout = await self._spread(ring)
        _, gone = await self._nodes.ask_all(sorted(present.keys() - names), lambda node: node.identify())
        trouble = await self._release(layout, frozenset(gone))
        if trouble:
            raise SetupError(f"the change before this one isn't over ({trouble}); once that is mended, ask once more")
        comes = sorted(names - present.keys())
        joined = await join(self._nodes, comes, self._cluster, before.fingerprint, present, self._wait_for)
        placement = wish.placement(after, present | joined)
        wished = RingRecord(ring.number + 1, ring.partitions, (ring.placements[0], placement))
        try:
            decided = await self._decide(ring, wished)
        except Overtaken:
            return wished, UNSURE
        return decided, MINE if decided == wished else THEIRS

    async def _see_well(self, names: Sequence[str]) -> None:
        """Wait until none of these members is suspect: it needs the others to be refilled, and gets back what it forgot
        rather than what it may never have had. Raises `SetupError` for one that doesn't answer."""
        while True:
            met, away = await self._nodes.ask_all(names, lambda node: node.identify())
            for name, error in away.items():
                raise SetupError(
                    f"{name} is to be in the new ring and does not answer ({error}); start it, or remove it, too"
                )
            suspect = [name for name, identity in met.items() if identity.state != "ok"]
            if not suspect:
                return
            await self._wait_for(
                Trouble(dict.fromkeys(suspect, "recovering; the change begins when it is trusted again"))
            )

    async def _move(self, ring: RingRecord) -> None:
        """From a joint ring to the new one."""
        layout = await self._spread(ring)
        tasks = await asyncio.to_thread(layout.tasks, fill)
        self._stage = "filling"
        self._partitions = tasks.count
        self._filling = filling = Filling(self._nodes, ring, tasks, self._pace)
        try:
            while trouble := await self._fill(ring, filling):
                await self._wait_for(trouble)
        finally:
            self._filling = None
        self._stage = "finishing"
        await self._decide(ring, RingRecord(ring.number + 1, ring.partitions, ring.placements[1:]))

    async def _conclude(self, ring: RingRecord, outcome: Outcome) -> Outcome:
        """What is to be done once a ring is settled again; if it isn't, another change is under way."""
        if ring.joint:
            return outcome
        layout = await self._spread(ring)
        before: object = None
        until = 0.0
        while trouble := await self._release(layout, frozenset()):
            if (now := (self._removed, *self._unsettled.items())) != before:
                before, until = now, self._monotonic() + _RELEASE_S
            elif self._monotonic() >= until:
                return Outcome.COPIES_LEFT if outcome in (Outcome.DONE, Outcome.NOTHING) else outcome
            await self._wait_for(trouble)
        return outcome

    # what stages consist of

    async def _decide(self, ring: RingRecord, wish: RingRecord | None) -> RingRecord | None:
        agreeing = Agreeing(self._nodes, ring, rng=self._rng, say=self._say, sleep=self._sleep)
        decided = await agreeing.decide(wish)
        if decided is not None:
            names = {member.name for member in (*ring.members, *decided.members)}
            self._names |= dict.fromkeys(names)
            await self._nodes.ask_all(sorted(names), lambda node: node.learn(decided))
        return decided

    async def _spread(self, ring: RingRecord) -> Layout:
        """Bring a ring behind the barrier: to so many of each set of its first owners that no quorum of the ring before
        is left. Those that are away learn it when they are back."""
        self._stage = f"spreading ring {ring.number}"
        layout = await asyncio.to_thread(Layout, ring)
        groups = layout.old_groups()
        stored: set[str] = set()
        if ring.number == 1:
            return layout  # there was no ring before
        while True:
            missing = sorted({member.name for member in ring.members} - stored)
            answers, errors = await self._nodes.ask_all(missing, lambda node: node.learn(ring))
            if any(held.number > ring.number for held in answers.values()):
                raise Overtaken
            stored |= answers.keys()
            if all(sum(owner in stored for owner in group.owners) >= group.barrier for group in groups):
                return layout
            await self._wait_for(Trouble(errors))

    async def _fill(self, ring: RingRecord, filling: Filling) -> Trouble:
        """Fill whatever isn't. What was in the way."""
        filling.done = 0.0
        trouble = Trouble()

        async def work(place: Place) -> None:
            try:
                await filling.fill(place)
            except Blocked as blocked:
                trouble.add(blocked)

        await self._side_by_side(ring, filling.places(), work)
        return trouble

    async def _side_by_side(
        self, ring: RingRecord, items: AsyncGenerator[T, None], work: Callable[[T], Awaitable[None]]
    ) -> None:
        """Raises `Overtaken` soon after another ring is in force, however long the work waits for its pace."""
        working = asyncio.create_task(side_by_side(JOBS, items, work))
        try:
            while not (await asyncio.wait([working], timeout=_LOOK_S))[0]:
                names = sorted({member.name for member in ring.members})
                told, _ = await self._nodes.ask_all(names, lambda node: node.ring())
                if any(held.number > ring.number for held in told.values()):
                    raise Overtaken
            working.result()
        finally:
            await end(working)

    async def _release(self, layout: Layout, without: frozenset[str]) -> Trouble:
        """Remove copies from nodes that don't own them (rule 7). What is in the way. Nodes are left out that don't
        answer and are about to leave."""
        ring = layout.ring
        trouble = Trouble()
        if ring.number == 1:
            return trouble  # where nobody has ever owned anything else
        self._stage = "removing old copies"
        members = {member.name for member in ring.members}
        nodes = {member.node for member in ring.members}
        tasks = await asyncio.to_thread(layout.tasks, lambda group: even_out(group, without))
        filling = Filling(self._nodes, ring, tasks, self._pace)
        for name in list(self._names):
            if name not in without and (name in members or await self._has_left(name, nodes)):
                try:
                    await self._release_of(name, layout, filling, trouble)
                except SfssError as error:
                    trouble.add(Blocked({name: error}))
        return trouble

    async def _release_of(self, name: str, layout: Layout, filling: Filling, trouble: Trouble) -> None:
        ring = layout.ring
        member = any(member.name == name for member in ring.members)
        found = settled = 0

        async def work(partition: int) -> None:
            nonlocal found, settled
            found += 1
            try:
                for place in places_of(partition, layout.shift):
                    await filling.settle(place)
                if member:
                    await self._nodes.ask_under(ring, name, lambda node: node.drop(ring.number, partition))
                    self._tell_removed(1)
                settled += 1
            except Blocked as blocked:
                trouble.add(blocked)
            except SfssError as error:
                trouble.add(Blocked({name: error}))

        leftovers = await asyncio.to_thread(Leftovers, self._nodes, layout, name)
        await self._side_by_side(ring, leftovers.partitions(), work)
        self._unsettled[name] = min(found - settled, self._unsettled.get(name, found))
        if not member and settled == found:
            await self._nodes.ask_under(ring, name, lambda node: node.left(ring.number))
            self._tell_removed(found)

    def _tell_removed(self, partitions: int) -> None:
        self._removed += partitions
        if self._removed:
            self._stage = f"removing old copies: {self._removed} partitions"

    async def _has_left(self, name: str, members: set[str]) -> bool:
        """Whether a node that the ring doesn't name is one of the cluster that can be told so. One of `members` (node
        ids) that goes by another name here isn't."""
        try:
            identity = await self._nodes.ask(name, lambda node: node.identify())
        except SfssError as error:
            if name not in self._gone:
                self._gone.add(name)
                self._say(f"{name} is not in the ring and does not answer ({error}); its files can be deleted")
            return False
        return identity.cluster == self._cluster and identity.node not in members

    async def _wait_for(self, trouble: object) -> None:
        """Say what is in the way, unless that was said last or just now, and wait until it is worth another try."""
        told, now = str(trouble), self._monotonic()
        if told not in list(self._said)[-1:]:
            self._said = {line: at for line, at in self._said.items() if now < at + _SAY_S}
            if told not in self._said:
                self._said[told] = now
                self._say(f"waiting: {told}")
        await self._sleep(_PAUSE_S)


def difference(ring: RingRecord) -> str:
    """What a joint ring is on the way to, in words."""
    old, new = ({member.name: member for member in placement.members} for placement in ring.placements)
    parts = [
        ("adds", sorted(new.keys() - old.keys())),
        ("removes", sorted(old.keys() - new.keys())),
        ("changes", sorted(name for name in old.keys() & new.keys() if old[name] != new[name])),
    ]
    return ", ".join(f"it {verb} {' '.join(names)}" for verb, names in parts if names) or "to the same nodes"
