"""Blocks come out as they went in, however they are cut, and cost little more than their bytes."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from sfss.memcache.block import Block


@given(data=st.binary(min_size=1, max_size=30_000), cut=st.integers(1, 12_000), before=st.binary(max_size=5))
def test_a_block_comes_out_whole_and_what_follows_is_left(data: bytes, cut: int, before: bytes) -> None:
    block = Block(len(data))
    stream = data + b"\r\nnext"
    at = 0

    while block.missing:
        buffer = before + stream[at : at + cut]
        at += block.fill(buffer, len(before)) - len(before)

    assert block.value() == data
    assert stream[at:] == b"\r\nnext"


def test_a_block_that_comes_byte_by_byte_costs_little_more_than_its_bytes() -> None:
    block = Block(100_000)
    for _ in range(100_000):
        block.fill(b"x", 0)

    assert len(block._pieces) == 1
    assert sys.getsizeof(block._pieces[0]) < 150_000


def test_a_block_that_nobody_wants_costs_nothing() -> None:
    block = Block(1_000_000, keep=False)
    for _ in range(10):
        block.fill(b"x" * 100_000, 0)

    assert block.missing == 0
    assert block._pieces == []


@given(data=st.binary(min_size=1, max_size=300), had=st.integers(0, 299), cut=st.integers(1, 300))
def test_the_rest_of_a_block_can_be_received_in_place(data: bytes, had: int, cut: int) -> None:
    block = Block(len(data))
    block.fill(data[: min(had, len(data) - 1)], 0)
    rest = data[-block.missing :]

    room = block.room()
    for at in range(0, len(rest), cut):
        piece = rest[at : at + cut]
        room[at : at + len(piece)] = piece
        block.took(len(piece))
    del room

    assert block.missing == 0
    assert block.value() == data


def test_a_block_received_in_place_is_given_out_without_a_copy() -> None:
    block = Block(100_000)
    room = block.room()
    room[:] = b"x" * 100_000
    block.took(100_000)
    del room

    assert block.value() is block.value()
