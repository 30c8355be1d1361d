"""How long peers are left alone, and that nothing is kept of those that were replaced."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.peer import Peer
from proxy.rests import Rests, forget_replaced

STORE: Any = object()


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0
        self.peers = [Peer(name, STORE) for name in "ab"]
        self.rests = Rests(1.0, 5.0, lambda: self.seconds)

    def pause_of(self, peer: Peer) -> float:
        """How long until it need not be left alone any more."""
        began = self.seconds
        while not self.rests.is_over(peer):
            self.seconds += 0.5
        return self.seconds - began


def test_each_rest_is_twice_as_long_as_the_last_one_up_to_a_limit() -> None:
    clock = Clock()
    pauses = []

    for _ in range(5):
        clock.rests.rest(clock.peers[0])
        pauses.append(clock.pause_of(clock.peers[0]))

    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert clock.rests.is_over(clock.peers[1])


def test_a_short_rest_and_one_until_a_moment_make_the_next_one_no_longer() -> None:
    clock = Clock()
    peer = clock.peers[0]
    for _ in range(3):
        clock.rests.rest(peer)

    clock.rests.rest_shortly(peer)
    assert clock.pause_of(peer) == 1.0
    clock.rests.rest_until(peer, clock.seconds + 30.0)
    assert clock.pause_of(peer) == 30.0

    clock.rests.rest(peer)
    assert clock.pause_of(peer) == 2.0


@pytest.mark.parametrize("how", ["by name", "by the new ring"])
def test_a_peer_that_is_forgotten_begins_anew(how: str) -> None:
    clock = Clock()
    peer, other = clock.peers
    for one in (peer, peer, other, other):
        clock.rests.rest(one)

    if how == "by name":
        clock.rests.forget(peer)
    else:
        clock.rests.keep([other])

    assert clock.rests.is_over(peer)
    assert clock.pause_of(other) == 2.0
    clock.rests.rest(peer)
    assert clock.pause_of(peer) == 1.0


def test_nothing_is_kept_about_peers_that_were_replaced() -> None:
    peer, other = Clock().peers
    kept = {peer: 1, other: 2}

    forget_replaced(kept, [other])

    assert kept == {other: 2}
