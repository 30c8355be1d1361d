"""What the pages make of the figures: `figures.js`, which touches no document, called in a real browser."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.browser import CHROMIUM, Browser, Tab
from tests.integration.invented_cluster import InventedCluster, StatusServer

# One browser, and so one loop, for all tests of this file: it takes seconds to start.
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def logic(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tab]:
    """A tab to call the page's functions in."""
    browser = Browser(tmp_path_factory.mktemp("browser") / "profile")
    server = StatusServer(InventedCluster())
    await server.start()
    try:
        await browser.start()
        tab = await browser.open()
        await tab.goto(f"http://127.0.0.1:{server.port}/status")
        await tab.wait_until("document.body?.dataset.link === 'live'")
        await server.close()
        yield tab
    finally:
        await server.close()
        await browser.close()


async def judge(
    tab: Tab, nodes: list[str], proxies: list[str], quorum: str = "3/2/2", **extra: dict[str, str]
) -> dict[str, Any]:
    """The verdict on nodes and proxies in the given states."""
    answer: dict[str, Any] = {
        f"proxy-{index}:1": {"state": state, "quorum": quorum} for index, state in enumerate(proxies)
    }
    answer["storages"] = {f"node-{index}:1": {"state": state, **extra} for index, state in enumerate(nodes)}
    found = await tab.evaluate(
        f"(() => {{ const f = new Figures(); f.take(1, {json.dumps(answer)}); return verdict(f); }})()"
    )
    return dict(found)


STAY = "Files stay readable and writable."
NEITHER = "can't be read or written"
OTHER = "Requests go through the other proxy."


@pytest.mark.parametrize(
    ("nodes", "proxies", "quorum", "level", "line", "detail"),
    [
        ("ooo", "oo", "3/2/2", "ok", "All is well", "3 nodes and 2 proxies answer."),
        ("o", "o", "1/1/1", "ok", "All is well", "1 node and 1 proxy answer."),
        ("oxo", "oo", "3/2/2", "warn", "1 of 3 nodes is down", STAY),
        ("xxo", "oo", "3/2/2", "bad", "2 of 3 nodes are down", f"Files {NEITHER} until a node is back."),
        (
            "xxo",
            "o",
            "3/2/1",
            "bad",
            "2 of 3 nodes are down",
            "Files can be read but not written until a node is back.",
        ),
        ("xo", "oo", "2/2/2", "bad", "1 of 2 nodes is down", f"Files {NEITHER} until a node is back."),
        ("xxooo", "o", "3/2/2", "bad", "2 of 5 nodes are down", f"Some files {NEITHER} until a node is back."),
        ("xxx", "o", "3/2/2", "bad", "All 3 nodes are down", f"Files {NEITHER} until nodes are back."),
        ("ooo", "xo", "3/2/2", "warn", "1 of 2 proxies is down", f"{STAY} {OTHER}"),
        ("ooo", "xx", "3/2/2", "bad", "All 2 proxies are down", f"Files {NEITHER} until a proxy is back."),
        ("oxo", "ox", "3/2/2", "warn", "1 of 3 nodes and 1 of 2 proxies are down", f"{STAY} {OTHER}"),
        ("xo", "", "", "warn", "1 of 2 nodes is down", "The nodes that are left answer."),
    ],
)
async def test_the_verdict_says_what_users_can_do(
    logic: Tab, nodes: str, proxies: str, quorum: str, level: str, line: str, detail: str
) -> None:
    states = {"o": "ok", "x": "dead"}

    found = await judge(logic, [states[node] for node in nodes], [states[proxy] for proxy in proxies], quorum)

    assert (found["level"], found["line"], found["detail"]) == (level, line, detail)


async def test_without_proxies_the_web_tier_tells_of_the_cluster(logic: Tab) -> None:
    direct = {
        "storages": {"a:1": {"state": "ok"}, "b:2": {"state": "dead"}, "c:3": {"state": "ok"}},
        "webserver": {"state": "ok", "quorum": "3/2/2", "curr_items": "17", "a:1/read_p99_us": "500"},
    }

    quorum, files, read_ms, said = await logic.evaluate(
        f"""(() => {{
          const f = new Figures();
          f.take(1, {json.dumps(direct)});
          return [f.quorum(), f.files(), f.nodes.get("a:1").last.readP99, verdict(f)];
        }})()"""
    )

    assert (quorum, files, read_ms) == ({"copies": 3, "writes": 2, "reads": 2}, 17, 0.5)
    assert (said["line"], said["detail"]) == ("1 of 3 nodes is down", STAY)


