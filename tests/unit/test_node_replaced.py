"""What a write replaces: the entry that it saw when it was taken is still the newest one when it becomes durable."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from nodes.compaction import _Live
from nodes.entry import index_key, unpack_entry
from nodes.format import RecordHeader
from nodes.overlay import Overlay
from nodes.store import NodeStore
from sfss.promise import Promise
from sfss.stamps import stamp_at
from sfss.store import Record, checksum_of, settled
from tests.unit.small_nodes import Clock, node

KEYS = [b"file/%d" % number for number in range(4)]
NOW = Clock().now


class Watched:
    """Stands for `Overlay.replace`, and looks up what it is told."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls = self.wrong = 0
        self.lookups = 0
        replace, newest = Overlay.replace, Overlay.newest

        def watched_replace(overlay: Overlay, old: bytes | None, key: bytes, *about: Any) -> None:
            self.calls += 1
            self.wrong += old != newest(overlay, key)
            replace(overlay, old, key, *about)

        def watched_newest(overlay: Overlay, key: bytes) -> bytes | None:
            self.lookups += 1
            return newest(overlay, key)

        patch.setattr(Overlay, "replace", watched_replace)
        patch.setattr(Overlay, "newest", watched_newest)


def apply(store: NodeStore, key: bytes, seconds: float, tombstone: bool = False) -> Promise[Any] | object:
    version, value = stamp_at(NOW + seconds), b"" if tombstone else key * 20
    checksum = checksum_of(key, value, 0, 0, version, tombstone)
    return store.apply(key, Record(value, len(value), 0, 0, version, checksum, tombstone))


def copy(store: NodeStore, key: bytes) -> list[Promise[None]]:
    """Have the record of a key appended again, as compaction does."""
    lookup = index_key(key)
    packed = store._overlay.newest(lookup)
    if packed is None:
        return []
    entry = unpack_entry(lookup, packed)
    value = key * 20 if entry.value_bytes else b""
    header = RecordHeader(entry.kind, key, len(value), 0, 0, entry.version, entry.checksum)
    return store._compactor._hand_over(store._writer.volume, [_Live(entry.offset, lookup, packed, header, value)])


@pytest.mark.parametrize("seed", range(8))
async def test_what_a_write_saw_is_what_it_replaces_whatever_came_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = Random(seed)
    async with node(tmp_path) as store:
        watched = Watched(monkeypatch)
        waiting: list[object] = []
        seconds = -1000.0
        for _ in range(300):
            key, seconds = random.choice(KEYS), seconds + 1
            match random.choices(range(7), [8, 2, 1, 4, 1, 2, 4])[0]:
                case 0:
                    waiting.append(apply(store, key, seconds, random.random() < 0.2))
                case 1:
                    waiting.append(store.set(key, key * 20))
                case 2:
                    waiting.append(store.flush())
                case 3:
                    waiting += copy(store, key)
                case 4:
                    store._overlay.drop(index_key(key))  # as what is dropped with its partition
                case 5:
                    store._writer.hold(random.random() < 0.7)
                case 6:
                    store._writer.hold(False)
                    for reply in waiting:
                        await settled(reply)
                    waiting.clear()
                    if random.random() < 0.3:
                        await store._indexer.commit()
        store._writer.hold(False)
        await store._writer.settled()

        assert watched.calls > 100
        assert watched.wrong == 0
        assert not store._compactor.moving
        sizes = {index_key(key): store._overlay.newest(index_key(key)) for key in KEYS}
        entries = [unpack_entry(key, entry) for key, entry in sizes.items() if entry]
        assert store._overlay.figures.live_bytes == sum(entry.record_bytes(6) for entry in entries)


async def test_a_stamped_write_is_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with node(tmp_path) as store:
        await settled(apply(store, KEYS[0], -2))
        watched = Watched(monkeypatch)

        await settled(apply(store, KEYS[0], -1))

        assert (watched.calls, watched.lookups) == (1, 1)
