"""Requests whose head a connection has seen before, but for what they ask for.

A client sends the same header lines with every request on a connection. Once aiohttp's parser has taken such a head
apart, the next one that has the same bytes but for its target needs no parser: what came of the first holds for it
too. Anything that differs by a byte, goes on behind its body or isn't all there takes the parser as before.

Most such requests are for a file with a plain path, by a head that asks for nothing else: `plain_path_in` finds that
path, which is its own key, in one look.
"""

from __future__ import annotations

import string
from typing import Any, Final

from multidict import CIMultiDictProxy

from sfss.keys import is_plain
from sfss.web.conditions import READ_CONDITIONS
from sfss.web.multipart import is_multipart_form
from sfss.web.requests import FILE_PAGE

BODY_BYTES_MAX: Final = 64 * 1024
"""Only bodies that come along with their head in one piece are taken without the parser."""

_END: Final = b"\r\n\r\n"
_VERSION: Final = b" HTTP/1.1"
_ALPHANUMERIC = string.ascii_letters.encode() + string.digits.encode()
_TARGET_BYTES: Final = _ALPHANUMERIC + b"/?=&%._~+,:;@!$'()*-"
_TO_TARGET_BYTES: Final = bytes(byte if byte in _TARGET_BYTES else 0 for byte in range(256))
_FIRST_BYTES: Final = frozenset(_ALPHANUMERIC)
"""A target that begins with `/` and one of the second is whatever no parser objects to, or changes, as long as it is
made of the first."""

_TARGET_BYTES_MAX: Final = 4096
"""Of the method and the target together. What the parser would refuse as too long is left to it."""

_PLAIN_TARGET: Final = f"{FILE_PAGE}?path=".encode()

_ASKING: Final = (
    *READ_CONDITIONS,
    *("Range", "If-Range", "Content-Range", "Content-Digest", "Content-MD5"),
    *("Expect", "Transfer-Encoding", "Origin", "Sec-Fetch-Site"),
)
"""What the handlers of files look for in a head, but for the length and the type of a body."""


class RepeatedHead:
    """A head that the parser has taken apart: of a request of HTTP/1.1 that keeps its connection and has a body of
    `body_bytes`. `asks`: for more than a whole file to be read or written. `given_id` is the request's id in it."""

    __slots__ = ("_plain_start", "_rest", "_start", "asks", "body_bytes", "given_id", "headers", "method")

    def __init__(self, method: str, rest: bytes, headers: CIMultiDictProxy[str], body_bytes: int) -> None:
        self.method = method
        self.headers = headers
        self.body_bytes = body_bytes
        self.given_id = headers.get("X-Request-Id")
        self.asks = asks_for_more(method, headers)
        self._start = method.encode() + b" "
        self._plain_start = self._start + _PLAIN_TARGET
        self._rest = rest

    def plain_path_in(self, data: bytes) -> bytes:
        """The path, if `data` is one whole request for a file with this head, and the path is plain; else nothing."""
        start, rest = self._plain_start, self._rest
        end = len(data) - self.body_bytes - len(rest)
        if not len(start) < end <= _TARGET_BYTES_MAX or self.asks:
            return b""
        if not data.startswith(start) or data[end : end + len(rest)] != rest:
            return b""
        path = data[len(start) : end]
        return path if is_plain(path) else b""

    def target_in(self, data: bytes) -> str:
        """The target, if `data` is one whole request with this head; else nothing."""
        start = len(self._start)
        end = data.find(b" ", start, _TARGET_BYTES_MAX)
        if (
            end < 0
            or len(data) != end + len(self._rest) + self.body_bytes
            or data[end : end + len(self._rest)] != self._rest
            or data[:start] != self._start
        ):
            return ""
        target = data[start:end]
        if (
            len(target) < 2
            or target[0] != 0x2F
            or target[1] not in _FIRST_BYTES
            or target.translate(_TO_TARGET_BYTES) != target  # a tenth of what a pattern costs
        ):
            return ""
        return target.decode("ascii")


def asks_for_more(method: str, headers: CIMultiDictProxy[str]) -> bool:
    """Whether headers have more to say to the handlers of files than how long a body is."""
    if method == "PUT" and ("Content-Length" not in headers or is_multipart_form(headers.get("Content-Type", ""))):
        return True
    return any(name in headers for name in _ASKING)


def body_bytes_due(data: bytes, message: Any) -> int:
    """How many bytes of the body of `message` are still to come, when `data`, which began at its first byte, is all
    that the parser was given. -1 where that can't be told, or where more was given."""
    head_bytes = data.find(_END) + len(_END)
    if head_bytes < len(_END) or message.chunked or message.upgrade:
        return -1
    return max(-1, head_bytes + int(message.headers.get("Content-Length", "0")) - len(data))


def repeated_head(data: bytes, message: Any) -> RepeatedHead | None:
    """What to know of a message for the next, when `data` is all of it and nothing else; None where each one has to be
    parsed."""
    if message.should_close or message.version != (1, 1):
        return None
    body_bytes = int(message.headers.get("Content-Length", "0"))
    if body_bytes > (BODY_BYTES_MAX if message.method == "PUT" else 0) or message.method not in ("GET", "HEAD", "PUT"):
        return None
    begins = data.find(_VERSION + b"\r\n")
    if begins < 0 or data.find(b"\r\n") != begins + len(_VERSION):
        return None
    return RepeatedHead(message.method, data[begins : data.find(_END) + len(_END)], message.headers, body_bytes)
