"""The files of a batch in groups: over a store that serves them, and through real proxies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from test_web_batches import get_of, given, put_of, records
from test_web_proxies import cluster_of, ring_over
from web_tier import SlowStore, eventually, web_tier

from sfss.errors import ConnectionLost, CorruptRecord, Outcome, OutOfDisk, Stopping
from sfss.groups import GROUP_KEYS_MAX, GROUP_VALUE_BYTES_MAX, Item, LeftOut, each
from sfss.memory import MemoryStore
from sfss.store import NO_CALL, Call, settled
from sfss.web.batches.room import READS_MAX

LARGE = GROUP_VALUE_BYTES_MAX + 1


class Grouped(SlowStore):
    """Notes the sizes of groups and which keys were asked for alone. `faults` are told in groups only, once each."""

    def __init__(self, *, held: bool = False, **faults: Exception) -> None:
        super().__init__(held=held)
        self.read: list[int] = []
        self.written: list[int] = []
        self.alone: list[bytes] = []
        self.faults = {name.encode(): fault for name, fault in faults.items()}
        self._within = False

    def get_many(self, keys: Sequence[bytes], call: Call = NO_CALL) -> Any:
        self.read.append(len(keys))
        return self._together(lambda key: SlowStore.get(self, key, call), keys, keys)

    def set_many(self, items: Sequence[Item], call: Call = NO_CALL) -> Any:
        self.written.append(len(items))
        keys = [item.key for item in items]
        return self._together(lambda item: SlowStore.set(self, item.key, item.value, call=call), items, keys)

    def _together(self, ask: Any, things: Sequence[Any], keys: Sequence[bytes]) -> Any:
        faults = [self.faults.pop(key, None) for key in keys]
        return each(lambda place: faults[place] or ask(things[place]), range(len(things)))

    def get(self, key: bytes, call: Call = NO_CALL) -> Any:
        self.alone.append(key)
        return super().get(key, call)

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Any:
        self.alone.append(key)
        return super().set(key, value, flags, expires, call)


def told(lines: list[dict[str, Any]]) -> list[tuple[str, int, Any]]:
    return [(line["path"], line["status"], line.get("outcome")) for line in lines[:-1]]


async def test_small_files_go_in_groups_and_large_ones_alone() -> None:
    store = Grouped()
    files = [(f"f{number}", b"%d" % number) for number in range(100)]
    files[50] = ("f50", bytes(LARGE))
    async with web_tier(store) as web:
        put = await web.ask(put_of(records(*files)))
        written_alone = list(store.alone)
        got = await web.ask(get_of(*(path for path, _ in files)))

    assert (put.status, got.status) == (200, 200)
    assert [(line["path"], line["bytes"]) for line in given(got)[:-1]] == files
    assert written_alone == [b"f50"]
    assert (sum(store.written), max(store.written)) == (99, GROUP_KEYS_MAX)
    assert max(store.read) == GROUP_KEYS_MAX
    assert b"f50" in store.alone[1:]


async def test_a_file_that_a_group_left_out_is_read_alone_and_one_that_failed_is_not_written_twice() -> None:
    store = Grouped(a=LeftOut("planted"), b=CorruptRecord("planted"))
    async with web_tier(store) as web:
        for path in ("a", "b", "c"):
            MemoryStore.set(store, path.encode(), b"value")
        got = await web.ask(get_of("a", "b", "c", "none"))
        store.faults = {
            b"a": Stopping("planted"),
            b"b": ConnectionLost("planted", Outcome.UNKNOWN),
            b"c": OutOfDisk("planted"),
        }
        put = await web.ask(put_of(records(("a", b"1"), ("b", b"2"), ("c", b"3"), ("d", b"4"))))

    assert told(given(got)) == [("a", 200, None), ("b", 200, None), ("c", 200, None), ("none", 404, None)]
    assert store.alone == [b"a", b"b", b"a"]
    assert told(given(put)) == [("a", 200, None), ("b", 503, "unknown"), ("c", 507, "not-applied"), ("d", 200, None)]


async def test_files_of_a_group_that_were_not_begun_are_sent_once_more_at_the_same_time() -> None:
    paths = ("a", "b", "c")
    store = Grouped(**{path: Stopping("planted") for path in paths}, held=True)
    async with web_tier(store) as web:
        asked = asyncio.create_task(web.ask(put_of(records(*((path, b"value") for path in paths)))))
        await eventually(lambda: bool(store.alone))
        at_once = list(store.alone)
        store.gate.set()
        put = await asked

    assert at_once == [b"a", b"b", b"c"]
    assert put.status == 200


async def test_of_two_files_of_one_path_in_a_batch_the_later_one_stays() -> None:
    store = Grouped()
    async with web_tier(store) as web:
        put = await web.ask(put_of(records(*((f"same{number % 3}", b"%d" % number) for number in range(30)))))
        got = await web.ask(get_of("same0", "same1", "same2"))

    assert put.status == 200
    assert [line["bytes"] for line in given(got)[:-1]] == [b"27", b"28", b"29"]


class LeavesOut(Grouped):
    """Leaves out all of each group."""

    def get_many(self, keys: Sequence[bytes], call: Call = NO_CALL) -> Any:
        return [LeftOut("planted")] * len(keys)


async def test_large_files_that_groups_leave_out_are_not_all_read_at_once() -> None:
    store = LeavesOut()
    store.gate.clear()
    for number in range(READS_MAX):
        MemoryStore.set(store, b"large%d" % number, bytes(LARGE))
    async with web_tier(store) as web:
        asked = asyncio.create_task(web.ask(get_of(*(f"large{number}" for number in range(READS_MAX)))))
        await eventually(lambda: bool(store.alone))
        first = len(store.alone)
        store.gate.set()
        got = await asked

    assert first == 8
    assert len(store.alone) == READS_MAX
    assert given(got)[-1] == {"end": True, "files": READS_MAX, "failed": 0}


class AnswersLaterOnesAtOnce(Grouped):
    """Leaves out all of each group: of the first when the gate is opened, of the others at once."""

    def get_many(self, keys: Sequence[bytes], call: Call = NO_CALL) -> Any:
        self.read.append(len(keys))
        outcomes = [LeftOut("planted")] * len(keys)
        if len(self.read) > 1:
            return outcomes
        return self._later("get_many", b"", call, lambda: outcomes)


async def test_what_groups_leave_out_is_asked_for_in_the_order_of_the_list() -> None:
    store = AnswersLaterOnesAtOnce(held=True)
    paths = [f"f{number}" for number in range(GROUP_KEYS_MAX + 1)]
    async with web_tier(store) as web:
        asked = asyncio.create_task(web.ask(get_of(*paths)))
        await eventually(lambda: len(store.read) == 2)
        store.gate.set()
        await asked

    assert store.alone == [path.encode() for path in paths]


async def test_what_groups_leave_out_is_asked_for_only_as_long_as_the_answer_has_room() -> None:
    store = LeavesOut()
    for number in range(GROUP_KEYS_MAX):
        MemoryStore.set(store, b"f%d" % number, bytes(512 * 1024))
    async with web_tier(store, settings={"batch_bytes_max": 2 * 1024 * 1024}) as web:
        got = given(await web.ask(get_of(*(f"f{number}" for number in range(GROUP_KEYS_MAX)))))

    statuses = [line["status"] for line in got[:-1]]
    assert 4 <= statuses.count(200) < 20
    assert statuses.count(200) + statuses.count(413) == GROUP_KEYS_MAX


@pytest.mark.parametrize("proxies", [1, 2])
async def test_through_proxies_each_file_is_written_by_its_own_proxy(proxies: int) -> None:
    files = [(f"f{number}", b"%d" % number) for number in range(80)]
    async with cluster_of(proxies) as cluster, ring_over(cluster.addresses) as ring, web_tier(ring) as web:
        assert (await web.ask(put_of(records(*files)))).status == 200
        in_batch = [sorted(store.writes) for store in cluster.stores]
        for store in cluster.stores:
            store.writes.clear()
        for path, value in files:
            await settled(ring.set(path.encode(), value))
        got = await web.ask(get_of(*(path for path, _ in files), "none"))

    assert in_batch == [sorted(store.writes) for store in cluster.stores]
    assert [(line["path"], line["bytes"]) for line in given(got)[:-2]] == files
    assert told(given(got))[-1] == ("none", 404, None)


async def test_a_batch_goes_on_through_the_proxy_that_is_left() -> None:
    files = [(f"f{number}", b"%d" % number) for number in range(80)]
    async with cluster_of(2) as cluster, ring_over(cluster.addresses) as ring, web_tier(ring) as web:
        await cluster.kill(0)
        put = await web.ask(put_of(records(*files)))
        got = await web.ask(get_of(*(path for path, _ in files)))

    assert given(put)[-1]["failed"] == 0
    assert [(line["path"], line["bytes"]) for line in given(got)[:-1]] == files
