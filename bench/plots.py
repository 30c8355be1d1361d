"""Pictures of results: SVG by matplotlib, the same bytes for the same figures.

matplotlib is in no installation of sfss (`pip install '.[bench]'`). Where it is missing the figures are written
without pictures, and the line that says so is `Unavailable`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.servers import Unavailable

_INCHES = (6.4, 3.6)
_STYLE = {
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
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise Unavailable("matplotlib is not installed: no pictures") from None
    with rc_context(_STYLE):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for name, points in series.items():
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=4, label=name)
        axes.set_title(title)
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
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
