"""What a connection knows of a head holds for a request with the same bytes but for its target, and for no other."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from sfss.web.repeated_head import BODY_BYTES_MAX, RepeatedHead, asks_for_more, body_bytes_due, repeated_head

GET = b"GET /file?path=a HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"
PUT = b"PUT /file?path=a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"


class Message(NamedTuple):
    """What the parser tells of a request."""

    method: str = "GET"
    version: tuple[int, int] = (1, 1)
    length: int | None = None
    should_close: bool = False
    chunked: bool = False
    upgrade: bool = False

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        lines: dict[str, str] = {} if self.length is None else {"Content-Length": str(self.length)}
        return CIMultiDictProxy(CIMultiDict(lines))


def known(data: bytes, message: Any) -> RepeatedHead:
    head = repeated_head(data, message)
    assert head is not None
    return head


@pytest.mark.parametrize("target", [b"/file?path=a", b"/file?path=b/c.txt", b"/files?path=%E6%9D%B1&x=(1)", b"/status"])
def test_another_target_is_found(target):
    assert known(GET, Message()).target_in(GET.replace(b"/file?path=a", target)) == target.decode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET",
        GET[:-1],
        GET + b"G",
        GET * 2,
        GET.replace(b"GET", b"PUT"),
        GET.replace(b"GET ", b"GETS "),
        GET.replace(b"1.1", b"1.0"),
        GET.replace(b"*/*", b"*/+"),
        GET.replace(b"Accept", b"accept"),
        GET.replace(b"/file?path=a", b""),
        GET.replace(b"/file?path=a", b"*"),
        GET.replace(b"/file?path=a", b"http://a/file"),
        GET.replace(b"/file?path=a", b"//a"),
        GET.replace(b"/file?path=a", b"/file?path=a b"),
        GET.replace(b"/file?path=a", b"/file?path=a#b"),
        GET.replace(b"/file?path=a", b"/file?path=a\tb"),
        GET.replace(b"/file?path=a", b"/file?path=a\nb"),
        GET.replace(b"/file?path=a", b"/file?path=\xe6"),
        GET.replace(b"/file?path=a", b"/file?path=" + b"a" * 8192),
    ],
)
def test_anything_else_is_left_to_the_parser(data):
    assert known(GET, Message()).target_in(data) == ""


@pytest.mark.parametrize("path", [b"a", b"b/c.txt", b"A-Z/0_9/x.tar.gz", b"a" * 300])
def test_a_plain_path_is_found_in_one_look(path):
    for data, message in ((GET, Message()), (PUT, Message("PUT", length=3))):
        assert known(data, message).plain_path_in(data.replace(b"path=a", b"path=" + path)) == path


@pytest.mark.parametrize(
    "path", [b"", b".a", b"a/.b", b"/a", b"a/", b"a//b", b"a b", b"a%20b", b"a+b", b"a&b=c", b"a#b", b"\xe6"]
)
def test_a_path_that_is_not_plain_is_looked_at_closely(path):
    assert known(GET, Message()).plain_path_in(GET.replace(b"path=a", b"path=" + path)) == b""


@given(st.binary(max_size=12), st.integers(0, len(GET)), st.integers(0, len(GET)))
def test_a_plain_path_is_that_of_the_target(text, start, end):
    head, data = known(GET, Message()), GET[:start] + text + GET[end:]
    path = head.plain_path_in(data)

    if path:
        assert head.target_in(data) == f"/file?path={path.decode()}"


@pytest.mark.parametrize("data", [b"", b"GET", GET[:-1], GET + b"G", GET * 2, GET.replace(b"/file?", b"/files?"), PUT])
def test_a_plain_path_is_that_of_one_whole_request_with_the_same_head(data):
    assert known(GET, Message()).plain_path_in(data) == b""


ASKING = (
    *("If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "Range", "If-Range"),
    *("Content-Range", "Content-Digest", "Content-MD5", "Expect", "Transfer-Encoding", "Origin", "Sec-Fetch-Site"),
)


@pytest.mark.parametrize("name", ASKING)
def test_a_head_that_asks_for_more_is_left_to_the_handlers(name):
    for method in ("GET", "HEAD", "PUT"):
        lines = CIMultiDict({"Content-Length": "3", "Accept": "*/*"})
        assert not asks_for_more(method, CIMultiDictProxy(lines))
        lines[name.lower()] = "x"
        assert asks_for_more(method, CIMultiDictProxy(lines))


def test_a_body_that_is_a_form_or_of_no_known_length_is_left_to_the_handlers():
    assert asks_for_more("PUT", CIMultiDictProxy(CIMultiDict({"Accept": "*/*"})))
    form = {"Content-Length": "3", "Content-Type": 'multipart/form-data; boundary="x"'}
    assert asks_for_more("PUT", CIMultiDictProxy(CIMultiDict(form)))


def test_a_body_has_to_be_there_whole_and_nothing_behind_it():
    head = known(PUT, Message("PUT", length=3))

    assert head.body_bytes == 3
    assert head.target_in(PUT[:-3] + b"xyz") == "/file?path=a"
    assert head.target_in(PUT[:-1]) == ""
    assert head.target_in(PUT + b"d") == ""


@pytest.mark.parametrize(
    "message",
    [
        Message(version=(1, 0)),
        Message(should_close=True),
        Message("POST", length=3),
        Message("DELETE"),
        Message("GET", length=3),
        Message("PUT", length=BODY_BYTES_MAX + 1),
    ],
)
def test_some_heads_are_parsed_each_time(message):
    assert repeated_head(GET, message) is None


@pytest.mark.parametrize("data", [b"\r\n" + GET, GET.replace(b"1.1\r\n", b"1.1\n")])
def test_a_head_that_begins_oddly_is_parsed_each_time(data):
    assert repeated_head(data, Message()) is None


@pytest.mark.parametrize(
    ("data", "message", "due"),
    [
        (GET, Message(), 0),
        (PUT, Message("PUT", length=3), 0),
        (PUT[:-2], Message("PUT", length=3), 2),
        (PUT[:-3], Message("PUT", length=3), 3),
        (GET + b"G", Message(), -1),
        (PUT + GET, Message("PUT", length=3), -1),
        (GET.replace(b"\r\n", b"\n"), Message(), -1),
        (b"\r\n\r\n" + GET, Message(), -1),
        (PUT, Message("PUT", chunked=True), -1),
        (GET, Message(upgrade=True), -1),
    ],
)
def test_what_the_parser_still_waits_for_is_known_to_the_byte(data, message, due):
    assert body_bytes_due(data, message) == due
