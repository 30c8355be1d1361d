"""What one process has counted is seen by the others: soon, and wholly when it ends."""

from __future__ import annotations

from web_tier import eventually, request, web_tier

from sfss.web.counters import SharedCounters


async def test_another_process_sees_what_was_answered() -> None:
    elsewhere = SharedCounters(1)
    async with web_tier() as web, await web.connect() as client:
        elsewhere._words = web.counters._words
        for count in range(1, 4):
            await client.send(request("GET", "/healthz"))
            await client.reply()
            await eventually(lambda count=count: elsewhere.requests().answered["other", "2xx"] == count)


async def test_nothing_is_left_uncounted_when_a_server_ends() -> None:
    elsewhere = SharedCounters(1)
    async with web_tier() as web:
        elsewhere._words = web.counters._words
        async with await web.connect() as client:
            for _ in range(5):
                await client.send(request("GET", "/healthz"))
                await client.reply()

    assert elsewhere.requests().answered["other", "2xx"] == 5
