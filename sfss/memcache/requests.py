"""The server's half of the codec: bytes in, requests out, and no I/O.

`RequestParser.feed` takes bytes as they arrive, in any cut; `next` gives the next whole `Request` (its block
included), or a `Refusal` to send for input that breaks the protocol, or None when it needs more. After a refusal the
parser is in step again: the block of a refused request is swallowed, unbuffered. Where it can't be in step, the
refusal says close.

Strategy: a line of one of the frequent forms (`Lane`) is checked and taken apart in one pass over its bytes; every
other line is split at blanks and given to its command's `parse`. Both make the same requests.
A block that arrives in pieces is kept as pieces and joined once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from sfss.errors import SfssError
from sfss.groups import GROUP_KEYS_MAX
from sfss.memcache.block import Block
from sfss.memcache.errors import BUSY, TOO_LARGE, UNKNOWN_COMMAND, UnknownCommand, client_error, error_line
from sfss.memcache.line import Line
from sfss.native import mypyc_attr
from sfss.store import NO_CALL, WIRE_VALUE_BYTES_MAX, Call, Record

if TYPE_CHECKING:
    from sfss.memcache.answers import Answer
    from sfss.memcache.service import Service

LINE_BYTES_MAX: Final = 2048
RETRIEVAL_LINE_BYTES_MAX: Final = 64 * 1024
SWALLOW_BYTES_MAX: Final = 64 * 1024 * 1024
"""A refused block longer than this isn't worth reading to its end."""

_RETRIEVALS: Final = (b"get ", b"gets ", b"gat ", b"gats ")
_FOREIGN_FIRST_BYTES: Final = (0x80, 0x16)  # memcache's binary protocol, a TLS hello
_HTTP_VERBS: Final = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE", b"PRI")
)


@mypyc_attr(free_list_len=1)
class Request:
    """One request, checked for form. `size` is the length of its block, -1 where it has none.

    `ordered`: later requests of its connection for the same key must see its effect, as memcached's clients expect;
    requests in sfss's own form ask for no order (docs/wire.rst). `needs` names what the store must offer besides
    `Store`: `replica`, `updater` or `flushable`. `writes`: it may change what is stored. `group`: the opaque that it
    has in common with its neighbours, by which they are a group; `more`: those of them that came with it, or, of reads,
    `keys`: those of all.
    `record` and `stamp`: of a stamped write, the record but for its value, and the words of its line that say so.
    """

    __slots__ = (
        "arguments",
        "call",
        "command",
        "group",
        "key",
        "keys",
        "more",
        "needs",
        "noreply",
        "ordered",
        "record",
        "size",
        "stamp",
        "value",
        "writes",
    )

    def __init__(
        self,
        command: Command,
        key: bytes,
        arguments: Any,
        size: int = -1,
        noreply: bool = False,
        ordered: bool = True,
        call: Call = NO_CALL,
    ) -> None:
        self.command = command
        self.key = key
        self.arguments = arguments
        self.size = size
        self.noreply = noreply
        self.ordered = ordered
        self.call = call
        self.needs = command.needs
        self.writes = command.writes
        self.value = b""
        self.group: bytes | None = None
        self.more: list[Request] | None = None
        self.record: Record | None = None
        self.keys: list[bytes] | None = None
        self.stamp = b""

    @property
    def lines(self) -> int:
        """How many answers it is due."""
        if self.keys is not None:
            return len(self.keys)
        return 1 if self.more is None else 1 + len(self.more)

    @property
    def members(self) -> list[Request]:
        """All requests of a group that writes."""
        return [self] if self.more is None else [self, *self.more]

    @property
    def held_bytes(self) -> int:
        """Bytes of its values."""
        size = len(self.value)
        if self.more is not None:
            for request in self.more:
                size += len(request.value)
        return size


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the command table.

    `parse` makes a request of the line's words, or raises `SfssError`. `handle` carries it out, `handle_many` a group
    of them. `like` takes a line of a group of writes up to where it ends as that of the first. A line has
    `words_min` to `words_max` words, its name among them; `flags` are the letters that a meta command takes.
    `size_at` is the place of the block's length among the words, 0 where there is no block. `needs` and `writes` are
    those of its requests, unless their flags say otherwise. `light`: it touches no file and takes no memory, so that a
    server that is short of it answers all the same.
    """

    name: bytes
    parse: Callable[[Command, list[bytes]], Request]
    handle: Callable[[Service, Request], Answer]
    words_min: int = 1
    words_max: int = 64
    size_at: int = 0
    needs: str = ""
    writes: bool = False
    light: bool = False
    flags: frozenset[bytes] = frozenset()
    handle_many: Callable[[Service, Request], Answer] | None = None
    like: Callable[[Line, Request], Request | None] | None = None


Lane: TypeAlias = Callable[[Line], "Request | None"]
"""The short way for lines of one frequent form, taken apart in one pass. It may decline (None): then the line goes the
long way."""


class Refusal(NamedTuple):
    """What to send for input that can't be served, and whether to close after it. An empty line sends nothing."""

    line: bytes
    close: bool = False


