"""How safe what is stored is just now: one verdict in words and some figures, out of what all tiers tell.

Reads only what is told: STATS of nodes, STATS of those who place files on them. What nobody tells is None, never 0:
"nothing waits" and "nobody knows" are different. Asks nobody, and counts nothing itself.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Stats = Mapping[str, str]

OK = "ok"
RECOVERING = "recovering"
FAILING = "failing"
UNKNOWN = "unknown"
STATES = (OK, RECOVERING, FAILING, UNKNOWN)
"""Every file has all its copies, as far as is known · it is readable and writable, but something is less than it should
be · some files can't be read or can't be written · nobody here tells of nodes (foreign servers)."""

STUCK_S = 10.0
"""A write that is not on disk for so long says that the disk is in trouble."""

FIGURES: dict[str, str] = {
    "nodes_dead": "Nodes that don't answer",
    "nodes_suspect": "Nodes that may have forgotten acknowledged writes, and count toward no quorum",
    "nodes_reserve_short": "Nodes whose disk is so full that their reserve is given away",
    "oldest_unsynced_write_s": "Age of the oldest write, on any node, that is not on disk yet",
    "oldest_scrub_s": "Age of the last scrub of the node that was scrubbed least lately",
    "corrupt_records": "Records that failed their checksum since the nodes were started",
    "damaged_records": "Records known to be damaged that wait to be written again",
    "tombstones": "Tombstones on all nodes, those included that are purged and wait for compaction",
    "tombstones_oldest_s": "No tombstone that is older than this counts any more on any node",
    "disk_free_bytes": "Free room on the fullest node's disk",
    "hints_waiting": "Writes kept for replicas that were away",
    "hints_oldest_s": "Age of the oldest write kept for a replica that was away",
    "regions_marked": "Parts of the hash space, of 256, that wait to be compared because copies may be missing",
    "oldest_comparison_s": "Age of the oldest comparison of replicas, over all of the hash space",
    "keys_repaired": "Keys that comparisons brought to a replica that lacked them",
    "refill_regions_left": "Parts of the hash space, of 256, that suspect nodes have yet to be refilled with",
    "keys_below_n": "Keys known to lack a copy: what is kept for replicas that were away, and damaged records",
}
"""What `Durability.figures` has, always all of it."""

_QUORUM = re.compile(r"(\d+)/(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class Durability:
    """`state` is one of `STATES`; `reasons` says in words why it isn't `ok`, and is empty when it is."""

    state: str
    reasons: tuple[str, ...]
    figures: Mapping[str, float | None]

    def told(self) -> dict[str, object]:
        """As `/status` has it: figures are strings, as everywhere there, and those that nobody tells are left out."""
        known = {name: number_text(value) for name, value in self.figures.items() if value is not None}
        return {"state": self.state, "reasons": list(self.reasons), **known}


def out_of_reach(reason: str) -> Durability:
    """The verdict where nobody answers: nothing is known but that."""
    return Durability(FAILING, (reason,), dict.fromkeys(FIGURES))


def number_text(value: float) -> str:
    """A figure as STATS have it: whole numbers without a point."""
    return str(int(value)) if value == int(value) else f"{value:.3f}"


