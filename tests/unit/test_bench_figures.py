"""What a benchmark reads: wrk's figures, /proc, the disk; and what it writes: tables, and figures into a page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench.contests import Contest
from bench.document import BEGIN, END, replace_between, slug, write_document
from bench.loads import Load, Run, parse_wrk
from bench.plots import draw_bars
from bench.servers import Unavailable
from bench.table import contests_table, plain, rst, sides_table, targets_table
from bench.usage import TICKS_PER_S, disk_bytes, kib_of, leave_page_cache, parse_stat, processor_s, resident_kib
from bench.verdict import Verdict

FIGURES = {"done": 10, "seconds": 1.0, "errors": 0, "bytes": 10 * 4300, "p50_us": 1, "p99_us": 2}


def said(**changed: int) -> str:
    return "Running 1s test @ http://…\n  32 connections\n\n" + json.dumps(FIGURES | changed) + "\n"


def test_the_figures_are_in_the_last_line_of_wrk() -> None:
    assert parse_wrk(said(), "get", Load(), "nginx")["done"] == 10


@pytest.mark.parametrize(
    ("text", "operation", "reason"),
    [
        (said(errors=1), "get", "1 of 10 answers were errors"),
        (said(done=0), "put", "no answer in the time"),
        (said(bytes=10 * 4096 - 1), "get", "too few"),
        ("unable to connect to 127.0.0.1:80 Connection refused\n", "get", "no figures: 'unable to connect"),
        ("", "get", "no figures"),
    ],
)
def test_answers_that_were_not_the_files_are_no_measurement(text: str, operation: str, reason: str) -> None:
    with pytest.raises(Unavailable, match=reason):
        parse_wrk(text, operation, Load(bytes=4096), "nginx")


def test_small_answers_of_puts_are_no_error() -> None:
    assert parse_wrk(said(bytes=1500), "put", Load(), "nginx")["bytes"] == 1500


def test_processor_time_is_read_behind_a_name_with_brackets_and_includes_ended_children() -> None:
    line = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 99 0 0"

    assert parse_stat(line) == 127 / TICKS_PER_S


def test_usage_of_this_process_is_some_and_of_one_that_ended_none() -> None:
    ended = os.fork()
    if ended == 0:
        os._exit(0)
    os.waitpid(ended, 0)

    assert processor_s([os.getpid()]) > 0
    assert resident_kib([os.getpid()]) > 1000
    assert (processor_s([ended]), resident_kib([ended])) == (0, 0)


def test_a_figure_of_proc_is_that_of_the_whole_name() -> None:
    text = "Pss_Anon:    7 kB\nPss:   12 kB\n"

    assert kib_of("Pss", text) == 12
    assert kib_of("Rss", text) == 0


def test_the_disk_is_what_the_file_system_gave_not_what_files_say_of_their_length(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(100_000))
    os.sync()

    assert 100_000 <= disk_bytes([tmp_path]) < 1 << 20


def test_leaving_the_page_cache_leaves_the_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")

    leave_page_cache([tmp_path])

    assert (tmp_path / "file").read_bytes() == b"kept"


def results() -> dict[str, Any]:
    run = Run(1000, 2.0, 50, 80, 100, 200, 0.95, 1.0)
    held = Contest("get", "HTTP", Load(), runs={"sfss": [run, run], "nginx": [run]})
    held_at_one = Contest("get", "HTTP", Load(connections=1), runs={"sfss": [run]})
    side = {"side": "sfss", "bytes": 4096, "processes": 5, "resident_mib": 300.4, "disk_bytes_per_byte": None}
    side |= {"ack_copies": 2, "ack_synced": True, "ack_lost_by": "two disks"}
    where = {"time": "2026-11-21T00:00:00Z", "commit": "abc", "cpu": "C", "cores": 2, "kernel": "6", "python": "3.11"}
    return {
        "machine": where | {"compiled": True, "load_before": 0.1},
        "pace": {"repeats": 3, "seconds": 3},
        "contests": [held.figures(), held_at_one.figures()],
        "sides": [side],
        "targets": [
            Verdict("GET: sfss / nginx", 0.4, 0.35, "×", at_least=True, spread=(0.3, 0.5), note="busy").figures(),
            Verdict("p99 / p50", 6.0, 5.0, "×").figures(),
        ],
        "missing": ["HTTP: flask not installed"],
    }


def test_a_table_says_found_spread_required_and_the_verdict() -> None:
    lines = plain(targets_table(results()["targets"])).splitlines()

    assert lines[1].split() == ["GET:", "sfss", "/", "nginx", "0.400", "×", "0.300–0.500", "≥", "0.35", "met", "busy"]
    assert lines[2].split() == ["p99", "/", "p50", "6.00", "×", "≤", "5", "MISSED"]


def test_a_table_says_where_the_load_was_the_limit() -> None:
    assert "0.95 limit" in plain(contests_table(results()["contests"]))


def test_cells_of_a_table_for_documents_stand_below_its_rules_and_the_first_is_never_empty() -> None:
    for table in (
        targets_table(results()["targets"]),
        contests_table(results()["contests"]),
        sides_table(results()["sides"]),
    ):
        rule, *lines = rst(table).splitlines()
        between = [place for place, mark in enumerate(rule) if mark == " "]

        assert len(lines) == len(table) + 2
        assert all(line.ljust(len(rule))[place] in " =" for line in lines for place in between)
        assert all(line[0] != " " and len(line) <= len(rule) for line in lines)


def test_a_page_gets_other_figures_and_keeps_the_rest() -> None:
    page = f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n"

    assert replace_between(page, "new") == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    with pytest.raises(ValueError, match="has no lines"):
        replace_between("no marks", "new")


def test_a_document_is_made_of_results_with_the_same_bytes_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What draws is installed by `make bench` only.
    for draw in ("draw_bars", "draw_lines"):
        monkeypatch.setattr(f"bench.document.{draw}", lambda path, *figures, **how: path.write_text(repr(figures)))
    (tmp_path / "docs" / "pictures").mkdir(parents=True)
    page, pictures = tmp_path / "docs" / "page.rst", tmp_path / "docs" / "pictures"
    page.write_text(f"Page\n====\n\n{BEGIN}\n\n{END}\n")
    (tmp_path / "targets.json").write_text(json.dumps(results()))
    (pictures / "targets-of-before.svg").write_text("<svg/>")

    write_document(tmp_path / "targets.json", tmp_path / "full.json", page, pictures)
    first = {path.name: path.read_bytes() for path in [page, *pictures.iterdir()]}
    write_document(pictures / "targets.json", tmp_path / "full.json", page, pictures)

    assert {path.name: path.read_bytes() for path in [page, *pictures.iterdir()]} == first
    assert sorted(first) == [
        "page.rst",
        "targets-http-get-4-kib-cpu.svg",
        "targets-http-get-4-kib-rate.svg",
        "targets.json",
        "targets.svg",
    ]
    assert b"Left out: HTTP: flask not installed." in first["page.rst"]


def test_the_grid_is_pictures_over_connections_and_stays_when_only_targets_are_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    for draw in ("draw_bars", "draw_lines"):
        monkeypatch.setattr(f"bench.document.{draw}", lambda path, *figures, **how: drawn.update({path.name: figures}))
    page, pictures = tmp_path / "page.rst", tmp_path / "pictures"
    page.write_text(f"{BEGIN}\n{END}\n")
    grid = results()
    run = Run(1000, 2.0, 50, 80, 100, 200, 0.5, 1.0)
    grid["contests"] = [
        Contest("get", "HTTP", Load(connections=count), runs={"sfss": [run]}).figures() for count in (256, 1, 32)
    ]
    (tmp_path / "full.json").write_text(json.dumps(grid))
    write_document(tmp_path / "targets.json", tmp_path / "full.json", page, pictures)
    (tmp_path / "full.json").unlink()

    drawn.clear()
    write_document(tmp_path / "targets.json", tmp_path / "full.json", page, pictures)

    *_, series = drawn["full-http-get-connections.svg"]
    assert series == {"sfss": [(1, 500), (32, 500), (256, 500)]}
    assert "full-http-get-connections.svg" in page.read_text()


def test_names_of_pictures_are_plain() -> None:
    assert slug("HTTP GET 4 KiB, 1 connection, cold") == "http-get-4-kib-1-connection-cold"


def test_without_matplotlib_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(Unavailable, match="matplotlib is not installed"):
        draw_bars(tmp_path / "bars.svg", "bars", "per second", {"one": (1.0, 0.5, 2.0)})
