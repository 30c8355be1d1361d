"""What the head of an answer says of a file is the same, whichever way it was made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.keys import is_plain
from sfss.store import Record, Written
from sfss.web.files import _begin_for, _begin_for_plain, _extension
from sfss.web.versions import etag_of

PATHS = st.text("aB1.-_/", min_size=1, max_size=12) | st.sampled_from(
    ["a.TXT", "a.b/c", "a/b.tar.gz", "a..txt", "a.", "a.b.", "a/b.c/d", "a.jpeg", "a.css/b.png"]
)


@given(PATHS)
def test_the_type_of_a_plain_path_is_that_of_any_path(path: str) -> None:
    if is_plain(path.encode()):
        assert _begin_for_plain(path.encode()) == _begin_for(_extension(path))


def test_types_stay_right_however_many_extensions_there_are() -> None:
    for number in range(3000):
        assert _begin_for_plain(b"a.x%d" % number).startswith(b"Content-Type: application/octet-stream\r\n")
    assert _begin_for_plain(b"a.txt") == _begin_for_plain(b"a.TXT") == _begin_for("txt")


@pytest.mark.parametrize("version", [0, 1, 1 << 40, (1 << 64) - 1, 0x19AA0B1C2D3E4F5])
@pytest.mark.parametrize("checksum", [0, 7, (1 << 64) - 1])
def test_an_etag_is_version_and_checksum_in_16_digits_each(version: int, checksum: int) -> None:
    record = Record(b"", 0, version=version, checksum=checksum)
    written = Written(version, checksum)
    etags = {etag_of(record), etag_of(written)}

    record.words = b"s0 f0 A0 V%d H%016x" % (version, checksum)  # as they come from a proxy
    written.words = b"%d H%016x" % (version, checksum)
    etags |= {etag_of(record), etag_of(written)}

    assert etags == {b"%016x-%016x" % (version, checksum)}
