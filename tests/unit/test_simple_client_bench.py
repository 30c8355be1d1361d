"""What the benchmark of simple_client.py counts on: figures that merge, schedules that hold, values that prove
themselves."""

from __future__ import annotations

import math
import random

import pytest

import simple_client
from simple_client import GET, PUT, BenchFile, Histogram, Listed, Mixed, Target, deal_sizes, parse_mix, schedule

TARGET = Target("127.0.0.1", 8255)


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


# --- histogram ---------------------------------------------------------------------------------------------------


def test_percentiles_are_within_one_percent_above_the_exact_ones(rng: random.Random) -> None:
    values = [int(rng.lognormvariate(7, 2)) for _ in range(5000)]

    histogram = histogram_of(values)

    values.sort()
    for percent in (0.1, 1, 50, 90, 99, 99.9, 100):
        exact = values[max(math.ceil(len(values) * percent / 100) - 1, 0)]
        assert exact <= histogram.percentile(percent) <= exact * 1.01 + 1


@pytest.mark.parametrize("value", [0, 1, 255, 256, 257, 511, 512, 1023, 1024, 10**6, 2**37])
def test_one_value_is_every_percentile(value: int) -> None:
    histogram = histogram_of([value])

    assert [histogram.percentile(percent) for percent in (1, 50, 100)] == [value] * 3


def test_slots_rise_with_the_value_and_none_is_skipped() -> None:
    before = -1

    for value in range(5000):
        slot = histogram_of([value]).counts.index(1)
        assert slot in (before, before + 1)
        before = slot


def test_merged_histograms_give_the_percentiles_of_all_values_together(rng: random.Random) -> None:
    fast = [rng.randrange(100, 200) for _ in range(900)]
    slow = [rng.randrange(50_000, 90_000) for _ in range(100)]

    merged = histogram_of(fast)
    merged.merge(histogram_of(slow))

    together = histogram_of(fast + slow)
    assert merged.milliseconds() == together.milliseconds()
    assert merged.percentile(99) > 50_000, "an average of both p99 would hide the slow process"
    assert merged.max == max(slow)


def test_an_empty_histogram_has_zeros() -> None:
    assert set(Histogram().milliseconds().values()) == {0.0}


# --- mixes of sizes ----------------------------------------------------------------------------------------------


def test_a_mix_is_parsed_with_units_and_default_weights() -> None:
    assert parse_mix("4k:80,64K:15,1m:5") == {4096: 80, 65536: 15, 1048576: 5}
    assert parse_mix("100,0b,2m") == {100: 1, 0: 1, 2097152: 1}
    assert parse_mix("1k:1,1024:2") == {1024: 3}


@pytest.mark.parametrize("text", ["", "4x", "k", "4k:0", "4k:-1", "4k:nan", "3m", "-1", "4k,,1k", "4k:80:1"])
def test_a_wrong_mix_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_mix(text)


def test_sizes_are_dealt_in_proportion_to_within_one_file() -> None:
    mix = parse_mix("4k:80,64k:15,1m:5")

    for count in (1, 7, 100, 1001):
        dealt = deal_sizes(mix, count)
        assert len(dealt) == count
        for size, weight in mix.items():
            assert abs(dealt.count(size) - count * weight / 100) <= 1


# --- schedule ----------------------------------------------------------------------------------------------------


def test_processes_share_one_even_schedule() -> None:
    dues = sorted(schedule(100, process, 3)(number) for process in range(3) for number in range(50))

    assert dues == pytest.approx([number / 100 for number in range(150)])


def mixed(files: list[BenchFile], reads: float = 0.5, rate: float = 10.0, end: float = 1002.0) -> Mixed:
    return Mixed(files, reads, seed=1, start=1000.0, end=end, due=schedule(rate, 0, 1))


def test_an_operation_is_not_given_out_before_it_is_due_and_keeps_its_due_time_when_late() -> None:
    source = mixed([BenchFile(TARGET, "a", 10)], reads=1.0)

    assert source.next(999.99) is None
    assert source.wait_s(999.5) == pytest.approx(0.5)
    first, second = source.next(1000.15), source.next(1000.15)
    assert first is not None
    assert second is not None
    assert (first.started, second.started) == (1000.0, 1000.1), (
        "latency counts from here, not from when a connection was free"
    )
    assert source.next(1000.15) is None


def test_what_was_due_and_never_sent_is_counted() -> None:
    source = mixed([BenchFile(TARGET, "a", 10)], reads=1.0)
    for _ in range(5):
        source.next(1001.0)

    assert source.wait_s(1002.0) is None

    assert source.unsent == 15, "10 a second for 2 s make 20"
    assert source.unsent_oldest_s == pytest.approx(1.5)


