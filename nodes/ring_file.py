"""The file `ring`: the ring that a node has, what it said about the next one, and what it has let go.

Written before anything of it is answered. There is none until a node takes part in a change of its cluster's ring.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, field, replace
from pathlib import Path

from nodes.dropped import Dropped, Range
from nodes.identity import IDENTITY, DataDirectory, NodeState
from nodes.small_file import read_small_file, replace_small_file
from sfss.errors import BadRequest, SetupError
from sfss.ring_keeper import HeldRing, KeptRing
from sfss.ring_record import RingRecord

RING = "ring"
_MAGIC = "sfss-node-ring"


@dataclass(frozen=True, slots=True)
class RingFile:
    """Its content. `removing` are partitions whose records are dead and may still be in the index; the rest of
    `dropped` is surely out of it."""

    kept: KeptRing = field(default_factory=KeptRing)
    dropped: Dropped = field(default_factory=Dropped)
    removing: tuple[Range, ...] = ()

    def encode(self, oldest: int) -> bytes:
        """One line of JSON. `oldest` is that of `Dropped.pack`. The founded ring is the identity's, and left out."""
        kept = self.kept
        packed = self.dropped.pack(oldest)
        content = {
            "accepted": _line(kept.accepted),
            "ballot": kept.ballot,
            "forgot": kept.forgot,
            "dropped": b64encode(packed).decode(),
            "promised": kept.promised,
            "record": _line(kept.held.record),
            "removing": self.removing if packed else (),
        }
        return json.dumps(content).encode()


def read_ring_file(directory: Path, state: NodeState) -> RingFile:
    """What a data directory has. Raises `SetupError` where the file is damaged, missing, or older than it was."""
    path = directory / RING
    if not path.exists():
        if state.taught:
            raise SetupError(f"{path} is missing, and the node's ring was there: put it back, or wipe the directory")
        return RingFile(KeptRing(HeldRing(state.ring, state.fingerprint)))
    body = read_small_file(path, _MAGIC)
    try:
        content = json.loads(body)
        record, accepted = _record(content["record"]), _record(content["accepted"])
        held = HeldRing.of(record) if record is not None else HeldRing(state.ring, state.fingerprint)
        forgot = int(content["forgot"])
        # Versions that didn't note in the identity who is mute noted a number here that no ring will have, and let go
        # of it before they were trusted again: a kill could come between.
        if not state.suspect:
            forgot = min(forgot, held.number + 1)
        kept = KeptRing(held, int(content["promised"]), int(content["ballot"]), accepted, forgot)
        dropped = Dropped.unpack(b64decode(content["dropped"]))
        removing = tuple((int(first), int(end)) for first, end in content["removing"])
    except (BadRequest, ValueError, TypeError, KeyError) as error:
        raise SetupError(f"{path} is damaged: {error}; restore it or wipe the directory") from None
    if held.number < state.ring:
        raise SetupError(
            f"{path} has ring {held.number}, and the node had {state.ring}: it is an older copy; put the newer one "
            "back, or wipe the directory"
        )
    return RingFile(kept, dropped, removing)


def look_at_ring(directory: Path) -> KeptRing | None:
    """What the data directory of a node that is stopped tells about rings; None where there is no such directory.
    Raises `SetupError` as `read_ring_file` does, and where the node runs."""
    if not (directory / IDENTITY).exists():
        return None
    opened = DataDirectory.open(directory, create=False)
    try:
        return read_ring_file(directory, opened.load()).kept
    finally:
        opened.close()


def write_ring_file(directory: Path, body: bytes) -> None:
    """Put another content in its place, durably. Raises `OSError`."""
    replace_small_file(directory / RING, _MAGIC, body)


def with_ring(state: NodeState, file: RingFile) -> NodeState:
    """The state as the file has its ring, and says whether it is mute: a crash, or an upgrade, may have come between
    the two."""
    held = file.kept.held
    mute = state.mute or file.kept.forgot > held.number + 1
    return replace(state, ring=held.number, fingerprint=held.fingerprint, taught=held.record is not None, mute=mute)


def _line(record: RingRecord | None) -> str:
    return record.encode().decode() if record is not None else ""


def _record(line: str) -> RingRecord | None:
    return RingRecord.decode(line.encode()) if line else None
