"""Batches over HTTP while nodes are killed: each file of a batch is judged as an operation of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.history import Event, History, Outcome
from tests.cluster.http_client import HttpClient, NoAnswer, NotSent
from tests.cluster.values import draw_size, make_value, number_of
from tests.cluster.workload import Address, Mix, Workload, keys_of, read_all

pytestmark = pytest.mark.slow


class BatchClient:
    """One user who writes and reads several keys in each request, over a kept connection."""

    def __init__(self, name: str, web: Address, history: History) -> None:
        self.name = name
        self.history = history
        self._rng = random.Random(f"{history.seed} {name}")
        self._connection = HttpClient(*web)

    async def run(self, keys: Sequence[str], until: float) -> None:
        while time.monotonic() < until:
            chosen = self._rng.sample(keys, self._rng.randint(1, len(keys)))
            await (self._put(chosen) if self._rng.random() < 0.5 else self._get(chosen))
            await asyncio.sleep(0.01)

    def close(self) -> None:
        self._connection.close()

    async def _put(self, keys: Sequence[str]) -> None:
        numbers = [self.history.next_number() for _ in keys]
        body = b""
        for key, number in zip(keys, numbers, strict=True):
            value = make_value(key, number, draw_size(self._rng))
            body += json.dumps({"path": key, "size": len(value)}).encode() + b"\n" + value + b"\n"
        start, told, otherwise = await self._ask("put", body + b'{"end": true}\n')
        for index, (key, number) in enumerate(zip(keys, numbers, strict=True)):
            line = told[index] if index < len(told) else {}
            outcome = otherwise
            if line:
                applied = Outcome.FAIL if line.get("outcome") == "not-applied" else Outcome.UNKNOWN
                outcome = Outcome.OK if line["status"] == 200 else applied
            self._note(key, "put", start, outcome, number, line)

    async def _get(self, keys: Sequence[str]) -> None:
        start, told, _ = await self._ask("get", "\n".join(keys).encode())
        for index, key in enumerate(keys):
            line = told[index] if index < len(told) else {}
            number = None
            outcome = Outcome.OK if line.get("status") in (200, 404) else Outcome.UNKNOWN
            if line.get("status") == 200:
                number = number_of(key, line["bytes"])
                if number is None or line["path"] != key:
                    self.history.complain(f"{self.name} got {line['path']} for {key}: {line['bytes'][:80]!r}")
            self._note(key, "get", start, outcome, number, line)

    async def _ask(self, action: str, body: bytes) -> tuple[float, list[dict[str, Any]], Outcome]:
        """Start, what was told of each file, and what became of those that weren't told of."""
        start = time.monotonic()
        try:
            answer = await self._connection.request(
                "POST", f"/files:{action}", body, {"Content-Type": "application/x-sfss-files"}
            )
        except NotSent:
            return start, [], Outcome.FAIL
        except NoAnswer:
            return start, [], Outcome.UNKNOWN
        told = list(lines_of(answer.body))
        if "end" not in told[-1]:
            # Refused as a whole: there is no line for any file.
            refused = answer.headers.get("sfss-outcome") == "not-applied"
            return start, [], Outcome.FAIL if refused else Outcome.UNKNOWN
        return start, told[:-1], Outcome.FAIL

    def _note(
        self, key: str, kind: str, start: float, outcome: Outcome, value: int | None, line: dict[str, Any]
    ) -> None:
        tag = f'"{line["etag"]}"' if "etag" in line else ""
        status, durable, note = line.get("status", 0), line.get("durable", ""), line.get("message", "in a batch")
        end = time.monotonic()
        event = Event(self.name, key, kind, start, end, outcome, value, status, tag, durable, note=note)
        self.history.add(event)


def lines_of(body: bytes) -> list[dict[str, Any]]:
    told = []
    while body:
        line, _, body = body.partition(b"\n")
        told.append(json.loads(line))
        if "size" in told[-1]:
            size = told[-1]["size"]
            told[-1]["bytes"], body = body[:size], body[size + 1 :]
    return told


async def batches_under_kills(cluster: Cluster, history: History, seconds: float) -> None:
    """Kill a node, start it again, and so on, while clients use batches and others single requests on the same keys."""
    rng = random.Random(f"{history.seed} kills")
    keys = keys_of("batch")
    until = time.monotonic() + seconds
    webs = cluster.web_addresses
    clients = [BatchClient(f"b{number}", webs[number % len(webs)], history) for number in range(4)]
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.callback(client.close)
        async with Workload(webs, history, keys=keys, clients=3, mix=Mix(delete=0.3), once=False):
            running = asyncio.gather(*(client.run(keys, until) for client in clients))
            while time.monotonic() < until:
                await asyncio.sleep(rng.uniform(0.3, 1.0))
                node = rng.choice(cluster.nodes)
                node.kill()
                await asyncio.sleep(rng.uniform(0.2, 0.6))
                await node.start()
            await running
    await cluster.ready()
    await read_all(cluster.web_addresses, history)


async def test_batches_are_linearizable_by_the_file_while_nodes_are_killed(standing, history, fault_seconds):
    await batches_under_kills(standing, history, fault_seconds or 4.0)

    history.check()
    of_batches = [event for event in history.events if event.client.startswith("b")]
    assert sum(event.outcome is Outcome.OK for event in of_batches) > 50
    history.check_errors()
