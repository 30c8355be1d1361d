"""The command `sfss ring plan` as a process: with its nodes and without, and what its exit status says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from proxy.state import StateDirectory
from sfss.memcache.server import MemcacheServer
from sfss.memory import MemoryStore
from sfss.ring import Member, NodeRing
from sfss.ring_record import Placement, RingMember, RingRecord
from sfss.store import NO_CALL, Call
from tests.cluster.command import Ended, sfss

NODE_IDS = [f"{number}" * 32 for number in range(4)]
PARTITIONS = 4096


class TellingStore(MemoryStore):
    """A node that tells of the figures that a real one has."""

    free_bytes = 1 << 40

    def stats(self, topic: str = "", call: Call = NO_CALL) -> dict[str, str]:
        figures = {"curr_items": "3000", "live_bytes": str(3 << 20), "disk_free_bytes": str(self.free_bytes)}
        return super().stats(topic, call) | figures


def configuration(tmp_path: Path, names: Sequence[object], more: str = "") -> Path:
    conf = tmp_path / "proxy.ini"
    conf.write_text(f"[default]\nservers = {','.join(map(str, names))}\npartitions = {PARTITIONS}\n{more}")
    return conf


async def plan(*arguments: object) -> Ended:
    return await sfss("ring", "plan", *arguments)


async def served(stack: AsyncExitStack, store: MemoryStore) -> str:
    server = MemcacheServer(store)
    await server.start("127.0.0.1", 0)
    stack.push_async_callback(server.close, 0.1)
    return f"localhost:{server.port}"


async def bound_nodes(stack: AsyncExitStack) -> list[str]:
    """Three nodes of a cluster."""
    stores = [TellingStore(node=NODE_IDS[number]) for number in range(3)]
    names = [await served(stack, store) for store in stores]
    ring = NodeRing([Member(name) for name in names], 3, partitions=PARTITIONS)
    for store in stores:
        store.bind("c" * 32, ring.number, ring.fingerprint)
    return names


async def test_without_nodes_it_tells_what_moves_in_partitions(tmp_path: Path) -> None:
    conf = configuration(tmp_path, [f"10.0.0.{number}:7900" for number in range(1, 6)])

    status, out, err = await plan("--conf", conf, "--offline", "--add", "10.0.0.6:7900")

    assert (status, err) == (0, "")
    assert "ring 3: 6 nodes, N/W/R 3/2/2" in out
    assert "bytes unknown, as no node was heard" in out
    assert out.endswith("This is a plan; nothing was changed.\n")


async def test_nodes_that_answer_tell_how_much_would_move(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        names = await bound_nodes(stack)
        new = await served(stack, TellingStore(node=NODE_IDS[3]))

        status, out, err = await plan("--conf", configuration(tmp_path, names), "--add", new, "--json")

    document: dict[str, Any] = json.loads(out)
    assert (status, err, document["warnings"]) == (0, "", [])
    received = {node["name"]: node["bytes_received"] for node in document["nodes"]}
    assert received[new] == document["bytes_moved"] == pytest.approx(3 / 4 * (3 << 20), rel=0.05)
    assert document["files_moved"] == pytest.approx(3 / 4 * 3000, rel=0.05)
    assert document["copies_moved"] <= 1.1 * document["copies_moved_least"]


async def test_a_node_is_named_by_its_id_too(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        names = await bound_nodes(stack)
        new = await served(stack, TellingStore(node=NODE_IDS[3]))
        replaced = f"{NODE_IDS[1][:8]}={new}"

        status, out, err = await plan("--conf", configuration(tmp_path, names), "--replace", replaced, "--json")

    assert (status, err) == (0, "")
    after = {node["name"]: node["after"] for node in json.loads(out)["nodes"]}
    assert after == {names[0]: PARTITIONS, names[1]: 0, names[2]: PARTITIONS, new: PARTITIONS}


async def test_a_node_that_is_away_or_too_small_or_another_cluster_s_is_warned_of(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        names = await bound_nodes(stack)
        store = TellingStore(node=NODE_IDS[3])
        store.free_bytes = 1 << 20
        store.bind("d" * 32, 1, "e" * 32)
        small = await served(stack, store)

        conf = configuration(tmp_path, names)
        status, out, _ = await plan("--conf", conf, "--add", small, "--add", "localhost:1")

    assert status == 1
    assert "warning: localhost:1 does not answer: Connection refused" in out
    assert f"warning: {small} would receive about" in out
    assert f"warning: {small} belongs to a cluster already" in out


async def test_a_file_that_describes_another_ring_than_the_nodes_have_is_refused(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        conf = configuration(tmp_path, await bound_nodes(stack), "weights = 1,1,2")

        status, out, err = await plan("--conf", conf)

    assert (status, out) == (2, "")
    assert "was bound to another ring" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--add", "a:1"], "sfss ring: a:1 is in the ring already"),
        (["--add", "nonsense"], "a node is named by host:port or its id: 'nonsense' is not host:port"),
        (["--remove", "0123456789ab"], "0 nodes that are known here have an id that begins with 0123456789ab"),
        (["--weight", "a:1=17"], "weight 17 is not a whole number between 1 and 16"),
        (["--weight", "a:1"], "--weight a:1: it takes two things with = between them"),
        (["--weight", "a:1=1", "--weight", "a:1=2"], "--weight is given twice for a:1"),
    ],
)
async def test_what_cannot_be_planned_is_refused_in_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    conf = configuration(tmp_path, ["a:1", "b:1", "c:1"])

    status, out, err = await plan("--conf", conf, "--offline", *options)

    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


async def test_warnings_make_the_status_1(tmp_path: Path) -> None:
    conf = configuration(tmp_path, ["a:1", "b:1", "c:1"])

    status, out, _ = await plan("--conf", conf, "--offline", "--remove", "c:1")

    assert status == 1
    assert "warning: too few nodes: files would have 2 copies instead of 3" in out


async def test_offline_it_says_whether_it_shows_the_first_ring_or_the_one_that_a_proxy_remembers(
    tmp_path: Path,
) -> None:
    conf = configuration(tmp_path, ["a:1", "b:1", "c:1"], f"[proxy]\nstate = {tmp_path / 'state'}")
    founded = await plan("--conf", conf, "--offline")
    members = tuple(RingMember(NODE_IDS[number], f"{name}:1") for number, name in enumerate("abde"))
    directory = StateDirectory(tmp_path / "state")
    directory.keep_ring(RingRecord(5, PARTITIONS, (Placement(members, 3, 2, 2, 1),)))

    kept = await plan("--conf", conf, "--offline", "--remove", NODE_IDS[2])

    assert founded[0] == kept[0] == 0
    assert "ring 1: 3 nodes" in founded[1]
    assert f"note: this is the ring that {conf} founds; whether it was changed since isn't known" in founded[1]
    assert "ring 5: 4 nodes" in kept[1]
    assert "ring 7: 3 nodes" in kept[1]
    assert f"note: this is the ring that {tmp_path / 'state'} remembers; a later one isn't known" in kept[1]


async def test_n_w_and_r_stay_whatever_the_file_says_unless_they_are_to_change(tmp_path: Path) -> None:
    conf = configuration(tmp_path, ["a:1"], f"[proxy]\nN = 2\nW = 2\nR = 2\nstate = {tmp_path / 'state'}")
    members = tuple(RingMember(NODE_IDS[number], f"{name}:1") for number, name in enumerate("abcd"))
    StateDirectory(tmp_path / "state").keep_ring(RingRecord(3, PARTITIONS, (Placement(members, 3, 2, 2, 1),)))
    options = ("--conf", conf, "--offline")

    _, kept, _ = await plan(*options, "--add", "e:1")
    _, changed, _ = await plan(*options, "--quorum", "4/3/2")
    refused = await plan(*options, "--quorum", "4/2/3")
    mistyped = await plan(*options, "--quorum", "3")

    assert "ring 5: 5 nodes, N/W/R 3/2/2" in kept
    assert f"note: N/W/R stay 3/2/2, though {conf} makes them 2/2/2; --quorum changes them" in kept
    assert "ring 5: 4 nodes, N/W/R 4/3/2" in changed
    assert "note: N/W/R" not in changed
    assert (refused[0], refused[2]) == (
        2,
        "sfss ring: W=2 of N=4: two writes could miss each other; W must be over N/2\n",
    )
    assert (mistyped[0], mistyped[2]) == (2, "sfss ring: --quorum 3: it takes three numbers, N/W/R, as 3/2/2\n")


async def test_a_file_that_asks_for_more_copies_than_there_were_nodes_gets_them_with_the_nodes(tmp_path: Path) -> None:
    conf = configuration(tmp_path, ["a:1"])

    status, out, _ = await plan("--conf", conf, "--offline", "--add", "b:1", "--add", "c:1")

    assert status == 0
    assert "ring 1: 1 nodes, N/W/R 1/1/1" in out
    assert "ring 3: 3 nodes, N/W/R 3/2/2" in out
