"""`sfss ring plan`: what a change of the nodes would move, told before anything is changed.

The ring is worked out from a proxy's configuration file; the nodes that answer tell how much they hold. Without them
the plan is the same, in partitions only.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from proxy.cluster import ClusterConfig, NodeAddress
from proxy.configuration import load_configuration
from proxy.quorum import Quorum
from sfss.errors import SetupError, SfssError
from sfss.log import set_up_logging
from sfss.memcache.access import Access
from sfss.memcache.client import MemcacheClient
from sfss.process import check_packages, run, unless_stopped
from sfss.ring import WEIGHT_MAX, Member, NodeRing
from sfss.ring_plan import Change, NodePlan, Plan, next_ring
from sfss.settings import parse_address
from sfss.store import Call

T = TypeVar("T")

_ANSWER_S = 2.0
_ID = re.compile(r"[0-9a-f]{8,32}").fullmatch


@dataclass(frozen=True, slots=True)
class Holding:
    """What a node says of itself. `error` is why it doesn't; then all else is empty."""

    node: str = ""
    ring: int = 0
    fingerprint: str = ""
    files: int = 0
    live_bytes: int = 0
    free_bytes: int = 0
    error: str = ""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def ring() -> None:
    """Look at the ring, which says what node keeps what, and at what a change of it would move."""


