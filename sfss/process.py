"""What every server process does the same way: run on uvloop, stop on a signal, refuse a bad start in one line.

Exit status: 0 after a clean stop, 1 when something broke, 2 when the start was refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import faulthandler
import ipaddress
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from importlib import util
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from sfss import stamps
from sfss.addresses import host_and_port
from sfss.errors import SetupError

STOP_S_MAX = 20.0
"""A stop that takes longer than this is cut short, with exit status 1 and the stacks of all threads in the log."""

SAME_SIGNAL_S = 0.5
"""A signal that follows the first within this is the same one: make and timeout pass on a Ctrl-C that reached their
children already."""

OPEN_FILES_MAX = 65_536
"""Open files that a process asks for, where the hard limit lets it: the usual soft limit of 1,024 is fewer than the
connections that a server may have."""

FORM = "interpreted" if stamps.__file__.endswith(".py") else "compiled"
"""How the modules on a request's way run in this process (docs/decisions/mypyc.rst)."""

VERSION_LINE = f"%(prog)s, version %(version)s, {FORM}"
"""What --version prints."""

T = TypeVar("T")

_log = logging.getLogger("sfss.process")


def run(name: str, main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run `main(stop)` to its end; returns the exit status.

    `main` has three phases: it starts its servers, waits for `stop`, and closes them. SIGTERM and SIGINT set `stop`, in
    any phase; a second one, or `STOP_S_MAX` seconds, ends the process at once. `SetupError` becomes one line on
    standard error. Files made by the process are for its user only (umask 077). SIGUSR1 prints what every thread is at.
    """
    os.umask(0o077)
    _raise_open_files()
    _interrupt_nobody()
    faulthandler.register(signal.SIGUSR1, file=2)

    async def supervised() -> None:
        stop = asyncio.Event()
        first_s = 0.0

        def ask_to_stop() -> None:
            nonlocal first_s
            if not stop.is_set():
                first_s = time.monotonic()
                _log.info("%s is stopping", name)
                stop.set()
                _arm_last_resort()
            elif time.monotonic() - first_s > SAME_SIGNAL_S:
                os._exit(1)

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ask_to_stop)
        try:
            await main(stop)
        finally:
            # What follows is part of the stop too: the runner waits for tasks, and for threads of the executor.
            if not stop.is_set():
                _arm_last_resort()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(supervised())
    except SetupError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    except Exception:
        _log.exception("%s ended by an error", name)
        return 1
    finally:
        faulthandler.cancel_dump_traceback_later()
    return 0


async def unless_stopped(starting: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """The outcome of a start that may wait for others; cancelled, and None, when `stop` is set meanwhile."""
    opening = asyncio.ensure_future(starting)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            await asyncio.wait([opening])
            return None
        return opening.result()
    finally:
        stopping.cancel()


def _arm_last_resort() -> None:
    # Not a timer of the loop, nor a Python thread: a stop that hangs is likely to hang those with it.
    faulthandler.dump_traceback_later(STOP_S_MAX, exit=True, file=2)


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _interrupt_nobody() -> None:
    """Have this process, when it wakes, wait its turn instead of interrupting whoever runs (SCHED_BATCH, sched(7)).

    Where all cores are busy, tiers that wake one another would else change places at every message, each time with cold
    caches: on two cores that costs a sixth of the gets through a proxy, and a tenth of the PUTs. Another policy that an
    operator has chosen stays.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent(parent: int) -> None:
    """Have the kernel send this process SIGTERM when its parent, process id `parent`, dies, however it dies.

    Call it in the child, first thing. The parent's thread that started the child must live as long as the parent.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), signal.SIGTERM)


def refusal(error: OSError, host: str, port: int, option: str) -> SetupError:
    """The one line for a port that can't be listened on. `option` names what changes it, as in `--port`."""
    where = host_and_port(host, port)
    if error.errno == errno.EADDRINUSE:
        return SetupError(f"{where} is in use; stop what listens there or choose another port with {option}")
    if error.errno == errno.EACCES:
        return SetupError(f"no permission to listen on {where}; choose a port over 1023 with {option}")
    return SetupError(f"can't listen on {where}: {error.strerror or error}; choose another address or {option}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_reach(host: str, insecure: bool, remedy: str = "give this tier the cluster's secret (`secret`)") -> None:
    """Refuse to listen where other machines can reach a tier that asks nobody who they are; warn if that is wanted."""
    if is_loopback(host):
        return
    if not insecure:
        raise SetupError(
            f"{host} can be reached from other machines, and this would serve whoever comes; {remedy}, "
            "listen on 127.0.0.1, or say --insecure on a network that you trust"
        )
    _log.warning("%s can be reached from other machines, and serves whoever comes (--insecure)", host)


def check_packages() -> None:
    """Refuse to start where the import names `proxy` and `nodes` belong to somebody else's packages."""
    home = Path(__file__).resolve().parents[1]
    for package in ("proxy", "nodes"):
        spec = util.find_spec(package)
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        # Two packages of one name installed into one folder mix there; the docstring tells whose __init__.py stayed.
        if origin is None or origin.parents[1] != home or " of sfss" not in origin.read_text("utf-8"):
            raise SetupError(
                f"the installed package {package!r} is not the one of sfss; install sfss in an environment of its own"
            )
