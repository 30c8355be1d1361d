"""Which kind of memcache server stands behind the web tier, and what a foreign one can do.

Ours understand `mg` with the flag `V`; nobody else does. One that is in trouble, as without its nodes, is known by its
version. What a foreign server can't do is tried out, never assumed, under keys of the probe's own that nobody else
writes and that are removed after.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sfss.errors import ConnectionLost, SfssError, Unauthenticated
from sfss.memcache.access import OPEN, Access
from sfss.memcache.errors import error_of, is_error
from sfss.memcache.service import OURS
from sfss.settings import Address
from sfss.store import VALUE_BYTES_MAX

KEY_PREFIX = b"sfss-probe-"
_TTL_S = 1
_TTL_WAIT_S = 2.5
_LINE_BYTES_MAX = 8 * 1024
_ANSWER_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a foreign server was seen to do."""

    overwrite: bool
    large_values: bool
    cas: bool
    ttl: bool

    def __str__(self) -> str:
        lacks = [
            words
            for words, able in (
                ("replace a value by another", self.overwrite),
                (f"keep {VALUE_BYTES_MAX} bytes", self.large_values),
                ("compare and swap", self.cas),
                ("expire values", self.ttl),
            )
            if not able
        ]
        return f"foreign memcache server; can't {', '.join(lacks)}" if lacks else "foreign memcache server"


async def speaks_our_flags(server: Address, timeout_s: float, access: Access = OPEN) -> bool:
    """Whether the server is one of ours. Raises `OSError` (also for a timeout), `ConnectionLost` or
    `Unauthenticated`."""
    async with asyncio.timeout(timeout_s):
        dialogue = await _Dialogue.open(server, access)
        try:
            answer = await dialogue.ask(b"mg %b s V\r\n" % _probe_key())
            if answer.startswith(b"SERVER_ERROR"):
                return OURS.encode() in await dialogue.ask(b"version\r\n")
            return answer in (b"EN", b"HD")
        finally:
            dialogue.close()


async def try_out(server: Address, access: Access = OPEN) -> Abilities:
    """Find out what a foreign server can do; takes some seconds, because expiry has to be waited for."""
    return Abilities(
        overwrite=await _sees(server, access, _overwrites),
        large_values=await _sees(server, access, _keeps_large_values),
        cas=await _sees(server, access, _compares_and_swaps),
        ttl=await _sees(server, access, _expires),
    )


class _Dialogue:
    """One short-lived connection that asks and waits, one question at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, server: Address, access: Access) -> _Dialogue:
        options = access.stream_options(server.host)
        dialogue = cls(*await asyncio.open_connection(server.host, server.port, limit=_LINE_BYTES_MAX, **options))
        try:
            if access.words:
                await dialogue.ask(access.request)  # whether it was of any use the first question will tell
        except BaseException:
            dialogue.close()
            raise
        return dialogue

    def close(self) -> None:
        self._writer.close()

    async def ask(self, question: bytes) -> bytes:
        """Send, and read one line of answer, without its end. Raises `Unauthenticated` if that is what it says."""
        self._writer.write(question)
        await self._writer.drain()
        line = await self._line()
        error = error_of(line) if is_error(line) else None
        if isinstance(error, Unauthenticated):
            raise error
        return line

    async def store(self, key: bytes, value: bytes, *, expires: int = 0) -> bool:
        return await self.ask(b"set %b 0 %d %d\r\n%b\r\n" % (key, expires, len(value), value)) == b"STORED"

    async def fetch(self, key: bytes) -> tuple[bytes | None, bytes]:
        """The value, None where there is none, and its CAS token (empty where the server gives none)."""
        head = (await self.ask(b"gets %b\r\n" % key)).split()
        if len(head) < 4 or head[0] != b"VALUE":
            return None, b""
        value = await self._reader.readexactly(int(head[3]))
        await self._line()  # what is left of the block
        await self._line()  # END
        return value, head[4] if len(head) > 4 else b""

    async def remove(self, key: bytes) -> None:
        await self.ask(b"delete %b\r\n" % key)

    async def _line(self) -> bytes:
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionLost("the server closed the connection")
        return line.rstrip(b"\r\n")


_Trial = Callable[[_Dialogue, bytes], Awaitable[bool]]


async def _sees(server: Address, access: Access, trial: _Trial) -> bool:
    """Run one trial on a connection of its own: a server that closes it, or answers nonsense, can't do the thing."""
    key = _probe_key()
    try:
        async with asyncio.timeout(_ANSWER_S_MAX + _TTL_WAIT_S):
            dialogue = await _Dialogue.open(server, access)
            try:
                able = await trial(dialogue, key)
                await dialogue.remove(key)
            finally:
                dialogue.close()
    except (OSError, TimeoutError, EOFError, ValueError, SfssError):
        return False
    return able


async def _overwrites(dialogue: _Dialogue, key: bytes) -> bool:
    stored = await dialogue.store(key, b"first") and await dialogue.store(key, b"second")
    return stored and (await dialogue.fetch(key))[0] == b"second"


async def _keeps_large_values(dialogue: _Dialogue, key: bytes) -> bool:
    value = os.urandom(VALUE_BYTES_MAX)
    return await dialogue.store(key, value) and (await dialogue.fetch(key))[0] == value


async def _compares_and_swaps(dialogue: _Dialogue, key: bytes) -> bool:
    if not await dialogue.store(key, b"first"):
        return False
    _, token = await dialogue.fetch(key)
    if not token:
        return False
    swap = b"cas %b 0 0 6 %b\r\nsecond\r\n" % (key, token)
    return await dialogue.ask(swap) == b"STORED" and await dialogue.ask(swap) == b"EXISTS"


async def _expires(dialogue: _Dialogue, key: bytes) -> bool:
    if not await dialogue.store(key, b"value", expires=_TTL_S):
        return False
    await asyncio.sleep(_TTL_WAIT_S)
    return (await dialogue.fetch(key))[0] is None


def _probe_key() -> bytes:
    return KEY_PREFIX + os.urandom(8).hex().encode()
