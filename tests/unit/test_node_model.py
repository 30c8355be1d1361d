"""A node against a dict: whatever order writes, kills, clean restarts, compaction, expiry and time come in, it answers
what the dict answers. A write whose answer was not awaited when the node was killed may or may not have happened."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nodes.checker import check_directory
from nodes.store import NodeStore
from sfss.promise import Promise
from sfss.store import Applied, Change, Record, checksum_of, settled
from tests.unit.small_nodes import SMALL, Clock, killed, take_turns_on_disk

KEYS = [b"a", b"b", b"folder/c", "ключ/文件".encode(), b"k" * 250]

keys = st.sampled_from(KEYS)
values = st.builds(
    lambda size, seed: bytes([seed]) * size, st.sampled_from([0, 1, 100, 5000, 30_000]), st.integers(1, 255)
)
lives = st.sampled_from([0, 0, 0, 5, 100])
steps = st.integers(0, 6)


@dataclass
class Model:
    """What each key may hold: exactly one possibility, unless writes were under way when the node was killed."""

    possible: dict[bytes, list[tuple[bytes, int, int] | None]] = field(default_factory=dict)

    def of(self, key: bytes) -> list[tuple[bytes, int, int] | None]:
        return self.possible.get(key, [None])

    def becomes(self, key: bytes, state: tuple[bytes, int, int] | None) -> None:
        self.possible[key] = [state]

    def may_become(self, key: bytes, state: tuple[bytes, int, int] | None) -> None:
        self.possible[key] = [*self.of(key), state]


class NodeAgainstDict(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.patch = pytest.MonkeyPatch()
        take_turns_on_disk(self.patch)
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp(prefix="node-model-"))
        self.lives = 0
        self.directory = self.root / "0"
        self.clock = Clock()
        self.model = Model()
        self.deaths: list[str] = []
        self.store = self.run(self._open())

    def run(self, work):
        return self.runner.run(work)

    async def _open(self) -> NodeStore:
        return await NodeStore.open(self.directory, SMALL, now=self.clock, die=self.deaths.append)

    def live(self, state: tuple[bytes, int, int] | None) -> bool:
        return state is not None and (not state[2] or state[2] > self.clock.now)

    def expires(self, life: int) -> int:
        return int(self.clock.now) + life if life else 0

    # --- what clients do ---

    @rule(key=keys, value=values, flags=st.integers(0, 2**32 - 1), life=lives)
    def set(self, key, value, flags, life):
        expires = self.expires(life)

        async def work():
            return await settled(self.store.set(key, value, flags, expires))

        written = self.run(work())
        assert (written.durable, written.copies) == (1, 1)
        self.model.becomes(key, (value, flags, expires))

    @rule(key=keys)
    def delete(self, key):
        async def work():
            return await settled(self.store.delete(key))

        there = {self.live(state) for state in self.model.of(key)}
        assert (self.run(work()) is not None) in there
        self.model.becomes(key, None)

    @rule(key=keys, addition=st.binary(min_size=1, max_size=50))
    def append(self, key, addition):
        def change(seen):
            return Change(value=(seen.value if seen else b"") + addition, flags=7)

        async def work():
            return await settled(self.store.update(key, change))

        _, seen, _ = self.run(work())
        before = seen.value if seen else None
        assert before in {state[0] if self.live(state) else None for state in self.model.of(key)}
        self.model.becomes(key, ((before or b"") + addition, 7, 0))

    @rule(key=keys, value=values, behind=st.booleans(), tombstone=st.booleans(), life=lives)
    def apply(self, key, value, behind, tombstone, life):
        """A coordinator's write, perhaps one that comes late."""
        value = b"" if tombstone else value
        expires = 0 if tombstone else self.expires(life)

        async def work() -> Applied:
            held = await settled(self.store.inspect(key))
            version = max((held.version if held else 0) + (-1 if behind else 1), 1)
            checksum = checksum_of(key, value, 3, expires, version, tombstone)
            record = Record(value, len(value), 3, expires, version, checksum, tombstone)
            first = await settled(self.store.apply(key, record))
            again = await settled(self.store.apply(key, record))
            assert again == first, "a repeat is answered like the first"
            return first

        applied = self.run(work())
        if applied.accepted:
            self.model.becomes(key, None if tombstone else (value, 3, expires))

    @rule(key=keys, first=values, second=values)
    def set_twice_and_append_at_once(self, key, first, second):
        async def work():
            replies = [
                self.store.set(key, first),
                self.store.set(key, second),
                self.store.update(key, lambda seen: Change(value=seen.value + b"!")),
            ]
            return await asyncio.gather(*(settled(reply) for reply in replies))

        _, _, (_, seen, _) = self.run(work())
        assert seen.value == second
        self.model.becomes(key, (second + b"!", 0, 0))

    @rule()
    def flush(self):
        async def work():
            await settled(self.store.flush())

        self.run(work())
        for key in KEYS:
            self.model.becomes(key, None)

    # --- what happens to the node ---

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
        pending=st.lists(st.tuples(keys, values), max_size=5), steps=steps, commit=st.booleans(), compact=st.booleans()
    )
    def kill(self, pending, steps, commit, compact):
        """Die with writes under way, somewhere between the batch, the index commit and compaction."""
        self.lives += 1
        after = self.root / str(self.lives)

        async def work():
            replies = [self.store.set(key, value) for key, value in pending]
            behind = []
            if commit:
                behind.append(asyncio.ensure_future(self.store._indexer.commit()))
            if compact:
                behind.append(asyncio.ensure_future(self.store._compactor.compact()))
            for _ in range(steps):
                await asyncio.sleep(0)
            done = [not isinstance(reply, Promise) or reply.done() for reply in replies]
            killed(self.directory, after)
            await asyncio.gather(*(settled(reply) for reply in replies), *behind)
            await self.store.close()
            self.directory = after
            self.store = await self._open()
            return done

        done = self.run(work())
        for (key, value), durable in zip(pending, done, strict=True):
            if durable:
                self.model.becomes(key, (value, 0, 0))
            else:
                self.model.may_become(key, (value, 0, 0))

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
            held = None if record is None else (record.value, record.flags, record.expires)
            allowed = [state if self.live(state) else None for state in self.model.of(key)]
            assert held in allowed, f"{key!r}: {_brief(held)} is none of {[_brief(state) for state in allowed]}"
            if held is not None:
                self.model.becomes(key, held)
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


def _brief(state):
    return state and (state[0][:4], len(state[0]), *state[1:])


NodeAgainstDict.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
test_a_node_answers_like_a_dict = NodeAgainstDict.TestCase
