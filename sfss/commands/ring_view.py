"""A plan of a change as it is told, to people and to programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from proxy.quorum import Quorum
from sfss.commands.ring_nodes import Holding
from sfss.ring_change.mover import difference
from sfss.ring_plan import NodePlan, Plan
from sfss.ring_record import RingRecord


class PlanView:
    """A plan as it is told. Files and bytes are what copies of partitions hold on average over the nodes that answered:
    hashes spread files evenly, and their sizes nearly so."""

    def __init__(
        self, planned: Plan, holdings: Mapping[str, Holding], before: Quorum, after: Quorum, notes: Sequence[str] = ()
    ) -> None:
        self.notes = list(notes)
        self._plan = planned
        self._holdings = holdings
        self._quorums = (before, after)
        answered = [node for node in planned.nodes if node.before and self._answers(node)]
        copies = sum(node.before for node in answered)
        self._files = self._average([holdings[node.name].files for node in answered], copies)
        self._bytes = self._average([holdings[node.name].live_bytes for node in answered], copies)
        self.warnings = [*planned.warnings, *self._of_nodes()]
        self._next = planned.before.number + 2  # there is a joint ring in between

    def _average(self, held: list[int], copies: int) -> float | None:
        return sum(held) / copies if copies else None

    def _answers(self, node: NodePlan) -> bool:
        return node.name in self._holdings and not self._holdings[node.name].error

    def _of_nodes(self) -> list[str]:
        found = []
        clusters = {
            self._holdings[node.name].cluster for node in self._plan.nodes if node.before and self._answers(node)
        }
        for node in self._plan.nodes:
            holding = self._holdings.get(node.name, Holding())
            if holding.error and node.after:
                found.append(f"{node.name} does not answer: {holding.error}")
            comes = _times(node.receives, self._bytes)
            if comes and self._answers(node) and comes > holding.free_bytes:
                free = size_of(holding.free_bytes)
                found.append(f"{node.name} would receive about {size_of(comes)} and has {free} free")
            if not node.before and holding.cluster and holding.cluster not in clusters:
                found.append(f"{node.name} belongs to a cluster already; give it an empty data directory")
        return found

    def document(self) -> dict[str, Any]:
        """For `--json`. What isn't known is null."""
        plan, (before, after) = self._plan, self._quorums
        return {
            "ring": {"number": plan.before.number, "fingerprint": plan.before.fingerprint, "quorum": str(before)},
            "next": {"number": self._next, "fingerprint": plan.after.fingerprint, "quorum": str(after)},
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
            "notes": self.notes,
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
            f"ring {self._next}: {len(plan.after.members)} nodes, N/W/R {after}",
            f"copies of {plan.after.partitions} partitions that each node has, has after, receives and gives:",
            *table(rows),
            self._sum(),
            *(f"note: {note}" for note in self.notes),
            *(f"warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)

    def _sum(self) -> str:
        plan = self._plan
        if not plan.moved:
            return "nothing moves"
        size = "bytes unknown, as no node was heard"
        if self._bytes is not None and self._files is not None:
            files = plan.moved * self._files
            size = f"about {files:.0f} copies of files, {size_of(plan.moved * self._bytes)}"
        beside = f"{plan.cost:.2f} times the least that this needs" if plan.least else "though none has to"
        changed = f"{plan.partitions_changed} partitions change owners"
        return f"{plan.moved} copies of partitions move ({size}), {beside}; {changed}"

    def _amount(self, copies: int) -> tuple[str, str]:
        moved = _times(copies, self._bytes)
        return str(copies), "" if moved is None else size_of(moved)


def ring_document(record: RingRecord, holdings: Mapping[str, Holding]) -> dict[str, Any]:
    """A ring as it is, and which of its members have stored it; for programs."""
    return {
        "number": record.number,
        "joint": record.joint,
        "fingerprint": record.fingerprint,
        "partitions": record.partitions,
        "placements": [asdict(placement) for placement in record.placements],
        "nodes": {name: asdict(holding) for name, holding in holdings.items()},
    }


def ring_text(record: RingRecord, holdings: Mapping[str, Holding]) -> str:
    """The same for people."""
    quorums = " to ".join(f"{place.n}/{place.w}/{place.r}" for place in record.placements)
    lines = [f"ring {record.number}: {len(record.members)} nodes, N/W/R {quorums}, {record.partitions} partitions"]
    if record.joint:
        lines.append(f"a change is under way: {difference(record)}")
    rows = [("node", "id", "zone", "weight", "ring", "files", "bytes")]
    for member in record.members:
        holding = holdings[member.name]
        told = (
            ("does not answer", "", "")
            if holding.error
            else (str(holding.ring), str(holding.files), size_of(holding.live_bytes))
        )
        rows.append((member.name, member.node[:8], member.zone or "-", str(member.weight), *told))
    return "\n".join([*lines, *table(rows)])


def _times(copies: int, average: float | None) -> int | None:
    return None if average is None else round(copies * average)


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns, the first two to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def size_of(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
