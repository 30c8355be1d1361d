"""What a coordinator keeps about its peers while they are members: whom to leave alone until when, and that nothing is
kept of those that the ring names no more."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from proxy.peer import Peer


class Rests:
    """Peers that are left alone for a while, for twice as long each time. All times are monotonic seconds."""

    def __init__(self, first_s: float, longest_s: float, monotonic: Callable[[], float]) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._monotonic = monotonic
        self._rests: dict[Peer, tuple[float, float]] = {}
        """How long each one was left alone the last time, and until when."""

    def is_over(self, peer: Peer) -> bool:
        """Whether a peer need not be left alone any more."""
        return self._monotonic() >= self._rests.get(peer, (0.0, 0.0))[1]

    def rest(self, peer: Peer) -> None:
        """Leave a peer alone for twice as long as the last time."""
        before_s, _ = self._rests.get(peer, (0.0, 0.0))
        self._begin(peer, min(2 * before_s, self._longest_s) or self._first_s)

    def rest_shortly(self, peer: Peer) -> None:
        """Leave a peer alone for as long as the first time."""
        self._begin(peer, self._first_s)

    def rest_until(self, peer: Peer, until: float) -> None:
        """Leave a peer alone until then, which makes the next time no longer."""
        before_s, _ = self._rests.get(peer, (0.0, 0.0))
        self._rests[peer] = before_s, until

    def forget(self, peer: Peer) -> None:
        """Begin anew with a peer."""
        self._rests.pop(peer, None)

    def keep(self, peers: Collection[Peer]) -> None:
        """Forget all others."""
        forget_replaced(self._rests, peers)

    def _begin(self, peer: Peer, rest_s: float) -> None:
        self._rests[peer] = rest_s, self._monotonic() + rest_s


def forget_replaced(by_peer: dict[Peer, Any], peers: Collection[Peer]) -> None:
    """Drop what is kept about peers that aren't among the members of the ring any more."""
    for peer in by_peer.keys() - set(peers):
        del by_peer[peer]
