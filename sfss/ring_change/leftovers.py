"""Copies that a node has no more use for: those of partitions that it doesn't own in the ring, which may be all.

They are found by the node's own hash tree, so that any mover finds what any other one left behind.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator

from sfss.hash_tree import LEAF_DIGITS, PREFIX_DIGITS_MAX
from sfss.keys import hash_key
from sfss.ring import HASH_BITS
from sfss.ring_change.filling import DIGITS, ask_branches, ask_listing
from sfss.ring_change.layout import Layout
from sfss.ring_change.node import Nodes


class Leftovers:
    """Those of one node."""

    def __init__(self, nodes: Nodes, layout: Layout, name: str) -> None:
        """Looks at each partition once: 20 ms for 65,536, so not for an event loop."""
        self._nodes = nodes
        self._layout = layout
        self._name = name
        self._foreign = layout.foreign(name)

    async def partitions(self) -> AsyncGenerator[int, None]:
        """Each partition that the node has something of and doesn't own, in their order. Raises `SfssError`."""
        last = -1
        async for leaf in self._leaves(b""):
            for partition in await self._in_leaf(leaf):
                if partition > last:
                    last = partition
                    yield partition

    async def _leaves(self, prefix: bytes) -> AsyncGenerator[bytes, None]:
        branches = await self._nodes.ask(self._name, lambda node: ask_branches(node, prefix))
        for digit, branch in zip(DIGITS, branches, strict=True):
            below = prefix + digit
            partitions = self._layout.partitions_below(below)
            if not branch.records or self._foreign.find(1, partitions.start, partitions.stop) < 0:
                continue
            if len(below) == LEAF_DIGITS:
                yield below
            else:
                async for leaf in self._leaves(below):
                    yield leaf

    async def _in_leaf(self, prefix: bytes) -> list[int]:
        partitions = self._layout.partitions_below(prefix)
        if len(partitions) == 1:
            return list(partitions)
        listing = await self._nodes.ask(self._name, lambda node: ask_listing(node, prefix))
        if listing.more and len(prefix) < PREFIX_DIGITS_MAX:
            return [partition for digit in DIGITS for partition in await self._in_leaf(prefix + digit)]
        found = {hash_key(key) >> self._layout.shift for key in listing.records}
        return sorted(partition for partition in found if self._foreign[partition])


def places_of(partition: int, shift: int) -> list[bytes]:
    """The places of the hash tree that make up a partition, or the leaf that it is a part of."""
    digits = min(LEAF_DIGITS, math.ceil((HASH_BITS - shift) / 4))
    place_shift = HASH_BITS - 4 * digits
    first = (partition << shift) >> place_shift
    last = (((partition + 1) << shift) - 1) >> place_shift
    return [b"%0*x" % (digits, place) for place in range(first, last + 1)]
