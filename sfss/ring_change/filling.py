"""Bringing records to the nodes that are to have them, place by place of the hash tree.

As replicas are compared (proxy/comparison.py), but between two sets of owners: what the sources of a place have newest
goes to its targets, each record stored only if it is newer than what is held there. Tombstones and expired records go,
too. Where all have equal digests nothing has to be looked at. Nothing is left out for being new, and what a node says
that may have forgotten something counts for nothing: it answers with an error. A record of which every copy is damaged
is told when all others of its place have been brought.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import NamedTuple

from sfss.errors import CorruptRecord, RemoteError, SfssError
from sfss.hash_tree import (
    LEAF_DIGITS,
    PREFIX_DIGITS_MAX,
    Branch,
    Listed,
    read_branches,
    read_listing,
)
from sfss.keys import hash_key
from sfss.pace import Pace
from sfss.ring_change.layout import Task, Tasks
from sfss.ring_change.node import Nodes, RingNode
from sfss.ring_change.trouble import Blocked
from sfss.ring_record import RingRecord
from sfss.store import Record

DIGITS = tuple(b"%x" % digit for digit in range(16))

_LARGE_BYTES = 16 * 1024
"""A longer listing is taken apart in a thread: 4,096 records take 8 ms."""

_BREATH_RECORDS = 500


class _Unreadable(Exception):
    """No node has a whole copy of a file; says who has which other."""


class Place(NamedTuple):
    """A place of the hash tree that has to be filled, and why it can't be if it can't."""

    prefix: bytes
    blocked: Blocked | None


class Listing(NamedTuple):
    """What a node told of a place. `size` is that of the text, in bytes."""

    records: dict[bytes, Listed]
    more: bool
    size: int


class Filling:
    """Carries out tasks under one ring. `done` counts partitions, `records` and `bytes` what was given to nodes."""

    def __init__(self, nodes: Nodes, ring: RingRecord, tasks: Tasks, pace: Pace) -> None:
        self._nodes = nodes
        self._ring = ring
        self._tasks = tasks
        self._pace = pace
        self.done = 0.0
        self.records = 0
        self.bytes = 0

    async def places(self, prefix: bytes = b"") -> AsyncGenerator[Place, None]:
        """What has to be looked at below a place, as there is something to do and the nodes differ: leaves, and what is
        `blocked` as a whole."""
        branches, errors = await self._branches(prefix)
        for digit in range(len(DIGITS)):
            place = self._place(prefix + DIGITS[digit], digit, branches, errors)
            if place is None:
                self.done += self._tasks.count_below(prefix + DIGITS[digit])
            elif place.blocked or len(place.prefix) == LEAF_DIGITS:
                yield place
            else:
                async for below in self.places(place.prefix):
                    yield below

    async def settle(self, prefix: bytes) -> None:
        """Fill what is below a place (1 to 4 hex digits), unless all have the same. Raises as `fill` does."""
        branches, errors = await self._branches(prefix[:-1])
        place = self._place(prefix, int(prefix[-1:], 16), branches, errors)
        if place is None:
            return
        if place.blocked or len(prefix) == LEAF_DIGITS:
            await self.fill(place)
            return
        async for below in self.places(prefix):
            await self.fill(below)

    async def fill(self, place: Place) -> None:
        """Do what is to be done in a place. Raises `Blocked`, and `Overtaken` where another ring is in force."""
        if place.blocked is not None:
            raise place.blocked
        lost: dict[str, str] = {}
        await self._fill(place.prefix, lost)
        if lost:
            raise Blocked(files=lost)
        self.done += self._tasks.count_below(place.prefix)

    def _place(
        self, prefix: bytes, digit: int, branches: dict[str, list[Branch]], errors: dict[str, SfssError]
    ) -> Place | None:
        """What is to be done in a child of the place that `branches` are those of; None for nothing."""
        tasks = self._tasks.below(prefix)
        blocked = [_unheard(task, branches, errors) for task in tasks]
        if not any(blocked) and len({branch[digit] for name, branch in branches.items() if _asked(name, tasks)}) <= 1:
            return None
        return Place(prefix, _together(blocked) if all(blocked) else None)

    async def _fill(self, prefix: bytes, lost: dict[str, str]) -> None:
        """`lost` takes the files that can't be read, each with the reason."""
        tasks = self._tasks.below(prefix)
        names = {name for task in tasks for name in task.names}
        listings, errors = await self._nodes.ask_all(sorted(names), lambda node: ask_listing(node, prefix))
        if unheard := _together(_unheard(each, listings, errors) for each in tasks):
            raise unheard
        if len(prefix) < PREFIX_DIGITS_MAX and any(listing.more for listing in listings.values()):
            for digit in DIGITS:
                await self._fill(prefix + digit, lost)
            return
        await self._pace.spend(sum(listing.size for listing in listings.values()))
        away = "".join(f", and {name} can't be asked: {error}" for name, error in errors.items())
        keys = {key for listing in listings.values() for key in listing.records}
        for number, key in enumerate(sorted(keys)):
            if not number % _BREATH_RECORDS:
                await asyncio.sleep(0)
            task = self._tasks.of_hash(hash_key(key))
            if task is not None:
                try:
                    await self._bring(key, task, listings, errors)
                except _Unreadable as unreadable:
                    lost[key.decode(errors="replace")] = f"{unreadable}{away}"

    async def _branches(self, prefix: bytes) -> tuple[dict[str, list[Branch]], dict[str, SfssError]]:
        names = {name for task in self._tasks.below(prefix) for name in task.names}
        return await self._nodes.ask_all(sorted(names), lambda node: ask_branches(node, prefix))

    async def _bring(self, key: bytes, task: Task, listings: dict[str, Listing], errors: dict[str, SfssError]) -> None:
        """Raises `_Unreadable`, and `Blocked` where a node is in the way."""
        held = {name: listing.records[key].order() for name, listing in listings.items() if key in listing.records}
        newest = max((held[name] for name in task.sources if name in held), default=(0, 0))
        whole = {name: order for name, order in held.items() if not listings[name].records[key].damaged}
        lacking = [name for name in task.targets if name in listings and whole.get(name, (0, 0)) < newest]
        holders = sum(name in listings for name in task.targets) - len(lacking)
        if lacking:
            holding = [name for name, order in whole.items() if order >= newest]
            damaged = [name for name, order in held.items() if order >= newest and name not in whole]
            record = await self._read(key, newest, holding, damaged)
            given = await asyncio.gather(*(self._give(name, key, record, errors) for name in lacking))
            holders += sum(given)
            self.records += sum(given)
            self.bytes += sum(given) * record.size
            await self._pace.spend(record.size * (1 + sum(given)))
        if holders < task.holders_min:
            raise Blocked({name: errors[name] for name in task.targets if name in errors})

    async def _read(self, key: bytes, newest: tuple[int, int], holding: list[str], damaged: list[str]) -> Record:
        """A record as new as the newest that was listed. Raises as `_bring` does."""
        in_the_way: dict[str, SfssError] = {}
        first = hash_key(key) % max(1, len(holding))  # so that not one node is asked for all
        for name in holding[first:] + holding[:first]:
            try:
                record = await self._nodes.ask_under(self._ring, name, lambda node: node.read(key, self._ring.number))
            except CorruptRecord:
                damaged.append(name)
            except SfssError as error:
                in_the_way[name] = error
            else:
                if record is not None and record.order() >= newest:
                    return record
        if in_the_way:
            raise Blocked(in_the_way)
        raise _Unreadable(f"damaged on {', '.join(sorted(damaged))}" if damaged else "it is there no more")

    async def _give(self, name: str, key: bytes, record: Record, errors: dict[str, SfssError]) -> bool:
        """Whether the node has it now, or something newer."""
        try:
            await self._nodes.ask_under(self._ring, name, lambda node: node.apply(key, record, self._ring.number))
        except SfssError as error:
            errors[name] = error
            return False
        return True


