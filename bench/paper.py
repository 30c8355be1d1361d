"""`python -m bench paper`: a cluster of thousands of nodes and 10^12 files, without any of them.

What a ring decides is decided by the product's own code (`sfss.ring`, `sfss.ring_plan`, `proxy.placed_ring`), for as
many nodes as one likes: who owns what, what a change moves, how long it takes to make, what it weighs in memory. What
follows from files and links is arithmetic, done here, over the lengths of the product's own messages. What it means for
whoever runs a cluster is in docs/growth.rst.
"""

from __future__ import annotations

import json
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, cast

import click

from bench.growth_page import LINKS_GBIT, RESULTS, paper_tables
from bench.machine import machine
from bench.table import plain
from nodes.tree import Tree
from proxy.options import Options
from proxy.peer import Peer
from proxy.placed_ring import PlacedRing
from proxy.quorum import Quorum
from sfss.hash_tree import FANOUT, LEAF_DIGITS, Branch, Listed, hash_range, write_branches, write_listed
from sfss.ring import Member, NodeRing
from sfss.ring_plan import Change, Plan, next_ring
from sfss.ring_record import RECORD_BYTES_MAX, Placement, RingMember, RingRecord

REGION_DIGITS = 2
LOOK_UPS = 200_000
KEY_BYTES = 40
"""Of a file, on average: assumed."""

