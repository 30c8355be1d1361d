"""Paths and keys: what is refused, and that no two paths make one key."""

from __future__ import annotations

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.errors import BadKey, BadRequest
from sfss.keys import check_key, check_path, encode_path, has_forbidden, hash_key, is_plain


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", "a/./b", "../a", "a/..", ".", "a\\b", "a\nb", "a\x00", "a\x7f", "a\x85b", "a\x9fb"],
)
def test_a_path_that_could_name_two_files_is_refused(path: str) -> None:
    with pytest.raises(BadRequest):
        check_path(path)


@pytest.mark.parametrize("path", ["a", "a/b.txt", "照片/東京.jpg", "a b", "...", ".hidden", "a..b", "100%", "?x", "@x"])
def test_an_ordinary_path_is_taken(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("dir/file.txt", b"dir/file.txt"),
        ("a b", b"a%20b"),
        ("100%", b"100%25"),
        ("?x?", b"%3Fx?"),
        ("@x@", b"%40x@"),
        ("東", "東".encode()),
    ],
)
def test_the_key_is_the_path_as_any_memcached_client_would_type_it(path: str, key: bytes) -> None:
    assert encode_path(path) == key


@given(st.text("aZ09._-/ %?@\\é\x7f", max_size=8) | st.text(max_size=8))
def test_a_plain_path_is_allowed_and_is_its_own_key(path: str) -> None:
    if is_plain(path.encode("utf-8", "surrogatepass")):
        check_path(path)
        assert encode_path(path) == path.encode()
        assert set(path) <= set(string.ascii_letters + string.digits + "/._-")


@pytest.mark.parametrize("path", [b"a", b"a/b.txt", b"A_-.0", b"a..b", b"a." * 100, b"a/b/c/d"])
def test_most_paths_are_plain(path: bytes) -> None:
    assert is_plain(path)


@pytest.mark.parametrize("path", [b"", b"/", b"/a", b"a/", b"a//b", b".a", b"..", b"a/.b", b"a/.", b"a b", b"a\xe9"])
def test_a_path_that_may_mean_something_else_is_not_plain(path: bytes) -> None:
    assert not is_plain(path)


def test_what_no_server_takes_in_a_key_is_a_blank_or_a_control_character() -> None:
    for byte in range(256):
        for key in (bytes([byte]), b"a%cb" % byte, b"a" * 249 + bytes([byte])):
            assert has_forbidden(key) is (byte <= 0x20 or byte == 0x7F)


def test_base64_keys_are_those_of_older_deployments() -> None:
    assert encode_path("a/東京?", "base64") == base64.b64encode("a/東京?".encode())


def test_a_key_of_250_bytes_is_taken_and_one_of_251_is_refused_with_the_limit_named() -> None:
    assert len(encode_path("x" * 250)) == 250

    with pytest.raises(BadKey, match="251 bytes; the limit is 250"):
        encode_path("x" * 251)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=2, max_size=2, unique=True))
def test_two_paths_never_make_one_key_and_every_key_is_valid(paths: list[str]) -> None:
    keys = []
    for path in paths:
        try:
            check_path(path)
        except BadRequest:
            return
        keys.append(encode_path(path, key_bytes_max=1000))

    assert keys[0] != keys[1]
    for key in keys:
        check_key(key[:250])


@pytest.mark.parametrize("key", [b"", b"a b", b"a\r", b"\x7f", b"x" * 251])
def test_a_key_that_no_memcache_server_takes_is_refused(key: bytes) -> None:
    with pytest.raises(BadKey):
        check_key(key)


def test_the_hash_of_a_key_never_changes() -> None:
    # Placement and on-disk order rest on these; a change would lose every stored file.
    assert hash_key(b"") == 0x2D06800538D394C2
    assert hash_key(b"dir/file.txt") == 0xBB6A6DDDD9EA0B73
