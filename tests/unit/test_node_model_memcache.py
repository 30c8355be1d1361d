"""A node against a dict, as memcache clients see it: each command that reads or writes keys, classic or meta, gets the
answer that protocol.txt has for what the dict holds, between kills, power cuts, restarts and compaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import rule

from tests.unit.memcache_peer import Peer, server_of
from tests.unit.node_model import KEYS, Held, NodeUnderTrouble, keys, lives, values

numbers = st.sampled_from([b"0", b"9", b"41", b"18446744073709551615"])
contents = st.one_of(values, numbers)
flags_ = st.integers(0, 2**32 - 1)
deltas = st.sampled_from([0, 1, 42, 2**64 - 1])
some_keys = st.lists(keys, min_size=1, max_size=8)

NOT_A_NUMBER = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
STORED, NOT_STORED = (b"STORED\r\n", b"HD\r\n"), (b"NOT_STORED\r\n", b"NS\r\n")
EXISTS, NOT_FOUND = (b"EXISTS\r\n", b"EX\r\n"), (b"NOT_FOUND\r\n", b"NF\r\n")
"""The same in the classic and in the meta form."""


def block(held: Held) -> bytes:
    return held.value + b"\r\n"


class NodeAgainstDictByMemcache(NodeUnderTrouble):
    """Each command goes over a connection of its own, without a socket."""

    def peer(self) -> Peer:
        return Peer(server_of(self.store, self.clock, allow_flush=True))

    def ask(self, said: bytes) -> bytes:
        """What is answered, before the answer to a `mn` that is sent behind it."""

        async def work() -> bytes:
            peer = self.peer()
            peer.say(said + b"mn\r\n")
            async with asyncio.timeout(20):
                while not peer.sent.endswith(b"MN\r\n"):
                    assert not peer.closed, peer.sent
                    await asyncio.sleep(0)
            return peer.sent.removesuffix(b"MN\r\n")

        return self.run(work())

    def begin(self, key: bytes, value: bytes | None) -> tuple[Callable[[], bool], Awaitable[Any]]:
        peer = self.peer()
        peer.say(b"delete %b\r\n" % key if value is None else b"set %b 0 0 %d\r\n%b\r\n" % (key, len(value), value))

        async def answered() -> None:
            while not peer.sent:
                await asyncio.sleep(0)

        return lambda: bool(peer.sent), answered()

    def says(self, said: bytes, expected: bytes) -> None:
        answer = self.ask(said)
        assert answer == expected, f"{said[:100]!r}: {answer[:100]!r} in place of {expected[:100]!r}"

    # --- what stores ---

    def unique(self, key: bytes) -> int:
        """The CAS unique of what is there."""
        answer = self.ask(b"mg %b c\r\n" % key)
        return int(answer.removeprefix(b"HD c")) if answer != b"EN\r\n" else 0

    @rule(
        key=keys,
        verb=st.sampled_from(["set", "add", "replace", "append", "prepend", "cas", "cas of another"]),
        value=contents,
        flags=flags_,
        life=lives,
        meta=st.booleans(),
        quiet=st.booleans(),
    )
    def store_value(self, key, verb, value, flags, life, meta, quiet):
        held = self.held(key)
        new = Held(value, flags, self.expires(life))
        answers: tuple[bytes, bytes] = STORED
        if verb in ("append", "prepend") and held is not None:
            joined = held.value + value if verb == "append" else value + held.value
            new = held._replace(value=joined)
        elif verb in ("cas", "cas of another"):
            answers = NOT_FOUND if held is None else STORED if verb == "cas" else EXISTS
        elif (verb == "add") == (held is not None) and verb != "set":
            answers = NOT_STORED
        unique = self.unique(key) + (verb == "cas of another")
        is_cas = verb.startswith("cas")
        if meta:
            letter = {"append": b" MA", "prepend": b" MP", "add": b" ME", "replace": b" MR"}.get(verb, b"")
            line = b"ms %b %d F%d T%d%b" % (key, len(value), flags, life, letter)
            line += (b" C%d" % unique if is_cas else b"") + (b" q" if quiet else b"")
            expected = b"" if quiet and answers is STORED else answers[1]
        else:
            line = b"%b %b %d %d %d" % (b"cas" if is_cas else verb.encode(), key, flags, life, len(value))
            line += (b" %d" % unique if is_cas else b"") + (b" noreply" if quiet else b"")
            expected = b"" if quiet else answers[0]

        self.says(line + b"\r\n" + value + b"\r\n", expected)

        if answers is STORED:
            self.becomes(key, new)

    @rule(key=keys, meta=st.booleans(), quiet=st.booleans())
    def delete(self, key, meta, quiet):
        found = self.held(key) is not None
        if meta:
            gone = b"" if quiet else b"HD\r\n"
            self.says(b"md %b%b\r\n" % (key, b" q" if quiet else b""), gone if found else b"NF\r\n")
        else:
            line = b"delete %b%b\r\n" % (key, b" noreply" if quiet else b"")
            self.says(line, b"" if quiet else b"DELETED\r\n" if found else b"NOT_FOUND\r\n")
        self.becomes(key, None)

    @rule(key=keys, delta=deltas, down=st.booleans(), meta=st.booleans())
    def count(self, key, delta, down, meta):
        held = self.held(key)
        line = b"%b %b %d\r\n" % (b"decr" if down else b"incr", key, delta)
        if meta:
            line = b"ma %b M%b D%d v\r\n" % (key, b"D" if down else b"I", delta)
        if held is None:
            self.says(line, NOT_FOUND[meta])
            return
        number = held.value.rstrip(b" ")
        if not (number.isdigit() and int(number) < 2**64 and len(number) <= 20):
            self.says(line, NOT_A_NUMBER)
            return
        counted = b"%d" % (max(0, int(number) - delta) if down else (int(number) + delta) % 2**64)
        self.says(line, b"VA %d\r\n%b\r\n" % (len(counted), counted) if meta else counted + b"\r\n")
        self.becomes(key, held._replace(value=counted))

    @rule()
    def flush_all(self):
        self.says(b"flush_all\r\n", b"OK\r\n")
        for key in KEYS:
            self.becomes(key, None)

    # --- what reads, and what gives another life ---

    @rule(wanted=some_keys, uniques=st.booleans())
    def get(self, wanted, uniques):
        found = [(key, held) for key in wanted if (held := self.held(key)) is not None]
        expected = b"".join(
            b"VALUE %b %d %d%b\r\n%b"
            % (key, held.flags, len(held.value), b" %d" % self.unique(key) if uniques else b"", block(held))
            for key, held in found
        )
        self.says(b"%b %b\r\n" % (b"gets" if uniques else b"get", b" ".join(wanted)), expected + b"END\r\n")

    @rule(key=keys, quiet=st.booleans())
    def meta_get(self, key, quiet):
        held = self.held(key)
        expected = b"" if quiet else b"EN\r\n"
        if held is not None:
            left_s = held.expires - int(self.clock.now) if held.expires else -1
            expected = b"VA %d s%d f%d t%d\r\n" % (len(held.value), len(held.value), held.flags, left_s) + block(held)
        self.says(b"mg %b v s f t%b\r\n" % (key, b" q" if quiet else b""), expected)

    @rule(key=keys, life=lives, verb=st.sampled_from(["touch", "gat", "mg"]))
    def touch(self, key, life, verb):
        held = self.held(key)
        if verb == "touch":
            self.says(b"touch %b %d\r\n" % (key, life), b"NOT_FOUND\r\n" if held is None else b"TOUCHED\r\n")
        elif verb == "gat":
            shown = b"" if held is None else b"VALUE %b %d %d\r\n%b" % (key, held.flags, len(held.value), block(held))
            self.says(b"gat %d %b\r\n" % (life, key), shown + b"END\r\n")
        else:
            self.says(b"mg %b T%d\r\n" % (key, life), b"EN\r\n" if held is None else b"HD\r\n")
        if held is not None:
            self.becomes(key, held._replace(expires=self.expires(life)))


NodeAgainstDictByMemcache.TestCase.settings = settings(max_examples=20, stateful_step_count=30)
test_a_node_answers_memcache_clients_like_a_dict = NodeAgainstDictByMemcache.TestCase
