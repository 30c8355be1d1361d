"""Pictures of results: SVG by matplotlib, the same bytes for the same figures.

matplotlib is in no installation of sfss (`pip install '.[bench]'`). Where it is missing the figures are written
without pictures, and the line that says so is `Unavailable`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.servers import Unavailable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES = (6.4, 3.6)
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "sfss",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Point = tuple[float, float]


def draw_lines(
    path: Path,
    title: str,
    across: str,
    up: str,
    series: Mapping[str, Sequence[Point]],
    *,
    log_across: bool = False,
    log_up: bool = False,
) -> None:
    """A line with a mark at each point for every one of `series`; `across` and `up` name the axes with their units.
    Scales that aren't logarithmic begin at 0. Raises `Unavailable`."""
    with _axes(path, title) as axes:
        for name, points in series.items():
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=4, label=name)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        if log_across:
            axes.set_xscale("log")
        else:
            axes.set_xlim(left=0)
        if log_up:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        if len(series) > 1:
            axes.legend()


def draw_bars(
    path: Path,
    title: str,
    across: str,
    bars: Mapping[str, tuple[float, float, float]],
    *,
    line_at: float | None = None,
) -> None:
    """A bar for each name, the first on top: its figure, and a line from the smallest to the largest of its turns;
    another line across all of them at `line_at`. Raises `Unavailable`."""
    names = list(bars)
    size = (_INCHES[0] + 0.05 * max(map(len, names), default=0), 1 + 0.3 * len(names))
    with _axes(path, title, size) as axes:
        values = [value for value, _, _ in bars.values()]
        # A ratio of medians may lie outside of the ratios of all turns.
        below = [max(value - least, 0) for value, least, _ in bars.values()]
        above = [max(most - value, 0) for value, _, most in bars.values()]
        axes.barh(names, values, xerr=[below, above], height=0.6, capsize=3, color="#6a8caf", ecolor="#333333")
        axes.invert_yaxis()
        axes.set_xlabel(across)
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
        if line_at is not None:
            axes.axvline(line_at, color="#b03a2e")


@contextmanager
def _axes(path: Path, title: str, size: tuple[float, float] = _INCHES) -> Iterator[Axes]:
    """Axes to draw on, written to `path` after the block."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise Unavailable("matplotlib is not installed: no pictures") from None
    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        yield axes
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
