"""What an earlier run knows of the nodes' trees: where nothing has changed since, and nothing need be asked."""

from __future__ import annotations

from collections.abc import Mapping

from sfss.backup.manifest import Manifest
from sfss.hash_tree import LEAF_DIGITS, Branch

_NOTHING = Branch(0, 0)


class Known:
    """The digests that each node had of the leaves which were saved whole, summed up for the places above them. In
    memory they are some MiB at most: a place's leaves go into the sum of three digits, not beside it."""

    def __init__(self, manifest: Manifest, prefix: str = "") -> None:
        """Read them: all, for places of up to three digits, or of the leaves below a place of three digits."""
        self._digests: dict[str, dict[str, Branch]] = {}
        lengths = (LEAF_DIGITS,) if prefix else range(1, LEAF_DIGITS)
        for leaf, node, branch in manifest.seen(prefix):
            for length in lengths:
                nodes = self._digests.setdefault(leaf[:length], {})
                digest, records = nodes.get(node, _NOTHING)
                nodes[node] = Branch(digest ^ branch.digest, records + branch.records)
        self._unseen = {leaf[:length] for leaf in manifest.unseen(prefix) for length in lengths}

    def is_settled(self, place: str, digests: Mapping[str, Branch]) -> bool:
        """Whether each of these nodes (by id) has below the place what it had when all of it was saved. A node that was
        left out then is settled only where it has nothing. Where no node has anything and some did, it isn't: those
        may have left the ring, and their place was taken by nodes that have purged what was deleted since."""
        known = self._digests.get(place, {})
        if known and not any(digest.records for digest in digests.values()):
            return False
        return place not in self._unseen and all(
            known.get(node, _NOTHING) == digest for node, digest in digests.items()
        )
