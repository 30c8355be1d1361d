"""Nodes that die and come back, and the connections to them, over a bad network."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from sfss.errors import Busy, ConnectionLost, CorruptRecord, Outcome, SfssError, Unreachable
from sfss.promise import Promise, new_promise
from sfss.store import NO_CALL, Applied, Call, Identity, Seen
from tests.unit.simulated_cluster import SimulatedNode, Weather
from tests.unit.tree_store import ForgetfulStore


class Machine:
    """A node's process, and its place in the network. `life` counts what no connection outlives."""

    def __init__(self, store: ForgetfulStore) -> None:
        self.store = store
        self.life = 1
        self.up = True
        self.cut_off_until = 0.0
        self.asked: Callable[[str], None] = lambda kind: None
        """Called with the kind of each request that comes."""

    def kill(self) -> None:
        """What is on its way to it, or asked and not answered, is lost with it."""
        self.life += 1
        self.up = False

    @property
    def suspect(self) -> bool:
        return self.store.suspect

    def holds(self, key: bytes, version: int) -> bool:
        """Whether it has that version of a key, or a newer one."""
        record = self.store.records.get(key)
        return record is not None and record.version >= version


class _Request:
    """A question on its way. `again`: it was sent to an earlier life of the node, which may have carried it out."""

    def __init__(self, kind: str, args: tuple[Any, ...]) -> None:
        self.kind = kind
        self.args = args
        self.again = False
        self.promise: Promise[Any] = new_promise()

    def answer(self, answer: Any) -> None:
        if self.again and isinstance(answer, Applied) and not answer.accepted:
            # What is newer now may have taken the place of what was stored then.
            self.fail(ConnectionLost("simulated"))
        elif not self.promise.done():
            self.promise.set_result(answer)

    def fail(self, error: SfssError) -> None:
        if not self.promise.done():
            if self.again:
                error.outcome = Outcome.UNKNOWN
            self.promise.set_exception(error)


class Link(SimulatedNode):
    """A node that may die, behind the network of one coordinator. `greet` hears who it says it is, before anything is
    sent on a new connection."""

    def __init__(self, machine: Machine, weather: Weather, rng: random.Random, cut_off: Callable[[], bool]) -> None:
        super().__init__(machine.store, weather, rng, cut_off)
        self._machine = machine
        self._connected_to = machine.life
        self.greet: Callable[[Identity], None] = lambda identity: None

    def clear_up(self, weather: Weather) -> None:
        self._weather = weather

    def hashes(self, prefix: bytes, call: Call = NO_CALL) -> Any:
        return self._send("hashes", prefix)

    def hashes_held(self, prefix: bytes, call: Call = NO_CALL) -> Any:
        return self._send("hashes_held", prefix)

    def trust(self, epoch: int) -> Any:
        return self._send("trust", epoch)

    def recall(self, seen: Seen) -> Any:
        return self._send("recall", seen)

    def adopt(self, cluster: str, ring: int, fingerprint: str, node: str) -> Any:
        raise AssertionError("no node loses its directory")

    # the way there, and back

    def _send(self, kind: str, *args: Any) -> Promise[Any]:
        request = _Request(kind, args)
        if self._rng.random() < self._weather.refused:
            raise self._rng.choice([Busy("simulated"), Unreachable("simulated")])
        if self._rng.random() >= self._weather.lost:
            self._begin(request)
        elif self._rng.random() < 0.5:
            self._later(request.fail, ConnectionLost("simulated", Outcome.UNKNOWN))
        return request.promise

    def _begin(self, request: _Request) -> None:
        life = self._machine.life
        if not self._machine.up:
            self._later(request.fail, Unreachable("simulated"))
        elif self._connected_to == life:
            self._later(self._come, request, life)
        else:
            self._later(self._connect, request, life)

    def _connect(self, request: _Request, life: int) -> None:
        if not self._cut_off():
            self._later(self._connected, self._machine.store.identify(), request, life)

    def _connected(self, identity: Identity, request: _Request, life: int) -> None:
        if life == self._machine.life and self._connected_to != life:
            self._connected_to = life
            self.greet(identity)
        if not request.promise.done():
            self._begin(request)

    def _come(self, request: _Request, life: int) -> None:
        if self._cut_off():
            return
        self._machine.asked(request.kind)
        if life != self._machine.life:
            self._lose(request)
            return
        try:
            if request.kind == "read" and self._rng.random() < self._weather.corrupt:
                raise CorruptRecord("simulated")
            answer = getattr(self._machine.store, request.kind)(*request.args)
        except SfssError as error:
            self._later(request.fail, error)
            return
        if self._rng.random() < self._weather.lost:
            self._later(request.fail, ConnectionLost("simulated", Outcome.UNKNOWN))
        else:
            self._later(self._answer, request, answer, life)

    def _answer(self, request: _Request, answer: Any, life: int) -> None:
        """The answer of a node that was killed since may have come out before."""
        if life == self._machine.life or self._rng.random() < 0.5:
            request.answer(answer)
        else:
            self._lose(request)

    def _lose(self, request: _Request) -> None:
        """The node was killed meanwhile. What is safe to be done twice goes once to a new connection."""
        if request.again or request.promise.done() or self._rng.random() < 0.5:
            request.fail(ConnectionLost("simulated", Outcome.UNKNOWN))
        else:
            request.again = True
            self._begin(request)

    def _later(self, then: Callable[..., None], *args: Any) -> None:
        asyncio.get_running_loop().call_later(self._delay(), then, *args)
