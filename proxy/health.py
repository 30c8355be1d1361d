"""Which nodes to leave alone for a while, and when to look again.

A node that can't be reached or drops its connection is down at once; one that falls silent, after `SILENCES_MAX`
requests in a row. A node that is down, or says that it is suspect, is asked who it is, first soon, then ever less often
up to `probe_s_max`, each time jittered so that coordinators don't knock together; the first good answer ends it.
Whether a down node is skipped is decided where the quorum is known: never if that would make one impossible.

One that answers, and is soon silent again, as with a disk that hangs, is left alone for twice as long each time,
whatever it answers meanwhile. The log then tells no more of it until it has been up for a while.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from functools import partial

from proxy.peer import Peer
from sfss.errors import (
    ConnectionLost,
    Expired,
    Outcome,
    Recovering,
    RemoteError,
    SfssError,
    StaleRing,
    Unreachable,
    WrongCluster,
)
from sfss.promise import Promise
from sfss.store import Identity

SILENCES_MAX = 3

CALM_S = 10.0
"""A node that is silent again sooner than this after it came back is left alone for longer, up to as long as this."""

_SUSPECT = "recovering: it may have forgotten acknowledged writes"

_log = logging.getLogger("sfss.proxy.health")


def _accept_anyone(peer: Peer, identity: Identity) -> None:
    """What is examined where nobody minds who a node is."""


class Health:
    """Watches the peers of one coordinator. `examine` is called with what a node says it is, and raises
    `WrongCluster` for one that must not be used."""

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        probe_s_min: float = 0.05,
        probe_s_max: float = 1.0,
        rng: random.Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        examine: Callable[[Peer, Identity], None] = _accept_anyone,
    ) -> None:
        self._peers = peers
        self._probe_s_min = probe_s_min
        self._probe_s_max = probe_s_max
        self._rng = rng or random.Random()
        self._monotonic = monotonic
        self._examine = examine
        self._probes: dict[Peer, asyncio.TimerHandle | Promise[Identity]] = {}
        self._calming: dict[Peer, asyncio.TimerHandle] = {}
        """Those that are up and said to be down, until they have been up for `CALM_S`."""
        self._closed = False
        self.well = True
        """Whether no node is down or suspect: then there is nothing to decide on any request."""

    def watch(self, peers: Sequence[Peer]) -> None:
        """The ring has other members from now on."""
        for waiting in (self._probes, self._calming):
            for peer in set(waiting) - set(peers):
                waiting.pop(peer).cancel()
        self._peers = peers
        self._reckon()

    def close(self) -> None:
        """Stop looking."""
        self._closed = True
        for waiting in (*self._probes.values(), *self._calming.values()):
            waiting.cancel()
        self._probes.clear()
        self._calming.clear()

    # what the requests observe

    def answered(self, peer: Peer, asked_at: float) -> None:
        """A peer that had failed, been silent or suspect gave a good answer to what was asked of it at `asked_at`
        (monotonic seconds) or later. A suspect node gives none, to reads and writes alike."""
        peer.silences = 0
        if peer.down and self._monotonic() >= peer.rests_until:
            self._up(peer)
        if peer.suspect and asked_at > peer.suspect_at:
            self._trust(peer)

    def failed(self, peer: Peer, error: Exception, asked_at: float = math.inf) -> None:
        """A request that was made to a peer at `asked_at` (monotonic seconds) or later ended in an error."""
        if isinstance(error, StaleRing):
            return  # the node is well; the ring has changed
        if isinstance(error, Unreachable | ConnectionLost):
            peer.failures += 1
            self._down(peer, f"{error}" or "connection lost")
        elif isinstance(error, WrongCluster):
            peer.failures += 1
            self._down(peer, str(error))
        elif isinstance(error, Recovering):
            self._suspect(peer)
        elif isinstance(error, RemoteError) or (isinstance(error, Expired) and error.outcome is Outcome.UNKNOWN):
            self.silent(peer, asked_at)

    def silent(self, peer: Peer, asked_at: float = math.inf) -> None:
        """What a peer was asked at `asked_at` or later got no answer in time."""
        peer.failures += 1
        if asked_at < peer.up_at:
            return  # it has come back since
        peer.silences += 1
        if peer.silences >= SILENCES_MAX:
            self._down(peer, f"no answer to {peer.silences} requests in a row", silent=True)

    def met(self, peer: Peer, answer: Identity | SfssError) -> None:
        """Who a peer said it is when it was asked for that, or why it can't be used. One that must not be is down."""
        try:
            if isinstance(answer, SfssError):
                self.failed(peer, answer)
            else:
                self.identified(peer, answer)
        except WrongCluster as error:
            self.failed(peer, error)

    def identified(self, peer: Peer, identity: Identity) -> None:
        """A peer said who it is: on a new connection, or asked by a probe. Raises `WrongCluster` if it must not be
        used."""
        self._examine(peer, identity)
        if identity.state == "ok":
            if peer.suspect:
                self._trust(peer)
        else:
            self._suspect(peer)

    def explain(self, peer: Peer, why: str) -> None:
        """Why a suspect peer stays one."""
        if peer.suspect and not peer.down:
            peer.error = f"recovering: {why}"

    # transitions

    def _down(self, peer: Peer, error: str, *, silent: bool = False) -> None:
        peer.error = error
        if peer.down:
            return
        peer.down = True
        self._reckon()
        calming = self._calming.pop(peer, None)
        if calming is not None:
            calming.cancel()
        now = self._monotonic()
        if silent and now < peer.up_at + CALM_S:
            peer.rest_s = min(peer.rest_s * 2, CALM_S)
            peer.rests_until = now + peer.rest_s
            told = "node %s is down again: %s; it will be said to be up once it has stayed so for a while"
        else:
            peer.rest_s = self._probe_s_min
            told = "node %s is down: %s"
        if calming is None:
            _log.warning(told, peer.name, error)
        self._probe_after(peer, peer.rest_s)

    def _up(self, peer: Peer) -> None:
        peer.down = False
        peer.silences = 0
        peer.error = _SUSPECT if peer.suspect else ""
        peer.up_at = self._monotonic()
        self._reckon()
        if peer.rest_s <= self._probe_s_min:
            _log.info("node %s is up", peer.name)
        elif not self._closed:
            self._calming[peer] = asyncio.get_running_loop().call_later(CALM_S, self._calm, peer)

    def _calm(self, peer: Peer) -> None:
        del self._calming[peer]
        _log.info("node %s is up, and has been for %g s", peer.name, CALM_S)

    def _trust(self, peer: Peer) -> None:
        peer.suspect = False
        if not peer.down:
            peer.error = ""
        self._reckon()
        _log.info("node %s is trusted again", peer.name)

    def _suspect(self, peer: Peer) -> None:
        peer.suspect_at = self._monotonic()
        if not peer.suspect:
            peer.suspect = True
            peer.error = _SUSPECT
            self._reckon()
            _log.warning("node %s is %s", peer.name, _SUSPECT)
            self._probe_after(peer, self._probe_s_min)

    def _reckon(self) -> None:
        self.well = not any(peer.down or peer.suspect for peer in self._peers)

    # probes

    def _probe_after(self, peer: Peer, delay_s: float) -> None:
        if peer in self._peers and peer not in self._probes and not self._closed:
            jittered = delay_s * (0.5 + self._rng.random())
            loop = asyncio.get_running_loop()
            self._probes[peer] = loop.call_later(jittered, self._probe, peer, delay_s)

    def _probe(self, peer: Peer, delay_s: float) -> None:
        del self._probes[peer]
        if not (peer.down or peer.suspect):
            return
        next_s = min(delay_s * 2, self._probe_s_max)
        try:
            reply = peer.replica.identify()
        except Exception as error:
            self._not_identified(peer, error, next_s)
            return
        if isinstance(reply, Promise):
            self._probes[peer] = reply
            reply.add_done_callback(partial(self._probed, peer, next_s))
        else:
            self._found(peer, reply, next_s)

    def _probed(self, peer: Peer, next_s: float, reply: Promise[Identity]) -> None:
        if self._probes.get(peer) is reply:
            del self._probes[peer]
        if reply.cancelled():
            self._probe_after(peer, next_s)
        elif error := reply.exception():
            self._not_identified(peer, error, next_s)
        else:
            self._found(peer, reply.result(), next_s)

    def _found(self, peer: Peer, identity: Identity, next_s: float) -> None:
        try:
            self.identified(peer, identity)
        except WrongCluster as error:
            self._not_identified(peer, error, next_s)
            return
        if peer.down and self._monotonic() >= peer.rests_until:
            self._up(peer)
        if peer.down or peer.suspect:
            self._probe_after(peer, next_s)

    def _not_identified(self, peer: Peer, error: BaseException, next_s: float) -> None:
        peer.error = str(error) or type(error).__name__
        self._probe_after(peer, next_s)
