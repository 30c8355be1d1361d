"""Digests that a client sends with a body, so that a damaged upload is refused: Content-Digest and Content-MD5."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from typing import Any

from sfss.errors import BadRequest

_MEMBER = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):\s*(?:,|$)")
_ALGORITHMS: dict[str, Callable[[bytes], Any]] = {
    "sha-256": hashlib.sha256,
    "sha-512": hashlib.sha512,
    "md5": lambda body: hashlib.md5(body, usedforsecurity=False),
}


class DigestMismatch(BadRequest):
    """The body is not the one whose digest was sent."""


def check_digests(body: bytes, content_digest: str | None, content_md5: str | None) -> None:
    """Refuse (`DigestMismatch`) a body that doesn't match; `BadRequest` for a header that can't be read.

    Digests by algorithms that are not known here are passed over, as RFC 9530 asks; those known must all match.
    """
    if content_md5 is not None:
        _compare("md5", _unbase64(content_md5.strip()), body)
    if content_digest is not None:
        position = 0
        seen: set[str] = set()
        while position < len(content_digest):
            member = _MEMBER.match(content_digest, position)
            if not member:
                raise BadRequest("Content-Digest is not of the form sha-256=:…:")
            if member[1] in seen:
                # Each one costs a pass over the body: a long header of them would hold up everybody.
                raise BadRequest(f"Content-Digest has two digests by {member[1]}")
            seen.add(member[1])
            if member[1] in _ALGORITHMS:
                _compare(member[1], _unbase64(member[2]), body)
            position = member.end()


def _compare(algorithm: str, expected: bytes, body: bytes) -> None:
    if _ALGORITHMS[algorithm](body).digest() != expected:
        raise DigestMismatch(f"the body's {algorithm} is not the one announced; nothing was stored")


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise BadRequest("a digest is not base64") from None
