"""The pages in a real browser: that they live, tell the truth, fit a phone, and treat every text as text.

The figures come from an invented cluster; the browser's clock runs ten times as fast, so the page asks five times a
second and no test waits for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from proxy.monitor import start_monitor
from tests.integration.browser import CHROMIUM, Browser, Tab
from tests.integration.invented_cluster import InventedCluster, StatusServer

# One browser, and so one loop, for all tests of this file: it takes seconds to start.
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.asyncio(loop_scope="module"),
]

FAST = """{
  const now = performance.now.bind(performance);
  const later = window.setTimeout;
  performance.now = () => now() * 10;
  window.setTimeout = (work, ms, ...rest) => later(work, ms / 10, ...rest);
}"""

HIDE = "Object.defineProperty(document, 'hidden', {{ configurable: true, get: () => {0} }});"
TELL = "document.dispatchEvent(new Event('visibilitychange'))"

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    chromium = Browser(tmp_path_factory.mktemp("browser") / "profile")
    try:
        await chromium.start()
        yield chromium
    finally:
        await chromium.close()


@pytest_asyncio.fixture(loop_scope="module")
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    """The browser, without the tabs that a test opens once it is over."""
    before = chromium.tabs()
    yield chromium
    for tab in chromium.tabs():
        if tab not in before:
            await tab.close()


@pytest.fixture
def cluster() -> InventedCluster:
    return InventedCluster(speed=10)


@pytest_asyncio.fixture(loop_scope="module")
async def server(cluster: InventedCluster) -> AsyncIterator[StatusServer]:
    server = StatusServer(cluster)
    await server.start()
    yield server
    await server.close()


async def open_status(browser: Browser, server: StatusServer, **size: Any) -> Tab:
    tab = await browser.open(script=FAST, **size)
    await tab.goto(f"http://127.0.0.1:{server.port}/status")
    await tab.wait_until("document.body?.dataset.link === 'live' && figures.total.samples.length > 2")
    return tab


def row_of(name: str) -> str:
    """A JavaScript expression for the table row of a server."""
    return f"[...document.querySelectorAll('tbody tr')].find((row) => row.innerText.includes({json.dumps(name)}))"


async def fits_its_width(tab: Tab) -> bool:
    """Whether there is nothing to scroll to at the side."""
    return bool(await tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = re.findall(r"\d+", colour)[:3]
    return int(red), int(green), int(blue)


# --- it lives --------------------------------------------------------------------------------------------


async def test_figures_change_without_reload_and_without_a_request_to_another_host(
    browser: Browser, server: StatusServer
) -> None:
    tab = await open_status(browser, server)
    before = await tab.text("#table-nodes tbody tr")
    await tab.wait_until(f"{row_of('localhost:7900')}.innerText !== {json.dumps(before)}")
    line = await tab.evaluate("document.querySelector('.tile .line').getAttribute('d')")

    assert await tab.text("h1") == "All is well"
    assert await tab.text("#verdict-detail") == "3 nodes, 2 proxies and 2 web processes answer."
    assert line.count("L") >= 1
    assert await tab.evaluate("performance.getEntriesByType('navigation').length") == 1
    asked = {url for url in tab.requests if not url.startswith("data:")}
    assert asked == {f"http://127.0.0.1:{server.port}/status"}
    assert tab.complaints == []


async def test_every_node_proxy_and_web_process_has_a_row_with_its_figures(
    browser: Browser, server: StatusServer
) -> None:
    tab = await open_status(browser, server, width=1500)

    names = await tab.evaluate("[...document.querySelectorAll('tbody .peer')].map((name) => name.textContent)")
    nodes = await tab.evaluate("[...document.querySelectorAll('#table-nodes thead th')].map((th) => th.textContent)")
    dashes = await tab.evaluate("document.querySelectorAll('td[data-known=false]').length")

    assert names == [
        "localhost:7900",
        "localhost:7901",
        "localhost:7902",
        "localhost:8900",
        "localhost:8901",
        "process 5301",
        "process 5302",
        "cluster",
    ]
    assert nodes == [
        "Node",
        "Last minute",
        "Reads/s",
        "Writes/s",
        "Hit ratio",
        "Read p50 / p99",
        "Write p50 / p99",
        "In",
        "Out",
        "Files",
        "Data, share",
        "Disk free",
        "Memory",
        "Uptime",
    ]
    assert dashes == 0


async def test_a_dead_node_turns_red_and_says_so_and_recovers(
    browser: Browser, server: StatusServer, cluster: InventedCluster
) -> None:
    tab = await open_status(browser, server)
    row = row_of("localhost:7901")

    cluster.dead.add("localhost:7901")
    await tab.wait_until(f"{row}.dataset.level === 'bad'")
    red, green, blue = rgb(await tab.evaluate(f"getComputedStyle({row}.querySelector('.peer')).color"))
    said = await tab.evaluate(f"{row}.innerText")
    verdict = await tab.text("#verdict")
    title = await tab.evaluate("document.title")
    others = await tab.evaluate("document.querySelectorAll('tr[data-level=ok]').length")
    cluster.dead.clear()
    await tab.wait_until("document.querySelector('h1').innerText === 'All is well'")

    assert red > 150 > max(green, blue) + 50
    assert "dead" in said
    assert "connection refused" in said
    assert "1 of 3 nodes is down" in verdict
    assert "Files stay readable and writable." in verdict
    assert "localhost:7901 is dead: connection refused" in verdict
    assert title == "1 of 3 nodes is down · status · sfss"
    assert others == 6
    assert await tab.evaluate(f"{row}.dataset.level") == "ok"
    assert tab.complaints == []


async def test_writes_that_wait_for_a_node_turn_the_page_to_recovering_and_back(
    browser: Browser, server: StatusServer, cluster: InventedCluster
) -> None:
    tab = await open_status(browser, server, width=360)

    cluster.extra["localhost:8900"] = {"hints_waiting": "12", "hints_oldest_s": "95"}
    await tab.wait_until("document.querySelector('h1').innerText === 'Recovering'")
    said = await tab.text("#verdict-notes")
    level = await tab.evaluate("document.querySelector('#verdict').dataset.level")
    row = await tab.text("#table-durability tbody")
    fits = await fits_its_width(tab)
    cluster.extra.clear()
    await tab.wait_until("document.querySelector('h1').innerText === 'All is well'")

    assert said == "12 writes kept for replicas that were away, the oldest for 95 s"
    assert level == "warn"
    assert "recovering" in row
    assert "1 min" in row
    assert fits


async def test_a_server_that_is_gone_is_said_and_its_return_is_noticed(browser: Browser, server: StatusServer) -> None:
    tab = await open_status(browser, server)

    await server.close()
    await tab.wait_until("document.body.dataset.link === 'lost'")
    gone = await tab.text("#verdict")
    level = await tab.evaluate("document.querySelector('#verdict').dataset.level")
    await tab.wait_until("document.querySelector('#clock').innerText.includes('ago')")
    kept = await tab.text("#table-nodes tbody tr")
    await server.start(server.port)
    await tab.wait_until("document.body.dataset.link === 'live'")

    assert "The server doesn't answer" in gone
    assert level == "bad"
    assert "localhost:7900" in kept
    assert await tab.text("h1") == "All is well"
    assert await tab.evaluate("document.body.dataset.stale") == "false"


async def test_a_web_tier_that_reaches_no_proxy_is_told_in_its_own_words(
    browser: Browser, server: StatusServer
) -> None:
    tab = await open_status(browser, server)

    server.broken = True
    await tab.wait_until("document.querySelector('h1').innerText === 'Files can\\'t be reached'")
    detail = await tab.text("#verdict-detail")
    server.broken = False
    await tab.wait_until("document.querySelector('h1').innerText === 'All is well'")

    assert detail == "none of 2 proxies answers"


async def test_a_hidden_page_asks_for_nothing_and_wakes_when_it_is_looked_at(
    browser: Browser, server: StatusServer
) -> None:
    tab = await open_status(browser, server)

    await tab.evaluate(HIDE.format("true") + TELL)
    await tab.wait_until("document.body.dataset.link === 'paused' && !asking")
    asked = len(tab.requests)
    await tab.evaluate("new Promise((done) => setTimeout(done, 10000))")  # five times the page's own interval
    asked_while_hidden = len(tab.requests) - asked
    await tab.evaluate(HIDE.format("false") + TELL)
    await tab.wait_until("document.body.dataset.link === 'live'")

    assert asked_while_hidden == 0


async def test_a_page_that_becomes_hidden_while_it_asks_says_that_it_rests(
    browser: Browser, server: StatusServer
) -> None:
    tab = await open_status(browser, server)

    await tab.evaluate("clearTimeout(timer); ask(); " + HIDE.format("true") + TELL)
    await tab.wait_until("!asking")

    assert await tab.text("#link-text") == "Paused while hidden"


async def test_a_pointer_on_one_chart_shows_that_moment_in_all_of_them(browser: Browser, server: StatusServer) -> None:
    tab = await open_status(browser, server)
    box = "document.querySelector('.frame').getBoundingClientRect()"
    x, y = await tab.evaluate(f"[{box}.left + {box}.width - 2, {box}.top + 20]")

    await tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    times = await tab.evaluate("[...document.querySelectorAll('.axis .now')].map((time) => time.innerText)")
    await tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    after = await tab.text(".axis .now")

    assert len(times) == 4
    assert len(set(times)) == 1
    assert re.fullmatch(r"\d\d:\d\d:\d\d", times[0])
    assert after == "now"


# --- for everybody ---------------------------------------------------------------------------------------


async def test_at_360_pixels_nothing_lies_at_the_side(
    browser: Browser, server: StatusServer, cluster: InventedCluster
) -> None:
    cluster.nodes = (*cluster.nodes, "a-very-long-name-" * 12 + "example.net:7900")
    cluster.dead.add("localhost:7902")
    tab = await open_status(browser, server, width=360, height=740)

    assert await tab.evaluate("window.innerWidth") == 360
    assert await fits_its_width(tab)
    assert await tab.evaluate("document.body.dataset.layout") == "cards"
    assert "dead" in await tab.evaluate(f"{row_of('localhost:7902')}.innerText")
    clipped = await tab.evaluate(
        "[...document.querySelectorAll('td, th, .reading, h1, p')].filter("
        "(part) => part.getClientRects().length && part.getBoundingClientRect().right > innerWidth"
        " && !part.closest('thead') && !part.closest('.skip')).length"
    )
    assert clipped == 0
    too_narrow = "[...document.querySelectorAll('td')].filter((cell) => cell.scrollWidth > cell.clientWidth + 1).length"
    assert await tab.evaluate(too_narrow) == 0


async def test_tables_become_cards_where_they_do_not_fit_and_tables_again_where_they_do(
    browser: Browser, server: StatusServer
) -> None:
    tab = await open_status(browser, server, width=1400)

    layouts = []
    for width in (1400, 900, 1400):
        await tab.resize(width, 900)
        await tab.wait_until(f"window.innerWidth === {width}")
        await tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        layouts.append(await tab.evaluate("document.body.dataset.layout"))
        assert await fits_its_width(tab)

    assert layouts == ["tables", "cards", "tables"]


async def test_dark_mode_is_dark(browser: Browser, server: StatusServer) -> None:
    tab = await open_status(browser, server, dark=True)
    ground = rgb(await tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    ink = rgb(await tab.evaluate("getComputedStyle(document.querySelector('h1')).color"))
    await tab.prefer(dark=False)
    light = rgb(await tab.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert max(ground) < 40
    assert min(ink) > 200
    assert min(light) > 230


async def test_nothing_moves_where_motion_is_not_wanted(browser: Browser, server: StatusServer) -> None:
    tab = await open_status(browser, server)
    animation = "getComputedStyle(document.querySelector('.dot')).animationName"

    moving = await tab.evaluate(animation)
    await tab.prefer(reduced_motion=True)

    assert moving == "breathe"
    assert await tab.evaluate("document.getAnimations().length") == 0
    assert await tab.evaluate(animation) == "none"


@pytest.mark.parametrize("width", [1400, 360])
async def test_a_screen_reader_finds_landmarks_tables_and_charts_in_words(
    browser: Browser, server: StatusServer, width: int
) -> None:
    tab = await open_status(browser, server, width=width)

    tree = (await tab.send("Accessibility.getFullAXTree"))["nodes"]
    parts = [(node.get("role", {}).get("value"), node.get("name", {}).get("value", "")) for node in tree]
    roles = [role for role, _ in parts]

    assert {"banner", "main", "contentinfo", "status"} <= set(roles)
    assert [name for role, name in parts if role == "heading"][:2] == ["All is well", "Nodes"]
    assert [name for role, name in parts if role == "table"] == [
        "Nodes",
        "Proxies",
        "Web processes",
        "Durability",
    ]
    assert roles.count("rowheader") == 8
    assert ("columnheader", "Hit ratio") in parts
    charts = [name for role, name in parts if role in ("image", "img")]
    assert len(charts) == 4 + 7
    assert all("last minute: " in name for name in charts)


# --- texts from outside ----------------------------------------------------------------------------------


async def test_names_and_errors_are_shown_as_text_and_never_run(browser: Browser, server: StatusServer) -> None:
    cluster = server.cluster
    cluster.nodes = (HOSTILE, "__proto__", "constructor")
    cluster.states["constructor"] = HOSTILE
    cluster.extra["__proto__"] = {"error": HOSTILE, "note": HOSTILE, "pid": HOSTILE}

    tab = await open_status(browser, server)

    assert await tab.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert "owned" not in await tab.evaluate("document.title.replaceAll(/<.*>/g, '')")
    assert HOSTILE in await tab.text("#table-nodes")
    assert HOSTILE in await tab.text("#verdict")
    assert tab.complaints == []


async def test_a_server_that_tells_almost_nothing_gets_dashes(browser: Browser, server: StatusServer) -> None:
    tab = await open_status(browser, server)
    answers: list[object] = [
        {"localhost:11211": {"state": "ok", "pid": "7", "cmd_get": "5", "curr_items": "x"}, "storages": {}},
        {"localhost:8900": {}, "storages": {"a:1": {}, "b:2": {"state": "dead"}}, "webserver": {}},
        {"storages": {"a:1": {"state": "ok"}}, "webserver": {"workers": {"12": {"requests_get": "1"}}}},
        {"a": None, "b": [], "storages": None, "webserver": [], "ring": 5},
        {"storages": {"a:1": {"cmd_get": "1e400", "uptime": "-", "bytes_read": None}}, "ring": {"nodes": {"a:1": 3}}},
        {},
    ]

    for answer in answers:
        await tab.evaluate(
            f"(() => {{ const at = performance.now(); figures.take(at, {json.dumps(answer)}); draw(at); }})()"
        )
        text = await tab.evaluate("document.body.innerText")
        assert not re.search(r"NaN|undefined|Infinity|null|\[object", text), answer

    assert tab.complaints == []


# --- the monitor -----------------------------------------------------------------------------------------


async def test_the_monitor_shows_the_ring_s_balance_and_a_dead_node_in_red(
    browser: Browser, cluster: InventedCluster
) -> None:
    monitor = await start_monitor(cluster, "127.0.0.1", 0)
    try:
        tab = await browser.open(script=FAST)
        await tab.goto(f"http://127.0.0.1:{monitor.port}/")
        await tab.wait_until("figures.total.samples.length > 2")
        ring = await tab.text("#table-ring")
        subject = await tab.text(".brand")
        cluster.dead.add("localhost:7902")
        cluster.joint = True
        await tab.wait_until(f"{row_of('localhost:7902')}.dataset.level === 'bad'")
        await tab.wait_until("document.querySelector('#table-ring').innerText.includes('next one')")

        assert subject == "sfss monitor of localhost:8900"
        assert "Ring 1 · 4,096 partitions · a write waits for 2 of 3 nodes, a read for 2" in ring
        for words in ("Zone", "Weight", "First owner of", "Partitions, share", "Off its weight", "33.8 %"):
            assert words in ring
        assert "Ring 2 · 4,096 partitions · on its way to the next one · a write" in await tab.text("#table-ring")
        assert await tab.text("h1") == "1 of 3 nodes is down"
        assert await fits_its_width(tab)
        assert tab.complaints == []
    finally:
        await monitor.close()
