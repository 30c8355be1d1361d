"""The instruments themselves: a recorder, client and relay that miss a fault would let any store pass."""

import asyncio
import hashlib
import itertools
import os
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from tests.cluster.history import Event, History, Outcome
from tests.cluster.http_client import HttpClient, NoAnswer, NotSent
from tests.cluster.parts import free_ports
from tests.cluster.relay import Relay
from tests.cluster.standstill import RECOVERS_S, Standstills
from tests.cluster.values import make_value, number_of
from tests.cluster.workload import Client, Mix, Workload, read_all

KEYS = [f"k{n}" for n in range(5)]
MIX = Mix(rest_s=0.001, size=lambda rng: rng.randint(64, 4096))
EVENTS_MIN = 600
"""Enough for each fault to show: the rarest is one of a hundred."""


def test_a_value_names_its_write():
    assert number_of("a/b", make_value("a/b", 17, 5000)) == 17


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body[:-1],
        lambda body: body + b"x",
        lambda body: body[:100] + b"\0" + body[101:],
        lambda body: b"",
        lambda body: b"not a value",
        lambda body: make_value("k", 2, 5000)[:2500] + body[2500:],
        lambda body: make_value("another", 1, 5000),
    ],
    ids=["short", "long", "rotten", "empty", "foreign", "mixed of two writes", "of another key"],
)
def test_a_value_that_is_not_whole_names_none(damage):
    assert number_of("k", damage(make_value("k", 1, 5000))) is None


class OneCopy:
    """A correct store in one dict behind HTTP, and ways to break it."""

    def __init__(self, fault=""):
        self.files = {}
        self.fault = fault
        self.turn = itertools.count(1)

    async def handle(self, request):
        key, turn = request.query["path"], next(self.turn)
        if request.method in ("PUT", "POST"):
            return await self.write(key, await request.read(), turn)
        body = self.files.get(key)
        if body is None:
            return web.Response(status=404)
        if request.method == "DELETE":
            if self.fault != "delete undone":
                del self.files[key]
            return web.Response(status=204)
        tag = self.tag_of(body)
        if self.fault == "short answer" and turn % 20 == 0:
            body = body[:-1]
        if self.fault == "another key's answer" and turn % 20 == 0:
            body = self.files[min(self.files)]
        if self.fault == "false 404" and turn % 20 == 0:
            return web.Response(status=404)
        if request.headers.get("If-None-Match") == tag or (
            "If-None-Match" in request.headers and self.fault == "false 304"
        ):
            return web.Response(status=304, headers={"ETag": tag})
        return web.Response(body=body, headers={"ETag": tag})

    def tag_of(self, body):
        return '"1"' if self.fault == "one tag for all" else f'"{hashlib.sha1(body).hexdigest()}"'

    async def write(self, key, body, turn):
        tag = {"ETag": self.tag_of(body)}
        if self.fault == "write lost" and turn % 10 == 0:
            return web.Response(headers=tag)
        if self.fault == "refused and yet applied" and turn % 10 == 0:
            self.files[key] = body
            return web.Response(status=503, headers={"Sfss-Outcome": "not-applied"})
        if self.fault == "unknown is honest" and turn % 4 == 0:
            if turn % 8 == 0:
                self.files[key] = body
            return web.Response(status=503, headers={"Sfss-Outcome": "unknown"})
        self.files[key] = body
        return web.Response(headers=tag)


@asynccontextmanager
async def serving(store):
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{tail:.*}", store.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0]
    finally:
        await runner.cleanup()


async def history_of(store, seed):
    history = History(seed)
    async with serving(store) as address:
        async with Workload([address], history, keys=KEYS, clients=6, mix=MIX):
            while len(history.events) < EVENTS_MIN:
                await asyncio.sleep(0.01)
        await read_all([address], history)
    return history


async def test_a_correct_store_is_found_clean(rng):
    history = await history_of(OneCopy(), rng.random())

    history.check()

    assert not history.errors()


