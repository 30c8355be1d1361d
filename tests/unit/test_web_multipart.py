"""The file in a form, and never the envelope."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.errors import BadRequest, TooLarge
from sfss.web.multipart import HEAD_BYTES_MAX, PARTS_MAX, file_in_form, is_multipart_form

TYPE = "multipart/form-data; boundary=xyz"
LIMIT = 1000


def part(disposition: str, value: bytes, *headers: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *headers]
    return b"--xyz\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--xyz--\r\n"


UPLOAD = 'name="upload_file"; filename="a.jpg"'


@pytest.mark.parametrize("disposition", [UPLOAD, 'name="file"; filename="a"', "name=file", 'name="any"; filename="a"'])
@pytest.mark.parametrize("value", [b"", b"hello", b"\r\n", b"\r\n\r\n--xy\r\n", b"--xy", bytes(range(256))])
def test_the_file_part_is_taken_as_it_is(disposition: str, value: bytes) -> None:
    assert file_in_form(form(part(disposition, value)), TYPE, LIMIT) == value


@given(st.binary(max_size=200).filter(lambda value: b"\r\n--xyz" not in b"\r\n" + value))
def test_any_bytes_without_the_boundary_come_through(value: bytes) -> None:
    assert file_in_form(form(part(UPLOAD, value)), TYPE, LIMIT) == value


def test_the_named_part_wins_over_other_parts() -> None:
    body = form(part('name="comment"', b"no"), part(UPLOAD, b"yes"), part('name="x"; filename="y"', b"no"))

    assert file_in_form(body, TYPE, LIMIT) == b"yes"


def test_preamble_epilogue_and_a_quoted_boundary_are_allowed() -> None:
    body = b"preamble\r\n" + form(part(UPLOAD, b"value")) + b"epilogue"

    assert file_in_form(body, 'multipart/form-data; charset=x; boundary="xyz"', LIMIT) == b"value"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        form(),
        form(part(UPLOAD, b"--xyz")),  # a boundary that the file itself begins with
        form(part('name="comment"', b"text")),
        form(part(UPLOAD, b"one"), part('name="file"; filename="b"', b"two")),
        form(part('name="a"; filename="a"', b"one"), part('name="b"; filename="b"', b"two")),
        form(part(UPLOAD, b"one\r\n--xyz--two")),  # a last boundary within the file
        form(part(UPLOAD, b"value"))[:-6],  # the last boundary is cut off
        part(UPLOAD, b"value"),
        b"--xyz\r\nContent-Disposition: form-data",
        b"--xyzjunk\r\n\r\nvalue\r\n--xyz--",
        form(part(UPLOAD, b"value", "Content-Type: multipart/mixed; boundary=inner")),
        form(part(UPLOAD, b"dmFsdWU=", "Content-Transfer-Encoding: base64")),
        form(part(UPLOAD, b"value", "X: " + "y" * HEAD_BYTES_MAX)),
        form(*[part(f'name="{number}"', b"") for number in range(PARTS_MAX)], part(UPLOAD, b"value")),
    ],
)
def test_a_doubtful_form_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        file_in_form(body, TYPE, LIMIT)


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=", TYPE + "z" * 80])
def test_a_boundary_is_needed_and_bounded(content_type: str) -> None:
    with pytest.raises(BadRequest):
        file_in_form(form(part(UPLOAD, b"value")), content_type, LIMIT)


def test_the_limit_is_the_files_not_the_envelopes() -> None:
    assert len(file_in_form(form(part(UPLOAD, b"x" * LIMIT)), TYPE, LIMIT)) == LIMIT
    with pytest.raises(TooLarge):
        file_in_form(form(part(UPLOAD, b"x" * (LIMIT + 1))), TYPE, LIMIT)


@given(st.binary(max_size=300))
def test_no_body_does_worse_than_being_refused(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        file_in_form(b"--xyz\r\n" + body, TYPE, LIMIT)


@pytest.mark.parametrize(
    ("content_type", "is_form"),
    [
        (TYPE, True),
        ("Multipart/Form-Data;boundary=x", True),
        ("multipart/mixed; boundary=x", False),
        ("application/x-www-form-urlencoded", False),
        ("", False),
    ],
)
def test_only_form_data_is_taken_for_a_form(content_type: str, is_form: bool) -> None:
    assert is_multipart_form(content_type) is is_form
