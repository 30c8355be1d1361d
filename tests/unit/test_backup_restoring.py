"""What a restore writes: every whole file with its flags and expiry, and nothing over what is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from backup_lab import Lab, LabStore, record_of

from sfss.backup.errors import BackupFailed
from sfss.backup.folder import BackupFolder
from sfss.backup.restoring import Restored, Restoring
from sfss.backup.segments import segment_path
from sfss.errors import Outcome, OutOfDisk, QuorumUnavailable, TooLarge
from sfss.pace import Pace
from sfss.store import Written

NOW = 1_800_000_000


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[BackupFolder]:
    """Has a run of a few files."""
    lab = Lab()
    lab.write(b"plain", b"plain bytes")
    lab.write(b"empty", b"")
    lab.write(b"flags", b"x", flags=7)
    lab.write(b"expires", b"x", expires=NOW + 60)
    lab.write(b"expired", b"x", expires=NOW - 60)
    lab.write(b"large", b"x" * 2 * 1024 * 1024)
    with closing(BackupFolder(tmp_path / "backup", write=True)) as folder:
        await lab.back_up(folder)
        yield folder


async def restored(folder: BackupFolder, store: Any, said: list[str] | None = None, **options: Any) -> Restored:
    async def nap(_: float) -> None:
        return None

    with closing(folder.open_run()) as manifest:
        restoring = Restoring(
            manifest,
            folder.segments,
            store,
            jobs=3,
            pace=Pace(0),
            say=(said if said is not None else []).append,
            now=lambda: NOW,
            sleep=nap,
            **options,
        )
        await restoring.run()
        return restoring.progress


async def test_all_that_lives_comes_back_with_flags_and_expiry(folder: BackupFolder) -> None:
    store = LabStore()

    progress = await restored(folder, store, verify=True)

    assert {key: (record.value, record.flags, record.expires) for key, record in store.files.items()} == {
        b"plain": (b"plain bytes", 0, 0),
        b"empty": (b"", 0, 0),
        b"flags": (b"x", 7, 0),
        b"expires": (b"x", 0, NOW + 60),
        b"large": (b"x" * 2 * 1024 * 1024, 0, 0),
    }
    assert (progress.written, progress.expired, progress.failed) == (5, 1, 0)


async def test_what_is_there_stays_as_it_is(folder: BackupFolder) -> None:
    store = LabStore()
    store.files[b"plain"] = record_of(b"plain", b"of the target")

    progress = await restored(folder, store, only_absent=True)

    assert store.files[b"plain"].value == b"of the target"
    assert b"plain" not in store.writes
    assert (progress.written, progress.there) == (4, 1)


async def test_a_damaged_file_is_named_and_never_written(folder: BackupFolder) -> None:
    path = segment_path(folder.segments, 1)
    path.write_bytes(path.read_bytes().replace(b"plain bytes", b"plain lies."))
    store, said = LabStore(), list[str]()

    progress = await restored(folder, store, said)

    assert b"plain" not in store.files
    assert (progress.written, progress.failed) == (4, 1)
    assert said == ["plain: the saved bytes fail their checksum"]


async def test_a_lost_segment_is_named_for_each_of_its_files(folder: BackupFolder) -> None:
    segment_path(folder.segments, 1).unlink()
    said: list[str] = []

    progress = await restored(folder, LabStore(), said)

    assert (progress.written, progress.failed) == (0, 5)
    assert all("its segment 1 can't be read: No such file or directory" in line for line in said)


async def test_a_write_of_unknown_outcome_is_repeated(folder: BackupFolder) -> None:
    store = LabStore()
    store.errors[b"plain"] = [QuorumUnavailable("1 of 2", Outcome.UNKNOWN)]

    progress = await restored(folder, store)

    assert store.writes.count(b"plain") == 2
    assert progress.failed == 0


async def test_what_the_target_refuses_is_named(folder: BackupFolder) -> None:
    store, said = LabStore(), list[str]()
    store.errors[b"large"] = [TooLarge("object too large for cache")]

    progress = await restored(folder, store, said)

    assert (progress.written, progress.failed) == (4, 1)
    assert said == ["large: object too large for cache"]


async def test_a_full_cluster_ends_the_restore(folder: BackupFolder) -> None:
    store = LabStore()
    store.errors[b"plain"] = [OutOfDisk("2 of 3 nodes")]

    with pytest.raises(BackupFailed, match=r"no room \(2 of 3 nodes\).*--into-existing"):
        await restored(folder, store)


@pytest.mark.parametrize("lie", ["other bytes", "other flags", "other expiry", "nothing"])
async def test_reading_back_finds_what_was_not_kept(folder: BackupFolder, lie: str) -> None:
    class Liar(LabStore):
        def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, *rest: Any) -> Written:
            done = super().set(key, value, flags, expires)
            if key == b"plain" and lie == "nothing":
                del self.files[key]
            elif key == b"plain":
                self.files[key] = record_of(
                    key,
                    b"plain lies." if lie == "other bytes" else value,
                    flags=lie == "other flags",
                    expires=NOW + 60 if lie == "other expiry" else 0,
                )
            return done

    said: list[str] = []

    progress = await restored(folder, Liar(), said, verify=True)

    assert progress.failed == 1
    assert said[0].startswith("plain: ")