class RequestParser:
    """Cuts one connection's bytes into requests.

    `lanes` are by the first three bytes of a line. `reserve(size)` is asked for each piece of a block that doesn't
    arrive whole, and may say no, which refuses the request. It isn't asked for what was merely announced: that costs a
    peer nothing. What it granted (`reserved`) is the caller's to release once the request or its refusal is out, or
    the connection gone. With `grouping`, requests of a group that are there whole come as one, in `Request.more` or
    `Request.keys`.
    """

    def __init__(
        self,
        commands: Mapping[bytes, Command],
        lanes: dict[bytes, Lane],
        reserve: Callable[[int], bool] = lambda size: True,
        value_bytes_max: int = WIRE_VALUE_BYTES_MAX,
        grouping: bool = True,
    ) -> None:
        self._commands = commands
        self._lanes = lanes
        self._reserve = reserve
        self._value_bytes_max = value_bytes_max
        self._grouping = grouping
        self._buffer = b""
        self._at = 0
        self._end = 0
        self._line = Line()
        self._head: Request | None = None
        self._head_tail = b""
        self._block = Block(0)
        self._swallow = 0
        self._closed = False
        self.reserved = 0

    @property
    def inside(self) -> bool:
        """Whether a command has begun to arrive and isn't whole yet."""
        return self._head is not None or self._swallow > 0 or self._at < len(self._buffer)

    @property
    def waiting(self) -> int:
        """Bytes that have arrived and belong to no request yet."""
        return len(self._buffer) - self._at

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._at == len(self._buffer):
            self._buffer = data
        else:
            self._buffer = self._buffer[self._at :] + data
        self._at = 0

    def rest(self) -> bytes:
        """Give up what has arrived and belongs to no request yet, to another parser."""
        rest = self._buffer[self._at :]
        self._buffer, self._at = b"", 0
        return rest

    def next(self) -> Request | Refusal | None:
        """The next whole request, or a refusal, or None: more bytes are needed."""
        came = self._next_one()
        if isinstance(came, Request) and came.group is not None and self._grouping:
            if came.size < 0:
                self._gather_keys(came)
            else:
                self._gather(came)
        return came

    def _gather_keys(self, first: Request) -> None:
        """Take the further requests of a group of reads: those whose lines differ from that of `first` in the key only.
        Of these nothing else needs to be looked at; what says the same in another way is another group."""
        buffer, line = self._buffer, self._line
        begin, tail = first.command.name + b" ", self._tail_of(first)
        keys = [first.key]
        line.begin(buffer, self._at)
        while len(keys) < GROUP_KEYS_MAX:
            key = line.key_between(begin, tail)
            if not key:
                break
            self._at = line.at
            keys.append(key)
        line.begin(b"", 0)  # as after a line that fits
        if len(keys) > 1:
            first.keys = keys

    def _gather(self, first: Request) -> None:
        """Take the further requests of a group of writes, as far as they are there whole."""
        more: list[Request] = []
        lane = self._lanes[first.command.name + b" "]
        tail = self._tail_of(first)
        while len(more) < GROUP_KEYS_MAX - 1:
            request = self._like(first, tail) if tail else None
            if request is None:
                request = self._whole(lane)
            if request is None or not _goes_with(request, first):
                break
            self._at = self._end
            more.append(request)
        self._line.begin(b"", 0)  # as after a line that fits
        if more:
            first.more = more

    def _tail_of(self, request: Request) -> bytes:
        """What the line that was taken last has in common with the others of its group: all behind the key; of one with
        a block, all behind the last word that tells of it."""
        buffer, end = self._buffer, self._at
        if request.size >= 0:
            end -= request.size + 2
            return _tail_before(buffer, end) if end > 0 else self._head_tail
        begin = buffer.rfind(b"\n", 0, end - 1) + 1
        return buffer[begin + len(request.command.name) + 1 + len(request.key) : end]

    def _like(self, first: Request, tail: bytes) -> Request | None:
        """The next request, if its line ends as that of `first`: so that needn't be taken apart."""
        line, like = self._line, first.command.like
        line.begin(self._buffer, self._at)
        request = like(line, first) if like is not None else None
        if request is None:
            return None
        at = line.at
        end = at + len(tail)
        return self._with_block(request, end) if self._buffer[at:end] == tail else None

    def _whole(self, lane: Lane) -> Request | None:
        """The next request, if it and its block are all there."""
        line = self._line
        line.begin(self._buffer, self._at)
        request = lane(line)
        return None if request is None else self._with_block(request, line.at)

    def _with_block(self, request: Request, at: int) -> Request | None:
        """The request whose line ends at `at`, if its block is all there."""
        if not 0 <= request.size <= self._value_bytes_max:
            return None
        buffer = self._buffer
        end = at + request.size
        if buffer[end : end + 2] != b"\r\n":
            return None
        request.value = buffer[at:end]
        self._end = end + 2
        return request

    def _next_one(self) -> Request | Refusal | None:
        if self._closed:
            return None
        if self._head is not None:
            return self._next_piece(self._head)
        if self._swallow and not self._swallowed():
            return None
        buffer = self._buffer
        at = self._at
        lane = self._lanes.get(buffer[at : at + 3])
        if lane is not None:
            line = self._line
            line.begin(buffer, at)
            request = lane(line)
            if request is not None:
                self._at = line.at
                return request if request.size < 0 else self._begin_block(request)
        return self._next_line()

    def _next_line(self) -> Request | Refusal | None:
        buffer, at = self._buffer, self._at
        if at == len(buffer):
            return None
        if buffer[at] in _FOREIGN_FIRST_BYTES:
            return self._close(b"")
        longest = RETRIEVAL_LINE_BYTES_MAX if buffer.startswith(_RETRIEVALS, at) else LINE_BYTES_MAX
        end = buffer.find(b"\n", at, at + longest + 2)
        if end < 0:
            if len(buffer) - at > longest + 1:
                return self._close(client_error("line too long"))
            return None
        line = buffer[at : end - 1] if buffer[end - 1 : end] == b"\r" and end > at else buffer[at:end]
        if len(line) > longest:
            return self._close(client_error("line too long"))
        self._at = end + 1
        return self._take_line(line)

    def _take_line(self, line: bytes) -> Request | Refusal | None:
        words = [word for word in line.split(b" ") if word]
        command = self._commands.get(words[0]) if words else None
        if command is None:
            if words and words[0] in _HTTP_VERBS:
                return self._close(b"")
            return Refusal(UNKNOWN_COMMAND)
        try:
            if not command.words_min <= len(words) <= command.words_max:
                raise UnknownCommand(f"{len(words)} words")
            request = command.parse(command, words)
        except SfssError as error:
            return self._refuse(error_line(error), self._readable_size(command, words))
        return request if request.size < 0 else self._begin_block(request)

    def _readable_size(self, command: Command, words: list[bytes]) -> int:
        if command.size_at and len(words) > command.size_at:
            word = words[command.size_at]
            if word.isdigit() and len(word) <= 20:
                return int(word)
        return -1

    def _refuse(self, line: bytes, size: int) -> Refusal:
        """Refuse a request whose block of `size` bytes (-1: none) is still to come."""
        if size < 0:
            return Refusal(line)
        if size > SWALLOW_BYTES_MAX:
            return self._close(line)
        self._swallow = size + 2
        return Refusal(line)

    def _close(self, line: bytes) -> Refusal:
        self._closed = True
        self._buffer, self._at = b"", 0
        return Refusal(line, close=True)

    def _swallowed(self) -> bool:
        taken = min(self._swallow, len(self._buffer) - self._at)
        self._at += taken
        self._swallow -= taken
        return self._swallow == 0

    def _begin_block(self, request: Request) -> Request | Refusal | None:
        size, at, buffer = request.size, self._at, self._buffer
        if size > self._value_bytes_max:
            return self._refuse(b"" if request.noreply else TOO_LARGE, size)
        end = at + size
        if buffer[end : end + 2] == b"\r\n":
            request.value = buffer[at:end]
            self._at = end + 2
            return request
        self._head = request
        # Its line is gone once its block has come.
        self._head_tail = _tail_before(buffer, at) if request.group is not None else b""
        self._block = Block(size)
        return self._next_piece(request)

    def _next_piece(self, request: Request) -> Request | Refusal | None:
        buffer, at, block = self._buffer, self._at, self._block
        if block.missing:
            self._at = end = block.fill(buffer, at)
            if not self._reserve(end - at):
                self._drop_block()
                return self._refuse(b"" if request.noreply else BUSY, block.missing)
            self.reserved += end - at
            if block.missing:
                return None
            at = end
        ending = buffer[at : at + 2]
        if ending != b"\r\n":
            if b"\r\n".startswith(ending):
                return None
            self._drop_block()
            return self._close(client_error("bad data chunk"))
        self._at = at + 2
        request.value = block.value()
        self._drop_block()
        return request

    def _drop_block(self) -> None:
        self._block = Block(0)
        self._head = None


def _tail_before(buffer: bytes, end: int) -> bytes:
    """What the line that ends there has behind its `B`, the last word of one with a block that tells of the file."""
    return buffer[buffer.rfind(b" B", 0, end) + 2 : end]


def _goes_with(request: Request, first: Request) -> bool:
    """Whether a request belongs to the group of `first`, which is carried out under its call: that has to be no laxer
    than the request's own."""
    if request.group != first.group or request.command is not first.command:
        return False
    own, call = request.call, first.call
    return own is call or (own.ring == call.ring and own.shared == call.shared and own.deadline >= call.deadline)
