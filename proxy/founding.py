"""Founding a cluster: its nodes are given one id and one ring, once, when all of them are up.

The first node (in the ring's order) is asked to make up the cluster's id, which it does for exactly one coordinator;
the others are bound to that id. Where the nodes belong to a cluster already they are only looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from proxy.asking import who_is
from proxy.peer import Peer
from proxy.roll import Roll
from sfss.errors import SetupError, SfssError, Unavailable, WrongCluster
from sfss.store import Identity

_RETRY_S = 0.2

_log = logging.getLogger("sfss.proxy.cluster")


class Founding:
    """Finds the cluster that `peers` belong to, or makes them one, within `founding_s`; each has `answer_s` to say who
    it is."""

    def __init__(self, roll: Roll, peers: Sequence[Peer], founding_s: float, answer_s: float) -> None:
        self._roll = roll
        self._remembered = bool(roll.cluster)
        self._peers = peers
        self._founding_s = founding_s
        self._answer_s = answer_s
        self._wiped = ""
        """That nobody who answered belongs to the cluster that is remembered. The others may."""
        self.ahead: dict[Peer, int] = {}
        """Who is at a later ring, the latest first: then that one is to be gone by, and nothing was settled."""

    async def run(self) -> list[Identity | SfssError]:
        """Return once the cluster is founded and whoever answers was checked: who each node is, or why it can't be
        used. Raises `SetupError`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._founding_s
        trouble = ""
        holds_files = False
        while True:
            # Files are looked for before memberships: files exist only once all nodes are bound (and none is bound that
            # had some before), so a node that is seen unbound after files were seen has lost its own.
            holds_files = holds_files or any(
                isinstance(answer, Identity) and answer.cluster and answer.position for answer in await self._ask_all()
            )
            answers = await self._ask_all()
            try:
                if await self._settle(answers, holds_files):
                    if not self.ahead:
                        self._roll.complete()
                    return answers
            except WrongCluster as error:
                raise SetupError(str(error)) from None
            except SfssError as error:
                away, reasons = 0, str(error)
            else:
                errors = self._errors(answers)
                away, reasons = len(errors), "; ".join([*filter(None, [self._wiped]), *errors])
            if loop.time() >= until:
                count = len(self._peers)
                if self._wiped:
                    raise SetupError(
                        f"{reasons}; start the {away} others of {count} nodes, correct their addresses, or use another "
                        "state directory for a new cluster"
                    )
                raise SetupError(
                    f"{count - away} of {count} nodes answer, and a new cluster is founded with all of them "
                    f"({reasons}); start the others, or correct their addresses"
                )
            if reasons != trouble:
                trouble = reasons
                _log.info("waiting for nodes: %s", reasons)
            await asyncio.sleep(_RETRY_S)

    async def _settle(self, answers: list[Identity | SfssError], holds_files: bool) -> bool:
        """Bring what was heard to a founded cluster, or say that it takes another try. Nodes that can't be used become
        errors in `answers`."""
        roll = self._roll
        self._wiped = ""
        met = [(index, answer) for index, answer in enumerate(answers) if isinstance(answer, Identity)]
        self._refuse_twins(met)
        bound = [(index, identity) for index, identity in met if identity.cluster]
        unbound = [index for index, identity in met if not identity.cluster]
        if bound:
            roll.cluster = roll.cluster or bound[0][1].cluster
            self.ahead = roll.ahead(zip(self._peers, answers, strict=True))
            if self.ahead:
                return True
        founded = self._remembered or holds_files or roll.record is not None
        if not (founded and roll.cluster) and len(met) < len(self._peers):
            return False
        for index, identity in bound:
            roll.examine(self._peers[index], identity)
        if founded and unbound and not bound:
            known = f"cluster {roll.cluster}" if roll.cluster else "a cluster with files"
            self._wiped = f"{known} is remembered, but {self._peers[unbound[0]].name} belongs to none"
            if len(met) < len(self._peers):
                return False
            raise WrongCluster(
                f"{self._wiped}: the nodes were wiped or replaced; use another state directory for a new cluster"
            )
        if founded:
            for index, identity in met:
                if not identity.cluster:
                    answers[index] = roll.lost(self._peers[index], identity)
            return True
        if not bound:
            roll.refuse_shared_machines()
        self._refuse_used([(index, identity) for index, identity in met if not identity.cluster])
        for index, _ in met:
            # The bound ones too: another coordinator's binding may still be on its way to the disk, and is waited for.
            answers[index] = await roll.bind(self._peers[index])
        return True

    def _refuse_used(self, unbound: Sequence[tuple[int, Identity]]) -> None:
        """A node that has had files, be they deleted since, would be taken for one of a cluster that has been in use,
        and those beside it that aren't bound yet for wiped ones."""
        for index, identity in unbound:
            if identity.position:
                raise WrongCluster(
                    f"node {self._peers[index].name} has had files of no cluster; give it an empty data directory"
                )

    def _refuse_twins(self, met: Sequence[tuple[int, Identity]]) -> None:
        names: dict[str, str] = {}
        for index, identity in met:
            peer = self._peers[index]
            if identity.node in names:
                raise WrongCluster(
                    f"{names[identity.node]} and {peer.name} are one and the same node ({identity.node}); "
                    "name each node once"
                )
            names[identity.node] = peer.name

    async def _ask_all(self) -> list[Identity | SfssError]:
        return await asyncio.gather(*(who_is(peer, self._answer_s) for peer in self._peers))

    def _errors(self, answers: Sequence[Identity | SfssError]) -> list[str]:
        # Errors of what a node is name it already.
        return [
            f"{peer.name}: {answer}" if isinstance(answer, Unavailable) else str(answer)
            for peer, answer in zip(self._peers, answers, strict=True)
            if not isinstance(answer, Identity)
        ]