@ring.command()
@click.option("--conf", type=click.Path(path_type=Path), required=True, metavar="FILE", help="A proxy's configuration.")
@click.option("--add", multiple=True, metavar="NODE", help="A node that comes.")
@click.option("--remove", multiple=True, metavar="NODE", help="A node that goes.")
@click.option("--replace", multiple=True, metavar="OLD=NEW", help="A node that comes in another one's place.")
@click.option("--weight", multiple=True, metavar="NODE=N", help="A node's share beside the others.")
@click.option("--zone", multiple=True, metavar="NODE=ZONE", help="What a node may fail together with.")
@click.option("--offline", is_flag=True, help="Ask no node; then bytes are not known.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def plan(**options: Any) -> None:
    """Show what a change would move. Nothing is changed.

    NODE is host:port, or eight digits or more of a node's id. Options may be given more than once and together;
    without any, the ring is shown as it is.

    Exit status: 0 the ring is sound, 1 there are warnings, 2 it can't be made.
    """
    set_up_logging("ring", "warning")
    status = 2

    async def main(stop: asyncio.Event) -> None:
        nonlocal status
        check_packages()
        found = await unless_stopped(_plan(**options), stop)
        status = status if found is None else found

    refused = run("sfss ring", main)
    sys.exit(refused or status)


async def _plan(
    *,
    conf: Path,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    replace: tuple[str, ...],
    weight: tuple[str, ...],
    zone: tuple[str, ...],
    offline: bool,
    as_json: bool,
) -> int:
    loaded = load_configuration(conf)
    cluster = loaded.cluster
    access = loaded.nodes.access()
    holdings = {} if offline else await _ask_all(cluster.addresses, access)
    now, quorum = _ring_of(cluster, max((holding.ring for holding in holdings.values()), default=0) or 1)
    _check_bound(now, holdings, conf)

    def name(text: str) -> str:
        return _name(text, {holding.node: known for known, holding in holdings.items() if holding.node})

    change = Change(
        tuple(map(name, add)),
        tuple(map(name, remove)),
        _pairs("--replace", replace, name, name),
        _pairs("--weight", weight, name, _weight),
        _pairs("--zone", zone, name, str),
    )
    after = next_ring(now, change, lambda nodes: _quorum(cluster, nodes).n)
    planned = Plan(now, after)
    if not offline:
        holdings |= await _ask_all([_address(new) for new in (*change.add, *change.replace.values())], access)
    view = _View(planned, holdings, quorum, _quorum(cluster, len(after.members)))
    click.echo(json.dumps(view.document(), indent=2) if as_json else view.text())
    return 1 if view.warnings else 0


def _quorum(cluster: ClusterConfig, nodes: int) -> Quorum:
    return Quorum.over(nodes, cluster.n, cluster.w, cluster.r)


def _ring_of(cluster: ClusterConfig, number: int) -> tuple[NodeRing, Quorum]:
    quorum = _quorum(cluster, len(cluster.addresses))
    members = [Member(address.ring_name, address.zone, address.weight) for address in cluster.addresses]
    return NodeRing(members, quorum.n, partitions=cluster.partitions, number=number), quorum


def _check_bound(now: NodeRing, holdings: dict[str, Holding], conf: Path) -> None:
    for name, holding in holdings.items():
        if holding.fingerprint and holding.fingerprint != now.fingerprint:
            raise SetupError(
                f"node {name} was bound to another ring ({holding.fingerprint[:8]}, not {now.fingerprint[:8]}): nodes, "
                f"zones, weights, N or partitions in {conf} differ from those of the existing files"
            )


def _name(text: str, names: dict[str, str]) -> str:
    """A node as the ring names it. `names` has those whose ids are known."""
    if _ID(text):
        found = [name for node, name in names.items() if node.startswith(text)]
        if len(found) == 1:
            return found[0]
        raise SetupError(f"{len(found)} nodes that answer have an id that begins with {text}")
    return _address(text).ring_name


def _address(text: str) -> NodeAddress:
    try:
        address = parse_address(text)
    except ValueError as error:
        raise SetupError(f"a node is named by host:port or its id: {error}") from None
    return NodeAddress(address.host, address.port)


def _pairs(option: str, texts: tuple[str, ...], name: Callable[[str], str], read: Callable[[str], T]) -> dict[str, T]:
    pairs: dict[str, T] = {}
    for text in texts:
        node, equals, value = text.partition("=")
        if not (node and equals and value.strip()):
            raise SetupError(f"{option} {text}: it takes two things with = between them")
        node = name(node)
        if node in pairs:
            raise SetupError(f"{option} is given twice for {node}")
        pairs[node] = read(value.strip())
    return pairs


def _weight(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= WEIGHT_MAX):
        raise SetupError(f"weight {text} is not a whole number between 1 and {WEIGHT_MAX}")
    return int(text)


async def _ask_all(addresses: Sequence[NodeAddress], access: Access) -> dict[str, Holding]:
    answers = await asyncio.gather(*(_ask(address, access) for address in addresses))
    return {address.ring_name: answer for address, answer in zip(addresses, answers, strict=True)}


async def _ask(address: NodeAddress, access: Access) -> Holding:
    client = MemcacheClient(address.host, address.port, access=access)
    try:
        async with asyncio.timeout(_ANSWER_S):
            identity = await client.identify()
            stats = await client.stats("", Call(time.monotonic() + _ANSWER_S))
        return Holding(
            identity.node,
            identity.ring,
            identity.fingerprint,
            int(stats["curr_items"]),
            int(stats["live_bytes"]),
            int(stats["disk_free_bytes"]),
        )
    except TimeoutError:
        return Holding(error=f"no answer in {_ANSWER_S:g} s")
    except (SfssError, KeyError, ValueError) as error:
        return Holding(error=str(error))
    finally:
        await client.close()


class _View:
    """A plan as it is told. Files and bytes are what copies of partitions hold on average over the nodes that answered:
    hashes spread files evenly, and their sizes nearly so."""

    def __init__(self, planned: Plan, holdings: dict[str, Holding], before: Quorum, after: Quorum) -> None:
        self._plan = planned
        self._holdings = holdings
        self._quorums = (before, after)
        answered = [node for node in planned.nodes if node.before and self._answers(node)]
        copies = sum(node.before for node in answered)
        self._files = self._average([holdings[node.name].files for node in answered], copies)
        self._bytes = self._average([holdings[node.name].live_bytes for node in answered], copies)
        self.warnings = [*planned.warnings, *self._of_nodes()]

    def _average(self, held: list[int], copies: int) -> float | None:
        return sum(held) / copies if copies else None

    def _answers(self, node: NodePlan) -> bool:
        return node.name in self._holdings and not self._holdings[node.name].error

    def _of_nodes(self) -> list[str]:
        found = [
            f"{name} does not answer: {holding.error}" for name, holding in self._holdings.items() if holding.error
        ]
        for node in self._plan.nodes:
            comes = _times(node.receives, self._bytes)
            if comes and self._answers(node) and comes > self._holdings[node.name].free_bytes:
                free = _size(self._holdings[node.name].free_bytes)
                found.append(f"{node.name} would receive about {_size(comes)} and has {free} free")
            if not node.before and self._answers(node) and self._holdings[node.name].fingerprint:
                found.append(f"{node.name} belongs to a cluster already; give it an empty data directory")
        return found

    def document(self) -> dict[str, Any]:
        """For `--json`. What isn't known is null."""
        plan, (before, after) = self._plan, self._quorums
        return {
            "ring": {"number": plan.before.number, "fingerprint": plan.before.fingerprint, "quorum": str(before)},
            "next": {"number": plan.after.number, "fingerprint": plan.after.fingerprint, "quorum": str(after)},
            "partitions": plan.after.partitions,
            "partitions_changed": plan.partitions_changed,
            "copies_moved": plan.moved,
            "copies_moved_least": plan.least,
            "files_moved": _times(plan.moved, self._files),
            "bytes_moved": _times(plan.moved, self._bytes),
            "nodes": [
                {
                    **node._asdict(),
                    "files_received": _times(node.receives, self._files),
                    "bytes_received": _times(node.receives, self._bytes),
                    "files_given": _times(node.gives, self._files),
                    "bytes_given": _times(node.gives, self._bytes),
                    "holds": asdict(self._holdings[node.name]) if self._answers(node) else None,
                }
                for node in plan.nodes
            ],
            "warnings": self.warnings,
        }

    def text(self) -> str:
        plan, (before, after) = self._plan, self._quorums
        rows = [("node", "zone", "weight", "copies", "after", "share", "receives", "", "gives", "")]
        for node in plan.nodes:
            share = "-" if node.share is None else f"{node.share:.2f}"
            rows.append(
                (
                    node.name,
                    node.zone or "-",
                    str(node.weight),
                    str(node.before),
                    str(node.after),
                    share,
                    *self._amount(node.receives),
                    *self._amount(node.gives),
                )
            )
        lines = [
            f"ring {plan.before.number}: {len(plan.before.members)} nodes, N/W/R {before}",
            f"ring {plan.after.number}: {len(plan.after.members)} nodes, N/W/R {after}",
            f"copies of {plan.after.partitions} partitions that each node has, has after, receives and gives:",
            *_table(rows),
            self._sum(),
            *(f"warning: {warning}" for warning in self.warnings),
            "This is a plan; nothing was changed.",
        ]
        return "\n".join(lines)

    def _sum(self) -> str:
        plan = self._plan
        if not plan.moved:
            return "nothing moves"
        size = "bytes unknown, as no node was heard"
        if self._bytes is not None and self._files is not None:
            files = plan.moved * self._files
            size = f"about {files:.0f} copies of files, {_size(plan.moved * self._bytes)}"
        beside = f"{plan.cost:.2f} times the least that this needs" if plan.least else "though none has to"
        changed = f"{plan.partitions_changed} partitions change owners"
        return f"{plan.moved} copies of partitions move ({size}), {beside}; {changed}"

    def _amount(self, copies: int) -> tuple[str, str]:
        moved = _times(copies, self._bytes)
        return str(copies), "" if moved is None else _size(moved)


def _times(copies: int, average: float | None) -> int | None:
    return None if average is None else round(copies * average)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns, the first two to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
