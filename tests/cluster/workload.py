"""Clients that read and write through the web tier and note down what they saw.

The rules by which an answer becomes an outcome are here and nowhere else: 2xx and 304 are done; 404 is a read of
nothing; a refusal (4xx) or an error marked `Sfss-Outcome: not-applied` surely left no trace; everything else may have.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.cluster.history import Event, History, Outcome
from tests.cluster.http_client import Answer, HttpClient, NoAnswer, NotSent, file_target
from tests.cluster.values import draw_size, make_value, number_of

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Mix:
    """What clients do: relative weights of the operations, and the seconds each client rests after one."""

    put: float = 3.0
    post: float = 1.0
    get: float = 4.0
    head: float = 0.5
    revalidate: float = 0.5
    delete: float = 0.7
    rest_s: float = 0.01
    size: Callable[[random.Random], int] = draw_size

    def draw(self, rng: random.Random) -> str:
        kinds = ("put", "post", "get", "head", "revalidate", "delete")
        return rng.choices(kinds, [getattr(self, kind) for kind in kinds])[0]


def keys_of(test: str, count: int = 12) -> list[str]:
    """Keys of one test alone: clusters are shared, and a history begins with absent keys."""
    return [f"{test}/{number}" for number in range(count)]


class Client:
    """One user: one operation at a time, over a kept connection to one of the web processes at a time."""

    def __init__(self, name: str, webs: Sequence[Address], history: History, rng: random.Random) -> None:
        self.name = name
        self.history = history
        self._rng = rng
        self._connections = [HttpClient(host, port) for host, port in webs]
        self._tags: dict[str, str] = {}
        """The last ETag seen of a key."""

    async def put(self, key: str, size: int, post: bool = False) -> Event:
        """Write a new value."""
        number = self.history.next_number()
        body = make_value(key, number, size)
        method, target = ("POST", file_target(key, "files")) if post else ("PUT", file_target(key))
        kind = "post" if post else "put"
        start, answer, note, sent = await self._ask(method, target, body)
        outcome = self._outcome(answer, sent)
        if answer is not None and answer.status < 300:
            outcome = Outcome.OK
            self._tags[key] = answer.headers.get("etag", "")
        return self._note(key, kind, start, outcome, answer, note, value=number)

    async def delete(self, key: str) -> Event:
        start, answer, note, sent = await self._ask("DELETE", file_target(key))
        if answer is not None and answer.status == 404:
            # Nothing was there, and nothing was written: what it saw is a read of nothing.
            return self._note(key, "get", start, Outcome.OK, answer, "DELETE answered 404")
        outcome = Outcome.OK if answer is not None and answer.status == 204 else self._outcome(answer, sent)
        return self._note(key, "delete", start, outcome, answer, note)

    async def get(self, key: str) -> Event:
        start, answer, note, _ = await self._ask("GET", file_target(key))
        return self._read(key, start, answer, note)

    async def head(self, key: str) -> Event:
        start, answer, note, _ = await self._ask("HEAD", file_target(key))
        if answer is not None and answer.status == 200:
            return self._note(key, "head", start, Outcome.OK, answer, note, tag=answer.headers.get("etag", ""))
        return self._read(key, start, answer, note)

    async def revalidate(self, key: str) -> Event:
        """GET only if it is no longer the value last seen."""
        tag = self._tags.get(key)
        if not tag:
            return await self.get(key)
        start, answer, note, _ = await self._ask("GET", file_target(key), headers={"If-None-Match": tag})
        if answer is not None and answer.status == 304:
            # It says that what this client has is still the file, whatever tag the answer itself brings.
            return self._note(key, "get", start, Outcome.OK, answer, note, tag=tag)
        return self._read(key, start, answer, note)

    async def run(self, keys: Sequence[str], mix: Mix, until: float) -> None:
        """Do as `mix` says until the moment (seconds of `time.monotonic()`)."""
        while time.monotonic() < until:
            key, kind = self._rng.choice(keys), mix.draw(self._rng)
            if kind in ("put", "post"):
                await self.put(key, mix.size(self._rng), post=kind == "post")
            else:
                await getattr(self, kind)(key)
            await asyncio.sleep(mix.rest_s * self._rng.uniform(0.5, 1.5))

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    async def _ask(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[float, Answer | None, str, bool]:
        """Start, answer, what went wrong, and whether any byte may have arrived."""
        start = time.monotonic()
        note = ""
        for connection in self._rng.sample(self._connections, len(self._connections)):
            try:
                return start, await connection.request(method, target, body, headers), "", True
            except NotSent as error:
                note = f"not sent: {error}"
            except NoAnswer as error:
                return start, None, f"no answer: {error}", True
        return start, None, note, False

    @staticmethod
    def _outcome(answer: Answer | None, sent: bool) -> Outcome:
        """What is known of a write that wasn't acknowledged."""
        if not sent:
            return Outcome.FAIL
        if answer is None:
            return Outcome.UNKNOWN
        refused = 400 <= answer.status < 500
        return Outcome.FAIL if refused or answer.headers.get("sfss-outcome") == "not-applied" else Outcome.UNKNOWN

    def _read(self, key: str, start: float, answer: Answer | None, note: str) -> Event:
        if answer is None or answer.status not in (200, 404):
            return self._note(key, "get", start, Outcome.UNKNOWN, answer, note)
        if answer.status == 404:
            return self._note(key, "get", start, Outcome.OK, answer, note)
        number = number_of(key, answer.body)
        if number is None:
            self.history.complain(
                f"{self.name} GET {key}: {len(answer.body)} bytes that are no whole value: {answer.body[:80]!r}"
            )
        self._tags[key] = answer.headers.get("etag", "")
        return self._note(key, "get", start, Outcome.OK, answer, note, value=number)

    def _note(
        self,
        key: str,
        kind: str,
        start: float,
        outcome: Outcome,
        answer: Answer | None,
        note: str,
        *,
        value: int | None = None,
        tag: str | None = None,
    ) -> Event:
        """Record it. With `tag`, what was read is known by that ETag alone."""
        if answer is not None and answer.status >= 400 and answer.status != 404:
            note = f"{answer.body[:160].decode(errors='replace')} {note}"
        event = Event(
            self.name,
            key,
            kind,
            start,
            time.monotonic(),
            outcome,
            value,
            answer.status if answer is not None else 0,
            tag if tag is not None else answer.headers.get("etag", "") if answer is not None else "",
            answer.headers.get("sfss-durable", "") if answer is not None else "",
            tag is not None,
            note.strip(),
        )
        self.history.add(event)
        return event