VERDICTS: list[tuple[dict[str, Any], str, str, str, list[str]]] = [
    ({"state": "ok", "reasons": []}, "ok", "All is well", "3 nodes and 1 proxy answer.", []),
    (
        {"state": "recovering", "reasons": ["5 writes kept for replicas that were away"]},
        "warn",
        "Recovering",
        f"{STAY} Not all is as it should be yet.",
        ["5 writes kept for replicas that were away"],
    ),
    (
        {"state": "failing", "reasons": ["files can't be read: 2 of 3 nodes are away", "b:2 is suspect"]},
        "bad",
        "Files are out of reach",
        "Files can't be read: 2 of 3 nodes are away.",
        ["b:2 is suspect"],
    ),
    ({"state": "unknown", "reasons": ["nobody"]}, "ok", "All is well", "3 nodes and 1 proxy answer.", []),
]


@pytest.mark.parametrize("told_by", ["webserver", "monitor"])
@pytest.mark.parametrize(("durability", "level", "line", "detail", "notes"), VERDICTS)
async def test_the_headline_is_the_servers_own_verdict_where_all_servers_answer(
    logic: Tab, told_by: str, durability: dict[str, Any], level: str, line: str, detail: str, notes: list[str]
) -> None:
    answer: dict[str, Any] = {"p:1": {"state": "ok", "quorum": "3/2/2"}}
    answer["storages"] = {f"{name}:1": {"state": "ok"} for name in "abc"}
    if told_by == "webserver":
        answer["webserver"] = {"state": "ok", "durability": durability}
    else:
        answer["durability"] = durability

    found = await logic.evaluate(
        f"(() => {{ const f = new Figures(); f.take(1, {json.dumps(answer)}); return verdict(f); }})()"
    )

    assert found == {"level": level, "line": line, "detail": detail, "notes": notes}


async def test_what_a_dead_node_is_noted_for_is_said_once(logic: Tab) -> None:
    reason = "b:2 is dead: gone"
    answer = {
        "p:1": {"state": "ok", "quorum": "3/2/2"},
        "storages": {"a:1": {"state": "ok"}, "b:2": {"state": "dead", "error": "b:2: gone"}, "c:3": {"state": "ok"}},
        "webserver": {"state": "ok", "durability": {"state": "recovering", "reasons": [reason, "9 writes kept"]}},
    }

    found = await logic.evaluate(
        f"(() => {{ const f = new Figures(); f.take(1, {json.dumps(answer)}); return verdict(f); }})()"
    )

    assert (found["line"], found["notes"]) == ("1 of 3 nodes is down", [reason, "9 writes kept"])


async def test_what_is_not_yet_an_outage_is_said_too(logic: Tab) -> None:
    corrupt = await judge(logic, ["ok"], ["ok"], corrupt_records="2", sync="always")  # type: ignore[arg-type]
    unsynced = await judge(logic, ["ok"], ["ok"], sync="never")  # type: ignore[arg-type]
    suspect = await judge(logic, ["ok"], ["ok"], error="recovering: it may have forgotten writes")  # type: ignore[arg-type]

    assert corrupt["level"] == unsynced["level"] == suspect["level"] == "warn"
    assert corrupt["notes"] == ["node-0:1 has found 2 records with a wrong checksum"]
    assert unsynced["notes"] == ["node-0:1 acknowledges writes before they are on disk (sync=never)"]
    assert suspect["line"] == "node-0:1 needs a look"


async def rates(tab: Tab, *told: tuple[int, dict[str, str]]) -> list[float | None]:
    """Reads per second after each of the answers (milliseconds, a node's STATS)."""
    answers = json.dumps([[at, {"storages": {"a:1": stats}}] for at, stats in told])
    return list(
        await tab.evaluate(
            f"(() => {{ const f = new Figures(); return {answers}.map(([at, answer]) => "
            "{ f.take(at, answer); return f.nodes.get('a:1').last.reads; }); })()"
        )
    )


