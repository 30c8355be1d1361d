"""A node lets tombstones count no more that no owner needs, and takes nothing that they had deleted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes import purging
from nodes.checker import check_directory
from nodes.entry import index_key
from nodes.purging import _steps
from nodes.store import NodeStore
from sfss.errors import BadRequest, Busy, Recovering, StaleRing
from sfss.hash_tree import Listed, read_branches, read_listing
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.stamps import NEVER_PURGED, purge_stamp, stamp_at
from sfss.store import Purged, Record, checksum_of, settled
from tests.unit.small_nodes import Clock, killed, node

NOW = Clock().now
DAY = 86400.0
KEYS = [b"key/%d" % number for number in range(60)]
REGION = index_key(b"some/file")[0]
REGIONS = sorted({REGION, *(index_key(key)[0] for key in KEYS)})


def days_ago(days: float) -> int:
    return stamp_at(NOW - days * DAY)


def file_of(key: bytes, days: float, value: bytes = b"value", expired: float = 0) -> Record:
    """A file written so many days ago, that expired so many days ago."""
    version, expires = days_ago(days), int(NOW - expired * DAY) if expired else 0
    return Record(value, len(value), 0, expires, version, checksum_of(key, value, 0, expires, version, False))


def tombstone_of(key: bytes, days: float) -> Record:
    version = days_ago(days)
    return Record(b"", 0, 0, 0, version, checksum_of(key, b"", 0, 0, version, True), True)


async def bound(store: NodeStore) -> None:
    await settled(store.bind("new", 1, "print"))


async def purge(store: NodeStore, days: float, fence_days: float | None = None) -> None:
    """Purge what is older than so many days, and wait until it is done."""
    fence = days_ago(days if fence_days is None else fence_days)
    await asyncio.gather(*(settled(store.purge(region, 1, fence, days_ago(days))) for region in REGIONS))
    async with asyncio.timeout(10):
        while any(store.purged(region).bound < days_ago(days) for region in REGIONS):
            await asyncio.sleep(0)
    await store._indexer.commit()


async def listed(store: NodeStore) -> dict[bytes, Listed]:
    found = {}
    for key in [*KEYS, b"some/file"]:
        records, _ = read_listing(await settled(store.hashes(b"%04x" % int.from_bytes(index_key(key)[:2]))))
        found.update((record.key, record) for record in records)
    return found


async def written(store: NodeStore) -> None:
    """A third are files, a third tombstones of 20 days, the rest tombstones of 5 days or files that expired."""
    await bound(store)
    for number, key in enumerate(KEYS):
        await settled(store.apply(key, file_of(key, 30, expired=20 if number % 6 == 5 else 0)))
        if number % 3 == 1 or number % 6 == 2:
            await settled(store.apply(key, tombstone_of(key, 20 if number % 3 == 1 else 5)))


async def test_what_is_purged_is_in_no_tree_and_no_listing_whatever_happens_to_the_node(tmp_path: Path) -> None:
    directory, copied = tmp_path / "node", tmp_path / "killed"
    async with node(directory) as store, node(tmp_path / "other") as other:
        await written(store)
        for key in [key for number, key in enumerate(KEYS) if number % 3 != 1 and number % 6 != 5]:
            await settled(other.apply(key, await settled(store.read(key)) or tombstone_of(key, 5)))
        assert read_branches(store.hashes(b"")) != read_branches(other.hashes(b""))

        await purge(store, 10)

        expected = other.hashes(b"")
        assert store.hashes(b"") == expected
        assert await listed(store) == await listed(other)
        killed(directory, copied)
    for path in (directory, copied):
        assert check_directory(path, print) == 0
        async with node(path) as store:
            assert store.hashes(b"") == expected
            await store._scrubber.scrub()
            assert (store.hashes(b""), store.stats()["scrub_faults"]) == (expected, "0")


async def test_what_is_purged_is_read_as_nothing_and_what_is_not_stays(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        await written(store)

        await purge(store, 10)

        assert store.inspect(KEYS[1]) is None
        assert await settled(store.read(KEYS[1])) is None
        assert store.inspect(KEYS[5]) is None, "expired 20 days ago"
        assert await settled(store.read(KEYS[5])) is None
        assert store.inspect(KEYS[2]).tombstone
        assert (await settled(store.get(KEYS[0]))).value == b"value"


async def test_a_bound_moves_a_few_tombstones_at_a_time_and_tree_and_bound_agree_at_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "_STEP", 1)
    monkeypatch.setattr(purging, "_FOUND_MAX", 3)
    seen = []
    move = purging.Purger._move

    def look(self: purging.Purger, region: int, bound: int, keys: list[bytes]) -> None:
        move(self, region, bound, keys)
        if region != REGION:
            return
        count = sum(branch.records for branch in read_branches(store.hashes(b"%02x" % REGION)))
        seen.append((bound, count))

    monkeypatch.setattr(purging.Purger, "_move", look)
    keys = [key for key in (b"n%d" % number for number in range(9000)) if index_key(key)[0] == REGION][:10]
    async with node(tmp_path) as store:
        await bound(store)
        for number, key in enumerate(keys):
            await settled(store.apply(key, tombstone_of(key, 20 + number // 2)))

        await purge(store, 10)

        assert seen[-1] == (days_ago(10), 0)
        assert len({count for _, count in seen}) > 4
        assert all(count == sum(days_ago(20 + number // 2) >= purged for number in range(10)) for purged, count in seen)


async def test_however_many_there_are_few_are_looked_for_at_a_time_but_those_of_one_stamp_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "_FOUND_MAX", 3)
    sizes = []
    find = purging._purged_between

    def finding(*arguments: Any) -> list[tuple[int, bytes]]:
        found = find(*arguments)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(purging, "_purged_between", finding)
    keys = [key for key in (b"n%d" % number for number in range(20_000)) if index_key(key)[0] == REGION][:40]
    ages = [*range(60, 40, -1), *[40] * 5, *range(39, 24, -1)]
    async with node(tmp_path) as store:
        await bound(store)
        for key, age in zip(keys, ages, strict=True):
            await settled(store.apply(key, tombstone_of(key, age)))

        await purge(store, 10)

        assert store.hashes(b"%02x" % REGION) == store.hashes(b"%02x" % ((REGION + 1) % 256))
    assert max(sizes) == 6  # 5 are of one stamp
    assert sizes.index(6) > 5
    assert set(sizes[sizes.index(6) + 1 :]) <= {0, 1, 2, 3}


async def test_a_record_from_before_the_fence_is_refused_and_one_that_is_purged_already_forgotten(
    tmp_path: Path,
) -> None:
    key = b"some/file"
    async with node(tmp_path) as store:
        await bound(store)
        await purge(store, 10, fence_days=5)
        appended = store.stats()["appended_bytes"]

        for late in (file_of(key, 20), file_of(key, 6), tombstone_of(key, 7)):
            with pytest.raises(BadRequest, match="older than what is stored here"):
                store.apply(key, late)
        for needless in (tombstone_of(key, 11), file_of(key, 30, expired=11)):
            applied = await settled(store.apply(key, needless))
            assert (applied.accepted, applied.version) == (True, needless.version)

        assert store.inspect(key) is None
        assert store.stats()["appended_bytes"] == appended
        assert (await settled(store.apply(key, file_of(key, 4)))).accepted


async def test_a_late_record_can_not_get_past_the_fence_by_a_restart(tmp_path: Path) -> None:
    key = b"some/file"
    async with node(tmp_path / "node") as store:
        await bound(store)
        await settled(store.purge(REGION, 1, days_ago(5), 0))
        killed(tmp_path / "node", tmp_path / "killed")
    async with node(tmp_path / "killed") as store:
        assert store.purged(REGION)._replace(now=0) == Purged(1, days_ago(5), 0)
        with pytest.raises(BadRequest):
            store.apply(key, file_of(key, 6))


async def test_what_is_held_from_before_the_fence_may_be_repeated_and_mended(tmp_path: Path) -> None:
    key = b"some/file"
    async with node(tmp_path) as store:
        await bound(store)
        held = file_of(key, 20)
        await settled(store.apply(key, held))
        await purge(store, 10)

        assert (await settled(store.apply(key, held))).accepted
        assert not (await settled(store.apply(key, file_of(key, 21)))).accepted
        store._overlay.figures.found_damaged(index_key(key), store._overlay.newest(index_key(key)))
        appended = int(store.stats()["appended_bytes"])
        assert (await settled(store.apply(key, held))).accepted
        assert int(store.stats()["appended_bytes"]) > appended
        assert store.stats()["damaged_records"] == "0"


async def test_an_open_region_takes_old_records_and_forgets_no_bound(tmp_path: Path) -> None:
    key = b"some/file"
    async with node(tmp_path) as store:
        await bound(store)
        await settled(store.apply(key, tombstone_of(key, 20)))
        await purge(store, 10)

        opened = await settled(store.purge(REGION, 1, 0, 0))

        assert (opened.fence, opened.bound) == (0, days_ago(10))
        assert store.inspect(key) is None
        assert (await settled(store.apply(key, file_of(key, 15)))).accepted


async def test_fences_and_bounds_never_go_back(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        await bound(store)
        await purge(store, 10, fence_days=5)

        told = await settled(store.purge(REGION, 1, days_ago(8), days_ago(20)))

        assert told == Purged(1, days_ago(5), days_ago(10), stamp_at(NOW))


async def test_what_can_not_be_right_is_refused(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        await bound(store)

        with pytest.raises(StaleRing):
            store.purge(REGION, 2, days_ago(5), 0)
        with pytest.raises(BadRequest):
            store.purge(REGION, 1, days_ago(5), days_ago(4))
        with pytest.raises(BadRequest):
            store.purge(REGION, 1, days_ago(-1), 0)
        assert store.purged(REGION)[:3] == (0, 0, 0)


async def test_a_fence_waits_for_older_writes_that_are_under_way(tmp_path: Path) -> None:
    key = b"some/file"
    async with node(tmp_path) as store:
        await bound(store)
        writing = store.apply(key, file_of(key, 6))

        with pytest.raises(Busy):
            store.purge(REGION, 1, days_ago(5), 0)

        assert (await settled(writing)).accepted
        await settled(store.purge(REGION, 1, days_ago(5), 0))


async def test_a_node_that_may_have_forgotten_something_opens_all_regions(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        await bound(store)
        await purge(store, 10)
        await store._housekeeper.save(decide=lambda _: {"suspect": "a test says so"})

        assert {store.purged(region).fence for region in range(256)} == {0}
        assert {store.purged(region).bound for region in REGIONS} == {days_ago(10)}
        with pytest.raises(Recovering):
            store.purge(REGION, 1, days_ago(5), 0)
        await settled(store.trust(store.identify().epoch))
    async with node(tmp_path) as store:
        assert store.purged(REGION).fence == 0


async def test_a_node_with_a_new_ring_takes_what_it_did_not_own_before(tmp_path: Path) -> None:
    key = b"some/file"
    async with node(tmp_path) as store:
        await bound(store)
        await settled(store.apply(key, tombstone_of(key, 20)))
        await purge(store, 10)
        placement = Placement((RingMember(store.identify().node, "n1:1"),), 1, 1, 1, 1)

        await settled(store.learn_ring(RingRecord(2, 64, (placement,))))

        assert store.purged(REGION)[1:3] == (0, days_ago(10))
        with pytest.raises(StaleRing):
            store.purge(REGION, 1, days_ago(5), 0)
        other = next(name for name in KEYS if index_key(name)[0] in REGIONS)
        assert (await settled(store.apply(other, file_of(other, 20)))).accepted
        assert (await settled(store.purge(REGION, 2, days_ago(5), 0))).fence == days_ago(5)


async def test_compaction_drops_purged_tombstones_and_no_others(tmp_path: Path) -> None:
    async with node(tmp_path, compact_dead_ratio=0.01) as store:
        await bound(store)
        for key in KEYS:
            await settled(store.apply(key, file_of(key, 30, bytes(4000))))
        for number, key in enumerate(KEYS):
            await settled(store.apply(key, tombstone_of(key, 20 if number % 2 else 5)))
        await purge(store, 10)
        assert store.stats()["tombstones"] == "60"

        for _ in range(4):
            await settled(store.apply(b"more", file_of(b"more", 3, bytes(60_000))))
            await settled(store.apply(b"more", tombstone_of(b"more", 3)))
            while await store._compactor.compact():
                pass

        assert int(store.stats()["dropped_tombstones"]) == 30
        assert store._overlay.newest(index_key(KEYS[1])) is None
        assert all(store.inspect(key).tombstone for key in KEYS[::2])
    assert check_directory(tmp_path, print) == 0


async def test_an_index_that_is_lost_takes_the_bounds_along_and_nothing_else(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        await written(store)
        whole = store.hashes(b"")
        await purge(store, 10)
    for path in (tmp_path / "index").iterdir():
        path.unlink()
    async with node(tmp_path) as store:
        assert store.purged(REGION)[:3] == (0, 0, 0)
        assert store.hashes(b"") == whole


async def test_a_damaged_bound_is_as_if_never_purged(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        await written(store)
        whole = store.hashes(b"%02x" % REGION)
        await purge(store, 10)
        name = b"purge/%02x" % REGION
        packed = store._index.notes(name)[name]
        broken = bytes([packed[0] ^ 1]) + packed[1:]
        store._index.commit({}, store._index.covered(), {}, False, {}, {name: broken})
    async with node(tmp_path) as store:
        assert store.purged(REGION)[:3] == (0, 0, 0)
        assert store.hashes(b"%02x" % REGION) == whole
    assert check_directory(tmp_path, print) == 0


@given(st.lists(st.integers(0, 30), max_size=40).map(sorted), st.integers(0, 31), st.integers(1, 7))
def test_steps_purge_each_key_once_and_with_the_first_bound_above_it(stamps: list[int], end: int, step: int) -> None:
    found = [(stamp, b"%d" % number) for number, stamp in enumerate(stamps)]
    before, purging._STEP = purging._STEP, step
    try:
        steps = list(_steps(found, end))
    finally:
        purging._STEP = before

    assert steps[-1][0] == end
    assert sorted(key for _, keys in steps for key in keys) == sorted(key for stamp, key in found if stamp < end)
    low = -1
    for upto, keys in steps:
        assert upto >= low
        assert all(low <= stamp < upto for stamp, key in found if key in keys)
        low = upto


@given(st.booleans(), st.integers(0, 1 << 40), st.integers(0, (1 << 64) - 1))
def test_a_purge_stamp_is_never_below_what_it_waits_for(tombstone: bool, expires: int, version: int) -> None:
    stamp = purge_stamp(tombstone, expires, version)

    assert stamp >= version
    if not tombstone:
        assert stamp >= (stamp_at(expires) if expires else NEVER_PURGED)
        assert not expires or stamp < max(version + 1, stamp_at(expires + 1))


# --- damaged records -------------------------------------------------------------------------------


def rot(directory: Path, text: bytes) -> None:
    """Flip a bit of some bytes in the volumes."""
    for volume in (directory / "volumes").iterdir():
        content = volume.read_bytes()
        at = content.find(text)
        if at >= 0:
            with volume.open("r+b") as file:
                file.seek(at)
                file.write(bytes([content[at] ^ 1]))
            return
    raise AssertionError(f"no volume holds {text!r}")


async def test_a_damaged_record_leaves_the_tree_until_it_is_written_again(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        for key in KEYS:
            await settled(store.apply(key, file_of(key, 1, b"value of %b" % key * 500)))
        good = await settled(store.read(KEYS[7]))
        whole = store.hashes(b"")
        for number in range(20):  # so that its volume isn't the newest
            await settled(store.apply(b"filler", file_of(b"filler", 1 - number / 100, bytes(9000))))
        await settled(store.apply(b"filler", tombstone_of(b"filler", 0.5)))
        rot(tmp_path, good.value)
        before = store.hashes(b"")

        await store._scrubber.scrub()

        assert store.hashes(b"") != before
        entry = (await listed(store))[KEYS[7]]
        assert entry == Listed(KEYS[7], good.version, good.checksum, False, good.size, damaged=True)
    async with node(tmp_path) as store:
        assert store.stats()["damaged_records"] == "1"
        assert (await listed(store))[KEYS[7]].damaged
        await store._scrubber.scrub()
        assert store.stats()["scrub_faults"] == "1", "the record, and no leaf of the tree"

        assert (await settled(store.apply(KEYS[7], good))).accepted

        assert store.hashes(b"") == before != whole
        assert not (await listed(store))[KEYS[7]].damaged
        assert store.stats()["damaged_records"] == "0"
    async with node(tmp_path) as store:
        assert store.hashes(b"") == before


async def test_a_record_that_can_be_read_again_counts_again(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        for number in range(20):
            key = b"k%d" % number
            await settled(store.apply(key, file_of(key, 1, b"value of %b." % key * 900)))
        whole = store.hashes(b"")
        rot(tmp_path, b"value of k2." * 900)
        await store._scrubber.scrub()
        assert store.hashes(b"") != whole
        for volume in (tmp_path / "volumes").iterdir():
            content = volume.read_bytes()
            volume.write_bytes(content.replace(b"walue of k2.", b"value of k2.").replace(b"vbl", b"val"))
        content = b"".join(volume.read_bytes() for volume in (tmp_path / "volumes").iterdir())
        assert b"value of k2." * 900 in content

        await store._scrubber.scrub()

        assert (store.hashes(b""), store.stats()["damaged_records"]) == (whole, "0")
