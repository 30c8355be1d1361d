"""Whether the ports that a start needs are free, and which part and option a busy one belongs to."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sfss.errors import SetupError
from sfss.process import refusal

_ASK_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Door:
    """A port that a part will listen on, and the option that changes it."""

    part: str
    host: str
    port: int
    option: str


def check_distinct(doors: Sequence[Door]) -> None:
    """Refuse (`SetupError`) ports that two parts want, or that do not exist."""
    taken: dict[int, Door] = {}
    for door in doors:
        if door.port > 65535:
            raise SetupError(f"port {door.port} of {door.part} is over 65535; choose another {door.option}")
        other = taken.setdefault(door.port, door)
        if other is not door:
            raise SetupError(
                f"port {door.port} is wanted by {other.part} and by {door.part}; "
                f"choose another {other.option} or {door.option}"
            )


async def wait_until_free(doors: Sequence[Door], patience_s: float) -> None:
    """Return once all ports are free. Raises `SetupError` when one is not, and stays so for `patience_s`."""
    deadline = time.monotonic() + patience_s
    for door in doors:
        while error := _why_not_free(door):
            if time.monotonic() >= deadline:
                raise SetupError(f"{door.part}: {refusal(error, door.host, door.port, door.option)}")
            await asyncio.sleep(_ASK_AGAIN_S)


def _why_not_free(door: Door) -> OSError | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            door.host, door.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: a port whose last connections are in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        return error
    return None
