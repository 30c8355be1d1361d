"""An answer that is made while it is sent, so that it never is in memory as a whole.

In chunks, which tell an answer that was cut off from one that is whole; to a client of HTTP/1.0, until the connection
ends. Each piece waits until the client has taken the one before: a slow client holds up its own answer only.
"""

from __future__ import annotations

from collections.abc import Sequence

from sfss.web.answers import Answer
from sfss.web.errors import Refused
from sfss.web.requests import Request


class PiecewiseAnswer:
    """Send pieces, then return what `last` gives. The answer begins with the first piece; until then an error can
    still be told by its status."""

    __slots__ = ("_chunked", "_head", "_request", "_status")

    def __init__(self, request: Request, status: int, head: bytes) -> None:
        """`head` are the header lines that are this answer's own, without a length."""
        self._request = request
        self._status = status
        self._head = head
        self._chunked = request.version >= (1, 1)

    async def send(self, parts: Sequence[bytes], size: int) -> None:
        """Send a piece of `size` bytes, given in parts. Raises `Refused` when the client has left."""
        request = self._request
        head = b"" if request.sent_ahead else self._begin()
        request.connection.send_ahead(request, head, self._framed(parts, size))
        if not await request.connection.taken():
            raise Refused(400, "client_left", "the client left before the end of its answer", close=True)

    def last(self, piece: bytes) -> Answer:
        """The end of the answer, for the handler to return."""
        request = self._request
        body = self._framed((piece,), len(piece))
        if self._chunked:
            body += b"0\r\n\r\n"
        if request.sent_ahead:
            return Answer(self._status, b"", body)
        if not self._chunked:
            request.keep_alive = False
        return Answer(self._status, self._own_head(), body)

    def _begin(self) -> bytes:
        request = self._request
        if not self._chunked:
            request.keep_alive = False
        return request.connection.answer_head(request, Answer(self._status, self._own_head()))

    def _own_head(self) -> bytes:
        return self._head + (b"Transfer-Encoding: chunked\r\n" if self._chunked else b"")

    def _framed(self, parts: Sequence[bytes], size: int) -> bytes:
        if not self._chunked:
            return b"".join(parts)
        return b"".join((b"%x\r\n" % size, *parts, b"\r\n")) if size else b""
