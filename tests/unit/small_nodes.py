"""Node stores that fit a unit test: small volumes, no reserve, a clock that stands still, and a copy of the disk at
any moment, which is what a killed process leaves behind."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nodes import appender, compaction, generation, housekeeping, identity, index
from nodes.format import VOLUME_HEADER_BYTES
from nodes.options import NodeOptions
from nodes.store import NodeStore

SMALL = NodeOptions(
    volume_bytes=64 * 1024,
    preallocate_bytes=16 * 1024,
    reserve_bytes=0,
    index_interval_s=3600.0,  # tests commit when they mean to
    compact_bytes_per_s=1 << 40,
    compact_share=1.0,
    scrub_bytes_per_s=1 << 40,
)


class Clock:
    """Time that a test sets."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Died(Exception):
    """The node meant to end its process."""


@asynccontextmanager
async def node(directory: Path, clock: Clock | None = None, **options: object) -> AsyncIterator[NodeStore]:
    """An open store that is closed at the end."""
    store = await NodeStore.open(directory, replace(SMALL, **options), now=clock or Clock(), die=_raise)
    try:
        yield store
    finally:
        await store.close()


def _raise(reason: str) -> None:
    raise Died(reason)


_disk = threading.Lock()


def take_turns_on_disk(patch: pytest.MonkeyPatch) -> None:
    """Let `killed` see the disk between the steps of the node's threads, never within one.

    The slices of an index commit are steps, however few entries they have."""
    patch.setattr(generation, "SLICE_ENTRIES_MIN", 1)
    for owner, name in (
        (appender.Appender, "do"),
        (index.Index, "commit"),
        (compaction, "set_aside"),
        (identity.DataDirectory, "save"),
        (housekeeping, "write_ring_file"),
    ):
        patch.setattr(owner, name, _in_turn(getattr(owner, name)))


def _in_turn(function: Callable[..., Any]) -> Callable[..., Any]:
    def step(*arguments: Any) -> Any:
        with _disk:
            return function(*arguments)

    return step


def killed(directory: Path, copy: Path) -> Path:
    """The directory as a process that is killed now would leave it."""
    with _disk:
        shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("lock.mdb"))
    return copy


def newest_volume(directory: Path) -> Path:
    return max((directory / "volumes").glob("*.volume"))


def data_end(volume: Path) -> int:
    """Where a volume's data ends; behind it lie the zeros of room taken ahead."""
    return max(len(volume.read_bytes().rstrip(b"\0")), VOLUME_HEADER_BYTES)


async def died(deaths: list[str]) -> None:
    """Wait until a node that was opened with `die=deaths.append` has meant to end its process."""
    async with asyncio.timeout(10):
        while not deaths:
            await asyncio.sleep(0)
