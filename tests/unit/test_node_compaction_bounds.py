"""What clients may have to wait for because of compaction, counted in work: records of a turn of the loop, bytes of a
batch, look-ups under the lock of the map."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from nodes import compaction
from nodes.batch import Write
from nodes.store import NodeStore
from sfss.store import settled
from tests.unit.small_nodes import node

RECORDS = 600
FILLER_BYTES = 500_000
AT_ONCE = {"compact_dead_ratio": 0.05, "compact_share": 1.0, "compact_bytes_per_s": 1 << 40}


class Work:
    """What compaction does in each turn of the loop, while clients go on reading."""

    def __init__(self, store: NodeStore) -> None:
        self.turn = 0
        self.handed = Counter[int]()
        self.slice_bytes: list[int] = []
        self.looked_up: list[int] = []
        self._add = store._writer.add
        self._append_again = store._compactor._append_again
        self._snapshot = store._index.snapshot
        store._writer.add = self.add  # type: ignore[method-assign]
        store._compactor._append_again = self.append_again  # type: ignore[method-assign]
        store._index.snapshot = self.snapshot  # type: ignore[method-assign]

    def add(self, write: Write) -> None:
        self.handed[self.turn] += 1
        self._add(write)

    async def append_again(self, volume: object, live: list[compaction._Live]) -> None:
        self.slice_bytes.append(sum(each.header.size for each in live))
        await self._append_again(volume, live)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Callable[[bytes], bytes | None]]:
        with self._snapshot() as get:
            count = 0

            def counted(key: bytes) -> bytes | None:
                nonlocal count
                count += 1
                return get(key)

            yield counted
            self.looked_up.append(count)

    async def count_turns(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def half_garbage(directory: Path, value: bytes) -> AsyncIterator[NodeStore]:
    """A node whose first volumes have as much garbage as files."""
    async with node(directory, volume_bytes=1 << 20, **AT_ONCE) as store:
        both = [b"%s%d" % (kind, number) for number in range(RECORDS) for kind in (b"kept", b"dead")]
        await asyncio.gather(*(settled(store.set(key, value)) for key in both))
        await asyncio.gather(*(settled(store.set(b"dead%d" % number, value)) for number in range(RECORDS)))
        filler = bytes(FILLER_BYTES)
        for number in range(4):
            await settled(store.set(b"filler%d" % number, filler))
        await store._indexer.commit()
        yield store


async def compacted(store: NodeStore) -> Work:
    work = Work(store)
    turns = asyncio.ensure_future(work.count_turns())
    while await store._compactor.compact():
        pass
    turns.cancel()
    return work


@pytest.mark.parametrize("value", [b"tiny", bytes(3000)])
async def test_compaction_gives_the_loop_back_after_a_few_records_and_appends_little_at_a_time(
    tmp_path: Path, value: bytes
) -> None:
    async with half_garbage(tmp_path, value) as store:
        work = await compacted(store)

        assert sum(work.handed.values()) >= RECORDS
        assert max(work.handed.values()) <= compaction.TURN_RECORDS
        assert max(work.slice_bytes) <= compaction._SLICE_BYTES + FILLER_BYTES + 1024
        assert max(work.looked_up) <= compaction._SLICE_RECORDS
        for number in range(RECORDS):
            record = await settled(store.get(b"kept%d" % number))
            assert record is not None
            assert record.value == value


async def test_a_compaction_that_kept_the_loop_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = compaction.TURN_RECORDS
    monkeypatch.setattr(compaction, "TURN_RECORDS", 1 << 30)

    async with half_garbage(tmp_path, b"tiny") as store:
        work = await compacted(store)

        assert max(work.handed.values()) > 5 * bound


async def test_the_longest_holds_are_among_the_figures(tmp_path: Path) -> None:
    async with half_garbage(tmp_path, b"tiny") as store:
        before = store.stats()
        await compacted(store)
        after = store.stats()

    assert before["compaction_append_max_ms"] == "0.00"
    assert float(after["compaction_turn_max_ms"]) > 0
    assert float(after["compaction_append_max_ms"]) > 0
