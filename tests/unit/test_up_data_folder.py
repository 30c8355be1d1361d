"""The folder of a local cluster: founding, locking, refusals."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfss.commands.data_folder import DataFolder, Founding
from sfss.errors import SetupError

DEFAULT = Founding(nodes=3, node_port=7900)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    folder = DataFolder(tmp_path / "data")
    yield folder
    folder.close()


def test_a_new_folder_takes_what_is_asked_for_or_the_default(folder: DataFolder) -> None:
    assert folder.founding(None, None, DEFAULT) == DEFAULT
    assert folder.founding(5, None, DEFAULT) == Founding(nodes=5, node_port=7900)


def test_a_founded_folder_needs_nothing_said_again(folder: DataFolder) -> None:
    folder.found(Founding(nodes=5, node_port=7000))

    assert folder.founding(None, None, DEFAULT) == Founding(nodes=5, node_port=7000)
    assert folder.founding(5, 7000, DEFAULT) == Founding(nodes=5, node_port=7000)


@pytest.mark.parametrize(
    ("nodes", "node_port", "words"),
    [
        (None, 7900, "start with --node-port 7000"),
        (6, 7900, "start with --node-port 7000"),
    ],
)
def test_another_ring_over_existing_files_is_refused(
    folder: DataFolder, nodes: int | None, node_port: int | None, words: str
) -> None:
    folder.found(Founding(nodes=5, node_port=7000))

    with pytest.raises(SetupError, match=words):
        folder.founding(nodes, node_port, DEFAULT)


def test_a_refused_start_founds_nothing(folder: DataFolder) -> None:
    folder.founding(5, None, DEFAULT)

    assert folder.founding(2, None, DEFAULT).nodes == 2


def test_a_folder_that_is_to_grow_remembers_what_it_was_founded_with_and_who_is_still_to_join(
    folder: DataFolder,
) -> None:
    folder.found(Founding(nodes=1, node_port=7000))

    growing = folder.founding(3, None, DEFAULT)
    folder.found(growing)

    assert (growing.nodes, growing.founders, growing.joining) == (3, range(1), range(1, 3))
    assert folder.founding(None, None, DEFAULT) == growing
    assert folder.founding(4, None, DEFAULT).joining == range(1, 4)


def test_a_folder_that_has_grown_can_grow_again(folder: DataFolder) -> None:
    folder.found(Founding(nodes=1, node_port=7000).with_nodes(3).grown())

    kept = folder.founding(None, None, DEFAULT)
    growing = folder.founding(4, None, DEFAULT)

    assert (kept.nodes, kept.founders, list(kept.joining)) == (3, range(1), [])
    assert (growing.nodes, growing.founders, growing.joining) == (4, range(1), range(3, 4))


def test_a_folder_whose_growth_is_given_up_has_as_many_nodes_as_before_and_can_grow_again(folder: DataFolder) -> None:
    growing = Founding(nodes=1, node_port=7000).with_nodes(3)

    folder.found(growing.given_up())

    kept = folder.founding(None, None, DEFAULT)
    assert (kept.nodes, kept.founders, list(kept.joining)) == (1, range(1), [])
    assert folder.founding(3, None, DEFAULT) == growing
    assert growing.grown().given_up() == growing.grown()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1, "nodes": null, "node_port": 1}', "\0"])
def test_a_damaged_founding_is_refused_in_one_line(folder: DataFolder, text: str) -> None:
    (folder.path / "cluster.json").write_text(text)

    with pytest.raises(SetupError, match=r"cluster\.json is damaged"):
        folder.founding(None, None, DEFAULT)


def test_a_newer_format_is_refused(folder: DataFolder) -> None:
    (folder.path / "cluster.json").write_text('{"format": 3, "clusters": []}')

    with pytest.raises(SetupError, match="newer sfss"):
        folder.founding(None, None, DEFAULT)


def test_a_second_user_is_refused_and_told_the_first_ones_process_id(folder: DataFolder) -> None:
    with pytest.raises(SetupError, match=rf"in use by `sfss up` with process id {os.getpid()}; .*--data"):
        DataFolder(folder.path)


def test_a_folder_that_was_given_back_is_free_and_was_ended_cleanly(folder: DataFolder) -> None:
    folder.close()
    folder.close()

    again = DataFolder(folder.path)

    assert not again.ended_uncleanly
    again.close()


def test_an_unclean_end_is_noticed(folder: DataFolder) -> None:
    folder.close()
    (folder.path / "lock").write_text("12345\n")

    again = DataFolder(folder.path)

    assert again.ended_uncleanly
    again.close()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "no permission to write in"),
        (errno.EROFS, "no permission to write in"),
        (errno.ENOSPC, "no room left in"),
        (errno.ENOTDIR, "can't use"),
    ],
)
def test_a_folder_that_can_not_be_made_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def mkdir(path: Path, **_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)

    with pytest.raises(SetupError, match=f"{words} .*choose another folder with --data"):
        DataFolder(tmp_path / "data")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("identity", "is the data directory of one node"),
        ("node-1", r"has node-1 and no cluster\.json, .*put that back"),
    ],
)
def test_what_belongs_to_a_cluster_already_is_no_place_to_found_one_and_is_left_alone(
    tmp_path: Path, entry: str, words: str
) -> None:
    (tmp_path / entry).mkdir()

    with pytest.raises(SetupError, match=words):
        DataFolder(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [entry]


def test_what_is_only_named_like_a_node_stands_in_no_ones_way(tmp_path: Path) -> None:
    (tmp_path / "node-modules").mkdir()

    DataFolder(tmp_path).close()


def test_a_file_is_refused_as_a_folder_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")

    with pytest.raises(SetupError, match=r"can't use .*: File exists; choose another folder with --data"):
        DataFolder(tmp_path / "data")


def test_files_are_replaced_whole_and_left_alone_when_they_say_the_same(folder: DataFolder) -> None:
    path = folder.write("conf/proxy-0.ini", "one")
    first = path.stat()
    folder.write("conf/proxy-0.ini", "one")
    second = path.stat()
    folder.write("conf/proxy-0.ini", "two")

    assert (first.st_ino, first.st_mtime_ns) == (second.st_ino, second.st_mtime_ns)
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]
