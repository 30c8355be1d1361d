"""Promises: what they share with futures, and that those settled together are called back together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sfss.promise import Promise, Sender, Waiter, new_promise, promised, turn_of


class Wrong(Exception):
    pass


async def test_a_result_is_awaited_now_or_later():
    promise = new_promise()
    waiting = asyncio.ensure_future(_value_of(promise))
    await asyncio.sleep(0)
    assert not waiting.done()
    promise.set_result(7)
    assert await waiting == 7
    assert await promise == 7
    assert promise.done()
    assert promise.exception() is None


async def test_an_error_is_raised_to_whoever_waits():
    promise = new_promise()
    waiting = asyncio.ensure_future(_value_of(promise))
    await asyncio.sleep(0)
    promise.set_exception(Wrong("so"))
    with pytest.raises(Wrong, match="so"):
        await waiting
    with pytest.raises(Wrong, match="so"):
        promise.result()
    assert isinstance(promise.exception(), Wrong)


async def test_nothing_is_called_back_within_the_call_that_settles():
    promise, seen = new_promise(), []
    promise.add_done_callback(lambda done: seen.append(done.result()))
    promise.set_result(1)
    assert not seen
    await asyncio.sleep(0)
    assert seen == [1]


async def test_a_callback_added_late_is_called_all_the_same_and_each_of_several_once():
    promise, seen = new_promise(), []
    for number in range(3):
        promise.add_done_callback(lambda _, number=number: seen.append(number))
    promise.set_result(None)
    promise.add_done_callback(lambda _: seen.append(3))
    await asyncio.sleep(0)
    promise.add_done_callback(lambda _: seen.append(4))
    assert seen == [0, 1, 2, 3]
    await asyncio.sleep(0)
    assert seen == [0, 1, 2, 3, 4]


async def test_what_is_settled_together_is_called_back_together_before_what_follows_from_it():
    turn, seen = turn_of(asyncio.get_running_loop()), []
    first, second = new_promise(), new_promise()
    after_first = new_promise()
    first.add_done_callback(lambda _: (seen.append("first"), after_first.set_result(None)))
    second.add_done_callback(lambda _: seen.append("second"))
    after_first.add_done_callback(lambda _: seen.append("after first"))
    turn.gather()
    first.set_result(None)
    second.set_result(None)
    assert not seen
    turn.run()
    assert seen == ["first", "second", "after first"]


async def test_a_fault_in_a_callback_is_reported_and_keeps_nobody_else_from_being_called():
    loop, faults, seen = asyncio.get_running_loop(), [], []
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    promises = [new_promise() for _ in range(3)]
    promises[0].add_done_callback(lambda _: seen.append(0))
    promises[1].add_done_callback(_raise)
    promises[1].add_done_callback(lambda _: seen.append(1))
    promises[2].add_done_callback(lambda _: seen.append(2))
    for promise in promises:
        promise.set_result(None)
    await asyncio.sleep(0)
    assert seen == [0, 1, 2]
    assert [type(fault) for fault in faults] == [Wrong]


class Noting(Waiter):
    """Notes what it is told, under its name."""

    def __init__(self, name: str, seen: list[Any]) -> None:
        self.name = name
        self.seen = seen

    def told(self, promise: Promise[Any]) -> None:
        self.seen.append((self.name, promise.result()))


@pytest.mark.parametrize("kinds", ["w", "wc", "cw", "wwc", "cwcw"])
@pytest.mark.parametrize("settled_first", [False, True])
async def test_waiters_are_told_as_callbacks_are_called_in_the_order_in_which_they_came(kinds, settled_first):
    promise, seen = new_promise(), []
    if settled_first:
        promise.set_result(7)
    for place, kind in enumerate(kinds):
        if kind == "w":
            promise.tell(Noting(f"{place}", seen))
        else:
            promise.add_done_callback(lambda done, place=place: seen.append((f"{place}", done.result())))
    if not settled_first:
        promise.set_result(7)
    assert not seen

    await asyncio.sleep(0)
    promise.tell(Noting("late", seen))
    await asyncio.sleep(0)

    assert seen == [*((f"{place}", 7) for place in range(len(kinds))), ("late", 7)]


async def test_a_waiter_of_a_promise_that_is_given_up_is_told():
    promise, seen = new_promise(), []

    class Asking(Noting):
        def told(self, promise: Promise[Any]) -> None:
            self.seen.append(promise.cancelled())

    promise.tell(Asking("", seen))
    promise.cancel()
    await asyncio.sleep(0)
    assert seen == [True]


async def test_a_fault_of_a_waiter_is_reported_and_keeps_nobody_else_from_being_called():
    loop, faults, seen = asyncio.get_running_loop(), [], []
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    promise = new_promise()
    promise.tell(Noting("first", None))  # type: ignore[arg-type]
    promise.tell(Noting("second", seen))
    promise.set_result(1)
    await asyncio.sleep(0)
    assert seen == [("second", 1)]
    assert [type(fault) for fault in faults] == [AttributeError]


class Outbox(Sender):
    """Notes that it was flushed, or fails."""

    def __init__(self, name: str, seen: list[Any], fails: bool = False) -> None:
        self.name = name
        self.seen = seen
        self.fails = fails

    def flush(self) -> None:
        self.seen.append(self.name)
        if self.fails:
            raise Wrong


async def test_senders_flush_in_their_order_once_all_has_run_that_was_due():
    loop, seen = asyncio.get_running_loop(), []
    turn = turn_of(loop)
    for name in "ab":
        loop.call_soon(turn.send_soon, Outbox(name, seen))
        loop.call_soon(seen.append, name.upper())
    while len(seen) < 4:
        await asyncio.sleep(0)
    turn.send_soon(Outbox("c", seen))
    await asyncio.sleep(0)

    assert seen == ["A", "B", "a", "b", "c"]


async def test_a_sender_that_fails_keeps_no_other_from_sending():
    loop, faults, seen = asyncio.get_running_loop(), [], []
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    turn = turn_of(loop)
    for name in "abc":
        turn.send_soon(Outbox(name, seen, fails=name == "b"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert seen == ["a", "b", "c"]
    assert [type(fault) for fault in faults] == [Wrong]


async def test_whoever_waits_and_is_cancelled_gives_the_promise_up():
    promise = new_promise()
    waiting = asyncio.ensure_future(_value_of(promise))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert promise.cancelled()
    assert not promise.cancel()
    with pytest.raises(asyncio.CancelledError):
        promise.result()


async def test_it_is_settled_once():
    promise = new_promise()
    with pytest.raises(asyncio.InvalidStateError):
        promise.result()
    with pytest.raises(asyncio.InvalidStateError):
        promise.exception()
    promise.set_result(1)
    with pytest.raises(asyncio.InvalidStateError):
        promise.set_result(2)
    with pytest.raises(asyncio.InvalidStateError):
        promise.set_exception(Wrong())
    assert not promise.cancel()
    assert promise.result() == 1


async def test_a_task_is_promised_with_its_result_its_error_and_its_end():
    assert await promised(asyncio.ensure_future(_value_of(_kept(3)))) == 3
    failing = new_promise()
    failing.set_exception(Wrong())
    with pytest.raises(Wrong):
        await promised(asyncio.ensure_future(_value_of(failing)))
    task = asyncio.ensure_future(asyncio.sleep(3600))
    promised(task).cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    task = asyncio.ensure_future(asyncio.sleep(3600))
    promise = promised(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await promise


async def _value_of(promise: Promise[Any]) -> Any:
    return await promise


def _kept(value: Any) -> Promise[Any]:
    promise = new_promise()
    promise.set_result(value)
    return promise


def _raise(_: Promise[Any]) -> None:
    raise Wrong