def number_in(stats: Stats, name: str) -> float | None:
    """A figure of some STATS; None where it isn't told, or is no finite number."""
    try:
        number = float(stats.get(name, "nan"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def durability_of(coordinators: Mapping[str, Stats], nodes: Mapping[str, Stats]) -> Durability:
    """The verdict on a cluster. `coordinators` has the STATS of those who place files, by name: the proxies, or a web
    tier with `--direct`; `nodes` those of the nodes, each with its `state` and, when something is wrong, `error`."""
    placing = [stats for stats in coordinators.values() if stats.get("state") != "dead"]
    alive = {name: stats for name, stats in nodes.items() if stats.get("state") != "dead"}
    suspect = [name for name, stats in alive.items() if _is_suspect(name, stats, placing)]
    figures: dict[str, float | None] = dict.fromkeys(FIGURES)
    if nodes:
        figures |= {
            "nodes_dead": len(nodes) - len(alive),
            "nodes_suspect": len(suspect),
            "nodes_reserve_short": _sum(alive.values(), "reserve_short"),
            "oldest_unsynced_write_s": _most(alive.values(), "oldest_unsynced_write_s"),
            "oldest_scrub_s": _most(alive.values(), "last_scrub_age_s"),
            "corrupt_records": _sum(alive.values(), "corrupt_records"),
            "damaged_records": _sum(alive.values(), "damaged_records"),
            "tombstones": _sum(alive.values(), "tombstones"),
            "disk_free_bytes": _least(alive.values(), "disk_free_bytes"),
        }
    figures |= {
        "hints_waiting": _sum(placing, "hints_waiting"),
        "hints_oldest_s": _most(placing, "hints_oldest_s"),
        "regions_marked": _most(placing, "comparison_marked"),
        "oldest_comparison_s": _most(placing, "comparison_oldest_s"),
        "tombstones_oldest_s": _least(placing, "tombstones_oldest_s"),
        "keys_repaired": _sum(placing, "comparison_repaired_keys"),
        "refill_regions_left": _most(placing, "refill_regions_left"),
    }
    lacking = [figure for figure in (figures["hints_waiting"], figures["damaged_records"]) if figure is not None]
    figures["keys_below_n"] = sum(lacking) if lacking else None
    if not nodes:
        return Durability(UNKNOWN, ("nobody here tells of nodes",), figures)
    reasons = [
        *_trouble_of(coordinators),
        *_trouble_of(nodes, suspect),
        *(line for name, stats in alive.items() for line in _unease_of(name, stats)),
        *_backlog_in(figures),
    ]
    lost = _quorum_lost(placing, nodes, len(nodes) - len(alive) + len(suspect))
    if not placing and coordinators:
        lost = f"none of {len(coordinators)} proxies answers"
    state = FAILING if lost else RECOVERING if reasons else OK
    return Durability(state, (lost, *reasons) if lost else tuple(reasons), figures)


def _is_suspect(name: str, stats: Stats, placing: Iterable[Stats]) -> bool:
    return stats.get("state") == "suspect" or any(own.get(f"{name}/state") == "suspect" for own in placing)


def _trouble_of(servers: Mapping[str, Stats], suspect: Iterable[str] = ()) -> list[str]:
    """A line for each server that is dead, suspect, or has an error of its own."""
    lines = []
    for name, stats in servers.items():
        state = "suspect" if name in suspect else stats.get("state", "ok")
        error = stats.get("error", "").removeprefix(f"{name}: ")
        if state != "ok":
            lines.append(f"{name} is {state}: {error}" if error else f"{name} is {state}")
        elif error:
            lines.append(f"{name}: {error}")
    return lines


def _unease_of(name: str, stats: Stats) -> list[str]:
    """What a node that answers says of its own disk."""
    lines = []
    if damaged := number_in(stats, "damaged_records"):
        lines.append(f"{name} has {_counted(damaged, 'damaged record')} to be written again")
    if (unsynced := number_in(stats, "oldest_unsynced_write_s")) and unsynced > STUCK_S:
        lines.append(f"{name} has writes that wait for its disk for {unsynced:.0f} s")
    if number_in(stats, "reserve_short"):
        lines.append(f"{name} is short of disk: its reserve is given away")
    return lines


def _backlog_in(figures: Mapping[str, float | None]) -> list[str]:
    lines = []
    if hints := figures["hints_waiting"]:
        age = figures["hints_oldest_s"]
        since = "" if age is None else f", the oldest for {age:.0f} s"
        lines.append(f"{_counted(hints, 'write')} kept for replicas that were away{since}")
    if marked := figures["regions_marked"]:
        lines.append(f"{marked:.0f} of 256 parts of the files to be compared, since copies may be missing")
    if left := figures["refill_regions_left"]:
        lines.append(f"{left:.0f} of 256 parts of the files to be brought to nodes that lost them")
    return lines


def _quorum_lost(placing: Iterable[Stats], nodes: Mapping[str, Stats], away: int) -> str:
    """What it means, in words, when so many nodes are dead or suspect that some file may have no quorum; else empty."""
    if away == len(nodes):
        return "no node can be counted on"
    for own in placing:
        if found := _QUORUM.fullmatch(own.get("quorum", "")):
            copies, writes, reads = (int(number) for number in found.groups())
            left = copies - min(away, copies)
            words = [word for word, wanted in (("read", reads), ("written", writes)) if left < wanted]
            some = "some files" if len(nodes) > copies else "files"
            return f"{some} can't be {' or '.join(words)}: {away} of {len(nodes)} nodes are away" if words else ""
    return ""


def _counted(count: float, word: str) -> str:
    return f"{count:.0f} {word}{'' if count == 1 else 's'}"


def _known(servers: Iterable[Stats], name: str) -> list[float]:
    return [value for stats in servers if (value := number_in(stats, name)) is not None]


def _sum(servers: Iterable[Stats], name: str) -> float | None:
    known = _known(servers, name)
    return sum(known) if known else None


def _most(servers: Iterable[Stats], name: str) -> float | None:
    return max(_known(servers, name), default=None)


def _least(servers: Iterable[Stats], name: str) -> float | None:
    return min(_known(servers, name), default=None)


# --- thresholds ----------------------------------------------------------------------------------------

_LIMIT = re.compile(r"([a-z_]+)\s*([<>])\s*([0-9]+(?:\.[0-9]+)?)")


@dataclass(frozen=True, slots=True)
class Limit:
    """What one figure must not be: `above` (or else below) `bound`. Written `name>bound` or `name<bound`."""

    name: str
    above: bool
    bound: float

    def __str__(self) -> str:
        return f"{self.name}{'>' if self.above else '<'}{number_text(self.bound)}"

    def broken_by(self, durability: Durability) -> bool:
        """Whether the figure is known and beyond the bound. A figure that nobody tells breaks no limit."""
        value = durability.figures[self.name]
        return value is not None and (value > self.bound if self.above else value < self.bound)


def parse_limit(text: str) -> Limit:
    """Read `name>bound` or `name<bound`. Raises `ValueError` with what is wrong."""
    found = _LIMIT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not name>number or name<number, as in nodes_suspect>0")
    name, sign, bound = found.groups()
    if name not in FIGURES:
        near = difflib.get_close_matches(name, FIGURES, n=1)
        raise ValueError(f"there is no figure {name}; {f'{near[0]} is meant?' if near else ', '.join(FIGURES)}")
    return Limit(name, sign == ">", float(bound))
