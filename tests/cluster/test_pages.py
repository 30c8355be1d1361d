"""The status page and the monitor over a real cluster, in a real browser: that what they show is what is."""

from __future__ import annotations

import asyncio
import configparser
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.http_client import HttpClient
from tests.integration.browser import CHROMIUM, Browser, Tab

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    browser = Browser(tmp_path / "profile")
    try:
        await browser.start()
        yield browser
    finally:
        await browser.close()


async def levels(tab: Tab, part: str) -> dict[str, str]:
    """How the rows of a part of the page are marked, by the names of the servers."""
    rows = f"[...document.querySelectorAll('{part} tbody tr')]"
    pair = "[row.querySelector('.peer').textContent, row.dataset.level]"
    return dict(await tab.evaluate(f"Object.fromEntries({rows}.map((row) => {pair}))"))


async def use(cluster: Cluster) -> None:
    """Write and read files, one after the other, until cancelled."""
    client = HttpClient(*cluster.webs[0].address)
    number = 0
    try:
        while True:
            number += 1
            await client.request("PUT", f"/file?path=pages/{number % 50}", b"x" * 4096)
            for _ in range(3):
                await client.request("GET", f"/file?path=pages/{number % 50}")
            await asyncio.sleep(0.02)
    finally:
        client.close()


async def open_page(browser: Browser, url: str) -> Tab:
    tab = await browser.open(width=1500)
    await tab.goto(url)
    await tab.wait_until("typeof figures === 'object' && figures.total.samples.length > 3")
    return tab


async def test_the_pages_tell_of_every_part_and_of_a_killed_node_and_of_all_proxies_gone(
    browser: Browser, tmp_path: Path
) -> None:
    async with Cluster(tmp_path / "c", nodes=3, proxies=2, webs=1, monitors=True) as cluster:
        using = asyncio.create_task(use(cluster))
        ini = configparser.ConfigParser()
        ini.read(tmp_path / "c" / "proxy-0.ini")
        status = await open_page(browser, f"http://127.0.0.1:{cluster.webs[0].port}/status")
        monitor = await open_page(browser, f"http://127.0.0.1:{ini['monitor']['port']}/")
        victim = f"127.0.0.1:{cluster.nodes[1].port}"

        await status.wait_until("document.querySelectorAll('td[data-known=false]').length === 0")
        parts = await levels(status, "#tables")
        tiles = await status.evaluate("[...document.querySelectorAll('.tile:not([hidden])')].length")
        detail = await status.text("#verdict-detail")
        note = await status.text("#table-nodes .note")
        ring = await levels(monitor, "#table-ring")
        cluster.nodes[1].kill()
        for tab in (status, monitor):
            await tab.wait_until("document.querySelector('h1').innerText === '1 of 3 nodes is down'")
        dead = [await levels(tab, "#table-nodes") for tab in (status, monitor)]
        means = await status.text("#verdict-detail")
        await cluster.nodes[1].start()
        for tab in (status, monitor):
            await tab.wait_until("document.querySelector('h1').innerText === 'All is well'")
        using.cancel()
        await asyncio.gather(using, return_exceptions=True)
        for proxy in cluster.proxies:
            proxy.kill()
        await status.wait_until("document.querySelector('h1').innerText === 'Files can\\'t be reached'")
        await monitor.wait_until("document.querySelector('h1').innerText === 'The server doesn\\'t answer'")

        assert parts.pop("cluster") == ""  # a row about no server: how safe the files are
        assert len(parts) == 3 + 2 + 1
        assert set(parts.values()) == {"ok"}
        assert tiles == 4
        assert detail == "3 nodes, 2 proxies and 1 web process answer."
        assert "3 copies of each" in note
        assert list(ring) == [f"127.0.0.1:{node.port}" for node in sorted(cluster.nodes, key=lambda node: node.port)]
        for marked in dead:
            assert marked.pop(victim) == "bad"
            assert set(marked.values()) == {"ok"}
        assert means == "Files stay readable and writable."