class Workload:
    """Several clients at work. `start`, then inject faults, then `stop`; the history has what they saw."""

    def __init__(
        self,
        webs: Sequence[Address],
        history: History,
        *,
        keys: Sequence[str],
        clients: int = 8,
        mix: Mix | None = None,
        once: bool = True,
        name: str = "c",
    ) -> None:
        """`name` is how the names of the clients begin."""
        self.history = history
        self._webs = list(webs)
        self._keys = list(keys)
        self._mix = mix or Mix()
        self._once = once
        self._clients = [self._client(f"{name}{number}") for number in range(clients)]
        self._tasks: list[asyncio.Task[None]] = []
        self._until = 0.0
        self._once_count = 0

    def _client(self, name: str) -> Client:
        return Client(name, self._webs, self.history, random.Random(f"{self.history.seed} {name}"))

    async def start(self) -> None:
        """Begin; also one client that writes a new key each time, to be read after healing."""
        self._until = float("inf")
        self._tasks = [asyncio.create_task(self._run(client)) for client in self._clients]
        if self._once:
            self._tasks.append(asyncio.create_task(self._write_once()))
        await asyncio.sleep(0)

    async def _run(self, client: Client) -> None:
        while self._until == float("inf"):
            await client.run(self._keys, self._mix, time.monotonic() + 0.05)

    async def _write_once(self) -> None:
        client = self._client("once")
        try:
            while self._until == float("inf"):
                self._once_count += 1
                await client.put(
                    f"once/{self._keys[0]}/{self._once_count}", random.Random(self._once_count).randint(64, 2048)
                )
                await asyncio.sleep(self._mix.rest_s)
        finally:
            client.close()

    async def stop(self) -> None:
        """Let every client finish what it has begun."""
        self._until = 0.0
        await asyncio.gather(*self._tasks)
        self.close()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for client in self._clients:
            client.close()

    async def run(self, seconds: float) -> None:
        async with self:
            await asyncio.sleep(seconds)

    async def __aenter__(self) -> Workload:
        await self.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            await self.stop()
            return
        self.close()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)


async def read_all(webs: Sequence[Address], history: History, seconds: float = 30.0, at_once: int = 8) -> None:
    """Read every key of the history once more, through every web process; what can't be read within `seconds` is a
    violation of its own (never readable). The reads are part of the history, so a lost or stale write shows in it."""
    give_up = time.monotonic() + seconds
    waiting = [(key, web) for key in history.all_keys() for web in webs]

    async def reader(name: str) -> None:
        while waiting:
            key, web = waiting.pop()
            with contextlib.closing(Client(name, [web], history, random.Random(name))) as client:
                while (event := await client.get(key)).outcome is not Outcome.OK:
                    if time.monotonic() > give_up:
                        history.complain(f"{key} never became readable after healing; at last: {event}")
                        break
                    await asyncio.sleep(0.2)

    await asyncio.gather(*(reader(f"last{number}") for number in range(at_once)))