FILES_PER_S = 3000.0
"""What one process brings from node to node, of small files: assumed, half of what a proxy writes."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A cluster on paper. `zones` are alike in size; `file_bytes` is an average."""

    nodes: int
    partitions: int = 65_536
    zones: int = 20
    copies: int = 3
    files: float = 1e12
    file_bytes: int = 4096

    def members(self) -> list[Member]:
        """Zones in turn, so that each has as many nodes as the others or one more."""
        zones = self.zones if self.nodes >= self.zones else 1
        return [
            Member(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:7900", f"zone-{n % zones}" if zones > 1 else "")
            for n in range(self.nodes)
        ]

    def ring(self) -> NodeRing:
        return NodeRing(self.members(), min(self.copies, self.nodes), partitions=self.partitions)


def measure_ring(case: Case) -> Row:
    """Make the ring as a proxy does; balance, time and memory. For a process of its own, whose memory it measures."""
    before_kib = _resident_kib()
    began = time.process_time()
    ring = case.ring()
    made_s = time.process_time() - began
    peers = [cast("Peer", _Named(member.name)) for member in ring.members]
    began = time.process_time()
    placed = PlacedRing.of(ring, peers, Quorum(ring.copies, ring.copies // 2 + 1, ring.copies // 2 + 1))
    placed_s = time.process_time() - began
    kib = _resident_kib() - before_kib
    keys = [b"folder/%d.jpg" % number for number in range(1000)]
    began = time.process_time()
    for _ in range(LOOK_UPS // len(keys)):
        for key in keys:
            placed.owners(key)
    look_up_us = (time.process_time() - began) / LOOK_UPS * 1e6
    return {
        **asdict(case),
        **balance(ring),
        "made_s": made_s,
        "placed_s": placed_s,
        "resident_kib": kib,
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "look_up_us": look_up_us,
        "comparison": comparison_bytes(ring, case.files),
    }


class _Named:
    """All of a peer that a placed ring looks at."""

    def __init__(self, name: str) -> None:
        self.name = name


def _resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def balance(ring: NodeRing) -> Row:
    """The most that a node has, and a zone, beside the mean; and the least a node has."""
    shares = ring.shares()
    held: defaultdict[str, float] = defaultdict(float)
    weight: defaultdict[str, float] = defaultdict(float)
    for member, share in zip(ring.members, shares, strict=True):
        held[member.zone] += share * member.weight
        weight[member.zone] += member.weight
    return {
        "node_most": max(shares),
        "node_least": min(shares),
        "zone_most": max(held[zone] / weight[zone] for zone in held),
        "copies_of_partitions_per_node": ring.partitions * ring.copies / len(ring.members),
    }


def changes(case: Case) -> Iterator[tuple[str, Change]]:
    """What happens to a cluster: by name."""
    members = case.members()
    tenth = max(1, case.nodes // 10)
    new = [f"10.255.{n >> 8}.{n & 255}:7900" for n in range(tenth)]
    zones = {name: members[n].zone for n, name in enumerate(new)}
    yield "add one", Change(add=(new[0],), zones={new[0]: zones[new[0]]})
    yield "remove one", Change(remove=(members[0].name,))
    yield "replace one", Change(replace={members[0].name: new[0]})
    yield "add a tenth", Change(add=tuple(new), zones=zones)
    yield "remove a tenth", Change(remove=tuple(member.name for member in members[:tenth]))


def measure_changes(case: Case) -> list[Row]:
    """What each change moves: of all copies, beside what has to move, and in bytes."""
    before = case.ring()
    rows = []
    for name, change in changes(case):
        plan = Plan(before, next_ring(before, change, lambda nodes: min(case.copies, nodes)))
        part = plan.moved / (before.partitions * before.copies)
        rows.append(
            {
                "change": name,
                "nodes": case.nodes,
                "partitions": case.partitions,
                "moved_part": part,
                "beside_least": plan.cost,
                "moved_bytes": part * case.files * case.file_bytes * case.copies,
            }
        )
    return rows


class Asked(NamedTuple):
    """What one comparison asks where nothing differs: about places of the tree, and how many leaves are listed."""

    questions: int
    leaves_listed: int


def asked(ring: NodeRing, places: list[bytes]) -> Asked:
    """What comparing `places`, regions of the hash space, takes. As `proxy.comparison` asks: a place is asked of all
    that own anything below it, and looked into where its owners differ from partition to partition, for then their
    digests differ, too. In a leaf all is listed where they still do."""
    questions = leaves_listed = 0
    while places:
        deeper = []
        for place in places:
            low, high = hash_range(place)
            below = set(ring.table[low >> ring.shift : ((high - 1) >> ring.shift) + 1])
            differ = len(set(map(frozenset, below))) > 1
            if len(place) == LEAF_DIGITS:
                leaves_listed += differ
            elif differ or len(place) == REGION_DIGITS:
                questions += len({index for owners in below for index in owners})
                deeper += [place + b"%x" % digit for digit in range(FANOUT)]
        places = deeper
    return Asked(questions, leaves_listed)


def comparison_bytes(ring: NodeRing, files: float) -> dict[str, float]:
    """Bytes that one comparison of everything moves where nothing differs, and what one difference adds."""
    questions, leaves_listed = asked(ring, [b"%0*x" % (REGION_DIGITS, place) for place in range(FANOUT**REGION_DIGITS)])
    answer = write_branches([Branch(2**64 - 1, max(1, int(files * ring.copies / len(ring.members))))] * FANOUT)
    line = write_listed(Listed(b"k" * KEY_BYTES, 2**62, 2**64 - 1, False, 2048))
    leaf = files / FANOUT**LEAF_DIGITS * ring.copies * len(line)
    return {
        "questions": questions,
        "tree_bytes": float(questions * len(answer)),
        "listed_bytes": leaves_listed * leaf,
        "one_difference_bytes": leaf,
    }


def joint_ring(nodes: int) -> RingRecord:
    """The record of a ring while it changes, as nodes keep it and tell it one another: IPv4 addresses, named zones."""
    members = tuple(
        RingMember(f"{n:032x}", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:7900", f"zone-{n % 20}") for n in range(nodes)
    )
    placement = Placement(members, 3, 2, 2, 1)
    return RingRecord(3, 65_536, (placement, placement))


def record_bytes(nodes: int) -> int:
    """The length of that record, which has a limit, also where it is over that: from shorter ones."""
    few, more = (len(joint_ring(count).encode()) for count in (200, 1000))
    return few + (nodes - 200) * (more - few) // 800


def nodes_max() -> int:
    """About how many nodes a ring can have and still change."""
    few, more = record_bytes(200), record_bytes(1000)
    return 200 + (RECORD_BYTES_MAX - few) * 800 // (more - few)


def repair_s(node_bytes: float, file_bytes: float, bytes_per_s: float, *, files_per_s: float = FILES_PER_S) -> float:
    """Seconds to bring a node's files back through one process, by whichever bound is lower."""
    return max(node_bytes / bytes_per_s, node_bytes / file_bytes / files_per_s)


def repairs(case: Case, options: Options) -> Row:
    """How long a lost node's files have fewer copies. *Refilled*: proxies bring an empty node what it lacks, each byte
    counting twice (read, given) toward the rate of each. *Moved*: `sfss ring apply`, one process over one link."""
    node_bytes = case.files * case.file_bytes * case.copies / case.nodes
    refill = options.compare_bytes_per_s / 2
    return {
        "nodes": case.nodes,
        "node_bytes": node_bytes,
        "refilled_s": repair_s(node_bytes, case.file_bytes, refill),
        "moved_s": {str(link): repair_s(node_bytes, case.file_bytes, link * 1e9 / 8) for link in LINKS_GBIT},
        "link_s": {str(link): node_bytes / (link * 1e9 / 8) for link in LINKS_GBIT},
    }


def tree_bytes() -> int:
    """Memory of a node's hash tree, whatever it has."""
    tree = Tree()
    return sum(each.itemsize * len(each) for each in (tree.digests, tree.counts))


def run_apart(function: Callable[[Case], Any], case: Case) -> Any:
    """Call it in a new process, so that the memory it measures is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, case).result()


@click.command()
@click.option("--nodes", default="10,100,300,1000,10000", show_default=True, help="Numbers with commas between.")
@click.option("--partitions", default="65536", show_default=True, help="Numbers with commas between.")
@click.option("--zones", type=click.IntRange(1), default=20, show_default=True)
@click.option("--files", type=click.FloatRange(1), default=1e12, show_default=True)
@click.option("--bytes", "file_bytes", type=click.IntRange(1), default=4096, show_default=True, help="Of a file.")
def paper(nodes: str, partitions: str, zones: int, files: float, file_bytes: int) -> None:
    """A cluster of thousands of nodes on paper: balance, changes, memory, comparison, repair. No sockets, no disks."""
    cases = [
        Case(int(count), int(parts), zones, files=files, file_bytes=file_bytes)
        for parts in partitions.split(",")
        for count in nodes.split(",")
    ]
    options = Options()
    figures: dict[str, Any] = {
        "machine": machine(),
        "compare_interval_s": options.compare_interval_s,
        "tree_bytes": tree_bytes(),
        "nodes_max": nodes_max(),
        "rings": [],
        "changes": [],
        "repairs": [repairs(case, options) for case in cases if case.partitions == cases[0].partitions],
    }
    for case in cases:
        click.echo(f"{case.nodes:,} nodes, {case.partitions:,} partitions", err=True)
        figures["rings"].append(run_apart(measure_ring, case))
        if case.partitions == cases[0].partitions:  # but for chance, what moves is the same with any number of them
            figures["changes"] += run_apart(measure_changes, case)
    for rows in paper_tables(figures):
        click.echo("\n" + plain(rows))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "paper.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    click.echo(f"written to {path}")
