"""Results of `growth` and `paper` for people: tables on the terminal, and in docs/growth.rst with pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.document import DOCS, replace_between
from bench.loads import HERE
from bench.plots import draw_lines
from bench.table import Row, rst

RESULTS = HERE / "results"
PAGE = DOCS / "growth.rst"
PICTURES = DOCS / "growth"
KIB = 1024
MIB = 1024 * 1024
DAY_S = 86_400
LINKS_GBIT = (1, 10, 100)

Figures = dict[str, Any]
Column = tuple[str, Callable[[Figures], str]]
Series = dict[str, list[tuple[float, float]]]


def _of(*names: str, per: float = 1, digits: int = 0) -> Callable[[Figures], str]:
    """A row's figure, by its name or by the names on the way to it; nothing where the row has none."""

    def text(row: Figures) -> str:
        value: Any = row
        for name in names:
            value = None if value is None else value.get(name)
        return "" if value is None else f"{value / per:,.{digits}f}"

    return text


GROWTH_COLUMNS: dict[str, list[Column]] = {
    "files": [
        ("files", _of("files")),
        ("loaded/s", _of("load_per_s")),
        ("get/s", _of("get_per_s")),
        ("set/s", _of("set_per_s")),
        ("start s", _of("start_s", "stopped", digits=2)),
        ("cold", _of("start_s", "stopped_cold", digits=2)),
        ("killed", _of("start_s", "killed", digits=2)),
        ("killed, cold", _of("start_s", "killed_cold", digits=2)),
        ("anonymous MiB", _of("resident_kib", "anonymous", per=KIB)),
        ("mapped MiB", _of("resident_kib", "mapped", per=KIB)),
        ("index MiB", _of("disk_bytes", "index", per=MIB)),
        ("disk B/file", _of("disk_bytes_per_file")),
        ("load", _of("machine", "load_before", digits=1)),
    ],
    "nodes": [
        ("nodes", _of("nodes")),
        ("GET/s", _of("get_per_s")),
        ("PUT/s", _of("put_per_s")),
        ("errors", lambda row: str(row["get_errors"] + row["put_errors"])),
        ("a node MiB", _of("node_anonymous_kib", per=KIB)),
        ("proxy MiB", _of("proxy_anonymous_kib", per=KIB)),
        ("web MiB", _of("web_anonymous_kib", per=KIB)),
        ("all started s", _of("start_s", digits=1)),
        ("load", _of("machine", "load_before", digits=1)),
    ],
    "connections": [
        ("connections", _of("connections")),
        ("GET/s", _of("get_per_s")),
        ("p50 ms", _of("get_p50_us", per=1000, digits=2)),
        ("p99 ms", _of("get_p99_us", per=1000, digits=2)),
        ("errors", _of("get_errors")),
        ("web MiB", _of("web_anonymous_kib", per=KIB)),
        ("load", _of("machine", "load_before", digits=1)),
    ],
    "sizes": [
        ("KiB", _of("size_kib")),
        ("GET/s", _of("get_per_s")),
        ("GET MiB/s", _of("get_mib_per_s")),
        ("PUT/s", _of("put_per_s")),
        ("PUT MiB/s", _of("put_mib_per_s")),
        ("errors", lambda row: str(row["get_errors"] + row["put_errors"])),
        ("load", _of("machine", "load_before", digits=1)),
    ],
}