async def test_a_rate_is_of_the_time_between_two_answers(logic: Tab) -> None:
    found = await rates(logic, (0, {"cmd_get": "100"}), (2000, {"cmd_get": "1100"}), (6000, {"cmd_get": "1300"}))

    assert found == [None, 500, 50]


async def test_there_is_no_rate_across_a_restart_or_an_absence(logic: Tab) -> None:
    found = await rates(
        logic,
        (0, {"pid": "1", "cmd_get": "100"}),
        (2000, {"pid": "2", "cmd_get": "900"}),
        (4000, {"pid": "2", "cmd_get": "1000"}),
        (6000, {"pid": "2", "cmd_get": "10"}),
        (8000, {"state": "dead"}),
        (10000, {"pid": "2", "cmd_get": "2000"}),
        (90000, {"pid": "2", "cmd_get": "2500"}),
    )

    assert found == [None, None, 50, None, None, None, None]


async def test_the_cluster_is_as_slow_as_its_slowest_operation_and_server(logic: Tab) -> None:
    found = await logic.evaluate(
        """(() => {
          const f = new Figures();
          const web = { latency_get_p99_us: "64000", latency_put_p99_us: "8000", latency_post_p99_us: "9000" };
          f.take(0, { "p:1": { "a:1/read_p99_us": "500" }, storages: { "a:1": {} }, webserver: web });
          const above = [f.total.last.readP99, f.total.last.writeP99, f.total.last.readP50];
          const proxy = { "a:1/read_p99_us": "500", "b:2/read_p99_us": "700" };
          f.take(1, { "p:1": proxy, storages: { "a:1": {}, "b:2": {} } });
          return [...above, f.total.last.readP99, f.nodes.get("a:1").last.readP99];
        })()"""
    )

    assert found == [64, 9, None, 0.7, 0.5]


async def test_what_a_node_has_yet_to_get_is_what_all_coordinators_keep_for_it(logic: Tab) -> None:
    found = await logic.evaluate(
        """(() => {
          const f = new Figures();
          const proxies = { "p:1": { "a:1/hints_waiting": "5" }, "p:2": { "a:1/hints_waiting": "7" } };
          f.take(0, { ...proxies, storages: { "a:1": {}, "b:2": {} } });
          return [f.nodes.get("a:1").stats.hints_waiting, f.nodes.get("b:2").stats.hints_waiting ?? null];
        })()"""
    )

    assert found == [12, None]


async def test_a_page_that_is_open_for_weeks_keeps_only_its_minutes(logic: Tab) -> None:
    kept = await logic.evaluate(
        """(() => {
          const f = new Figures();
          for (let at = 0; at < 4e6; at += 2000) f.take(at, { storages: { "a:1": { cmd_get: String(at) } } });
          f.take(5e6, { storages: { "b:2": {} } });
          return [f.total.samples.length, f.nodes.size];
        })()"""
    )

    assert kept[0] <= 160
    assert kept[1] == 1


@pytest.mark.parametrize(
    ("format_", "value", "text"),
    [
        ("percent", 0.99997, "99.9 %"),
        ("percent", 1, "100 %"),
        ("percent", None, "–"),
        ("bytes", 999, "999 B"),
        ("bytes", 999_600, "1.0 MB"),
        ("bytes", 48_300_000_000, "48.3 GB"),
        ("rate", 0, "0"),
        ("rate", 0.5, "0.5"),
        ("rate", 1234.5, "1,235"),
        ("milliseconds", 0.9, "0.90 ms"),
        ("milliseconds", 2500, "2.5 s"),
        ("duration", 59, "59 s"),
        ("duration", 183_600, "2 d 3 h"),
        ("count", 1_104_300, "1,104,300"),
    ],
)
async def test_figures_are_put_in_words_that_do_not_flatter(
    logic: Tab, format_: str, value: float | None, text: str
) -> None:
    assert await logic.evaluate(f"inWords({json.dumps(format_)}, {json.dumps(value)})") == text
