"""sfss: what coordinators ask of nodes besides records. Who they are, how far they are purged, what their ring is.

Some forms have a block, whose length is the line's last word. Their other words are looked at when the block is in: a
refusal before would leave the block to be read as commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sfss.errors import BadRequest
from sfss.hash_tree import is_prefix
from sfss.memcache.answers import Answer, Buffers, answer, with_block
from sfss.memcache.commands.words import number_of
from sfss.memcache.requests import Command, Request
from sfss.memcache.service import Service
from sfss.ring import PARTITIONS_MAX
from sfss.ring_keeper import BALLOT_MAX, Accepted, HeldRing, Nack, Promised
from sfss.ring_record import RING_NUMBER_MAX, RingRecord
from sfss.sightings import EPOCH_MAX, POSITION_MAX, decode, encode
from sfss.store import Identity, Purged, Reply, Seen

_NUMBER_MAX = 2**63
_NODE_ID = re.compile(b"[0-9a-f]{32}").fullmatch
_SIZE_MAX = 2**62
_STAMP_MAX = 2**64 - 1
_USAGE = (
    "usage: sfss identity | bind <cluster or new> <ring> <fingerprint> | trust <epoch> |"
    " recall <node> <epoch> <start> <position> | adopt <cluster> <ring> <fingerprint> <node> |"
    " witness <bytes> | ring |"
    " ring prepare <number> <ballot> | ring accept <number> <ballot> <bytes> | ring learn <bytes> |"
    " ring left <number> | drop <ring> <partition> | purged <region> | purge <region> <ring> <fence> <bound>"
)


def _parse(command: Command, words: list[bytes]) -> Request:
    form = tuple(words[1:3] if words[1:2] == [b"ring"] else words[1:2])
    known = _FORMS.get(form)
    if known is None or len(words) != known.words_min:
        raise BadRequest(_USAGE)
    size = number_of(words[known.size_at], _SIZE_MAX, "bad data chunk") if known.size_at else -1
    # No order: what takes long here is asked for many times over, and names no key.
    return Request(known, b"", words[1 + len(form) :], size, ordered=False)


def _identity(service: Service, request: Request) -> Answer:
    return answer(service.replica.identify(), _identity_line)


def _bind(service: Service, request: Request) -> Answer:
    cluster, ring, fingerprint = request.arguments
    bound = service.replica.bind(_text(cluster), _ring_number(ring), _text(fingerprint))
    return answer(bound, _identity_line)


def _trust(service: Service, request: Request) -> Answer:
    return answer(service.refillable.trust(number_of(request.arguments[0], _NUMBER_MAX)), _identity_line)


def _recall(service: Service, request: Request) -> Answer:
    node, epoch, start, position = request.arguments
    seen = Seen(
        _text(node),
        number_of(epoch, EPOCH_MAX, f"no node was started so often; the limit of an epoch is {EPOCH_MAX}"),
        _text(start),
        number_of(position, POSITION_MAX, f"no node has so much on disk; the limit of a position is {POSITION_MAX}"),
    )
    return answer(service.refillable.recall(seen), _identity_line)


def _witness(service: Service, request: Request) -> Answer:
    return answer(service.witness.witness(decode(request.value)), _sightings)


def _sightings(told: tuple[Seen, ...]) -> Buffers:
    block = encode(told)
    return with_block(b"WITNESS %d\r\n" % len(block), block)


def _adopt(service: Service, request: Request) -> Answer:
    cluster, ring, fingerprint, node = request.arguments
    if not _NODE_ID(node):
        raise BadRequest("a node id is 32 hex digits")
    adopted = service.refillable.adopt(_text(cluster), _ring_number(ring), _text(fingerprint), _text(node))
    return answer(adopted, _identity_line)


def _identity_line(identity: Identity) -> bytes:
    line = (
        f"IDENTITY {identity.node} {identity.cluster or '-'} {identity.ring} {identity.fingerprint or '-'}"
        f" {identity.epoch} {identity.position} {identity.state} {identity.start}"
    )
    return line.rstrip().encode() + b"\r\n"


def _purged(service: Service, request: Request) -> Answer:
    return answer(service.purgeable.purged(_region(request.arguments[0])), _purged_line)


def _purge(service: Service, request: Request) -> Answer:
    region, ring, fence, bound = request.arguments
    reply = service.purgeable.purge(
        _region(region), _ring_number(ring), number_of(fence, _STAMP_MAX), number_of(bound, _STAMP_MAX)
    )
    return answer(reply, _purged_line)


def _region(word: bytes) -> int:
    if len(word) != 2 or not is_prefix(word):
        raise BadRequest("a region is named by two hex digits")
    return int(word, 16)


def _purged_line(purged: Purged) -> bytes:
    return b"PURGED %d %d %d %d\r\n" % purged


def _tell_ring(service: Service, request: Request) -> Answer:
    return _about_ring(service.ring_keeper.tell_ring())


def _prepare_ring(service: Service, request: Request) -> Answer:
    number, ballot = request.arguments
    return _about_ring(service.ring_keeper.prepare_ring(_ring_number(number), _ballot(ballot)))


def _accept_ring(service: Service, request: Request) -> Answer:
    number, ballot, _ = request.arguments
    record = RingRecord.decode(request.value)
    if record.number != _ring_number(number):
        raise BadRequest(f"this is ring {record.number}")
    return _about_ring(service.ring_keeper.accept_ring(_ballot(ballot), record))


def _learn_ring(service: Service, request: Request) -> Answer:
    return _about_ring(service.ring_keeper.learn_ring(RingRecord.decode(request.value)))


def _leave_ring(service: Service, request: Request) -> Answer:
    return answer(service.ring_keeper.leave_ring(_ring_number(request.arguments[0])), _identity_line)


def _drop_partition(service: Service, request: Request) -> Answer:
    ring, partition = request.arguments
    number = number_of(partition, PARTITIONS_MAX - 1, "no such partition")
    dropped = service.ring_keeper.drop_partition(_ring_number(ring), number)
    return answer(dropped, lambda count: b"DROPPED %d\r\n" % count)


def _about_ring(reply: Reply[Any]) -> Answer:
    return answer(reply, _ring_line)


def _ring_line(said: HeldRing | Promised | Accepted | Nack) -> Buffers:
    if isinstance(said, HeldRing):
        return _with_record(f"RING {said.number} {said.fingerprint or '-'}".encode(), said.record)
    if isinstance(said, Promised):
        return _with_record(b"PROMISE %d" % said.ballot, said.accepted)
    return b"ACCEPTED\r\n" if isinstance(said, Accepted) else b"NACK %d\r\n" % said.ballot


def _with_record(head: bytes, record: RingRecord | None) -> Buffers:
    line = record.encode() if record is not None else b""
    return with_block(b"%b %d\r\n" % (head, len(line)), line)


def _text(word: bytes) -> str:
    return word.decode("ascii", "replace")


def _ring_number(word: bytes) -> int:
    return number_of(word, RING_NUMBER_MAX, "no number of a ring")


def _ballot(word: bytes) -> int:
    ballot = number_of(word, BALLOT_MAX, "no ballot")
    if not ballot:
        raise BadRequest("ballots begin at 1")
    return ballot


def _form(
    words: int, handle: Callable[[Service, Request], Answer], *, block: bool = False, writes: bool = True
) -> Command:
    """A row for a line of so many words, whose last one is the length of its block if it has one."""
    return Command(b"sfss", _parse, handle, words, words, words - 1 if block else 0, "replica", writes, not block)


_FORMS = {
    (b"identity",): _form(2, _identity, writes=False),
    (b"bind",): _form(5, _bind, writes=False),
    (b"trust",): _form(3, _trust, writes=False),
    (b"recall",): _form(6, _recall, writes=False),
    (b"witness",): _form(3, _witness, block=True),
    (b"adopt",): _form(6, _adopt, writes=False),
    (b"purged",): _form(3, _purged, writes=False),
    (b"purge",): _form(6, _purge),
    (b"ring",): _form(2, _tell_ring, writes=False),
    (b"ring", b"prepare"): _form(5, _prepare_ring),
    (b"ring", b"accept"): _form(6, _accept_ring, block=True),
    (b"ring", b"learn"): _form(4, _learn_ring, block=True),
    (b"ring", b"left"): _form(4, _leave_ring),
    (b"drop",): _form(4, _drop_partition),
}

COMMANDS = (Command(b"sfss", _parse, _identity, words_max=6, needs="replica", light=True),)
