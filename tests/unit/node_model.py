"""A node that is closed, killed, cut from power and compacted in any order, beside what it must hold: what the state
machines of test_node_model.py and test_node_model_memcache.py have in common. They add what clients do."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nodes.checker import check_directory
from nodes.store import NodeStore
from sfss.promise import Promise
from sfss.store import settled
from tests.unit.small_nodes import SMALL, Clock, killed, take_turns_on_disk

T = TypeVar("T")

KEYS = [b"a", b"b", b"folder/c", "ключ/文件".encode(), b"k" * 250]

keys = st.sampled_from(KEYS)
values = st.builds(
    lambda size, seed: bytes([seed]) * size, st.sampled_from([0, 1, 100, 5000, 30_000]), st.integers(1, 255)
)
lives = st.sampled_from([0, 0, 0, 5, 100])
steps = st.integers(0, 6)


class Held(NamedTuple):
    """A file as the node has to give it back. `expires` 0 is never."""

    value: bytes
    flags: int = 0
    expires: int = 0

    def __repr__(self) -> str:
        return f"{self.value[:4]!r}… ({len(self.value)} bytes) {self.flags} {self.expires}"


class Disk:
    """What a power cut takes of volumes: all that was appended to them and not synced. An index is synced by each
    commit. A disk that `lies` says of every sync that it is done."""

    def __init__(self, patch: pytest.MonkeyPatch, *, lies: bool) -> None:
        self._lies = lies
        self._unsynced: dict[str, list[tuple[int, bytes, int]]] = {}
        """Of each file, for each append: where it is, what was there before, and how long the file was."""
        self._pwritev = os.pwritev
        patch.setattr(os, "pwritev", self._append)
        for name in ("fdatasync", "fsync"):
            patch.setattr(os, name, self._synced_by(getattr(os, name)))

    def _append(self, fd: int, buffers: list[bytes], offset: int, flags: int = 0) -> int:
        size = os.fstat(fd).st_size
        before = os.pread(fd, sum(map(len, buffers)), offset)
        written = self._pwritev(fd, buffers, offset, flags)
        if self._lies or not flags & os.RWF_DSYNC:
            self._unsynced.setdefault(_name_of(fd), []).append((offset, before, size))
        return written

    def _synced_by(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def synced(fd: int) -> None:
            sync(fd)
            if not self._lies:
                self._unsynced.pop(_name_of(fd), None)

        return synced

    def cut(self, directory: Path) -> None:
        """Have the copy of a node's directory be as a power cut leaves it."""
        for name, appends in self._unsynced.items():
            volume = directory / "volumes" / name
            if not volume.exists():
                continue
            with volume.open("r+b") as file:
                for offset, before, size in reversed(appends):
                    file.seek(offset)
                    file.write(before)
                    file.truncate(max(size, offset))


def _name_of(fd: int) -> str:
    return Path(os.readlink(f"/proc/self/fd/{fd}")).name


