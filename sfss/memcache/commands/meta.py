"""What mg, ms, md, ma and me share: reading a line's flags, and answering with the flags that were asked for.

`protocol.txt`, section Meta Commands, has memcached's flags; docs/wire.rst those of sfss (V H A Y B Q G U).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import NamedTuple

from sfss.errors import BadKey, BadRequest
from sfss.memcache.commands.words import BAD_FORMAT, call_of, key_of
from sfss.memcache.numbers import EXPTIME_MAX, FLAGS_MAX, VERSION_MAX, decimal, signed_decimal
from sfss.memcache.requests import Command, Request

OPAQUE_BYTES_MAX = 32
"""protocol.txt, section Meta Get, flag O."""

_RING_MAX = 2**32
_MILLISECONDS_MAX = 10**9

_OWN_LETTERS = frozenset((b"V", b"H", b"A", b"Y", b"B", b"Q", b"G", b"U"))

# The range of each flag's token. Those in _BARE_TOO mean something else without one.
_NUMBERS: dict[bytes, Callable[[bytes], int | None]] = {
    b"A": lambda word: decimal(word, EXPTIME_MAX),
    b"C": lambda word: decimal(word, VERSION_MAX),
    b"D": lambda word: decimal(word, VERSION_MAX),
    b"E": lambda word: decimal(word, VERSION_MAX),
    b"F": lambda word: decimal(word, FLAGS_MAX),
    b"G": lambda word: decimal(word, _RING_MAX),
    b"H": lambda word: _hexadecimal(word),
    b"J": lambda word: decimal(word, VERSION_MAX),
    b"N": lambda word: signed_decimal(word, EXPTIME_MAX),
    b"R": lambda word: signed_decimal(word, EXPTIME_MAX),
    b"T": lambda word: signed_decimal(word, EXPTIME_MAX),
    b"U": lambda word: decimal(word, _MILLISECONDS_MAX),
    b"V": lambda word: decimal(word, VERSION_MAX),
}
_BARE_TOO = frozenset((b"A", b"H", b"V"))


def _hexadecimal(word: bytes) -> int | None:
    if len(word) > 16 or word.strip(b"0123456789abcdef"):
        return None
    return int(word, 16)


class Meta(NamedTuple):
    """The arguments of a meta command: its flags in the order given, and the numbers of those that take one."""

    key_as_sent: bytes
    flags: dict[bytes, bytes]
    numbers: dict[bytes, int]

    @property
    def quiet(self) -> bool:
        """Whether the nominal reply is not wanted."""
        return b"q" in self.flags


def read_meta(command: Command, words: list[bytes], at: int) -> Request:
    """Read the key and the flags, which begin at word `at`. The command says which flags it takes."""
    flags: dict[bytes, bytes] = {}
    numbers: dict[bytes, int] = {}
    for word in words[at:]:
        letter, token = word[:1], word[1:]
        if letter not in command.flags:
            raise BadRequest("invalid flag")
        if letter in flags:
            raise BadRequest("duplicate flag")
        flags[letter] = token
        if letter in _NUMBERS and not (token == b"" and letter in _BARE_TOO):
            number = _NUMBERS[letter](token)
            if number is None:
                raise BadRequest("bad token in command line format")
            numbers[letter] = number
    if len(flags.get(b"O", b"")) > OPAQUE_BYTES_MAX:
        raise BadRequest("opaque token too long")
    key = _decoded(words[1]) if b"b" in flags else key_of(words[1])
    call = call_of(numbers.get(b"G", 0), numbers.get(b"U"), flags.get(b"O"))
    if b"Q" in flags:
        call = call.as_shared()
    ordered = _OWN_LETTERS.isdisjoint(flags)
    return Request(command, key, Meta(words[1], flags, numbers), -1, False, ordered, call)


def _decoded(word: bytes) -> bytes:
    """A base64 key. Files are stored by path, so what is inside must be a key as well."""
    try:
        key = base64.b64decode(word, validate=True)
    except binascii.Error:
        raise BadRequest("error decoding key") from None
    try:
        return key_of(key)
    except BadKey as error:
        raise BadKey(f"{error} (after base64 decoding)") from None


def meta_line(code: bytes, meta: Meta, fact: Callable[[bytes], bytes | None], ending: bytes = b"") -> bytes:
    """A reply line: the code, then for each flag in its order what `fact` says of it (None: nothing), then `ending`."""
    parts = [code]
    for letter, token in meta.flags.items():
        if letter == b"O":
            parts.append(b" O" + token)
        elif letter == b"k":
            parts.append(b" k" + meta.key_as_sent)
            if b"b" in meta.flags:
                parts.append(b" b")
        else:
            known = fact(letter)
            if known is not None:
                parts.append(b" " + letter + known)
    parts.append(ending)
    parts.append(b"\r\n")
    return b"".join(parts)


def nothing_known(letter: bytes) -> None:
    """The facts of a reply that has none: a miss or a refusal."""


def letters(word: str) -> frozenset[bytes]:
    """The set of flags that a command takes, written as one word."""
    return frozenset(letter.encode() for letter in word)


def mode_of(meta: Meta, modes: dict[bytes, str], default: str) -> str:
    """The mode that the flag M names."""
    token = meta.flags.get(b"M")
    if token is None:
        return default
    if token not in modes:
        raise BadRequest(f"{BAD_FORMAT}: invalid mode")
    return modes[token]