def test_nothing_is_given_out_after_the_end_or_the_count() -> None:
    files = [BenchFile(TARGET, "a", 10)]
    by_time = Mixed(files, 1.0, seed=1, start=1000.0, end=1001.0)
    by_count = Mixed(files, 1.0, seed=1, start=1000.0, end=math.inf, count_max=2)

    assert by_time.next(1000.9) is not None
    assert by_time.next(1001.0) is None
    assert by_time.wait_s(1001.0) is None
    assert [by_count.next(1000.0) is None for _ in range(3)] == [False, False, True]
    assert by_count.wait_s(1000.0) is None


def test_the_share_of_reads_is_kept_and_a_seed_repeats_the_choices() -> None:
    files = [BenchFile(TARGET, str(number), 10) for number in range(50)]

    def choices(seed: int) -> list[tuple[str, bytes]]:
        source = Mixed(files, 0.8, seed=seed, start=0.0, end=math.inf, count_max=2000)
        return [(operation.kind, operation.file.name) for operation in iter(lambda: source.next(1.0), None)]

    once = choices(1)

    assert 0.75 < sum(kind == GET for kind, _ in once) / 2000 < 0.85
    assert once == choices(1)
    assert once != choices(2)


def test_a_path_has_one_write_in_flight_at_a_time() -> None:
    files = [BenchFile(TARGET, str(number), 10) for number in range(3)]
    source = Mixed(files, 0.0, seed=1, start=0.0, end=math.inf)

    chosen = []
    for _ in range(3):
        operation = source.next(1.0)
        assert operation is not None
        assert operation.kind == PUT
        operation.file.writing = True
        chosen.append(operation.file.name)

    assert sorted(chosen) == [b"0", b"1", b"2"]


def test_a_list_gives_each_file_once_and_says_when_it_is_through() -> None:
    files = [BenchFile(TARGET, str(number), 10) for number in range(3)]
    source = Listed(PUT, files)

    given = [operation.file for operation in iter(lambda: source.next(1.0), None)]

    assert given == files
    assert source.wait_s(1.0) is None


# --- values ------------------------------------------------------------------------------------------------------


def stored(file: BenchFile, generation: int) -> bytearray:
    head, start, end = file.value(generation)
    return bytearray(head + simple_client.noise()[start:end])


def file_at(acknowledged: int, issued: int, size: int = 5000) -> BenchFile:
    file = BenchFile(TARGET, "folder/name", size)
    file.acknowledged, file.issued = acknowledged, issued
    return file


@pytest.mark.parametrize("size", [0, 1, 5, 20, 4096, 2 * 1024 * 1024])
def test_a_value_has_its_size_and_is_recognised(size: int) -> None:
    file = file_at(3, 3, size)

    value = stored(file, 3)

    assert len(value) == size
    assert file.fault(memoryview(value), oldest=3) == ""


def test_any_generation_from_the_acknowledged_to_the_issued_is_right() -> None:
    file = file_at(acknowledged=3, issued=5)

    faults = [file.fault(memoryview(stored(file, generation)), oldest=3) for generation in (2, 3, 4, 5)]

    assert faults == ["older than acknowledged", "", "", ""]


@pytest.mark.parametrize("position", [0, 1, 14, 2500, 4999])
def test_one_wrong_byte_anywhere_is_noticed(position: int) -> None:
    file = file_at(1, 1)
    value = stored(file, 1)
    value[position] ^= 1

    assert file.fault(memoryview(value), oldest=1) == "wrong bytes"


def test_a_short_body_and_one_of_two_writes_mixed_are_noticed() -> None:
    file = file_at(1, 2)
    first, second = stored(file, 1), stored(file, 2)

    assert file.fault(memoryview(first)[:-1], oldest=1) == "wrong length"
    assert file.fault(memoryview(first[:2500] + second[2500:]), oldest=1) == "wrong bytes"


def test_another_files_value_is_noticed() -> None:
    other = BenchFile(TARGET, "folder/other", 5000)

    assert file_at(1, 1).fault(memoryview(stored(other, 1)), oldest=1) == "wrong bytes"


# --- answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (b"http/1.1 200 ok\r\ncontent-length: 12", 12),
        (b"http/1.1 200 ok\r\ncontent-length:0\r\nserver: x", 0),
        (b"http/1.1 204 no content\r\nserver: x", 0),
        (b"http/1.1 200 ok\r\ntransfer-encoding: chunked", None),
        (b"http/1.1 200 ok\r\ncontent-length: -1", None),
        (b"http/1.1 abc ok\r\ncontent-length: 1", None),
        (b"ssh-2.0-openssh", None),
    ],
)
def test_an_answers_length_is_read_from_its_head(head: bytes, length: int | None) -> None:
    assert simple_client.content_length(head) == length


def test_a_path_is_percent_encoded_once() -> None:
    assert simple_client.file_target("file", "a b/ü+%/照片&x=1") == (
        "/file?path=a%20b/%C3%BC%2B%25/%E7%85%A7%E7%89%87%26x%3D1"
    )
