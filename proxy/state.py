"""What a proxy remembers over a restart: how far its stamps may have risen, which cluster and nodes it serves, and by
which ring, once that isn't the one of the configuration any more.

Two small text files in the state directory, each replaced whole: written beside, fsynced, renamed, the directory
fsynced. A lock keeps a second process away, which would issue the same stamps.

The ceiling of the stamps is saved ahead: stamps up to it may be issued, and the next life begins above it. It is moved
on in a thread before it is reached, so requests don't wait; where the disk is too slow for that, writes ask first.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sfss.errors import BadRequest, SetupError
from sfss.ring_record import RingRecord
from sfss.stamps import COUNT_BITS, stamp_time, too_far_ahead

_MAGIC = "sfss-proxy-state"
_RING_MAGIC = "sfss-proxy-ring"
_FORMAT = 1
_AHEAD_S = 4.0
"""How far ahead the ceiling is saved. Stamps after a restart may lie that far in the future."""

_RENEW_S = 2.0
"""With less than this left, it is saved anew."""

_RETRY_S_MIN = 0.5
_RETRY_S_MAX = 30.0
"""How soon, and how seldom at last, that is tried again where the disk fails."""

_log = logging.getLogger("sfss.proxy.state")


@dataclass(frozen=True, slots=True)
class ProxyState:
    """`ceiling` is a stamp that none issued so far exceeds. `cluster` is the cluster's id, `members` the node id last
    met at each address: both defend against serving other files than those of before. `seen` has by node id the epoch,
    the start's word and the position that were told last, and the node's name in the ring: against one that went back
    (`proxy.last_seen`)."""

    ceiling: int = 0
    cluster: str = ""
    members: dict[str, str] = field(default_factory=dict)
    seen: dict[str, tuple[Any, ...]] = field(default_factory=dict)


class StateDirectory:
    """A proxy's directory, locked by this process until `close`."""

    def __init__(self, path: Path) -> None:
        """Lock and read it; it is made where there is none. Raises `SetupError` for what stands in the way."""
        self._file = path / "state"
        self._ring_file = path / "ring"
        self._updating = threading.Lock()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SetupError(f"state directory {path} can't be used: {error.strerror or error}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.state = self._load()
            self.ring = self._load_ring()
        except BlockingIOError:
            os.close(self._lock)
            raise SetupError(f"state directory {path} is in use by another proxy; give each its own") from None
        except OSError as error:
            os.close(self._lock)
            raise SetupError(f"state directory {path} can't be used: {error.strerror or error}") from None
        except SetupError:
            os.close(self._lock)
            raise

    def update(self, **changes: Any) -> None:
        """Change fields of `state`, durably; blocks, from any thread. Raises OSError; then nothing has changed."""
        with self._updating:
            state = replace(self.state, **changes)
            self._replace_file(self._file, f"{_MAGIC} {_FORMAT}\n{json.dumps(asdict(state), sort_keys=True)}\n")
            self.state = state

    def keep_ring(self, ring: RingRecord) -> None:
        """Remember the ring in use, unless that is a later one; blocks, from any thread. Raises OSError."""
        with self._updating:
            if self.ring is None or self.ring.number < ring.number:
                self._replace_file(self._ring_file, f"{_RING_MAGIC} {_FORMAT}\n{ring.encode().decode()}\n")
                self.ring = ring

    def _replace_file(self, path: Path, text: str) -> None:
        beside = path.with_suffix(".new")
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        """Let another process in; idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _load(self) -> ProxyState:
        body = _body(self._file, _MAGIC)
        if body is None:
            return ProxyState()
        try:
            return ProxyState(**json.loads(body))
        except (ValueError, TypeError):
            raise SetupError(
                f"{self._file} is damaged; remove it (stamps then begin at the clock's time, which is safe)"
            ) from None

    def _load_ring(self) -> RingRecord | None:
        body = _body(self._ring_file, _RING_MAGIC)
        if body is None:
            return None
        try:
            return RingRecord.decode(body.rstrip("\n").encode())
        except BadRequest:
            raise SetupError(f"{self._ring_file} is damaged; remove it: the nodes tell the ring") from None


def _body(path: Path, magic: str) -> str | None:
    """What a file has below its head; None where there is no file. Raises `SetupError`."""
    try:
        head, _, body = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    except FileNotFoundError:
        return None
    words = head.split()
    if len(words) != 2 or words[0] != magic or not words[1].isdecimal():
        raise SetupError(f"{path} is not a proxy's state; name another directory, or remove the file")
    if int(words[1]) > _FORMAT:
        raise SetupError(f"{path} has format {words[1]}, newer than this program; run the one that wrote it")
    return body


class Notes:
    """Writes fields of a coordinator's state down in a thread, one save at a time and of each field the newest. A
    coordinator without a directory forgets them. For the loop's thread."""

    def __init__(self, directory: StateDirectory | None) -> None:
        self._directory = directory
        self._unsaved: dict[str, Any] = {}
        self._ring: RingRecord | None = None
        self._saving: asyncio.Future[None] | None = None
        self._failing = False
        self.state = directory.state if directory is not None else ProxyState()
        """What was written down by an earlier life."""

    def write(self, ring: RingRecord | None = None, **changes: Any) -> None:
        """Have a ring and fields of the state on disk soon. What can't be written now is tried again with the next."""
        if self._directory is not None:
            self._ring = ring or self._ring
            self._unsaved |= changes
            if self._saving is None:
                self._save(self._directory)

    def _save(self, directory: StateDirectory) -> None:
        changes, self._unsaved = self._unsaved, {}
        self._saving = asyncio.get_running_loop().run_in_executor(None, _put, directory, self._ring, changes)
        self._saving.add_done_callback(partial(self._saved, directory, changes))

    def _saved(self, directory: StateDirectory, changes: dict[str, Any], saving: asyncio.Future[None]) -> None:
        self._saving = None
        error = saving.exception()
        if error is None:
            self._failing = False
            if self._unsaved:
                self._save(directory)
            return
        self._unsaved = changes | self._unsaved
        if not self._failing:
            self._failing = True
            _log.error("the state directory can't be written: %s", error)

    async def close(self) -> None:
        """Wait for what is being written: once the directory is let go of, another process may own it."""
        while self._saving is not None:
            await asyncio.wait([self._saving])


def _put(directory: StateDirectory, ring: RingRecord | None, changes: Mapping[str, Any]) -> None:
    if ring is not None:
        directory.keep_ring(ring)
    directory.update(**changes)


def remembered(path: Path) -> ProxyState:
    """What the proxy with this state directory remembers, which may be running; nothing where it can't be read."""
    try:
        return ProxyState(**json.loads((path / "state").read_text(encoding="utf-8").partition("\n")[2]))
    except (OSError, ValueError, TypeError):
        return ProxyState()


def remembered_ring(path: Path) -> RingRecord | None:
    """The ring that the proxy with this state directory remembers, which may be running; None for the first one, and
    where it can't be read."""
    try:
        return RingRecord.decode((path / "ring").read_bytes().partition(b"\n")[2].rstrip(b"\n"))
    except (OSError, BadRequest):
        return None


class StampReserve:
    """Implements `proxy.coordinator.Reserve` over a state directory."""

    def __init__(
        self, directory: StateDirectory, now: Callable[[], float], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Save a first ceiling. `now` is Unix seconds. Raises `SetupError` if that fails."""
        self._directory = directory
        self._now = now
        self._monotonic = monotonic
        self._saving: asyncio.Future[int] | None = None
        self._retry_s = 0.0
        """How long to wait before the next try; 0 while the disk works."""
        self._retry_at = 0.0
        """When that is (monotonic seconds)."""
        self.floor = directory.state.ceiling
        """What an earlier life may have issued: stamps must be above it."""
        if too_far_ahead(self.floor, now()):
            # The clock was wrong then, or is now. Nodes refuse such stamps; lower ones are safe, and mostly taken.
            _log.warning(
                "stamps had risen to Unix time %.0f, which is too far ahead; forgotten", stamp_time(self.floor)
            )
            self.floor = 0
        try:
            self._ceiling = self._save_ahead_of(self.floor)
        except OSError as error:
            raise SetupError(
                f"the state directory can't be written: {error.strerror or error}; make room there, or choose "
                "another one"
            ) from None
        self.sure_below = self._ceiling - _stamps(_RENEW_S)

    def covers(self, stamp: int) -> bool:
        if stamp >= self.sure_below and self._saving is None and self._monotonic() >= self._retry_at:
            self._saving = asyncio.get_running_loop().run_in_executor(None, self._save_ahead_of, stamp)
            self._saving.add_done_callback(self._saved)
        return stamp <= self._ceiling

    async def close(self) -> None:
        """Wait for a save that is under way."""
        if self._saving is not None:
            await asyncio.wait([self._saving])

    def _save_ahead_of(self, stamp: int) -> int:
        ceiling = max(stamp, _stamps(self._now())) + _stamps(_AHEAD_S)
        self._directory.update(ceiling=ceiling)
        return ceiling

    def _saved(self, saving: asyncio.Future[int]) -> None:
        self._saving = None
        error = saving.exception()
        if error is None:
            self._ceiling = saving.result()
            self.sure_below = self._ceiling - _stamps(_RENEW_S)
            if self._retry_s:
                self._retry_s = 0.0
                _log.info("the state directory can be written again")
            return
        # Tried again with a later write; until it succeeds, writes past the ceiling ask first.
        if not self._retry_s:
            _log.error("the state directory can't be written, so writes ask before they are stamped: %s", error)
        self._retry_s = min(max(self._retry_s * 2, _RETRY_S_MIN), _RETRY_S_MAX)
        self._retry_at = self._monotonic() + self._retry_s


def _stamps(seconds: float) -> int:
    return int(seconds * 1000) << COUNT_BITS
