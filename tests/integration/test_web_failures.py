"""What a client is told, and the log, when the tiers below fail."""

from __future__ import annotations

import asyncio
import json

import pytest
from web_tier import PATIENCE_S, NoStatus, Reply, SlowStore, eventually, request, web_tier

from sfss import errors
from sfss.errors import Outcome, SfssError
from sfss.memory import MemoryStore
from sfss.store import NO_CALL, Call, Record


def error_of(body: bytes) -> str:
    name: str = json.loads(body)["error"]
    return name


@pytest.mark.parametrize(
    ("error", "status", "name", "outcome", "retry"),
    [
        (errors.Unreachable("none"), 504, "unreachable", "not-applied", True),
        (errors.QuorumUnavailable("1 of 2", Outcome.UNKNOWN), 503, "quorum_unavailable", "unknown", True),
        (errors.QuorumUnavailable("1 of 2"), 503, "quorum_unavailable", "not-applied", True),
        (errors.Busy("full"), 503, "busy", "not-applied", True),
        (errors.Recovering("r"), 503, "recovering", "not-applied", True),
        (errors.Expired("late", Outcome.UNKNOWN), 503, "deadline_expired", "unknown", True),
        (errors.ConnectionLost("gone", Outcome.UNKNOWN), 503, "connection_lost", "unknown", True),
        (errors.RemoteError("?", Outcome.UNKNOWN), 502, "remote_error", "unknown", True),
        (errors.OutOfDisk("full"), 507, "out_of_disk", "not-applied", False),
        (errors.CorruptRecord("bad"), 500, "corrupt", "not-applied", False),
        (errors.TooLarge("big"), 413, "too_large", "not-applied", False),
        (errors.Unsupported("no"), 501, "unsupported", "not-applied", False),
        (errors.WrongCluster("no"), 502, "wrong_cluster", "not-applied", False),
    ],
)
async def test_each_error_of_the_store_has_its_status(
    error: SfssError, status: int, name: str, outcome: str, retry: bool
) -> None:
    store = SlowStore()
    store.failure = error
    async with web_tier(store) as web:
        got = await web.get("x")
        put = await web.put("x", b"1")

    assert (got.status, put.status) == (status, status)
    assert error_of(got.body) == name
    assert "sfss-outcome" not in got.headers
    assert put.headers["sfss-outcome"] == outcome
    assert ("retry-after" in put.headers) is retry


async def test_an_error_that_is_ours_is_500_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryStore):
        def get(self, key: bytes, call: Call = NO_CALL) -> Record | None:
            raise ZeroDivisionError

    async with web_tier(Broken()) as web:
        got = await web.get("x")

    assert (got.status, error_of(got.body)) == (500, "internal")
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_failures_below_are_warned_of_with_a_request_id_and_not_each_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = SlowStore()
    store.failure = errors.QuorumUnavailable("1 of 2")
    async with web_tier(store) as web, await web.connect() as client:
        await client.send(request("GET", "/file?path=x", "X-Request-Id: the-first") * 100)
        for _ in range(100):
            assert (await client.reply()).status == 503

        def lines() -> list[str]:
            return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

        await eventually(lambda: any("since the last such line" in line for line in lines()))

    assert lines()[0] == "GET /file?path=x: 503 quorum_unavailable: 1 of 2"
    assert caplog.records[0].request_id == "the-first"
    assert sum(int(line.rpartition("(")[2].split()[0]) for line in lines()[1:]) == 99
    assert len(lines()) < 20


async def test_what_only_clients_do_wrong_warns_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with web_tier() as web:
        assert (await web.put("x", b"1", "If-Match: *")).status == 501
        assert (await web.ask(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n")).status == 505
        assert (await web.get("../x")).status == 400

    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


async def test_a_crowd_that_asks_for_status_is_one_question_to_the_tiers_below() -> None:
    class Slow(NoStatus):
        def __init__(self) -> None:
            self.gate = asyncio.Event()
            self.asked = 0

        async def collect(self) -> dict[str, object]:
            self.asked += 1
            await self.gate.wait()
            return {"storages": {}, "number": str(self.asked)}

    def number_in(reply: Reply) -> str:
        return str(json.loads(reply.body)["number"])

    source = Slow()
    async with web_tier(status=source) as web:
        crowd = [asyncio.create_task(web.ask(request("GET", "/status"))) for _ in range(50)]
        await eventually(lambda: web.server.connection_count == 50 and len(web.server.tasks) == 50)
        source.gate.set()
        assert {number_in(await one) for one in crowd} == {"1"}
        assert source.asked == 1

        async with asyncio.timeout(PATIENCE_S):  # what was collected is not told for ever
            while number_in(await web.ask(request("GET", "/status"))) == "1":
                await asyncio.sleep(0.01)