class NodeUnderTrouble(RuleBasedStateMachine):
    """`possible` has for each key what it may hold: exactly one thing, unless writes were under way when the node was
    killed and nobody has looked since."""

    disk_lies = False

    @initialize()
    def open(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.disk = Disk(self.patch, lies=self.disk_lies)
        take_turns_on_disk(self.patch)
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp(prefix="node-model-"))
        self.lives = 0
        self.directory = self.root / "0"
        self.clock = Clock()
        self.possible: dict[bytes, list[Held | None]] = {}
        self.deaths: list[str] = []
        self.store = self.run(self._open())

    def run(self, work: Awaitable[T]) -> T:
        return self.runner.run(work)  # type: ignore[arg-type]

    async def _open(self) -> NodeStore:
        return await NodeStore.open(self.directory, SMALL, now=self.clock, die=self.deaths.append)

    def live(self, held: Held | None) -> Held | None:
        """What of it can be read now."""
        return held if held is not None and (not held.expires or held.expires > self.clock.now) else None

    def held(self, key: bytes) -> Held | None:
        """What a key holds: after every step somebody looks."""
        [held] = self.possible.get(key, [None])
        return self.live(held)

    def becomes(self, key: bytes, held: Held | None) -> None:
        self.possible[key] = [held]

    def expires(self, life: int) -> int:
        return int(self.clock.now) + life if life else 0

    def begin(self, key: bytes, value: bytes | None) -> tuple[Callable[[], bool], Awaitable[Any]]:
        """Begin to write a value, or to delete; returns what says whether it was answered, and what ends then."""
        reply = self.store.delete(key) if value is None else self.store.set(key, value)
        return lambda: not isinstance(reply, Promise) or reply.done(), settled(reply)

    @rule(seconds=st.sampled_from([1, 6, 200]))
    def time_passes(self, seconds):
        self.clock.now += seconds

    @rule()
    def index_commit(self):
        self.run(self.store._indexer.commit())

    @rule()
    def compact(self):
        async def work():
            self.store._compactor._left_alone.clear()
            await self.store._indexer.commit()
            while await self.store._compactor.compact():
                pass

        self.run(work())

    @rule()
    def reopen(self):
        async def work():
            await self.store.close()
            assert check_directory(self.directory, print) == 0
            self.store = await self._open()

        self.run(work())

    @precondition(lambda self: self.lives < 8)
    @rule(
        pending=st.lists(st.tuples(keys, st.none() | values), max_size=5),
        steps=steps,
        commit=st.booleans(),
        compact=st.booleans(),
        power=st.booleans(),
    )
    def kill(self, pending, steps, commit, compact, power):
        """Die, or lose power, with writes under way, somewhere between the batch, the index commit and compaction."""
        self.lives += 1
        after = self.root / str(self.lives)

        async def work():
            begun = [self.begin(key, value) for key, value in pending]
            behind = []
            if commit:
                behind.append(asyncio.ensure_future(self.store._indexer.commit()))
            if compact:
                behind.append(asyncio.ensure_future(self.store._compactor.compact()))
            for _ in range(steps):
                await asyncio.sleep(0)
            done = [is_answered() for is_answered, _ in begun]
            killed(self.directory, after)
            if power:
                self.disk.cut(after)
            await asyncio.gather(*(ends for _, ends in begun), *behind)
            await self.store.close()
            self.directory = after
            self.store = await self._open()
            return done

        done = self.run(work())
        for (key, value), answered in zip(pending, done, strict=True):
            becomes = None if value is None else Held(value)
            if answered:
                self.becomes(key, becomes)
            else:
                self.possible[key] = [*self.possible.get(key, [None]), becomes]

    @rule()
    def lose_the_index(self):
        async def work():
            await self.store.close()
            shutil.rmtree(self.directory / "index")
            self.store = await self._open()

        self.run(work())

    # --- what must hold ---

    @invariant()
    def answers_are_those_of_the_dict(self):
        if not hasattr(self, "store"):
            return

        async def work():
            return {key: await settled(self.store.get(key)) for key in KEYS}

        for key, record in self.run(work()).items():
            held = None if record is None else Held(record.value, record.flags, record.expires)
            allowed = [self.live(possible) for possible in self.possible.get(key, [None])]
            assert held in allowed, f"{key!r}: {held} is none of {allowed}"
            self.becomes(key, held)
        assert not self.deaths

    @invariant()
    def figures_agree(self):
        if hasattr(self, "store"):
            figures = self.store._overlay.figures
            assert figures.files >= 0
            assert all(count >= 0 for count in figures.live.values())

    def teardown(self):
        if hasattr(self, "store"):
            try:
                self.run(self.store.close())
                assert check_directory(self.directory, print) == 0
            finally:
                self.runner.close()
                self.patch.undo()
                shutil.rmtree(self.root)
