"""From a raw query to the one path that it names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.errors import BadRequest
from sfss.web.paths import path_of


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("path=a", "a"),
        ("path=folder/sub/file.jpg", "folder/sub/file.jpg"),
        ("path=%E6%96%87%E4%BB%B6/%E7%85%A7.jpg", "文件/照.jpg"),
        ("path=a+b%20c%2Bd", "a b c+d"),
        ("path=a=b", "a=b"),
        ("x=1&path=a&y=2", "a"),
        ("path=100%25", "100%"),
        ("path=%2541", "%41"),
        ("path=a%26b", "a&b"),
        ("path=a;b", "a;b"),
        ("path=.hidden/..more", ".hidden/..more"),
    ],
)
def test_a_query_is_decoded_exactly_once(query: str, path: str) -> None:
    assert path_of(query) == path


@pytest.mark.parametrize(
    "query",
    [
        "",
        "path",
        "path=",
        "file=a",
        "Path=a",
        "path=a&path=a",
        "path=a&p%61th=b",
        "path=/a",
        "path=a/",
        "path=%2Fa",
        "path=a//b",
        "path=a/./b",
        "path=a/../b",
        "path=..",
        "path=a%2F..%2Fb",
        "path=a\\b",
        "path=a%5Cb",
        "path=a%00b",
        "path=a%0Ab",
        "path=a%7Fb",
        "path=a%C2%85b",  # U+0085
        "path=%FF",
        "path=%C3",
        "path=%ED%A0%80",  # a lone surrogate
        "path=%C0%AF",  # / in a form that is too long
        "path=%",
        "path=%4",
        "path=%zz",
        "path=a%u0041",
    ],
)
def test_what_could_name_two_files_or_none_is_refused(query: str) -> None:
    with pytest.raises(BadRequest):
        path_of(query)


@given(st.text(min_size=1, max_size=30), st.booleans())
def test_two_names_never_become_one(text: str, plus: bool) -> None:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return
    query = "path=" + "".join("+" if plus and byte == 0x20 else f"%{byte:02x}" for byte in raw)

    try:
        path = path_of(query)
    except BadRequest:
        return

    assert path == text
