"""A backup's folder: what is saved comes back, an older run stays usable whatever happens to a later one."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfss.backup import archive as archive_module
from sfss.backup.archive import Archive
from sfss.backup.folder import BackupFolder, refusals
from sfss.backup.manifest import Manifest, Row
from sfss.backup.segments import read_bytes, segment_path
from sfss.backup.verifying import text_of, verify
from sfss.errors import SetupError
from sfss.stamps import COUNT_BITS
from sfss.store import Record, checksum_of

WHEN = "2026-01-01T00:00:00Z"
CLUSTER = "11" * 16


def record_of(key: bytes, value: bytes, flags: int = 0, expires: int = 0, version: int = 1_700_000_000_000) -> Record:
    version <<= COUNT_BITS
    return Record(
        value, len(value), flags, expires, version, checksum_of(key, value, flags, expires, version, tombstone=False)
    )


def save(folder: BackupFolder, files: dict[bytes, Record], *, gone: tuple[bytes, ...] = (), **options: Any) -> int:
    """A whole run; returns its number."""
    with closing(folder.begin(CLUSTER, WHEN)) as manifest:
        archive = Archive(folder, manifest, **options)
        for key, record in files.items():
            archive.save(key, record)
        for key in gone:
            manifest.drop(key)
        archive.close()
        return folder.end(manifest, WHEN).number


def content(folder: BackupFolder, number: int | None = None) -> dict[bytes, tuple[bytes, Row]]:
    """What a run holds."""
    found = {}
    with closing(folder.open_run(number)) as manifest:
        for row in manifest.all_files():
            fd = os.open(segment_path(folder.segments, row.segment), os.O_RDONLY)
            found[row.key] = (read_bytes(fd, row.offset, row.size), row)
            os.close(fd)
    return found


def verified(folder: BackupFolder, number: int | None = None) -> list[str]:
    """What is found to be damaged."""
    said: list[str] = []
    with closing(folder.open_run(number)) as manifest:
        assert verify(manifest, folder.segments, said.append) == len(said)
    return said


def files_of(*names: str, size: int = 100, version: int = 1_700_000_000_000) -> dict[bytes, Record]:
    return {
        name.encode(): record_of(name.encode(), random.Random(name).randbytes(size), version=version) for name in names
    }


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    with closing(BackupFolder(tmp_path / "backup", write=True)) as folder:
        yield folder


KEYS = st.binary(min_size=1, max_size=250).map(lambda raw: bytes(byte or 1 for byte in raw.translate(None, bytes(33))))
EXPIRES = st.integers(0, (1 << 32) - 1)


@settings(max_examples=25)  # each is several fsyncs
@given(
    st.dictionaries(
        KEYS.filter(lambda key: bool(key) and b"\x7f" not in key),
        st.tuples(st.binary(max_size=3000), st.integers(0, (1 << 32) - 1), EXPIRES, st.integers(1, 1 << 46)),
        max_size=12,
    )
)
def test_what_is_saved_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, files: dict[bytes, Any]) -> None:
    path = tmp_path_factory.mktemp("backup")
    saved = {key: record_of(key, *fields) for key, fields in files.items()}
    with closing(BackupFolder(path / "b", write=True)) as folder:
        save(folder, saved, segment_bytes=8000)

        assert {key: (value, row.flags, row.expires, row.order()) for key, (value, row) in content(folder).items()} == {
            key: (record.value, record.flags, record.expires, record.order()) for key, record in saved.items()
        }
        assert verified(folder) == []
    shutil.rmtree(path)


def test_tar_reads_what_is_saved(folder: BackupFolder, tmp_path: Path) -> None:
    saved = files_of("plain", "a/b/c.txt", "文件/名.jpg", "per%20cent", "x" * 250) | files_of("empty", size=0)
    save(folder, saved)

    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    done = subprocess.run(
        ["tar", "-xf", segment_path(folder.segments, 1), "-C", unpacked], capture_output=True, text=True, timeout=30
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for key, record in saved.items():
        assert (unpacked / key.decode()).read_bytes() == record.value


def test_unpacking_never_leaves_the_folder(folder: BackupFolder) -> None:
    save(folder, {key: record_of(key, b"x") for key in (b"../etc/passwd", b"/etc/passwd", b"a/../../b", b"\xff/..")})

    with tarfile.open(segment_path(folder.segments, 1)) as archive:
        names = archive.getnames()

    assert len(names) == 4
    assert all(name.startswith("unsafe/") and ".." not in name for name in names)


def test_a_second_run_appends_only_what_is_new(folder: BackupFolder) -> None:
    first = files_of("a", "b", "c", size=50_000)
    save(folder, first)
    size_before = segment_path(folder.segments, 1).stat().st_size
    newer = files_of("b", version=1_700_000_000_001)

    save(folder, newer, gone=(b"c",))

    assert {key: value for key, (value, _) in content(folder).items()} == {
        b"a": first[b"a"].value,
        b"b": newer[b"b"].value,
    }
    assert {key: value for key, (value, _) in content(folder, 1).items()} == {
        key: record.value for key, record in first.items()
    }
    assert segment_path(folder.segments, 1).stat().st_size == size_before
    assert segment_path(folder.segments, 2).stat().st_size < 5000
    assert verified(folder) == verified(folder, 1) == []


def test_segments_have_a_size(folder: BackupFolder) -> None:
    save(folder, files_of(*map(str, range(40)), size=10_000), segment_bytes=64 * 1024)

    sizes = [path.stat().st_size for path in sorted(folder.segments.iterdir())]

    assert len(sizes) >= 5
    assert max(sizes) < 64 * 1024 + 16 * 1024
    assert verified(folder) == []


class Crash(BaseException):
    """The power goes."""


STEPS = ["append", "sync", "commit", "rename"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("count", range(3))
def test_a_crash_at_any_step_leaves_the_last_run_and_the_next_one_goes_on(
    folder: BackupFolder, monkeypatch: pytest.MonkeyPatch, step: str, count: int
) -> None:
    """What was committed before the crash is there for the next run; what wasn't is gone without a trace."""
    first = files_of("a", "b")
    save(folder, first)
    after = files_of(*map(str, range(9)), size=3000) | files_of("b", version=1_700_000_000_001)
    left = count

    def crashing(real: Any) -> Any:
        def maybe(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return real(*arguments, **named)

        return maybe

    with monkeypatch.context() as patch:
        if step == "append":
            patch.setattr(archive_module.SegmentWriter, "append", crashing(archive_module.SegmentWriter.append))
        elif step == "sync":
            patch.setattr(archive_module.SegmentWriter, "sync", crashing(archive_module.SegmentWriter.sync))
        elif step == "commit":
            patch.setattr(Manifest, "commit", crashing(Manifest.commit))
        else:
            patch.setattr(Path, "replace", crashing(Path.replace))
        try:
            save(folder, after, segment_bytes=8000)
        except Crash:
            pass
        else:
            assert step == "rename"
            assert count == 2  # a run has only two

    if folder.runs() == [1]:
        assert {key: value for key, (value, _) in content(folder).items()} == {
            key: record.value for key, record in first.items()
        }
        assert verified(folder) == []
    # The crashed process is gone, and with it what it had not committed.
    folder.close()
    with closing(BackupFolder(folder.path, write=True)) as again:
        manifest = again.begin(CLUSTER, WHEN)
        known = {row.key: row.order() for row in manifest.all_files()}
        assert all(
            order in {first[key].order() if key in first else None, after[key].order() if key in after else None}
            for key, order in known.items()
        )
        archive = Archive(again, manifest)
        for key, record in after.items():
            if known.get(key) != record.order():
                archive.save(key, record)
        archive.close()
        again.end(manifest, WHEN)

        assert {key: value for key, (value, _) in content(again).items()} == {
            key: record.value for key, record in (first | after).items()
        }
        assert verified(again) == []


def test_bytes_behind_the_last_commit_are_cut_off(folder: BackupFolder) -> None:
    save(folder, files_of("a"))
    manifest = folder.begin(CLUSTER, WHEN)
    archive = Archive(folder, manifest)
    archive.save(b"b", files_of("b")[b"b"])
    archive.commit()
    archive.save(b"c", files_of("c")[b"c"])
    manifest.close()  # as a killed process leaves it

    resumed = folder.begin(CLUSTER, WHEN)

    assert [row.key for row in resumed.all_files()] == [b"a", b"b"]
    with tarfile.open(segment_path(folder.segments, 2)) as tar:
        assert tar.getnames() == ["b"]
    folder.end(resumed, WHEN)
    assert verified(folder) == []


def test_a_full_disk_ends_the_run_and_keeps_what_was_committed(
    folder: BackupFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = folder.begin(CLUSTER, WHEN)
    archive = Archive(folder, manifest)
    archive.save(b"a", files_of("a")[b"a"])
    archive.commit()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(SetupError, match=r"no room left in .*; free some and run it again"), refusals(folder.path):
            archive.save(b"b", files_of("b")[b"b"])
        archive.close()
    manifest.close()

    assert [row.key for row in folder.begin(CLUSTER, WHEN).all_files()] == [b"a"]


def test_each_flipped_bit_is_found(folder: BackupFolder, rng: random.Random) -> None:
    saved = files_of("a", "b/c", "d", size=700)
    save(folder, saved)
    path = segment_path(folder.segments, 1)
    whole = path.read_bytes()
    end = max(row.offset + row.size for _, row in content(folder).values())

    for row in [row for _, row in content(folder).values()]:
        for _ in range(20):
            at = rng.randrange(row.offset, row.offset + row.size)
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
            assert any(line.startswith(f"{row.key.decode()}: ") for line in verified(folder))
    for at in rng.sample(range(0, end, 512), 3):  # a header, or a file
        path.write_bytes(whole[:at] + bytes(512) + whole[at + 512 :])
        assert verified(folder)
    path.write_bytes(whole)
    assert verified(folder) == []


def test_a_missing_segment_and_a_short_one_are_found(folder: BackupFolder) -> None:
    save(folder, files_of("a", "b", size=2000))
    path = segment_path(folder.segments, 1)

    path.write_bytes(path.read_bytes()[:3000])
    short = verified(folder)
    path.unlink()
    missing = verified(folder)

    assert any("a: " in line or "b: " in line for line in short)
    assert any("2 files are in it" in line for line in missing)


def test_keep_removes_old_runs_and_only_the_segments_that_nobody_needs(folder: BackupFolder) -> None:
    save(folder, files_of("stays", "changes"))
    save(folder, files_of("changes", version=1_700_000_000_001))
    save(folder, files_of("changes", version=1_700_000_000_002))
    save(folder, files_of("changes", version=1_700_000_000_003))

    assert folder.keep(2) == (2, 1)

    assert folder.runs() == [3, 4]
    assert sorted(path.name for path in folder.segments.iterdir()) == ["000001.tar", "000003.tar", "000004.tar"]
    assert verified(folder, 3) == verified(folder, 4) == []
    save(folder, files_of("new"))
    assert verified(folder) == []
    assert segment_path(folder.segments, 5).exists()


def test_two_at_a_time_are_refused(folder: BackupFolder) -> None:
    with pytest.raises(SetupError, match="is in use by another backup or restore"):
        BackupFolder(folder.path, write=True)
    with pytest.raises(SetupError, match="is in use by another backup or restore"):
        BackupFolder(folder.path, write=False)


def test_readers_share(folder: BackupFolder) -> None:
    folder.close()
    with (
        closing(BackupFolder(folder.path, write=False)),
        closing(BackupFolder(folder.path, write=False)),
        pytest.raises(SetupError, match="is in use"),
    ):
        BackupFolder(folder.path, write=True)


def test_another_clusters_folder_is_refused(folder: BackupFolder) -> None:
    save(folder, files_of("a"))

    with pytest.raises(SetupError, match=f"is a backup of cluster {CLUSTER}, these nodes are cluster other"):
        folder.begin("other", WHEN)

    assert folder.runs() == [1]
    assert save(folder, files_of("b")) == 2


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")

    with pytest.raises(SetupError, match=r"holds files that are no backup \(thesis.tex\)"):
        BackupFolder(tmp_path, write=True)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_without_a_backup_is_told(tmp_path: Path, folder: BackupFolder) -> None:
    with pytest.raises(SetupError, match="holds no backup"):
        BackupFolder(tmp_path / "nothing", write=False)
    with pytest.raises(SetupError, match="has no complete run"):
        folder.open_run()
    save(folder, files_of("a"))
    with pytest.raises(SetupError, match="has no run 7; it has 1"):
        folder.open_run(7)


def test_a_newer_format_and_a_damaged_manifest_are_refused(folder: BackupFolder) -> None:
    save(folder, files_of("a"))
    path = folder.path / "run-000001.sqlite"
    with closing(Manifest(path, write=True)) as manifest:
        manifest._database.execute("UPDATE meta SET value = 99 WHERE name = 'format'")
        manifest._database.commit()

    with pytest.raises(SetupError, match="was written by a newer sfss"):
        folder.open_run()
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(SetupError, match="can't be used as a manifest"):
        folder.open_run()


def test_a_key_cannot_speak_to_the_terminal() -> None:
    assert text_of("名\x9b31m\u2028".encode() + b"\xff") == "名\\x9b31m\\u2028\\xff"


def test_what_a_manifest_lost_is_found(folder: BackupFolder) -> None:
    save(folder, files_of("a", "b"))
    with closing(Manifest(folder.path / "run-000001.sqlite", write=True)) as manifest:
        manifest.drop(b"a")
        manifest.commit({})

    assert any("which isn't what the run had" in line for line in verified(folder))
