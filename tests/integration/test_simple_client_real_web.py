"""simple_client.py against the real web tier, over a store in memory."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from web_tier import WebTier, make_certificate, web_tier

from sfss.explanation import key_of_topic
from sfss.memory import MemoryStore
from sfss.store import NO_CALL, Call
from sfss.tls import server_tls

CLIENT = Path(__file__).parents[2] / "simple_client.py"


async def run(*arguments: object) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CLIENT),
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_file_goes_in_as_a_form_and_comes_back_the_same(tmp_path: Path) -> None:
    local = tmp_path / "照片.jpg"
    local.write_bytes(bytes(range(256)) * 8192)  # 2 MiB, the largest there may be

    async with web_tier() as web:
        where = ("--port", web.port, "--path", "ordner/照片 1.jpg")
        posted = await run(*where, "--filepath", local)
        got = await run("get", *where, "--filepath", tmp_path / "back.jpg")

    assert posted[0] == 0
    assert posted[1].startswith("201 Created  ETag: ")
    assert got[0] == 0
    assert (tmp_path / "back.jpg").read_bytes() == local.read_bytes()
    assert [record.size for record in web.store.records.values()] == [2 * 1024 * 1024]


async def test_a_refusal_says_what_the_server_said(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(3 * 1024 * 1024))

    async with web_tier() as web:
        too_large = await run("put", "--port", web.port, "--path", "a", "--filepath", large)
        bad_path = await run("put", "--port", web.port, "--path", "a//b", "--filepath", CLIENT)
        no_utf_8 = await run("get", "--port", web.port, "--path", "\udcff")
        missing = await run("rm", "--port", web.port, "--path", "nowhere")

    assert (too_large[0], bad_path[0], missing[0]) == (1, 1, 4)
    assert too_large[2].startswith("413 ")
    assert "too_large" in too_large[2]
    assert bad_path[2].startswith("400 ")
    assert no_utf_8[2].startswith("400 ")
    assert missing[2].startswith("404 ")


class Placed(MemoryStore):
    """A store that says where its keys live."""

    def stats(self, topic: str = "", call: Call = NO_CALL) -> dict[str, str]:
        assert key_of_topic(topic) == "ä b".replace(" ", "%20").encode()
        return {"partition": "7", "n0:1/place": "0", "n0:1/verdict": "whole"}


async def test_explain_prints_where_a_file_lives() -> None:
    async with web_tier(Placed(durable=True)) as web:
        status, out, _ = await run("explain", "--port", web.port, "--path", "ä b")

    assert status == 0
    assert json.loads(out)["replicas"] == [{"address": "n0:1", "place": 0, "verdict": "whole"}]


async def test_explain_is_refused_in_the_servers_words_where_it_is_not_to_be_had() -> None:
    async with web_tier() as web:
        no_replicas = await run("explain", "--port", web.port, "--path", "a")
    async with web_tier(settings={"operators": "10.0.0.1"}) as web:
        no_operator = await run("explain", "--port", web.port, "--path", "a")

    assert (no_replicas[0], no_operator[0]) == (1, 1)
    assert no_replicas[2].startswith("501 ")
    assert no_operator[2].startswith("403 ")


async def check_bench(web: WebTier, *arguments: object) -> None:
    """Run a benchmark of all sizes and see that nothing failed and nothing is left."""
    status, out, err = await run(
        *("bench", "--port", web.port, "--json", "--requests", 1000, "--concurrency", 16, "--keys", 60),
        *("--reads", 0.5, "--sizes", "0b,100b,4k:3,64k,300k,1m:2,2m", "--timeout", 10, *arguments),
    )

    assert status == 0, out + err
    figures: dict[str, Any] = json.loads(out)
    assert figures["total"]["count"] == 1000
    assert figures["files_left"] == 0
    assert [record for record in web.store.records.values() if not record.tombstone] == []


async def test_bench_of_all_sizes_has_no_error_and_leaves_nothing() -> None:
    async with web_tier() as web:
        await check_bench(web)


async def test_bench_speaks_tls_to_a_server_whose_authority_it_trusts(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)

    async with web_tier(tls=server_tls(str(cert), str(key))) as web:
        await check_bench(web, "--host", "localhost", "--ssl", "--cafile", cert)


async def test_a_certificate_that_is_not_trusted_is_one_line_unless_any_will_do(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)

    async with web_tier(tls=server_tls(str(cert), str(key))) as web:
        where = ("--host", "localhost", "--port", web.port, "--path", "a")
        refused = [await run("rm", *where, "--ssl"), await run("bench", *where[:4], "--ssl")]
        accepted = await run("rm", *where, "--ssl", "--insecure")
        plain = await run("rm", *where)

    for status, out, err in refused:
        assert (status, out) == (3, "")
        assert "is not trusted" in err
        assert "--cafile" in err
        assert err.count("\n") == 1
    assert accepted[0] == 4
    assert plain[0] == 3
    assert plain[2].count("\n") == 1
