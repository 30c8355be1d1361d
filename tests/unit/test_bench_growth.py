"""What the growth measurements count on: rows that stay, errors in no rate, and figures that every table finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from bench import growth, growth_page
from bench.document import BEGIN, END
from bench.growth import NUMBERS, Plan
from bench.table import plain

LOADED = {"done": 1000, "errors": 100, "seconds": 2.0, "rate": 500.0, "p50_us": 10, "p99_us": 20}
MACHINE = {
    "time": "2026-11-21T15:00:00Z",
    "commit": "abc",
    "cpu": "x",
    "cores": 2,
    "kernel": "6",
    "python": "3.11",
    "compiled": True,
    "load_before": 0.5,
}
NOTHING = Plan((), (), (), (), 4.0)


def complete_rows() -> dict[str, list[dict[str, Any]]]:
    http = growth.http_figures("get", LOADED) | growth.http_figures("put", LOADED)
    files = {
        "files": 100_000,
        "load_per_s": 1.0,
        "get_per_s": 1.0,
        "set_per_s": 1.0,
        "start_s": dict.fromkeys(("stopped", "stopped_cold", "killed", "killed_cold"), 0.5),
        "resident_kib": {"anonymous": 1024, "mapped": 2048},
        "disk_bytes": {"volumes": 10, "index": 20},
        "disk_bytes_per_file": 30.0,
    }
    memory = {"node_anonymous_kib": 1, "proxy_anonymous_kib": 2, "web_anonymous_kib": 3}
    return {
        "files": [files],
        "nodes": [{"nodes": 3, "start_s": 1.0, **http, **memory}],
        "connections": [{"connections": 1000, **http, **memory}],
        "sizes": [{"size_kib": 4, **http, "get_mib_per_s": 1.0, "put_mib_per_s": 1.0}],
    }


def test_answers_that_were_errors_are_in_no_rate() -> None:
    assert growth.http_figures("put", LOADED) == {
        "put_per_s": 450.0,
        "put_p50_us": 10,
        "put_p99_us": 20,
        "put_errors": 100,
    }


def test_a_row_takes_the_place_of_the_one_before_and_all_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "results" / "growth.json"
    for files, rate in ((1_000_000, 1), (100_000, 2), (1_000_000, 3)):
        growth.keep(path, "files", {"files": files, "get_per_s": rate})
    growth.keep(path, "sizes", {"size_kib": 4})

    known = json.loads(path.read_text())

    assert [(row["files"], row["get_per_s"]) for row in known["files"]] == [(100_000, 2), (1_000_000, 3)]
    assert known["sizes"] == [{"size_kib": 4}]


def test_every_section_has_a_table_and_pictures_of_its_rows(tmp_path: Path) -> None:
    rows = complete_rows()

    drawn = growth_page.draw_growth(rows, tmp_path, lambda *_, **__: None)

    tables = [plain(table) for table in growth_page.growth_tables(rows)]
    assert [len(table.splitlines()) for table in tables] == [2] * len(rows)
    assert {path.name.split("-")[0] for path in drawn} == set(rows)


def test_the_page_has_what_was_measured_and_keeps_its_words(tmp_path: Path) -> None:
    page = tmp_path / "growth.rst"
    page.write_text(f"Words.\n\n{BEGIN}\nold figures\n{END}\n\nMore words.\n")
    (tmp_path / "results").mkdir()
    for section, rows in complete_rows().items():
        growth.keep(tmp_path / "results" / "growth.json", section, rows[0] | {"machine": MACHINE})

    drawn = []
    growth_page.write_growth_page(
        tmp_path / "results", page, tmp_path / "growth", lambda path, *_, **__: drawn.append(path)
    )

    text = page.read_text()
    assert text.startswith("Words.")
    assert text.endswith("More words.\n")
    assert "old figures" not in text
    assert "100,000" in text
    assert text.count("2026-11-21, commit abc") == 1
    assert [tmp_path / line.split()[2] for line in text.splitlines() if line.startswith(".. image::")] == drawn


def test_what_it_takes_grows_with_what_is_asked_for() -> None:
    some = Plan((100_000,), (3,), (1,), (1,), 4.0)
    large = Plan((10_000_000,), (3,), (1,), (1,), 4.0)

    assert NOTHING.minutes() == 0
    assert 0 < some.minutes() < large.minutes()
    assert NOTHING.disk_bytes() < large.disk_bytes()
    assert large.disk_bytes() > 10_000_000 * 250


def test_the_default_takes_twelve_minutes_at_most() -> None:
    defaults = {option.name: option.default for option in growth.growth.params}
    lists = [NUMBERS.convert(defaults[name], None, None) for name in ("files", "nodes", "connections", "sizes")]

    assert Plan(*lists, defaults["seconds"]).minutes() <= 12


def test_one_section_that_can_t_be_measured_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_wrk(*_: object) -> None:
        raise growth.Unavailable("wrk is not installed")

    monkeypatch.setattr(growth, "measure_nodes", no_wrk)
    monkeypatch.setattr(growth, "measure_files", lambda count, *_: {"files": count})
    path = tmp_path / "growth.json"

    missing = growth.measure(Plan((5, 7), (3,), (), (), 1.0), path, {"cores": 2}, lambda _: None)

    assert missing == ["nodes: wrk is not installed"]
    assert [row["files"] for row in json.loads(path.read_text())["files"]] == [5, 7]


@pytest.mark.parametrize(("text", "numbers"), [("none", []), ("3", [3]), ("100000,1000000", [100_000, 1_000_000])])
def test_numbers_are_given_with_commas_between(text: str, numbers: list[int]) -> None:
    assert NUMBERS.convert(text, None, None) == numbers


@pytest.mark.parametrize("text", ["", "0", "3,-1", "many"])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not numbers"):
        NUMBERS.convert(text, None, None)


def test_room_is_that_of_volumes_and_index_without_the_reserve(tmp_path: Path) -> None:
    for name in ("volumes", "index", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(100_000))
    (tmp_path / "reserve").write_bytes(bytes(100_000))

    room = growth.room(tmp_path)

    assert set(room) == {"volumes", "index"}
    assert all(100_000 <= count < 200_000 for count in room.values())
