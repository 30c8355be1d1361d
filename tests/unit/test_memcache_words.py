"""What a request's opaque says of it: the id under which it stands in all logs, if it is one."""

from __future__ import annotations

import re
from random import Random

import pytest

from sfss.memcache.commands.words import REQUEST_ID_BYTES_MAX, call_of
from sfss.store import NO_CALL


@pytest.mark.parametrize(
    ("opaque", "request_id"),
    [
        (b"7.4f-A_z9", b"4f-A_z9"),
        (b"*7.id", b"id"),
        (b".id", b"id"),
        (b"7.-a", b"-a"),
        (b"7." + b"a" * REQUEST_ID_BYTES_MAX, b"a" * REQUEST_ID_BYTES_MAX),
        (b"7." + b"a" * (REQUEST_ID_BYTES_MAX + 1), b""),
        (b"7", b""),
        (b"7.", b""),
        (b"7.-_", b""),
        (b"7.a.b", b""),
        (b"7.a b", b""),
        (b"7.a\xe4", b""),
    ],
)
def test_what_follows_the_dot_of_an_opaque_is_a_request_id_if_it_looks_like_one(
    opaque: bytes, request_id: bytes
) -> None:
    assert call_of(0, None, opaque).request_id == request_id
    assert (call_of(0, None, opaque) is NO_CALL) == (not request_id)


def test_any_opaque_is_taken_for_what_it_is(rng: Random) -> None:
    for _ in range(3000):
        opaque = bytes(rng.choice(b"a0Zz9A-_./:@[`{\x7f\x80\xff") for _ in range(rng.randrange(6)))
        looks_like_one = re.fullmatch(rb"[^.]*\.(?=.*[A-Za-z0-9])([A-Za-z0-9_-]{1,24})", opaque, re.DOTALL)

        assert call_of(0, None, opaque).request_id == (looks_like_one[1] if looks_like_one else b"")


def test_neither_ring_nor_time_nor_id_is_no_call() -> None:
    assert call_of(0, None, None) is NO_CALL
    assert call_of(3, None, None).ring == 3
    assert 0 < call_of(0, 1000, b"5").deadline < float("inf")
