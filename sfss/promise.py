"""An answer to come, for the way of every request: what `asyncio.Future` is, at a fraction of the price.

A future hands each callback to the event loop by itself. Here the promises that are settled in one go, such as by the
replies that one read from a socket brought, form a *turn*: their callbacks run together, then those of the promises
that these settled, until none is left. A request that passes through four promises of a tier takes no pass of the loop
for that, and answers that belong together stay together.

As with futures, nothing is ever called back from within `set_result`, and a caller may await a promise, or drop it.
An error that nobody looks at is no fault: whoever asked has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

T = TypeVar("T")

_PENDING: Final = 0
_DONE: Final = 1
_FAILED: Final = 2
_CANCELLED: Final = 3


class Sender:
    """Who gathers what it sends until a turn of the loop ends."""

    def flush(self) -> None:
        """Send it."""
        raise NotImplementedError


class Turn:
    """Promises that are settled and whose callbacks haven't run, and who has something to send, of one event loop. Get
    it from `turn_of`."""

    __slots__ = ("_due", "_gathering", "_senders", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._due: list[Promise[Any]] = []
        self._gathering = False
        self._senders: list[Sender] = []

    def send_soon(self, sender: Sender) -> None:
        """Have `sender` flush once all has run that the loop has to run now; one callback does for all senders."""
        if not self._senders:
            self.loop.call_soon(self._flush)
        self._senders.append(sender)

    def _flush(self) -> None:
        senders, self._senders = self._senders, []
        for place, sender in enumerate(senders):
            try:
                sender.flush()
            except BaseException:
                for other in senders[place + 1 :]:
                    self.send_soon(other)
                raise

    def gather(self) -> None:
        """The caller will settle several promises, and then surely call `run`."""
        self._gathering = True

    def run(self) -> None:
        """Call back, until nobody waits any more for what is settled. Never from within a callback."""
        self._gathering = True
        try:
            while self._due:
                due, self._due = self._due, []
                for promise in due:
                    promise.call_back()
        finally:
            self._gathering = False
            if self._due:
                self.loop.call_soon(self.run)  # the process is told to end; whoever still waits is called if it doesn't

    def settled(self, promise: Promise[Any]) -> None:
        if not (self._due or self._gathering):
            self.loop.call_soon(self.run)
        self._due.append(promise)


_latest: Turn | None = None


def turn_of(loop: asyncio.AbstractEventLoop) -> Turn:
    """The turn of a loop. A process has one loop; where there are several, one may get several turns, and promises of
    two turns are merely not called back together."""
    global _latest
    turn = _latest
    if turn is None or turn.loop is not loop:
        turn = _latest = Turn(loop)
    return turn


class Waiter:
    """Whoever waits for a promise by `tell`: no callback has to be made for it, and none is called, which is a third of
    what a promise costs."""

    __slots__ = ()

    def told(self, promise: Promise[Any]) -> None:
        """The promise is settled."""
        raise NotImplementedError


class Promise(Waiter, Generic[T]):
    """A result or an error that comes later. The methods are those of `asyncio.Future`, and mean the same; but for
    `tell`, which adds a waiter. One of a class of its own may wait for others to be settled by what came of them."""

    __slots__ = ("_callback", "_error", "_further", "_result", "_state", "_turn", "_waiter")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._state = _PENDING
        self._result: T | None = None
        self._error: BaseException | None = None
        # Nearly always there is one, of either kind, so that it needs no list.
        self._waiter: Waiter | None = None
        self._callback: Callable[[Promise[T]], object] | None = None
        self._further: list[Callable[[Promise[T]], object]] | None = None

    def done(self) -> bool:
        return self._state != _PENDING

    def cancelled(self) -> bool:
        return self._state == _CANCELLED

    def result(self) -> T:
        """Raises the error, `asyncio.CancelledError`, or `asyncio.InvalidStateError` where nothing has come yet."""
        if self._state == _DONE:
            return cast(T, self._result)
        error = self.exception()
        assert error is not None
        raise error

    def exception(self) -> BaseException | None:
        """The error, if it is one; raises as `result` where there is neither."""
        if self._state == _CANCELLED:
            raise asyncio.CancelledError
        if self._state == _PENDING:
            raise asyncio.InvalidStateError("nothing has come yet")
        return self._error

    def set_result(self, result: T) -> None:
        self._settle(_DONE)
        self._result = result

    def set_exception(self, error: BaseException) -> None:
        self._settle(_FAILED)
        self._error = error

    def cancel(self) -> bool:
        """Give up waiting; false if it has come already."""
        if self._state != _PENDING:
            return False
        self._settle(_CANCELLED)
        return True

    def add_done_callback(self, callback: Callable[[Promise[T]], object]) -> None:
        """Have `callback` called with this promise soon after it is settled."""
        if self._callback is None and self._waiter is None:
            self._callback = callback
            if self._state != _PENDING:
                self._turn.settled(self)
        elif self._further is None:
            self._further = [callback]
        else:
            self._further.append(callback)

    def tell(self, waiter: Waiter) -> None:
        """Have `waiter` told soon after it is settled."""
        if self._callback is None and self._waiter is None:
            self._waiter = waiter
            if self._state != _PENDING:
                self._turn.settled(self)
        else:
            self.add_done_callback(waiter.told)

    def call_back(self) -> None:
        """For `Turn`: call whoever waits."""
        waiter, callback, further = self._waiter, self._callback, self._further
        self._waiter = self._callback = self._further = None
        if waiter is not None:
            try:
                waiter.told(self)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._report(waiter, error)
        if callback is not None:
            self._call(callback)
        if further is not None:
            for callback in further:
                self._call(callback)

    def __await__(self) -> Generator[Any, None, T]:
        if self._state == _PENDING:
            waiter: asyncio.Future[None] = self._turn.loop.create_future()
            self.add_done_callback(partial(_wake, waiter))
            try:
                yield from waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result()

    def _settle(self, state: int) -> None:
        if self._state != _PENDING:
            raise asyncio.InvalidStateError("it was settled before")
        self._state = state
        if self._callback is not None or self._waiter is not None:
            self._turn.settled(self)

    def _call(self, callback: Callable[[Promise[T]], object]) -> None:
        try:
            callback(self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # as for futures, that it was cancelled too
            self._report(callback, error)

    def _report(self, callback: object, error: BaseException) -> None:
        self._turn.loop.call_exception_handler({"message": f"fault in the callback {callback!r}", "exception": error})


def new_promise() -> Promise[Any]:
    """A promise of the running loop. What makes many keeps the loop's turn instead."""
    return Promise(turn_of(asyncio.get_running_loop()))


def _wake(waiter: asyncio.Future[None], _: Promise[Any]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def promised(task: asyncio.Future[T]) -> Promise[T]:
    """The same answer as a task's or a future's. Whoever cancels the promise cancels the task."""
    promise: Promise[T] = Promise(turn_of(task.get_loop()))
    task.add_done_callback(partial(_copy, promise))
    promise.add_done_callback(partial(_give_up, task))
    return promise


def _give_up(task: asyncio.Future[T], promise: Promise[T]) -> None:
    if promise.cancelled():
        task.cancel()


def _copy(promise: Promise[T], task: asyncio.Future[T]) -> None:
    if task.cancelled():
        promise.cancel()
        return
    error = task.exception()
    if promise.done():
        return
    if error is None:
        promise.set_result(task.result())
    else:
        promise.set_exception(error)