def _asked(name: str, tasks: set[Task]) -> bool:
    return any(name in task.sources or name in task.targets for task in tasks)


def _unheard(task: Task, heard: Mapping[str, object], errors: Mapping[str, SfssError]) -> Blocked | None:
    """Why a task can't be done if only these nodes are heard; None where it can."""
    for names, least in ((task.sources, task.heard_min), (task.targets, task.holders_min)):
        if sum(name in heard for name in names) < least:
            return Blocked({name: errors[name] for name in names if name in errors})
    return None


def _together(reasons: Iterable[Blocked | None]) -> Blocked | None:
    found = [blocked for blocked in reasons if blocked is not None]
    return Blocked({name: why for blocked in found for name, why in blocked.nodes.items()}) if found else None


async def ask_branches(node: RingNode, prefix: bytes) -> list[Branch]:
    """The children of a place. Raises `SfssError`."""
    text = await node.hashes(prefix)
    try:
        return read_branches(text)
    except ValueError as error:
        raise RemoteError(str(error)) from None


async def ask_listing(node: RingNode, prefix: bytes) -> Listing:
    """The records below a place. Raises `SfssError`."""
    try:
        text = await node.hashes(prefix)
    except CorruptRecord:
        raise CorruptRecord("a part of its index is damaged, which it is about to mend") from None
    try:
        records, more = read_listing(text) if len(text) < _LARGE_BYTES else await asyncio.to_thread(read_listing, text)
    except ValueError as error:
        raise RemoteError(str(error)) from None
    return Listing({record.key: record for record in records}, more, len(text))
