"""The faults that sfss has to live through, by name, and the tests that inject each.

One definition, two lengths: `make test` runs every one of these tests in its short form, `make torture` runs the same
tests by name, for as long as asked. A new fault is a new row.
"""

from __future__ import annotations

from dataclasses import dataclass

CLUSTER = "tests/cluster/test_"
OVERLOAD = "tests/cluster/test_overload.py"
NODE = "tests/integration/test_node_faults.py"


@dataclass(frozen=True, slots=True)
class Fault:
    """`tests` are pytest's ids, of a file or of one function in it; `needs` is what they can't do without. Of the tests
    only those are run that have `only` in their names."""

    breaks: str
    tests: tuple[str, ...]
    needs: str = ""
    only: str = ""


FAULTS = {
    "kill-node": Fault(
        "a node after the other is killed and started again; all are restarted politely",
        (
            f"{CLUSTER}killed_parts.py::test_killed_nodes_cost_no_acknowledged_write_and_hardly_an_error",
            f"{CLUSTER}killed_parts.py::test_a_rolling_restart_is_not_noticed",
        ),
    ),
    "kill-at-step": Fault(
        "a node is killed at its n-th sync, write, rename, …",
        (f"{NODE}::test_a_kill_at_any_step_loses_nothing_that_was_acknowledged",),
        "strace",
    ),
    "power-cut": Fault(
        "the power of one node, and of all nodes at one moment",
        (
            f"{CLUSTER}power_cut.py::test_a_power_cut_of_all_nodes_at_once_loses_no_acknowledged_write",
            f"{CLUSTER}power_cut.py::test_a_power_cut_of_one_node_loses_nothing_and_hardly_costs_an_error",
            f"{NODE}::test_a_power_cut_takes_nothing_that_was_acknowledged",
        ),
        "root, xfsprogs, e2fsprogs",
    ),
    "fsync-error": Fault(
        "disks that can't sync: once, for ever, two of three",
        (
            f"{CLUSTER}disk_faults.py::test_a_node_whose_fsync_fails_leaves_at_once_and_the_cluster_goes_on",
            f"{CLUSTER}disk_faults.py::test_no_write_is_acknowledged_that_two_of_three_nodes_could_not_sync",
            f"{NODE}::test_a_failed_sync_is_never_acknowledged_and_ends_the_node_at_once",
        ),
        "root, strace",
    ),
    "slow-disk": Fault(
        "one disk that takes a second for each sync",
        (f"{CLUSTER}slow_disk.py",),
        "root, strace",
    ),
    "torn-tail": Fault(
        "the newest volume of a node loses its last bytes",
        (f"{CLUSTER}disk_faults.py::test_a_torn_end_of_a_volume_is_noticed_and_what_it_had_is_brought_back",),
        "root",
    ),
    "bit-rot": Fault(
        "flipped bits in volumes, index, identity and ring file of one node",
        (
            f"{CLUSTER}disk_faults.py::test_bits_that_flip_on_one_node_are_found_never_served_and_lose_nothing",
            f"{CLUSTER}disk_faults.py::test_a_flipped_bit_in_what_a_node_knows_of_itself_refuses_its_start_in_one_line",
            "tests/unit/test_node_replay.py",
            "tests/unit/test_node_scrub.py",
            "tests/unit/test_node_mending.py",
        ),
    ),
    "hints": Fault(
        "nodes are away while proxies that keep what they miss are killed, and the disks of those fill up",
        (f"{CLUSTER}hints.py", "tests/integration/test_proxy_hints.py", "tests/unit/test_hint_replay.py"),
    ),
    "wipe": Fault(
        "a node comes back with an empty directory, or with an old copy of it",
        (f"{CLUSTER}forgotten.py",),
    ),
    "anti-entropy": Fault(
        "one of 20 keys differs between nodes (of 20,000 in the long form); a node has lost records",
        (f"{CLUSTER}anti_entropy.py",),
    ),
    "tombstones": Fault(
        "a node is away with files that are deleted, for longer than deletions are remembered; what slept for as long; "
        "nodes are replaced and killed meanwhile",
        (
            f"{CLUSTER}tombstones.py",
            f"{CLUSTER}purge_beside_changes.py",
            "tests/unit/test_purging.py",
            "tests/unit/test_purging_schedules.py",
            "tests/unit/test_purging_rings.py",
        ),
    ),
    "disk-full": Fault(
        "full disks: of one node, then of two",
        (
            f"{CLUSTER}disk_faults.py::test_full_disks_refuse_writes_and_go_on_reading_and_deleting",
            f"{NODE}::test_a_full_disk_refuses_writes_goes_on_reading_and_deleting_and_heals",
        ),
        "root",
    ),
    "partitions": Fault(
        "packets between parts are lost, one way or both: nodes, proxies, web processes, a side without a quorum",
        (f"{CLUSTER}partitions.py",),
        "root, iproute2, iptables",
    ),
    "pause": Fault(
        "a node, then a proxy, stands still and goes on",
        (
            f"{CLUSTER}killed_parts.py::test_a_paused_node_is_not_noticed",
            f"{CLUSTER}killed_parts.py::test_a_paused_proxy_stops_nobody_for_long",
        ),
    ),
    "proxy-kill": Fault(
        "proxies and direct web processes die in the middle of writes, beside nodes that do",
        (
            f"{CLUSTER}killed_parts.py::test_with_one_proxy_killed_no_request_begun_after_fails",
            f"{CLUSTER}killed_parts.py::test_with_all_proxies_killed_the_answer_is_504_at_once",
            f"{CLUSTER}many_faults.py",
        ),
    ),
    "lost-replies": Fault(
        "what nodes are asked or answer is lost, held back, overtakes, ends in the middle",
        (f"{CLUSTER}network_faults.py",),
    ),
    "cancel-storm": Fault("200 clients hang up in the middle of anything", (f"{CLUSTER}cancel_storm.py",)),
    "hot-key": Fault("64 clients write and read one key", (f"{CLUSTER}hot_key.py",)),
    "ring-change": Fault(
        "nodes come, go and are replaced while the command that does it, nodes and proxies are killed",
        (f"{CLUSTER}ring_change.py", "tests/unit/test_ring_change.py", "tests/unit/test_ring_change_model.py"),
    ),
    "clock": Fault(
        "one proxy's clock is off by an hour, jumps, goes back over a restart", (f"{CLUSTER}clocks.py",), "faketime"
    ),
    "overload": Fault(
        "four times the 2 MiB bodies that a web process has room for",
        (f"{OVERLOAD}::test_four_times_the_bodies_there_is_room_for_are_refused_at_once_and_memory_stays_bounded",),
    ),
    "exhaustion": Fault(
        "10,000 idle connections; no more than 256 open files",
        (
            f"{OVERLOAD}::test_ten_thousand_idle_connections_cost_little_memory_and_disturb_nobody",
            f"{OVERLOAD}::test_with_few_files_to_open_every_tier_refuses_newcomers_and_serves_whom_it_has",
        ),
    ),
    "hostile": Fault(
        "input that is wrong, endless, slow or malicious, over HTTP and memcache",
        (
            "tests/integration/test_web_hostile.py",
            "tests/integration/test_memcache_hostile.py",
            "tests/integration/test_memcache_kinds.py",
            "tests/integration/test_memcache_troubled.py",
            "tests/unit/test_memcache_conversations.py",
        ),
    ),
    "model": Fault(
        "random schedules: a node against a dict, coordinators and what they repair against the checker",
        (
            "tests/unit/test_node_model.py",
            "tests/unit/test_node_model_memcache.py",
            "tests/unit/test_proxy_linearizable.py",
            "tests/unit/test_proxy_repairs.py",
        ),
    ),
    "plants": Fault(
        "broken builds, each of which the test made for it has to catch",
        (
            f"{CLUSTER}planted_faults.py",
            f"{CLUSTER}tombstones.py",
            f"{CLUSTER}anti_entropy.py",
            "tests/unit/test_node_model.py",
            "tests/unit/test_proxy_linearizable.py",
            "tests/unit/test_proxy_repairs.py",
            "tests/unit/test_purging_schedules.py",
            "tests/unit/test_purging_rings.py",
            "tests/unit/test_ring_change_linearizable.py",
            "tests/unit/test_ring_change_model.py",
        ),
        "root, xfsprogs, e2fsprogs",
        "caught",
    ),
}
