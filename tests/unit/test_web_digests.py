"""Digests that come with an upload."""

from __future__ import annotations

import base64
import hashlib

import pytest

from sfss.errors import BadRequest
from sfss.web.digests import DigestMismatch, check_digests

BODY = b"the body"
SHA = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
SHA512 = base64.b64encode(hashlib.sha512(BODY).digest()).decode()
MD5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()
OTHER = base64.b64encode(hashlib.sha256(b"other").digest()).decode()


@pytest.mark.parametrize(
    ("content_digest", "content_md5"),
    [
        (None, None),
        (f"sha-256=:{SHA}:", None),
        (f"sha-512=:{SHA512}:, sha-256=:{SHA}:", None),
        ("unixsum=:AAAA:", None),
        (None, MD5),
        (f"sha-256=:{SHA}:", MD5),
    ],
)
def test_a_body_with_its_own_digest_is_taken(content_digest: str | None, content_md5: str | None) -> None:
    check_digests(BODY, content_digest, content_md5)


@pytest.mark.parametrize(
    ("content_digest", "content_md5"),
    [(f"sha-256=:{OTHER}:", None), (f"sha-512=:{SHA512}:, sha-256=:{OTHER}:", None), (None, "AAAA")],
)
def test_a_body_with_the_digest_of_another_is_refused(content_digest: str | None, content_md5: str | None) -> None:
    with pytest.raises(DigestMismatch):
        check_digests(BODY, content_digest, content_md5)


@pytest.mark.parametrize(
    ("content_digest", "content_md5"), [("sha-256", None), (f"sha-256={SHA}", None), ("sha-256=:!:", None), (None, "!")]
)
def test_a_digest_that_cannot_be_read_is_refused(content_digest: str | None, content_md5: str | None) -> None:
    with pytest.raises(BadRequest):
        check_digests(BODY, content_digest, content_md5)


def test_a_digest_that_is_there_twice_is_refused_before_it_is_worked_out_again() -> None:
    with pytest.raises(BadRequest, match="two digests by sha-256"):
        check_digests(BODY, f"sha-256=:{SHA}:, sha-256=:{SHA}:", None)
