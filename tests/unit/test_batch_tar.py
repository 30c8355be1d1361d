"""Tar archives as batches: what tar and Python write is read, split anywhere, and what is written they can unpack."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfss.errors import BadRequest, Outcome, TooLarge
from sfss.store import Record
from sfss.web.batches.items import Sent, Totals
from sfss.web.batches.tar import TarReader, TarWriter
from sfss.web.errors import Failure

FILE_BYTES_MAX = 5000
names = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\"), min_size=1, max_size=130)
FORMATS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)

needs_tar = pytest.mark.skipif(shutil.which("tar") is None, reason="tar is not installed")


def archive(*stored: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, value in stored:
            info = tarfile.TarInfo(name)
            info.size = len(value)
            tar.addfile(info, io.BytesIO(value))
    return out.getvalue()


def read(*pieces: bytes) -> tuple[list[Sent], TarReader]:
    reader = TarReader(FILE_BYTES_MAX)
    read: list[Sent] = []
    for piece in pieces:
        reader.feed(piece)
        while (sent := reader.next()) is not None:
            read.append(sent)
    return read, reader


@given(
    st.lists(st.tuples(names, st.binary(max_size=1100)), max_size=3),
    st.sampled_from(FORMATS),
    st.lists(st.integers(0, 12_000), max_size=6),
)
@settings(max_examples=60)
def test_files_come_out_as_they_went_in_wherever_the_tar_is_split(
    stored: list[tuple[str, bytes]], form: int, cuts: list[int]
) -> None:
    body = archive(*stored, form=form)
    edges = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]

    sent, reader = read(*(body[start:end] for start, end in itertools.pairwise(edges) if start < end))

    assert [(one.path, one.value, one.refusal) for one in sent] == [
        (name.removeprefix("./"), value, None) for name, value in stored
    ]
    assert reader.ended


def test_a_tar_comes_out_whole_byte_by_byte() -> None:
    body = archive(("x" * 300, b"1"), ("b", bytes(513)))

    sent, reader = read(*(body[at : at + 1] for at in range(len(body))))

    assert [(one.path, len(one.value)) for one in sent] == [("x" * 300, 1), ("b", 513)]
    assert reader.ended


@pytest.mark.parametrize("form", FORMATS)
def test_a_tar_that_is_cut_has_no_end_and_no_file_that_was_not_whole(form: int) -> None:
    stored = [("a", b"1" * 700), ("b" * 200, b"2" * 10)]
    body = archive(*stored, form=form).rstrip(b"\0")

    for cut in range(1, len(body), 37):
        sent, reader = read(body[:cut])

        assert not reader.ended
        assert [(one.path, one.value) for one in sent] == stored[: len(sent)]


@given(st.lists(st.binary(max_size=600), max_size=4))
def test_any_bytes_are_read_or_refused(pieces: list[bytes]) -> None:
    with contextlib.suppress(BadRequest):
        read(*filter(None, pieces))


@given(st.integers(0, 2047), st.integers(0, 255))
def test_a_damaged_head_is_read_or_refused(at: int, byte: int) -> None:
    body = bytearray(archive(("x" * 200, b"12"), form=tarfile.PAX_FORMAT))
    body[at] = byte
    with contextlib.suppress(BadRequest):
        read(bytes(body))


@needs_tar
def test_what_tar_makes_of_a_folder_is_its_files(tmp_path: Path) -> None:
    (tmp_path / "ä b").mkdir()
    (tmp_path / "ä b" / ("l" * 120)).write_bytes(b"one")
    (tmp_path / "two").write_bytes(b"")
    (tmp_path / "link").symlink_to("two")
    (tmp_path / "zwei").hardlink_to(tmp_path / "two")
    body = subprocess.run(["tar", "c", "--sort=name", "."], cwd=tmp_path, capture_output=True, check=True).stdout

    sent, reader = read(body)

    told = {one.path: (one.value, str(one.refusal or "")) for one in sent}
    assert told.pop(f"ä b/{'l' * 120}") == (b"one", "")
    assert told.pop("link") == (b"", "it is a symbolic link; only files are stored")
    assert sorted(told.values()) == [(b"", ""), (b"", "it is a hard link; only files are stored")]
    assert reader.ended


@pytest.mark.parametrize("form", FORMATS)
def test_a_long_name_behind_a_refused_member_is_kept_whole(form: int) -> None:
    link = tarfile.TarInfo("link")
    link.type = tarfile.SYMTYPE
    name = "d/" + "n" * 150 + "é"

    sent, reader = read(link.tobuf() + archive((name, b"abc"), form=form))

    assert [(one.path, one.value) for one in sent] == [("link", b""), (name, b"abc")]
    assert reader.ended


@needs_tar
def test_times_in_an_incremental_archive_are_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"abc")
    made = subprocess.run(
        ["tar", "--format=gnu", f"--listed-incremental={tmp_path / 'snar'}", "-C", tmp_path, "-c", "in"],
        check=True,
        capture_output=True,
    ).stdout

    sent, reader = read(made)

    assert [(one.path, one.value) for one in sent if one.refusal is None] == [("in/a", b"abc")]
    assert reader.ended


def test_a_header_of_less_than_no_bytes_is_refused() -> None:
    head = tarfile.TarInfo("x")
    head.type = tarfile.XHDTYPE
    head.size = -700

    with pytest.raises(BadRequest, match="-700 bytes"):
        read(head.tobuf(tarfile.GNU_FORMAT) + bytes(600))


def test_a_large_file_spoils_only_itself() -> None:
    sent, reader = read(archive(("large", bytes(FILE_BYTES_MAX + 1)), ("good", b".")))

    assert [(one.path, one.value, type(one.refusal)) for one in sent] == [
        ("large", b"", TooLarge),
        ("good", b".", type(None)),
    ]
    assert reader.ended


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\x1f\x8b" + bytes(range(256)) * 4, "compressed"),
        (b'{"path": "a", "size": 0}\n' + b"." * 600, "Content-Type"),
        (archive(("a", b"")) + archive(("b", b"")), "joined"),
    ],
)
def test_what_is_no_tar_is_refused_with_what_to_do(body: bytes, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        read(body)


def answer() -> bytes:
    writer = TarWriter()
    missing = Failure(404, "not_found", "there is no file ü/c", False, Outcome.NOT_APPLIED)
    value = b"bytes of it"
    parts: list[bytes] = []
    record = Record(value, len(value), version=1_700_000_000_000 << 22, checksum=9)
    size = writer.found(("ü/" + "l" * 150).encode(), False, record, parts)
    assert size == sum(map(len, parts))
    return b"".join(parts) + writer.failed("ü/c", missing) + writer.end(Totals(2, 1))


def test_an_answer_tells_programs_of_every_file() -> None:
    with tarfile.open(fileobj=io.BytesIO(answer())) as tar:
        comments = [json.loads(member.pax_headers["comment"]) for member in tar]

    assert [(told["path"], told["status"]) for told in comments] == [("ü/" + "l" * 150, 200), ("ü/c", 404)]


@needs_tar
def test_tar_unpacks_an_answer_and_fails_for_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(["tar", "x"], cwd=tmp_path, input=answer(), capture_output=True, check=False)

    assert (tmp_path / "ü" / ("l" * 150)).read_bytes() == b"bytes of it"
    assert [path.name for path in (tmp_path / "ü").iterdir()] == ["l" * 150]
    assert done.returncode == 2
    assert b"404 not_found" in done.stderr


@needs_tar
def test_no_stored_file_passes_for_one_that_is_missing(tmp_path: Path) -> None:
    writer = TarWriter()
    parts: list[bytes] = []
    writer.found(b"404 not_found", False, Record(b"1", 1, version=1_700_000_000_000 << 22, checksum=9), parts)
    failure = Failure(404, "not_found", "there is no file c", False, Outcome.NOT_APPLIED)
    given = b"".join(parts) + writer.failed("c", failure) + writer.end(Totals(2, 1))

    done = subprocess.run(["tar", "x"], cwd=tmp_path, input=given, capture_output=True, check=False)

    assert [path.name for path in tmp_path.iterdir()] == ["404 not_found"]
    assert done.returncode == 2
    with tarfile.open(fileobj=io.BytesIO(given)) as tar, pytest.raises(KeyError):
        tar.extractfile("c")


def test_an_answer_can_be_sent_to_put_as_it_is() -> None:
    sent, reader = read(answer())

    assert [(one.value, type(one.refusal)) for one in sent] == [(b"bytes of it", type(None)), (b"", BadRequest)]
    assert reader.ended
