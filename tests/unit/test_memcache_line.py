"""Lines of sfss's own form are taken apart in one pass, and come out as patterns would have it."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.memcache import own
from sfss.memcache.commands.own_forms import md_lane, mg_lane, ms_lane
from sfss.memcache.line import Line

_KEY = rb"([^\x00-\x20\x7f?@][^\x00-\x20\x7f]{0,249})"
_TAIL = rb"(?: G([0-9]{1,9}))?(?: U([0-9]{1,9}))?(?: O([!-~]{1,32}))?\r\n"
_STAMP = rb" V([0-9]{1,19}) H([0-9a-f]{16}) B"


def written_of_group(line: Line) -> Any:
    return own.written_in(line, b" O*9.id\r\n")


PATTERNS = {
    own.found_in: rb"(?:VA ([0-9]{1,8})|HD) s([0-9]{1,8}) f([0-9]{1,10}) A([0-9]{1,12}) V([0-9]{1,20}) H([0-9a-f]{16})"
    rb"( Yt| Yv)?(?: O([!-~]{1,32}))?\r\n",
    own.missed_in: rb"EN(?: O([!-~]{1,32}))?\r\n",
    own.stored_in: rb"(HD|NS) V([0-9]{1,20}) H([0-9a-f]{16}) B([0-9]{1,3})/([0-9]{1,3})(?: O([!-~]{1,32}))?\r\n",
    written_of_group: rb"HD V([0-9]{1,20}) H([0-9a-f]{16}) B([0-9]{1,3})/([0-9]{1,3}) O\*9\.id\r\n",
    mg_lane: rb"mg " + _KEY + rb"( v)? s f A V H( Y)?" + _TAIL,
    ms_lane: rb"ms " + _KEY + rb" ([0-9]{1,8}) F([0-9]{1,10}) A([0-9]{1,12})(?: V H B(?: Q)?|" + _STAMP + rb")" + _TAIL,
    md_lane: rb"md " + _KEY + rb"(?: V H B(?: Q)?|(?: A([0-9]{1,12}))?" + _STAMP + rb")" + _TAIL,
}
"""What each form is, said another way."""

forms = st.sampled_from(sorted(PATTERNS, key=lambda form: form.__name__))


def taken(form: Any, data: bytes, at: int = 0) -> tuple[Any, int]:
    line = Line()
    line.begin(data, at)
    return form(line), line.at


@st.composite
def lines_of(draw: st.DrawFn, form: Any) -> bytes:
    return draw(st.from_regex(re.compile(PATTERNS[form]), fullmatch=True))


@given(data=st.data(), form=forms)
def test_what_a_pattern_takes_is_taken_to_its_end_and_no_further(data: st.DataObject, form: Any) -> None:
    line = data.draw(lines_of(form))
    before, after = data.draw(st.binary(max_size=5)), data.draw(st.binary(max_size=5))

    result, at = taken(form, before + line + after, len(before))

    flags = re.search(rb" F([0-9]+)", line) if form is ms_lane else None
    if flags is not None and int(flags[1]) >= 2**32:
        assert result is None
        return
    assert result is not None
    assert at == len(before) + len(line)


@given(data=st.data(), form=forms)
def test_what_a_pattern_refuses_is_refused(data: st.DataObject, form: Any) -> None:
    line = bytearray(data.draw(lines_of(form)))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(line) - 1))
        if data.draw(st.booleans()):
            del line[place]
        else:
            line[place] = data.draw(st.sampled_from(b" 09afgAFGHOQUVY/?@\r\n\x00\x7f\x80"))
        if not line:
            return

    result, _ = taken(form, bytes(line))

    if result is not None:
        assert re.compile(PATTERNS[form]).match(bytes(line))


@given(data=st.data(), form=forms)
def test_a_line_that_is_not_all_there_yet_is_no_line(data: st.DataObject, form: Any) -> None:
    line = data.draw(lines_of(form))
    cut = data.draw(st.integers(0, len(line) - 1))

    assert taken(form, line[:cut])[0] is None


@given(version=st.integers(0, 10**20 - 1), checksum=st.integers(0, 2**64 - 1), size=st.integers(0, 10**8 - 1))
def test_numbers_are_what_their_digits_say(version: int, checksum: int, size: int) -> None:
    line = b"VA %d s%d f4294967295 A999999999999 V%d H%016x Yv Oa.b\r\n" % (size, size, version, checksum)

    found, _ = taken(own.found_in, line)

    assert (found.block, found.size, found.flags, found.expires) == (size, size, 4294967295, 999999999999)
    assert (found.version, found.checksum, found.raw, found.tombstone) == (version, checksum, True, False)
    assert found.opaque == b"a.b"


@given(
    data=st.binary(max_size=4) | st.sampled_from([b" O", b" Ox", b"  O", b"O ", b" "]), letter=st.sampled_from(b"OHx")
)
def test_a_flag_is_a_blank_and_its_letter(data: bytes, letter: int) -> None:
    line, model = Line(), Line()
    line.begin(data, 0)
    model.begin(data, 0)

    assert (line.flag(letter), line.at, line.fits) == (model.has(b" %c" % letter), model.at, True)


@pytest.mark.parametrize("digits", [b"", b"123456789"])
def test_a_number_has_as_many_digits_as_it_may(digits):
    line = Line()
    line.begin(digits + b" ", 0)
    line.number(8)
    assert not line.fits


@pytest.mark.parametrize(
    ("field", "size"),
    [(Line.key, 250), (Line.opaque, 32), (lambda line: line.number(8), 8)],
    ids=["key", "O", "digits"],
)
def test_no_field_is_looked_through_beyond_what_it_may_be(field: Any, size: int) -> None:
    line = Line()
    line.begin(b" O" + b"1" * 100_000, 0 if field is Line.opaque else 2)
    field(line)
    assert not line.fits
    assert line.at <= 2 + size + 1


@pytest.mark.parametrize("ending", [b"\r\n", b"no end"])
def test_a_line_that_was_taken_keeps_nothing_of_what_came_with_it(ending: bytes) -> None:
    data = b"EN" + ending + bytes(1000)
    line = Line()
    before = sys.getrefcount(data)

    line.begin(data, 0)
    own.missed_in(line)

    assert sys.getrefcount(data) == before


@pytest.mark.parametrize("place", [0, 7, 15])
def test_a_checksum_is_said_in_hexadecimal_digits_of_lower_case(place: int) -> None:
    for byte in range(256):
        said = bytearray(b"f0123456789abcde")
        said[place] = byte
        line = Line()
        line.begin(bytes(said), 0)

        number = line.hex16()

        is_digit = byte in b"0123456789abcdef"
        assert line.fits == is_digit
        assert number == (int(said, 16) if is_digit else 0)