RING_COLUMNS: list[Column] = [
    ("nodes", _of("nodes")),
    ("partitions", _of("partitions")),
    ("each node has", _of("copies_of_partitions_per_node")),
    ("fullest", _of("node_most", digits=2)),
    ("emptiest", _of("node_least", digits=2)),
    ("fullest zone", _of("zone_most", digits=2)),
    ("made s", lambda row: f"{row['made_s'] + row['placed_s']:.1f}"),
    ("MiB", _of("resident_kib", per=KIB)),
    ("look-up µs", _of("look_up_us", digits=2)),
    ("told, GiB", _of("comparison", "tree_bytes", per=2**30, digits=2)),
    ("listed, GiB", _of("comparison", "listed_bytes", per=2**30)),
]
CHANGE_COLUMNS: list[Column] = [
    ("change", lambda row: str(row["change"])),
    ("nodes", _of("nodes")),
    ("moves", lambda row: f"{row['moved_part']:.2%}"),
    ("beside the least", _of("beside_least", digits=3)),
    ("TiB", _of("moved_bytes", per=2**40, digits=1)),
]
REPAIR_COLUMNS: list[Column] = [
    ("nodes", _of("nodes")),
    ("TB each", _of("node_bytes", per=1e12, digits=1)),
    ("refilled, days", _of("refilled_s", per=DAY_S, digits=1)),
    *[(f"{link} Gbit/s, h", _of("link_s", str(link), per=3600, digits=1)) for link in LINKS_GBIT],
    ("small files, h", _of("moved_s", str(max(LINKS_GBIT)), per=3600, digits=1)),
]


def _table(columns: list[Column], rows: Iterable[Figures]) -> list[Row]:
    return [[name for name, _ in columns], *[[text(row) for _, text in columns] for row in rows]]


def growth_tables(known: Figures) -> list[list[Row]]:
    """A table for each variable that there are rows of."""
    return [_table(columns, known[section]) for section, columns in GROWTH_COLUMNS.items() if section in known]


def paper_tables(figures: Figures) -> list[list[Row]]:
    """Rings, changes, repairs, and limits."""
    limits: list[Row] = [
        ["limit", ""],
        ["nodes of a ring that can change", f"{figures['nodes_max']:,}"],
        ["a node's hash tree, KiB", f"{figures['tree_bytes'] // KIB:,}"],
        [
            "listed for one difference, MiB",
            f"{figures['rings'][0]['comparison']['one_difference_bytes'] / MIB:,.2f}",
        ],
    ]
    return [
        _table(RING_COLUMNS, figures["rings"]),
        _table(CHANGE_COLUMNS, figures["changes"]),
        _table(REPAIR_COLUMNS, figures["repairs"]),
        limits,
    ]


def draw_growth(known: Figures, folder: Path, lines: Callable[..., None] = draw_lines) -> list[Path]:
    """Draw what there are rows of; returns the pictures in order. Raises `Unavailable`."""
    drawn: list[Path] = []

    def draw(name: str, title: str, across: str, up: str, series: Series, **scales: bool) -> None:
        drawn.append(folder / f"{name}.svg")
        lines(drawn[-1], title, across, up, series, **scales)

    def series(section: str, across: str, figures: Mapping[str, tuple[str, ...]], per: float = 1) -> Series:
        return {name: [(row[across], _value(row, of) / per) for row in known[section]] for name, of in figures.items()}

    if "files" in known:
        starts: dict[str, tuple[str, ...]] = {
            "after a stop": ("start_s", "stopped"),
            "after a stop, cold": ("start_s", "stopped_cold"),
            "after kill -9": ("start_s", "killed"),
            "after kill -9, cold": ("start_s", "killed_cold"),
        }
        rates = series("files", "files", {"get": ("get_per_s",), "set": ("set_per_s",)})
        draw("files-rate", "One node, files of 100 B", "files", "per second", rates, log_across=True)
        draw("files-start", "A node starts", "files", "seconds", series("files", "files", starts), log_across=True)
    if "nodes" in known:
        rates = series("nodes", "nodes", {"GET": ("get_per_s",), "PUT": ("put_per_s",)})
        draw("nodes-rate", "Nodes on one machine, HTTP, 4 KiB", "nodes", "per second", rates)
    if "connections" in known:
        rates = series("connections", "connections", {"GET": ("get_per_s",)})
        times = series("connections", "connections", {"median": ("get_p50_us",), "p99": ("get_p99_us",)}, per=1000)
        draw("connections-rate", "HTTP GET, 4 KiB", "connections", "per second", rates, log_across=True)
        draw("connections-time", "HTTP GET, 4 KiB", "connections", "ms", times, log_across=True, log_up=True)
    if "sizes" in known:
        rates = series("sizes", "size_kib", {"GET": ("get_per_s",), "PUT": ("put_per_s",)})
        volumes = series("sizes", "size_kib", {"GET": ("get_mib_per_s",), "PUT": ("put_mib_per_s",)})
        draw("sizes-rate", "HTTP, 32 connections", "KiB", "per second", rates, log_across=True, log_up=True)
        draw("sizes-bytes", "HTTP, 32 connections", "KiB", "MiB per second", volumes, log_across=True)
    return drawn