async def test_writes_of_honestly_unknown_outcome_are_found_clean(rng):
    history = await history_of(OneCopy("unknown is honest"), rng.random())

    history.check()

    assert history.errors()


def failed(start: float, end: float) -> Event:
    return Event("c", "k", "put", start, end, Outcome.UNKNOWN)


def test_more_errors_than_a_few_are_found_and_shown():
    history = History()
    for number in range(3):
        history.add(failed(number, number + 0.5))

    history.check_errors(at_most=3)
    history.check_errors(among=history.begun(1.0))
    with pytest.raises(AssertionError, match="3 of 3 operations failed:\n"):
        history.check_errors()


def test_errors_of_a_machine_that_stood_still_do_not_count_and_those_before_and_long_after_do(monkeypatch, tmp_path):
    standstills = Standstills(tmp_path / "standstills")
    monkeypatch.setattr(standstills, "seen", lambda: [(10.0, 12.0)])
    history = History(standstills=standstills)
    for start, end in ((9.5, 11.5), (11.0, 13.0), (12.1, 12.2)):
        history.add(failed(start, end))
    with pytest.warns(UserWarning, match="the machine stood still: 3 of 3 answers don't count"):
        history.check_errors(at_most=0)
    history.add(failed(9.0, 9.9))
    history.add(failed(12.1 + RECOVERS_S, 15.0))
    history.add(replace(failed(11.0, 13.0), status=500))

    with (
        pytest.warns(UserWarning, match="3 of 6 answers don't count"),
        pytest.raises(AssertionError, match="3 of 6 operations failed"),
    ):
        history.check_errors()


def test_a_disk_that_syncs_nothing_for_a_while_is_a_standstill_also_while_it_lasts(monkeypatch, tmp_path):
    syncing, synced = threading.Event(), threading.Event()

    def sync(_: int) -> None:
        syncing.set()
        synced.wait(60)

    monkeypatch.setattr(os, "fdatasync", sync)
    with Standstills(tmp_path / "standstills") as standstills:
        assert syncing.wait(60)
        while not standstills.seen():
            time.sleep(0.01)
        [(began, _)] = standstills.seen()
        synced.set()

    assert standstills.seen()[0][0] == began


@pytest.mark.parametrize(
    "fault",
    [
        "write lost",
        "delete undone",
        "false 404",
        "false 304",
        "short answer",
        "one tag for all",
        "another key's answer",
        "refused and yet applied",
    ],
)
async def test_a_broken_store_is_caught(fault, rng):
    history = await history_of(OneCopy(fault), rng.random())

    with pytest.raises(AssertionError, match="violations; seed"):
        history.check()


async def test_a_key_that_stays_unreadable_is_a_violation():
    async def refuse(request):
        return web.Response(status=503)

    store, history = OneCopy(), History()
    store.handle = refuse
    async with serving(store) as address:
        history.add(Event("c", "k", "put", 0, 1, Outcome.OK, 1))
        await read_all([address], history, seconds=0.5)

    assert len(history.complaints) == 1
    assert history.complaints[0].startswith("k never became readable after healing; at last:")


async def test_a_write_that_never_left_is_a_failure_and_one_cut_off_is_unknown(rng):
    dead = ("127.0.0.1", free_ports(1)[0])
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    hanging_up = server.sockets[0].getsockname()

    not_sent = await Client("a", [dead], History(), rng).put("k", 100)
    cut_off = await Client("b", [hanging_up], History(), rng).put("k", 100)
    server.close()

    assert (not_sent.outcome, cut_off.outcome) == (Outcome.FAIL, Outcome.UNKNOWN)


# --- the relay -------------------------------------------------------------------------------------------


@asynccontextmanager
async def relayed(store):
    async with serving(store) as address:
        relay = Relay(address)
        await relay.start()
        client = HttpClient("127.0.0.1", relay.port)
        try:
            yield relay, client
        finally:
            client.close()
            await relay.close()


