"""The storage contract: what every tier offers to the one above it.

`Store` is what users of the service see: the newest live file under a key. A node's disk store, a coordinator,
a memcache client and the in-memory store of the tests implement it, so each of them can stand behind the web
tier or behind the memcache server.

`GroupStore` is for stores that serve several keys in one request.

`Replica` is what a coordinator sees of one node: raw records with their versions, tombstones included, and
writes that are stored only if newer. A node's disk store and the memcache client (to a node) implement it.

`Comparable` is for replicas that keep a hash tree over what they hold, `Purgeable` for those that forget tombstones
when they are told that nobody needs them any more, `Refillable` for those that know when they have forgotten something.

`Updater` is for stores that can read, decide and write one key atomically. A coordinator is none.

Answers come as `Reply`: the value itself when it is known at once, or a promise of it. No task is made where the
answer is at hand, which on a node is most of the time. A caller may cancel or drop the promise at any time;
a write that has begun goes on. Errors (`sfss.errors`) are raised by the call or set on the promise; a caller
handles both alike with `await settled(...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from sfss.groups import Item as Item
from sfss.promise import Promise
from sfss.record import NO_CALL as NO_CALL
from sfss.record import Applied as Applied
from sfss.record import Call as Call
from sfss.record import Record as Record
from sfss.record import Written as Written
from sfss.record import checksum_of as checksum_of
from sfss.record import hex16 as hex16

T = TypeVar("T")
Reply: TypeAlias = T | Promise[T]

VALUE_BYTES_MAX: Final = 2 * 1024 * 1024
"""Largest file, in bytes (inclusive)."""

WIRE_VALUE_BYTES_MAX: Final = VALUE_BYTES_MAX + 64 * 1024
"""Largest value on the memcache wire: a file, with slack for what a client may wrap around it."""

KEY_BYTES_MAX: Final = 250
"""Longest key, in bytes; memcached's limit."""


async def settled(reply: Reply[T]) -> T:
    """Wait for a reply, whether it is at hand or still to come."""
    if isinstance(reply, Promise):
        return await reply
    return reply


class Store(Protocol):
    """Files by key. Keys are 1 … 250 bytes that `sfss.keys.check_key` allows; the caller has checked them."""

    def get(self, key: bytes, call: Call = NO_CALL) -> Reply[Record | None]:
        """The newest live record, or None where there is none (never stored, deleted or expired)."""

    def head(self, key: bytes, call: Call = NO_CALL) -> Reply[Record | None]:
        """The same without the value (empty in the answer; `size` is right)."""

    def set(self, key: bytes, value: bytes, flags: int = 0, expires: int = 0, call: Call = NO_CALL) -> Reply[Written]:
        """Create or replace. `flags` 32 bits; `expires` absolute Unix seconds, 0 for never."""

    def delete(self, key: bytes, call: Call = NO_CALL) -> Reply[Written | None]:
        """Delete. None where no live record was; then nothing is written."""

    def stats(self, topic: str = "", call: Call = NO_CALL) -> Reply[dict[str, str]]:
        """Figures by name (docs/wire.rst), all strings. `topic` as in `stats <topic>`; `BadRequest` if unknown."""


@runtime_checkable
class GroupStore(Protocol):
    """A store that serves several keys in one request. In the lists that are answered, errors stand as values."""

    def get_many(self, keys: Sequence[bytes], call: Call = NO_CALL) -> list[Any] | Promise[list[Any]]:
        """For each key `Record`, None or an error; `LeftOut` of those to be asked for alone."""

    def set_many(self, items: Sequence[Item], call: Call = NO_CALL) -> list[Any] | Promise[list[Any]]:
        """For each item `Written` or an error. Two items of one key are two writes at a time: either may stay."""


@runtime_checkable
class GroupReplica(Protocol):
    """A replica that takes several reads, or stamped writes, in one request. In the lists that are answered, errors
    stand as values."""

    def read_group(self, keys: Sequence[bytes], whole: bool, call: Call = NO_CALL) -> list[Any] | Promise[list[Any]]:
        """For each key what `read` answers, or `inspect` where not the `whole` record is asked for; or an error."""

    def apply_group(
        self, keys: Sequence[bytes], records: Sequence[Record], call: Call = NO_CALL
    ) -> list[Any] | Promise[list[Any]]:
        """For each record `Applied` or an error."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a node says it is. `cluster` is empty and `ring` 0 while it belongs to none.

    `node` names the data directory, and stays with it; `epoch` rises with each start; `position` is a number of bytes
    that never falls (what was ever durably appended). `state` is `ok`, or `suspect` when the node may have forgotten
    acknowledged writes. `start` is a random word of this start; empty where it isn't told.
    """

    node: str
    cluster: str = ""
    ring: int = 0
    fingerprint: str = ""
    epoch: int = 0
    position: int = 0
    state: str = "ok"
    start: str = ""


class Seen(NamedTuple):
    """What is remembered of a node: the start that it was last seen in, the highest position that it told then, and by
    which name it is in the ring."""

    node: str
    epoch: int
    start: str
    position: int
    name: str = ""


