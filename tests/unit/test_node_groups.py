"""Groups to a node: each read and each stamped write has the outcome that it has alone, and what was written is as
durable when that is told."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nodes.entry import index_key
from nodes.store import NodeStore
from sfss.errors import CorruptRecord, OutOfDisk, Recovering, SfssError
from sfss.groups import GROUP_VALUE_BYTES_MAX, LeftOut
from sfss.promise import Promise
from sfss.stamps import stamp_at
from sfss.store import NO_CALL, Applied, Call, Record, checksum_of, settled
from tests.unit.small_nodes import Clock, node

NOW = Clock().now


def record_of(key: bytes, value: bytes, seconds: float = 0.0, tombstone: bool = False) -> Record:
    version = stamp_at(NOW + seconds)
    return Record(value, len(value), 0, 0, version, checksum_of(key, value, 0, 0, version, tombstone), tombstone)


async def told(outcome: Any) -> object:
    """What came of one write, in a form that can be compared."""
    try:
        done = await settled(outcome)
    except Exception as error:
        done = error
    if isinstance(done, Applied):
        return done.accepted, done.version, done.checksum, done.durable
    return type(done), str(done)


@pytest.mark.parametrize("seed", range(6))
async def test_what_comes_of_a_group_is_what_comes_of_its_writes_one_by_one(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    keys = [b"file/%d" % random.randrange(8) for _ in range(60)]
    writes = [
        (key, record_of(key, random.randbytes(20), random.choice([-9, -5, 0]), random.random() < 0.2)) for key in keys
    ]
    writes[7] = writes[7][0], writes[7][1].replaced(checksum=1)
    writes[11] = b"ahead", record_of(b"ahead", b"v", 3600)
    writes[13] = writes[12]
    async with node(tmp_path / "one") as one, node(tmp_path / "other") as other:
        for begin in range(0, 60, 12):
            some = writes[begin : begin + 12]
            alone = [apply(one, key, record) for key, record in some]
            together = await settled(other.apply_group([key for key, _ in some], [record for _, record in some]))

            assert [await told(outcome) for outcome in together] == [await told(outcome) for outcome in alone]
        for key in set(keys):
            assert await settled(one.read(key)) == await settled(other.read(key))


def apply(store: NodeStore, key: bytes, record: Record, call: Call = NO_CALL) -> object:
    try:
        return store.apply(key, record, call)
    except Exception as error:
        return error


async def test_a_group_is_answered_once_all_of_it_is_durable(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        reply = store.apply_group([b"a", b"b"], [record_of(b"a", b"v"), record_of(b"b", b"w")])
        assert isinstance(reply, Promise)
        assert not reply.done()
        again = store.apply_group([b"a"], [record_of(b"a", b"v")])  # waits for the same write

        assert [await told(outcome) for outcome in await reply] == [
            (True, one.version, one.checksum, True) for one in (record_of(b"a", b"v"), record_of(b"b", b"w"))
        ]
        assert [outcome.accepted for outcome in await settled(again)] == [True]
        assert (await settled(store.read(b"b"))).value == b"w"


async def test_a_full_disk_fails_the_files_of_a_group_and_not_its_deletes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path) as store:
        await settled(store.set(b"volume", b"begun"))
        write, calls = os.pwritev, []

        def full_once(*arguments: Any) -> int:
            calls.append(arguments)
            if len(calls) == 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*arguments)

        monkeypatch.setattr(os, "pwritev", full_once)
        file, deleted = await settled(
            store.apply_group([b"file", b"gone"], [record_of(b"file", b"v"), record_of(b"gone", b"", tombstone=True)])
        )

        assert isinstance(file, OutOfDisk)
        assert deleted.accepted


@pytest.mark.parametrize("call", [Call(ring=7), Call(deadline=0.0)])
async def test_a_refusal_is_told_for_each_write_of_a_group(tmp_path: Path, call: Call) -> None:
    async with node(tmp_path) as store:
        record = record_of(b"a", b"v")
        refused = await settled(store.apply_group([b"a", b"a"], [record, record], call))

        assert [await told(error) for error in refused] == [await told(apply(store, b"a", record, call))] * 2


@pytest.mark.parametrize("whole", [True, False])
async def test_what_a_group_reads_is_what_its_keys_alone_bring(tmp_path: Path, whole: bool) -> None:
    clock = Clock()
    keys = [b"file", b"file", b"large", b"flags", b"expires", b"deleted", b"none", b"damaged"]
    async with node(tmp_path, clock) as store:
        for key in keys[:6]:
            await settled(store.set(key, key * 10, 7 * (key == b"flags"), int(NOW + 5) * (key == b"expires")))
        await settled(store.set(b"large", bytes(GROUP_VALUE_BYTES_MAX + 1)))
        await settled(store.delete(b"deleted"))
        await settled(store.set(b"damaged", b"v"))
        store._note_damage(index_key(b"damaged"), store._overlay.newest(index_key(b"damaged")) or b"")
        clock.now += 10
        look = store.read if whole else store.inspect

        for _ in range(3):
            alone = [await _looked(look, key) for key in keys]
            together = await settled(store.read_group(keys, whole))

            if whole:
                assert isinstance(together[2], LeftOut)
                alone[2] = together[2]
            assert [_shown(outcome) for outcome in together] == [_shown(outcome) for outcome in alone]
        assert together[0] is not None


async def _looked(look: Any, key: bytes) -> Any:
    try:
        return await settled(look(key))
    except CorruptRecord as error:
        return error


def _shown(outcome: Any) -> Any:
    return (type(outcome), str(outcome)) if isinstance(outcome, Exception) else outcome


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("call", [Call(ring=7), Call(deadline=0.0)])
async def test_a_refusal_is_told_for_each_read_of_a_group(tmp_path: Path, call: Call, whole: bool) -> None:
    async with node(tmp_path) as store:
        with pytest.raises(SfssError) as refused:
            store.inspect(b"a", call)

        told = await settled(store.read_group([b"a", b"b"], whole, call))

        assert [_shown(error) for error in told] == [_shown(refused.value)] * 2


async def test_a_suspect_node_counts_no_write_of_a_group(tmp_path: Path) -> None:
    async with node(tmp_path) as store:
        store._know_state(replace(store._state, suspect="planted"))
        (outcome,) = await settled(store.apply_group([b"a"], [record_of(b"a", b"v")]))

        assert isinstance(outcome, Recovering)
