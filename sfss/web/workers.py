"""Several processes that serve one port, and the one that watches over them.

Each worker has a listening socket of its own (SO_REUSEPORT), among which the kernel spreads connections. The watching
process holds them all, so what is connected to a worker that died waits for its successor instead of being refused. It
serves nothing itself and runs no event loop: it sleeps until a signal comes.

The first worker goes ahead, and the others follow once it serves. So a start that can't work is refused once, in one
line, and not by each of them; and what stands below is asked, or waited for, by one.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from sfss.errors import SetupError
from sfss.process import STOP_S_MAX, end_with_parent, refusal

BACKOFF_S_MIN = 0.1
BACKOFF_S_MAX = 5.0
STEADY_S = 10.0
"""A worker that has lived so long is restarted without waiting."""

_STOP = {signal.SIGTERM, signal.SIGINT}
_SERVING = signal.SIGUSR2
"""What a worker sends to the process that watches over it."""

_SIGNALS = _STOP | {signal.SIGCHLD, _SERVING}
_REFUSED = 2  # exit status of a refused start; sfss.process

_log = logging.getLogger("sfss.web")


def bind_sockets(host: str, port: int, workers: int) -> list[list[socket.socket]]:
    """For each worker, sockets bound to all addresses of `host`. Port 0 picks one. Raises `SetupError`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:  # the latter for what can't be a name at all
        raise SetupError(f"{host} is no address of this machine: {getattr(error, 'strerror', error)}") from None
    addresses = sorted({(family, str(address[0])) for family, _, _, _, address in found})
    sets: list[list[socket.socket]] = [[] for _ in range(workers)]
    try:
        for family, address in addresses:
            if workers > 1 and port:
                # Another server of the same user could be joined unnoticed; without the option the port has to be free.
                _bound(family, address, port, shared=False).close()
            for sockets in sets:
                sockets.append(_bound(family, address, port, shared=workers > 1))
                port = port or sockets[0].getsockname()[1]
    except OSError as error:
        raise refusal(error, host, port, "--port") from None
    return sets


def _bound(family: int, host: str, port: int, *, shared: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # `::` is everything, IPv4 too; any other address is itself alone.
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        one.bind((host, port))
        one.setblocking(False)
    except OSError:
        one.close()
        raise
    return one


Work: TypeAlias = "Callable[[int, Sequence[socket.socket], Callable[[], None]], int]"
"""A worker's life: its index, its sockets, and what to call once it serves. Returns the exit status."""


class Workers:
    """Runs `work` in a child process for each set of sockets, until a signal says to stop."""

    def __init__(self, work: Work, sockets: Sequence[Sequence[socket.socket]]) -> None:
        self._work = work
        self._sockets = sockets
        self._pids: dict[int, int] = {}
        self._started: dict[int, float] = {}
        self._due: dict[int, float] = {}
        self._backoff_s = dict.fromkeys(range(len(sockets)), BACKOFF_S_MIN)
        self._parent = os.getpid()
        self._served = False

    def run(self) -> int:
        """Start all, restart what dies, stop all on SIGTERM or SIGINT. Returns the exit status."""
        old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._start(0)
            status = self._watch()
            return max(status, self._stop())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)

    def _start(self, index: int) -> None:
        self._started[index] = time.monotonic()
        try:
            pid = os.fork()
        except OSError as error:  # no memory, or too many processes: the others go on
            _log.error(
                "worker %d can't be started: %s; tried again in %.1f s", index, error.strerror, self._delay(index)
            )
            return
        if pid == 0:
            os._exit(self._child(index))
        self._pids[pid] = index

    def _start_others(self) -> None:
        """One serves, so all can."""
        self._served = True
        for index in range(len(self._sockets)):
            if index not in self._started:
                self._start(index)

    def _child(self, index: int) -> int:
        try:
            # A group of its own: Ctrl-C is for the parent, who asks its workers to stop, once.
            os.setpgid(0, 0)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            end_with_parent(self._parent)
            for other, sockets in enumerate(self._sockets):
                if other != index:
                    for one in sockets:
                        one.close()
            return self._work(index, self._sockets[index], self._tell_serving)
        except BaseException:
            _log.exception("worker %d ended by an error", index)
            return 1

    def _tell_serving(self) -> None:
        if os.getppid() == self._parent:
            os.kill(self._parent, _SERVING)

    def _watch(self) -> int:
        """Until it is time to stop; returns the exit status that a refused start asks for."""
        while True:
            wait_s = max(0.0, min(self._due.values(), default=time.monotonic() + 3600.0) - time.monotonic())
            came = signal.sigtimedwait(_SIGNALS, wait_s)
            if came is not None and came.si_signo in _STOP:
                return 0
            if came is not None and came.si_signo == _SERVING:
                self._start_others()
            for index, status in self._reap():
                # Later on it is no wrong setting, but what is away just now; the other workers go on serving.
                if status == _REFUSED and not self._served:
                    return _REFUSED
                self._bury(index, status)
            for index, due in list(self._due.items()):
                if due <= time.monotonic():
                    del self._due[index]
                    self._start(index)

    def _bury(self, index: int, status: int) -> None:
        lived_s = time.monotonic() - self._started[index]
        if lived_s >= STEADY_S:
            self._backoff_s[index] = BACKOFF_S_MIN
        wait_s = self._delay(index)
        how = f"signal {-status}" if status < 0 else f"status {status}"
        _log.error("worker %d ended after %.1f s by %s; a new one starts in %.1f s", index, lived_s, how, wait_s)

    def _delay(self, index: int) -> float:
        """Have a worker started a while from now: in how many seconds."""
        wait_s = self._backoff_s[index]
        self._backoff_s[index] = min(wait_s * 2, BACKOFF_S_MAX)
        self._due[index] = time.monotonic() + wait_s
        return wait_s

    def _reap(self) -> list[tuple[int, int]]:
        """Workers that have ended: index and exit status, negative for a signal."""
        ended = []
        for pid in list(self._pids):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                ended.append((self._pids.pop(pid), os.waitstatus_to_exitcode(status)))
        return ended

    def _stop(self) -> int:
        """Ask all to finish; those that don't in time are killed, and the exit status says so."""
        for sockets in self._sockets:
            for one in sockets:
                one.close()
        for pid in self._pids:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S_MAX
        status = 0
        while self._pids:
            left = deadline - time.monotonic()
            came = signal.sigtimedwait(_SIGNALS, max(0.0, left))
            if left <= 0 or (came is not None and came.si_signo in _STOP):
                for pid in self._pids:
                    os.kill(pid, signal.SIGKILL)
                deadline = time.monotonic() + 1.0
                status = 1
            for _, ended in self._reap():
                status = max(status, 1 if ended not in (0, _REFUSED) else 0)
        return status
