"""How much room one copy of freshly loaded files takes on a node's disk."""

from __future__ import annotations

import time
from typing import Any

from bench import ours
from bench.loads import Load, build_memload, memcache
from bench.servers import Servers
from bench.stages import Say
from bench.targets import DISK_MOST
from bench.verdict import Verdict

INDEX_S = 3.0
"""Longer than the index is behind what was written."""


def measure_disk(keys: int, say: Say) -> tuple[dict[str, Any], Verdict]:
    """Load a node with `keys` files of 4 KiB; what it has while empty (the reserve for a full disk) doesn't count."""
    with Servers() as servers:
        side = ours.node(servers)
        empty = side.disk_bytes()
        load = Load(connections=128, keys=keys)
        say(f"disk: loading a node with {keys:,} files of 4 KiB")
        memcache(build_memload(servers.scratch), side.servers[0], "fill", load)
        time.sleep(INDEX_S)
        used = side.disk_bytes() - empty
    stored = load.keys * load.bytes
    figures = {"files": keys, "bytes_stored": stored, "bytes_on_disk": used}
    name = f"bytes on disk for each byte stored, one copy, {stored / 2**20:,.0f} MiB of 4 KiB files"
    return figures, Verdict(name, used / stored, DISK_MOST, "×")
