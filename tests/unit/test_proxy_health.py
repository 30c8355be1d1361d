"""When a node is left alone, and when it is looked at again."""

import asyncio
import random

import pytest

from proxy.health import CALM_S, Health
from proxy.peer import Peer
from sfss.errors import (
    Busy,
    ConnectionLost,
    CorruptRecord,
    Expired,
    Outcome,
    OutOfDisk,
    Recovering,
    RemoteError,
    StaleRing,
    Unreachable,
    WrongCluster,
)
from sfss.store import Identity
from tests.unit.virtual_time import in_virtual_time


class Node:
    """Says who it is, or why not; notes when it was asked."""

    def __init__(self):
        self.asked_at = []
        self.answer = Unreachable("refused")

    def identify(self):
        self.asked_at.append(asyncio.get_running_loop().time())
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def watched(**settings):
    node = Node()
    peer = Peer("a:1", node)
    now = asyncio.get_running_loop().time
    health = Health([peer], rng=random.Random(1), probe_s_min=0.1, probe_s_max=2.0, monotonic=now, **settings)
    return node, peer, health


IDENTITY = Identity("n", "cluster", 1, "ring")


@pytest.mark.parametrize("error", [Unreachable("refused"), ConnectionLost("cut"), WrongCluster("another cluster")])
@in_virtual_time
async def test_a_node_that_is_gone_or_not_ours_is_down_at_once(error):
    _, peer, health = watched()

    health.failed(peer, error)

    assert peer.down
    assert not health.well
    assert peer.error == str(error)


@in_virtual_time
async def test_a_member_that_the_ring_names_no_more_is_neither_watched_nor_minded():
    node, peer, health = watched()
    health.failed(peer, Unreachable("refused"))

    health.watch([Peer("b:1", Node())])
    assert health.well
    health.failed(peer, ConnectionLost("closed"))
    health.failed(peer, Recovering("forgot"))
    await asyncio.sleep(60)

    assert health.well
    assert node.asked_at == []


@in_virtual_time
async def test_a_node_whose_ring_has_another_number_is_well():
    _, peer, health = watched()

    health.failed(peer, StaleRing(2))

    assert not peer.down
    assert health.well


@pytest.mark.parametrize("error", [Expired("late", Outcome.UNKNOWN), RemoteError("SERVER_ERROR what")])
@in_virtual_time
async def test_silence_makes_a_node_down_only_when_it_repeats(error):
    _, peer, health = watched()

    health.failed(peer, error)
    health.failed(peer, error)
    assert not peer.down
    health.failed(peer, error)

    assert peer.down


@in_virtual_time
async def test_an_answer_ends_a_row_of_silences():
    _, peer, health = watched()
    for _ in range(5):
        health.silent(peer)
        health.answered(peer, 0.0)

    assert not peer.down


@pytest.mark.parametrize("error", [Busy("full"), OutOfDisk("full"), CorruptRecord("rotten"), Expired("late")])
@in_virtual_time
async def test_a_node_that_refuses_in_words_is_up(error):
    _, peer, health = watched()
    for _ in range(10):
        health.failed(peer, error)

    assert not peer.down


@in_virtual_time
async def test_a_down_node_is_asked_ever_less_often_but_never_less_than_the_limit():
    node, peer, health = watched()
    health.failed(peer, Unreachable("refused"))

    await asyncio.sleep(60)

    gaps = [later - earlier for earlier, later in zip(node.asked_at, node.asked_at[1:], strict=False)]
    assert gaps[0] < 0.4
    assert all(1.0 <= gap <= 3.0 for gap in gaps[6:])
    assert len({round(gap, 3) for gap in gaps[6:]}) > 5  # jittered
    health.close()


@in_virtual_time
async def test_a_good_answer_brings_a_node_back():
    node, peer, health = watched()
    health.failed(peer, Unreachable("refused"))
    node.answer = IDENTITY

    await asyncio.sleep(1)

    assert not peer.down
    assert health.well
    assert peer.error == ""


@in_virtual_time
async def test_a_node_that_says_it_lost_data_is_suspect_until_it_says_otherwise():
    node, peer, health = watched()
    node.answer = Identity("n", "cluster", 1, "ring", state="suspect")
    health.failed(peer, Recovering("lost"))
    await asyncio.sleep(10)
    assert peer.suspect
    assert not peer.down

    node.answer = IDENTITY
    await asyncio.sleep(10)

    assert not peer.suspect
    assert health.well


