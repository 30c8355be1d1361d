"""The verdict on a cluster: from what nodes and coordinators tell to a state, its reasons and the figures."""

from __future__ import annotations

import pytest

from sfss.durability import FIGURES, Durability, durability_of, parse_limit

WELL = {"state": "ok", "reserve_short": "0", "damaged_records": "0", "oldest_unsynced_write_s": "0.002"}
DEAD = {"state": "dead", "error": "connection refused"}
PROXY = {"state": "ok", "quorum": "3/2/2"}


def verdict(*nodes: dict[str, str], proxies: tuple[dict[str, str], ...] = (PROXY,)) -> Durability:
    return durability_of(
        {f"proxy-{number}:1": stats for number, stats in enumerate(proxies)},
        {f"node-{number}:1": stats for number, stats in enumerate(nodes)},
    )


def test_all_well_is_ok_without_reasons() -> None:
    found = verdict(WELL, WELL, WELL)

    assert (found.state, found.reasons) == ("ok", ())


def test_one_node_of_three_dead_is_recovering_and_named() -> None:
    found = verdict(WELL, DEAD, WELL)

    assert found.state == "recovering"
    assert found.reasons == ("node-1:1 is dead: connection refused",)
    assert found.figures["nodes_dead"] == 1


@pytest.mark.parametrize(
    ("nodes", "quorum", "first"),
    [
        ((DEAD, DEAD, WELL), "3/2/2", "files can't be read or written: 2 of 3 nodes are away"),
        ((DEAD, WELL | {"state": "suspect"}, WELL), "3/2/2", "files can't be read or written: 2 of 3 nodes are away"),
        ((DEAD, DEAD, WELL), "3/2/1", "files can't be written: 2 of 3 nodes are away"),
        ((DEAD, DEAD, WELL, WELL), "3/2/2", "some files can't be read or written: 2 of 4 nodes are away"),
        ((DEAD, DEAD, DEAD), "", "no node can be counted on"),
    ],
)
def test_where_a_quorum_may_be_missing_it_is_failing_and_says_what_cannot_be_done(
    nodes: tuple[dict[str, str], ...], quorum: str, first: str
) -> None:
    found = verdict(*nodes, proxies=({"state": "ok", "quorum": quorum},))

    assert found.state == "failing"
    assert found.reasons[0] == first


def test_a_node_that_only_a_proxy_knows_to_be_suspect_is_suspect() -> None:
    found = verdict(WELL, WELL, proxies=(PROXY | {"node-1:1/state": "suspect"},))

    assert found.state == "recovering"
    assert found.reasons == ("node-1:1 is suspect",)
    assert found.figures["nodes_suspect"] == 1


def test_no_proxy_left_is_failing() -> None:
    found = verdict(WELL, proxies=(DEAD, DEAD))

    assert found.state == "failing"
    assert found.reasons[0] == "none of 2 proxies answers"


@pytest.mark.parametrize(
    ("of_node", "reason"),
    [
        ({"damaged_records": "1"}, "node-0:1 has 1 damaged record to be written again"),
        ({"oldest_unsynced_write_s": "12.4"}, "node-0:1 has writes that wait for its disk for 12 s"),
        ({"reserve_short": "1"}, "node-0:1 is short of disk: its reserve is given away"),
        ({"error": "node-0:1: wiped"}, "node-0:1: wiped"),
    ],
)
def test_what_a_node_says_of_its_disk_is_a_reason(of_node: dict[str, str], reason: str) -> None:
    found = verdict(WELL | of_node, WELL, WELL)

    assert (found.state, found.reasons) == ("recovering", (reason,))


def test_hints_of_all_proxies_are_added_up_and_keep_it_from_being_ok() -> None:
    hints = PROXY | {"hints_waiting": "3", "hints_oldest_s": "7"}
    more = PROXY | {"hints_waiting": "2", "hints_oldest_s": "40"}

    found = verdict(WELL | {"damaged_records": "1"}, WELL, WELL, proxies=(hints, more))

    assert found.state == "recovering"
    assert found.reasons[1:] == ("5 writes kept for replicas that were away, the oldest for 40 s",)
    assert (found.figures["hints_waiting"], found.figures["keys_below_n"]) == (5, 6)


def test_what_is_left_to_compare_and_to_refill_is_a_reason() -> None:
    proxy = PROXY | {"comparison_marked": "3", "comparison_oldest_s": "90", "comparison_repaired_keys": "17"}

    found = verdict(
        WELL, WELL, WELL, proxies=(proxy | {"refill_regions_left": "40"}, PROXY | {"comparison_marked": "1"})
    )

    assert found.state == "recovering"
    assert found.reasons == (
        "3 of 256 parts of the files to be compared, since copies may be missing",
        "40 of 256 parts of the files to be brought to nodes that lost them",
    )
    assert (found.figures["oldest_comparison_s"], found.figures["keys_repaired"]) == (90, 17)


def test_hints_that_a_dead_proxy_last_told_of_are_not_counted() -> None:
    found = verdict(WELL, proxies=(PROXY | {"hints_waiting": "0"}, DEAD | {"hints_waiting": "9"}))

    assert found.figures["hints_waiting"] == 0


def test_what_nobody_tells_is_unknown_and_left_out_not_zero() -> None:
    found = verdict({"state": "ok"})

    assert found.figures["hints_waiting"] is None
    assert found.figures["oldest_scrub_s"] is None
    assert set(found.figures) == set(FIGURES)
    assert found.told() == {"state": "ok", "reasons": [], "nodes_dead": "0", "nodes_suspect": "0"}


def test_nothing_is_claimed_of_foreign_servers() -> None:
    found = durability_of({"memcached:11211": {"state": "ok"}}, {})

    assert found.state == "unknown"
    assert set(found.figures.values()) == {None}


def test_the_worst_node_counts() -> None:
    found = verdict(
        WELL | {"disk_free_bytes": "900", "last_scrub_age_s": "5", "corrupt_records": "1"},
        WELL | {"disk_free_bytes": "70", "last_scrub_age_s": "3600.5", "corrupt_records": "2"},
    )

    assert found.figures["disk_free_bytes"] == 70
    assert found.figures["oldest_scrub_s"] == 3600.5
    assert found.figures["corrupt_records"] == 3
    assert found.told()["oldest_scrub_s"] == "3600.500"


@pytest.mark.parametrize(
    ("text", "breaks"),
    [("nodes_dead>0", True), ("nodes_dead>1", False), ("disk_free_bytes<100", True), ("disk_free_bytes < 70", False)],
)
def test_a_limit_is_broken_beyond_its_bound(text: str, breaks: bool) -> None:
    found = verdict(WELL | {"disk_free_bytes": "70"}, DEAD)

    assert parse_limit(text).broken_by(found) is breaks


def test_a_figure_that_nobody_tells_breaks_no_limit() -> None:
    assert not parse_limit("hints_waiting>0").broken_by(verdict(WELL))
    assert not parse_limit("disk_free_bytes<1").broken_by(verdict(WELL))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nodes_dead", "is not name>number"),
        ("nodes_dead>=1", "is not name>number"),
        ("node_dead>0", "nodes_dead is meant?"),
        ("zzz>1", "there is no figure zzz; nodes_dead, nodes_suspect"),
    ],
)
def test_a_limit_that_cannot_be_read_is_refused_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_limit(text)