def _value(row: Figures, names: tuple[str, ...]) -> float:
    value: Any = row
    for name in names:
        value = value[name]
    return float(value)


def draw_paper(figures: Figures, folder: Path, lines: Callable[..., None] = draw_lines) -> list[Path]:
    """Balance, memory and repair over the number of nodes. Raises `Unavailable`."""
    rings = figures["rings"]

    def by_partitions(value: Callable[[Figures], float]) -> Series:
        return {
            f"{partitions:,} partitions": [
                (row["nodes"], value(row)) for row in rings if row["partitions"] == partitions
            ]
            for partitions in sorted({row["partitions"] for row in rings})
        }

    most = by_partitions(lambda row: row["node_most"])
    memory = by_partitions(lambda row: row["resident_kib"] / KIB)
    hours = {
        f"{link} Gbit/s": [(row["nodes"], row["link_s"][str(link)] / 3600) for row in figures["repairs"]]
        for link in LINKS_GBIT
    }
    hours["one proxy, defaults"] = [(row["nodes"], row["refilled_s"] / 3600) for row in figures["repairs"]]
    paths = [folder / f"paper-{name}.svg" for name in ("balance", "memory", "repair")]
    lines(paths[0], "The fullest node beside the mean", "nodes", "times", most, log_across=True)
    lines(paths[1], "A ring in the memory of a proxy", "nodes", "MiB", memory, log_across=True)
    lines(paths[2], "Bringing back a lost node", "nodes", "hours", hours, log_across=True, log_up=True)
    return paths


def write_growth_page(
    results: Path = RESULTS, page: Path = PAGE, pictures: Path = PICTURES, lines: Callable[..., None] = draw_lines
) -> None:
    """Keep what was measured beside the page, draw it, and write the page's figures. What wasn't measured again stays
    as it is kept there. Raises `Unavailable`."""
    pictures.mkdir(exist_ok=True)
    paragraphs = []
    for name, tables, draw in (("growth", growth_tables, draw_growth), ("paper", paper_tables, draw_paper)):
        kept = pictures / f"{name}.json"
        if (results / kept.name).exists():
            shutil.copyfile(results / kept.name, kept)
        if not kept.exists():
            continue
        figures = json.loads(kept.read_text())
        relative = kept.relative_to(page.parent)
        paragraphs.append(f"{_machines(figures)} All figures: `{relative} <{relative}>`_.")
        paragraphs += [rst(rows) for rows in tables(figures)]
        paragraphs += [
            f".. image:: {path.relative_to(page.parent)}\n   :alt: {path.stem}"
            for path in draw(figures, pictures, lines)
        ]
    page.write_text(replace_between(page.read_text(), "\n\n".join(paragraphs)))


def _machines(figures: Figures) -> str:
    """What it was measured on, in a sentence for each machine and state of the program."""
    rows = [row for value in figures.values() if isinstance(value, list) for row in value]
    found = [figures["machine"]] if "machine" in figures else [row["machine"] for row in rows]
    sentences = [
        f"{each['time'][:10]}, commit {each['commit']}: {each['cpu']}, {each['cores']} cores, Linux {each['kernel']}, "
        f"Python {each['python']}, {'compiled' if each['compiled'] else 'interpreted'}."
        for each in found
    ]
    return "Measured " + " ".join(dict.fromkeys(sentences))
