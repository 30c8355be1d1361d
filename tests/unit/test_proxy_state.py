"""What a proxy remembers over a restart."""

import asyncio
import itertools

import pytest

from proxy.state import ProxyState, StampReserve, StateDirectory
from sfss.errors import SetupError
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.stamps import COUNT_BITS, StampClock


class Clock:
    def __init__(self):
        self.seconds = 1_800_000_000.0

    def __call__(self):
        return self.seconds


async def settle(condition):
    """Wait for what a thread does."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_what_is_remembered_is_there_after_a_restart(tmp_path):
    directory = StateDirectory(tmp_path / "state")
    directory.update(cluster="c", members={"a:1": "n1"})
    directory.close()

    assert StateDirectory(tmp_path / "state").state == ProxyState(cluster="c", members={"a:1": "n1"})


async def test_no_stamp_is_issued_again_even_if_the_clock_was_set_back(tmp_path):
    clock = Clock()
    directory = StateDirectory(tmp_path)
    reserve = StampReserve(directory, clock)
    stamps = StampClock(clock, floor=reserve.floor)
    issued = []
    for _ in range(50):
        clock.seconds += 0.1
        stamp = stamps.next()
        sure = stamp < reserve.sure_below
        if reserve.covers(stamp):
            issued.append(stamp)
        assert not sure or (stamp in issued and reserve._saving is None)
        await asyncio.sleep(0.001)
    await reserve.close()
    directory.close()
    clock.seconds -= 300

    directory = StateDirectory(tmp_path)
    reserve = StampReserve(directory, clock)
    first = StampClock(clock, floor=reserve.floor).next()

    assert issued
    assert first > max(issued)
    directory.close()


async def test_the_ceiling_is_moved_on_before_it_is_reached(tmp_path):
    clock = Clock()
    directory = StateDirectory(tmp_path)
    reserve = StampReserve(directory, clock)
    stamps = StampClock(clock, floor=reserve.floor)
    refused = 0
    for _ in range(30):
        clock.seconds += 0.5
        refused += not reserve.covers(stamps.next())
        await settle(lambda: reserve._saving is None)

    assert refused == 0
    directory.close()


async def test_a_stamp_past_the_ceiling_is_not_covered_until_that_is_saved(tmp_path):
    clock = Clock()
    directory = StateDirectory(tmp_path)
    reserve = StampReserve(directory, clock)
    clock.seconds += 60
    stamp = int(clock.seconds * 1000) << COUNT_BITS

    assert not reserve.covers(stamp)
    await settle(lambda: reserve._saving is None)

    assert reserve.covers(stamp)
    directory.close()


async def test_a_disk_that_fails_means_asking_first_and_not_an_end(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    clock = Clock()
    directory = StateDirectory(tmp_path)
    reserve = StampReserve(directory, clock, monotonic=clock)
    tries = []

    def broken(_path, _text):
        tries.append(clock.seconds)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "_replace_file", broken)
    clock.seconds += 60
    stamp = int(clock.seconds * 1000) << COUNT_BITS
    for _ in range(3000):
        assert not reserve.covers(stamp)
        await settle(lambda: reserve._saving is None)
        clock.seconds += 0.1
    monkeypatch.undo()
    clock.seconds += 30
    reserve.covers(stamp)
    await settle(lambda: reserve._saving is None)

    assert reserve.covers(stamp)
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps[0] < 1
    assert 29 < max(gaps) < 31
    assert [record.levelname for record in caplog.records if record.name == "sfss.proxy.state"] == ["ERROR", "INFO"]
    directory.close()


def test_a_ceiling_absurdly_far_ahead_is_forgotten_since_nodes_would_refuse_its_stamps(tmp_path):
    clock = Clock()
    directory = StateDirectory(tmp_path)
    directory.update(ceiling=int((clock.seconds + 3600) * 1000) << COUNT_BITS)

    assert StampReserve(directory, clock).floor == 0
    directory.close()


def test_two_proxies_on_one_directory_are_refused(tmp_path):
    directory = StateDirectory(tmp_path)

    with pytest.raises(SetupError, match="in use by another proxy"):
        StateDirectory(tmp_path)
    directory.close()
    StateDirectory(tmp_path).close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("something else\n", "is not a proxy's state"),
        ("sfss-proxy-state 2\n{}\n", "format 2, newer than this program"),
        ('sfss-proxy-state 1\n{"ceil', "damaged"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "state").write_text(text)

    with pytest.raises(SetupError, match=message) as refused:
        StateDirectory(tmp_path)

    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path):
    (tmp_path / "state").write_bytes(b"\xff\xfe\x00state")

    with pytest.raises(SetupError, match="is not a proxy's state"):
        StateDirectory(tmp_path)


def test_a_place_that_is_no_directory_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(SetupError, match="can't be used"):
        StateDirectory(tmp_path / "file")


def ring(number):
    members = tuple(RingMember(f"{index:032x}", f"n{index}:7900") for index in range(3))
    placements = (Placement(members, 3, 2, 2, 1), Placement(members[:2], 2, 2, 2, 1))
    return RingRecord(number, 64, placements[: 1 + (number + 1) % 2])


async def test_a_ring_is_remembered_beside_the_state_and_never_an_earlier_one(tmp_path):
    directory = StateDirectory(tmp_path)
    assert directory.ring is None

    directory.keep_ring(ring(3))
    directory.keep_ring(ring(2))
    directory.close()

    assert StateDirectory(tmp_path).ring == ring(3)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("sfss-proxy-ring 1\n{}\n", "ring is damaged; remove it: the nodes tell the ring"),
        ("sfss-proxy-ring 2\n{}\n", "ring has format 2, newer than this program"),
        ("something else\n", "ring is not a proxy's state"),
    ],
)
async def test_a_ring_that_can_not_be_read_is_refused_in_one_line(tmp_path, text, refusal):
    StateDirectory(tmp_path).close()
    (tmp_path / "ring").write_text(text)

    with pytest.raises(SetupError, match=refusal) as error:
        StateDirectory(tmp_path)

    assert "\n" not in str(error.value)