@runtime_checkable
class Replica(Protocol):
    """One node as a coordinator sees it: raw records, and writes that are stored only if newer."""

    def read(self, key: bytes, call: Call = NO_CALL) -> Reply[Record | None]:
        """The newest durable record, tombstones and expired ones included; None if it never heard of the key."""

    def inspect(self, key: bytes, call: Call = NO_CALL) -> Reply[Record | None]:
        """The same without the value, and without touching a volume."""

    def apply(self, key: bytes, record: Record, call: Call = NO_CALL) -> Reply[Applied]:
        """Store `record` if it is newer than what is held. Idempotent. Refuses a wrong checksum
        (`BadRequest`), a version more than 10 minutes ahead of the node's clock or below its fence (`BadRequest`), a
        ring that isn't the node's (`WrongCluster`)."""

    def identify(self) -> Reply[Identity]:
        """Who the node is."""

    def bind(self, cluster: str, ring: int, fingerprint: str) -> Reply[Identity]:
        """Make an unbound, empty node part of a cluster, durably; `cluster` `new` makes up an id. A bound one
        changes nothing and answers who it is: the caller compares. Refuses (`WrongCluster`) an unbound node that
        holds files."""


@runtime_checkable
class Comparable(Protocol):
    """A replica that tells what it holds by a hash tree, so that two are compared without naming every record."""

    def hashes(self, prefix: bytes, call: Call = NO_CALL) -> Reply[bytes]:
        """What lies below a place of the tree, which 0 to 16 lowercase hex digits name: with up to 3 the digests of its
        sixteen children, with more the records themselves. All of it is durable. The text is that of docs/wire.rst;
        `sfss.hash_tree` reads it."""


class Purged(NamedTuple):
    """How far a replica has purged a region of the hash space. The argument: docs/replication.rst.

    It stores nothing with a version below `fence`, since under the ring of number `ring` all owners were found to hold
    the same there; 0 where it is open. Then `ring` is still that number where nothing but a change of the ring opened
    it, and 0 where something may have been lost. Tombstones, and files that have expired, with a `purge_stamp` below
    `bound` don't count any more: they are left out of trees and listings, and gone sooner or later. `now` is the
    replica's clock as a stamp.
    """

    ring: int = 0
    fence: int = 0
    bound: int = 0
    now: int = 0


@runtime_checkable
class Purgeable(Protocol):
    """A replica that forgets the tombstones that no owner needs any more. A region is all keys whose hashes begin with
    one byte."""

    def purged(self, region: int) -> Reply[Purged]:
        """How far a region is purged; also while the replica is suspect."""

    def purge(self, region: int, ring: int, fence: int, bound: int) -> Reply[Purged]:
        """Move fence and bound of a region up to these, durably; a fence of 0 opens it, and leaves the bound. The bound
        may follow after the answer. Refuses a ring that isn't the node's (`StaleRing`), a bound above the fence or a
        fence ahead of its clock (`BadRequest`), and while older writes are under way (`Busy`)."""


@runtime_checkable
class Refillable(Protocol):
    """A replica that may have forgotten acknowledged writes (`Identity.state` is `suspect`), and can get them back."""

    def hashes_held(self, prefix: bytes, call: Call = NO_CALL) -> Reply[bytes]:
        """The same as `Comparable.hashes`, but also while it is suspect: what it has, not what it should have."""

    def trust(self, epoch: int) -> Reply[Identity]:
        """Count again, durably: since it was last started, with this `epoch`, it got all that it may have forgotten.
        Refuses (`BadRequest`) another epoch. One that isn't suspect changes nothing."""

    def recall(self, seen: Seen) -> Reply[Identity]:
        """Hear what is remembered of it, and say who it is. One that can't have been that went back: it is suspect,
        with an epoch above what was seen, and durably so before it answers. What was seen of another node changes
        nothing."""

    def adopt(self, cluster: str, ring: int, fingerprint: str, node: str) -> Reply[Identity]:
        """Make an unbound, empty node take the place, and the id, of one of the cluster's that lost its directory:
        suspect, durably. A bound one changes nothing and answers who it is: the caller compares. Refuses
        (`WrongCluster`) an unbound node that has had files."""


@runtime_checkable
class Witness(Protocol):
    """A replica that keeps in mind what was seen of the others, for coordinators that weren't there."""

    def witness(self, told: Sequence[Seen]) -> Reply[tuple[Seen, ...]]:
        """Keep what is later than what it has, and tell all that it has then: a start that it hadn't heard of durably.
        Refuses (`WrongCluster`) while it belongs to no cluster."""


class Change(NamedTuple):
    """What an `Updater` is asked to do with a key: `keep` it as it is, `delete` it, or (neither) store the given value.
    `answer` is handed back to the caller."""

    answer: object = None
    keep: bool = False
    delete: bool = False
    value: bytes = b""
    flags: int = 0
    expires: int = 0


@runtime_checkable
class Updater(Protocol):
    """A store that can read, decide and write one key atomically."""

    def update(
        self, key: bytes, change: Callable[[Record | None], Change], call: Call = NO_CALL
    ) -> Reply[tuple[Change, Record | None, Written]]:
        """Call `change` with the newest live record (pending ones included; `value` present), carry out what it
        returns, and answer once that, and whatever it was decided on, is durable: the change, the record seen, and
        what was written (for `keep`: the seen record's version). An exception of `change` is passed on, and nothing
        is written."""


@runtime_checkable
class Flushable(Protocol):
    """A store that can forget everything, for servers started with --allow-flush."""

    def flush(self) -> Reply[None]:
        """Delete every file stored before this call."""
