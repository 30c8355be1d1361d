"""What every server process does the same way: run on uvloop, stop on a signal, refuse a bad start in one line.

Exit status: 0 after a clean stop, 1 when something broke, 2 when the start was refused.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from importlib import util

import uvloop

from sfss.errors import SetupError

STOP_S_MAX = 20.0
"""A stop that takes longer than this is cut short, with exit status 1."""

_log = logging.getLogger("sfss.process")


def run(name: str, main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run `main(stop)` to its end; returns the exit status.

    `main` starts its servers, waits for `stop` and closes them. SIGTERM and SIGINT set `stop`; a second one, or
    `STOP_S_MAX` seconds, ends the process at once. `SetupError` becomes one line on standard error. Files made by the
    process are for its user only (umask 077).
    """
    os.umask(0o077)

    async def supervised() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _ask_to_stop, name, stop)
        await main(stop)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(supervised())
    except SetupError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    except Exception:
        _log.exception("%s ended by an error", name)
        return 1
    return 0


def _ask_to_stop(name: str, stop: asyncio.Event) -> None:
    if stop.is_set():
        os._exit(1)
    _log.info("%s is stopping", name)
    stop.set()
    # A thread, because a stop that hangs is likely to hang the loop with it.
    last_resort = threading.Timer(STOP_S_MAX, os._exit, (1,))
    last_resort.daemon = True
    last_resort.start()


def refusal(error: OSError, host: str, port: int, option: str) -> SetupError:
    """The one line for a port that can't be listened on. `option` names what changes it, as in `--port`."""
    if error.errno == errno.EADDRINUSE:
        return SetupError(f"{host}:{port} is in use; stop what listens there or choose another port with {option}")
    if error.errno == errno.EACCES:
        return SetupError(f"no permission to listen on {host}:{port}; choose a port over 1023 with {option}")
    return SetupError(f"can't listen on {host}:{port}: {error.strerror or error}; choose another address or {option}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_reach(host: str, insecure: bool) -> None:
    """Refuse to listen where other machines can reach a tier that asks nobody who they are."""
    if not (insecure or is_loopback(host)):
        raise SetupError(
            f"{host} can be reached from other machines and this tier has no passwords; "
            "listen on 127.0.0.1, or say --insecure on a network that you trust"
        )


def check_packages() -> None:
    """Refuse to start where the import names `proxy` and `nodes` belong to somebody else's packages."""
    for package in ("proxy", "nodes"):
        spec = util.find_spec(package)
        if (
            spec is None
            or not spec.origin
            or not os.path.exists(os.path.join(os.path.dirname(spec.origin), "py.typed"))
        ):
            raise SetupError(
                f"the installed package {package!r} is not the one of sfss; install sfss in an environment of its own"
            )
