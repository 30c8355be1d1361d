"""Tombstones go once no owner needs them, on all owners, and what they deleted never comes back.

Coordinators over three real node stores on one clock, which a test moves by days.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nodes.entry import index_key
from nodes.identity import DataDirectory
from nodes.store import NodeStore
from proxy.comparer import Comparer
from proxy.coordinator import Coordinator
from proxy.health import Health
from proxy.options import Options
from proxy.peer import Peer
from proxy.placed_ring import PlacedRing
from proxy.purging import RegionPurge
from proxy.quorum import Quorum
from proxy.refill import Refill
from proxy.schedule import Schedule
from sfss.errors import BadRequest, QuorumUnavailable, SfssError
from sfss.hash_tree import Listed, read_listing
from sfss.ring import Member, NodeRing
from sfss.stamps import StampClock, stamp_at
from sfss.store import Record, checksum_of, settled
from tests.unit.small_nodes import SMALL, Clock

DAY = 86400.0
GRACE = 10 * DAY
KEY = b"some/file"
REGION = index_key(KEY)[0]


def beside(count: int) -> list[bytes]:
    """Other keys of the same region."""
    keys = (b"n%d" % number for number in range(10**6))
    return [key for key, _ in zip((key for key in keys if index_key(key)[0] == REGION), range(count), strict=False)]


class Nodes:
    """Stores in folders, each behind a peer; a coordinator over all of them, or several."""

    def __init__(self, folder: Path, clock: Clock, count: int) -> None:
        self._folder = folder
        self.clock = clock
        self.stores: list[NodeStore] = []
        members = [Member(f"{name}:1") for name in "abc"[:count]]
        self.ring = NodeRing(members, count, partitions=256)
        self.quorum = Quorum.over(count, count, count // 2 + 1, count // 2 + 1)

    async def open(self) -> None:
        for number in range(len(self.ring.members)):
            self.stores.append(await self._store(number))
        identity = await settled(self.stores[0].bind("new", 1, self.ring.fingerprint))
        for store in self.stores[1:]:
            await settled(store.bind(identity.cluster, 1, self.ring.fingerprint))

    async def _store(self, number: int) -> NodeStore:
        return await NodeStore.open(self._folder / f"{number}", SMALL, now=self.clock)

    async def close(self) -> None:
        for store in self.stores:
            await store.close()

    async def restart(self, number: int, suspect: str = "") -> None:
        await self.stores[number].close()
        if suspect:
            directory = DataDirectory.open(self._folder / f"{number}")
            directory.save(replace(directory.load(), suspect=suspect))
            directory.close()
        self.stores[number] = await self._store(number)

    async def copied(self, number: int) -> Path:
        """A copy of a node's directory as it is now."""
        await self.restart(number)
        copy = self._folder / f"copy-{number}-{random.random()}"
        await self.stores[number].close()
        shutil.copytree(self._folder / f"{number}", copy)
        self.stores[number] = await self._store(number)
        return copy

    async def put_back(self, number: int, copy: Path) -> None:
        """A node has an old copy of its directory, and knows that."""
        await self.stores[number].close()
        shutil.rmtree(self._folder / f"{number}")
        shutil.copytree(copy, self._folder / f"{number}")
        self.stores[number] = await self._store(number)
        await self.restart(number, suspect="an old copy was put back")

    async def hidden(self) -> None:
        """Wait until all bounds are where they were told to be."""
        async with asyncio.timeout(10):
            while any(store._purger.busy for store in self.stores):
                await asyncio.sleep(0)

    def holding(self, key: bytes = KEY) -> list[str]:
        """What each node tells of a key."""
        told = []
        for store in self.stores:
            record = store.inspect(key)
            told.append("-" if record is None else "T" if record.tombstone else "F")
        return told


