"""Results as plots, and as that part of docs/performance.rst which lies between two marks."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from bench.contests import size_text
from bench.plots import draw_bars, draw_lines
from bench.table import Figures, contests_table, rst, sides_table, targets_table

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "performance.rst"
PICTURES = DOCS / "performance"
"""What the page shows, and the results that it was made of."""

BEGIN, END = ".. figures: written by `make bench ARGS=document`", ".. end of figures"
USUAL_CONNECTIONS = 32
USUAL_BYTES = 4096


def draw(results: Figures, folder: Path, name: str) -> list[Path]:
    """Draw what the results have; returns the pictures in their order. Raises `Unavailable`.

    Where contests differ in connections or sizes they are lines over these, else bars.
    """
    http = [row for row in results["contests"] if row["protocol"] == "HTTP" and row["cache"] == "warm" and row["sides"]]
    usual_size = [row for row in http if row["bytes"] == USUAL_BYTES]
    usual_connections = [row for row in http if row["connections"] == USUAL_CONNECTIONS]
    drawn = [_draw_targets(results["targets"], folder, name)] if results["targets"] else []
    for row in usual_size:
        if row["connections"] == USUAL_CONNECTIONS:
            drawn += [_draw_rates(row, folder, name), _draw_processor(row, folder, name)]
    for rows, across, axis, unit, title in (
        (usual_size, "connections", "connections", 1, size_text(USUAL_BYTES)),
        (usual_connections, "bytes", "KiB", 1024, f"{USUAL_CONNECTIONS} connections"),
    ):
        for operation in ("get", "put", "mixed"):
            chosen = sorted((row for row in rows if row["operation"] == operation), key=lambda row: int(row[across]))
            if len(chosen) > 2:
                path = folder / f"{name}-http-{operation}-{across}.svg"
                said = f"HTTP {operation.upper()}, {title}"
                series = _series(chosen, across, unit)
                draw_lines(path, said, axis, "requests a second", series, log_across=True, log_up=True)
                drawn.append(path)
    return drawn


def _draw_targets(targets: Iterable[Figures], folder: Path, name: str) -> Path:
    """How far each target is reached: 1 is reached, more is better."""
    path = folder / f"{name}.svg"
    bars = {}
    for target in targets:
        found = [target["value"], *(target["spread"] or [target["value"]] * 2)]
        reached = [each / target["bound"] if target["at_least"] else target["bound"] / each for each in found]
        bars[target["name"]] = (reached[0], min(reached), max(reached))
    draw_bars(path, "Targets", "times what is required", bars, line_at=1.0)
    return path


def _draw_rates(contest: Figures, folder: Path, name: str) -> Path:
    path = folder / f"{name}-{slug(contest['name'])}-rate.svg"
    bars = {
        side: (found["rate_per_s"], found["rate_spread"][0], found["rate_spread"][1])
        for side, found in contest["sides"].items()
    }
    draw_bars(path, contest["name"], "requests a second", bars)
    return path


def _draw_processor(contest: Figures, folder: Path, name: str) -> Path:
    path = folder / f"{name}-{slug(contest['name'])}-cpu.svg"
    bars = {}
    for side, found in contest["sides"].items():
        turns = [1000 * run["server_s"] / run["done"] for run in found["runs"]]
        bars[side] = (found["processor_s_per_1000"], min(turns), max(turns))
    draw_bars(path, contest["name"], "seconds of processor time for 1,000 requests, all processes", bars)
    return path


def _series(contests: Iterable[Figures], across: str, unit: int) -> dict[str, list[tuple[float, float]]]:
    """The rate of each side over `across`, divided by `unit`."""
    series: dict[str, list[tuple[float, float]]] = {}
    for contest in contests:
        for side, found in contest["sides"].items():
            series.setdefault(side, []).append((contest[across] / unit, found["rate_per_s"]))
    return series


def slug(name: str) -> str:
    """A contest's name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_document(results: Path, grid: Path, page: Path = PAGE, pictures: Path = PICTURES) -> None:
    """Keep the results of the targets, and of the `grid` where there are any, beside the page; draw both, and write the
    page's figures. Where one was not measured here, it stays as it is. Raises `Unavailable`."""
    pictures.mkdir(exist_ok=True)
    paragraphs = []
    for measured, write in ((results, _targets_written), (grid, _grid_written)):
        kept = pictures / measured.name
        if measured.exists() and measured.resolve() != kept.resolve():
            shutil.copyfile(measured, kept)
        if not kept.exists():
            continue
        for old in pictures.glob(f"{kept.stem}*.svg"):
            old.unlink()  # what isn't measured any more has no picture
        figures = json.loads(kept.read_text())
        drawn = draw(figures, pictures, kept.stem)
        paragraphs += write(figures, str(kept.relative_to(page.parent)))
        paragraphs += [f".. image:: {path.relative_to(page.parent)}\n   :alt: {path.stem}" for path in drawn]
    if paragraphs:
        page.write_text(replace_between(page.read_text(), "\n\n".join(paragraphs)))


def replace_between(text: str, lines: str) -> str:
    """The page with other figures. Raises `ValueError` where it lacks the marks."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n{lines}\n\n{end}{after}"


def _targets_written(figures: Figures, kept: str) -> list[str]:
    return [
        _provenance(figures, kept),
        *_left_out(figures),
        rst(targets_table(figures["targets"])),
        *_limits(figures),
        rst(contests_table(figures["contests"])),
        rst(sides_table(figures["sides"])),
    ]


def _grid_written(figures: Figures, kept: str) -> list[str]:
    """The grid is too long for a page: it has its pictures there, and its figures beside."""
    return ["The whole grid. " + _provenance(figures, kept), *_left_out(figures), *_limits(figures)]


def _provenance(figures: Figures, kept: str) -> str:
    where, how = figures["machine"], figures["pace"]
    return (
        f"Measured on {where['time'][:10]} at commit {where['commit']}: {where['cpu']}, {where['cores']} cores, "
        f"Linux {where['kernel']}, Python {where['python']}, {'compiled' if where['compiled'] else 'interpreted'}; "
        f"load before it {where['load_before']:.2f}; {how['repeats']} turns of {how['seconds']} s.\n"
        f"All figures: `{kept} <{kept}>`_."
    )


def _left_out(figures: Figures) -> list[str]:
    return [f"Left out: {'; '.join(figures['missing'])}."] if figures["missing"] else []


def _limits(figures: Figures) -> list[str]:
    """Whose figures are too low, if anybody's."""
    limited = {
        side
        for contest in figures["contests"]
        for side, found in contest["sides"].items()
        if found["generator_was_limit"]
    }
    if not limited:
        return []
    return [f"The load generator was the limit somewhere for {', '.join(sorted(limited))}: they can do more than that."]
