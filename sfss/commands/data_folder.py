"""The folder that a local cluster lives in: who may use it, what it was founded with, and where things lie.

lock            held by the `sfss up` that runs; holds its process id, and is empty after a clean stop
cluster.json    what the folder was founded with, which later starts must repeat, and what it has grown to
node-0/ …       one node's data each (docs/format.rst)
proxy-0/ …      one proxy's state each
conf/           the configuration that the proxies were started with; written anew by each start
log/            what each part said, rotated by size
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sfss.errors import SetupError

FORMAT = 2
"""What a folder that has grown is written as; others are 1, so that an older sfss may use them."""

NODES_MAX = 64


@dataclass(frozen=True, slots=True)
class Founding:
    """What all starts on one folder have in common: how many nodes there are, and their first port. The ring names
    nodes by their addresses, so another port would be another ring.

    In a folder that has grown there were `first_nodes` at first, and `joined_nodes` are in the ring for sure; 0 is
    all of them."""

    nodes: int
    node_port: int
    first_nodes: int = 0
    joined_nodes: int = 0

    @property
    def founders(self) -> range:
        """The nodes of the first ring."""
        return range(self.first_nodes or self.nodes)

    @property
    def joining(self) -> range:
        """The nodes that are still to be brought into the ring."""
        return range(self.joined_nodes or self.nodes, self.nodes)

    def with_nodes(self, nodes: int) -> Founding:
        """The same with more of them, which are to be brought into the ring, or with fewer."""
        joined = min(self.joined_nodes or self.nodes, nodes)
        first = self.first_nodes or self.nodes
        return replace(self, nodes=nodes, first_nodes=first, joined_nodes=joined if joined < nodes else 0)

    def grown(self) -> Founding:
        """The same when all are in the ring."""
        return replace(self, joined_nodes=0)

    def given_up(self) -> Founding:
        """The same without those that are not."""
        return self.with_nodes(self.joined_nodes or self.nodes)

    def document(self) -> dict[str, int]:
        """What is kept of it."""
        kept = {"nodes": self.nodes, "node_port": self.node_port}
        if not self.first_nodes:
            return {"format": 1, **kept}
        return {"format": FORMAT, **kept, "first_nodes": self.first_nodes, "joined_nodes": self.joined_nodes}


class DataFolder:
    """A locked data folder. `close` gives it back."""

    def __init__(self, path: Path) -> None:
        """Make and lock the folder. Raises `SetupError`: no permission, no room, in use, or something else's."""
        self.path = path
        with _refusals(path):
            _check_ours(path)
            path.mkdir(parents=True, exist_ok=True)
            for name in ("conf", "log"):
                (path / name).mkdir(exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip()
            os.close(self._lock)
            raise SetupError(
                f"{path} is in use by `sfss up` with process id {owner or 'unknown'}; "
                "stop that one, or choose another folder with --data"
            ) from None
        self.ended_uncleanly = os.fstat(self._lock).st_size > 0
        """Whether the last `sfss up` was killed; its parts may still be stopping."""
        # On a full disk the process id is left out rather than the start refused: files can still be read.
        with _unless_full():
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    def close(self) -> None:
        """Give the folder back; idempotent."""
        if self._lock >= 0:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = -1

    def founding(self, nodes: int | None, node_port: int | None, otherwise: Founding) -> Founding:
        """What to start with: what the folder was founded with, else what is asked for (None: `otherwise`). It may be
        asked to have more nodes than before, or fewer: whether those can go the ring has to say (`local_ring`).

        Raises `SetupError` where another port is asked for. Writes nothing: see `found`."""
        founded = self.founded()
        if founded is None:
            return Founding(nodes or otherwise.nodes, node_port or otherwise.node_port)
        if node_port is not None and node_port != founded.node_port:
            raise SetupError(
                f"{self.path} was founded with {founded.node_port} as the first node's port, not {node_port}: its "
                f"files are placed by that; start with --node-port {founded.node_port}, or choose another folder with "
                "--data"
            )
        return founded if nodes in (None, founded.nodes) else founded.with_nodes(nodes)

    def found(self, founding: Founding) -> None:
        """Note durably what the folder was founded with, and what it has grown to."""
        self.write("cluster.json", json.dumps(founding.document()) + "\n")

    def write(self, name: str, text: str) -> Path:
        """Replace a file of the folder at once and durably; leaves one alone that says the same."""
        path = self.path / name
        data = text.encode()
        with _refusals(self.path):
            if path.exists() and path.read_bytes() == data:
                return path
            new = path.with_name(path.name + ".new")
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            new.replace(path)
            folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return path

    def founded(self) -> Founding | None:
        """What the folder was founded with, and what it has grown to; None for a new one. Raises `SetupError`."""
        path = self.path / "cluster.json"
        try:
            fields = json.loads(path.read_bytes())
            if fields["format"] > FORMAT:
                raise SetupError(f"{path} was written by a newer sfss; use that one")
            return Founding(
                nodes=int(fields["nodes"]),
                node_port=int(fields["node_port"]),
                first_nodes=int(fields.get("first_nodes", 0)),
                joined_nodes=int(fields.get("joined_nodes", 0)),
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SetupError(f"can't read {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SetupError(f"{path} is damaged; it held how many nodes there are and their first port") from None


def _check_ours(path: Path) -> None:
    """Refuse to found a cluster in or over what belongs to one already."""
    if not path.is_dir() or (path / "cluster.json").exists():
        return
    if (path / "identity").exists():
        raise SetupError(
            f"{path} is the data directory of one node; choose the folder that it lies in, or an empty one"
        )
    nodes = sorted(entry.name for entry in path.glob("node-*") if entry.name.removeprefix("node-").isdecimal())
    if nodes:
        raise SetupError(
            f"{path} has {', '.join(nodes)} and no cluster.json, which says what it was founded with; put that back, "
            "or choose another folder with --data"
        )


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn what the system says about a folder that can't be used into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise SetupError(f"no permission to write in {path}; choose another folder with --data") from None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SetupError(f"no room left in {path}; free some, or choose another folder with --data") from None
        raise SetupError(f"can't use {path}: {error.strerror}; choose another folder with --data") from None


@contextmanager
def _unless_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