class Proxy:
    """A coordinator with its comparer."""

    def __init__(self, nodes: Nodes, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        self.nodes = nodes
        self.ahead_s = 0.0
        self.peers = [Peer(member.name, store) for member, store in zip(nodes.ring.members, nodes.stores, strict=True)]
        self.coordinator = Coordinator(
            PlacedRing.of(nodes.ring, self.peers, nodes.quorum),
            options=Options(**options),
            health=Health(self.peers, monotonic=loop.time, probe_s_min=3600.0, probe_s_max=3600.0),
            clock=StampClock(self.now),
            now=self.now,
        )
        self.comparer = Comparer(self.coordinator, Schedule(256, 0, 1.0))
        self.refill = Refill(self.coordinator)

    def now(self) -> float:
        return self.nodes.clock() + self.ahead_s

    def look(self) -> None:
        """See nodes that were started again."""
        for peer, store in zip(self.peers, self.nodes.stores, strict=True):
            peer.replica = store
            peer.suspect = bool(store._suspect)

    async def compare(self, times: int = 1) -> bool:
        """Compare the region, with time going on in between."""
        whole = True
        for _ in range(times):
            self.look()
            whole = await self.comparer.compare(REGION) and whole
            await self.comparer.all_told()
            await self.nodes.hidden()
            self.nodes.clock.now += 60.0
        return whole

    async def set(self, value: bytes, key: bytes = KEY, expires: int = 0) -> None:
        self.look()
        await settled(self.coordinator.set(key, value, 0, expires))
        await self._all_answered()

    async def delete(self, key: bytes = KEY) -> None:
        self.look()
        await settled(self.coordinator.delete(key))
        await self._all_answered()

    async def _all_answered(self) -> None:
        async with asyncio.timeout(10):
            while self.coordinator.in_flight or any(store._pending for store in self.nodes.stores):
                await asyncio.sleep(0)

    async def get(self, key: bytes = KEY) -> bytes | None:
        self.look()
        record = await settled(self.coordinator.get(key))
        return record.value if record is not None else None

    def figures(self) -> dict[str, int]:
        return {name: int(value) for name, value in self.comparer.figures().items()}


@asynccontextmanager
async def cluster(folder: Path, count: int = 3) -> AsyncIterator[tuple[Nodes, Proxy]]:
    nodes = Nodes(folder, Clock(), count)
    await nodes.open()
    proxy = Proxy(nodes)
    try:
        yield nodes, proxy
    finally:
        await proxy.coordinator.close()
        await nodes.close()


async def deleted_long_ago(nodes: Nodes, proxy: Proxy, days: float = 12) -> None:
    await proxy.set(b"v")
    nodes.clock.now += 60.0
    await proxy.delete()
    nodes.clock.now += days * DAY


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_a_tombstone_goes_from_all_owners_with_the_second_comparison_after_the_grace_time(
    tmp_path: Path, count: int
) -> None:
    async with cluster(tmp_path, count) as (nodes, proxy):
        await deleted_long_ago(nodes, proxy)

        await proxy.compare()
        assert nodes.holding() == ["T"] * count
        await proxy.compare()

        assert nodes.holding() == ["-"] * count
        assert await proxy.get() is None
        assert proxy.figures()["comparison_repaired_keys"] == 0


async def test_a_quiet_cluster_is_told_nothing_more(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        await deleted_long_ago(nodes, proxy)
        await proxy.compare(2)
        commits = [store.stats()["index_commits"] for store in nodes.stores]

        await proxy.compare(5)

        assert [store.stats()["index_commits"] for store in nodes.stores] == commits


async def test_a_tombstone_is_kept_for_the_grace_time(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        await deleted_long_ago(nodes, proxy, days=9.9)

        await proxy.compare(3)

        assert nodes.holding() == ["T"] * 3


async def test_nothing_is_purged_where_that_is_not_wanted(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, _):
        proxy = Proxy(nodes, tombstone_grace_s=0)
        await deleted_long_ago(nodes, proxy, days=500)

        await proxy.compare(3)

        assert nodes.holding() == ["T"] * 3
        await proxy.coordinator.close()


@pytest.mark.parametrize("trouble", ["down", "suspect"])
async def test_nothing_is_purged_while_an_owner_is_away_or_may_have_forgotten(tmp_path: Path, trouble: str) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        await deleted_long_ago(nodes, proxy)
        if trouble == "suspect":
            await nodes.restart(2, suspect="a test says so")
        else:
            proxy.peers[2].down = True

        assert not await proxy.compare(3)

        assert [store.inspect(KEY).tombstone for store in nodes.stores[:2]] == [True, True]
        assert {store.purged(REGION).fence for store in nodes.stores} == {0}


async def test_an_owner_with_the_old_file_gets_the_tombstone_and_then_it_goes(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        await proxy.set(b"v")
        nodes.clock.now += 60.0
        for store in nodes.stores[:2]:
            await settled(store.apply(KEY, deletion(nodes)))
        nodes.clock.now += 12 * DAY
        assert nodes.holding() == ["T", "T", "F"]

        await proxy.compare()
        assert nodes.holding() == ["T"] * 3
        await proxy.compare(2)

        assert nodes.holding() == ["-"] * 3
        assert proxy.figures()["comparison_repaired_keys"] == 1


def deletion(nodes: Nodes) -> Record:
    version = stamp_at(nodes.clock())
    return Record(b"", 0, 0, 0, version, checksum_of(KEY, b"", 0, 0, version, True), True)


async def test_a_coordinator_that_dies_between_owners_leaves_no_difference_behind(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        await proxy.set(b"v", beside(1)[0])
        await deleted_long_ago(nodes, proxy)
        await proxy.compare()
        told = nodes.stores[0].purged(REGION)
        nodes.clock.now += 5 * DAY
        await settled(nodes.stores[0].purge(REGION, 1, told.fence, told.fence))
        await nodes.hidden()
        assert nodes.holding() == ["-", "T", "T"]

        await proxy.compare()

        assert nodes.holding() == ["-", "-", "-"]
        assert proxy.figures()["comparison_repaired_keys"] == 0
        assert len({store.purged(REGION)[:3] for store in nodes.stores}) == 1


async def test_expired_files_go_like_tombstones_also_where_owners_are_not_equally_far(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        expires = int(nodes.clock() + DAY)
        await proxy.set(b"v", expires=expires)
        nodes.clock.now += 13 * DAY
        await proxy.compare()
        told = nodes.stores[0].purged(REGION)
        await settled(nodes.stores[0].purge(REGION, 1, told.fence, told.fence))
        await nodes.hidden()
        assert nodes.holding() == ["-", "F", "F"]

        await proxy.compare()

        assert nodes.holding() == ["-", "-", "-"]
        assert proxy.figures()["comparison_repaired_keys"] == 0


def write_back(nodes: Nodes) -> Record:
    record = nodes.stores[0].inspect(KEY)
    assert record is not None
    return Record(b"v", 1, record.flags, record.expires, record.version, record.checksum)


async def test_what_slept_on_its_way_for_longer_than_the_grace_time_is_not_stored_anywhere(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        await proxy.set(b"v")
        sleeping = write_back(nodes)
        nodes.clock.now += 60.0
        await proxy.delete()
        nodes.clock.now += 12 * DAY
        await proxy.compare(2)

        for store in nodes.stores:
            with pytest.raises(BadRequest):
                store.apply(KEY, sleeping)

        assert await proxy.get() is None


async def test_a_clock_that_is_ahead_purges_nothing_sooner_and_one_that_is_slow_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        await deleted_long_ago(nodes, proxy, days=5)
        proxy.ahead_s = 30 * DAY
        await proxy.compare(3)
        assert nodes.holding() == ["T"] * 3
        proxy.ahead_s = 0.0
        nodes.clock.now += 20 * DAY
        await proxy.compare(2)

        slow = Proxy(nodes)
        slow.ahead_s = -11 * DAY
        with pytest.raises(QuorumUnavailable) as refused:
            await slow.set(b"v")

        assert "coordinator's clock" in str(refused.value)
        assert nodes.holding() == ["-"] * 3
        await slow.coordinator.close()


async def test_a_file_that_an_old_copy_of_a_node_brings_back_is_deleted_again(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        kept = beside(2)
        await proxy.set(b"v")
        await proxy.set(b"kept", kept[0])
        copy = await nodes.copied(2)
        nodes.clock.now += 60.0
        proxy.look()
        await proxy.delete()
        await proxy.set(b"later", kept[1])
        nodes.clock.now += 12 * DAY
        await proxy.compare(2)
        await nodes.put_back(2, copy)
        proxy.look()
        assert nodes.stores[2]._newest_durable(index_key(KEY)) is not None
        proxy.refill._coordinator.options = Options(compare_settle_s=0)

        assert await proxy.refill.refill(proxy.peers[2])
        assert await proxy.get() is None
        await proxy.compare(3)

        assert nodes.holding() == ["-"] * 3
        assert [await proxy.get(key) for key in kept] == [b"kept", b"later"]


async def old_copy_of_a_purged_file(nodes: Nodes, proxy: Proxy) -> Path:
    """A directory of the third node that has a file of which even the tombstone is gone everywhere since."""
    await proxy.set(b"v")
    copy = await nodes.copied(2)
    nodes.clock.now += 60.0
    proxy.look()
    await proxy.delete()
    nodes.clock.now += 12 * DAY
    await proxy.compare(3)
    assert nodes.holding() == ["-"] * 3
    for store in nodes.stores:
        store._overlay.drop(index_key(KEY))  # as compaction does, sooner or later
    return copy


async def take_ring(nodes: Nodes, proxy: Proxy, number: int) -> None:
    """All nodes, and the coordinator, go over to the same ring under another number."""
    nodes.ring = NodeRing(nodes.ring.members, nodes.ring.copies, number=number, partitions=256)
    for store in nodes.stores:
        store._take_ring(number)
        await store._housekeeper.take_ring(number, nodes.ring.fingerprint)
    proxy.coordinator.take_over(PlacedRing.of(nodes.ring, proxy.peers, nodes.quorum))
    proxy.refill._coordinator.options = Options(compare_settle_s=0)
    proxy.look()


async def test_what_an_old_copy_brings_back_is_deleted_again_also_where_a_ring_change_opened_the_fences(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        copy = await old_copy_of_a_purged_file(nodes, proxy)
        await take_ring(nodes, proxy, 2)
        assert [store.purged(REGION).fence for store in nodes.stores] == [0] * 3
        await nodes.put_back(2, copy)
        await take_ring(nodes, proxy, 3)

        assert await proxy.refill.refill(proxy.peers[2])
        assert await proxy.get() is None
        await proxy.compare(3)

        assert nodes.holding() == ["-"] * 3


async def test_where_another_owner_may_have_lost_it_since_a_file_is_not_taken_for_deleted(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        copy = await old_copy_of_a_purged_file(nodes, proxy)
        await nodes.restart(1, suspect="a volume is lost")
        await settled(nodes.stores[1].trust(nodes.stores[1].identify().epoch))  # as an operator may say
        await nodes.put_back(2, copy)
        await take_ring(nodes, proxy, 2)

        assert await proxy.refill.refill(proxy.peers[2])
        await proxy.compare(3)

        assert nodes.holding() == ["F"] * 3


async def test_while_old_owners_are_unheard_no_new_owner_takes_their_file_for_deleted(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        await proxy.set(b"v")
        nodes.clock.now += 12 * DAY
        await proxy.compare(3)
        a, b, c = nodes.ring.members
        nodes.stores[1]._overlay.drop(index_key(KEY))  # it joins, and nobody has filled it yet
        await nodes.restart(2, suspect="an old copy was put back")
        await take_ring(nodes, proxy, 2)
        rings = [NodeRing([a], 1, number=2, partitions=256), NodeRing([b, c], 2, number=2, partitions=256)]
        peers = {peer.name: peer for peer in proxy.peers}
        proxy.coordinator.take_over(PlacedRing(2, "print", rings, [Quorum.over(1), Quorum.over(2)], peers))
        proxy.peers[0].suspect = True

        await proxy.refill.refill(proxy.peers[2])

        assert [record.tombstone for record in await held_by(nodes.stores[2])] == [False]


async def held_by(store: NodeStore) -> list[Listed]:
    """What a node, suspect or not, has in the file's leaf."""
    records, _ = read_listing(await settled(store.hashes_held(b"%04x" % int.from_bytes(index_key(KEY)[:2]))))
    return records


async def test_what_a_trusted_node_lacks_is_brought_to_it_and_not_taken_for_deleted(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        keys = beside(5)
        copy = await nodes.copied(2)
        for key in keys:
            await proxy.set(b"v", key)
        nodes.clock.now += 12 * DAY
        await proxy.compare(2)
        await nodes.put_back(2, copy)
        directory = DataDirectory.open
        await nodes.stores[2].close()
        folder = directory(nodes._folder / "2")
        folder.save(replace(folder.load(), suspect=""))
        folder.close()
        nodes.stores[2] = await nodes._store(2)

        await proxy.compare(3)

        assert [nodes.holding(key) for key in keys] == [["F"] * 3] * 5
        assert proxy.figures()["comparison_returned"] == 0


async def test_an_entry_that_rots_away_on_one_node_is_brought_back_from_the_others(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        await proxy.set(b"v")
        nodes.clock.now += 12 * DAY
        await proxy.compare(2)
        nodes.stores[1]._overlay.drop(index_key(KEY))
        assert nodes.holding() == ["F", "-", "F"]

        await proxy.compare()

        assert nodes.holding() == ["F"] * 3
        assert proxy.figures()["comparison_repaired_keys"] == 1
        assert nodes.stores[1].purged(REGION).fence == 0
        await proxy.compare()
        assert nodes.stores[1].purged(REGION).fence


async def test_a_damaged_record_is_repaired_by_the_next_comparison_and_counted(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        await proxy.set(b"v")
        nodes.clock.now += 12 * DAY
        await proxy.compare(2)
        store = nodes.stores[1]
        store._overlay.figures.found_damaged(index_key(KEY), store._newest_durable(index_key(KEY)))

        await proxy.compare()

        assert store.stats()["damaged_records"] == "0"
        assert nodes.holding() == ["F"] * 3
        assert proxy.figures()["comparison_repaired_keys"] == 1
        assert store.purged(REGION).fence, "what is held may be mended behind a fence"


@pytest.mark.parametrize("damaged", [1, 2, 3])
async def test_where_no_copy_is_whole_and_one_owner_has_none_nothing_is_purged(
    tmp_path: Path, damaged: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(tmp_path) as (nodes, proxy):
        await proxy.set(b"v")
        for store in nodes.stores[:damaged]:
            store._overlay.figures.found_damaged(index_key(KEY), store._newest_durable(index_key(KEY)))
        for store in nodes.stores[damaged:]:
            store._overlay.drop(index_key(KEY))
        nodes.clock.now += 12 * DAY

        await proxy.compare(2)

        everywhere = damaged == 3
        assert (proxy.figures()["comparison_unrepaired"] == 0) is everywhere
        assert bool(nodes.stores[0].purged(REGION).bound) is everywhere
        assert (f"no whole copy of {KEY!r} was found" in caplog.text) is not everywhere


async def test_a_node_without_a_fence_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeStore, "_is_purged_already", lambda *_: False)
    async with cluster(tmp_path) as (nodes, proxy):
        await proxy.set(b"v")
        sleeping = write_back(nodes)
        nodes.clock.now += 60.0
        await proxy.delete()
        nodes.clock.now += 12 * DAY
        await proxy.compare(2)
        for store in nodes.stores:
            store._overlay.drop(index_key(KEY))  # as compaction does some day
        await settled(nodes.stores[0].apply(KEY, sleeping))

        await proxy.compare()

        assert nodes.holding() == ["F"] * 3


async def test_what_is_too_new_to_be_compared_is_never_purged(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (nodes, _):
        hasty = Proxy(nodes, tombstone_grace_s=2.0, hint_age_s=1.0, compare_settle_s=3600.0)
        await deleted_long_ago(nodes, hasty, days=1 / 48)

        await hasty.compare(3)
        assert nodes.holding() == ["T"] * 3

        nodes.clock.now += 3600.0
        await hasty.compare(2)
        assert nodes.holding() == ["-"] * 3
        await hasty.coordinator.close()


# --- any schedule ----------------------------------------------------------------------------------


class Schedules:
    """Two coordinators, three nodes and whatever may happen to them, from a seed. Every write is acknowledged or its
    outcome is unknown; `expected` has what a key may be read as."""

    def __init__(self, nodes: Nodes, rng: random.Random) -> None:
        self.nodes = nodes
        self.rng = rng
        self.proxies = [Proxy(nodes), Proxy(nodes)]
        self.keys = [KEY, *beside(2)]
        self.expected: dict[bytes, set[bytes | None]] = {key: {None} for key in self.keys}
        self.sleeping: list[tuple[bytes, Record]] = []
        self.copies: dict[int, Path] = {}
        self.number = 0

    async def step(self) -> None:
        steps = [self.write, self.write, self.write, self.delete, self.delete, self.tell_one, self.wake]
        steps += [self.compare] * 6 + [self.days_pass] * 3 + [self.lose_entry, self.copy, self.roll_back, self.restart]
        self.nodes.clock.now += 30.0
        await self.rng.choice(steps)()

    def proxy(self) -> Proxy:
        proxy = self.rng.choice(self.proxies)
        proxy.look()
        for peer in proxy.peers:
            peer.down = False
        if self.rng.random() < 0.4:
            self.rng.choice(proxy.peers).down = True
        return proxy

    async def write(self) -> None:
        self.number += 1
        await self._change(b"%d" % self.number)

    async def delete(self) -> None:
        await self._change(None)

    async def _change(self, value: bytes | None) -> None:
        key, proxy = self.rng.choice(self.keys), self.proxy()
        version = stamp_at(proxy.now())
        body = value or b""
        checksum = checksum_of(key, body, 0, 0, version, value is None)
        record = Record(body, len(body), 0, 0, version, checksum, value is None)
        self.sleeping.append((key, record))
        reached = [peer for peer in proxy.peers if not peer.down and not peer.suspect]
        accepted = 0
        for peer in reached:
            if self.rng.random() < 0.8:
                accepted += (await settled(peer.replica.apply(key, record))).accepted
        if accepted >= 2:
            self.expected[key] = {value}
        else:
            self.expected[key].add(value)  # what nobody has taken yet may still wake up

    async def compare(self) -> None:
        proxy = self.proxy()
        for peer in proxy.peers:
            if peer.suspect and self.rng.random() < 0.8:
                proxy.refill._coordinator.options = replace(proxy.coordinator.options, compare_settle_s=0)
                await proxy.refill.refill(peer)
        await proxy.compare(self.rng.choice([1, 2, 3]))

    async def tell_one(self) -> None:
        """A coordinator compares and dies after it told one owner."""
        proxy = self.proxy()
        tell = RegionPurge._advance
        told: list[Peer] = []

        async def once(purge: RegionPurge, peer: Peer, fence: int, bound: int) -> None:
            if not told:
                told.append(peer)
                await tell(purge, peer, fence, bound)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RegionPurge, "_advance", once)
            await proxy.compare()  # which waits until all are told

    async def wake(self) -> None:
        """A message that was sent at some time arrives."""
        if self.sleeping:
            key, record = self.rng.choice(self.sleeping)
            store = self.rng.choice(self.nodes.stores)
            try:
                await settled(store.apply(key, record))
            except SfssError:
                return

    async def days_pass(self) -> None:
        self.nodes.clock.now += self.rng.choice([1, 6, 11]) * DAY

    async def lose_entry(self) -> None:
        """An index entry rots away, while the others are whole."""
        stores = self.nodes.stores
        key = self.rng.choice(self.keys)
        if any(store._suspect for store in stores) or len({store.hashes(b"%02x" % REGION) for store in stores}) > 1:
            return
        self.rng.choice(stores)._overlay.drop(index_key(key))

    async def copy(self) -> None:
        number = self.rng.randrange(3)
        if not self.nodes.stores[number]._suspect:
            self.copies[number] = await self.nodes.copied(number)

    async def roll_back(self) -> None:
        if self.copies and not any(store._suspect for store in self.nodes.stores):
            # Only one at a time, and none while others lack something that it has: that may lose writes by itself.
            proxy = self.proxies[0]
            for peer in proxy.peers:
                peer.down = False
            await proxy.compare(2)
            await self.nodes.put_back(*self.rng.choice(list(self.copies.items())))

    async def restart(self) -> None:
        await self.nodes.restart(self.rng.randrange(3))

    async def check(self) -> None:
        """Everything heals, and then each key is what it may be, on all nodes."""
        proxy = self.proxies[0]
        proxy.look()
        for peer in proxy.peers:
            peer.down = False
        proxy.refill._coordinator.options = replace(proxy.coordinator.options, compare_settle_s=0)
        for peer in proxy.peers:
            if peer.suspect:
                assert await proxy.refill.refill(peer)
        self.nodes.clock.now += 12 * DAY
        await proxy.compare(4)
        for key in self.keys:
            assert await proxy.get(key) in self.expected[key], key
        trees = {store.hashes(b"%02x" % REGION) for store in self.nodes.stores}
        assert len(trees) == 1
        for store in self.nodes.stores:
            assert not any(record.tombstone for record in map(store.inspect, self.keys) if record), "all were purged"
            tree = store.hashes(b"%02x" % REGION)
            await store._scrubber.scrub()
            assert (store.stats()["scrub_faults"], store.hashes(b"%02x" % REGION)) == ("0", tree)


async def any_schedule(folder: Path, rng: random.Random, steps: int = 40) -> None:
    nodes = Nodes(folder, Clock(), 3)
    await nodes.open()
    schedule = Schedules(nodes, rng)
    try:
        for _ in range(steps):
            await schedule.step()
        await schedule.check()
    finally:
        for proxy in schedule.proxies:
            await proxy.coordinator.close()
        await nodes.close()


@pytest.mark.parametrize("number", range(4))
async def test_whatever_happens_no_delete_is_undone_no_file_lost_and_all_tombstones_go(
    tmp_path: Path, rng: random.Random, number: int
) -> None:
    await any_schedule(tmp_path, rng)
