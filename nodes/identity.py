"""A data directory: whose it is, and who works in it.

`identity` is a small file (`nodes.small_file`) with one JSON object.
`lock` is held by flock as long as the process lives, so that two processes never write one directory.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from nodes.small_file import UNFINISHED, read_small_file, replace_small_file
from nodes.volume import make_directory
from sfss.errors import SetupError
from sfss.store import Identity, Seen

_MAGIC = "sfss-node-directory"
IDENTITY = "identity"
_LOCK = "lock"

LOG_FILE = "node.log"
"""Where a node in the background logs to; the rest of the code never looks at it."""

STARTS_MAX = 256
"""Words of so many starts are kept."""

_HARMLESS = (_LOCK, IDENTITY + UNFINISHED, LOG_FILE)


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node must know about itself over a restart.

    `node` names the directory for ever, in volumes and index too; `member` is the node id that it is known by where it
    took the place of one that was lost, else empty. `cluster`, `ring` and `fingerprint` defend against being used by a
    coordinator that places keys otherwise. `epoch` rises with each start; `starts` are the random words of the last
    ones, this one's at the end, and `since` is the epoch from which on they count (`nodes.lineage`). `position` is one
    that was durable, and `stamp_floor` one that was never passed by a stamp issued: both defend against an older copy
    of the directory, or a lost tail, going unnoticed. `suspect` is the reason why acknowledged writes may be missing,
    empty if they are not. `closed` tells whether the last stop was clean. `taught`: the ring is one that was learnt, so
    the file `ring` (`nodes.ring_file`) must be there. `scrubbed_at` (Unix seconds, 0 never) is when all volumes had
    last been scrubbed, and `scrub_next` the volume to go on with in the pass that is under way, 0 for none: both defend
    against restarts that keep scrubbing from ever coming to an end. `others` is what was seen of other nodes of the
    cluster (`sfss.sightings`). `mute`: what it said about the next ring may be forgotten, so it has no say on it."""

    node: str
    cluster: str = ""
    ring: int = 0
    fingerprint: str = ""
    epoch: int = 0
    position: int = 0
    stamp_floor: int = 0
    suspect: str = ""
    closed: bool = True
    member: str = ""
    starts: tuple[str, ...] = ()
    since: int = 0
    taught: bool = False
    scrubbed_at: float = 0.0
    scrub_next: int = 0
    others: tuple[Seen, ...] = ()
    mute: bool = False

    def word_of(self, epoch: int) -> str:
        """The word of a start up to this one; empty where that isn't known any more."""
        place = len(self.starts) - 1 - (self.epoch - epoch)
        return self.starts[place] if place >= 0 else ""

    @property
    def node_bytes(self) -> bytes:
        """The node id as volumes carry it; 16 bytes."""
        return bytes.fromhex(self.node)

    def identity(self, position: int) -> Identity:
        """What is told to coordinators. `position` is the one that is durable now."""
        return Identity(
            node=self.member or self.node,
            cluster=self.cluster,
            ring=self.ring,
            fingerprint=self.fingerprint,
            epoch=self.epoch,
            position=position,
            state="suspect" if self.suspect else "ok",
            start=self.word_of(self.epoch),
        )


class DataDirectory:
    """One node's directory, locked by this process until `close`."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self.volumes = path / "volumes"
        self.index = path / "index"
        self.reserve = path / "reserve"
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, path: Path, create: bool = True) -> DataDirectory:
        """Lock a data directory; make one where there is none and `create` says so. Raises `SetupError` with one line
        for whatever stands in the way."""
        try:
            if not create and not (path / IDENTITY).exists():
                raise SetupError(f"{path} is not the data directory of a node: it has no file {IDENTITY!r}")
            make_directory(path)
            lock_fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SetupError(f"data directory {path} can't be used: {error.strerror or error}") from None
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            directory = cls(path, lock_fd)
            if not (path / IDENTITY).exists():
                directory._make_new()
        except OSError as error:
            os.close(lock_fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise SetupError(f"data directory {path} is in use by another process; stop that one first") from None
            raise SetupError(f"data directory {path} can't be used: {error.strerror or error}") from None
        except BaseException:
            os.close(lock_fd)
            raise
        return directory

    def _make_new(self) -> None:
        strangers = sorted(entry.name for entry in self.path.iterdir() if entry.name not in _HARMLESS)
        if self._holds_data() or (strangers and not set(strangers) <= {"volumes", "index", "reserve"}):
            raise SetupError(
                f"{self.path} has no file {IDENTITY!r} but holds {', '.join(strangers)}; "
                "name an empty directory, or put that file back"
            )
        self.volumes.mkdir(mode=0o700, exist_ok=True)
        self.index.mkdir(mode=0o700, exist_ok=True)
        self.save(NodeState(node=uuid.uuid4().hex))

    def _holds_data(self) -> bool:
        return self.volumes.is_dir() and any(self.volumes.iterdir())

    def load(self) -> NodeState:
        """Read who the node is. Raises `SetupError` for a damaged file or a newer format."""
        fields = json.loads(read_small_file(self.path / IDENTITY, _MAGIC))
        starts = tuple(fields.get("starts", ()))
        others = tuple(Seen(*one) for one in fields.get("others", ()))
        return NodeState(**fields | {"starts": starts, "others": others})

    def save(self, state: NodeState) -> None:
        """Replace who the node is, durably."""
        replace_small_file(self.path / IDENTITY, _MAGIC, json.dumps(asdict(state), sort_keys=True).encode())

    def close(self) -> None:
        """Let another process in."""
        os.close(self._lock_fd)