@in_virtual_time
async def test_a_good_answer_ends_a_suspicion_that_is_older_than_the_question():
    _, peer, health = watched()
    asked_before = asyncio.get_running_loop().time()
    await asyncio.sleep(0.01)
    health.failed(peer, Recovering("lost"))
    health.answered(peer, asked_before)
    assert peer.suspect

    await asyncio.sleep(0.01)
    health.answered(peer, asyncio.get_running_loop().time())

    assert not peer.suspect
    assert health.well
    assert peer.error == ""
    health.close()


@in_virtual_time
async def test_a_node_that_came_back_as_somebody_else_stays_down():
    def refuse(peer, identity):
        raise WrongCluster("belongs to another cluster")

    node, peer, health = watched(examine=refuse)
    node.answer = IDENTITY
    health.failed(peer, Unreachable("refused"))

    await asyncio.sleep(10)

    assert peer.down
    assert peer.error == "belongs to another cluster"
    health.close()


@in_virtual_time
async def test_nobody_is_asked_after_close():
    node, peer, health = watched()
    health.failed(peer, Unreachable("refused"))

    health.close()
    await asyncio.sleep(10)

    assert node.asked_at == []


async def hanging_disk(peer, health, seconds):
    """Reads of a node succeed all the time; writes begun three seconds ago fail. Returns how often it went down."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    falls = 0
    while loop.time() < end:
        was_down = peer.down
        for _ in range(3):
            health.failed(peer, Expired("no answer", Outcome.UNKNOWN), loop.time() - 3.0)
        falls += peer.down and not was_down
        health.answered(peer, loop.time())
        await asyncio.sleep(0.01)
    return falls


@in_virtual_time
async def test_a_node_whose_disk_hangs_while_it_answers_reads_is_left_alone_for_ever_longer(caplog):
    caplog.set_level("INFO")
    node, peer, health = watched()
    node.answer = IDENTITY

    falls = await hanging_disk(peer, health, 120.0)

    assert 5 < falls < 25
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert told[0].startswith("node a:1 is down: ")
    assert told[1] == "node a:1 is up"
    assert told[2].startswith("node a:1 is down again: ")
    health.close()


@in_virtual_time
async def test_it_is_said_to_be_up_once_it_has_been_for_a_while(caplog):
    node, peer, health = watched()
    node.answer = IDENTITY
    await hanging_disk(peer, health, 60.0)
    caplog.clear()
    caplog.set_level("INFO")

    await asyncio.sleep(3 * CALM_S)

    assert not peer.down
    assert health.well
    assert [record.getMessage() for record in caplog.records] == ["node a:1 is up, and has been for 10 s"]

    caplog.clear()
    health.failed(peer, Unreachable("refused"))
    await asyncio.sleep(1.0)
    # A fall of its own: told at once, and over soon.
    assert [record.getMessage() for record in caplog.records] == ["node a:1 is down: refused", "node a:1 is up"]
    health.close()


@in_virtual_time
async def test_what_was_asked_before_a_node_came_back_says_nothing_of_it_now():
    node, peer, health = watched()
    node.answer = IDENTITY
    before = asyncio.get_running_loop().time()
    health.failed(peer, ConnectionLost("cut"))
    await asyncio.sleep(1.0)
    assert not peer.down

    for _ in range(100):
        health.failed(peer, Expired("no answer", Outcome.UNKNOWN), before)
        health.silent(peer, before)
    assert not peer.down

    health.failed(peer, ConnectionLost("cut"), before)
    assert peer.down
    health.close()


@in_virtual_time
async def test_a_node_that_restarts_again_and_again_is_up_as_soon_as_it_answers(caplog):
    caplog.set_level("INFO")
    node, peer, health = watched()
    node.answer = IDENTITY

    for _ in range(5):
        health.failed(peer, Unreachable("refused"))
        await asyncio.sleep(0.5)
        assert not peer.down

    told = [record.getMessage() for record in caplog.records]
    assert told == ["node a:1 is down: refused", "node a:1 is up"] * 5
    health.close()
