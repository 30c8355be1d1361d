"""Which files a cluster has, as its nodes tell it: their hash trees, asked side by side and put together.

An acknowledged write is on W nodes, so of N − W + 1 owners of a key at least one knows it. As long as no more than
W − 1 of all nodes are left out, that many owners of every key have answered, wherever it is placed. A node counts as
left out when it can't be reached, says that it has lost data, or doesn't belong to the cluster.

When the ring changes files move to other nodes, and the old copies go. So each answer is told with the ring that its
node is at, and where that is a later one than the answers are good for (`view`), the nodes of that ring are asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from sfss.backup.errors import BackupFailed
from sfss.backup.view import View
from sfss.errors import SfssError, Unreachable
from sfss.hash_tree import Branch, Listed, read_branches, read_listing
from sfss.ring_keeper import HeldRing

T = TypeVar("T")

LEFT_OUT_S = 30.0
"""A node that failed isn't asked for so long, unless too few others answer."""

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""How long to wait before too few answers are asked for again."""


class Node(Protocol):
    """One node. Raises `SfssError`."""

    @property
    def name(self) -> str: ...

    @property
    def id(self) -> str:
        """Empty until the node has said who it is, and was told what the others saw of it."""

    async def hashes(self, prefix: bytes) -> tuple[bytes, int]:
        """What `get @<prefix>` answers, and the number of the ring that the node is at after that."""

    async def tell_ring(self) -> HeldRing: ...


class Cluster(Protocol):
    """How nodes are come by."""

    def node_at(self, name: str) -> Node:
        """One that a ring names."""

    async def introduce(self, nodes: Sequence[Node]) -> None:
        """Meet nodes, and have each hear what the others saw of it: one that went back says so from then on. Those that
        can't be reached are left for later."""


class Newest(NamedTuple):
    """The newest record of a key that any node listed, and whether those that listed it prove it (`View`). `reads_one`:
    a reader hears one node, so it may be told less than this, proven or not, and be told what is old."""

    record: Listed
    proven: bool
    reads_one: bool = False


class Trees:
    """The trees of all nodes of a cluster, which are `nodes` to begin with; `w` and `r` are its quorums then."""

    def __init__(
        self,
        cluster: Cluster,
        nodes: Sequence[Node],
        w: int,
        r: int,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._cluster = cluster
        self._nodes = tuple(nodes)
        self._view = View(None, w, r)
        self._looking = asyncio.Lock()
        self._monotonic = monotonic
        self._sleep = sleep
        self._left_out_until: dict[str, float] = {}
        self.errors: dict[str, str] = {}
        """What was last wrong with each node that was ever left out, by its name."""

    async def branches(self, prefix: str) -> dict[str, list[Branch]]:
        """The children of a place (0 to 3 hex digits) in each node's tree, by the node's id. Raises `BackupFailed`."""
        return (await self._ask(prefix, read_branches))[0]

    async def records(self, prefix: str) -> dict[bytes, Newest] | None:
        """The newest record of each key below a place (4 to 16 hex digits); None where there are too many for one
        answer. Raises `BackupFailed`."""
        answers, view = await self._ask(prefix, read_listing)
        if any(more for _, more in answers.values()):
            return None
        return merged({node: listing for node, (listing, _) in answers.items()}, view)

    async def _ask(self, prefix: str, read: Callable[[bytes], T]) -> tuple[dict[str, T], View]:
        """What nodes answer, by their ids, and the view under which that is enough."""
        pauses = iter(PAUSES_S)
        while True:
            nodes, view = self._nodes, self._view
            answers, later = await self._ask_once(nodes, view, prefix, read)
            if later:
                if await self._look_again(view, later):
                    continue
            elif len(answers) > len(nodes) - view.w:
                return answers, view
            pause_s = next(pauses, None)
            if pause_s is None:
                raise self._failure(nodes, view, len(answers), later)
            await self._sleep(pause_s)

    def _failure(self, nodes: Sequence[Node], view: View, answered: int, later: Sequence[Node]) -> BackupFailed:
        reasons = "; ".join(f"{name}: {error}" for name, error in self.errors.items())
        if later:
            return BackupFailed(
                f"the ring has changed, and {later[0].name} doesn't tell it ({reasons}); run it again when `sfss ring "
                "show` does, it goes on from there"
            )
        return BackupFailed(
            f"{len(nodes) - answered} of {len(nodes)} nodes don't tell which files they have, and {view.w - 1} at most "
            f"may be missing ({reasons}); see to them and run it again, it goes on from there"
        )

    async def _ask_once(
        self, nodes: Sequence[Node], view: View, prefix: str, read: Callable[[bytes], T]
    ) -> tuple[dict[str, T], list[Node]]:
        """The answers, and who of those that gave one is at a later ring than they are good for."""
        now = self._monotonic()
        asked = [node for node in nodes if self._left_out_until.get(node.name, 0.0) <= now]
        answers, later = await self._ask_each(asked, view, prefix, read)
        if len(answers) <= len(nodes) - view.w:
            rest = [node for node in nodes if node not in asked]
            more, later_too = await self._ask_each(rest, view, prefix, read)
            answers |= more
            later += later_too
        return answers, later

    async def _ask_each(
        self, nodes: Sequence[Node], view: View, prefix: str, read: Callable[[bytes], T]
    ) -> tuple[dict[str, T], list[Node]]:
        if not all(node.id for node in nodes):
            await self._cluster.introduce(self._nodes)
        answers = {}
        later = []
        replies = await asyncio.gather(*(node.hashes(prefix.encode()) for node in nodes), return_exceptions=True)
        for node, reply in zip(nodes, replies, strict=True):
            try:
                if isinstance(reply, BaseException):
                    raise reply
                if not node.id:
                    raise Unreachable("it could not be told what the others saw of it")
                listed, ring = reply
                answers[node.id] = read(listed)
                if ring > view.latest:
                    later.append(node)
                self._left_out_until.pop(node.name, None)
            except (SfssError, ValueError) as error:
                self.errors[node.name] = str(error) or type(error).__name__
                self._left_out_until[node.name] = self._monotonic() + LEFT_OUT_S
        return answers, later

    async def _look_again(self, view: View, later: Sequence[Node]) -> bool:
        """Go over to the ring that nodes are at by now. Whether there is another view than this one."""
        async with self._looking:
            if self._view is not view:
                return True
            for node in later:
                try:
                    held = await node.tell_ring()
                except SfssError as error:
                    self.errors[node.name] = str(error) or type(error).__name__
                    continue
                if held.record is not None and held.number > view.latest:
                    known = {each.id: each for each in self._nodes if each.id}
                    self._view = await asyncio.to_thread(View, held.record)
                    self._nodes = tuple(
                        known.get(member.node) or self._cluster.node_at(member.name) for member in held.record.members
                    )
                    await self._cluster.introduce(self._nodes)
                    return True
        return False


def merged(listings: Mapping[str, Sequence[Listed]], view: View) -> dict[bytes, Newest]:
    """Put together what several nodes, by their ids, list: of each key the newest record, and whether it is proven."""
    newest: dict[bytes, tuple[Listed, list[str]]] = {}
    for node, listing in listings.items():
        for record in listing:
            known = newest.get(record.key)
            if known is None or record.order() > known[0].order():
                newest[record.key] = known = (record, [])
            if record.order() == known[0].order() and not record.damaged:
                known[1].append(node)
    return {
        key: Newest(record, view.is_proven(key, holders), view.reads_one) for key, (record, holders) in newest.items()
    }
