"""A node that can't have come from where it was last seen knows, durably, that it forgot; one that can goes on."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest

from nodes.identity import STARTS_MAX, NodeState
from nodes.lineage import changes_from, next_start, why_not_from
from sfss.errors import BadRequest, Recovering, WrongCluster
from sfss.store import Identity, Seen, settled
from tests.unit.small_nodes import killed, node, take_turns_on_disk

ME = "ab" * 16


def started(state: NodeState, times: int = 1) -> NodeState:
    for _ in range(times):
        state = next_start(state)
    return state


def seen_of(identity: Identity) -> Seen:
    return Seen(identity.node, identity.epoch, identity.start, identity.position)


def met(state: NodeState, position: int = 0) -> Seen:
    return seen_of(state.identity(position))


def after(state: NodeState, seen: Seen, position: int = 0) -> NodeState:
    return replace(state, **changes_from(state, position, seen))


def test_a_node_that_goes_on_is_not_suspected_whenever_it_was_seen():
    early = started(NodeState(ME))
    later = started(early, STARTS_MAX + 10)

    for state in (early, started(early), later):
        assert why_not_from(state, 100, met(early, 100)) == ""
        assert why_not_from(state, 101, met(early, 100)) == ""


def test_a_copy_from_before_a_start_that_was_seen_is_noticed_however_often_it_is_started():
    copy = started(NodeState(ME), 3)
    seen = met(started(copy, 4))

    for starts in range(1, 20):
        state = started(copy, starts)
        assert why_not_from(state, 0, seen), f"after {starts} starts"
        assert after(state, seen).suspect


def test_a_copy_of_the_start_that_was_seen_is_noticed_by_what_was_written_since():
    state = started(NodeState(ME), 3)

    assert why_not_from(started(state), 99, met(state, 100))
    assert not why_not_from(started(state), 100, met(state, 100))


def test_what_was_seen_of_another_node_says_nothing():
    state = started(NodeState(ME), 3)

    assert not why_not_from(state, 0, Seen("cd" * 16, 9, "w", 100))
    assert why_not_from(state, 0, Seen(ME, 9, "w", 100))


def test_an_adopted_node_is_judged_by_the_id_that_it_took_over():
    state = replace(started(NodeState(ME)), member="cd" * 16)

    assert why_not_from(state, 0, Seen("cd" * 16, 9, "w", 100))
    assert not why_not_from(state, 0, Seen(ME, 9, "w", 100))


def test_one_that_went_back_is_above_all_that_was_seen_and_what_others_saw_of_the_lost_starts_is_settled():
    """Else each coordinator that comes back after a long time would have it refilled once more."""
    copy = started(NodeState(ME), 3)
    lost = [started(copy, starts) for starts in (1, 2, 3)]

    state = after(started(copy), met(lost[-1], 100))

    assert state.epoch > lost[-1].epoch
    for earlier in lost:
        assert not why_not_from(state, 0, met(earlier, 100))
    assert why_not_from(state, 0, met(started(lost[-1]), 100)), "a lost start that nobody had told of"


def test_what_was_seen_after_that_counts_again():
    copy = started(NodeState(ME), 3)
    back = after(started(copy), met(started(copy, 3)))

    assert not why_not_from(started(back), 0, met(back))
    assert why_not_from(started(copy, 2), 0, met(back)), "the older copy once more"
    assert why_not_from(started(copy, 9), 0, met(back)), "and started until it has the number"


def unnoticed(seed: int, hear: Callable[[NodeState, Seen], NodeState]) -> int:
    """Copies are made and put back at any moment. How often the node counts although it lacks a start that it was met
    in since it was last refilled."""
    rng = random.Random(seed)
    state, line, refilled_at = started(NodeState(ME)), (), 0
    copies = [(state, line, refilled_at)]
    seen, seen_line, seen_at = met(state), line, 0
    count = 0
    for moment in range(1, 80):
        what = rng.random()
        if what < 0.2:
            copies.append((state, line, refilled_at))
        elif what < 0.35:
            state, line, refilled_at = rng.choice(copies)
        if what < 0.7:
            state = next_start(state)
            line = (*line, state.starts[-1])
        state = hear(state, seen)
        if state.suspect:
            line = (*line, state.starts[-1])
            state, refilled_at = replace(state, suspect=""), moment
        elif line[: len(seen_line)] != seen_line:
            count += refilled_at <= seen_at
        seen, seen_line, seen_at = met(state), line, moment
    return count


def test_whatever_copies_are_put_back_in_whatever_order_none_counts_without_a_refill():
    assert not any(unnoticed(seed, after) for seed in range(100))


def test_a_node_that_compares_only_the_number_of_the_start_is_caught():
    def only_numbers(state: NodeState, seen: Seen) -> NodeState:
        return after(state, seen) if seen.epoch > state.epoch else state

    assert any(unnoticed(seed, only_numbers) for seed in range(100))


async def test_a_running_node_that_went_back_refuses_reads_from_then_on_and_after_a_restart(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"v"))
        assert (await settled(store.recall(seen_of(store.identify())))).state == "ok"
        seen = seen_of(store.identify())

        told = await settled(store.recall(seen._replace(epoch=seen.epoch + 1)))

        assert told.state == "suspect"
        assert told.epoch > seen.epoch + 1
        with pytest.raises(Recovering):
            store.get(b"k")
        assert "older copy" in store.stats()["suspect_reason"]
    async with node(tmp_path) as store:
        assert store.identify().state == "suspect"
        assert (await settled(store.recall(seen_of(told)))).epoch == told.epoch + 1


async def test_it_is_on_disk_before_it_is_told(tmp_path, monkeypatch):
    take_turns_on_disk(monkeypatch)
    async with node(tmp_path / "node") as store:
        seen = seen_of(store.identify())

        await settled(store.recall(seen._replace(start="another")))
        copy = killed(tmp_path / "node", tmp_path / "copy")

    async with node(copy) as store:
        assert store.identify().state == "suspect"


async def test_a_copy_that_is_put_back_is_told_from_the_node_by_its_next_start(tmp_path):
    async with node(tmp_path / "node") as store:
        await settled(store.set(b"k", b"v"))
    shutil.copytree(tmp_path / "node", tmp_path / "copy")
    async with node(tmp_path / "node") as store:
        seen = seen_of(store.identify())

    async with node(tmp_path / "copy") as store:
        assert store.identify().epoch == seen.epoch
        assert (await settled(store.recall(seen))).state == "suspect"


async def test_several_who_tell_the_same_make_it_suspect_once(tmp_path):
    async with node(tmp_path) as store:
        seen = seen_of(store.identify())._replace(start="another")

        told = await asyncio.gather(*(settled(store.recall(seen)) for _ in range(6)))

        assert {identity.epoch for identity in told} == {seen.epoch + 1}


async def test_trust_on_its_way_for_a_life_before_does_not_hide_that_it_went_back(tmp_path):
    async with node(tmp_path) as store:
        seen = seen_of(store.identify())
        first = await settled(store.recall(seen._replace(start="another")))

        trusted = store.trust(first.epoch)
        back = store.recall(seen_of(first)._replace(epoch=first.epoch + 1))
        await asyncio.gather(settled(trusted), settled(back), return_exceptions=True)

        assert store.identify().state == "suspect"
        with pytest.raises(BadRequest):
            store.trust(first.epoch)


async def test_trust_that_comes_second_is_refused(tmp_path):
    async with node(tmp_path) as store:
        seen = seen_of(store.identify())
        first = await settled(store.recall(seen._replace(start="another")))

        back = store.recall(seen_of(first)._replace(epoch=first.epoch + 1))
        await asyncio.sleep(0)
        trusted = store.trust(first.epoch)
        told, refused = await asyncio.gather(settled(back), settled(trusted), return_exceptions=True)

        assert told.state == "suspect"
        assert isinstance(refused, BadRequest)
        assert store.identify().state == "suspect"


# --- an empty directory takes the place of one that was lost


async def test_an_empty_node_takes_over_the_id_and_is_suspect_from_then_on(tmp_path):
    async with node(tmp_path) as store:
        own = store.identify().node

        told = await settled(store.adopt("c" * 32, 1, "print", "cd" * 16))

        assert (told.node, told.cluster, told.fingerprint, told.state) == ("cd" * 16, "c" * 32, "print", "suspect")
        assert own != told.node
        with pytest.raises(Recovering):
            store.get(b"k")
        with pytest.raises(Recovering):
            await settled(store.set(b"k", b"v"))
    async with node(tmp_path) as store:
        again = store.identify()
        assert (again.node, again.state) == ("cd" * 16, "suspect")
        assert (await settled(store.trust(again.epoch))).state == "ok"
        assert (await settled(store.get(b"k"))).value == b"v"
    async with node(tmp_path) as store:
        assert store.identify().node == "cd" * 16
        assert (await settled(store.get(b"k"))).value == b"v"


async def test_what_was_seen_of_the_one_before_puts_the_adopted_node_above_it(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.adopt("c" * 32, 1, "print", "cd" * 16))

        told = await settled(store.recall(Seen("cd" * 16, 9, "word", 1 << 40)))

        assert told.epoch == 10
        assert store.stats()["suspect_reason"].startswith("its directory is empty")
        assert (await settled(store.trust(10))).state == "ok"
        assert (await settled(store.recall(Seen("cd" * 16, 9, "word", 1 << 40)))).state == "ok"


async def test_the_directory_that_was_lost_is_an_old_copy_once_another_took_its_place(tmp_path):
    async with node(tmp_path / "lost") as store:
        await settled(store.bind("c" * 32, 1, "print"))
        await settled(store.set(b"k", b"v"))
        seen = seen_of(store.identify())
    async with node(tmp_path / "empty") as store:
        await settled(store.adopt("c" * 32, 1, "print", seen.node))
        taken = await settled(store.recall(seen))
        taken = await settled(store.trust(taken.epoch))

    async with node(tmp_path / "lost") as store:
        assert (await settled(store.recall(seen))).state == "ok"
        assert (await settled(store.recall(seen_of(taken)))).state == "suspect"


async def test_a_node_that_has_had_files_takes_nobodys_place(tmp_path):
    async with node(tmp_path) as store:
        await settled(store.set(b"k", b"v"))
        await settled(store.delete(b"k"))

        with pytest.raises(WrongCluster, match="give it an empty data directory"):
            await settled(store.adopt("c" * 32, 1, "print", "cd" * 16))

        assert store.identify().cluster == ""
        assert store.identify().state == "ok"


async def test_a_bound_node_says_who_it_is_and_stays_that(tmp_path):
    async with node(tmp_path) as store:
        bound = await settled(store.bind("new", 1, "print"))

        assert await settled(store.adopt("c" * 32, 1, "print", "cd" * 16)) == bound


async def test_of_two_who_adopt_at_once_one_decides_and_both_hear_it(tmp_path):
    async with node(tmp_path) as store:
        terms = [("c" * 32, 1, "print", "cd" * 16), ("e" * 32, 1, "print", "ef" * 16)]

        told = await asyncio.gather(*(settled(store.adopt(*each)) for each in terms))

        assert told[0] == told[1]
        assert (told[0].cluster, told[0].node) in {("c" * 32, "cd" * 16), ("e" * 32, "ef" * 16)}


# --- what it keeps in mind of the others

OTHER = Seen("ef" * 16, 3, "word", 100, "b:1")


async def test_what_was_seen_of_others_is_kept_over_a_crash_once_it_is_told(tmp_path, monkeypatch):
    take_turns_on_disk(monkeypatch)
    async with node(tmp_path / "node") as store:
        await settled(store.bind("c" * 32, 1, "print"))
        assert await settled(store.witness([OTHER])) == (OTHER,)
        copy = killed(tmp_path / "node", tmp_path / "copy")
        further = OTHER._replace(position=200)
        assert await settled(store.witness([further, OTHER._replace(epoch=2)])) == (further,)
    async with node(copy) as store:
        assert await settled(store.witness(())) == (OTHER,)
    async with node(tmp_path / "node") as store:
        assert await settled(store.witness(())) == (further,)


async def test_a_node_is_no_witness_of_itself_nor_without_a_cluster(tmp_path):
    async with node(tmp_path) as store:
        with pytest.raises(WrongCluster):
            store.witness([OTHER])
        await settled(store.bind("c" * 32, 1, "print"))

        assert await settled(store.witness([seen_of(store.identify())._replace(name="a:1", epoch=9)])) == ()
