"""Hints on disk: the newest of each node and key, within a limit, whole after every crash."""

import random
import shutil
import sqlite3

import pytest

from proxy.hint_store import HINT_BYTES, Hint, HintStore, Waiting
from sfss.errors import SetupError

ROOM = 1 << 30


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hints"


@pytest.fixture
def store(path):
    store = HintStore(path)
    yield store
    store.close()


def hint(key="k", version=1, *, node="n", checksum=0, since=100.0):
    return Hint(node, key.encode(), version, checksum, since)


def held(store, node="n"):
    return store.after(node, b"", 1000)


def many(count):
    return [hint(f"{number:04}") for number in range(count)]


def test_hints_are_there_after_a_restart(store, path):
    store.put([hint("a"), hint("b", 2, checksum=2**64 - 1)], ROOM)
    store.close()

    again = HintStore(path)

    assert held(again) == [hint("a"), hint("b", 2, checksum=2**64 - 1)]
    assert again.waiting() == {"n": Waiting(2, 2 * HINT_BYTES + 2, 100.0)}
    again.close()


def test_what_was_written_is_in_the_file_when_the_process_dies(store, path, tmp_path):
    store.put([hint("a")], ROOM)
    for name in ("hints", "hints-wal"):  # what kill -9 leaves: nothing is closed
        (tmp_path / f"{name}.dead").write_bytes((tmp_path / name).read_bytes())
    (tmp_path / "hints.dead-wal").write_bytes((tmp_path / "hints-wal").read_bytes())

    survivor = HintStore(tmp_path / "hints.dead")

    assert held(survivor) == [hint("a")]
    survivor.close()


def test_a_process_killed_between_any_two_steps_leaves_what_was_written_and_figures_that_match(store, path, tmp_path):
    rng = random.Random(1)
    for step in range(60):
        some = [
            hint(f"{rng.randrange(40)}", rng.randrange(9), since=rng.randrange(99)) for _ in range(rng.randrange(20))
        ]
        rng.choice(
            [
                lambda some=some: store.put(some, ROOM),
                lambda some=some: store.remove(some),
                lambda: store.take_older(rng.randrange(50), 5),
                lambda: store.take_of("n", 2),
            ]
        )()
        dead = tmp_path / str(step)
        dead.mkdir()
        for file in (path, path.with_name("hints-wal")):
            shutil.copy(file, dead)

        survivor = HintStore(dead / "hints")

        assert held(survivor) == held(store)
        assert survivor.waiting() == store.waiting()
        assert sum(one.number for one in survivor.waiting().values()) == len(held(survivor))
        survivor.close()


def test_a_torn_end_of_what_was_being_written_costs_only_that(store, path, tmp_path):
    store.put([hint("whole")], ROOM)
    whole = path.with_name("hints-wal").stat().st_size
    store.put(many(100), ROOM)
    for cut in range(whole, path.with_name("hints-wal").stat().st_size, 1000):
        dead = tmp_path / str(cut)
        dead.mkdir()
        shutil.copy(path, dead)
        (dead / "hints-wal").write_bytes(path.with_name("hints-wal").read_bytes()[:cut])

        survivor = HintStore(dead / "hints")

        assert held(survivor) == [hint("whole")]
        survivor.close()


def test_every_commit_is_synced(store):
    assert store._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_of_a_key_the_newest_is_kept_and_how_long_something_was_lacking(store):
    store.put([hint(version=5, since=100)], ROOM)
    store.put([hint(version=9, since=200), hint(version=7, since=300)], ROOM)

    assert held(store) == [hint(version=9, since=100)]
    assert store.waiting()["n"].number == 1


def test_equal_versions_are_told_apart_by_the_checksum(store):
    store.put([hint(checksum=2**63), hint(checksum=5)], ROOM)

    assert held(store) == [hint(checksum=2**63)]


def test_a_removal_spares_a_newer_hint_that_came_meanwhile(store):
    store.put([hint("a", 5), hint("b", 5)], ROOM)
    replayed = held(store)
    store.put([hint("a", 6)], ROOM)

    store.remove(replayed)

    assert held(store) == [hint("a", 6)]


def test_removing_twice_changes_nothing(store):
    store.put([hint("a")], ROOM)

    store.remove([hint("a")])
    store.remove([hint("a")])

    assert held(store) == []
    assert store.waiting() == {}


def test_hints_of_one_node_are_not_those_of_another(store):
    store.put([hint("k", 1, node="n1"), hint("k", 2, node="n2")], ROOM)

    store.remove([hint("k", 9, node="n1")])

    assert held(store, "n1") == []
    assert held(store, "n2") == [hint("k", 2, node="n2")]


