"""The record format of batches: what is written can be read, cut or split anywhere, and broken bodies are refused."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfss.errors import BadRequest, Outcome, TooLarge
from sfss.store import Record, Written
from sfss.web.batches.items import Sent, Totals
from sfss.web.batches.records import LINE_BYTES_MAX, RecordReader, RecordWriter, failed_line, found_line, stored_line
from sfss.web.errors import Failure

FILE_BYTES_MAX = 1000
paths = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)
files = st.lists(st.tuples(paths, st.binary(max_size=100)), max_size=6)


def body_of(*stored: tuple[str, bytes]) -> bytes:
    """A body as a client makes it."""
    lines = [json.dumps({"path": path, "size": len(value)}).encode() + b"\n" + value + b"\n" for path, value in stored]
    return b"".join(lines) + json.dumps({"end": True, "files": len(stored)}).encode() + b"\n"


def read(*pieces: bytes) -> tuple[list[Sent], RecordReader]:
    reader = RecordReader(FILE_BYTES_MAX)
    read: list[Sent] = []
    for piece in pieces:
        reader.feed(piece)
        while (sent := reader.next()) is not None:
            read.append(sent)
    return read, reader


@given(files, st.data())
def test_files_come_out_as_they_went_in_wherever_the_body_is_split(
    stored: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    body = body_of(*stored)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True) if start < end]

    sent, reader = read(*pieces)

    assert [(one.path, one.value) for one in sent if one.refusal is None] == stored
    assert reader.ended


def test_a_body_comes_out_whole_byte_by_byte() -> None:
    body = body_of(("a", b""), ("ä/b", b"\n{}\n"), ("c", bytes(FILE_BYTES_MAX)))

    sent, reader = read(*(body[at : at + 1] for at in range(len(body))))

    assert [(one.path, one.value) for one in sent] == [("a", b""), ("ä/b", b"\n{}\n"), ("c", bytes(FILE_BYTES_MAX))]
    assert reader.ended


@given(files.filter(bool), st.data())
def test_a_body_that_is_cut_has_no_end_and_no_file_that_was_not_whole(
    stored: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    body = body_of(*stored)
    cut = body[: data.draw(st.integers(0, len(body) - 1))]

    sent, reader = read(*([cut] if cut else []))

    assert not reader.ended
    assert [(one.path, one.value) for one in sent] == stored[: len(sent)]


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_are_read_or_refused(pieces: list[bytes]) -> None:
    with contextlib.suppress(BadRequest):
        read(*filter(None, pieces))


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()))
@settings(max_examples=40)
def test_any_json_for_a_line_is_read_or_refused(told: object) -> None:
    for line in (told, {"path": told, "size": 0}, {"path": "a", "size": told}, {"end": True, "files": told}):
        with contextlib.suppress(BadRequest):
            read(json.dumps(line).encode() + b"\n\n")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"BZh9" + bytes(5000), "line"),
        (b"[" * 2000 + b"\n", "no JSON object"),
        (b'{"path": "a", "size": 1}\nab', "line feed"),
        (b'{"path": "a", "size": -1}\n', "size"),
        (b'{"path": "a", "size": true}\n', "size"),
        (b'{"path": "a", "size": "1"}\n', "size"),
        (b'{"end": true, "files": 1}\n', "0 came"),
        (b'{"end": true}\n{"path": "a", "size": 0}\n', "behind"),
    ],
)
def test_what_can_not_be_followed_ends_the_reading(body: bytes, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        read(body)


@pytest.mark.parametrize("path", [b"a/b", b"a b"])
def test_a_file_without_its_line_feed_has_a_name_wherever_the_body_is_split(path: bytes) -> None:
    body = b'{"path": "%b", "size": 3}\nabcd' % path
    for cut in range(len(body)):
        reader = RecordReader(FILE_BYTES_MAX)
        reader.feed(body[:cut])
        assert reader.next() is None
        reader.feed(body[cut:])
        with pytest.raises(BadRequest, match="line feed"):
            reader.next()
        assert reader.unfinished == path.decode()


def test_bytes_behind_the_end_are_refused_when_they_come_later() -> None:
    with pytest.raises(BadRequest, match="behind"):
        read(b'{"end": true}\n', b"\n")


def test_a_bad_file_spoils_only_itself() -> None:
    lines = (
        b'{"path": "large", "size": 1001}\n' + bytes(1001) + b"\n",
        b'{"size": 1}\n.\n',
        b'{"path": "missing", "status": 404}\n',
        b'{"path": "good", "size": 1}\n.\n',
        b'{"end": true, "files": 4}\n',
    )

    sent, reader = read(*lines)

    assert [(one.path, one.value, type(one.refusal)) for one in sent] == [
        ("large", b"", TooLarge),
        ("", b"", BadRequest),
        ("missing", b"", BadRequest),
        ("good", b".", type(None)),
    ]
    assert reader.ended


def test_a_file_that_is_under_way_has_a_name() -> None:
    _, reader = read(b'{"path": "a", "size": 10}\n12345')

    assert reader.unfinished == "a"


@given(paths, st.binary(max_size=50))
def test_an_answer_can_be_sent_to_put_as_it_is(path: str, value: bytes) -> None:
    writer = RecordWriter()
    missing = Failure(404, "not_found", "there is no file \n", False, Outcome.NOT_APPLIED)
    parts: list[bytes] = []
    size = writer.found(path.encode(), False, Record(value, len(value), version=7 << 22, checksum=9), parts)
    body = b"".join(parts)
    assert len(body) == size
    body += writer.failed(path, missing) + writer.end(Totals(2, 1))

    sent, reader = read(body)

    assert (sent[0].path, sent[0].value, sent[0].refusal) == (path, value, None)
    assert (sent[1].path, type(sent[1].refusal)) == (path, BadRequest)
    assert reader.ended


def test_lines_say_what_single_answers_say() -> None:
    unknown = Failure(503, "quorum_unavailable", 'a "quoted" reason', True, Outcome.UNKNOWN)

    for sent in (Sent('a "b"', b""), Sent("", b"", plain=b"a/b")):
        assert json.loads(stored_line(sent, Written(1, 2, 2, 3))) == {
            "path": sent.path,
            "status": 200,
            "etag": "0000000000000001-0000000000000002",
            "durable": "2/3",
        }
    assert json.loads(failed_line("\ud800\\", unknown, of_write=True)) == {
        "path": "?\\",
        "status": 503,
        "error": "quorum_unavailable",
        "message": 'a "quoted" reason',
        "retry_after": 1,
        "outcome": "unknown",
    }
    assert b"outcome" not in failed_line("a", unknown, of_write=False)


def test_a_line_stays_a_line_whatever_path_it_is_about() -> None:
    line = failed_line("\x01" * 60_000, Failure(400, "bad_path", "too long", False, Outcome.NOT_APPLIED), of_write=True)

    assert len(line) <= LINE_BYTES_MAX
    assert json.loads(line)["path"] == "\x01" * 300 + "…"


@pytest.mark.parametrize("version", [0, 1 << 60])
def test_the_line_of_a_plain_path_is_that_of_any_path(version: int) -> None:
    record = Record(b"abc", 3, version=version, checksum=9)

    assert found_line(b"a/b.c", record).replace(b"a/b.c", "a/ü".encode()) == found_line("a/ü".encode(), record)
    for copies in (0, 3):
        written = Written(version, 9, 2 if copies else 0, copies)
        assert stored_line(Sent("", b"abc", plain=b"a/b.c"), written) == stored_line(Sent("a/b.c", b"abc"), written)


_LINES = st.builds(
    lambda open_, path, middle, size, close: open_ + path + middle + size + close,
    st.sampled_from([b'{"path": "', b'{"path":"', b'{"path" : "', b'{"path": ']),
    st.one_of(
        st.text("ab./-_", max_size=6).map(str.encode),
        st.sampled_from([b"a" * size for size in (249, 250, 251)]),
        st.text(max_size=12).map(lambda text: text.encode("utf-8", "replace")),
        st.binary(max_size=8),
    ),
    st.sampled_from(
        [b'", "size": ', b'","size":', b'", "size":  ', b'", "end": true, "size": ', b'", "path": "b", "size": ']
    ),
    st.sampled_from([b"0", b"3", b"03", b"-1", b"3.0", b"1e1", b"12345678901", b"true", b""]),
    st.sampled_from([b"}\n", b"} \n", b', "more": 1}\n', b"\n", b"}"]),
)


@given(line=_LINES)
def test_a_plain_line_says_what_json_says(line: bytes) -> None:
    def told(body: bytes) -> object:
        try:
            sent, reader = read(body)
        except BadRequest as error:
            return str(error)
        return [(one.path, one.value, str(one.refusal)) for one in sent], reader.ended, reader.unfinished

    assert told(line + b"abc\n") == told(b" " + line + b"abc\n")  # with a blank before it, it is read by json
