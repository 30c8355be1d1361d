"""Results for people: the same tables on a terminal and in the documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench.contests import size_text

Figures = dict[str, Any]
Row = Sequence[str]


def targets_table(verdicts: Iterable[Figures]) -> list[Row]:
    """Each target: what was found, between which turns, what it had to be, and whether it was."""
    rows: list[Row] = [("target", "found", "spread", "required", "", "")]
    for verdict in verdicts:
        spread = "–".join(ratio_text(bound) for bound in verdict["spread"] or ())
        required = f"{'≥' if verdict['at_least'] else '≤'} {verdict['bound']:g}"
        judged = "met" if verdict["met"] else "MISSED"
        found = f"{ratio_text(verdict['value'])} {verdict['unit']}".strip()
        rows.append((verdict["name"], found, spread, required, judged, verdict["note"]))
    return rows


def contests_table(contests: Iterable[Figures]) -> list[Row]:
    """Each side of each contest: rate and its spread, latencies, and processor time."""
    rows: list[Row] = [("contest", "side", "per s", "spread", "MB/s", "p50 ms", "p99 ms", "CPU s/1000", "load")]
    for contest in contests:
        name = contest["name"]
        for side, found in contest["sides"].items():
            rows.append(
                (
                    name,
                    side,
                    f"{found['rate_per_s']:,.0f}",
                    "–".join(f"{rate:,.0f}" for rate in found["rate_spread"]),
                    f"{found['mb_per_s']:,.1f}",
                    f"{found['p50_us'] / 1000:.2f}",
                    f"{found['p99_us'] / 1000:.2f}",
                    f"{found['processor_s_per_1000']:.3f}",
                    f"{found['generator_cores']:.2f}{' limit' if found['generator_was_limit'] else ''}",
                )
            )
            name = ""
    return rows


def sides_table(sides: Iterable[Figures]) -> list[Row]:
    """What each side takes, and what it is worth that it answered a write."""
    rows: list[Row] = [("side", "files of", "processes", "MiB in memory", "disk", "copies", "synced", "lost by")]
    seen = set()
    for side in sides:
        if (key := (side["side"], side["bytes"])) in seen:
            continue  # it was in another contest, too
        seen.add(key)
        disk = side["disk_bytes_per_byte"]
        rows.append(
            (
                side["side"],
                size_text(side["bytes"]),
                str(side["processes"]),
                f"{side['resident_mib']:,.0f}",
                "none" if disk is None else f"{disk:.2f} ×",
                str(side["ack_copies"]),
                "yes" if side["ack_synced"] else "no",
                side["ack_lost_by"],
            )
        )
    return rows


def ratio_text(value: float) -> str:
    """Three figures for what is small, fewer for what is large."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def plain(rows: Sequence[Row]) -> str:
    """Columns with two spaces between; the first two to the left, numbers to the right."""
    widths = _widths(rows)
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if _is_figure(column, rows) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def rst(rows: Sequence[Row]) -> str:
    """The same as a simple table of reStructuredText, without columns in which nothing stands."""
    filled = [column for column in range(len(rows[0])) if any(row[column] for row in rows)]
    shown = [[row[column] or ("\\" if place == 0 else "") for place, column in enumerate(filled)] for row in rows]
    rule = "  ".join("=" * width for width in _widths(shown))
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, _widths(shown), strict=True)) for row in shown]
    return "\n".join([rule, lines[0].rstrip(), rule, *(line.rstrip() for line in lines[1:]), rule])


def _widths(rows: Sequence[Row]) -> list[int]:
    return [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]


def _is_figure(column: int, rows: Sequence[Row]) -> bool:
    return all(not row[column] or row[column][0].isdigit() for row in rows[1:])