def test_a_pass_goes_through_all_keys_once_also_while_hints_are_removed(store):
    store.put(many(1000), ROOM)
    seen, key = [], b""

    while batch := store.after("n", key, 64):
        seen += batch
        key = batch[-1].key
        store.remove(batch[::2])

    assert seen == many(1000)
    assert store.waiting()["n"].number == 500


def test_hints_beyond_the_limit_are_handed_back_and_nothing_grows(store):
    kept = store.put(many(10_000), 100_000)
    again = store.put([hint("one more")], 100_000)

    assert 0 < kept < 10_000
    assert again == 0
    assert store.waiting()["n"].size < 100_000 + 250 * (HINT_BYTES + 4)
    assert store.waiting()["n"].number == kept == len(store.after("n", b"", 10_000))


def test_room_that_became_free_is_used_again(store):
    store.put(many(2000), 100_000)
    store.remove(held(store))

    assert store.put([hint("later")], 100_000) == 1


def test_old_hints_are_taken_out_and_the_oldest_is_then_the_next(store):
    store.put([hint("a", since=1), hint("b", since=2), hint("c", since=3, node="m")], ROOM)

    assert store.take_older(2.5, 1) in ([b"a"], [b"b"])
    assert store.take_older(2.5, 10) in ([b"a"], [b"b"])
    assert store.take_older(2.5, 10) == []
    assert store.waiting() == {"m": Waiting(1, HINT_BYTES + 1, 3.0)}


def test_the_oldest_is_right_after_the_old_ones_went(store):
    store.put([hint("a", since=1), hint("b", since=7)], ROOM)

    store.take_older(5, 10)

    assert store.waiting()["n"].oldest == 7


def test_a_node_s_hints_can_be_taken_out(store):
    store.put([*many(10), hint("other", node="m")], ROOM)

    taken = store.take_of("n", 7) + store.take_of("n", 7)

    assert taken == [one.key for one in many(10)]
    assert list(store.waiting()) == ["m"]


def test_figures_match_what_is_there_after_any_mix_of_changes(store):
    rng = random.Random(1)
    for _ in range(200):
        some = [hint(f"{rng.randrange(50)}", rng.randrange(9), node=rng.choice("mn")) for _ in range(rng.randrange(9))]
        rng.choice([lambda some=some: store.put(some, ROOM), lambda some=some: store.remove(some)])()

    for node, waiting in store.waiting().items():
        hints = held(store, node)
        assert waiting.number == len(hints)
        assert waiting.size == sum(HINT_BYTES + len(one.key) for one in hints)


def test_a_failure_in_the_middle_of_a_batch_leaves_nothing_of_it(store):
    store.put([hint("before")], ROOM)
    store._database.execute("PRAGMA max_page_count = 12")

    with pytest.raises(OSError, match="full"):
        store.put(many(5000), ROOM)

    assert held(store) == [hint("before")]
    store._database.execute("PRAGMA max_page_count = 100000")
    assert store.put(many(500), ROOM) == 500


@pytest.mark.parametrize("spoil", [lambda data: b"no database at all" * 500, lambda data: data[:100] + b"\xff" * 8000])
def test_a_damaged_file_is_begun_anew(store, path, spoil):
    store.put(many(500), ROOM)
    store.close()
    path.write_bytes(spoil(path.read_bytes()))

    again = HintStore(path)

    assert held(again) == []
    assert again.put([hint("new")], ROOM) == 1
    again.close()


def test_damage_found_later_costs_the_hints_and_not_the_use(store, path):
    store.put(many(3000), ROOM)
    store.close()
    data = path.read_bytes()
    path.write_bytes(data[: 4096 * 8] + b"\xff" * (len(data) - 4096 * 8))
    again = HintStore(path)

    with pytest.raises(OSError, match="damaged"):
        again.after("n", b"", 5000)

    assert again.put([hint("new")], ROOM) == 1
    assert held(again) == [hint("new")]
    again.close()


def test_a_newer_format_is_refused(store, path):
    store.close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 9")
    database.close()

    with pytest.raises(SetupError, match="format 9, newer"):
        HintStore(path)


def test_a_folder_that_is_not_there_is_refused_in_one_line(tmp_path):
    with pytest.raises(SetupError, match="hints can't be kept in"):
        HintStore(tmp_path / "nowhere" / "hints")


def test_without_a_path_hints_are_in_memory():
    store = HintStore(None)

    store.put([hint()], ROOM)

    assert held(store) == [hint()]
    store.close()
    with pytest.raises(OSError, match="closed"):
        held(store)
