"""A real node process, and a client that knows which of its writes were acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.cluster.parts import HOST, Part, clean_environment, free_ports, python_command


def node_part(folder: Path, home: Path, *options: str, prefix: Sequence[str] = ()) -> Part:
    """A node on `home` that logs below `folder`; not started yet."""
    [port] = free_ports(1)
    command = [*python_command("nodes.command"), "-p", str(port), "-l", HOST, "-H", str(home), *options]
    part = Part("node", port, command, folder, clean_environment())
    part.prefix = list(prefix)
    return part


@contextlib.asynccontextmanager
async def running(part: Part) -> AsyncIterator[Part]:
    """A started node that is gone at the end, however it is then."""
    try:
        await part.start()
        yield part
    finally:
        part.kill()


def node_command(*arguments: object, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run `sfss-node`, perhaps under another command, to its end."""
    command = [*prefix, *python_command("nodes.command"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment())


class Refused(Exception):
    """The node answered an error line."""


class NodeClient:
    """One connection, one request at a time.

    `acknowledged` holds what each key's last acknowledged write stored (None: a delete), `possible` what writes
    that got no answer may have stored, and `attempts` every write in order.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.acknowledged: dict[str, bytes | None] = {}
        self.possible: dict[str, list[bytes | None]] = {}
        self.gone = False
        self.attempts: list[tuple[str, bytes | None]] = []

    async def __aenter__(self) -> NodeClient:
        self._reader, self._writer = await asyncio.open_connection(HOST, self._port, limit=4 << 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def ask(self, request: bytes) -> bytes:
        """Send a request and read a line of its answer. Raises `ConnectionError` at the end of the stream."""
        self._writer.write(request)
        line = await self._reader.readline()
        if not line.endswith(b"\r\n"):
            self.gone = True
            raise ConnectionError("the node is gone")
        return line[:-2]

    async def set(self, key: str, value: bytes) -> None:
        request = b"set %s 0 0 %d\r\n%s\r\n" % (key.encode(), len(value), value)
        await self._write(key, value, request, (b"STORED",))

    async def delete(self, key: str) -> None:
        await self._write(key, None, b"delete %s\r\n" % key.encode(), (b"DELETED", b"NOT_FOUND"))

    async def _write(self, key: str, value: bytes | None, request: bytes, good: Sequence[bytes]) -> None:
        self.attempts.append((key, value))
        self.may_hold(key, value)
        line = await self.ask(request)
        del self.possible[key]
        if line not in good:
            raise Refused(line.decode())
        self.acknowledged[key] = value

    def may_hold(self, key: str, value: bytes | None) -> None:
        """Allow a value that may have been stored, or not."""
        self.possible.setdefault(key, []).append(value)

    async def get(self, key: str) -> bytes | None:
        line = await self.ask(b"get %s\r\n" % key.encode())
        if line == b"END":
            return None
        if not line.startswith(b"VALUE "):
            raise Refused(line.decode())
        value = await self._reader.readexactly(int(line.split()[3]) + 2)
        await self._reader.readline()
        return value[:-2]

    async def stats(self) -> dict[str, str]:
        figures = {}
        line = await self.ask(b"stats\r\n")
        while line != b"END":
            _, name, value = line.decode().split(" ", 2)
            figures[name] = value
            line = (await self._reader.readline())[:-2]
        return figures

    async def check_all(self) -> None:
        """Read every key: the acknowledged value, or one that was written later and got no answer."""
        for key in {**self.acknowledged, **self.possible}:
            allowed = [self.acknowledged.get(key), *self.possible.get(key, [])]
            value = await self.get(key)
            assert value in allowed, f"{key}: {brief(value)} is none of {[brief(one) for one in allowed]}"

    def taken_over(self, port: int) -> NodeClient:
        """A client of the next life of the node that knows what this one knows."""
        client = NodeClient(port)
        client.acknowledged = dict(self.acknowledged)
        client.possible = {key: list(values) for key, values in self.possible.items()}
        return client


def brief(value: bytes | None) -> str:
    return "nothing" if value is None else f"{value[:12]!r} of {len(value)} bytes"


def value_of(number: int, size: int) -> bytes:
    """A value that tells which write made it, and whether it is whole."""
    word = b"<%d>" % number
    return (word * (size // len(word) + 1))[:size]
