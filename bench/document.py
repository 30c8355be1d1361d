"""Results as plots, and as that part of docs/performance.rst which lies between the marks `figures` and `end`."""

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

BEGIN, END = ".. figures: written by `make bench ARGS=document`", ".. end of figures"
USUAL_CONNECTIONS = 32
USUAL_BYTES = 4096


def draw(results: Figures, folder: Path, name: str) -> list[Path]:
    """Draw all that the results have; returns the pictures in order. Raises `Unavailable`."""
    drawn = []
    for contest in results["contests"]:
        if contest["connections"] == USUAL_CONNECTIONS and contest["bytes"] == USUAL_BYTES and contest["sides"]:
            drawn += [_draw_rates(contest, folder, name), _draw_processor(contest, folder, name)]
    for operation in ("get", "put"):
        across = _warm_http(results["contests"], operation)
        for over, picture in (("connections", _draw_connections), ("bytes", _draw_sizes)):
            if len({contest[over] for contest in across}) > 1:
                drawn.append(picture(operation, across, folder, name))
    return drawn


def _warm_http(contests: Iterable[Figures], operation: str) -> list[Figures]:
    return [
        contest
        for contest in contests
        if (contest["protocol"], contest["operation"], contest["cache"]) == ("HTTP", operation, "warm")
    ]


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


def _draw_connections(operation: str, contests: list[Figures], folder: Path, name: str) -> Path:
    path = folder / f"{name}-http-{operation}-connections.svg"
    series = _series([contest for contest in contests if contest["bytes"] == USUAL_BYTES], "connections", 1)
    title = f"HTTP {operation.upper()} {size_text(USUAL_BYTES)}"
    draw_lines(path, title, "connections", "requests a second", series, log_across=True, log_up=True)
    return path


def _draw_sizes(operation: str, contests: list[Figures], folder: Path, name: str) -> Path:
    path = folder / f"{name}-http-{operation}-sizes.svg"
    series = _series([contest for contest in contests if contest["connections"] == USUAL_CONNECTIONS], "bytes", 1024)
    title = f"HTTP {operation.upper()}, {USUAL_CONNECTIONS} connections"
    draw_lines(path, title, "KiB", "requests a second", series, log_across=True, log_up=True)
    return path


def _series(contests: Iterable[Figures], across: str, unit: int) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for contest in sorted(contests, key=lambda contest: int(contest[across])):
        for side, found in contest["sides"].items():
            series.setdefault(side, []).append((contest[across] / unit, found["rate_per_s"]))
    return series


def slug(name: str) -> str:
    """A contest's name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_document(results: Path, page: Path = PAGE, pictures: Path = PICTURES) -> None:
    """Keep the results beside the page, draw them, and write the page's figures. Raises `Unavailable`.

    The pictures of results of that name that were there before are removed: what isn't measured any more has none.
    """
    figures = json.loads(results.read_text())
    pictures.mkdir(exist_ok=True)
    kept = pictures / results.name
    if results.resolve() != kept.resolve():
        shutil.copyfile(results, kept)
    for old in pictures.glob(f"{results.stem}-*.svg"):
        old.unlink()
    drawn = draw(figures, pictures, results.stem)
    lines = _written(figures, [path.relative_to(page.parent) for path in drawn], kept.relative_to(page.parent))
    page.write_text(replace_between(page.read_text(), lines))


def replace_between(text: str, lines: str) -> str:
    """The page with other figures. Raises `ValueError` where it lacks the marks."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n{lines}\n\n{end}{after}"


def _written(figures: Figures, pictures: list[Path], kept: Path) -> str:
    where = figures["machine"]
    how = figures["pace"]
    paragraphs = [
        f"Measured {where['time'][:10]} at commit {where['commit']}: {where['cpu']}, {where['cores']} cores, Linux "
        f"{where['kernel']}, Python {where['python']}, {'compiled' if where['compiled'] else 'interpreted'}; load "
        f"before it {where['load_before']:.2f}; {how['repeats']} turns of {how['seconds']} s. "
        f"All figures: `{kept} <{kept}>`_.",
        rst(targets_table(figures["targets"])),
        *_limits(figures),
        rst(contests_table(figures["contests"])),
        rst(sides_table(figures["sides"])),
        *[f".. image:: {picture}\n   :alt: {picture.stem}" for picture in pictures],
    ]
    if figures["missing"]:
        paragraphs.insert(1, "Left out: " + "; ".join(figures["missing"]) + ".")
    return "\n\n".join(paragraphs)


def _limits(figures: Figures) -> list[str]:
    """Whose figures are too low, if anybody's."""
    limited = sorted(
        {
            side
            for contest in figures["contests"]
            for side, found in contest["sides"].items()
            if found["generator_was_limit"]
        }
    )
    if not limited:
        return []
    return [f"The load generator was the limit somewhere for {', '.join(limited)}: those can do more than stands here."]
