"""One question to one node, for work in the background: with a deadline, and its health told what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from proxy.peer import NodeAccess, Peer
from sfss.errors import Expired, SfssError, StaleRing, Unreachable
from sfss.store import Call, Identity, Reply, settled

if TYPE_CHECKING:
    from proxy.coordinator import Coordinator

T = TypeVar("T")


async def ask(
    coordinator: Coordinator,
    peer: Peer,
    question: Callable[[NodeAccess, Call], Reply[T]],
    *,
    ring: int | None = None,
    within_s: float | None = None,
    suspect_too: bool = False,
) -> T:
    """Put a question to a node, which has `within_s` for it, by default as long as for a client's request. `ring` is
    the number of the ring that says whom to ask, by default the one in use. `suspect_too`: a suspect node answers it as
    well, so that an answer doesn't say that it is none. Raises `SfssError`."""
    asked_at = coordinator.monotonic()
    within = coordinator.options.deadline_s if within_s is None else within_s
    call = Call(asked_at + within, coordinator.placed.number if ring is None else ring)
    try:
        answer = await asyncio.wait_for(settled(question(peer.replica, call)), within)
    except TimeoutError:
        coordinator.health.silent(peer, asked_at)
        raise Expired(f"no answer in {within} s") from None
    except SfssError as error:
        if isinstance(error, StaleRing) and coordinator.rings is not None:
            coordinator.rings.heard(peer, error.ring)
        coordinator.health.failed(peer, error, asked_at)
        raise
    if (peer.silences or peer.down or peer.suspect) and not suspect_too:
        coordinator.health.answered(peer, asked_at)
    return answer


async def meet(coordinator: Coordinator, peer: Peer) -> Identity | None:
    """Ask a node who it is, and have its health told what came of it. None where it doesn't say so."""
    try:
        identity = await ask(coordinator, peer, lambda replica, _: replica.identify(), suspect_too=True)
    except SfssError:
        return None  # its health was told
    coordinator.health.met(peer, identity)
    return identity


async def who_is(peer: Peer, within_s: float) -> Identity | SfssError:
    """Who a node is, or why it doesn't say so; where no coordinator has a health to be told yet."""
    try:
        return await asyncio.wait_for(settled(peer.replica.identify()), within_s)
    except TimeoutError:
        return Unreachable(f"no answer in {within_s} s")
    except SfssError as error:
        return error
