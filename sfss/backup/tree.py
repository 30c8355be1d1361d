"""Which files a cluster has, as its nodes tell it: their hash trees, asked side by side and put together.

An acknowledged write is on W nodes, so of N − W + 1 owners of a key at least one knows it. As long as no more than
W − 1 of all nodes are left out, that many owners of every key have answered, wherever it is placed. A node counts as
left out when it can't be reached, says that it has lost data, or doesn't belong to the cluster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from sfss.addresses import host_and_port
from sfss.backup.errors import BackupFailed
from sfss.errors import SetupError, SfssError, WrongCluster
from sfss.hash_tree import Branch, Listed, read_branches, read_listing
from sfss.memcache.access import OPEN, Access
from sfss.memcache.client import MemcacheClient
from sfss.store import Call, Identity

T = TypeVar("T")

ANSWER_S = 5.0
"""How long a node may take for a part of its tree."""

LEFT_OUT_S = 30.0
"""A node that failed isn't asked for so long, unless too few others answer."""

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""How long to wait before too few answers are asked for again."""


class Node(Protocol):
    """One node's tree. `id` is empty until the node has said who it is."""

    name: str
    id: str

    async def hashes(self, prefix: bytes) -> bytes:
        """What `get @<prefix>` answers."""


class WireNode:
    """A node over the network. On each new connection it must be who it was, of the cluster that is backed up."""

    def __init__(self, host: str, port: int, access: Access = OPEN) -> None:
        self.name = host_and_port(host, port)
        self.id = ""
        self.cluster = ""
        self._expected = ""
        self._client = MemcacheClient(host, port, access=access, greet=self._greet)

    def expect(self, cluster: str) -> None:
        """Use the node only if it belongs to this cluster."""
        self._expected = cluster

    async def meet(self) -> None:
        """Find out who it is. Raises `SfssError`."""
        await self._client.connect()

    async def close(self) -> None:
        await self._client.close()

    async def hashes(self, prefix: bytes) -> bytes:
        if self.id:
            self._check(self.id, self.cluster)
        return await self._client.hashes(prefix, Call(time.monotonic() + ANSWER_S))

    def _greet(self, _: MemcacheClient, identity: Identity) -> None:
        self._check(identity.node, identity.cluster)
        self.id, self.cluster = identity.node, identity.cluster

    def _check(self, node: str, cluster: str) -> None:
        if not cluster:
            raise WrongCluster(f"{self.name} belongs to no cluster")
        if cluster != (self._expected or cluster):
            raise WrongCluster(f"{self.name} belongs to cluster {cluster}, not to {self._expected}")
        if self.id and node != self.id:
            raise WrongCluster(f"at {self.name} there was node {self.id} and now is {node}")


async def meet(nodes: Sequence[WireNode]) -> str:
    """Ask nodes who they are; returns the cluster that they belong to. Those that don't answer are met later. Raises
    `SetupError` when nobody answers, or when they belong to two clusters."""
    answers = await asyncio.gather(*(node.meet() for node in nodes), return_exceptions=True)
    clusters = {node.cluster: node.name for node in nodes if node.cluster}
    if not clusters:
        reasons = "; ".join(f"{node.name}: {answer}" for node, answer in zip(nodes, answers, strict=True))
        raise SetupError(
            f"no node can be reached by the name that the proxies have for it ({reasons}); run this on a machine that "
            "reaches them"
        )
    if len(clusters) > 1:
        raise SetupError(f"the nodes belong to two clusters: {clusters}")
    cluster = next(iter(clusters))
    for node in nodes:
        node.expect(cluster)
    return cluster


class Newest(NamedTuple):
    """The newest record of a key that any node listed, and how many nodes listed exactly that one."""

    record: Listed
    holders: int


class Trees:
    """The trees of all nodes of a cluster; `w` is its write quorum."""

    def __init__(
        self,
        nodes: Sequence[Node],
        w: int,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.w = w
        self._nodes = nodes
        self._monotonic = monotonic
        self._sleep = sleep
        self._left_out_until: dict[str, float] = {}
        self.errors: dict[str, str] = {}
        """What was last wrong with each node that was ever left out, by its name."""

    async def branches(self, prefix: str) -> dict[str, list[Branch]]:
        """The children of a place (0 to 3 hex digits) in each node's tree, by the node's id. Raises `BackupFailed`."""
        return await self._ask(prefix, read_branches)

    async def records(self, prefix: str) -> dict[bytes, Newest] | None:
        """The newest record of each key below a place (4 to 16 hex digits); None where there are too many for one
        answer. Raises `BackupFailed`."""
        answers = await self._ask(prefix, read_listing)
        if any(more for _, more in answers.values()):
            return None
        return merged(listing for listing, _ in answers.values())

    async def _ask(self, prefix: str, read: Callable[[bytes], T]) -> dict[str, T]:
        for pause_s in (*PAUSES_S, None):
            answers = await self._ask_once(prefix, read)
            if len(answers) > len(self._nodes) - self.w:
                return answers
            if pause_s is not None:
                await self._sleep(pause_s)
        away = len(self._nodes) - len(answers)
        reasons = "; ".join(f"{name}: {error}" for name, error in self.errors.items())
        raise BackupFailed(
            f"{away} of {len(self._nodes)} nodes don't tell which files they have, and {self.w - 1} at most may be "
            f"missing ({reasons}); see to them and run it again, it goes on from there"
        )

    async def _ask_once(self, prefix: str, read: Callable[[bytes], T]) -> dict[str, T]:
        now = self._monotonic()
        asked = [node for node in self._nodes if self._left_out_until.get(node.name, 0.0) <= now]
        answers = await self._ask_each(asked, prefix, read)
        if len(answers) <= len(self._nodes) - self.w:
            answers |= await self._ask_each([node for node in self._nodes if node not in asked], prefix, read)
        return answers

    async def _ask_each(self, nodes: Sequence[Node], prefix: str, read: Callable[[bytes], T]) -> dict[str, T]:
        answers = {}
        replies = await asyncio.gather(*(node.hashes(prefix.encode()) for node in nodes), return_exceptions=True)
        for node, reply in zip(nodes, replies, strict=True):
            try:
                if isinstance(reply, BaseException):
                    raise reply
                answers[node.id] = read(reply)
                self._left_out_until.pop(node.name, None)
            except (SfssError, ValueError) as error:
                self.errors[node.name] = str(error) or type(error).__name__
                self._left_out_until[node.name] = self._monotonic() + LEFT_OUT_S
        return answers


def merged(listings: Iterable[Sequence[Listed]]) -> dict[bytes, Newest]:
    """Put together what several nodes list: of each key the newest record, and how many have that one."""
    newest: dict[bytes, Newest] = {}
    for listing in listings:
        for record in listing:
            known = newest.get(record.key)
            if known is None or record.order() > known.record.order():
                newest[record.key] = Newest(record, int(not record.damaged))
            elif record.order() == known.record.order():
                newest[record.key] = Newest(known.record, known.holders + (not record.damaged))
    return newest
