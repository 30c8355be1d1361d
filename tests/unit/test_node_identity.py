"""The data directory: whose it is, one process at a time, and nothing half written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodes.identity import DataDirectory, NodeState
from sfss.errors import SetupError


@pytest.fixture
def directory(tmp_path):
    data = DataDirectory.open(tmp_path / "node")
    yield data
    data.close()


def test_a_new_directory_gets_a_node_id_that_stays(tmp_path):
    data = DataDirectory.open(tmp_path / "node")
    node = data.load().node
    data.close()

    again = DataDirectory.open(tmp_path / "node")

    assert again.load().node == node
    assert len(bytes.fromhex(node)) == 16
    again.close()


def test_a_new_directory_lasts_through_a_power_cut_with_all_folders_above_it(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink()))

    data = DataDirectory.open(tmp_path / "new" / "newer" / "node")
    data.close()

    for folder in ("", "new", "new/newer", "new/newer/node"):
        assert tmp_path / folder in synced


def test_what_was_saved_is_loaded(directory):
    state = NodeState(
        "ab" * 16, "cluster", 3, "print", 9, 1 << 50, 1 << 60, "a disk was lost", False, "cd" * 16, ("w1", "w2"), 8
    )

    directory.save(state)

    assert directory.load() == state


def test_a_second_user_of_a_directory_is_refused(directory):
    with pytest.raises(SetupError, match="in use by another process"):
        DataDirectory.open(directory.path)


@pytest.mark.parametrize("at", range(0, 240, 3))
def test_any_flipped_bit_of_the_identity_is_refused(directory, at):
    path = directory.path / "identity"
    content = bytearray(path.read_bytes())
    if at >= len(content) - 1:
        return
    content[at] ^= 0x04
    path.write_bytes(content)

    with pytest.raises(SetupError) as refused:
        directory.load()

    assert "\n" not in str(refused.value)


def test_a_newer_format_is_refused_in_one_line(directory):
    path = directory.path / "identity"
    path.write_bytes(path.read_bytes().replace(b"directory 1", b"directory 2"))

    with pytest.raises(SetupError, match="format 2, which is newer than this program"):
        directory.load()


def test_the_other_byte_order_is_refused(directory):
    path = directory.path / "identity"
    path.write_bytes(path.read_bytes().replace(b"little", b"big"))

    with pytest.raises(SetupError, match="byte order"):
        directory.load()


def test_a_folder_with_other_things_in_it_is_not_taken_over(tmp_path):
    (tmp_path / "letters").mkdir()

    with pytest.raises(SetupError, match="holds letters"):
        DataDirectory.open(tmp_path)


def test_volumes_without_an_identity_are_not_given_a_new_one(directory):
    directory.close()
    (directory.volumes / "0000000001.volume").write_bytes(b"precious")
    (directory.path / "identity").unlink()

    with pytest.raises(SetupError, match="put that file back"):
        DataDirectory.open(directory.path)

    directory._lock_fd = os.open(directory.path / "lock", os.O_RDWR)


def test_a_tool_does_not_make_a_directory(tmp_path):
    with pytest.raises(SetupError, match="not the data directory"):
        DataDirectory.open(tmp_path / "nowhere", create=False)

    assert not (tmp_path / "nowhere").exists()


def test_a_start_that_was_cut_short_before_there_was_an_identity_can_be_repeated(tmp_path):
    home = tmp_path / "node"
    (home / "volumes").mkdir(parents=True)
    (home / "identity.new").write_bytes(b"half")

    data = DataDirectory.open(home)

    assert data.load().epoch == 0
    data.close()