async def test_a_relay_passes_everything_on():
    store = OneCopy()
    async with relayed(store) as (_, client):
        body = bytes(range(256)) * 4000

        await client.request("PUT", "/file?path=k", body)
        answer = await client.request("GET", "/file?path=k")

    assert answer.body == body


async def test_dropped_replies_leave_the_request_done_and_the_client_without_answer():
    store = OneCopy()
    async with relayed(store) as (relay, client):
        relay.down.drop = True

        with pytest.raises(NoAnswer):
            await client.request("PUT", "/file?path=k", b"x", seconds=0.3)

        assert store.files == {"k": b"x"}
        relay.heal()
        assert (await client.request("GET", "/file?path=k")).body == b"x"


async def test_a_stall_holds_one_direction_until_it_flows():
    store = OneCopy()
    async with relayed(store) as (relay, client):
        relay.down.stall()

        request = asyncio.create_task(client.request("PUT", "/file?path=k", b"x"))
        while "k" not in store.files:
            await asyncio.sleep(0.01)
        assert not request.done()
        relay.down.flow()

        assert (await request).status == 200


async def test_a_cut_ends_the_connection_in_the_middle_of_a_body():
    store = OneCopy()
    store.files["k"] = bytes(100_000)
    async with relayed(store) as (relay, client):
        relay.down.cut_after_bytes = 50_000

        with pytest.raises(NoAnswer):
            await client.request("GET", "/file?path=k")

        assert len((await client.request("GET", "/file?path=k")).body) == 100_000


async def test_a_reset_is_seen_by_the_client_and_a_dead_target_too():
    async with relayed(OneCopy()) as (relay, client):
        await client.request("PUT", "/file?path=k", b"x")
        relay.down.stall()
        request = asyncio.create_task(client.request("GET", "/file?path=k"))
        await asyncio.sleep(0.05)
        relay.reset_all()

        with pytest.raises(NoAnswer):
            await request

        relay.target = ("127.0.0.1", free_ports(1)[0])
        with pytest.raises((NoAnswer, NotSent)):
            await client.request("GET", "/file?path=k")


# --- what became of acknowledged writes ------------------------------------------------------------------


def history_with(*events):
    history = History()
    for kind, value, start, outcome in events:
        history.add(Event("c", "k", kind, start, start + 0.5, outcome, value))
    return history


@pytest.mark.parametrize(
    ("events", "lost"),
    [
        ([("put", 1, 0, Outcome.OK), ("get", 1, 1, Outcome.OK)], []),
        ([("put", 1, 0, Outcome.OK), ("get", None, 1, Outcome.OK)], [1]),
        ([("put", 1, 0, Outcome.OK), ("put", 2, 1, Outcome.OK), ("get", 1, 2, Outcome.OK)], [2]),
        ([("put", 1, 0, Outcome.OK), ("put", 2, 0.2, Outcome.OK), ("get", 1, 2, Outcome.OK)], []),
        ([("put", 1, 0, Outcome.OK), ("delete", None, 1, Outcome.UNKNOWN), ("get", None, 2, Outcome.OK)], []),
        ([("put", 1, 0, Outcome.UNKNOWN), ("put", 2, 1, Outcome.OK), ("get", 1, 2, Outcome.OK)], []),
        ([("put", 1, 0, Outcome.FAIL), ("put", 2, 1, Outcome.OK), ("get", 1, 2, Outcome.OK)], [2]),
        ([("put", 1, 0, Outcome.OK), ("get", None, 1, Outcome.UNKNOWN)], []),
    ],
    ids=[
        "there",
        "gone",
        "the one before is back",
        "two at once",
        "perhaps deleted",
        "an unknown one came late",
        "a refused one shows",
        "never read",
    ],
)
def test_an_acknowledged_write_is_lost_when_the_last_read_shows_only_what_was_over_before_it(events, lost):
    assert [event.value for event in history_with(*events).lost()] == lost
